"""Bad input and bad options: exit code 2, one line that helps, and nothing written."""

import unittest

import h5py
import numpy as np
import scipy.sparse

from program import ProgramTest, random_matrix


class Options(ProgramTest):
    def test_help_is_printed_once_on_four_ranks(self):
        done = self.run_program("als", "--help", ranks=4)
        self.assertEqual(sum(line.strip().startswith("--factors")
                             for line in done.stdout.splitlines()), 1, done.stdout)

    def test_every_command_has_help_with_three_examples(self):
        listing = self.run_program("--help").stdout
        for command in ("import", "generate", "split", "info", "als", "mlp", "evaluate",
                        "recommend", "predict", "run", "bench", "plan", "doctor"):
            with self.subTest(command=command):
                self.assertIn(f"  {command} ", listing)
                text = self.run_program(command, "--help").stdout
                self.assertGreaterEqual(text.count(f"rankfold {command}"), 3, text)

    def test_every_help_topic_is_printed(self):
        for topic in ("formats", "settings", "reproducibility", "exit-codes", "cluster"):
            self.assertTrue(self.run_program("help", topic).stdout.startswith("# "))

    def test_unknown_names_are_refused_with_the_nearest_one(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.assert_refused("alz", "a.h5", says=["alz", "did you mean als?"], ranks=3)
        self.assert_refused("als", "a.h5", "--factor", 4, "--out", "f.h5",
                            says=["--factor", "did you mean"], ranks=2)
        self.assert_refused("help", "format", says="formats")

    def test_values_out_of_range_are_refused(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.assert_refused("als", "a.h5", "--lambda", "-0.1", "--out", "f.h5", says="lambda",
                            ranks=2)
        self.assert_refused("als", "a.h5", "--factors", "0", "--out", "f.h5", says="factors")
        self.assert_refused("als", "a.h5", "--factors", "many", "--out", "f.h5", says="factors")
        self.assert_refused("als", "a.h5", "--precision", "half", "--out", "f.h5",
                            says="precision")

    def test_outputs_are_checked_before_the_work(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.assert_refused("als", "a.h5", "--out", "absent/f.h5", says="absent", ranks=2)
        self.assert_refused("als", "a.h5", "--out", "a.h5", "--force", says="input", ranks=2)
        self.run_program("als", "a.h5", "--factors", 2, "--out", "f.h5")
        before = (self.folder / "f.h5").read_bytes()
        self.assert_refused("als", "a.h5", "--factors", 2, "--out", "f.h5", says="--force",
                            ranks=3)
        self.assertEqual((self.folder / "f.h5").read_bytes(), before)
        self.run_program("als", "a.h5", "--factors", 2, "--out", "f.h5", "--force", ranks=2)

    def test_a_dry_run_writes_nothing(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.run_program("als", "a.h5", "--factors", 2, "--out", "f.h5", "--dry-run", ranks=2)
        self.assertFalse((self.folder / "f.h5").exists())


class JobFiles(ProgramTest):
    def refuse_job(self, text, says, ranks=1):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.write("job.toml", text)
        self.assert_refused("run", "job.toml", says=says, ranks=ranks)
        self.assertFalse((self.folder / "f.h5").exists())

    def test_an_unknown_key_is_refused_with_the_nearest_one(self):
        self.refuse_job('[[stage]]\ncommand = "als"\nmatrix = "a.h5"\nout = "f.h5"\nfactor = 4\n',
                        ["factor", "factors"], ranks=2)

    def test_an_unknown_command_is_refused_with_the_nearest_one(self):
        self.refuse_job('[[stage]]\ncommand = "alz"\nmatrix = "a.h5"\nout = "f.h5"\n',
                        ["alz", "did you mean als?"])

    def test_an_unknown_stage_is_refused(self):
        self.refuse_job('[[stage]]\ncommand = "als"\nmatrix = "@spilt"\nout = "f.h5"\n', "spilt")

    def test_a_later_stage_is_checked_before_the_first_one_runs(self):
        self.refuse_job('[[stage]]\ncommand = "als"\nmatrix = "a.h5"\nout = "f.h5"\n'
                        '[[stage]]\ncommand = "evaluate"\nmodel = "@als"\ntst = "a.h5"\n',
                        ["tst", "test"], ranks=3)

    def test_text_that_is_not_toml_is_refused_with_its_line(self):
        self.refuse_job('[[stage]]\ncommand = "als\n', ["job.toml", "2"])

    def test_a_missing_job_file_is_refused(self):
        self.assert_refused("run", "absent.toml", says="absent.toml", ranks=2)


class Inputs(ProgramTest):
    def refuse_matrix(self, says, ranks=2):
        self.assert_refused("als", "a.h5", "--factors", 2, "--out", "f.h5", says=says, ranks=ranks)
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name != "a.h5"], [])

    def test_a_missing_file_is_refused(self):
        self.refuse_matrix("a.h5", ranks=3)

    def test_a_file_that_is_not_hdf5_is_refused(self):
        self.write("a.h5", "user,item\n1,2\n")
        self.refuse_matrix(["a.h5", "HDF5"])

    def test_a_truncated_file_is_refused(self):
        self.write_matrix("a.h5", random_matrix(200, 100))
        whole = (self.folder / "a.h5").read_bytes()
        (self.folder / "a.h5").write_bytes(whole[:len(whole) // 2])
        self.refuse_matrix("a.h5", ranks=3)

    def test_damaged_matrices_are_refused_by_dataset(self):
        def missing(file):
            del file["X/indices"]

        def wrong_type(file):
            del file["X/indices"]
            file["X/indices"] = np.array(["a", "b"], dtype="S1")

        def wrong_shape(file):
            file["X"].attrs["shape"] = np.array([21, 10])

        def not_monotone(file):
            file["X/indptr"][3] = 10**6

        def out_of_range(file):
            file["X/indices"][5] = 10

        def not_finite(file):
            file["X/data"][5] = np.nan

        for damage, says in ((missing, "indices"), (wrong_type, "indices"),
                             (wrong_shape, "indptr"), (not_monotone, "indptr"),
                             (out_of_range, "indices"), (not_finite, "data")):
            with self.subTest(damage=damage.__name__):
                self.write_matrix("a.h5", random_matrix(20, 10))
                with h5py.File(self.folder / "a.h5", "r+") as file:
                    damage(file)
                self.refuse_matrix(["a.h5", says])

    def test_a_matrix_without_entries_is_refused(self):
        self.write_matrix("a.h5", scipy.sparse.csr_matrix((20, 10)))
        self.refuse_matrix("a.h5")

    def test_equal_values_need_implicit(self):
        events = random_matrix(20, 10)
        events.data[:] = 1
        self.write_matrix("a.h5", events)
        self.refuse_matrix("did you mean --implicit?")

    def test_more_factors_than_a_dense_matrix_has_columns_are_refused(self):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file["X"] = np.random.default_rng(1).random((20, 10), dtype=np.float32)
            file["X"].attrs["encoding-type"] = "array"
            file["X"].attrs["encoding-version"] = "0.2.0"
        self.assert_refused("als", "a.h5", "--factors", 11, "--out", "f.h5", says="11", ranks=2)

    def test_a_bad_line_is_refused_with_its_number(self):
        self.write("a.csv", "user,item,value\n1,2,3\n1,x3\n2,2,4\n")
        self.assert_refused("import", "a.csv", "--out", "a.h5", says=["a.csv", "3"], ranks=3)
        self.assertFalse((self.folder / "a.h5").exists())

    def test_more_ranks_than_rows_work(self):
        self.write_matrix("a.h5", random_matrix(2, 10, density=0.9))
        digests = set()
        for ranks in (1, 4):
            self.run_program("als", "a.h5", "--factors", 2, "--out", "f.h5", "--force", "--report",
                             "report.json", ranks=ranks)
            digests.add(self.report()["digest"])
        self.assertEqual(len(digests), 1)


if __name__ == "__main__":
    unittest.main()
