"""To be imported before NumPy or PyTorch: their OpenBLAS computes with the kernels that rankfold's does.

On processors younger than it is, OpenBLAS falls back to kernels without AVX, five times slower;
rankfold asks for better ones then (`rankfold --build-info` names them), and a comparison must do so
for both.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

BUILT = Path(__file__).resolve().parents[2] / "build" / "release" / "src" / "cli" / "rankfold"


def use():
    program = str(BUILT) if BUILT.exists() else shutil.which("rankfold")
    if program is None or "OPENBLAS_CORETYPE" in os.environ:
        return
    told = subprocess.run([program, "--build-info"], check=True, capture_output=True, text=True)
    words = json.loads(told.stdout)["machine"]["blas"].split()
    if words[0] == "OpenBLAS":
        os.environ["OPENBLAS_CORETYPE"] = words[-1]


use()
