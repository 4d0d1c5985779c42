"""Jobs that are stopped or killed go on from their checkpoints, to the bits of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import unittest

from program import ProgramTest, command_line, random_matrix
from test_faults import is_running, ranks_of

# jobs/kills runs many more than are worth their time every day
KILLS = int(os.environ.get("RANKFOLD_KILLS", "10"))

# command, its options, and how often it writes checkpoints
LOOPS = {
    "als": (["als", "a.h5", "--factors", 24, "--sweeps", 600], "3sweeps"),
    "mlp": (["mlp", "a.h5", "--input", "matrix", "--hidden", "32", "--epochs", 60], "2epochs"),
    "deepmf": (["deepmf", "a.h5", "--factors", 16, "--input", "rows", "--entry-dropout", 0.2,
                "--epochs", 300], "5epochs"),
    "hybrid": (["hybrid", "a.h5", "--factors", 8, "--rounds", 40, "--hidden", "8"], "1rounds"),
    "compress": (["compress", "net.h5", "--data", "a.h5", "--size", "0.5", "--epochs", 40],
                 "2epochs"),
    "svd": (["svd", "a.h5", "--factors", 20, "--block", 1, "--tolerance", "1e-12", "--max-steps",
             400, "--precision", "double"], "2steps"),
    "nmf": (["nmf", "a.h5", "--factors", 24, "--sweeps", 400, "--least-change", 0], "3sweeps"),
    "tune": (["tune", "a.h5", "--validation", "0.1", "--factors", "8,16", "--lambda", "0.3,0.1",
              "--sweeps", 60, "--patience", 0], "3sweeps"),
}


class Resume(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(800, 120))
        self.run_program("mlp", "a.h5", "--input", "matrix", "--hidden", "32", "--epochs", 1,
                         "--out", "net.h5")

    def digest(self, loop):
        """Of an undisturbed run."""
        self.run_program(*LOOPS[loop][0], "--out", f"{loop}.h5", "--report", f"{loop}.json")
        return self.report(f"{loop}.json")["digest"]

    def with_checkpoints(self, loop, ranks):
        arguments, every = LOOPS[loop]
        return command_line([*arguments, "--out", f"{loop}-again.h5", "--checkpoint",
                             f"{loop}-checkpoints", "--every", every, "--resume", "--report",
                             f"{loop}-again.json", "--force"], ranks)

    def finish(self, loop, ranks):
        """Lets the job run to its end, and returns its digest."""
        done = subprocess.run(self.with_checkpoints(loop, ranks), cwd=self.folder, text=True,
                              capture_output=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.report(f"{loop}-again.json")["digest"]

    def start(self, loop, ranks):
        """Starts the job and waits for its first checkpoint."""
        folder = self.folder / f"{loop}-checkpoints"
        before = set(folder.glob("**/step-*.h5"))
        job = subprocess.Popen(self.with_checkpoints(loop, ranks), cwd=self.folder, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(job.kill)
        deadline = time.monotonic() + 30
        while (set(folder.glob("**/step-*.h5")) <= before and job.poll() is None
               and time.monotonic() < deadline):
            time.sleep(0.01)
        return job

    def test_stopped_by_a_signal_on_two_ranks_and_resumed_on_three(self):
        for loop in LOOPS:
            with self.subTest(loop):
                undisturbed = self.digest(loop)
                job = self.start(loop, 2)
                job.send_signal(signal.SIGUSR1)
                stderr = job.communicate(timeout=60)[1]
                self.assertEqual(job.returncode, 75, stderr)
                self.assertIn("--resume", stderr)
                self.assertFalse((self.folder / f"{loop}-again.h5").exists())
                self.assertEqual(self.finish(loop, 3), undisturbed)

    def test_a_signal_to_one_rank_stops_all(self):
        for sent in (signal.SIGUSR2, signal.SIGXCPU, signal.SIGTERM, signal.SIGINT):
            with self.subTest(sent):
                job = self.start("als", 3)
                os.kill(ranks_of(job.pid)[2], sent)
                stderr = job.communicate(timeout=60)[1]
                self.assertEqual(job.returncode, 75, stderr)

    def test_a_second_signal_stops_at_once(self):
        """While the other rank stands still no step ends, so the first signal changes nothing yet."""
        job = self.start("als", 2)
        first, other = ranks_of(job.pid)
        os.kill(other, signal.SIGSTOP)
        time.sleep(0.3)
        before = set((self.folder / "als-checkpoints").glob("step-*.h5"))
        os.kill(first, signal.SIGUSR1)
        time.sleep(0.5)
        self.assertIsNone(job.poll())
        os.kill(first, signal.SIGUSR1)
        while is_running(first):
            time.sleep(0.01)
        os.kill(other, signal.SIGCONT)
        job.communicate(timeout=30)
        self.assertEqual(job.returncode, 128 + signal.SIGUSR1)
        self.assertEqual(set((self.folder / "als-checkpoints").glob("step-*.h5")), before)

    def test_term_and_int_to_mpirun_leave_a_good_checkpoint_and_no_process(self):
        undisturbed = self.digest("als")
        for sent in (signal.SIGTERM, signal.SIGINT):
            job = self.start("als", 2)
            ranks = ranks_of(job.pid)
            job.send_signal(sent)
            asked = time.monotonic()
            job.communicate(timeout=30)
            while any(map(is_running, ranks)) and time.monotonic() - asked < 10:
                time.sleep(0.05)
            self.assertEqual(list(filter(is_running, ranks)), [])
            self.assertNotEqual(job.returncode, 0)
        self.assertEqual(self.finish("als", 4), undisturbed)

    def test_the_time_limit_stops_jobs_ahead_of_it_until_they_are_done(self):
        undisturbed = self.digest("tune")
        command = [*self.with_checkpoints("tune", 2), "--time-limit", "700ms"]
        self.assertEqual(subprocess.run(command, cwd=self.folder, capture_output=True,
                                        check=False).returncode, 2)
        stops = 0
        for _ in range(30):
            command[-1] = "0.7s" if stops < 2 else "60s"
            start = time.monotonic()
            done = subprocess.run(command, cwd=self.folder, text=True, capture_output=True,
                                  timeout=60, check=False)
            if done.returncode != 75:
                break
            stops += 1
            self.assertIn("ahead of the time limit", done.stderr)
            self.assertLess(time.monotonic() - start, 10)  # mpirun's own start is not in the limit
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(stops, 0)
        self.assertEqual(self.report("tune-again.json")["digest"], undisturbed)

    def test_slurms_own_end_of_the_job_is_a_time_limit(self):
        long = command_line(["als", "a.h5", "--factors", 24, "--sweeps", 10**7, "--out", "long.h5",
                             "--checkpoint", "long-checkpoints"], 2)
        end = int(time.time()) + 4
        done = subprocess.run(long, cwd=self.folder, text=True, capture_output=True, timeout=60,
                              env=os.environ | {"SLURM_JOB_END_TIME": str(end)}, check=False)
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("ahead of the time limit", done.stderr)
        self.assertTrue(list((self.folder / "long-checkpoints").glob("step-*.h5")))

    def kill_once(self, loop, delay, moments):
        """Kills a random rank of a job; whether that was in time, and how long the rest stayed."""
        job = self.start(loop, 2)
        time.sleep(delay)
        ranks = ranks_of(job.pid)
        in_time = bool(ranks) and job.poll() is None
        if in_time:
            os.kill(moments.choice(ranks), signal.SIGKILL)
        killed = time.monotonic()
        job.communicate(timeout=30)
        while any(map(is_running, ranks)) and time.monotonic() - killed < 10:
            time.sleep(0.05)
        self.assertEqual(list(filter(is_running, ranks)), [])
        return in_time and job.returncode != 0, time.monotonic() - killed

    def test_killed_at_random_moments_and_resumed_on_one_rank(self):
        moments = random.Random(5)
        slowest, kills, half_written = 0.0, 0, 0
        for loop in ("als", "svd", "nmf", "mlp", "hybrid"):
            with self.subTest(loop):
                undisturbed = self.digest(loop)
                folder = self.folder / f"{loop}-checkpoints"
                wanted = kills + KILLS // 5
                while kills < wanted:
                    hit, seconds = self.kill_once(loop, moments.uniform(0.0, 0.15), moments)
                    slowest = max(slowest, seconds)
                    if not hit:  # it was done: once more from the beginning
                        shutil.rmtree(folder)
                        continue
                    kills += 1
                    half_written += bool(list(folder.glob("*.h5.tmp*")))
                    for checkpoint in folder.glob("step-*.h5"):
                        self.run_program("info", checkpoint, "--verify")
                self.assertEqual(self.finish(loop, 1), undisturbed)
                self.assertLessEqual(len(list(folder.glob("step-*.h5"))), 2)
        print(f"{kills} kills, {half_written} of them while a checkpoint was written: the slowest "
              f"job was gone after {slowest:.1f} s", file=sys.stderr)

    def test_a_damaged_checkpoint_is_noticed_and_the_older_one_used(self):
        undisturbed = self.digest("als")
        job = self.start("als", 2)
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=60)
        newest = max((self.folder / "als-checkpoints").glob("step-*.h5"))
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        done = subprocess.run(self.with_checkpoints("als", 2), cwd=self.folder, text=True,
                              capture_output=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("is damaged", done.stderr)
        self.assertEqual(self.report("als-again.json")["digest"], undisturbed)

    def test_another_jobs_checkpoint_is_refused_by_the_option_that_differs(self):
        job = self.start("als", 1)
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=60)
        self.assert_refused("als", "a.h5", "--factors", 24, "--sweeps", 120, "--lambda", "0.7",
                            "--out", "x.h5", "--checkpoint", "als-checkpoints", "--resume",
                            says=["lambda", "0.7"])

    def test_a_whole_job_goes_on_between_and_within_its_stages(self):
        self.write("job.toml", """
            folder = "out"
            [[stage]]
            command = "split"
            matrix = "a.h5"
            holdout = 0.2
            [[stage]]
            command = "als"
            matrix = "@split.train"
            factors = 16
            sweeps = 150
            [[stage]]
            command = "evaluate"
            model = "@als"
            train = "@split.train"
            test = "@split.test"
            """)
        self.run_program("run", "job.toml", "--report", "whole.json")
        undisturbed = [stage["digest"] for stage in self.report("whole.json")["stages"]]
        again = ["run", "job.toml", "--force", "--checkpoint", "kept", "--every", "2sweeps",
                 "--report", "again.json"]
        with subprocess.Popen(command_line(again, 2), cwd=self.folder, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as job:
            self.addCleanup(job.kill)
            deadline = time.monotonic() + 30
            while (not list((self.folder / "kept").glob("als/step-*.h5"))
                   and time.monotonic() < deadline):
                time.sleep(0.01)
            job.send_signal(signal.SIGUSR1)
            stderr = job.communicate(timeout=60)[1]
        self.assertEqual(job.returncode, 75, stderr)
        done = self.run_program(*again, "--resume", ranks=3)
        self.assertIn("split (1 of 3): finished by an earlier run", done.stdout)
        self.assertEqual([stage["digest"] for stage in self.report("again.json")["stages"]],
                         undisturbed)


if __name__ == "__main__":
    unittest.main()
