"""The jobs behind the tables on factorization in deep learning, in small, and jobs/claims."""

import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse

from program import ROOT, ProgramTest

FASHION = Path("/usr/share/datasets/fashion-mnist")


def claims():
    """jobs/claims as a module."""
    loader = SourceFileLoader("claims", str(ROOT / "jobs" / "claims"))
    module = module_from_spec(spec_from_loader("claims", loader))
    loader.exec_module(module)
    return module


class SmallJob(ProgramTest):
    def setUp(self):
        super().setUp()
        (self.folder / "jobs").symlink_to(ROOT / "jobs")

    def run_job(self, job, *changes, ranks=2):
        sets = [f"--set={change}" for change in ("folder=out", *changes)]
        self.run_program("run", f"jobs/examples/{job}.toml", *sets, "--report", "report.json",
                         "--quiet", ranks=ranks)
        return {stage["name"]: stage for stage in self.report()["stages"]}

    def assert_compressed(self, stage, methods):
        """Every method has its row, and at most the asked share of the weights."""
        before, *rows = stage["result"]["rows"]
        self.assertEqual([before["method"], *(row["method"] for row in rows)],
                         ["before", *methods])
        for row in rows:
            weights = sum(layer["weights"] for layer in row["layers"])
            dense = sum(layer["out"] * layer["in"] for layer in row["layers"])
            self.assertLessEqual(weights, stage["options"]["size"] * dense)
            self.assertEqual(before["parameters"] - row["parameters"], dense - weights)

    def assert_same_on_one_rank(self, stage, *options):
        self.run_program(stage["command"], *options, "--out", "alone.h5", "--report", "alone.json",
                         "--quiet")
        self.assertEqual(self.report("alone.json")["digest"], stage["digest"])


class ThreeWays(SmallJob):
    def test_every_way_is_in_the_table_and_above_popularity(self):
        stages = self.run_job("three-ways", "als.unobserved-weight=0.03", "als.lambda=0.003",
                              "deepmf.epochs=8", "hybrid.rounds=3", "mlp.hidden=64",
                              "mlp.epochs=8", "mlp.dropout=0.1", "compress.epochs=1")
        found = stages["evaluate"]["result"]
        models = ["als", "deepmf", "joint", "mlp", "mlp-2"]
        self.assertEqual([name for name in found if name in models], models)
        for name in models:
            for metric in ("hr@10", "ndcg@10"):
                with self.subTest(model=name, metric=metric):
                    margin = 3 * found[name][f"{metric}_se"]
                    self.assertGreater(found[name][metric], found["popularity"][metric] + margin)
        self.assert_compressed(stages["compress"], ["svd"])
        self.assert_same_on_one_rank(stages["compress"], "out/mlp.h5", "--data",
                                     "out/split.train.h5", "--validation",
                                     "out/split.validation.h5", "--size", 0.25, "--epochs", 1)


@unittest.skipUnless(FASHION.exists(), "Debian's package dataset-fashion-mnist is not installed")
class Compress(SmallJob):
    METHODS = ["svd", "asvd", "als", "nmf"]

    def test_a_quarter_and_a_tenth_by_every_method_beside_the_control(self):
        sets = [f"{stage}.epochs=1" for stage in ("mlp", "quarter", "tenth", "factored", "longer")]
        sets += [f"{stage}.hidden=128" for stage in ("mlp", "factored", "longer")]
        stages = self.run_job("compress", *sets, "factored.factored=20")
        found = stages["evaluate"]["result"]
        names = ["mlp", "quarter", "tenth", "factored", "longer"]
        models = [name for name in found if name.startswith("mlp")]
        self.assertEqual(len(models), len(names))
        for model, name in zip(models, names):
            with self.subTest(name):
                self.assertGreater(found[model]["accuracy"], 0.7)
                right = claims().right_classes(self.folder / f"out/{name}.h5",
                                               self.folder / "out/import-test.h5")
                self.assertAlmostEqual(right.mean(), found[model]["accuracy"], delta=2e-4)
        for name in ("quarter", "tenth"):
            self.assert_compressed(stages[name], self.METHODS)
            rows = {row["method"]: row for row in stages[name]["result"]["rows"]}
            best = max(self.METHODS,
                       key=lambda method: rows[method]["fine-tuned"]["validation_accuracy"])
            self.assertEqual(stages[name]["result"]["method"], best)
        # what came of training on for as long, with the same settings
        for option in ("epochs", "learning-rate", "batch", "optimizer", "schedule", "validation"):
            self.assertEqual(stages["longer"]["options"][option],
                             stages["quarter"]["options"][option], option)
        self.assert_same_on_one_rank(stages["longer"], "out/import.h5", "--init", "out/mlp.h5",
                                     "--validation", 0.1, "--hidden", 128, "--dropout", 0.2,
                                     "--learning-rate", 0.0005, "--epochs", 1)


class Claims(ProgramTest):
    def setUp(self):
        super().setUp()
        self.claims = claims()

    def test_a_report_is_used_again_under_its_key_alone(self):
        report, made = self.folder / "job.json", []

        def make():
            made.append(len(made))
            report.write_text(f'{{"made": {len(made)}}}')

        found = [self.claims.kept(report, key, make)["made"] for key in ("a", "a", "b", "a")]
        self.assertEqual(found, [1, 1, 2, 3])

    def test_a_report_that_was_not_finished_is_made_again(self):
        report = self.folder / "job.json"
        self.claims.kept(report, "a", lambda: report.write_text("1"))

        def fail():
            report.write_text("2")
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.claims.kept(report, "b", fail)
        for key in ("b", "a"):
            self.assertEqual(self.claims.kept(report, key, lambda: report.write_text("3")), 3)

    def test_a_key_depends_on_program_job_changes_and_ranks(self):
        program, job = self.folder / "program", self.folder / "job.toml"

        def key(program_text="p", job_text="j", changes=(), ranks=2):
            program.write_text(program_text)
            job.write_text(job_text)
            return self.claims.key_of(program, job, changes, ranks)

        keys = {key(), key(program_text="q"), key(job_text="k"), key(ranks=1),
                key(changes=["a=1"]), key(changes=["a=1", "b=2"]), key("pj", ""), key("", "pj")}
        self.assertEqual(len(keys), 8)
        self.assertEqual(key(), key())

    def test_the_paired_error_is_that_of_the_discordant_rows(self):
        first = np.array([1] * 70 + [1] * 15 + [0] * 5 + [0] * 10, dtype=bool)
        second = np.array([1] * 70 + [0] * 15 + [1] * 5 + [0] * 10, dtype=bool)
        difference, error = self.claims.paired(first, second)
        self.assertAlmostEqual(difference, 0.1)
        self.assertAlmostEqual(error, ((20 / 100 - 0.1 ** 2) / 99) ** 0.5)
        self.assertEqual(self.claims.paired(first, first), (0, 0))

    def test_a_hidden_column_among_the_best_is_found(self):
        test = scipy.sparse.csr_matrix(np.eye(3, 5))
        best = scipy.sparse.csr_matrix([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 0, 1]])
        for name, matrix in (("test.h5", test), ("best.h5", best)):
            self.write_matrix(name, matrix)
        found = self.claims.found_columns(self.folder / "best.h5", self.folder / "test.h5")
        self.assertEqual(found.tolist(), [True, False, True])

    def test_medians_and_ranges(self):
        self.assertEqual(self.claims.timed([3.0, 1.0, 2.5]), "2.5 (1.0 … 3.0 in 3 runs)")
        self.assertEqual(self.claims.points(-0.0053, 0.002), "−0.53 ± 0.20")


if __name__ == "__main__":
    unittest.main()
