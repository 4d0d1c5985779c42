"""A full disk: exit code 3, one message, and no file under the final name, on 1 to 4 ranks."""

import shutil
import subprocess
import sys
import unittest

from program import ProgramTest, command_line, messages, random_matrix


def mount(folder):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7500k", "tmpfs", str(folder)],
                          capture_output=True, check=False).returncode == 0


class FullDisk(ProgramTest):
    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        if not mount(self.disk):
            print("no right to mount a small disk: this test did not run")
            sys.exit(77)
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.disk)], check=True)

    def fill(self, ranks, *arguments):
        done = subprocess.run(command_line(arguments, ranks), cwd=self.folder, text=True,
                              capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(len(messages(done.stderr)), 1, done.stderr)
        self.assertEqual([path.name for path in self.disk.iterdir()], [])

    def test_a_matrix_that_does_not_fit_leaves_no_file(self):
        for ranks in (1, 2, 3, 4):
            with self.subTest(ranks=ranks):
                self.fill(ranks, "generate", "dense", "--rows", 1500, "--cols", 1500,
                          "--factors", 4, "--out", "disk/big.h5")

    def test_factors_that_do_not_fit_leave_no_file(self):
        self.run_program("generate", "ratings", "--rows", 20000, "--cols", 2000, "--nnz", 60000,
                         "--out", "a.h5")
        for ranks in (1, 3):
            with self.subTest(ranks=ranks):
                self.fill(ranks, "als", "a.h5", "--factors", 128, "--sweeps", 1,
                          "--out", "disk/f.h5")

    def test_a_full_disk_under_checkpoints_leaves_the_last_good_one_to_go_on_from(self):
        self.write_matrix("a.h5", random_matrix(2000, 300))
        job = ["als", "a.h5", "--factors", 96, "--sweeps", 12]
        self.run_program(*job, "--out", "undisturbed.h5", "--report", "undisturbed.json")
        kept = ["--out", "f.h5", "--checkpoint", "disk/kept", "--every", "1sweeps", "--resume",
                "--report", "again.json"]
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                shutil.rmtree(self.disk / "kept", ignore_errors=True)
                (self.folder / "f.h5").unlink(missing_ok=True)
                # the first checkpoint fits beside this file, and two do not
                (self.disk / "other").write_bytes(bytes(6_350_000))
                done = subprocess.run(command_line([*job, *kept], ranks), cwd=self.folder,
                                      text=True, capture_output=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertEqual(len(messages(done.stderr)), 1, done.stderr)
                self.assertFalse((self.folder / "f.h5").exists())
                steps = list((self.disk / "kept").glob("step-*.h5"))
                self.assertEqual(len(steps), 1, steps)
                self.assertEqual(len(list((self.disk / "kept").iterdir())), 1)
                self.run_program("info", steps[0], "--verify")
                (self.disk / "other").unlink()
                done = self.run_program(*job, *kept, "--force", ranks=ranks)
                self.assertIn("going on after step 1", done.stderr)
                self.assertEqual(self.report("again.json")["digest"],
                                 self.report("undisturbed.json")["digest"])


if __name__ == "__main__":
    unittest.main()
