#!/usr/bin/env bash
# self_test.sh DIR: builds the emulator in DIR with the kernels of its own tests, and runs them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
python3 "$here/build.py" "$out" "$here/self_test.cu"
g++ -std=c++17 -O1 -march=x86-64-v3 -Wall -Wextra -Wno-format-extra-args -o "$out/self_test" "$here/self_test.cpp" \
    "$out/libcuda.so.1" "$out/libcublas.so.13" "$out/libcudnn.so.9" -pthread -Wl,-rpath,"$out"
"$out/self_test" 2> "$out/refused.txt" || { cat "$out/refused.txt" >&2; exit 1; }
