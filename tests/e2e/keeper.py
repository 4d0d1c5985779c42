"""Starts daemons, and ends them with all that came of them when nobody needs them any more.

A line of its standard input is a command and its log, as JSON: [["munged", …], "munged.log"]. When
the input ends, also because the test was killed, so do the daemons, and then every process that
descends from them, whoever its parents were.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def descendants():
    """Process ids of all below this process, parents first."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(entry.name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def collect():
    """Takes leave of those that have ended; False if there is no child at all."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return False
    return True


def end(daemons):
    for daemon in reversed(daemons):
        daemon.terminate()
    deadline = time.monotonic() + 15
    while any(daemon.poll() is None for daemon in daemons) and time.monotonic() < deadline:
        time.sleep(0.05)
    while collect():
        for process in descendants():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


def main():
    # orphans of the daemons become children of this process, so that it finds them
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("no child subreaper: Linux 3.4 is needed")
    daemons = []
    for line in sys.stdin:
        command, log = json.loads(line)
        with open(log, "w", encoding="utf8") as out:
            daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=out, start_new_session=True))
    end(daemons)


if __name__ == "__main__":
    main()
