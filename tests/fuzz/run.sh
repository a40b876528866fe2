#!/usr/bin/env bash
# Fuzzes everything that is read from files: builds the targets and runs each for this many seconds, two at a time.
#
#     tests/fuzz/run.sh SECONDS [TARGET...]
#
# Each target starts from the committed seeds and from what earlier runs found in target/fuzz/corpus. A line of JSON for each goes
# to target/fuzz/record.jsonl, and inputs that a target stopped at to target/fuzz/faults. The stable toolchain is enough: the flags are those
# of `cargo fuzz build --sanitizer none`. POINTWISE_FUZZ_SEED makes the first inputs of each target the same every time.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:?usage: tests/fuzz/run.sh SECONDS [TARGET...]}
shift
[ $# -gt 0 ] || set -- archive batches idx image parquet safetensors pytorch run network recipe study

# With --target, the flags do not apply to build scripts and procedural macros.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
RUSTFLAGS=$(echo $RUSTFLAGS)
cargo build --manifest-path tests/fuzz/Cargo.toml --release --target "$host" --target-dir target/fuzz --locked
unset RUSTFLAGS

# Files committed for other reasons that also serve as seeds.
seeds() {
    echo "tests/fuzz/seeds/$1"
    case $1 in
        safetensors | pytorch) echo tests/pytorch/weights ;;
        network) echo data/networks ;;
        study) echo data/studies ;;
    esac
}

fuzz() {
    local target=$1 corpus=target/fuzz/corpus/$1 faults=target/fuzz/faults/$1 log=target/fuzz/$1.log dictionary=() status=0 start=$SECONDS
    mkdir -p "$corpus" "$faults"
    [ ! -f "tests/fuzz/dictionaries/$target" ] || dictionary=("-dict=tests/fuzz/dictionaries/$target")
    # shellcheck disable=SC2046
    (
        ulimit -v 8388608
        timeout $((seconds + 120)) "target/fuzz/$host/release/$target" "$corpus" $(seeds "$target") "${dictionary[@]}" \
            -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 \
            -seed="${POINTWISE_FUZZ_SEED:-0}" -print_final_stats=1 -artifact_prefix="$faults/"
    ) > "$log" 2>&1 || status=$?
    local last executions coverage peak
    last=$(grep -o 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$log" | tail -n 1)
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log" | tail -n 1)
    coverage=$(echo "$last" | cut -d ' ' -f 2)
    printf '{"target": "%s", "seconds": %d, "executions": %d, "coverage": %d, "features": %d, "corpus": %d, "peak_mb": %d, "crashes": %d}\n' \
        "$target" "$((SECONDS - start))" "${executions:-0}" "${coverage:-0}" "$(echo "$last" | cut -d ' ' -f 4)" \
        "$(echo "$last" | cut -d ' ' -f 6)" "${peak:-0}" "$([ "$status" = 0 ] && echo 0 || echo 1)" |
        tee -a target/fuzz/record.jsonl
    if [ "$status" != 0 ]; then
        tail -n 30 "$log" >&2
        echo "the target $target stopped: its input is in $faults" >&2
        return 1
    fi
}
export -f seeds fuzz
export seconds host
rm -f target/fuzz/record.jsonl
# Inputs of parsers that take paths, in memory if the system has such a folder.
TMPDIR=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
printf '%s\n' "$@" | xargs -P 2 -I {} bash -c 'set -euo pipefail; fuzz {}'
