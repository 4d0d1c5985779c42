"""Who may include whom: every #include against the DEPENDS of src/*/CMakeLists.txt.

One shared include root means that the compiler never complains about an upward include; this does.
Outside tests mpi.h stands in comm and data/hdf5_file alone, HDF5 in data, BLAS and LAPACK in linalg.
A source includes its own header first, so that this is known to compile alone.
"""

import re

from sources import CXX, ROOT, files, finish

OWNERS = [  # (a header from outside, who may include it)
    (re.compile(r"mpi(-ext)?\.h$"), lambda module, file: module == "comm"
     or (module, file.stem) == ("data", "hdf5_file")),
    (re.compile(r"(hdf5(_hl)?|H5.*)\.h$"), lambda module, file: module == "data"),
    (re.compile(r"(f77blas|cblas|lapack|lapacke|openblas_config)\.h$"),
     lambda module, file: module == "linalg"),
]


def declared_layers():
    """Module name to the set of modules it may include, itself too."""
    layers = {}
    for path in sorted(ROOT.glob("src/*/CMakeLists.txt")):
        for name, arguments in re.findall(r"rankfold_add_module\((\w+)([^)]*)\)", path.read_text()):
            words = re.split(r"\b[A-Z_]{4,}\b", arguments.partition("DEPENDS")[2])[0].split()
            layers[name] = {name, *words}
    return layers


def check(file, layers):
    relative = file.relative_to(ROOT)
    module = relative.parts[2 if relative.parts[0] == "include" else 1]
    if module not in layers:
        yield f"{relative}: no module {module} in src/*/CMakeLists.txt"
        return
    own = f"rankfold/{module}/{file.stem}.hpp"
    if file.parent != ROOT / "src" / module or not (ROOT / "include" / own).exists():
        own = None
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
        if not match:
            continue
        header = match.group(1)
        parts = header.split("/")
        if own and header != own:
            yield f"{relative}:{number}: includes {header} before its own header, {own}"
        own = None
        if parts[0] == "rankfold" and parts[1] not in layers[module]:
            yield f"{relative}:{number}: {module} may not include {header}"
        if ".." in parts:
            yield f"{relative}:{number}: includes by way of another folder: {header}"
        for pattern, allowed in OWNERS:
            if pattern.match(parts[-1]) and parts[0] != "rankfold" and not allowed(module, file):
                yield f"{relative}:{number}: {module}/{file.name} may not include {header}"


layers = declared_layers()
sources = files("src", "include/rankfold", suffixes=CXX)
finish([finding for file in sources for finding in check(file, layers)], len(sources))
