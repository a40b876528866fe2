#!/usr/bin/env bash
# Stands before nvcc. candle's kernels for quantised language models, by far the slowest to compile, become functions that stop the
# program; no network of images calls them. Everything else is nvcc's.
here=$(dirname "$(readlink -f "$0")")
case "$*" in
*" -c "*/mmq_gguf/*.cu | *" -c "*mmvq_gguf.cu | *" -c "*/moe/moe_*.cu)
    output=
    previous=
    for argument in "$@"; do
        if [ "$previous" = -o ]; then output=$argument; fi
        previous=$argument
    done
    {
        echo 'void abort(void);'
        # One file stands for all of them.
        case "${*: -1}" in
        *mmvq_gguf.cu) sed -nE 's/.*pub fn (\w+)\(.*/void \1(void) { abort(); }/p' src/ffi.rs ;;
        esac
    } | gcc -x c -O1 -fPIC -c -o "$output" -
    exit
    ;;
esac
exec "$here/../../bin/nvcc" "$@"
