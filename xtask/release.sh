#!/usr/bin/env bash
# A release for one target: an archive with the program, completions, manual pages and licences, and a wheel for Python.
#
#     xtask/release.sh [--target TRIPLE] OUT
#
# Without --target, the target is this machine's. For x86_64-unknown-linux-musl the program is static and runs on any Linux; it needs the target
# (`rustup target add`) and musl-gcc (Debian: musl-tools). maturin makes the wheel: MATURIN names it if it is not in PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

target=()
if [ "${1:-}" = --target ]; then
    [ $# -ge 2 ] || { echo "--target needs a triple, such as x86_64-unknown-linux-musl" >&2; exit 2; }
    target=(--target "$2")
    shift 2
fi
[ $# -eq 1 ] || { echo "usage: xtask/release.sh [--target TRIPLE] OUT" >&2; exit 2; }
maturin=${MATURIN:-maturin}
command -v "$maturin" > /dev/null || { echo "$maturin is not installed: run pip install maturin, or name it in MATURIN" >&2; exit 1; }
mkdir -p "$1"
out=$(cd "$1" && pwd)

cargo build --release --package trainer --locked "${target[@]}"
folder=${CARGO_TARGET_DIR:-target}/${target[1]:+${target[1]}/}release
triple=${target[1]:-$(rustc -vV | sed -n 's/^host: //p')}
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
name=pointwise-$version-$triple

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/$name/completions"
cp "$folder/trainer" "$stage/$name/"
strip "$stage/$name/trainer"
"$stage/$name/trainer" manual "$stage/$name/man1"
for shell in bash zsh fish powershell elvish; do
    "$stage/$name/trainer" completions "$shell" > "$stage/$name/completions/trainer.$shell"
done
cp LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md "$stage/$name/"
# Equal files give an equal archive, whenever and by whomever it is made.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$stage" -c "$name" | gzip -n9 > "$out/$name.tar.gz"

# Static programs run on any Linux, whatever its C library; of others it is only known that they run here.
tags=(linux)
case $triple in *-linux-musl) tags=(manylinux2014 musllinux_1_2) ;; esac
"$maturin" build --release --locked --quiet --compatibility "${tags[@]}" "${target[@]}" \
    --manifest-path crates/trainer/Cargo.toml --out "$out"
(cd "$out" && sha256sum "$name.tar.gz" ./*.whl > SHA256SUMS)
ls -l "$out"
