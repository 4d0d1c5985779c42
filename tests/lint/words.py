"""Nothing unfinished, nothing of one machine, no file that outgrew its room."""

import re

from sources import CXX, ROOT, TOP, files, finish

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
ONE_MACHINE = re.compile(r"""(^|[\s"'`=(:])/(home|root|Users|work|mnt|opt)/""")
LONGEST = {"public header": 200, "source": 500}


def check(file):
    relative = file.relative_to(ROOT)
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        for pattern, what in ((UNFINISHED, "unfinished"), (ONE_MACHINE, "a path of one machine")):
            if pattern.search(line):
                yield f"{relative}:{number}: {what}: {line.strip()}"
    if file.suffix in CXX:
        kind = "public header" if relative.parts[0] == "include" else "source"
        if len(lines) > LONGEST[kind]:
            yield f"{relative}: {len(lines)} lines; a {kind} has at most {LONGEST[kind]}"


sources = [file for file in files(*TOP) if file.parent != ROOT / "tests" / "lint"]
finish([finding for file in sources for finding in check(file)], len(sources))
