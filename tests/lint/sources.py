"""What the lint tests share: the project's own files, and how findings end a test."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOP = ["src", "include", "tests", "jobs", "cmake", ".ci", "CMakeLists.txt", "CMakePresets.json",
       "README.md", "CITATION.cff"]
CXX = {".cpp", ".hpp"}


def files(*folders, suffixes=None):
    """All text files under these folders, sorted; only those with one of `suffixes` if given."""
    found = []
    for folder in folders:
        path = ROOT / folder
        candidates = [path] if path.is_file() else path.rglob("*")
        found += [file for file in candidates
                  if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".gz"
                  and (suffixes is None or file.suffix in suffixes)]
    return sorted(found)


def finish(findings, checked):
    """Prints what was found and exits: 1 if anything was, or if there was nothing to look at."""
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings in {checked} files")
    sys.exit(1 if findings or not checked else 0)
