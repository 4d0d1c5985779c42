"""The batch scripts of jobs/slurm, submitted to a real Slurm on this machine."""

import os
import subprocess
import sys
import time
import unittest

from program import PROGRAM, ROOT, ProgramTest, random_matrix
from slurm import Slurm, missing

SCRIPTS = ROOT / "jobs" / "slurm"
JOB = """
folder = "out"
[[stage]]
command = "als"
matrix = "a.h5"
factors = 48
sweeps = {sweeps}
"""


class Batch(ProgramTest):
    def setUp(self):
        absent = missing()
        if absent:
            print(f"Slurm is not installed ({', '.join(absent)}; Debian: slurmctld, slurmd, "
                  "slurm-client, munge): this test did not run")
            sys.exit(77)
        super().setUp()
        self.write_matrix("a.h5", random_matrix(2000, 400))
        self.slurm = Slurm(self.folder)
        self.slurm.env |= {"RANKFOLD": PROGRAM, "RANKFOLD_SLURM": str(SCRIPTS),
                           "OMPI_MCA_rmaps_base_oversubscribe": "1",
                           "OMPI_MCA_mpi_yield_when_idle": "1"}
        # four virtual nodes share the cores of one machine: nothing can be bound
        self.slurm.env |= {"SLURM_CPU_BIND": "none", "OMPI_MCA_hwloc_base_binding_policy": "none"}
        self.addCleanup(self.slurm.stop)
        self.slurm.start()

    def undisturbed(self, sweeps):
        self.write("job.toml", JOB.format(sweeps=sweeps))
        self.run_program("run", "job.toml", "--report", "undisturbed.json", "--force")
        return self.report("undisturbed.json")["stages"][0]["digest"]

    def finished(self, job, timeout=120):
        state = self.slurm.finish(job, timeout)
        logs = "\n".join(log.read_text() for log in self.folder.glob("rankfold*.log"))
        self.assertEqual(state["JobState"], "COMPLETED", f"{state}\n{logs}")
        return state

    def digest(self, job):
        return self.report(f"rankfold-{job}.json")["stages"][0]["digest"]

    def is_waiting(self, chain, log):
        return (log.exists() and "to be continued" in log.read_text()
                and self.slurm.state(chain)["JobState"] == "PENDING")

    def study(self):
        """What a scaling study of batch jobs says when it is called again."""
        done = subprocess.run(
            [sys.executable, "-B", ROOT / "jobs" / "scale", "strong", "als", "--ranks", "1,2",
             "--repeats", "1", "--size", "0.02", "--out", "study", "--rankfold", PROGRAM, "--slurm",
             "--sbatch=--time=2"], env=self.slurm.env, cwd=self.folder, text=True,
            capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def until_studied(self):
        deadline = time.monotonic() + 60
        while not (self.folder / "study" / "study.html").exists():
            self.assertLess(time.monotonic(), deadline, self.slurm.logs())
            time.sleep(1.0)
            self.study()

    def check_study(self):
        """Runs as batch jobs; what is there or in the queue is not submitted again."""
        self.assertEqual(self.study().count("submitted"), 3)  # a matrix, and two numbers of ranks
        self.assertNotIn("submitted", self.study())
        self.until_studied()
        rows = self.report("study/study.json")["rows"]
        self.assertEqual([row["ranks"] for row in rows], [1, 2])
        self.assertEqual(rows[0]["digest"], rows[1]["digest"])
        (self.folder / "study" / "runs" / "als-p2-n1-r0.json").unlink()
        (self.folder / "study" / "study.html").unlink()
        told = self.study()
        self.assertEqual(told.count("submitted"), 1, told)
        self.assertIn("2 ranks: submitted", told)
        self.until_studied()

    def check_cancelled(self):
        """scancel ends a chain, and it stays ended."""
        job = self.slurm.submit("--time=5", "--ntasks-per-node=1", SCRIPTS / "requeue.sbatch",
                                "long.toml", "--set", "als.out=cancelled.h5", cwd=self.folder)
        log = self.folder / f"rankfold-chain-{job}.log"
        deadline = time.monotonic() + 60
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(5.0)  # the sweeps have begun
        self.slurm.run("scancel", job)
        state = self.slurm.finish(job, 60)
        self.assertEqual((state["JobState"], state["Restarts"]), ("CANCELLED", "0"), log.read_text())
        self.assertNotIn("to be continued", log.read_text())

    def check_scaling(self):
        """A study inside one allocation of two nodes, none of whose runs is oversubscribed."""
        # ranks of two virtual nodes on one host must not take each other's shared memory
        more = {"RANKFOLD_LAUNCHER": "mpirun", "OMPI_MCA_btl": "self,tcp"}
        self.slurm.env |= more
        job = self.slurm.submit("--time=5", "--nodes=2", "--ntasks-per-node=2",
                                SCRIPTS / "scaling.sbatch", "strong", "als", "--ranks", "1,4",
                                "--repeats", "1", "--size", "0.02", "--out", "inside",
                                cwd=self.folder)
        for name in more:
            del self.slurm.env[name]
        self.finished(job)
        rows = self.report("inside/study.json")["rows"]
        self.assertEqual([(row["ranks"], row["oversubscribed"]) for row in rows],
                         [(1, False), (4, False)])
        self.assertEqual(rows[0]["digest"], rows[1]["digest"])

    def test_every_script_runs_and_a_chain_requeues_itself_until_it_is_done(self):
        few = 60
        digest = self.undisturbed(few)
        one = self.slurm.submit("--time=2", SCRIPTS / "run.sbatch", "job.toml", "--force",
                                cwd=self.folder)
        self.finished(one)
        self.assertEqual(self.digest(one), digest)
        # the chain: longer than the half minute that it gets at first; Slurm waits two minutes
        # before it starts a requeued job again, and all else runs meanwhile
        seconds = self.report(f"rankfold-{one}.json")["stages"][0]["wall_seconds"] / few
        self.write("long.toml", JOB.format(sweeps=int(50 / seconds)).replace('"out"', '"long"'))
        chain = self.slurm.submit("--time=1", "--signal=B:USR1@50", "--nodes=1",
                                  SCRIPTS / "requeue.sbatch", "long.toml", cwd=self.folder)
        log = self.folder / f"rankfold-chain-{chain}.log"
        deadline = time.monotonic() + 90
        while not self.is_waiting(chain, log) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.assertIn("to be continued", log.read_text())
        self.assertNotIn("TIME LIMIT", log.read_text())  # it was ahead of it
        self.slurm.run("scontrol", "update", f"JobId={chain}", "TimeLimit=10")
        whole = self.slurm.submit("--time=10", SCRIPTS / "run.sbatch", "long.toml", "--force",
                                  "--set", "als.out=whole.h5", cwd=self.folder)
        nodes = self.slurm.submit("--time=2", "--nodes=2", "--ntasks-per-node=1",
                                  SCRIPTS / "nodes.sbatch", "job.toml", "--force",
                                  cwd=self.folder)
        self.finished(nodes)
        self.assertEqual(self.digest(nodes), digest)
        self.assertEqual(self.report(f"rankfold-{nodes}.json")["stages"][0]["machine"]["ranks"], 2)
        self.write("grid.txt", "--set als.lambda=0.1\n--set als.lambda=0.3\n")
        grid = self.slurm.submit("--array=1-2", "--time=2", "--ntasks-per-node=1",
                                 SCRIPTS / "grid.sbatch", "job.toml", "grid.txt", cwd=self.folder)
        deadline = time.monotonic() + 90
        reports = [self.folder / f"rankfold-{grid}_{task}.json" for task in (1, 2)]
        while not all(map(os.path.exists, reports)) and time.monotonic() < deadline:
            time.sleep(0.5)
        values = [self.report(report.name)["stages"][0] for report in reports]
        self.assertEqual([stage["options"]["lambda"] for stage in values], [0.1, 0.3])
        self.assertEqual(values[0]["digest"], digest)

        self.check_cancelled()
        self.check_scaling()
        self.check_study()
        state = self.finished(chain, timeout=420)
        self.assertGreaterEqual(int(state["Restarts"]), 1)
        log = log.read_text()
        self.assertIn("part 1 of job", log)
        self.assertIn("going on after step", log)
        self.finished(whole, timeout=300)
        self.assertEqual(self.digest(chain), self.digest(whole))


if __name__ == "__main__":
    unittest.main()
