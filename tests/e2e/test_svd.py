"""Singular values against NumPy's, certificates as exit codes, PCA and texts to a classifier."""

import json
import unittest

import h5py
import numpy as np

from program import ProgramTest, random_matrix


class Svd(ProgramTest):
    def setUp(self):
        super().setUp()
        self.a = random_matrix(150, 90)
        self.write_matrix("a.h5", self.a)

    def svd(self, *options, ranks=1, code=0):
        self.run_program("svd", "a.h5", *options, "--out", "svd.h5", "--force", "--report",
                         "report.json", ranks=ranks, code=code)
        return self.report()

    def has_scalapack(self):
        """Whether this build has it; what is left out says so."""
        if json.loads(self.run_program("--build-info").stdout)["scalapack"]:
            return True
        self.assert_refused("svd", "a.h5", "--full", "--out", "b.h5", says="without ScaLAPACK")
        return False

    def test_values_and_vectors_are_numpys(self):
        a = self.a.toarray().astype(float)
        expected = np.linalg.svd(a, compute_uv=False)
        ways = [(["--factors", 6, "--tolerance", "1e-9"], 6)]
        if self.has_scalapack():
            ways += [(["--full"], 90), (["--full", "--driver", "pdgesvd"], 90)]
        for options, k in ways:
            for ranks in (1, 2):
                report = self.svd(*options, "--precision", "double", ranks=ranks)
                np.testing.assert_allclose(report["result"]["singular_values"], expected[:k],
                                           rtol=0, atol=1e-9 * expected[0])
                self.assertLess(report["result"]["right_residual"], 1e-9)
                with h5py.File(self.folder / "svd.h5") as file:
                    u, s, v = (file[name][:] for name in ("row_factors", "singular_values",
                                                          "col_factors"))
                np.testing.assert_allclose(u.T @ a @ v, np.diag(s), atol=1e-8 * s[0])

    def test_the_truncated_result_does_not_depend_on_the_ranks(self):
        digests = {self.svd("--factors", 5, "--center", "columns", ranks=ranks)["digest"]
                   for ranks in (1, 2, 3)}
        self.assertEqual(len(digests), 1)

    def test_a_certificate_is_an_exit_code(self):
        self.svd("--factors", 5, "--require", "1e-3")
        self.svd("--factors", 5, "--require", "1e-12", code=1)
        self.assert_refused("svd", "a.h5", "--factors", 5, "--tolerance", "1e-8", "--out", "b.h5",
                            says="--precision double")
        self.assert_refused("svd", "a.h5", "--factors", 91, "--out", "b.h5", says="at most 90")
        if self.has_scalapack():
            self.assert_refused("svd", "a.h5", "--full", "--grid", "2x2", "--out", "b.h5",
                                says="places")

    def test_texts_become_factors_and_classes(self):
        words = {"fruit": "apple pear plum cherry", "metal": "iron copper zinc gold"}
        generator = np.random.default_rng(3)
        for name, count in (("train", 120), ("test", 40)):
            lines = []
            for i in range(count):
                label = ("fruit", "metal")[i % 2]
                lines.append(f"{label}\t{' '.join(generator.choice(words[label].split(), 3))}\n")
            self.write(f"{name}.txt", "".join(lines))
        text = ["--format", "text", "--label-column", "first", "--value", "tfidf"]
        self.run_program("import", "train.txt", *text, "--out", "train.h5")
        self.run_program("import", "test.txt", *text, "--ids", "train.h5", "--out", "test.h5")
        self.run_program("svd", "train.h5", "--factors", 3, "--out", "lsa.h5", ranks=2)
        self.run_program("fold-in", "lsa.h5", "test.h5", "--out", "folded.h5", ranks=2)
        self.run_program("mlp", "train.h5", "--head", "classes", "--input", "factors",
                         "--factors-file", "lsa.h5", "--hidden", 8, "--epochs", 30, "--batch", 16,
                         "--micro-batches", 4, "--learning-rate", "0.02", "--out", "net.h5")
        self.run_program("evaluate", "net.h5", "--test", "test.h5", "--factors-file", "folded.h5",
                         "--report", "report.json")
        self.assertGreater(self.report()["result"]["mlp"]["accuracy"], 0.95)


if __name__ == "__main__":
    unittest.main()
