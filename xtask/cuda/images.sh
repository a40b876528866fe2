#!/usr/bin/env bash
# images.sh CIFAR10 DIR
#
# Packs CIFAR-10 (a folder with the six files of its binary version) into DIR/images-1.tar.xz, images-2.tar.xz and so on, none of them above
# 60 MiB: uploads to a machine are often limited to 64. There `verify.sh` takes all of them:
#
#     bash bundle/verify.sh --data-archive images-1.tar.xz --data-archive images-2.tar.xz
#
# Of its parts only `study` needs images.
set -euo pipefail

if [ $# != 2 ]; then
    echo "usage: images.sh CIFAR10 DIR" >&2
    exit 2
fi
images=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
pack() { tar -C "$images" -cf - "${@:2}" | xz -T0 -6 > "$out/images-$1.tar.xz"; }
for file in data_batch_{1,2,3,4,5}.bin test_batch.bin; do
    if [ ! -f "$images/$file" ]; then
        echo "images.sh: $images has no $file: give the folder of CIFAR-10's binary version" >&2
        exit 1
    fi
done
pack 1 data_batch_1.bin data_batch_2.bin
pack 2 data_batch_3.bin data_batch_4.bin
pack 3 data_batch_5.bin test_batch.bin
for archive in "$out"/images-?.tar.xz; do
    size=$(stat -c %s "$archive")
    echo "$archive has $((size >> 20)) MiB"
    if [ "$((size >> 20))" -ge 60 ]; then
        echo "images.sh: that is over the limit" >&2
        exit 1
    fi
done
