#!/usr/bin/env bash
# bundle.sh [--profile PROFILE] DIR
#
# Builds with the feature `cuda`, and packs into DIR and DIR.tar.xz all that is needed to check and time the project on a machine with an
# NVIDIA GPU but without Rust or a network: the trainer, xtask, the program `first_contact`, the test programs, PyTorch's numbers, PyTorch's
# side of the benchmark, and `verify.sh`. There, run
#
#     python3 -m tarfile -e DIR.tar.xz && bash DIR/verify.sh
#
# The images of CIFAR-10 are not in it: images.sh packs them. PROFILE is cargo's [default: release].
#
# Needs Rust, git, g++, xz, Python 3.9 or newer, and CUDA 13 or what toolkit.sh needs. The programs need x86-64 Linux with a glibc no older
# than this machine's; the other machine needs Python 3.9 or newer, and PyTorch to compare with.
set -euo pipefail

# Size limit of DIR.tar.xz in MiB: uploads to a machine are often limited to 64.
most=60

profile=release
if [ "${1:-}" = --profile ]; then
    profile=${2:?--profile needs a name}
    shift 2
fi
if [ $# != 1 ]; then
    echo "usage: bundle.sh [--profile PROFILE] DIR" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
if [ -n "$(ls -A "$out")" ] && [ ! -f "$out/built.json" ]; then
    echo "bundle.sh: $out exists and is not a bundle: name another folder" >&2
    exit 1
fi
cd "$(dirname "$0")/../.."

# An installed toolkit, else the one from PyPI.
if ! command -v nvcc > /dev/null; then
    [ -f target/cuda/env.sh ] || bash xtask/cuda/toolkit.sh target/cuda
    . target/cuda/env.sh
fi

# As in the CI step `cuda`, whose build is reused. With an example among the targets, the programs have the dependencies of the tests.
cuda=(--workspace --features "trainer/cuda,pointwise-tests/cuda" --profile "$profile" --locked)
tests=(pointwise-engine:cuda pointwise-engine:cuda_choices pointwise-engine:engines pointwise-engine:recipes trainer:gpu_study
    pointwise-tests:pytorch pointwise-tests:pytorch_layers pointwise-tests:pytorch_recipes pointwise-tests:pytorch_networks)
cargo build "${cuda[@]}" --bin trainer --example first_contact
# Each line: a program of tests, and a name for it.
programs=$(cargo test "${cuda[@]}" "${tests[@]/#*:/--test=}" --no-run --message-format=json |
    python3 xtask/executables.py "${tests[@]}")
# As `cargo xtask` builds it: it does no heavy computing.
cargo build --locked -p xtask --bin xtask

rm -rf "$out"
mkdir -p "$out/bin" "$out/programs" "$out/data/benchmarks" "$out/tests" "$out/xtask/peers"
target=${CARGO_TARGET_DIR:-target}
built=$target/$profile
[ "$profile" != dev ] || built=$target/debug
strip -o "$out/bin/xtask" "$target/debug/xtask"
strip -o "$out/bin/trainer" "$built/trainer"
strip -o "$out/bin/first_contact" "$built/examples/first_contact"
while read -r program name; do
    strip -o "$out/programs/$name" "$program"
done <<< "$programs"
cp -R tests/pytorch "$out/tests/"
cp xtask/peers/torch_*.py "$out/xtask/peers/"
cp -R xtask/cuda/verify.sh xtask/cuda/images.sh xtask/cuda/verify "$out/"
find crates/engine/src/cuda -name '*.cu' -exec python3 xtask/cuda/kernel_names.py {} + > "$out/kernels.txt"
changes=$(git status --porcelain)
cat > "$out/built.json" <<END
{
  "commit": "$(git rev-parse HEAD)",
  "dirty": $([ -z "$changes" ] && echo false || echo true),
  "rustc": "$(rustc --version)"
}
END
find "$out" -name __pycache__ -prune -exec rm -rf {} +
# The programs share most of their code: a dictionary larger than any of them finds the repetitions.
tar -cf - -C "$(dirname "$out")" "$(basename "$out")" | xz -T1 --lzma2=preset=1,dict=128MiB > "$out.tar.xz"
size=$(stat -c %s "$out.tar.xz")
echo "$out.tar.xz has $((size >> 20)) MiB; the limit is $most"
if [ "$((size >> 20))" -ge "$most" ]; then
    echo "bundle.sh: that is over the limit; the largest parts are" >&2
    du -ah "$out" | sort -rh | sed -n 2,9p >&2
    exit 1
fi
