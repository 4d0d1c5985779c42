"""Networks through the command: what is refused, equal bits however the samples are spread, NeuMF."""

import unittest

import h5py
import numpy as np

from program import ProgramTest, random_matrix, read_matrix


class NetworkTest(ProgramTest):
    def write_rows(self, name, rows=30, cols=6, classes=3):
        """A table of numbers, its last column the class, imported as a dense matrix."""
        generator = np.random.default_rng(5)
        labels = np.arange(rows) % classes
        values = np.round(generator.random((rows, cols)) + labels[:, None], 3)
        lines = [",".join([*map(str, row), f"c{label}"]) for row, label in zip(values, labels)]
        self.write(f"{name}.csv", "\n".join(lines) + "\n")
        self.run_program("import", f"{name}.csv", "--format", "table", "--label-column", "last",
                         "--out", f"{name}.h5", "--force")

    def change(self, path, work):
        with h5py.File(self.folder / path, "r+") as file:
            for name in ("X", "obs/label"):
                file[name].attrs.pop("checksum", None)
            work(file)


class Refusals(NetworkTest):
    def refuse(self, *options, says, ranks=2):
        self.assert_refused("mlp", "a.h5", "--hidden", 8, *options, "--out", "n.h5", says=says,
                            ranks=ranks)
        self.assertFalse((self.folder / "n.h5").exists())

    def test_labels_that_are_missing_or_out_of_range(self):
        self.write_matrix("plain.h5", random_matrix(20, 10))
        self.assert_refused("mlp", "plain.h5", "--head", "classes", "--out", "n.h5",
                            says=["no labels", "--labels"], ranks=2)
        self.write_rows("a")

        def beyond(file):
            file["obs/label"][17] = 3

        def negative(file):
            file["obs/label"][17] = -1

        for damage in (beyond, negative):
            with self.subTest(damage.__name__):
                self.write_rows("a")
                self.change("a.h5", damage)
                self.refuse(says=["17", "label"], ranks=3)

    def test_a_class_without_a_sample_is_called_by_its_name(self):
        self.write_rows("a")
        self.write_rows("b", classes=2)

        def third_class(file):
            names = [*file["uns/label_names"].asstr()[:], "c2"]
            kept = dict(file["uns/label_names"].attrs)
            del file["uns/label_names"]
            file["uns/label_names"] = np.array(names, dtype=h5py.string_dtype())
            file["uns/label_names"].attrs.update(kept)

        self.change("b.h5", third_class)
        self.assert_refused("mlp", "b.h5", "--out", "n.h5", says=["class c2", "no sample"],
                            ranks=2)

    def test_a_batch_smaller_than_its_micro_batches(self):
        self.write_rows("a")
        self.refuse("--batch", 4, "--micro-batches", 8, says=["4 samples", "8 micro-batches"])

    def test_a_number_that_is_not_finite_is_named_by_its_row(self):
        self.write_rows("a")

        def not_a_number(file):
            file["X"][17, 2] = np.nan

        self.change("a.h5", not_a_number)
        self.refuse(says=["a.h5", "row 17", "nan"], ranks=3)

    def test_a_network_for_inputs_of_another_width(self):
        self.write_rows("a")
        self.write_rows("wide", cols=7)
        self.run_program("mlp", "a.h5", "--hidden", 8, "--epochs", 1, "--out", "n.h5")
        for command in (["predict", "n.h5", "wide.h5"],
                        ["evaluate", "n.h5", "--test", "wide.h5"]):
            self.assert_refused(*command, says=["wide.h5", "7 columns", "6"], ranks=2)

    def test_a_loss_that_is_no_number_stops_all_ranks_and_the_last_checkpoint_stands(self):
        self.write_rows("a")
        training = ["mlp", "a.h5", "--hidden", 8, "--batch", 16, "--micro-batches", 4, "--epochs", 8,
                    "--schedule", "step", "--step-epochs", 3, "--step-factor", 1e30,
                    "--out", "n.h5", "--checkpoint", "kept", "--every", "1epochs", "--quiet"]
        line = self.assert_refused(*training, says=["not finite", "step", "of 2"], ranks=3, code=1)
        self.assertRegex(line, r"(from layer \w+ on \(sample \d+\)|gradient of layer \w+)")
        self.assertFalse((self.folder / "n.h5").exists())
        newest = max((self.folder / "kept").glob("step-*.h5"))
        self.run_program("info", newest, "--verify")


class EqualBits(NetworkTest):
    """Of 29 rows in 4 blocks, 8 a step: the fourth step has 5 samples; of 5 ranks one has none."""

    OPTIONS = ["--hidden", "8,4", "--batch", 8, "--micro-batches", 4, "--epochs", 6, "--clip", 1,
               "--layer-norm", "--force", "--report", "report.json", "--quiet"]

    def digest(self, *options, ranks):
        self.run_program("mlp", "a.h5", *self.OPTIONS, *options, "--out", "n.h5", ranks=ranks)
        return self.report()["digest"]

    def test_on_one_to_five_ranks_and_after_a_resumption(self):
        self.write_rows("a", rows=29)
        digests = {ranks: self.digest(ranks=ranks) for ranks in (1, 2, 3, 4)}
        digests["allreduce"] = self.digest("--gradient-sum", "allreduce", ranks=3)
        checkpoints = ["--checkpoint", "kept", "--every", "1epochs"]
        digests["checkpoints"] = self.digest(*checkpoints, ranks=2)
        steps = sorted((self.folder / "kept").glob("step-*.h5"))
        for late in steps[1:]:
            late.unlink()
        digests["resumed"] = self.digest(*checkpoints, "--resume", ranks=5)
        self.assertEqual(len(set(digests.values())), 1, digests)

    def test_where_the_last_batch_leaves_ranks_without_samples(self):
        self.write_rows("a", rows=9)
        digests = {self.digest(ranks=ranks) for ranks in (1, 3, 4)}
        self.assertEqual(len(digests), 1)


class Compress(NetworkTest):
    """Weight matrices as products of two: every method, budget and form."""

    def setUp(self):
        super().setUp()
        self.write_rows("a", rows=240, cols=40)
        self.run_program("mlp", "a.h5", "--hidden", "48,32", "--epochs", 4, "--batch", 32, "--out",
                         "net.h5", ranks=2)

    def compress(self, *options, epochs=2, ranks=2):
        self.run_program("compress", "net.h5", "--data", "a.h5", "--validation", 0.2, "--batch",
                         32, "--epochs", epochs, *options, "--out", "small.h5", "--report",
                         "report.json", "--force", ranks=ranks)
        return self.report()

    def test_all_methods_in_one_table_with_equal_bits(self):
        reports = [self.compress("--method", "svd,asvd,als,nmf", "--test", "a.h5", "--size", 0.5,
                                 ranks=ranks) for ranks in (1, 2, 3)]
        rows = reports[0]["result"]["rows"]
        self.assertEqual([row["method"] for row in rows], ["before", "svd", "asvd", "als", "nmf"])
        for row in rows[1:]:
            self.assertLess(row["parameters"], 0.6 * rows[0]["parameters"])
            self.assertIn("validation_accuracy", row["fine-tuned"])
            self.assertIn("accuracy", row["truncated"])
        best = max(rows[1:], key=lambda row: row["fine-tuned"]["validation_accuracy"])
        self.assertEqual(reports[0]["result"]["method"], best["method"])
        self.assertEqual({report["digest"] for report in reports}, {reports[0]["digest"]})
        size = (self.folder / "small.h5").stat().st_size
        written = next(row for row in rows if row["method"] == reports[0]["result"]["method"])
        self.assertLess(written["megabytes"] * 1e6, size)

    def test_the_least_size_that_loses_no_more_than_asked(self):
        self.run_program("mlp", "a.h5", "--hidden", "48,32", "--epochs", 30, "--batch", 32,
                         "--learning-rate", 0.01, "--standardise", "columns", "--out", "net.h5",
                         "--force")
        before, small = self.compress("--max-loss", 5, epochs=0)["result"]["rows"]
        accuracy = before["before"]["validation_accuracy"]
        self.assertGreater(accuracy, 0.9)
        self.assertGreaterEqual(small["truncated"]["validation_accuracy"], accuracy - 0.05)
        self.assertLess(small["parameters"], before["parameters"])
        # the size is found to 1 / 128
        less = self.compress("--size", small["size"] - 1 / 128, epochs=0)["result"]["rows"][1]
        self.assertLess(less["truncated"]["validation_accuracy"], accuracy - 0.05)

    def test_stacked_layers_store_one_factor_and_count_it_once(self):
        self.run_program("mlp", "a.h5", "--hidden", "40,40,40", "--epochs", 1, "--batch", 32,
                         "--out", "net.h5", "--force")
        rows = self.compress("--joint", "--size", 0.4)["result"]["rows"]
        hidden = [layer for layer in rows[1]["layers"] if layer["inner"] > 0]
        self.assertEqual(len({layer["inner"] for layer in hidden}), 1)
        self.assertGreater(len(hidden), 1)
        with h5py.File(self.folder / "small.h5") as file:
            stored = ["v" in file[f"layers/{layer['layer']}"] for layer in hidden]
        self.assertEqual(stored, [True] + [False] * (len(hidden) - 1))
        self.run_program("predict", "small.h5", "a.h5", "--out", "p.csv", ranks=2)
        digests = {self.compress("--joint", "--size", 0.4, ranks=ranks)["digest"]
                   for ranks in (1, 2, 3, 4)}
        self.assertEqual(len(digests), 1)

    def test_a_budget_of_time(self):
        # layers so wide that a product of two is faster on a busy machine too
        self.run_program("mlp", "a.h5", "--hidden", "768,768", "--epochs", 1, "--batch", 32,
                         "--out", "net.h5", "--force")
        rows = self.compress("--time", 0.8, epochs=0)["result"]["rows"]
        self.assertLess(rows[1]["parameters"], rows[0]["parameters"])

    def test_training_in_factored_form_and_with_factorizations_between(self):
        digests = set()
        for method in ("svd", "als", "nmf"):
            of_method = set()
            for ranks in (1, 2, 3, 4):
                self.run_program("mlp", "a.h5", "--hidden", "48,32", "--factorize",
                                 f"{method}:0.5", "--every-epochs", 1, "--epochs", 3, "--batch", 32,
                                 "--out", "n.h5", "--report", "report.json", "--force", ranks=ranks)
                of_method.add(self.report()["digest"])
            self.assertEqual(len(of_method), 1)
            digests |= of_method
        self.assertEqual(len(digests), 3)
        plain = ["mlp", "a.h5", "--hidden", "48,32", "--epochs", 3, "--batch", 32, "--out", "n.h5",
                 "--report", "report.json", "--force"]
        self.run_program(*plain)
        self.assertNotIn(self.report()["digest"], digests)
        self.assert_refused(*plain, "--factorize", "svd:0.5", "--every-epochs", 3,
                            says="would never")
        self.run_program("mlp", "a.h5", "--hidden", "48,32", "--factored", 5, "--epochs", 2,
                         "--batch", 32, "--out", "n.h5", "--force")
        with h5py.File(self.folder / "n.h5") as file:
            self.assertEqual(file["layers/hidden1/u"].shape, (48, 5))
            self.assertEqual(file["layers/hidden2/v"].shape, (48, 5))

    def test_what_cannot_be_done(self):
        for options, says in [(["--method", "svd,als"], "--validation"),
                              (["--max-loss", 1], "--validation"),
                              (["--size", 0.001], "larger"),
                              (["--size", 0.5, "--time", 0.5], "one of the three"),
                              (["--time", 0.5, "--max-loss", 1, "--validation", 0.2], "both")]:
            with self.subTest(says):
                self.assert_refused("compress", "net.h5", "--data", "a.h5", *options, "--out",
                                    "small.h5", says=says, ranks=2)
        self.assert_refused("mlp", "a.h5", "--factorize", "asvd:0.5", "--out", "n.h5",
                            says="--factorize")
        self.assert_refused("mlp", "a.h5", "--factored", 5, "--factorize", "svd:0.5", "--out",
                            "n.h5", says="not both")
        self.assert_refused("compress", "net.h5", "--data", "a.h5", "--factors-file", "net.h5",
                            "--out", "small.h5", says="towers")
        self.assert_refused("mlp", "a.h5", "--factorize", "svd:2", "--out", "n.h5",
                            says="--factorize")


class NeuMf(ProgramTest):
    def train(self, *options, ranks=2):
        self.run_program("hybrid", "a.h5", "--form", "neumf", "--factors", 4, "--embedding", 6,
                         "--hidden", "8,4", "--epochs", 2, "--out", "n.h5", "--force", "--report",
                         "report.json", "--quiet", *options, ranks=ranks)
        return self.report()["digest"]

    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(40, 25))

    def test_the_bits_are_those_of_one_rank(self):
        self.assertEqual(len({self.train(ranks=ranks) for ranks in (1, 2, 3)}), 1)

    def test_predict_gives_the_probability_of_every_entry(self):
        self.train()
        self.run_program("predict", "n.h5", "a.h5", "--out", "p.h5", ranks=3)
        found = read_matrix(self.folder / "p.h5")
        with h5py.File(self.folder / "n.h5") as file:
            tables = {name: set[:] for name, set in file["embeddings"].items()}
            layers = {name: (group["weight"][:], group["bias"][:])
                      for name, group in file["layers"].items()}
        entries = read_matrix(self.folder / "a.h5").tocoo()
        expected = reference(tables, layers, entries.row, entries.col)
        np.testing.assert_array_equal(found.tocoo().col, entries.col)
        np.testing.assert_allclose(found.tocoo().data, expected, rtol=1e-4)

    def test_predict_lists_the_best_columns_of_a_row(self):
        self.train()
        self.run_program("predict", "n.h5", "--top", 3, "--rows", "0", "--out", "best.csv")
        lines = (self.folder / "best.csv").read_text().splitlines()
        self.assertEqual(lines[0], "row,place,column,score")
        self.assertEqual(len(lines), 4)

    def test_from_factors_it_begins_with_their_order_and_never_ends_below(self):
        self.run_program("als", "a.h5", "--implicit", "--factors", 4, "--out", "f.h5")
        self.run_program("split", "a.h5", "--leave-one-out", "--prefix", "v")
        kept = []
        for rate in (1e-9, 1.0):
            self.train("--init", "f.h5", "--validation", "v.test.h5", "--learning-rate", rate)
            kept.append(self.report()["result"]["validation"])
        self.run_program("evaluate", "f.h5", "n.h5", "--train", "v.train.h5", "--test", "v.test.h5",
                         "--metrics", "ndcg@10", "--report", "e.json")
        found = self.report("e.json")["result"]
        self.assertAlmostEqual(kept[0]["value"], kept[1]["value"], delta=0.02)
        self.assertGreaterEqual(kept[1]["value"], kept[0]["value"] - 1e-6)
        self.assertGreaterEqual(found["neumf"]["ndcg@10"], found["als"]["ndcg@10"] - 0.02)


class SideFeatures(ProgramTest):
    """Features of rows and columns are matched by id, whatever order and names their file has."""

    def write_triplets(self, name, triplets):
        self.write(f"{name}.csv", "".join(f"{i},{j},{v}\n" for i, j, v in triplets))
        self.run_program("import", f"{name}.csv", "--out", f"{name}.h5")

    def setUp(self):
        super().setUp()
        generator = np.random.default_rng(3)
        rows = [f"u{i}" for i in range(40)]
        self.write_triplets("a", [(row, f"f{j}", round(generator.random() + 1, 2)) for row in rows
                                  for j in generator.choice(30, 8, replace=False)])
        traits = [(f"f{j}", f"t{j % 3}", 1) for j in range(30)]
        self.write_triplets("ordered", traits)
        shuffled = [traits[i] for i in generator.permutation(30)]
        self.write_triplets("shuffled", [("unknown", "t0", 1), *shuffled])
        self.write_triplets("some", traits[5:])

    def joint(self, features, ranks=2):
        self.run_program("hybrid", "a.h5", "--form", "joint", "--factors", 4, "--rounds", 3,
                         "--hidden", "none", "--prior-weight", 2, "--col-features", features,
                         "--out", "j.h5", "--force", "--report", "report.json", ranks=ranks)
        return self.report()

    def test_order_and_strangers_do_not_matter(self):
        digests = {self.joint(file, ranks)["digest"]
                   for file, ranks in (("ordered.h5", 1), ("shuffled.h5", 2), ("shuffled.h5", 3))}
        self.assertEqual(len(digests), 1)

    def test_columns_without_features_are_counted(self):
        found = self.joint("some.h5")["result"]["features"]["var"]
        self.assertEqual(found["without"], 5)
        self.assertEqual(found["matched"], 25)

    def test_a_file_of_other_things_is_refused(self):
        self.write_triplets("other", [("x", "t0", 1), ("y", "t1", 1)])
        self.assert_refused("hybrid", "a.h5", "--form", "joint", "--prior-weight", 1,
                            "--col-features", "other.h5", "--out", "j.h5", says="no row of")


def reference(tables, layers, rows, cols):
    """σ of NeuMF's output for each pair, by the names of its layers."""
    product = tables["row_factors"][rows] * tables["column_factors"][cols]
    z = np.concatenate([tables["row_embedding"][rows], tables["column_embedding"][cols]], axis=1)
    for name in sorted(name for name in layers if name != "output"):
        weight, bias = layers[name]
        z = np.maximum(z @ weight.T + bias, 0)
    weight, bias = layers["output"]
    both = np.concatenate([product, z], axis=1)
    return 1 / (1 + np.exp(-(both @ weight.T + bias)[:, 0]))


if __name__ == "__main__":
    unittest.main()
