"""Factors in use: validation, warm starts, new rows, grids, lists, splits, reports."""

import csv
import json
import unittest

import h5py
import numpy as np
import scipy.sparse

from program import ProgramTest, random_matrix, read_matrix


def low_rank_ratings(rows, cols, k=3, density=0.3, seed=3):
    """Ratings that three factors explain but for some noise."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(rows, k)), generator.normal(size=(cols, k))
    mask = scipy.sparse.random(rows, cols, density, format="coo", random_state=generator)
    noise = generator.normal(scale=0.3, size=mask.nnz)
    values = 3.0 + np.sum(x[mask.row] * y[mask.col], axis=1) + noise
    csr = scipy.sparse.csr_matrix((values.astype(np.float32), (mask.row, mask.col)), mask.shape)
    csr.sort_indices()
    return csr


def factors_of(path):
    with h5py.File(path) as file:
        return file["row_factors"][:], file["col_factors"][:], dict(file.attrs)


class AlsForms(ProgramTest):
    """Solvers, exchanges, presets, confidences and bounds through the command."""

    def als(self, *options, ranks=2, **named):
        self.run_program("als", "a.h5", "--factors", 8, "--sweeps", 4, *options, "--out", "f.h5",
                         "--force", "--report", "report.json", ranks=ranks, **named)
        return self.report()

    def test_presets_stand_for_options_and_give_way_to_them(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        def options(*more):
            done = self.run_program("als", "a.h5", "--out", "f.h5", "--print-options", *more)
            return json.loads(done.stdout)
        spark = options("--preset", "spark")
        self.assertTrue(spark["implicit"])
        self.assertEqual(spark["alpha"], 1)
        self.assertEqual(options("--preset", "spark", "--alpha", 3)["alpha"], 3)
        self.assertEqual(options("--preset", "ials")["unobserved-weight"], 0.1)
        self.assertEqual(options("--preset", "implicit")["base-confidence"], 0)

    def test_solvers_give_the_same_digest_on_any_ranks_by_any_exchange(self):
        self.write_matrix("a.h5", low_rank_ratings(300, 60))
        for solver in ("cholesky", "cg", "subspace"):
            forms = ["--solver", solver, "--block", 4]
            alone = self.als(*forms, ranks=1)
            for ranks, exchange in ((2, "needed"), (3, "reduced"), (4, "all")):
                again = self.als(*forms, "--exchange", exchange, ranks=ranks)
                self.assertEqual(again["digest"], alone["digest"])
            objective = [step["objective"] for step in alone["result"]["history"]]
            self.assertEqual(objective, sorted(objective, reverse=True))
            last = self.als(*forms, "--exact-last", "--require", "1e-3", ranks=2)
            self.assertLess(last["result"]["certificate"]["gradient"], 1e-3)

    def test_a_certificate_that_is_not_met_is_exit_code_1(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        self.assert_refused("als", "a.h5", "--solver", "cg", "--cg-steps", 1, "--require", "1e-9",
                            "--out", "f.h5", says="1e-09", ranks=2, code=1)

    def test_a_bound_on_memory_changes_no_digest(self):
        self.write_matrix("a.h5", low_rank_ratings(900, 400, density=0.02))
        free = self.als(ranks=4)
        bound = self.als("--memory-per-rank", "100kB", ranks=4)
        self.assertEqual(bound["digest"], free["digest"])
        def sent(report):
            return sum(phase["bytes_sent"] for phase in report["phases"]
                       if phase["name"].startswith("als exchange"))
        self.assertGreater(sent(bound), sent(free))
        self.assert_refused("als", "a.h5", "--memory-per-rank", "10kB", "--out", "g.h5",
                            says="--memory-per-rank", ranks=2)
        self.assert_refused("als", "a.h5", "--memory-per-rank", "much", "--out", "g.h5",
                            says="4GB", ranks=2)

    def test_confidences_weigh_entries(self):
        ratings = low_rank_ratings(120, 60)
        self.write_matrix("a.h5", ratings)
        double = ratings.copy()
        double.data[:] = 2.0
        self.write_matrix("c.h5", double)
        self.als("--lambda", 0.1)
        x, y, _ = factors_of(self.folder / "f.h5")
        self.als("--lambda", 0.2, "--confidences", "c.h5")
        x2, y2, _ = factors_of(self.folder / "f.h5")
        np.testing.assert_allclose(x2 @ y2.T, x @ y.T, rtol=2e-3, atol=2e-3)
        double.data[7] = -1.0
        self.write_matrix("negative.h5", double)
        self.write_matrix("other.h5", random_matrix(120, 60))
        for file, says in (("negative.h5", "negative"), ("other.h5", "every entry")):
            self.assert_refused("als", "a.h5", "--confidences", file, "--out", "g.h5", says=says,
                                ranks=2)


class Validation(ProgramTest):
    def als(self, *options, ranks=2, **named):
        self.run_program("als", "a.h5", "--factors", 8, *options, "--out", "f.h5", "--force",
                         "--report", "report.json", ranks=ranks, **named)
        return self.report()

    def test_the_best_factors_are_kept_and_the_loop_stops(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        overfit = ["--lambda", 0.0005, "--sweeps", 40, "--validation", 0.2]
        report = self.als(*overfit, "--patience", 2)
        history = [step["validation_rmse"] for step in report["result"]["history"]]
        found = report["result"]["validation"]
        self.assertLess(len(history), 40)
        self.assertEqual(found["best_sweep"], int(np.argmin(history)) + 1)
        self.assertEqual(found["value"], min(history))
        # the same factors as a run of so many sweeps on the same part, on any number of ranks
        short = self.als("--lambda", 0.0005, "--sweeps", found["best_sweep"], "--validation", 0.2,
                         ranks=3)
        self.assertEqual(short["digest"], report["digest"])

    def test_a_run_that_goes_on_keeps_the_best_factors_too(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        options = ["--lambda", 0.0005, "--validation", 0.2, "--patience", 3]
        whole = self.als(*options, "--sweeps", 12)
        self.als(*options, "--sweeps", 12, "--checkpoint", "kept", "--every", "1sweeps", ranks=1)
        steps = sorted((self.folder / "kept").glob("step-*.h5"))
        steps[-1].unlink()  # as if the run had been killed one sweep earlier
        again = self.als(*options, "--sweeps", 12, "--checkpoint", "kept", "--resume", ranks=3)
        self.assertEqual(again["digest"], whole["digest"])
        self.assertEqual(again["result"]["validation"], whole["result"]["validation"])

    def test_a_tolerance_stops_without_a_validation_part(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        report = self.als("--sweeps", 50, "--tolerance", 0.001)
        self.assertLess(len(report["result"]["history"]), 50)

    def test_bad_shares_are_refused(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.assert_refused("als", "a.h5", "--validation", 1.5, "--out", "f.h5", says="share")
        self.assert_refused("als", "a.h5", "--validation-metric", "rmse", "--out", "f.h5",
                            says="needs --validation")

    def test_rows_and_columns_without_entries_are_counted(self):
        ratings = low_rank_ratings(60, 30).tolil()
        ratings[4, :] = 0
        ratings[:, [2, 9]] = 0
        self.write_matrix("a.h5", ratings.tocsr())
        result = self.als()["result"]
        self.assertEqual((result["rows_without_entries"], result["cols_without_entries"]), (1, 2))

    def test_a_singular_row_is_called_by_its_own_name(self):
        lines = "".join(f"user{u},{i},{(u * i) % 5 + 1}\n" for u in range(20) for i in range(12)
                        if u != 7 or i < 3)
        self.write("a.csv", lines)
        self.run_program("import", "a.csv", "--out", "a.h5")
        self.assert_refused("als", "a.h5", "--factors", 6, "--lambda", 0, "--out", "f.h5",
                            says=['"user7"', "raise --lambda"], code=1, ranks=2)


class WarmStart(ProgramTest):
    def objective(self, *options, out="g.h5", ranks=2):
        self.run_program("als", "a.h5", *options, "--out", out, "--force", "--report",
                         "report.json", ranks=ranks)
        return self.report()["result"]["objective"][-1]["value"]

    def test_a_warm_start_goes_on_where_the_factors_are(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        long = self.objective("--factors", 4, "--sweeps", 10, out="f.h5")
        cold = self.objective("--factors", 4, "--sweeps", 1)
        warm = self.objective("--factors", 4, "--sweeps", 1, "--init", "f.h5")
        self.assertLess(warm, long)
        self.assertGreater(cold, long)

    def test_a_warm_start_may_have_another_k(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 60))
        self.objective("--factors", 6, "--sweeps", 10, out="f.h5")
        for k in (3, 9):
            with self.subTest(k=k):
                cold = self.objective("--factors", k, "--sweeps", 1)
                warm = self.objective("--factors", k, "--sweeps", 1, "--init", "f.h5")
                self.assertLess(warm, cold)
                digest = self.report()["digest"]
                self.objective("--factors", k, "--sweeps", 1, "--init", "f.h5", ranks=3)
                self.assertEqual(self.report()["digest"], digest)

    def test_new_rows_and_columns_are_matched_by_name(self):
        ratings = low_rank_ratings(60, 30)
        rows, cols = ratings.nonzero()
        lines = [f"r{r},c{c},{v:.3f}\n" for r, c, v in zip(rows, cols, ratings.data)]
        some = [line for line in lines if not line.startswith("r1") and ",c2," not in line]
        self.write("some.csv", "".join(some))
        self.write("all.csv", "".join(lines))
        for name in ("some", "all"):
            self.run_program("import", f"{name}.csv", "--out", f"{name}.h5")
        self.run_program("als", "some.h5", "--factors", 3, "--out", "f.h5")
        found = {}
        for name, start in (("cold", []), ("warm", ["--init", "f.h5"])):
            self.run_program("als", "all.h5", "--factors", 3, "--sweeps", 1, *start, "--out",
                             f"{name}.h5", "--report", "report.json", "--force", ranks=2)
            found[name] = self.report()["result"]["objective"][-1]["value"]
        self.assertLess(found["warm"], found["cold"])


class FoldIn(ProgramTest):
    def fold(self, *options):
        self.write_matrix("a.h5", low_rank_ratings(80, 40))
        new = low_rank_ratings(15, 40, seed=9)
        new.data = np.abs(new.data)
        self.write_matrix("new.h5", new)
        values = read_matrix(self.folder / "a.h5")
        values.data = np.abs(values.data)
        self.write_matrix("a.h5", values)
        self.run_program("als", "a.h5", "--factors", 5, *options, "--out", "f.h5", ranks=2)
        digests = set()
        for ranks in (1, 3):
            self.run_program("fold-in", "f.h5", "new.h5", "--out", "folded.h5", "--force",
                             "--report", "report.json", ranks=ranks)
            digests.add(self.report()["digest"])
        self.assertEqual(len(digests), 1)
        return new.astype(np.float64)

    def test_values_are_fitted_exactly(self):
        new = self.fold("--lambda", 0.2)
        x, y, about = factors_of(self.folder / "folded.h5")
        np.testing.assert_array_equal(y, factors_of(self.folder / "f.h5")[1])
        for i in range(15):
            row = new[i]
            some = y[row.indices].astype(np.float64)
            normal = some.T @ some + 0.2 * row.nnz * np.eye(5)
            expected = np.linalg.solve(normal, some.T @ (row.data - about["global_mean"]))
            np.testing.assert_allclose(x[i], expected, rtol=2e-3, atol=2e-4)

    def test_events_are_fitted_exactly(self):
        new = self.fold("--implicit", "--unobserved-weight", 0.2, "--lambda", 0.05)
        x, y, _ = factors_of(self.folder / "folded.h5")
        y = y.astype(np.float64)
        for i in range(15):
            some = y[new[i].indices]
            ridge = 0.05 * (new[i].nnz + 0.2 * 40)
            normal = some.T @ some + 0.2 * y.T @ y + ridge * np.eye(5)
            np.testing.assert_allclose(x[i], np.linalg.solve(normal, some.sum(axis=0)), rtol=2e-3,
                                       atol=2e-4)

    def test_folded_rows_predict_what_is_hidden_of_them(self):
        self.write_matrix("a.h5", low_rank_ratings(300, 60))
        self.run_program("split", "a.h5", "--holdout-rows", 0.2, "--prefix", "s")
        self.run_program("als", "s.train.h5", "--factors", 3, "--out", "f.h5")
        self.run_program("fold-in", "f.h5", "s.test-in.h5", "--out", "folded.h5")
        self.run_program("evaluate", "folded.h5", "--train", "s.test-in.h5", "--test", "s.test.h5",
                         "--metrics", "rmse", "--report", "report.json")
        result = self.report()["result"]
        self.assertLess(result["als"]["rmse"], 0.6 * result["global_mean"]["rmse"])

    def test_new_columns_are_left_out_and_counted(self):
        self.write("a.csv", "".join(f"u{u},i{i},{(u + i) % 5 + 1}\n" for u in range(20)
                                    for i in range(10) if (u + 2 * i) % 3))
        self.write("new.csv", "v1,i9,4\nv1,i2,2\nv1,other,5\nv0,i1,1\n")
        for name in ("a", "new"):
            self.run_program("import", f"{name}.csv", "--out", f"{name}.h5")
        self.run_program("als", "a.h5", "--factors", 3, "--out", "f.h5")
        self.run_program("fold-in", "f.h5", "new.h5", "--out", "folded.h5", "--report",
                         "report.json")
        self.assertEqual(self.report()["result"]["entries_left_out"], 1)
        with h5py.File(self.folder / "folded.h5") as file:
            self.assertEqual([name.decode() for name in file["obs/_index"][:]], ["v0", "v1"])
            self.assertEqual(len(file["var/_index"]), 10)


class Tune(ProgramTest):
    def test_the_best_of_a_grid_is_written_with_its_settings(self):
        self.write_matrix("a.h5", low_rank_ratings(150, 60))
        self.write("tune.toml", 'matrix = "a.h5"\nvalidation = "0.2"\nfactors = [3, 6]\n'
                                'lambda = [0.3, 0.03]\nsweeps = 8\nout = "best.h5"\n')
        digests = []
        for ranks in (1, 3):
            self.run_program("tune", "tune.toml", "--force", "--report", "report.json",
                             ranks=ranks)
            digests.append(self.report()["digest"])
        self.assertEqual(digests[0], digests[1])
        result = self.report()["result"]
        self.assertEqual(len(result["table"]), 4)
        best = min(result["table"], key=lambda row: row["rmse"])
        self.assertEqual(result["best"], best)
        x, _, about = factors_of(self.folder / "best.h5")
        self.assertEqual(x.shape[1], best["factors"])
        self.assertEqual(json.loads(about["options"])["lambda"], best["lambda"])
        self.run_program("fold-in", "best.h5", "a.h5", "--out", "folded.h5")

    def test_without_warm_starts_a_point_is_what_als_gives(self):
        self.write_matrix("a.h5", low_rank_ratings(150, 60))
        options = ["--validation", 0.2, "--sweeps", 4, "--patience", 0]
        self.run_program("tune", "a.h5", "--factors", "3,5", "--lambda", "0.1", *options,
                         "--no-warm-starts", "--out", "best.h5", "--report", "report.json")
        best = self.report()["result"]["best"]
        digest = self.report()["digest"]
        self.run_program("als", "a.h5", "--factors", int(best["factors"]), "--lambda", 0.1,
                         *options, "--out", "f.h5", "--report", "report.json", "--force")
        self.assertEqual(self.report()["digest"], digest)

    def test_what_cannot_be_tuned_is_refused(self):
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.assert_refused("tune", "a.h5", "--out", "b.h5", says="--validation")
        self.write("tune.toml", 'matrix = "a.h5"\nlamda = [1]\n')
        self.assert_refused("tune", "tune.toml", "--out", "b.h5", says="did you mean lambda?")


class Lists(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write_matrix("a.h5", random_matrix(90, 200))
        self.run_program("als", "a.h5", "--implicit", "--factors", 6, "--out", "f.h5")

    def best(self, scores, seen, top):
        scores = np.where(seen, -np.inf, scores)
        return np.argsort(-scores, axis=1, kind="stable")[:, :top]

    def test_recommendations_are_the_best_unseen_columns_in_every_format(self):
        x, y, _ = factors_of(self.folder / "f.h5")
        seen = read_matrix(self.folder / "a.h5").toarray() != 0
        expected = self.best(x @ y.T, seen, 7)
        digests = set()
        for ranks, name in ((1, "best.csv"), (3, "best2.csv"), (2, "best.h5")):
            self.run_program("recommend", "f.h5", "--train", "a.h5", "--top", 7, "--out", name,
                             "--report", "report.json", "--force", ranks=ranks)
            digests.add(self.report()["digest"])
        self.assertEqual(len(digests), 1)
        with open(self.folder / "best.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = np.array([int(row["column"]) for row in rows]).reshape(90, 7)
        np.testing.assert_array_equal(found, expected)
        listed = read_matrix(self.folder / "best.h5")
        for i in range(90):
            np.testing.assert_array_equal(listed[i].indices, np.sort(expected[i]))

    def test_similar_columns_are_those_of_the_greatest_cosine(self):
        _, y, _ = factors_of(self.folder / "f.h5")
        unit = y / np.linalg.norm(y, axis=1, keepdims=True)
        expected = self.best(unit @ unit.T, np.eye(200, dtype=bool), 4)
        self.run_program("recommend", "f.h5", "--similar-to", "all", "--top", 4, "--out",
                         "near.csv", ranks=2)
        with open(self.folder / "near.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = np.array([int(row["column"]) for row in rows]).reshape(200, 4)
        np.testing.assert_array_equal(found, expected)
        done = self.run_program("recommend", "f.h5", "--similar-to", "3", "--top", 2)
        self.assertIn(str(expected[3][0]), done.stdout)
        self.run_program("recommend", "f.h5", "--similar-to", "3", "--among", "rows")
        self.assert_refused("recommend", "f.h5", "--similar-to", "200", says="no column")


class Splits(ProgramTest):
    def test_the_last_entry_by_time_is_left_out(self):
        lines = [(u, i, (7 * u + 3 * i) % 20) for u in range(12) for i in range(9)
                 if (u + i) % 4]
        self.write("a.csv", "".join(f"{u},{i},1,{t}\n" for u, i, t in lines))
        self.run_program("import", "a.csv", "--out", "a.h5")
        self.run_program("split", "a.h5", "--leave-last-out", "--validation", 0.1, "--prefix", "s",
                         ranks=3)
        test = read_matrix(self.folder / "s.test.h5")
        for u in range(12):
            last = max((t, i) for v, i, t in lines if v == u)[1]
            self.assertEqual(list(test[u].indices), [last])
        self.write_matrix("b.h5", random_matrix(20, 10))
        self.assert_refused("split", "b.h5", "--leave-last-out", "--prefix", "t", says="X/time")

    def test_folds_of_the_source_are_kept(self):
        lines = [(u, i, (u + i) % 3 + 1) for u in range(10) for i in range(8)]
        self.write("a.csv", "".join(f"{u},{i},{u + i + 1}\n" for u, i, _ in lines))
        self.write("folds.txt", "".join(f"{f}\n" for _, _, f in lines))
        self.run_program("import", "a.csv", "--fold-file", "folds.txt", "--out", "a.h5", ranks=2)
        self.run_program("split", "a.h5", "--folds", 3, "--prefix", "s", ranks=3)
        for fold in (1, 2, 3):
            test = read_matrix(self.folder / f"s.fold{fold}.test.h5").tocoo()
            expected = {(u, i) for u, i, f in lines if f == fold}
            self.assertEqual(set(zip(test.row, test.col)), expected)
        self.assert_refused("split", "a.h5", "--folds", 4, "--prefix", "t", says="folds 1 to 3")

    def test_a_job_runs_over_folds_and_tells_the_mean(self):
        self.write_matrix("a.h5", low_rank_ratings(120, 50))
        self.write("job.toml", """
folder = "out"
[[stage]]
command = "split"
matrix = "a.h5"
folds = 3
[[stage]]
command = "als"
matrix = "@split.fold{each}.train"
each = [1, 2, 3]
factors = 3
[[stage]]
command = "evaluate"
model = "@als"
train = "@split.fold{each}.train"
test = "@split.fold{each}.test"
metrics = ["rmse"]
""")
        self.run_program("run", "job.toml", "--report", "report.json", ranks=2)
        report = self.report()
        found = [stage["result"]["als"]["rmse"] for stage in report["stages"]
                 if stage["stage"] == "evaluate"]
        self.assertEqual(len(found), 3)
        self.assertAlmostEqual(report["seeds"]["evaluate"]["als.rmse"]["mean"],
                               float(np.mean(found)))


class Reports(ProgramTest):
    def test_runs_stand_side_by_side(self):
        self.write_matrix("a.h5", random_matrix(60, 30))
        for ranks, k, name in ((1, 4, "one"), (2, 4, "two"), (2, 5, "other")):
            self.run_program("als", "a.h5", "--factors", k, "--out", f"{name}.h5", "--report",
                             f"{name}.json", ranks=ranks)
        done = self.run_program("report", "one.json", "two.json")
        self.assertIn("digests identical", done.stdout)
        self.assertIn("als solve", done.stdout)
        done = self.run_program("report", "one.json", "other.json", "--report", "both.json")
        self.assertIn("digests different", done.stdout)
        self.assertIn("factors", done.stdout)
        self.assertEqual(self.report("both.json")["result"]["als"]["digests"], "different")
        self.write("not.json", "[]")
        self.assert_refused("report", "not.json", says="not a run report")


if __name__ == "__main__":
    unittest.main()
