"""A full disk: exit code 3, one message, and no file under the final name, on 1 to 4 ranks."""

import subprocess
import sys
import unittest

from program import PROGRAM, ProgramTest, messages, command_line


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


if __name__ == "__main__":
    unittest.main()
