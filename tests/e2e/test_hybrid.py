"""The hybrid models through the command: cold start by prior networks, tables in less."""

import json
import unittest

import h5py
import numpy as np
import scipy.sparse

from program import ProgramTest, matrix_of_kinds, random_matrix, read_matrix


def apply(group, features):
    """A chain of dense layers with ReLU between, as it stands in a file."""
    names = sorted(name for name in group["layers"] if name != "output")
    x = features
    for name in names:
        layer = group[f"layers/{name}"]
        x = np.maximum(x @ layer["weight"][:].T + layer["bias"][:], 0)
    last = group["layers/output"]
    return x @ last["weight"][:].T + last["bias"][:]


class ColdStart(ProgramTest):
    """New rows and columns of which features are known, with and without entries."""

    MU = 2.0

    def write_triplets(self, name, triplets, *options):
        self.write(f"{name}.csv", "".join(f"{i},{j},{v}\n" for i, j, v in triplets))
        self.run_program("import", f"{name}.csv", *options, "--out", f"{name}.h5", "--force")

    def setUp(self):
        super().setUp()
        generator = np.random.default_rng(3)
        self.trait = {f"f{j}": j % 3 for j in range(35)}  # films 30 … 34 are new
        self.write_triplets("a", [(f"u{i}", f"f{j}", round(generator.random() + 1, 2))
                                  for i in range(40)
                                  for j in generator.choice(30, 8, replace=False)])
        self.write("traits.txt", "t0\nt1\nt2\n")
        films = [(f, f"t{t}", 1) for f, t in self.trait.items()]
        self.write_triplets("films", films[:30], "--col-ids", "traits.txt")
        self.write_triplets("new", films[30:], "--col-ids", "traits.txt")
        self.entries = [("u3", "f31", 1.5), ("u9", "f31", 1.1), ("u4", "f33", 1.8)]
        self.write_triplets("seen", self.entries)

    def joint(self, *options):
        self.run_program("hybrid", "a.h5", "--form", "joint", "--factors", 4, "--rounds", 3,
                         "--lambda", 0.1, "--prior-weight", self.MU, "--col-features", "films.h5",
                         *options, "--out", "j.h5", "--force", ranks=2)

    def fold_in(self, *arguments, ranks=2):
        self.run_program("fold-in", "j.h5", *arguments, "--axis", "columns", "--features", "new.h5",
                         "--out", "n.h5", "--report", "report.json", "--force", ranks=ranks)
        with h5py.File(self.folder / "n.h5") as file:
            names = list(file["var/_index"].asstr()[:])
            self.assertEqual(file["obs/_index"].shape, (40,))
            return dict(zip(names, file["col_factors"][:])), self.report()["digest"]

    def prior(self):
        with h5py.File(self.folder / "j.h5") as file:
            return {f: apply(file["col_prior"], np.eye(3)[t]) for f, t in self.trait.items()}

    def test_features_alone_give_what_the_prior_network_says(self):
        for options, all_ranks in ((["--hidden", "none"], (1, 2, 3, 4)), (["--hidden", 6], (1, 2)),
                                   (["--implicit", "--hidden", "none"], (1, 3))):
            with self.subTest(options):
                self.joint(*options)
                found = [self.fold_in(ranks=ranks) for ranks in all_ranks]
                self.assertEqual(len({digest for _, digest in found}), 1)
                self.assertEqual(sorted(found[0][0]), [f"f{j}" for j in range(30, 35)])
                expected = self.prior()
                for film, factors in found[0][0].items():
                    np.testing.assert_allclose(factors, expected[film], rtol=1e-4, atol=1e-6)

    def test_entries_give_the_ridge_solution_that_the_prior_pulls(self):
        for implicit, all_ranks in ([], (1, 2, 3, 4)), (["--implicit", "--alpha", 3], (1, 3)):
            self.joint("--hidden", "none", *implicit)
            found = [self.fold_in("seen.h5", ranks=ranks) for ranks in all_ranks]
            self.assertEqual(len({digest for _, digest in found}), 1)
            prior = self.prior()
            with h5py.File(self.folder / "j.h5") as file:
                x = file["row_factors"][:].astype(float)
                users = {name: i for i, name in enumerate(file["obs/_index"].asstr()[:])}
                mean = file.attrs["global_mean"]
            for film in ("f31", "f33"):
                mine = [(users[u], v) for u, f, v in self.entries if f == film]
                weight, target = np.zeros(40), np.zeros(40)
                if implicit:
                    weight[:] = 1
                for user, value in mine:
                    weight[user] = 1 + 3 * value if implicit else 1
                    target[user] = 1 if implicit else value - mean
                normal = x.T @ (weight[:, None] * x) + (0.1 * len(mine) + self.MU) * np.eye(4)
                expected = np.linalg.solve(normal,
                                           x.T @ (weight * target) + self.MU * prior[film])
                np.testing.assert_allclose(found[0][0][film], expected, rtol=1e-3, atol=1e-5)

    def test_new_rows_by_their_features_and_lists_for_them(self):
        self.write_triplets("users", [(f"u{i}", f"s{i % 2}", 1) for i in range(40)])
        self.write_triplets("others", [("x", "s0", 1), ("y", "s1", 1)])
        self.run_program("hybrid", "a.h5", "--factors", 4, "--rounds", 2, "--hidden", "none",
                         "--prior-weight", 1, "--row-features", "users.h5", "--out", "j.h5")
        self.run_program("fold-in", "j.h5", "--features", "others.h5", "--out", "n.h5", ranks=2)
        self.run_program("recommend", "n.h5", "--train", "a.h5", "--rows", "x,y", "--top", 3,
                         "--out", "best.csv")
        lines = (self.folder / "best.csv").read_text().splitlines()
        self.assertEqual([line.split(",")[0] for line in lines[1:]], ["x"] * 3 + ["y"] * 3)
        with h5py.File(self.folder / "n.h5") as file:
            names = np.array(file["var/_index"].asstr()[:])
            scores = file["row_factors"][:] @ file["col_factors"][:].T
        best = names[np.argsort(-scores, axis=1)[:, :3]]
        self.assertEqual([line.split(",")[2] for line in lines[1:]], best.ravel().tolist())

    def test_what_cannot_be_done(self):
        self.run_program("als", "a.h5", "--factors", 4, "--out", "als.h5")
        self.run_program("svd", "a.h5", "--factors", 2, "--out", "svd.h5")
        self.joint("--hidden", "none")
        self.write_triplets("wide", [("f30", f"t{j}", 1) for j in range(5)])
        for arguments, says in [(["als.h5", "--features", "new.h5"], "no prior network of rows"),
                                (["j.h5", "--features", "new.h5"], "no prior network of rows"),
                                (["svd.h5", "seen.h5", "--axis", "columns"], "als and hybrid"),
                                (["j.h5"], "new rows"),
                                (["j.h5", "--axis", "columns", "--features", "wide.h5"],
                                 "5 features")]:
            with self.subTest(says):
                self.assert_refused("fold-in", *arguments, "--out", "n.h5", says=says, ranks=2)


class JointValidation(ProgramTest):
    """The joint form keeps its best round, from given factors on."""

    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(120, 60, 0.2))
        self.run_program("split", "a.h5", "--leave-one-out", "--prefix", "v")

    def joint(self, *options, ranks=2):
        self.run_program("hybrid", "v.train.h5", "--init", "f.h5", "--factors", 6, "--rounds", 4,
                         "--validation", "v.test.h5", *options, "--out", "j.h5", "--report",
                         "report.json", "--force", "--quiet", ranks=ranks)
        return self.report()

    def test_it_never_ends_below_its_start(self):
        for implicit, metric in ([], "rmse"), (["--implicit"], "ndcg@10"):
            self.run_program("als", "v.train.h5", "--factors", 6, *implicit, "--out", "f.h5",
                             "--force")
            found = self.joint(*implicit, "--learning-rate", 3)["result"]["validation"]
            self.run_program("evaluate", "f.h5", "j.h5", "--train", "v.train.h5", "--test",
                             "v.test.h5", "--metrics", metric, "--report", "e.json", "--force",
                             ranks=3)
            both = self.report("e.json")["result"]
            self.assertAlmostEqual(both["joint"][metric], found["value"], places=5)
            sign = -1 if metric == "rmse" else 1
            self.assertGreaterEqual(sign * both["joint"][metric], sign * both["als"][metric] - 1e-6)

    def test_bits_on_any_ranks_and_after_a_resumption(self):
        self.run_program("als", "v.train.h5", "--factors", 6, "--implicit", "--out", "f.h5")
        checkpoints = ["--checkpoint", "kept", "--every", "1rounds"]
        reports = [self.joint("--implicit", ranks=ranks) for ranks in (1, 2, 3, 4)]
        reports.append(self.joint("--implicit", *checkpoints))
        for late in sorted((self.folder / "kept").glob("step-*.h5"))[1:]:
            late.unlink()
        reports.append(self.joint("--implicit", *checkpoints, "--resume", ranks=3))
        self.assertEqual(len({report["digest"] for report in reports}), 1)
        self.assertEqual(reports[-1]["result"], reports[0]["result"])

    def test_what_needs_a_validation_part(self):
        for form in ("joint", "neumf"):
            self.assert_refused("hybrid", "a.h5", "--form", form, "--patience", 2, "--out", "j.h5",
                                says="--validation FILE")

    def test_what_is_for_the_other_form_or_needs_something_beside_it(self):
        self.run_program("als", "a.h5", "--factors", 4, "--biases", "--out", "biased.h5")
        for form, options, says in (("neumf", ["--rounds", 3], "--rounds is for --form joint"),
                                    ("neumf", ["--row-features", "a.h5"], "--form joint"),
                                    ("neumf", ["--init", "biased.h5"], "--biases"),
                                    ("joint", ["--negatives", 2], "--negatives is for --form neumf"),
                                    ("joint", ["--row-features", "a.h5"], "--prior-weight"),
                                    ("joint", ["--prior-weight", 2], "--row-features")):
            with self.subTest(options):
                self.assert_refused("hybrid", "a.h5", "--form", form, *options, "--out", "j.h5",
                                    says=says, ranks=2)

    def test_neumf_has_as_many_factors_as_it_begins_with(self):
        self.run_program("als", "a.h5", "--factors", 5, "--out", "five.h5")
        for options, factors in (([], 5), (["--factors", 3], 3)):
            self.run_program("hybrid", "a.h5", "--form", "neumf", "--init", "five.h5", "--epochs", 1,
                             "--embedding", 4, "--hidden", 4, *options, "--out", "n.h5", "--force")
            with h5py.File(self.folder / "n.h5") as file:
                self.assertEqual(file["embeddings/row_factors"].shape[1], factors)


class Cost(ProgramTest):
    def test_the_benchmark_tells_a_round_beside_its_parts_and_the_bytes_of_each_phase(self):
        self.run_program("bench", "hybrid", "--rows", 400, "--cols", 300, "--nnz", 4000, "--factors",
                         4, "--repeats", 2, "--json", "b.json", ranks=2)
        found = self.report("b.json")
        parts = found["sweep_seconds"] + found["epoch_seconds"]
        self.assertAlmostEqual(found["seconds"]["median"] / parts - 1, found["over_the_parts"],
                               places=6)
        for phase in ("als exchange needed", "embedding rows", "residual network", "gradient sum",
                      "gather parameters"):
            with self.subTest(phase):
                self.assertGreater(found[f"{phase}: bytes"], 0)
                self.assertEqual(found[f"{phase}: bytes"], found[f"{phase}: bytes predicted"])


class TablesInLess(ProgramTest):
    """`compress` on networks of pairs: their tables become narrower ones below a small layer."""

    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", matrix_of_kinds(300, 200, each=16))
        self.run_program("split", "a.h5", "--leave-one-out", "--prefix", "v")
        self.run_program("hybrid", "v.train.h5", "--form", "neumf", "--factors", 16, "--embedding",
                         16, "--hidden", "16,8", "--epochs", 6, "--learning-rate", 0.005, "--out",
                         "net.h5", "--quiet", ranks=2)

    def compress(self, *options, data="v.train.h5", ranks=2, code=0):
        self.run_program("compress", "net.h5", "--data", data, *options, "--out", "small.h5",
                         "--report", "report.json", "--force", "--quiet", ranks=ranks, code=code)
        return self.report()

    def test_all_methods_and_training_on_have_equal_bits(self):
        reports = [self.compress("--validation", 0.1, "--method", "svd,asvd,als,nmf", "--sweeps",
                                 4, "--epochs", 1, "--size", 0.4, ranks=ranks)
                   for ranks in (1, 2, 3, 4)]
        self.assertEqual(len({report["digest"] for report in reports}), 1)
        before, *rows = reports[0]["result"]["rows"]
        for row in rows:
            self.assertLess(row["parameters"], 0.45 * before["parameters"])
        sizes = [(self.folder / name).stat().st_size for name in ("small.h5", "net.h5")]
        self.assertLess(sizes[0], 0.75 * sizes[1])
        self.run_program("evaluate", "small.h5", "--train", "v.train.h5", "--test", "v.test.h5",
                         "--metrics", "ndcg@10", "--report", "e.json", ranks=3)
        found = self.report("e.json")["result"]
        self.assertGreater(found["neumf"]["ndcg@10"], 1.5 * found["popularity"]["ndcg@10"])

    def test_the_residual_of_a_joint_model(self):
        self.run_program("hybrid", "a.h5", "--factors", 4, "--rounds", 2, "--embedding", 16,
                         "--out", "net.h5", "--force")
        rows = self.compress("--size", 0.5, "--epochs", 0, "--test", "a.h5")["result"]["rows"]
        self.assertIn("rmse", rows[1]["truncated"])
        self.assertLess(rows[1]["parameters"], 0.6 * rows[0]["parameters"])
        self.run_program("evaluate", "small.h5", "--test", "a.h5")

    def test_a_joint_model_is_trained_on_beside_its_factors_and_keeps_its_priors(self):
        self.write_matrix("rated.h5", random_matrix(300, 200, 0.08))
        self.write_matrix("traits.h5", random_matrix(300, 8, 0.3, seed=2))
        for form in ([], ["--implicit", "--unobserved-weight", 0.1, "--zeros", 2]):
            with self.subTest(form):
                self.run_program("hybrid", "rated.h5", "--factors", 4, "--rounds", 2, "--embedding", 16,
                                 "--row-features", "traits.h5", "--prior-weight", 1, *form, "--out",
                                 "net.h5", "--force")
                reports = [self.compress("--test", "rated.h5", "--size", 0.4, "--epochs", 3,
                                         data="rated.h5", ranks=ranks) for ranks in (1, 2, 3, 4)]
                self.assertEqual(len({report["digest"] for report in reports}), 1)
                row = reports[0]["result"]["rows"][1]
                if not form:  # least squares, so that training on helps
                    self.assertLess(row["fine-tuned"]["rmse"], row["truncated"]["rmse"])
                with h5py.File(self.folder / "net.h5") as whole, \
                        h5py.File(self.folder / "small.h5") as small:
                    for tensor in ("row_factors", "col_factors"):
                        np.testing.assert_array_equal(small[f"factors/{tensor}"][:],
                                                      whole[f"factors/{tensor}"][:])
                    for layer, group in whole["row_prior/layers"].items():
                        np.testing.assert_array_equal(
                            small[f"row_prior/layers/{layer}/weight"][:], group["weight"][:])
                self.run_program("fold-in", "small.h5", "--features", "traits.h5", "--out", "f.h5",
                                 "--force", ranks=2)

    def test_data_in_another_order_gives_the_same_network(self):
        rows, cols, values = scipy.sparse.find(read_matrix(self.folder / "a.h5"))
        lines = [f"u{i},f{j},{v}\n" for i, j, v in zip(rows, cols, values)]
        digests = set()
        for name in ("first", "second"):
            self.write(f"{name}.csv", "".join(lines))
            self.run_program("import", f"{name}.csv", "--out", f"{name}.h5")
            lines.reverse()
        self.run_program("hybrid", "first.h5", "--form", "neumf", "--factors", 4, "--epochs", 1,
                         "--embedding", 16, "--hidden", 8, "--out", "net.h5", "--force", "--quiet")
        for name in ("first", "second"):
            digests.add(self.compress("--size", 0.5, "--epochs", 1, "--method", "asvd",
                                      data=f"{name}.h5")["digest"])
        self.assertEqual(len(digests), 1)

    def test_data_of_another_shape_is_refused(self):
        self.write_matrix("b.h5", random_matrix(299, 200))
        for options in (["--data", "b.h5"], ["--data", "v.train.h5", "--test", "b.h5"]):
            self.assert_refused("compress", "net.h5", *options, "--out", "small.h5",
                                says="299 rows", ranks=2)

    def test_data_of_other_things_are_refused(self):
        for name, lines in (("a", "u{0},f{1},1\n"), ("b", "x{0},y{1},1\n")):
            self.write(f"{name}.csv", "".join(lines.format(i, i % 5) for i in range(40)))
            self.run_program("import", f"{name}.csv", "--out", f"{name}.h5", "--force")
        self.run_program("hybrid", "a.h5", "--form", "neumf", "--epochs", 1, "--out", "net.h5",
                         "--force")
        self.assert_refused("compress", "net.h5", "--data", "b.h5", "--out", "small.h5",
                            says="by name, no entry", ranks=2)

    def test_a_budget_of_time_goes_on_with_the_prices_that_were_measured(self):
        self.run_program("hybrid", "a.h5", "--form", "neumf", "--factors", 8, "--embedding", 128,
                         "--hidden", "256,128", "--epochs", 1, "--out", "net.h5", "--quiet",
                         "--force", ranks=2)
        self.compress("--time", 1, "--epochs", 0, "--checkpoint", "kept")
        kept = self.folder / "kept"
        parts = json.loads((kept / "done.json").read_text())
        self.assertEqual([part["name"] for part in parts], ["layer prices"])
        # prices of a machine on which factors as large as the layer would pay
        for price in parts[0]["report"]:
            if price["dense"] > 0:
                price.update(dense=1, base=0, direction=1e-3)
        (kept / "done.json").write_text(json.dumps(parts))
        options = ["--time", 0.7, "--epochs", 2, "--checkpoint", "kept", "--every", "1epochs",
                   "--resume"]
        whole = self.compress(*options)
        layers = {layer["layer"]: layer for layer in whole["result"]["rows"][1]["layers"]}
        self.assertTrue(any(layer["inner"] > 0 for layer in layers.values()))
        for layer in layers.values():
            self.assertLessEqual(layer["weights"], layer["out"] * layer["in"])
        for late in sorted(kept.glob("step-*.h5"))[1:]:
            late.unlink()
        self.assertEqual(self.compress(*options, ranks=3)["digest"], whole["digest"])


if __name__ == "__main__":
    unittest.main()
