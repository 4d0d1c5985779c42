"""What a scaling study runs: for each method a matrix and a command, of any size."""

# method: (arguments of `rankfold generate` for size 1, rows and entries that grow with the size,
#          the command, and its variants, each with options of its own)
RATINGS = {"rows": 60000, "cols": 8000, "nnz": 4000000}
SMALL = {"rows": 20000, "cols": 2000, "nnz": 600000}

METHODS = {
    "als": (RATINGS, ["als", "--factors", "64", "--sweeps", "4"], {"als": []}),
    "svd": (RATINGS, ["svd", "--factors", "32", "--tolerance", "1e-4"], {"svd": []}),
    "nmf": (RATINGS, ["nmf", "--factors", "32", "--sweeps", "20", "--start", "random",
                      "--tolerance", "0", "--least-change", "0"], {"nmf": []}),
    "mlp": (SMALL, ["mlp", "--input", "matrix", "--head", "columns", "--hidden", "256",
                    "--epochs", "2", "--batch", "1024"],
            {"owner": ["--gradient-sum", "owner"], "allreduce": ["--gradient-sum", "allreduce"]}),
    "hybrid": (SMALL, ["hybrid", "--form", "joint", "--factors", "16", "--hidden", "32",
                       "--rounds", "2"], {"hybrid": []}),
}


def generate(method, size, scale, out):
    """Arguments that make the matrix: `size` times the rows and entries, all scaled by `scale`."""
    base = METHODS[method][0]
    rows, nnz = int(base["rows"] * scale * size), int(base["nnz"] * scale * size)
    return ["generate", "ratings", "--rows", str(rows), "--cols", str(base["cols"]),
            "--nnz", str(nnz), "--out", str(out)]
