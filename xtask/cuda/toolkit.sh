#!/usr/bin/env bash
# toolkit.sh DIR
#
# Assembles what a build with `--features cuda` needs, in DIR, on a machine without CUDA: NVIDIA's compiler and headers from PyPI,
# and stand-ins to link with for the libraries that only a machine with a GPU has. Then
#
#     . DIR/env.sh && cargo build --release -p trainer --features cuda
#
# The program needs no CUDA library to start. It looks each one up at the first call, in the folders that the variable
# POINTWISE_CUDA_LIBRARIES lists (separated by colons) and then in the system's places.
#
# Needs x86-64 Linux, bash, cargo, gcc and Python 3.9 or newer with pip.
set -euo pipefail

if [ $# != 1 ]; then
    echo "usage: toolkit.sh DIR" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# All of one release of CUDA: its driver refuses PTX of a newer compiler. Hashes pin the bytes.
cat > "$work/wheels.txt" <<'END'
nvidia-cuda-nvcc==13.0.88    --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-crt==13.0.88     --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-nvvm==13.0.88         --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85    --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
END
platforms=()
for glibc in 2_27 2_17 2014 2_12 2010; do
    # Older platform tags than PEP 600's have no underscore.
    case $glibc in 20*) name=manylinux$glibc ;; *) name=manylinux_$glibc ;; esac
    platforms+=(--platform "${name}_x86_64")
done
python3 -m venv "$work/python"
"$work/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    "${platforms[@]}" --dest "$work/wheels" --requirement "$work/wheels.txt"
for wheel in "$work"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$work/unpacked"
done
rm -rf "$root/bin" "$root/nvvm" "$root/include" "$root/lib" "$root/lib64" "$root/front"
for part in bin nvvm include lib; do
    mv "$work/unpacked/nvidia/cu13/$part" "$root/$part"
done
# Unpacking a wheel loses the executable bits.
chmod +x "$root"/bin/* "$root"/nvvm/bin/*
# A library of the compiler that nvcc does not use: 60 MB.
rm -f "$root/lib/libnvvm.so.4"
ln -s lib "$root/lib64"
# The runtime library is linked by its shared name; the static one finds the driver itself at first use.
echo 'INPUT(-lcudart_static -lrt -lpthread -ldl)' > "$root/lib/libcudart.so"

# The names of all functions that Rust can call are in the bindings that Cargo.lock pins.
manifest=$here/../../Cargo.toml
bindings=$(cargo metadata --manifest-path "$manifest" --format-version 1 --locked --features trainer/cuda |
    python3 -c 'import json, os, sys
[package] = [p for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
print(os.path.join(os.path.dirname(package["manifest_path"]), "src"))')
python3 "$here/stand_ins.py" "$bindings" "$root/lib"

mkdir -p "$root/front/bin"
cp "$here/nvcc.sh" "$root/front/bin/nvcc"
chmod +x "$root/front/bin/nvcc"
ln -s ../include "$root/front/include"
ln -s ../lib "$root/front/lib64"

# Kernels as PTX for compute capability 8.0, which the driver compiles for any later card at first use.
cat > "$root/env.sh" <<END
export CUDA_HOME='$root' PATH='$root/bin':"\$PATH" NVCC='$root/front/bin/nvcc'
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}" CUDARC_CUDA_VERSION=13000
END

printf '__global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }\n' > "$work/twice.cu"
"$root/bin/nvcc" -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90 -fatbin \
    -o "$work/twice.fatbin" "$work/twice.cu"
echo "the toolkit is in $root; before a build: . $root/env.sh"
