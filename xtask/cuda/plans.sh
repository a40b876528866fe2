#!/usr/bin/env bash
# plans.sh DIR [--networks "NAME..."] [--batch N] [--properties FILE] [--out RECORD.json]
#
# Asks the real cuDNN which plans it has for the convolutions of networks on an H100, by plans.py; no GPU is needed. DIR gets a Python
# environment with cuDNN and cuBLAS (1.2 GB; 800 MB are fetched from PyPI) and can be removed afterwards. Without `--networks`, the networks
# are those of the study `pointwise`.
#
# Needs x86-64 Linux, bash, cargo (or the variable TRAINER, a built program) and Python 3.10 to 3.14 with pip.
set -euo pipefail

usage='usage: plans.sh DIR [--networks "NAME..."] [--batch N] [--properties FILE] [--out RECORD.json]'
if [ $# = 0 ] || [[ $1 == -* ]]; then
    echo "$usage" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift
command="xtask/cuda/plans.sh DIR${*:+ $*}"
networks="alexnet alexnet_plain nin"
options=()
while [ $# != 0 ]; do
    if [ $# = 1 ]; then
        echo "$usage" >&2
        exit 2
    fi
    case $1 in
    --networks) networks=$2 ;;
    *) options+=("$1" "$2") ;;
    esac
    shift 2
done

# cuDNN and the cuBLAS that it is released with, for CUDA 13.0 like the toolkit. Hashes pin the bytes; the last has a wheel for each Python.
cat > "$root/wheels.txt" <<'END'
nvidia-cudnn-cu13==9.19.0.56 --hash=sha256:d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf
nvidia-cublas==13.0.2.14     --hash=sha256:0cf238ffdbe46c00cb9aa98e7bca745c223a5ca5a53e686ac8b3e5a08fe80d6c
nvidia-cudnn-frontend==1.32.0 \
    --hash=sha256:4f2d6bde0bd272a1bd0dfad2f558327d6e62910c7715a6b118a94480d604a2cf \
    --hash=sha256:c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0 \
    --hash=sha256:8b354a8e550c083eb247f1eb39a7d69a4a269075f5a01e4fcbd2531680b17239 \
    --hash=sha256:93a4c74fc1df77144fafd5aa9e88c4a5ac36412c363860829a0b2e864c6d577d \
    --hash=sha256:4b206c8c3dd173dc29921f179fc599afa5dac187eb9163c54551679740534a81
END
if ! cmp -s "$root/wheels.txt" "$root/installed.txt"; then
    rm -rf "$root/python"
    python3 -m venv "$root/python"
    "$root/python/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: --require-hashes \
        --requirement "$root/wheels.txt"
    cp "$root/wheels.txt" "$root/installed.txt"
fi

graphs=()
for network in $networks; do
    graphs+=("$root/$network.json")
    if [ -n "${TRAINER:-}" ]; then
        "$TRAINER" summary --model "$network" --graph > "${graphs[-1]}"
    else
        cargo run --quiet --release --locked --manifest-path "$here/../../Cargo.toml" -p trainer -- \
            summary --model "$network" --graph > "${graphs[-1]}"
    fi
done
"$root/python/bin/python" "$here/plans.py" "${graphs[@]}" --command "$command" ${options[@]+"${options[@]}"}
