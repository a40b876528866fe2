#!/bin/sh
# Stands in for the trainer and, where it is started with PyTorch's script, for a Python. FAKE holds:
#   calls          a line for each call and each question of a server, written here
#   no-torch       if there, `import torch` fails
#   fail           if there, the contender named in it fails
#   lacks          if there, the contender named in it cannot express the network
#   kill           if there, the contender named in it ends xtask
#   other          if there, the contender named in it has another network
echo "$*" >>"$FAKE/calls"
if [ "$1" = summary ]; then
    if [ "$3" = vgg ]; then
        echo "error: there is no model \`vgg\`" >&2
        exit 2
    fi
    echo "{\"name\": \"$(basename "$3" .toml)\", \"parameters\": 1000, \"macs\": 1000000, \"nodes\": []}"
    exit
fi
contender=pointwise more=',"macs_per_image":1000000' seconds=0.25 serve='' precision=null

# Reads the options.
read_options() {
    while [ $# -gt 0 ]; do
        case "$1" in
        -c) [ ! -e "$FAKE/no-torch" ]; exit ;;
        contiguous) contender=pytorch more='' seconds=0.75 ;;
        channels_last) contender=pytorch-channels-last more='' seconds=0.5 ;;
        graph) contender=pytorch-graph more=',"group":50' seconds=0.002 ;;
        notebook) contender=pytorch-notebook more=',"group":10' seconds=0.01 ;;
        train) [ "$contender" = pointwise ] && [ -z "$model" ] && exit "$(cat "$FAKE/train-exit" 2>/dev/null || echo 0)" ;;
        cuda) [ "$contender" = pointwise ] && seconds=0.001 more=',"group":20,"peak_gflops":50000,"bandwidth_gb":3000,
            "floor":{"gflop":10,"gbytes":1.5,"seconds":0.0005}' ;;
        --serve) serve=yes ;;
        --model) model=$(basename "$2" .toml) ;;
        --graph) model=$(sed 's/.*"name": "\([^"]*\)".*/\1/' "$2") ;;
        --phase) phase=$2; shift ;;
        --batch) batch=$2 ;;
        --threads) threads=$2 ;;
        --steps) steps=$2 ;;
        --precision) precision="\"$2\"" ;;
        esac
        shift
    done
}

# The row, on one line.
answer() {
    if [ "$(cat "$FAKE/fail" 2>/dev/null)" = "$contender" ]; then
        echo "something else" >&2
        echo "error: no luck in $FAKE" >&2
        exit 1
    fi
    if [ "$(cat "$FAKE/lacks" 2>/dev/null)" = "$contender" ]; then
        echo "error: it has no pools" >&2
        exit 3
    fi
    [ "$(cat "$FAKE/kill" 2>/dev/null)" = "$contender" ] && kill -9 $PPID
    parameters=1000
    [ "$(cat "$FAKE/other" 2>/dev/null)" = "$contender" ] && parameters=999
    [ "$OMP_NUM_THREADS" = "$threads" ] || exit 9
    times=$seconds
    while [ "$steps" -gt 1 ]; do
        times="$times,$seconds"
        steps=$((steps - 1))
    done
    echo "{\"contender\":\"$contender\",\"version\":\"1\",\"model\":\"$model\",\"phase\":\"$phase\",\"parameters\":$parameters,\"batch\":$batch,\
\"threads\":$threads,\"seconds\":[$times],\"peak_memory_bytes\":1048576,\"detail\":\"fake\",\"precision\":$precision$more}" | tr '\n' ' '
    echo
}

read_options "$@"
if [ -z "$serve" ]; then
    answer
    exit
fi
while read -r question; do
    echo "asked $question" >>"$FAKE/calls"
    # A JSON list without spaces or quotation marks in its strings.
    read_options $(echo "$question" | tr '[],"' '    ')
    answer
done
