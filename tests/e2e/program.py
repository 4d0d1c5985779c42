"""What the end-to-end tests share: running the program, and small input files."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("RANKFOLD_PROGRAM", str(ROOT / "build/release/src/cli/rankfold"))
MPIRUN = os.environ.get("RANKFOLD_MPIRUN", "mpirun")


def command_line(arguments, ranks):
    """One rank starts without mpirun, as a person at a workstation would start it."""
    launcher = [] if ranks == 1 else [MPIRUN, "-n", str(ranks)]
    return [*launcher, PROGRAM, *map(str, arguments)]


def messages(stderr):
    """The program's own lines among what mpirun adds."""
    return [line for line in stderr.splitlines() if line.startswith("rankfold: ")]


class ProgramTest(unittest.TestCase):
    """A test in a scratch folder of its own, which is the program's working folder."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="rankfold-e2e-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def run_program(self, *arguments, ranks=1, code=0, timeout=120):
        """Runs the program, checks its exit code and returns the finished process."""
        done = subprocess.run(command_line(arguments, ranks), cwd=self.folder, text=True,
                              capture_output=True, timeout=timeout, check=False)
        self.assertEqual(done.returncode, code,
                         f"rankfold {' '.join(map(str, arguments))} on {ranks} ranks\n"
                         f"{done.stdout}\n{done.stderr}")
        return done

    def assert_refused(self, *arguments, says, ranks=1, code=2):
        """The program ends with `code` and one line that has all the words of `says`."""
        done = self.run_program(*arguments, ranks=ranks, code=code)
        lines = messages(done.stderr)
        self.assertEqual(len(lines), 1, done.stderr)
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, lines[0])
        return lines[0]

    def report(self, name="report.json"):
        return json.loads((self.folder / name).read_text())

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return name

    def write_matrix(self, name, csr):
        """A sparse matrix file as h5py and scipy write it; names are absent."""
        with h5py.File(self.folder / name, "w") as file:
            file.attrs["encoding-type"] = "anndata"
            file.attrs["encoding-version"] = "0.1.0"
            group = file.create_group("X")
            group.attrs["encoding-type"] = "csr_matrix"
            group.attrs["encoding-version"] = "0.1.0"
            group.attrs["shape"] = np.array(csr.shape, dtype=np.int64)
            group["data"] = csr.data.astype(np.float32)
            group["indices"] = csr.indices.astype(np.int32)
            group["indptr"] = csr.indptr.astype(np.int64)
        return name

    def write_dense(self, name, array):
        """A dense matrix file; names are absent."""
        with h5py.File(self.folder / name, "w") as file:
            file.attrs["encoding-type"] = "anndata"
            file.attrs["encoding-version"] = "0.1.0"
            file["X"] = np.asarray(array, dtype=np.float32)
            file["X"].attrs["encoding-type"] = "array"
            file["X"].attrs["encoding-version"] = "0.2.0"
        return name


def read_matrix(path):
    """The sparse matrix of a file, read with h5py and scipy alone."""
    with h5py.File(path) as file:
        group = file["X"]
        return scipy.sparse.csr_matrix(
            (group["data"][:], group["indices"][:], group["indptr"][:]),
            shape=tuple(group.attrs["shape"]))


def random_matrix(rows, cols, density=0.2, seed=7):
    """A sparse matrix of ratings 1 … 5."""
    generator = np.random.default_rng(seed)
    csr = scipy.sparse.random(rows, cols, density, format="csr", random_state=generator)
    csr.data = generator.integers(1, 6, csr.nnz).astype(np.float32)
    csr.sort_indices()
    return csr


def matrix_of_kinds(rows, cols, kinds=3, each=8, seed=3):
    """Every row has entries in columns of its own kind alone, which a model finds and popularity
    does not."""
    generator = np.random.default_rng(seed)
    dense = np.zeros((rows, cols), dtype=np.float32)
    for i in range(rows):
        dense[i, generator.permutation(range(i % kinds, cols, kinds))[:each]] = 1
    return scipy.sparse.csr_matrix(dense)


def data_folder():
    """The folder of real data; the test is absent without it, and says so."""
    folder = os.environ.get("RANKFOLD_DATA")
    if not folder:
        print("RANKFOLD_DATA is not set: this test needs real data and did not run")
        sys.exit(77)
    return Path(folder)
