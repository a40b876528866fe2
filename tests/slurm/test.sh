#!/usr/bin/env bash
# A study as a job array on a cluster of two nodes on this machine, disturbed in four ways; it must end with the same bytes as the same
# study without Slurm, one process after another. test.sh TRAINER DIR As root it installs Slurm if need be; otherwise Slurm must be
# installed.
set -euo pipefail
[ $# = 2 ] || { echo "usage: $0 TRAINER DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
trainer=$(realpath "$1")
rm -rf "$2"
mkdir -p "$2"
# With characters that a job script has to quote.
dir="$(cd "$2" && pwd)" out="$dir/a study, 100%"
cluster() { "$here/cluster.sh" "$dir/cluster" "$@"; }
say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
die() { say "FAILED: $*"; exit 1; }

command -v slurmctld > /dev/null && command -v munged > /dev/null || {
    say "installing Slurm"
    { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } > "$dir/apt.log" 2>&1 \
        || { tail -n 5 "$dir/apt.log"; die "slurm-wlm and munge cannot be installed"; }
}

# Long enough to be disturbed, on any machine.
cat > "$dir/study.toml" << 'TOML'
name = "disturbed"
title = "Two networks that are interrupted"

[data]
kind = "synthetic"
limit-train = 64
limit-test = 16

[recipe]
epochs = 30
batch-size = 8
optimizer = { SGD = { lr = 0.05, momentum = 0.9 } }

[grid]
seeds = [1, 2, 3]

[[networks]]
network = "resnet20"

[[networks]]
network = "resnet20"
name = "resnet20-smoothed"
recipe = { label-smoothing = 0.1 }
TOML
export RAYON_NUM_THREADS=1
names=(resnet20-seed{1,2,3} resnet20-smoothed-seed{1,2,3})
timeout 300 "$trainer" reproduce "$dir/study.toml" --out "$dir/local" --quiet --jobs 2 --threads 2 > "$dir/local.out" 2>&1 \
    || die "the local study ended with $?: $(cat "$dir/local.out")"
say "the local study is done"

cluster start 900
trap 'cluster stop' EXIT
export SLURM_CONF=$dir/cluster/slurm.conf
say "the cluster is up"

submit=("$trainer" reproduce "$dir/study.toml" --out "$out" --slurm --throttle 2 --time 20 --cpus-per-task 1
    --sbatch=--comment='it is a test' --preamble 'echo "before the trainer"')
"${submit[@]}" --dry-run > "$dir/dry-run.out"
grep -q '^exec .* --shard "$SLURM_ARRAY_TASK_ID/6"$' "$dir/dry-run.out" || die "--dry-run prints no script"
grep -q "^sbatch .*--array=0-5%2" "$dir/dry-run.out" || die "--dry-run prints no command"
[ ! -e "$out/slurm" ] && [ -z "$(squeue --noheader)" ] || die "--dry-run submits"

timeout 60 "${submit[@]}"
id=$(cat "$out/slurm/id")
if timeout 60 "${submit[@]}" 2> "$dir/again.out"; then die "the study is submitted twice"; fi
grep -q "job array $id is at work on this study (tasks that wait or run: 6)" "$dir/again.out" || die "the second submission says: $(cat "$dir/again.out")"

task() { squeue --noheader --array --states=all --jobs="$id" --format='%K %T %N %r' | awk -v k="$1" '$1 == k'; }
state() { task "$1" | awk '{print $2}'; }
node_of() { task "$1" | awk '{print $3}'; }
lines() { { wc -l < "$out/runs/${names[$1]}/metrics.jsonl"; } 2> /dev/null || echo 0; }
log() { cat "$out/slurm/log/${id}_$1.out" 2> /dev/null; }
until_true() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || die "waited in vain until $what"
        sleep 0.1
    done
}
has_begun() { # TASK: it is under way
    case $(task "$1") in
        *COMPLETED* | *FAILED*) die "task $1 ended too early: $(task "$1") $(log "$1")" ;;
        *BeginTime*) scontrol update jobid="${id}_$1" StartTime=now || true ;;
    esac
    [ "$(state "$1")" = RUNNING ] && [ "$(lines "$1")" -ge 5 ]
}
is_waiting() { [ "$(state "$1")" = PENDING ]; }
has_failed() {
    case $(task "$1") in *BeginTime*) scontrol update jobid="${id}_$1" StartTime=now || true ;; esac
    [ "$(state "$1")" = FAILED ]
}

until_true 120 "task 0 is under way" has_begun 0
say "task 0 is requeued at line $(lines 0)"
scontrol requeue "${id}_0"

until_true 120 "task 1 is under way" has_begun 1
node=$(node_of 1)
say "the power of $node fails, with task 1 at line $(lines 1)"
cluster power-off "$node"
scontrol update nodename="$node" state=down reason=test     # as SlurmdTimeout would, later
cluster up "$node"

until_true 120 "task 2 is under way" has_begun 2
say "the time of task 2 is nearly up, at line $(lines 2)"
# It may say "try again later", and keep trying for minutes.
timeout 2 scancel --signal=USR1 --batch "${id}_2" || true
until_true 60 "task 2 puts itself back into the queue" grep -q "back in the queue" "$out/slurm/log/${id}_2.out"

until_true 120 "task 5 is under way" has_begun 5
node=$(node_of 5)
cut_off=$(cluster cut-off "$node")
# So that it still runs when Slurm has restarted the task.
kill -STOP $cut_off
say "$node is cut off, with task 5 at line $(lines 5): it lives on, and is started once more elsewhere"
scontrol update nodename="$node" state=down reason=test
until_true 60 "task 5 waits to start anew" is_waiting 5
until_true 240 "task 5 finds its run in use" has_failed 5
grep -q "other processes are at work on resnet20-smoothed, seed 3" <(log 5) || die "task 5 says: $(log 5)"
scontrol show job "${id}_5" | grep -q "ExitCode=6:0" || die "task 5 ended otherwise: $(scontrol show job "${id}_5")"
kill -CONT $cut_off
until_true 120 "the run that was cut off ends by itself" test -e "$out/runs/${names[5]}/result.json"
cluster up "$node"

rc=0
cluster wait "$id" 240 || rc=$?
[ "$rc" = 1 ] || die "the array should have ended, with task 5 failed, not with $rc"
[ "$("$trainer" study status "$out" | tail -n 1)" = "6 runs: 6 finished" ] || die "$("$trainer" study status "$out")"
say "the array has ended"

rm -r "$out/runs/${names[4]}"
timeout 60 "${submit[@]}"
id=$(cat "$out/slurm/id")
[ "$(squeue --noheader --array --states=all --jobs="$id" --format=%K)" = 4 ] || die "more is submitted than what is missing"
timeout 30 "$trainer" study status "$out" | grep -E "smoothed +2 .*(pending|running)" || die "$("$trainer" study status "$out")"
cluster wait "$id" 240 || die "what was missing ended with $?"
[ "$(head -n 1 "$out/slurm/log/${id}_4.out")" = "before the trainer" ] || die "the preamble is not in the script"
say "what was missing is done"

timeout 60 "$trainer" study report "$out" > "$dir/report.out" 2>&1 || die "the report ended with $?: $(cat "$dir/report.out")"
[ -s "$out/report.html" ] || die "there is no report"
same=0
for name in "${names[@]}"; do
    for file in checkpoints/last.safetensors checkpoints/best.safetensors analysis.json; do
        cmp "$dir/local/runs/$name/$file" "$out/runs/$name/$file" || die "$name: $file differs"
        same=$((same + 1))
    done
done
say "$same files are the same, byte for byte"
