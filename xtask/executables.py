#!/usr/bin/env python3
"""executables.py PACKAGE[:TEST] ...

From `cargo test --no-run --message-format=json` on stdin: a line for each test program of these packages, or for PACKAGE:TEST only this one, with its
path and a name for it.
"""

import json
import sys

wanted, found = set(sys.argv[1:]), set()
for line in sys.stdin:
    message = json.loads(line)
    if message["reason"] != "compiler-artifact" or not message["executable"] or not message["profile"]["test"]:
        continue
    # As `path+file:///folder/name#version`, or `...#name@version` if the folder has another name.
    place, _, version = message["package_id"].rpartition("#")
    package = version.split("@")[0] if "@" in version else place.rsplit("/", 1)[-1]
    target = message["target"]["name"]
    asked = wanted & {package, f"{package}:{target}"}
    if asked:
        kind = "tests" if message["target"]["kind"] == ["test"] else "unit"
        print(message["executable"], f"{package}-{target}-{kind}" if kind == "tests" else f"{package}-unit")
        found |= asked
if wanted - found:
    sys.exit(f"executables.py: cargo built no test program of {', '.join(sorted(wanted - found))}")
