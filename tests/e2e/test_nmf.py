"""Nonnegative factors: the same bits on every grid, refusals by name, fold-in, components, tuning."""

import unittest

import h5py
import numpy as np

from program import ProgramTest, random_matrix

# every objective, as the command line says it
KINDS = {"hals": ["--solver", "hals"], "mu": ["--solver", "mu"],
         "bpp": ["--solver", "bpp"],
         "kl": ["--loss", "kl", "--solver", "mu"],
         "missing": ["--missing", "--lambda", "0.02"]}


def factors_of(path):
    with h5py.File(path) as file:
        return file["row_factors"][:], file["col_factors"][:]


class Nmf(ProgramTest):
    def setUp(self):
        super().setUp()
        self.a = random_matrix(150, 90)
        self.write_matrix("a.h5", self.a)

    def nmf(self, *options, ranks=1, matrix="a.h5"):
        self.run_program("nmf", matrix, "--factors", 6, *options, "--out", "f.h5", "--force",
                         "--report", "report.json", ranks=ranks)
        return self.report()

    def test_digests_are_equal_on_all_ranks_and_grids(self):
        self.write_dense("dense.h5", self.a.toarray())
        for kind, matrix in (("hals", "dense.h5"), ("mu", "a.h5")):
            digests = {}
            for ranks, grid in ((1, "auto"), (2, "auto"), (3, "auto"), (4, "1x4"), (4, "2x2"),
                                (4, "4x1")):
                report = self.nmf(*KINDS[kind], "--sweeps", 12, "--grid", grid, ranks=ranks,
                                  matrix=matrix)
                digests[ranks, grid] = report["digest"]
            self.assertEqual(len(set(digests.values())), 1, (kind, digests))
        phase = next(p for p in report["phases"] if p["name"] == "grid exchange")
        self.assertGreater(phase["bytes_sent"], 0)
        self.assertEqual(phase["bytes_sent"], phase["bytes_predicted"])

    def test_values_that_no_nonnegative_factorization_takes_are_refused_by_name(self):
        self.a.data[self.a.indptr[17] + 1] = -2.5
        column = self.a.indices[self.a.indptr[17] + 1]
        self.write_matrix("b.h5", self.a)
        for ranks in (1, 3):
            self.assert_refused("nmf", "b.h5", "--factors", 2, "--out", "f.h5", ranks=ranks,
                                says=["-2.5", "row 17", f"column {column}"])
        with h5py.File(self.folder / "b.h5", "r+") as file:
            file["X/data"][self.a.indptr[17] + 1] = np.nan
        self.assert_refused("nmf", "b.h5", "--factors", 2, "--out", "f.h5", ranks=2,
                            says=["nan", "row 17", f"column {column}"])
        self.write("named.csv", "user,item,value\nann,tea,1\nbob,tea,2\nbob,milk,-3\n")
        self.run_program("import", "named.csv", "--out", "named.h5")
        self.assert_refused("nmf", "named.h5", "--missing", "--factors", 1, "--out", "f.h5",
                            ranks=2, says=["-3", "'bob'", "'milk'"])

    def test_options_that_cannot_go_together_are_refused(self):
        for options, says in ((["--loss", "kl"], "--solver mu"),
                              (["--grid", "2x2"], "grid of the 1 ranks"),
                              (["--missing", "--grid", "1x1"], "row blocks"),
                              (["--solver", "mu", "--start", "nndsvd"], "nndsvda"),
                              (["--lambda", "0.1"], "--missing"),
                              (["--max-time", "5 fortnights"], "30s")):
            self.assert_refused("nmf", "a.h5", *options, "--out", "f.h5", says=says)
            self.assertFalse((self.folder / "f.h5").exists())

    def test_time_ends_a_run(self):
        report = self.nmf("--sweeps", 1000000, "--max-time", "0.2s", ranks=2)
        self.assertLess(len(report["result"]["objective"]), 1000000)
        self.assertGreater(len(report["result"]["objective"]), 0)

    def test_rows_fold_in_to_the_factors_that_they_were_fitted_to(self):
        for kind, options in KINDS.items():
            with self.subTest(kind):
                self.nmf(*options, "--sweeps", 300)
                w, _ = factors_of(self.folder / "f.h5")
                self.run_program("fold-in", "f.h5", "a.h5", "--out", "again.h5", "--force",
                                 ranks=2)
                again, _ = factors_of(self.folder / "again.h5")
                self.assertLess(np.abs(again - w).max(), 0.1 * w.max())
                self.assertGreaterEqual(again.min(), 0.0)

    def test_info_lists_the_top_words_of_each_component(self):
        fruit, metal = "apple pear plum".split(), "iron copper zinc".split()
        lines = [f"{a} {b}" for group in (fruit, metal) for a in group for b in group]
        self.write("texts.txt", "".join(f"{line}\n" for line in lines))
        self.run_program("import", "texts.txt", "--format", "text", "--out", "texts.h5")
        self.run_program("nmf", "texts.h5", "--factors", 2, "--loss", "kl", "--solver", "mu",
                         "--sweeps", 100, "--out", "topics.h5")
        self.run_program("info", "topics.h5", "--report", "info.json", ranks=2)
        lists = self.report("info.json")["result"]["components"]
        found = {frozenset(words.split()[:3]) for words in lists.values()}
        self.assertEqual(found, {frozenset(fruit), frozenset(metal)})


class Tune(ProgramTest):
    def tune(self, *options, ranks=1):
        self.run_program("tune", "a.h5", "--method", "nmf", "--validation", "0.2", *options,
                         "--out", "best.h5", "--force", "--report", "report.json", ranks=ranks)
        return self.report()

    def test_the_number_of_factors_is_chosen_by_held_out_elements(self):
        generator = np.random.default_rng(3)
        w, h_true = generator.random((80, 3)), generator.random((3, 60))
        self.write_dense("a.h5", w @ h_true + 0.05 * generator.random((80, 60)))
        reports = [self.tune("--factors", "1,3,12", "--sweeps", 150, ranks=ranks)
                   for ranks in (1, 4)]
        self.assertEqual(reports[0]["digest"], reports[1]["digest"])
        result = reports[1]["result"]
        table = {row["factors"]: row for row in result["table"]}
        self.assertEqual(result["best"]["factors"], 3)
        self.assertLess(table[12]["train_rmse"], table[1]["train_rmse"])
        self.assertLess(table[3]["rmse"], table[12]["rmse"])
        best, _ = factors_of(self.folder / "best.h5")
        self.assertEqual(best.shape, (80, 3))
        self.run_program("fold-in", "best.h5", "a.h5", "--out", "again.h5", ranks=2)
        again, h = factors_of(self.folder / "again.h5")
        self.assertLess(np.abs(again @ h.T - w @ h_true).mean(), 0.05)

    def test_sparse_matrices_are_tuned_by_ranking_or_by_values(self):
        self.write_matrix("a.h5", random_matrix(150, 90))
        digests = {self.tune("--factors", "2,5", "--sweeps", 10, ranks=ranks)["digest"]
                   for ranks in (1, 3)}
        self.assertEqual(len(digests), 1)
        self.assertIn("ndcg@10", self.report()["result"]["best"])
        self.assertIn("relative_error", self.report()["result"]["best"])
        self.tune("--factors", "2,5", "--missing", "--lambda", "0.2,0.05", "--sweeps", 10)
        self.assertEqual(len(self.report()["result"]["table"]), 4)
        self.run_program("fold-in", "best.h5", "a.h5", "--out", "folded.h5")
        self.tune("--factors", "2", "--loss", "kl", "--sweeps", 5)
        self.assertIn("objective", self.report()["result"]["best"])

    def test_what_split_left_over_can_be_cut_again_by_the_same_share_and_seed(self):
        self.write_matrix("whole.h5", random_matrix(150, 90))
        self.run_program("split", "whole.h5", "--holdout", "0.2", "--prefix", "p")
        (self.folder / "p.train.h5").rename(self.folder / "a.h5")
        self.tune("--factors", "2", "--missing", "--sweeps", 3)
        self.assertGreater(self.report()["result"]["validation"]["entries"], 200)

    def test_options_of_the_other_method_are_refused(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        for method, option in (("nmf", "--implicit"), ("als", "--missing")):
            self.assert_refused("tune", "a.h5", "--method", method, option, "--validation", "0.1",
                                "--out", "b.h5", says=[option, f"--method {method}"])


if __name__ == "__main__":
    unittest.main()
