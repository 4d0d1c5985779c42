"""A Slurm of four virtual nodes on this machine, for as long as a test runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "sinfo")
NODES = 4
KEEPER = Path(__file__).with_name("keeper.py")


def missing():
    """Names of the programs that are not installed."""
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """munged, slurmctld and four slurmd in `folder`, all on 127.0.0.1, as the calling user."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.chmod(0o755)
        self.daemons = 0
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("SLURM_", "PMIX_"))}
        self.env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.env["PATH"] += ":/usr/sbin:/sbin"

    def start(self):
        self.keeper = subprocess.Popen([sys.executable, "-B", KEEPER], env=self.env, text=True,
                                       stdin=subprocess.PIPE, start_new_session=True)
        self._munge()
        self._configure()
        self._daemon("slurmctld", "-D")
        time.sleep(1.0)
        for node in range(1, NODES + 1):
            self._daemon("slurmd", "-D", "-N", f"node{node}")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            states = self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split()
            if states and all(state == "idle" for state in states):
                return
            time.sleep(0.5)
        raise RuntimeError("the nodes did not come up:\n" + self.logs())

    def stop(self):
        """Ends the daemons and all that they started; so does the death of this process."""
        self.keeper.stdin.close()
        self.keeper.wait(60)

    def run(self, *command, check=True, cwd=None):
        done = subprocess.run([str(word) for word in command], env=self.env, cwd=cwd, text=True,
                              capture_output=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def submit(self, *arguments, cwd):
        """The number of a batch job."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd).strip()

    def state(self, job):
        """JobState, Restarts and ExitCode of a job."""
        text = self.run("scontrol", "-o", "show", "job", job)
        return {key: value for key, _, value in
                (word.partition("=") for word in text.split()) if value}

    def finish(self, job, timeout):
        """Waits until a job has ended, and returns its state."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            state = self.state(job)
            if state["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "SIGNALING",
                                         "REQUEUED", "CONFIGURING"):
                return state
            time.sleep(1.0)
        raise RuntimeError(f"job {job} did not end: {state}\n{self.logs()}")

    def logs(self):
        texts = [f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}"
                 for log in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)

    def _daemon(self, *command):
        log = self.folder / f"{command[0]}-{self.daemons}.log"
        self.daemons += 1
        self.keeper.stdin.write(json.dumps([command, str(log)]) + "\n")
        self.keeper.stdin.flush()

    def _munge(self):
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        place = self.folder / "munge"
        place.mkdir(mode=0o755)
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}",
                     f"--socket={place}/socket", f"--pid-file={place}/pid",
                     f"--log-file={place}/log", f"--seed-file={place}/seed")
        deadline = time.monotonic() + 20
        while not (place / "socket").exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _configure(self):
        host = socket.gethostname()
        ports = free_ports(NODES + 1)
        user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
        lines = [
            "ClusterName=test", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={ports[0]}",
            "AuthType=auth/munge", f"AuthInfo=socket={self.folder}/munge/socket",
            "CredType=cred/munge", f"SlurmUser={user}", f"SlurmdUser={user}",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "MpiDefault=none",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core",
            "SwitchType=switch/none", "ReturnToService=2", "SchedulerType=sched/backfill",
            "AccountingStorageType=accounting_storage/none", "JobAcctGatherType=jobacct_gather/none",
            "SlurmdParameters=config_overrides", "KillWait=10",
            f"StateSaveLocation={self.folder}/state", f"SlurmdSpoolDir={self.folder}/spool-%n",
            f"TmpFS={self.folder}",  # where PMIx leaves what a killed step had
            f"SlurmctldPidFile={self.folder}/ctld.pid", f"SlurmdPidFile={self.folder}/slurmd-%n.pid"]
        lines += [f"NodeName=node{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[n]} CPUs=2 "
                  "State=UNKNOWN" for n in range(1, NODES + 1)]
        lines.append(f"PartitionName=main Nodes=node[1-{NODES}] Default=YES MaxTime=60 State=UP")
        (self.folder / "state").mkdir()
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
