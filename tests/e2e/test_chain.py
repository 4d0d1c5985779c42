"""The main job in small: the same bits on any number of ranks, and files that others can read."""

import gzip
import unittest

import h5py
import numpy as np

from program import ROOT, ProgramTest, random_matrix, read_matrix

JOB = """
folder = "out"

[[stage]]
command = "import"
sources = ["packages.csv"]

[[stage]]
command = "split"
matrix = "@import"
leave-one-out = true

[[stage]]
command = "als"
matrix = "@split.train"
implicit = true
factors = 16
sweeps = 4

[[stage]]
command = "mlp"
matrix = "@split.train"
head = "columns"
input = "factors"
factors-file = "@als"
hidden = [32]
epochs = 2

[[stage]]
command = "evaluate"
model = ["@als", "@mlp"]
train = "@split.train"
test = "@split.test"
metrics = ["hr@10", "ndcg@10"]

[[stage]]
command = "recommend"
model = "@als"
train = "@import"
rows = ["git", "gimp"]
top = 5
"""


def small_dataset():
    """The packages of the embedded dataset that begin with g."""
    with gzip.open(ROOT / "jobs/data/debian-dependencies.csv.gz", "rt") as file:
        header, *lines = file
    return header + "".join(line for line in lines if line.startswith("g"))


def arrays(path):
    """All numeric datasets of a file by path, but for the history, which has speeds in it."""
    found = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" and "history" not in name:
            found[name] = item[:]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


class Chain(ProgramTest):
    def run_job(self, ranks):
        self.run_program("run", "job.toml", "--force", "--report", "report.json", ranks=ranks)
        return {stage["name"]: stage["digest"] for stage in self.report()["stages"]}

    def test_same_bits_on_one_to_four_ranks(self):
        self.write("packages.csv", small_dataset())
        self.write("job.toml", JOB)
        digests = self.run_job(1)
        self.assertEqual({len(digest) for digest in digests.values()}, {16}, digests)
        files = {name: arrays(self.folder / name) for name in ("out/als.h5", "out/mlp.h5")}
        for ranks in (2, 3, 4):
            with self.subTest(ranks=ranks):
                self.assertEqual(self.run_job(ranks), digests)
                for name, expected in files.items():
                    found = arrays(self.folder / name)
                    self.assertEqual(found.keys(), expected.keys())
                    for path, values in expected.items():
                        np.testing.assert_array_equal(found[path], values, f"{name}:{path}")

    def test_stages_by_hand_give_the_same_digest_as_the_chain(self):
        self.write("packages.csv", small_dataset())
        self.write("job.toml", JOB)
        digests = self.run_job(2)
        self.run_program("als", "out/split.train.h5", "--implicit", "--factors", 16, "--sweeps", 4,
                         "--out", "alone.h5", "--report", "alone.json")
        self.assertEqual(self.report("alone.json")["digest"], digests["als"])

    def test_a_value_set_from_the_command_line_changes_its_stage(self):
        self.write("packages.csv", small_dataset())
        self.write("job.toml", JOB)
        self.run_program("run", "job.toml", "--set", "als.factors=8", "--report", "report.json")
        with h5py.File(self.folder / "out/als.h5") as file:
            self.assertEqual(file["row_factors"].shape[1], 8)

    def test_threads_do_not_change_the_bits(self):
        self.write_matrix("a.h5", random_matrix(300, 80))
        digests = set()
        for threads in (1, 3):
            self.run_program("als", "a.h5", "--factors", 8, "--threads", threads, "--out", "f.h5",
                             "--force", "--report", "report.json")
            digests.add(self.report()["digest"])
        self.assertEqual(len(digests), 1)


class OtherPrograms(ProgramTest):
    def test_h5py_reads_factors_that_predict_the_ratings(self):
        ratings = random_matrix(200, 60)
        self.write_matrix("a.h5", ratings)
        self.run_program("als", "a.h5", "--factors", 4, "--out", "f.h5", "--report", "report.json",
                         ranks=2)
        with h5py.File(self.folder / "f.h5") as file:
            self.assertEqual(file.attrs["rankfold"], "factors")
            x, y, mean = file["row_factors"][:], file["col_factors"][:], file.attrs["global_mean"]
        self.assertEqual((x.shape, y.shape), ((200, 4), (60, 4)))
        self.assertAlmostEqual(mean, ratings.data.mean(), places=4)
        rows, cols = ratings.nonzero()
        errors = ratings.data - mean - np.sum(x[rows] * y[cols], axis=1)
        self.assertLess(np.sqrt(np.mean(errors**2)), ratings.data.std())

    def test_scipy_opens_an_imported_matrix(self):
        ratings = random_matrix(50, 20)
        rows, cols = ratings.nonzero()
        text = "user,item,value\n" + "".join(
            f"{r},{c},{v:g}\n" for r, c, v in zip(rows, cols, ratings.data))
        self.write("a.csv", text)
        self.run_program("import", "a.csv", "--out", "a.h5", ranks=3)
        found = read_matrix(self.folder / "a.h5")
        with h5py.File(self.folder / "a.h5") as file:
            user, item = file["obs/id"][:], file["var/id"][:]
        dense = np.zeros(ratings.shape, dtype=np.float32)
        for r, c, v in zip(*found.nonzero(), found.data):
            dense[user[r], item[c]] = v
        np.testing.assert_array_equal(dense, ratings.toarray())

    def test_anndata_opens_what_was_imported_and_is_read(self):
        import anndata

        self.write("a.csv", small_dataset())
        self.run_program("import", "a.csv", "--out", "a.h5")
        opened = anndata.read_h5ad(self.folder / "a.h5")
        self.assertIn("git", list(opened.obs_names))
        opened.write_h5ad(self.folder / "b.h5ad")
        for name in ("a.h5", "b.h5ad"):
            self.run_program("als", name, "--implicit", "--factors", 4, "--sweeps", 2, "--out",
                             "f.h5", "--force", "--report", name + ".json")
        self.assertEqual(self.report("a.h5.json")["digest"], self.report("b.h5ad.json")["digest"])


if __name__ == "__main__":
    unittest.main()
