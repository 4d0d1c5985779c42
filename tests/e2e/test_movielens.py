"""Explicit ALS on the five official splits of MovieLens-100K."""

import statistics
import unittest

from program import ProgramTest, data_folder

DATA = data_folder() / "movielens-100k"


class MovieLens(ProgramTest):
    def rmse(self, split):
        self.run_program("import", DATA / f"u{split}.base.gz", "--format", "movielens",
                         "--out", "train.h5", "--force")
        self.run_program("import", DATA / f"u{split}.test.gz", "--format", "movielens",
                         "--ids", "train.h5", "--extend-ids", "--out", "test.h5", "--force")
        self.run_program("als", "train.h5", "--factors", 64, "--lambda", 1.8, "--lambda-exponent",
                         0.4, "--biases", "--out", "f.h5", "--force", ranks=2)
        self.run_program("evaluate", "f.h5", "--train", "train.h5", "--test", "test.h5",
                         "--metrics", "rmse", "--report", "report.json", "--force", ranks=2)
        return self.report()["result"]["als"]["rmse"]

    def test_mean_test_rmse_of_the_official_splits(self):
        found = [self.rmse(split) for split in range(1, 6)]
        print("test RMSE of u1 … u5:", found)
        self.assertLessEqual(statistics.mean(found), 0.915)


if __name__ == "__main__":
    unittest.main()
