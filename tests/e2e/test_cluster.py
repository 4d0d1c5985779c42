"""What a cluster's user asks before and after a job: doctor, plan, and a scaling study."""

import json
import os
import re
import shutil
import subprocess
import sys
import unittest

from program import MPIRUN, PROGRAM, ROOT, ProgramTest, random_matrix

JOB = """
[[stage]]
command = "als"
matrix = "a.h5"
factors = 16
sweeps = 5
[[stage]]
command = "mlp"
matrix = "a.h5"
input = "matrix"
hidden = [32]
epochs = 3
out = "n.h5"
[[stage]]
command = "evaluate"
model = "@als"
test = "a.h5"
train = "a.h5"
"""


class Doctor(ProgramTest):
    def test_every_line_is_good_or_says_what_to_change(self):
        done = self.run_program("doctor", "--report", "doctor.json", ranks=2)
        result = self.report("doctor.json")["result"]
        for line in result["lines"]:
            self.assertTrue(line["good"] or line["advice"], line)
        self.assertGreater(result["sgemm_gflops"], 0.1)
        self.assertIn("parallel HDF5", done.stdout)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["doctor.json"])

    def test_a_blas_that_does_not_know_the_processor_is_said(self):
        result = subprocess.run([PROGRAM, "doctor"], cwd=self.folder, text=True,
                                capture_output=True, check=True,
                                env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"}).stdout
        old = "Prescott" in result and ("AVX2" in result or "AVX3" in result)
        self.assertEqual("export OPENBLAS_CORETYPE=" in result, old, result)

    def test_too_many_threads_are_said(self):
        threads = 4 * os.cpu_count()
        done = self.run_program("doctor", "--threads", threads)
        self.assertIn("CHANGE", done.stdout)
        self.assertIn(f"at most 1 ranks of {threads} threads", done.stdout)

    def test_the_self_test_passes_on_three_ranks(self):
        self.assertIn("PASS", self.run_program("doctor", "--selftest", ranks=3).stdout)

    def test_a_folder_that_is_not_there_is_refused(self):
        self.assert_refused("doctor", "--folder", "absent", says="absent", ranks=2)


class Plan(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(3000, 400))
        self.write("job.toml", JOB)

    def test_bytes_are_those_that_are_sent(self):
        self.run_program("plan", "job.toml", "--ranks", "1,2,3", "--report", "plan.json")
        stages = self.report("plan.json")["result"]["stages"]
        for ranks in (2, 3):
            self.run_program("run", "job.toml", "--report", "run.json", "--force", ranks=ranks)
            als, mlp = self.report("run.json")["stages"][:2]
            sent = {phase["name"]: phase["bytes_sent"] for phase in als["phases"]}
            exchanged = sum(sent[name] for name in sent if name.startswith("als exchange")
                            or name == "als partial sums")
            planned = stages["als"]["ranks"][str(ranks)]["bytes_per_step"] * 5
            self.assertAlmostEqual(exchanged / planned, 1.0, delta=0.01)
            for stage, name in ((als, "als"), (mlp, "mlp")):  # small: room for libraries rules
                planned = stages[name]["ranks"][str(ranks)]["peak_rss_bytes"]
                share = stage["peak_rss_bytes"]["max"] / planned
                self.assertTrue(0.6 < share < 1.15, share)
            trained = sum(phase["bytes_sent"] for phase in mlp["phases"]
                          if phase["name"] in ("gradient sum", "gather parameters", "backward",
                                               "update"))
            planned = (stages["mlp"]["ranks"][str(ranks)]["bytes_per_step"]
                       * stages["mlp"]["steps"])
            self.assertAlmostEqual(trained / planned, 1.0, delta=0.01)

    def test_a_saved_calibration_is_used_and_the_script_is_one_for_slurm(self):
        self.run_program("plan", "job.toml", "--calibration", "speed.json", "--ranks", "1,4")
        self.assertTrue(json.loads((self.folder / "speed.json").read_text()))
        tables = [self.run_program("plan", "job.toml", "--calibration", "speed.json", "--ranks",
                                   "1,4").stdout.split("\nphase")[0] for _ in range(2)]
        without_memory = [re.sub(r"[0-9.]+ GB|memory on.*", "", table) for table in tables]
        self.assertEqual(*without_memory)
        speeds = self.report("speed.json")
        slower = {key: 10 * value for key, value in speeds.items()}
        (self.folder / "speed.json").write_text(json.dumps(slower))
        self.run_program("plan", "job.toml", "--calibration", "speed.json", "--ranks", "1,4",
                         "--report", "slow.json")
        als = self.report("slow.json")["result"]["stages"]["als"]["ranks"]["1"]
        key = next(key for key in slower if key.startswith("als "))
        self.assertAlmostEqual(als["seconds_per_step"] / (als["flops"] * slower[key]), 1.0, delta=0.01)

    def words_of_run(self, script):
        """What the script gives to `rankfold run`, with programs that only tell their arguments."""
        fakes = self.folder / "fakes"
        fakes.mkdir()
        for name, text in (("srun", 'while [[ $1 != */rankfold ]]; do shift; done\nprintf "%s\\n" "$@"'),
                           ("squeue", "echo 2030-01-01T00:00:00")):
            (fakes / name).write_text(f"#!/bin/bash\n{text}\n")
            (fakes / name).chmod(0o755)
        env = os.environ | {"PATH": f"{fakes}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                            "RANKFOLD": "/x/rankfold"}
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=env, text=True,
                              capture_output=True, check=True)
        return done.stdout.split("\n")[1:-1]

    def test_the_script_for_slurm_runs_this_job_with_these_options(self):
        shutil.copy(self.folder / "job.toml", self.folder / "my job.toml")
        out = "als.out=it's.h5"
        done = self.run_program("plan", "my job.toml", "--slurm", "--set", out, "--precision",
                                "double", "--seed", 7, "--quiet")
        self.assertTrue(done.stdout.startswith("#!/bin/bash"), done.stdout[:200])
        self.assertIn("#SBATCH --ntasks=", done.stdout)
        self.assertIn("#SBATCH --mem-per-cpu=", done.stdout)
        words = self.words_of_run(done.stdout)
        self.assertEqual(words[:2], ["run", "my job.toml"])
        for option, value in (("--set", out), ("--precision", "double"), ("--seed", "7"),
                              ("--checkpoint", "my job.checkpoints")):
            self.assertEqual(words[words.index(option) + 1], value)

    def test_the_script_says_what_is_not_planned_and_that_nothing_fits(self):
        self.write("job.toml", JOB + '[[stage]]\ncommand = "nmf"\nmatrix = "a.h5"\n')
        done = self.run_program("plan", "job.toml", "--slurm", "--memory-per-rank", "1MB")
        self.assertIn("nmf", done.stdout)
        self.assertNotIn("--mem-per-cpu", done.stdout)
        self.assertIn("none of these numbers of ranks fits", done.stderr)

    def test_a_job_without_anything_to_plan_is_refused(self):
        self.write("job.toml", '[[stage]]\ncommand = "als"\nmatrix = "absent.h5"\nout = "f.h5"\n')
        self.assert_refused("plan", "job.toml", says="none of its stages", ranks=2)


class Scale(ProgramTest):
    def study(self, *more):
        return subprocess.run([sys.executable, "-B", ROOT / "jobs" / "scale", "strong", "als",
                               "--ranks", "1,2", "--repeats", "2", "--size", "0.02", "--out",
                               self.folder / "study", "--rankfold", PROGRAM, "--processors", "2",
                               "--launcher", f"{MPIRUN} -n", *more], text=True,
                              capture_output=True, check=False)

    def test_a_study_goes_on_and_refuses_digests_that_differ(self):
        done = self.study()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rows = self.report("study/study.json")["rows"]
        self.assertEqual(rows[0]["digest"], rows[1]["digest"])
        self.assertAlmostEqual(rows[1]["bytes_exchanged"] / rows[1]["bytes_predicted"], 1.0,
                               delta=0.01)
        page = (self.folder / "study" / "study.html").read_text()
        self.assertIn("All digests agree", page)
        commands = self.folder / "study" / "commands.txt"
        before = commands.read_text()
        self.assertEqual(self.study().returncode, 0)
        self.assertEqual(commands.read_text(), before)  # all runs stood there
        run = self.folder / "study" / "runs" / "als-p2-n1-r1.json"
        report = json.loads(run.read_text())
        report["digest"] = "0" * 16
        run.write_text(json.dumps(report))
        done = self.study()
        self.assertEqual(done.returncode, 1)
        self.assertIn("digests differ", done.stderr)


if __name__ == "__main__":
    unittest.main()
