"""What the examples promise: the quality of their results, on the whole of their data."""

import unittest

from program import ROOT, ProgramTest

FASHION = "/usr/share/datasets/fashion-mnist/"


class Quickstart(ProgramTest):
    def test_als_and_the_network_find_hidden_dependencies(self):
        (self.folder / "jobs").symlink_to(ROOT / "jobs")
        done = self.run_program("run", "jobs/examples/quickstart.toml", "--report", "report.json",
                                ranks=2, timeout=240)
        print(done.stdout)
        found = next(stage["result"] for stage in self.report()["stages"]
                     if stage["name"] == "evaluate")
        self.assertGreaterEqual(found["als"]["hr@10"], 0.66)
        self.assertGreaterEqual(found["als"]["ndcg@10"], 0.47)
        self.assertAlmostEqual(found["popularity"]["hr@10"], 0.275, delta=0.02)
        self.assertGreaterEqual(found["mlp"]["hr@10"], found["popularity"]["hr@10"] + 0.1)


class FashionMnist(ProgramTest):
    def setUp(self):
        super().setUp()
        for name, part in (("train", "train"), ("test", "t10k")):
            self.run_program("import", f"{FASHION}{part}-images-idx3-ubyte.gz", "--labels",
                             f"{FASHION}{part}-labels-idx1-ubyte.gz", "--out", f"{name}.h5",
                             ranks=2)

    def accuracy(self, *options):
        self.run_program("mlp", "train.h5", *options, "--out", "network.h5", ranks=2, timeout=400)
        self.run_program("evaluate", "network.h5", "--test", "test.h5", "--report", "report.json",
                         ranks=2)
        return self.report()["result"]["mlp"]["accuracy"]

    def test_the_bare_command_classifies_images(self):
        self.assertGreaterEqual(self.accuracy(), 0.88)


if __name__ == "__main__":
    unittest.main()
