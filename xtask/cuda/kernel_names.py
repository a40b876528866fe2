#!/usr/bin/env python3
"""kernel_names.py SOURCE.cu ...: the names of the kernels in preprocessed CUDA source, one a line."""

import re
import subprocess
import sys

KERNEL = re.compile(r"\b__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")

names = set()
for source in sys.argv[1:]:
    expanded = subprocess.run(["g++", "-E", "-P", "-x", "c++", source], stdout=subprocess.PIPE, text=True, check=True).stdout
    names.update(KERNEL.findall(expanded))
if not names:
    sys.exit(f"kernel_names.py: no kernel is found in {' '.join(sys.argv[1:]) or 'no file'}")
print("\n".join(sorted(names)))
