#!/usr/bin/env bash
# A Slurm cluster of two nodes with a processor each on this machine, in the folder DIR, on loopback: without systemd, a database, or
# anything outside of DIR but the cgroups of its nodes. Several can run at the same time.
#   cluster.sh DIR start [SECONDS]     and then: export SLURM_CONF=DIR/slurm.conf; it ends by itself after this many seconds (900)
#   cluster.sh DIR power-off NODE      slurmd, its steps and what they run are killed at once
#   cluster.sh DIR cut-off NODE        slurmd is killed, its jobs run on; prints the processes of those
#   cluster.sh DIR up NODE             slurmd starts again
#   cluster.sh DIR wait ARRAY SECONDS  until all tasks have ended; 0: all completed, 1: some did not, 2: time is up
#   cluster.sh DIR stop
set -euo pipefail
mkdir -p "$1"
dir=$(cd "$1" && pwd) what=${2:?}
shift 2
export SLURM_CONF=$dir/slurm.conf

# Tries a command every tenth of a second, this many times.
until_true() { # TIMES COMMAND...
    local i times=$1
    shift
    for ((i = 0; i < times; i++)); do
        if "$@"; then return; fi
        sleep 0.1
    done
    return 1
}

# No terminal, no standard input, its own session, and a time limit.
daemon() { # NAME COMMAND...
    local name=$1
    shift
    TMPDIR=$dir/tmp setsid timeout --kill-after=5 "$(cat "$dir/life")" "$@" < /dev/null >> "$dir/log/$name.out" 2>&1 &
    echo $! > "$dir/run/$name.timeout.pid"
}
slurmd_up() { daemon "slurmd.$1" slurmd -D -N "$1"; }
is_up() { case $(sinfo --noheader --nodes="$1" --format=%t 2> /dev/null) in idle | mix | alloc) ;; *) false ;; esac; }
is_gone() { ! kill -0 "$1" 2> /dev/null; }
queue_is_empty() { [ -z "$(squeue --noheader 2> /dev/null)" ]; }

tree() { # PID: it and all below it
    local child
    echo "$1"
    for child in $(ps -o pid= --ppid "$1"); do tree "$child"; done
}
# Job steps are separate daemons. The log that one holds open tells which node it belongs to.
steps() { # LOG
    local pid
    for pid in $(pgrep -x slurmstepd || true); do
        if ls -l "/proc/$pid/fd" 2> /dev/null | grep -qF " $1"; then tree "$pid"; fi
    done
}
kill_now() { [ $# = 0 ] || kill -KILL "$@" 2> /dev/null || true; }

start() {
    local first node tracker=pgid
    mkdir -p "$dir"/{state,log,run,tmp}
    echo "${1:-900}" > "$dir/life"
    # As on real clusters, if this machine allows it.
    if mkdir /sys/fs/cgroup/freezer/pointwise-probe 2> /dev/null; then
        rmdir /sys/fs/cgroup/freezer/pointwise-probe
        tracker=cgroup
        printf '%s\n' CgroupPlugin=cgroup/v1 CgroupAutomount=no CgroupMountpoint=/sys/fs/cgroup > "$dir/cgroup.conf"
    fi
    # Three free ports. The nodes are named after them: cgroups are named after nodes, and two clusters must not share those.
    first=$(python3 - << 'PY'
import random, socket
while True:
    first = random.randrange(20000, 31000)
    try:
        for port in range(first, first + 3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        continue
    print(first)
    break
PY
    )
    node=w$first-
    (umask 077 && head -c 1024 /dev/urandom > "$dir/munge.key")
    cat > "$SLURM_CONF" << CONF
ClusterName=pointwise
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$first
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/$tracker
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=1,sched_min_interval=100000
ReturnToService=2
KillWait=5
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=2
MinJobAge=3600
NodeName=${node}1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((first + 1)) CPUs=1 RealMemory=8000 State=UNKNOWN
NodeName=${node}2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((first + 2)) CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=${node}[1-2] Default=YES MaxTime=60 State=UP
CONF
    daemon munged munged --foreground --force --socket="$dir/run/munge.socket" --key-file="$dir/munge.key" \
        --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/state/munged.seed"
    until_true 100 test -S "$dir/run/munge.socket" || true
    daemon slurmctld slurmctld -D -i
    for i in 1 2; do
        mkdir -p "$dir/spool.$node$i"
        slurmd_up "$node$i"
    done
    for i in 1 2; do
        until_true 300 is_up "$node$i" || { tail -n 20 "$dir"/log/*.out "$dir"/log/*.log; echo "the cluster did not start"; exit 1; } >&2
    done
}

wait_for() { # ARRAY SECONDS
    local left states end=$((SECONDS + $2))
    while left=$(squeue --noheader --array --jobs="$1" --format=%i:%r 2> /dev/null) && [ -n "$left" ]; do
        [ "$SECONDS" -lt "$end" ] || { squeue --array --jobs="$1" >&2; exit 2; }
        # Restarted jobs would wait for two minutes.
        case $left in *:BeginTime*) scontrol update jobid="$1" StartTime=now 2> /dev/null || true ;; esac
        sleep 0.5
    done
    states=$(squeue --noheader --array --states=all --jobs="$1" --format='%i %T %r' | sort -t_ -k2n)
    echo "$states" >&2
    ! grep -qv ' COMPLETED ' <<< "$states"
}

stop() {
    local file pid node
    timeout 10 scancel --full --user="$(id -un)" 2> /dev/null || true
    until_true 100 queue_is_empty || true
    # Processes left by a node that was cut off.
    # shellcheck disable=SC2046
    kill_now $(steps "$dir/log/slurmd.")
    for file in "$dir"/run/{slurmctld,slurmd.*,munged}.timeout.pid; do
        pid=$(cat "$file" 2> /dev/null) || continue
        # It passes the signal on to its children, and its process id may belong to another program by now.
        if [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = timeout ]; then kill "$pid"; fi
        until_true 70 is_gone "$pid" || true
    done
    for node in "$dir"/spool.*; do
        find "/sys/fs/cgroup/freezer/slurm_${node##*/spool.}" -depth -type d -exec rmdir {} + 2> /dev/null || true
    done
}

case $what in
    start) start "$@" ;;
    power-off)
        # shellcheck disable=SC2046
        kill_now "$(cat "$dir/run/slurmd.$1.pid")" $(steps "$dir/log/slurmd.$1.log")
        ;;
    cut-off)
        kill_now "$(cat "$dir/run/slurmd.$1.pid")"
        steps "$dir/log/slurmd.$1.log"
        ;;
    up)
        slurmd_up "$1"
        until_true 300 is_up "$1"
        ;;
    wait) wait_for "$@" ;;
    stop) stop ;;
    *) echo "usage: see the head of $0" >&2 && exit 2 ;;
esac
