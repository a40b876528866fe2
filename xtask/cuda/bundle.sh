#!/usr/bin/env bash
# bundle.sh DIR
#
# Builds with the feature `cuda`, and packs into DIR and DIR.tar.gz, what checks and times the project on a machine with an NVIDIA
# GPU that has neither Rust nor a network: the trainer, xtask, the test programs, PyTorch's numbers, PyTorch's side of the
# benchmark, and `verify.sh`. There
#
#     tar xf DIR.tar.gz && bash DIR/verify.sh --data CIFAR10
#
# The images of CIFAR-10 are not in it.
#
# Needs Rust, git, Python 3.9 or newer, and CUDA 13 or what toolkit.sh needs. The programs want x86-64 Linux with a glibc that is not older than
# this machine's; on the other machine Python 3.9 or newer, and PyTorch to compare with.
set -euo pipefail

if [ $# != 1 ]; then
    echo "usage: bundle.sh DIR" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
if [ -n "$(ls -A "$out")" ] && [ ! -f "$out/built.json" ]; then
    echo "bundle.sh: $out holds something else than a bundle: name another folder" >&2
    exit 1
fi
cd "$(dirname "$0")/../.."

# An installed toolkit, else the one from PyPI.
if ! command -v nvcc > /dev/null; then
    [ -f target/cuda/env.sh ] || bash xtask/cuda/toolkit.sh target/cuda
    . target/cuda/env.sh
fi

# The same packages in both, so that what they share is built once.
packages=(-p trainer -p xtask -p pointwise-engine -p pointwise-tests --features trainer/cuda)
cargo build --release --locked "${packages[@]}" --bins
# Each line: a program of tests, and a name for it.
programs=$(cargo test --release --locked "${packages[@]}" --lib --test '*' --no-run --message-format=json |
    python3 xtask/cuda/executables.py pointwise-engine pointwise-tests:pytorch pointwise-tests:runs pointwise-tests:bench)

rm -rf "$out"
mkdir -p "$out/bin" "$out/programs" "$out/data/benchmarks" "$out/tests" "$out/xtask/peers"
target=${CARGO_TARGET_DIR:-target}
for program in trainer xtask; do
    strip -o "$out/bin/$program" "$target/release/$program"
done
while read -r program name; do
    strip -o "$out/programs/$name" "$program"
done <<< "$programs"
cp -R tests/pytorch "$out/tests/"
cp xtask/peers/torch_*.py "$out/xtask/peers/"
cp xtask/cuda/verify.sh xtask/cuda/verify.py "$out/"
changes=$(git status --porcelain)
cat > "$out/built.json" <<END
{
  "commit": "$(git rev-parse HEAD)",
  "dirty": $([ -z "$changes" ] && echo false || echo true),
  "rustc": "$(rustc --version)"
}
END
find "$out" -name __pycache__ -prune -exec rm -rf {} +
tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")"
du -sh "$out" "$out.tar.gz"
