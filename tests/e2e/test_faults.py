"""What the machine does to a job: a rank that is killed, a limit on the size of files."""

import contextlib
import os
import signal
import subprocess
import time
import unittest
from pathlib import Path

from program import MPIRUN, PROGRAM, ProgramTest, command_line, messages, random_matrix


def ranks_of(mpirun):
    """Process ids of the program's ranks under one mpirun, by their parents."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == mpirun and PROGRAM in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                pass  # it ended while we looked
    return sorted(found)


def is_running(process):
    """True if it computes; one that ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class Faults(ProgramTest):
    @contextlib.contextmanager
    def sweeping(self, *options):
        """A job of three ranks in its sweeps, and the ranks' process ids."""
        self.write_matrix("a.h5", random_matrix(3000, 500))
        with subprocess.Popen(
                command_line(["als", "a.h5", "--factors", 64, "--sweeps", 100000, "--out", "f.h5",
                              *options], 3),
                cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True) as job:
            self.addCleanup(job.kill)
            deadline = time.monotonic() + 20
            while len(ranks_of(job.pid)) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1.5)  # into the sweeps
            ranks = ranks_of(job.pid)
            self.assertEqual(len(ranks), 3)
            yield job, ranks

    def assert_gone(self, ranks, since):
        """No rank runs ten seconds after `since`."""
        while any(map(is_running, ranks)) and time.monotonic() - since < 10:
            time.sleep(0.1)
        self.assertEqual(list(filter(is_running, ranks)), [])

    def test_a_killed_rank_ends_the_job_within_ten_seconds(self):
        with self.sweeping() as (job, ranks):
            os.kill(ranks[1], signal.SIGKILL)
            killed = time.monotonic()
            stderr = job.communicate(timeout=30)[1]
            self.assert_gone(ranks, killed)
            self.assertLess(time.monotonic() - killed, 10)
            self.assertNotEqual(job.returncode, 0)
            self.assertIn("rank 1", stderr)
        self.assertFalse((self.folder / "f.h5").exists())

    def test_a_stopped_rank_is_named_with_its_phase_and_ends_the_job_with_79(self):
        with self.sweeping("--watchdog", "2") as (job, ranks):
            os.kill(ranks[2], signal.SIGSTOP)
            stopped = time.monotonic()
            stderr = job.communicate(timeout=30)[1]
            self.assertEqual(job.returncode, 79, stderr)
            self.assert_gone(ranks, stopped)
            said = messages(stderr)
            self.assertEqual(len(said), 1, stderr)
            self.assertRegex(said[0], r"rank 2 on .* stood still for 2 s in the phase \"\w+")

    def test_a_limit_on_file_size_ends_with_exit_code_three_and_no_file(self):
        # The limit holds for the ranks alone and leaves room for what MPI itself keeps in files.
        mebibytes = 24
        done = subprocess.run(
            [MPIRUN, "-n", "2", "bash", "-c",
             f'ulimit -f {mebibytes * 1024} && exec "$0" "$@"', PROGRAM, "generate", "dense",
             "--rows", "4000", "--cols", "4000", "--factors", "4", "--out", "big.h5"],
            cwd=self.folder, text=True, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(len(messages(done.stderr)), 1, done.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
