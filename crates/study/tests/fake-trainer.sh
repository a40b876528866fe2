#!/bin/sh
# Stands in for `trainer train`. The folder that it is called in holds:
#   runs/          finished run folders, copied by `train`
#   calls          a line for each call, written here
#   train-exit     the exit code, where it is not 0
#   in-use         the name of a run that another process is at work on
#   together       `train` waits until so many trainers have started
#   hang           `train` continues until its stdin ends
#   stubborn       `train` continues then, too
#   fails          the name of a run that fails; the others end some time after it
#   threads        a line for each start and end of a run with its threads, written here
FAKE=$(dirname "$0")
echo "$*" >>"$FAKE/calls"
while [ $# -gt 0 ]; do
    [ "$1" = --run-dir ] && folder=$2
    shift
done
name=$(basename "$folder")
if [ -e "$FAKE/train-exit" ]; then
    exit "$(cat "$FAKE/train-exit")"
fi
if [ "$(cat "$FAKE/in-use" 2>/dev/null)" = "$name" ]; then
    echo "error: $folder is in use by another process" >&2
    exit 6
fi
trap 'echo "$name" >>"$FAKE/stopped"; exit 130' USR1
if [ -e "$FAKE/hang" ] && [ ! -e "$FAKE/stubborn" ]; then
    exec 3<&0
    (cat <&3 >/dev/null; kill -USR1 $$) &
fi
echo "+${RAYON_NUM_THREADS:-none}" >>"$FAKE/threads"
while [ -e "$FAKE/together" ] && [ "$(grep -c + "$FAKE/threads")" -lt "$(cat "$FAKE/together")" ]; do
    sleep 0.05
done
while [ -e "$FAKE/hang" ]; do
    sleep 0.05
done
if [ "$(cat "$FAKE/fails" 2>/dev/null)" = "$name" ]; then
    echo "error: the loss of step 7 is not finite" >&2
    touch "$FAKE/failed"
    exit 1
fi
while [ -e "$FAKE/fails" ] && [ ! -e "$FAKE/failed" ]; do
    sleep 0.05
done
[ -e "$FAKE/failed" ] && sleep 0.5
mkdir -p "$folder"
cp -R "$FAKE/runs/$name/." "$folder"
echo "-${RAYON_NUM_THREADS:-none}" >>"$FAKE/threads"
