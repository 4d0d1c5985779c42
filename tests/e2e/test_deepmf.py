"""deepmf through the command: what its towers read, new rows, and what else works on its file."""

import unittest

import h5py
import numpy as np

from program import ProgramTest, matrix_of_kinds, random_matrix, read_matrix


class Towers(ProgramTest):
    def deepmf(self, *options, ranks=2, matrix="a.h5", epochs=3):
        self.run_program("deepmf", matrix, "--factors", 4, "--epochs", epochs, "--batch", 16,
                         *options, "--out", "d.h5", "--force", "--report", "report.json", "--quiet",
                         ranks=ranks)
        return self.report()


class WithoutNames(Towers):
    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(60, 30))

    def test_towers_from_factors_begin_as_these(self):
        self.run_program("als", "a.h5", "--factors", 4, "--sweeps", 5, "--out", "f.h5")
        for how in (["--init", "f.h5"], ["--input", "factors", "--factors-file", "f.h5"],
                    ["--input", "embeddings,rows", "--init", "f.h5", "--hidden", "6"]):
            with self.subTest(how):
                self.deepmf(*how, "--learning-rate", 1e-9)
                with h5py.File(self.folder / "f.h5") as f, h5py.File(self.folder / "d.h5") as d:
                    np.testing.assert_allclose(d["factors/row_factors"][:], f["row_factors"][:],
                                               atol=1e-5)
                    np.testing.assert_allclose(d["factors/col_factors"][:], f["col_factors"][:],
                                               atol=1e-5)

    def test_the_bits_are_those_of_one_rank(self):
        for options in (["--input", "rows", "--hidden", "6", "--entry-dropout", 0.3,
                         "--validation", 0.2],
                        ["--loss", "logistic", "--dropout", 0.2, "--hidden", "5"],
                        ["--implicit", "--unobserved-weight", 0.1, "--input", "embeddings,rows"]):
            with self.subTest(options):
                digests = {self.deepmf(*options, ranks=ranks)["digest"] for ranks in (1, 3, 4)}
                self.assertEqual(len(digests), 1)

    def test_rows_are_read_as_the_formula_says_and_new_ones_too(self):
        self.deepmf("--implicit", "--input", "rows", "--hidden", "6", "--embedding", 5)
        self.write_matrix("new.h5", random_matrix(17, 30, seed=8))
        self.run_program("fold-in", "d.h5", "new.h5", "--out", "new-f.h5", ranks=3)
        with h5py.File(self.folder / "d.h5") as file:
            layers = {name: (group["weight"][:], group["bias"][:])
                      for name, group in file["layers"].items()}
            table = file["embeddings/row_entries_embedding"][:]
            trained = file["factors/row_factors"][:]
            columns = file["factors/col_factors"][:]
        for matrix, found in (("a.h5", trained), ("new.h5", None)):
            rows = read_matrix(self.folder / matrix).toarray()
            x = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30) @ table
            hidden = np.maximum(x @ layers["row_hidden1"][0].T + layers["row_hidden1"][1], 0)
            expected = (x @ layers["row_linear"][0].T + layers["row_linear"][1] +
                        hidden @ layers["row_deep"][0].T + layers["row_deep"][1])
            if found is None:
                with h5py.File(self.folder / "new-f.h5") as file:
                    found = file["row_factors"][:]
                    np.testing.assert_array_equal(file["col_factors"][:], columns)
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_other_commands_use_it_as_any_factors(self):
        self.write_matrix("k.h5", matrix_of_kinds(60, 30))
        self.run_program("split", "k.h5", "--leave-one-out", "--prefix", "s")
        self.deepmf("--implicit", "--input", "rows", matrix="s.train.h5", epochs=10)
        self.run_program("evaluate", "d.h5", "--train", "s.train.h5", "--test", "s.test.h5",
                         "--metrics", "ndcg@10", "--report", "e.json", ranks=2)
        found = self.report("e.json")["result"]
        self.assertGreater(found["deepmf"]["ndcg@10"], 1.5 * found["popularity"]["ndcg@10"])
        self.run_program("recommend", "d.h5", "--train", "s.train.h5", "--top", 2, "--out", "b.csv")
        self.run_program("mlp", "s.train.h5", "--head", "columns", "--factors-file", "d.h5",
                         "--hidden", 8, "--epochs", 1, "--out", "n.h5", ranks=2)

    def test_validation_keeps_the_best_epoch_and_the_start_counts(self):
        self.run_program("split", "a.h5", "--leave-one-out", "--negatives", 9, "--prefix", "s")
        kept = [self.deepmf("--implicit", "--validation", "s.test.h5", "--validation-negatives",
                            "s.negatives.h5", "--learning-rate", rate,
                            matrix="s.train.h5")["result"]["validation"] for rate in (1e-9, 3.0)]
        self.assertGreaterEqual(kept[1]["value"], kept[0]["value"] - 1e-6)
        self.run_program("evaluate", "d.h5", "--test", "s.test.h5", "--negatives",
                         "s.negatives.h5", "--metrics", "ndcg@10", "--report", "e.json")
        self.assertAlmostEqual(self.report("e.json")["result"]["deepmf"]["ndcg@10"],
                               kept[1]["value"], places=6)

    def test_factors_of_another_shape_without_names_are_refused(self):
        self.run_program("als", "a.h5", "--factors", 4, "--out", "f.h5")
        self.write_matrix("b.h5", random_matrix(61, 30))
        for command in (["deepmf", "b.h5", "--init", "f.h5"],
                        ["deepmf", "b.h5", "--input", "factors", "--factors-file", "f.h5"],
                        ["hybrid", "b.h5", "--form", "neumf", "--init", "f.h5"]):
            self.assert_refused(*command, "--out", "d.h5", says="61, and not both have names",
                                ranks=2)

    def test_what_does_not_go_together(self):
        self.run_program("als", "a.h5", "--factors", 4, "--out", "f.h5")
        for options, says in ((["--input", "words"], "words"),
                              (["--input", "factors"], "--factors-file"),
                              (["--factors-file", "f.h5"], "--input factors"),
                              (["--input", "features"], "--row-features"),
                              (["--input", "rows", "--init", "f.h5"], "--init"),
                              (["--entry-dropout", 0.5], "--input rows"),
                              (["--zeros", 2], "--implicit"),
                              (["--implicit", "--zeros", 2, "--unobserved-weight", 0.1], "--zeros"),
                              (["--loss", "logistic", "--implicit"], "--loss squared"),
                              (["--loss", "logistic", "--unobserved-weight", 0.1], "--loss squared"),
                              (["--patience", 2], "--validation")):
            with self.subTest(options):
                self.assert_refused("deepmf", "a.h5", *options, "--out", "d.h5", says=says)
        self.deepmf()
        self.assert_refused("fold-in", "d.h5", "a.h5", "--out", "x.h5", says="free embeddings",
                            ranks=2)
        self.assert_refused("fold-in", "f.h5", "a.h5", "--features", "a.h5", "--out", "x.h5",
                            says="prior network")


class InLess(Towers):
    """`compress` on towers: in every method, trained on by their own objective."""

    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(90, 60))
        self.run_program("split", "a.h5", "--leave-one-out", "--prefix", "v")

    def compress(self, *options, data="v.train.h5", ranks=2):
        self.run_program("compress", "d.h5", "--data", data, "--size", 0.6, "--batch", 16,
                         *options, "--out", "small.h5", "--force", "--report", "report.json",
                         "--quiet", ranks=ranks)
        return self.report()

    def test_all_methods_and_training_on_have_equal_bits(self):
        self.write_matrix("traits.h5", random_matrix(90, 20, seed=5))
        for kind, options, files in (
                ("hr@10", ["--loss", "logistic", "--input", "rows,features", "--row-features",
                           "traits.h5"], ["--row-features", "traits.h5"]),
                ("hr@10", ["--implicit", "--input", "embeddings,rows", "--hidden", 24], []),
                ("rmse", ["--input", "rows"], [])):
            with self.subTest(options):
                self.deepmf(*options, "--embedding", 24, matrix="v.train.h5")
                reports = [self.compress("--validation", 0.1, "--test", "v.test.h5", "--method",
                                         "svd,asvd,als,nmf", "--epochs", 2, *files, ranks=ranks)
                           for ranks in (1, 2, 3, 4)]
                self.assertEqual(len({report["digest"] for report in reports}), 1)
                before, *rows = reports[0]["result"]["rows"]
                self.assertEqual(len(rows), 4)
                for row in rows:
                    self.assertIn(kind, row["fine-tuned"])
                    self.assertLess(row["parameters"], 0.65 * before["parameters"])
                self.run_program("evaluate", "small.h5", "--train", "v.train.h5", "--test",
                                 "v.test.h5", ranks=2)

    def test_the_factors_are_those_of_the_smaller_towers(self):
        self.deepmf("--implicit", "--input", "rows", "--embedding", 24)
        self.compress("--epochs", 1, data="a.h5")
        self.run_program("fold-in", "small.h5", "a.h5", "--out", "f.h5", ranks=3)
        with h5py.File(self.folder / "small.h5") as small, h5py.File(self.folder / "f.h5") as f:
            np.testing.assert_allclose(f["row_factors"][:], small["factors/row_factors"][:],
                                       atol=1e-6)
            self.assertTrue(any(name.endswith("_table") for name in small["embeddings"]))

    def test_what_the_towers_read_must_be_given(self):
        self.write_matrix("traits.h5", random_matrix(90, 20, seed=5))
        self.deepmf("--input", "rows,features", "--row-features", "traits.h5")
        for options, says in (([], "features"), (["--row-features", "traits.h5", "--joint"],
                                                 "--joint")):
            self.assert_refused("compress", "d.h5", "--data", "a.h5", "--method", "asvd", *options,
                                "--out", "small.h5", says=says, ranks=2)
        self.deepmf("--input", "rows", "--embedding", 24)
        self.assert_refused("compress", "d.h5", "--data", "a.h5", "--row-features", "traits.h5",
                            "--out", "small.h5", says="reads no features", ranks=2)


class WithFeatures(Towers):
    """Features are matched by id, and new rows of which only these are known get factors."""

    def write_triplets(self, name, triplets, *options):
        self.write(f"{name}.csv", "".join(f"{i},{j},{v}\n" for i, j, v in triplets))
        self.run_program("import", f"{name}.csv", *options, "--out", f"{name}.h5")

    def setUp(self):
        super().setUp()
        generator = np.random.default_rng(3)
        # rows like the columns of their own kind
        self.write_triplets("a", [(f"u{i}", f"f{j}", 1) for i in range(60)
                                  for j in generator.permutation(range(i % 3, 30, 3))[:6]])
        traits = [(f"u{i}", f"t{i % 3}", 1) for i in range(60)]
        shuffled = [traits[i] for i in generator.permutation(60)]
        self.write_triplets("ordered", traits)
        self.write_triplets("shuffled", [("unknown", "t0", 1), *shuffled], "--ids", "ordered.h5",
                            "--extend-ids")

    def test_their_order_and_strangers_do_not_matter(self):
        options = ["--loss", "logistic", "--input", "rows,features", "--row-features"]
        digests = {self.deepmf(*options, f"{file}.h5", ranks=ranks)["digest"]
                   for file, ranks in (("ordered", 1), ("shuffled", 2), ("shuffled", 3))}
        self.assertEqual(len(digests), 1)

    def test_factors_to_begin_with_are_found_by_name(self):
        self.run_program("als", "a.h5", "--implicit", "--factors", 4, "--out", "f.h5")
        with h5py.File(self.folder / "a.h5") as file:
            rows, columns = (file[f"{axis}/_index"].asstr()[:] for axis in ("obs", "var"))
        entries = read_matrix(self.folder / "a.h5").tocoo()
        turned = [(rows[i], columns[j], v) for i, j, v in
                  reversed(list(zip(entries.row, entries.col, entries.data)))]
        self.write_triplets("turned", [("stranger", columns[0], 1), *turned])
        for command in (["deepmf", "--implicit"], ["hybrid", "--form", "neumf", "--hidden", 4]):
            table = "row_embedding" if command[0] == "deepmf" else "row_factors"
            self.run_program(command[0], "turned.h5", *command[1:], "--factors", 4, "--init", "f.h5",
                             "--embedding", 4, "--epochs", 1, "--learning-rate", 1e-9, "--out",
                             "t.h5", "--force")
            with h5py.File(self.folder / "f.h5") as f, h5py.File(self.folder / "t.h5") as t:
                group = t["factors"] if command[0] == "deepmf" else t
                names = list(group["obs/_index"].asstr()[:])
                found = t[f"embeddings/{table}"][:]
                for i, name in enumerate(f["obs/_index"].asstr()[:]):
                    np.testing.assert_allclose(found[names.index(name)], f["row_factors"][i],
                                               atol=1e-5)
                np.testing.assert_allclose(found[names.index("stranger")], 0, atol=1e-5)

    def test_a_new_row_is_like_those_of_its_features(self):
        self.write_triplets("items", [(f"f{j}", f"s{j}", 1) for j in range(30)])
        self.deepmf("--implicit", "--unobserved-weight", 0.1, "--lambda", 0.01, "--input",
                    "features", "--row-features", "ordered.h5", "--col-features", "items.h5",
                    "--learning-rate", 0.05, epochs=60)
        self.write_triplets("new", [("v0", "f0", 1), ("v1", "f1", 1), ("v2", "f2", 1)], "--ids",
                            "a.h5", "--extend-ids")
        self.write_triplets("new-traits", [("v0", "t1", 1), ("v1", "t2", 1), ("v2", "t0", 1)],
                            "--ids", "ordered.h5", "--extend-ids")
        self.run_program("fold-in", "d.h5", "new.h5", "--features", "new-traits.h5", "--out",
                         "f.h5", ranks=2)
        with h5py.File(self.folder / "f.h5") as file:
            names = list(file["obs/_index"].asstr()[:])
            scores = file["row_factors"][:] @ file["col_factors"][:].T
            columns = [int(name[1:]) for name in file["var/_index"].asstr()[:]]
        for row, kind in (("v0", 1), ("v1", 2), ("v2", 0)):
            best = np.argsort(-scores[names.index(row)])[:6]
            self.assertEqual({columns[j] % 3 for j in best}, {kind})


if __name__ == "__main__":
    unittest.main()
