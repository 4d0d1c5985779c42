"""All C++ is as clang-format 14 (Debian 12's) with the project's .clang-format would write it."""

import re
import shutil
import subprocess
import sys

from sources import CXX, ROOT, files, finish

tool = shutil.which("clang-format-14") or shutil.which("clang-format")
if tool is None:
    sys.exit("clang-format is missing (Debian: apt-get install clang-format)")
version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
if not re.search(r"version 14\.", version):
    sys.exit(f"clang-format 14 is needed, other versions format otherwise; found {version.strip()}")

sources = files("src", "include", "tests", suffixes=CXX)
findings = []
for file in sources:
    run = subprocess.run([tool, "--dry-run", "-Werror", "--style=file", str(file)],
                         capture_output=True, text=True, check=False)
    if run.returncode:
        findings.append(f"{file.relative_to(ROOT)}: not formatted; run {tool} -i on it\n"
                        + "\n".join(run.stderr.splitlines()[:3]))
finish(findings, len(sources))
