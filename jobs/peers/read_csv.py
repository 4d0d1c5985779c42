#!/usr/bin/python3
"""Import of triplets against pandas.read_csv on the same file, one core each.

Usage: jobs/peers/read_csv.py [LINES] [PROGRAM]

Makes a file like MovieLens' ratings.csv (userId,movieId,rating,timestamp; default 5,000,000 lines),
reads it five times with each and prints medians. pandas gives a table of four columns; rankfold
import also numbers the ids, sorts the entries by row and column and refuses duplicates.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
ROOT = Path(__file__).resolve().parents[2]


def write_file(path, lines):
    import numpy as np

    generator = np.random.default_rng(1)
    users = np.sort(generator.integers(1, 138494, 2 * lines))
    movies = (131262 * generator.random(2 * lines) ** 3).astype(np.int64) + 1
    pairs = np.unique(users * 200000 + movies)
    pairs = pairs[np.sort(generator.permutation(len(pairs))[:lines])]
    ratings = generator.integers(1, 11, len(pairs)) / 2
    times = generator.integers(800000000, 1500000000, len(pairs))
    with open(path, "w", encoding="ascii") as file:
        file.write("userId,movieId,rating,timestamp\n")
        file.writelines(f"{p // 200000},{p % 200000},{r},{t}\n"
                        for p, r, t in zip(pairs.tolist(), ratings.tolist(), times.tolist()))
    return len(pairs)


def main():
    try:
        import pandas
    except ImportError:
        sys.exit("pandas is missing: apt-get install python3-pandas")
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    program = sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/src/cli/rankfold")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        lines = write_file(path, wanted)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            pandas.read_csv(path)
            seconds.append(time.perf_counter() - start)
        peer = statistics.median(seconds)
        figures = Path(folder) / "import.json"
        subprocess.run([program, "bench", "import", "--source", path, "--json", figures],
                       check=True, stdout=subprocess.DEVNULL)
        ours = json.loads(figures.read_text())["seconds"]["median"]
        size = path.stat().st_size / 1e6
    print(f"{lines} lines, {size:.0f} MB, one core")
    print(f"pandas.read_csv {pandas.__version__:<10} {peer:7.3f} s  {lines / peer / 1e6:6.2f} M lines/s")
    print(f"rankfold import            {ours:7.3f} s  {lines / ours / 1e6:6.2f} M lines/s")


if __name__ == "__main__":
    main()
