#!/bin/sh
# Stands in for `trainer bench` and, where it is started with PyTorch's script, for a Python. FAKE holds:
#   calls          a line for each call, written here
#   no-torch       if there, `import torch` fails
#   fail           if there, the contender named in it fails
echo "$*" >>"$FAKE/calls"
contender=pointwise more=',"macs_per_image":1000000' seconds=0.25
while [ $# -gt 0 ]; do
    case "$1" in
    -c) [ ! -e "$FAKE/no-torch" ]; exit ;;
    contiguous) contender=pytorch more='' seconds=0.75 ;;
    channels_last) contender=pytorch-channels-last more='' seconds=0.5 ;;
    --model) model=$2 ;;
    --phase) phase=$2 ;;
    --batch) batch=$2 ;;
    --threads) threads=$2 ;;
    --steps) steps=$2 ;;
    esac
    shift
done
if [ "$(cat "$FAKE/fail" 2>/dev/null)" = "$contender" ]; then
    echo "something else" >&2
    echo "error: no luck in $FAKE" >&2
    exit 1
fi
[ "$OMP_NUM_THREADS" = "$threads" ] || exit 9
times=$seconds
while [ "$steps" -gt 1 ]; do
    times="$times,$seconds"
    steps=$((steps - 1))
done
echo "{\"contender\":\"$contender\",\"version\":\"1\",\"model\":\"$model\",\"phase\":\"$phase\",\"batch\":$batch,\
\"threads\":$threads,\"seconds\":[$times],\"peak_memory_bytes\":1048576,\"detail\":\"fake\"$more}"
