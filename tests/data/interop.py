"""The other side of test_interop.cpp: h5py, scipy and, where installed, anndata.

    interop.py check FOLDER    reads what rankfold wrote
    interop.py write FOLDER    writes what rankfold is to read
"""
import os
import sys

import h5py
import numpy as np
import scipy.sparse as sp

try:
    import anndata
except ImportError:
    anndata = None


def expected():
    """small_matrices.hpp: 23 x 9."""
    a = np.zeros((23, 9))
    for i in range(23):
        for j in range(9):
            if i != 2 and (i + 2 * j) % 3 == 0:
                a[i, j] = ((7 * i + 3 * j) % 11) * 0.25 - 1.0
    return a


def text(x):
    return x.decode() if isinstance(x, bytes) else x


def check(folder):
    with h5py.File(os.path.join(folder, "sparse.h5"), "r") as f:
        x = f["X"]
        assert x.attrs["encoding-type"] == "csr_matrix", x.attrs["encoding-type"]
        assert x["indices"].dtype.kind == "i" and x["indptr"].dtype.kind == "i"
        a = sp.csr_matrix((x["data"][:], x["indices"][:], x["indptr"][:]), shape=x.attrs["shape"])
        a.check_format(full_check=True)
        assert a.has_sorted_indices
        assert np.array_equal(a.toarray(), expected())
        assert f.attrs["rankfold"] == "matrix" and f.attrs["format"] == 1
        assert [text(t) for t in f["obs/_index"][:2]] == ["zürich", "name 1"]
        assert list(f["var/id"][:]) == list(range(100, 109))
        assert [text(t) for t in f["var/_index"][:]] == [str(i) for i in range(100, 109)]
        assert list(f["obs/label"][:]) == [i % 2 for i in range(23)]
        assert [text(t) for t in f["uns/label_names"][:]] == ["class 0", "class 1"]
        assert list(f["var"].attrs["column-order"]) == ["id"]
    with h5py.File(os.path.join(folder, "dense.h5"), "r") as f:
        assert f["X"].dtype == np.uint8 and f["X"].shape == (20, 30)
        i, j = np.indices((20, 30))
        assert np.array_equal(f["X"][:], (13 * i + j) % 256)
    with h5py.File(os.path.join(folder, "factors.h5"), "r") as f:
        assert f["row_factors"].shape == (5, 2) and f["row_factors"].dtype == np.float32
        assert f.attrs["method"] == "als-explicit" and f.attrs["global_mean"] == 3.5
        assert list(f["history"].attrs["columns"]) == ["step", "objective"]
    if anndata is not None:
        a = anndata.read_h5ad(os.path.join(folder, "sparse.h5"))
        assert np.array_equal(a.X.toarray(), expected())
        assert list(a.obs_names[:2]) == ["zürich", "name 1"]


def write(folder):
    a = sp.csr_matrix(expected())
    for name, index, kind in (("i4", np.int32, "f4"), ("i8", np.int64, "f8"), ("u4", np.uint32, "i4")):
        with h5py.File(os.path.join(folder, f"py_{name}.h5"), "w") as f:
            x = f.create_group("X")
            x.attrs["encoding-type"] = "csr_matrix"
            x.attrs["encoding-version"] = "0.1.0"
            x.attrs["shape"] = a.shape
            data = a.data * 4 if kind == "i4" else a.data
            x.create_dataset("data", data=data.astype(kind), chunks=(7,), compression="gzip")
            x.create_dataset("indices", data=a.indices.astype(index), chunks=True, shuffle=True)
            x.create_dataset("indptr", data=a.indptr.astype(index))
    c = a.tocsc()
    with h5py.File(os.path.join(folder, "py_csc.h5"), "w") as f:
        x = f.create_group("X")
        x.attrs["encoding-type"] = np.bytes_("csc_matrix")
        x.attrs["encoding-version"] = "0.1.0"
        x.attrs["shape"] = np.array(a.shape, dtype="u8")
        for part in ("data", "indices", "indptr"):
            x.create_dataset(part, data=getattr(c, part))
        obs = f.create_group("obs")
        obs.attrs["_index"] = "cell"
        obs.create_dataset("cell", data=[b"row %d" % i for i in range(23)])
        var = f.create_group("var")
        var.attrs["_index"] = "gene"
        var.create_dataset("gene", data=[f"säule {j}" for j in range(9)])
    with h5py.File(os.path.join(folder, "py_dense.h5"), "w") as f:
        f.create_dataset("X", data=expected(), chunks=(5, 4), compression="gzip")
    if anndata is not None:
        anndata.AnnData(a).write_h5ad(os.path.join(folder, "py_anndata.h5"))


{"check": check, "write": write}[sys.argv[1]](sys.argv[2])
