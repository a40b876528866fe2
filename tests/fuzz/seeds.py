"""Makes the invented seeds that are not text: python3 tests/fuzz/seeds.py (needs Pillow for images and pyarrow for parquet)."""

import io
import json
import pickle
import struct
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

SEEDS = Path(__file__).parent / "seeds"


def put(target, name, contents):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(contents)


def record(coarse, fine):
    return bytes([coarse, fine]) + bytes(3071) + b"\1"


def archives():
    def tar(members, format=tarfile.USTAR_FORMAT):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=format) as archive:
            for name, contents, changes in members:
                info = tarfile.TarInfo(name)
                info.size = len(contents)
                for key, value in changes.items():
                    setattr(info, key, value)
                archive.addfile(info, io.BytesIO(contents))
        # One block of zeros ends it: the rest is padding.
        bytes_ = packed.getvalue().rstrip(b"\0")
        return bytes_ + bytes(-len(bytes_) % 512 + 1024)

    train = ("cifar-100-binary/train.bin", record(1, 2), {})
    test = ("cifar-100-binary/test.bin", record(19, 99), {})
    put("archive", "whole", tar([train, test]))
    link = ("cifar-100-binary/train.bin", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})
    put("archive", "symlink", tar([link, test]))
    put("archive", "above", tar([("../cifar-100-binary/train.bin", record(1, 2), {})]))
    put("archive", "twice", tar([train, train]))
    long = ("cifar-100-binary/" + 60 * "x/" + "y", b"z", {})
    put("archive", "gnu_long_name", tar([long], tarfile.GNU_FORMAT))
    put("archive", "pax", tar([(long[0], b"z", {"pax_headers": {"size": "1", "comment": "é"}})], tarfile.PAX_FORMAT))
    put("archive", "python_version", tar([("cifar-100-python/train", b"x", {})]))
    # A header that claims a member larger than any disk.
    header = bytearray(tar([train])[:512])
    header[124:136] = b"\x80" + bytes(3) + b"\x7f" + bytes(7)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    put("archive", "huge_member", bytes(header))
    for name, start in [("page", b"<html>"), ("zip", b"PK\3\4"), ("pointer", b"version https://git-lfs")]:
        put("archive", name, start)


def batches():
    put("batches", "one_each", b"\x80" + record(0, 1) + record(19, 99))
    put("batches", "bad_label", b"\x80" + record(0, 1) + record(20, 99))
    put("batches", "short", b"\x40" + record(0, 1) + record(0, 2)[:-1])


def idx():
    images = struct.pack(">IIII", 0x803, 1, 28, 28) + bytes(784)
    labels = struct.pack(">II", 0x801, 4) + bytes([0, 9, 3, 5])
    put("idx", "images", b"\0" + images)
    put("idx", "labels", b"\1" + labels)
    put("idx", "gzipped_labels", b"\x83" + labels)
    put("idx", "bad_label", b"\3" + labels[:-1] + b"\x0a")
    put("idx", "many", b"\0" + struct.pack(">IIII", 0x803, 0xFFFFFFFF, 28, 28))
    put("idx", "page", b"\0<html>")


def images():
    picture = Image.new("RGB", (20, 12))
    picture.putdata([(x * 12 % 256, y * 20 % 256, x * y % 256) for y in range(12) for x in range(20)])
    kinds = {
        "rgb.png": (picture, {}),
        "grey.png": (picture.convert("L"), {}),
        "palette.png": (picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=16), {}),
        "bits.png": (picture.convert("1"), {}),
        "alpha.png": (picture.convert("RGBA"), {}),
        "sixteen.png": (picture.convert("I;16"), {}),
        "baseline.jpeg": (picture, {"quality": 50}),
        "progressive.jpeg": (picture, {"quality": 50, "progressive": True}),
        "grey.jpeg": (picture.convert("L"), {}),
        "cmyk.jpeg": (picture.convert("CMYK"), {"quality": 30}),
        "restarts.jpeg": (picture, {"restart_marker_blocks": 1}),
        "lossy.webp": (picture, {"quality": 30}),
        "lossless.webp": (picture, {"lossless": True}),
        "alpha.webp": (picture.convert("RGBA"), {"quality": 30}),
    }
    for name, (image, options) in kinds.items():
        contents = io.BytesIO()
        if name == "baseline.jpeg":
            exif = Image.Exif()
            exif[0x0112] = 6
            options = {**options, "exif": exif}
        image.save(contents, name.rsplit(".")[1], **options)
        put("image", name, contents.getvalue())


def parquet():
    def png(color, size=(32, 32)):
        contents = io.BytesIO()
        Image.new("RGB", size, color).save(contents, "png")
        return contents.getvalue()

    def file(images, labels, **options):
        images = [None if image is None else {"bytes": image, "path": "x.png"} for image in images]
        img = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        schema = pyarrow.schema([("img", img), ("label", pyarrow.int64())])
        contents = io.BytesIO()
        table = pyarrow.table({"img": images, "label": labels}, schema=schema)
        pyarrow.parquet.write_table(table, contents, store_schema=False, **options)
        return contents.getvalue()

    images, labels = [png((1, 2, 3)), png((200, 100, 0)), png((1, 2, 3))], [0, 9, 0]
    for compression in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
        put("parquet", compression, file(images, labels, compression=compression))
    put("parquet", "plain", file(images, labels, compression="none", use_dictionary=False))
    put("parquet", "second_version", file(images, labels, data_page_version="2.0", write_page_checksum=True))
    put("parquet", "deltas", file(images, labels, use_dictionary=False, column_encoding={
        "img.bytes": "DELTA_BYTE_ARRAY", "img.path": "DELTA_LENGTH_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"}))
    put("parquet", "two_groups", file(images, labels, row_group_size=2, write_page_index=True))
    put("parquet", "null", file([images[0], None], labels[:2]))
    put("parquet", "bad_label", file(images[:1], [10]))
    put("parquet", "bad_size", file([png((1, 2, 3), (31, 32))], [1]))


def safetensors():
    def file(tensors, metadata=None):
        header, data = {}, b""
        if metadata is not None:
            header["__metadata__"] = metadata
        for name, dtype, shape, contents in tensors:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(contents)]}
            data += contents
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    meta = {"model": "nin", "dropout": 0.5, "seed": 1, "epoch": 1, "step": 7, "best": None, "position": None}
    position = {"batch": 1, "loss_sum": 0.5, "correct": 1, "samples": 2, "last_loss": 0.25}
    best = {"epoch": 1, "accuracy": 0.5, "loss": 1.0}
    one = struct.pack("<f", 1.0)
    put("safetensors", "two", file([("4.weight", "F32", [1, 2], 2 * one), ("4.bias", "F16", [1], b"\0\x3c")]))
    put("safetensors", "nan", file([("w.weight", "F32", [1], b"\0\0\xc0\x7f")]))
    put("safetensors", "counts", file([("1.num_batches_tracked", "I64", [], bytes(8)), ("epoch", "F64", [], bytes(8))]))
    text = json.dumps({**meta, "position": position, "best": best})
    tensors = [("w.weight", "F32", [1], one), ("optimizer.exp_avg.w.weight", "F32", [1], one)]
    put("safetensors", "ours", file([*tensors, ("average.w.weight", "F32", [1], one)], {"pointwise": text}))
    put("safetensors", "long_header", struct.pack("<Q", 1 << 40) + b"{")
    put("safetensors", "nested", struct.pack("<Q", 400) + b'{"a":' + 395 * b"[")
    put("safetensors", "overflow", file([("w", "F32", [1 << 33, 1 << 33], one)]))


def pickles():
    """Pickles alone, as torch.save writes them; whole files of real PyTorch are in tests/pytorch/weights."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpuK%ctQK\0"
        b"(K\x02K\x02t(K\x02K\x01t\x89ccollections\nOrderedDict\n)RtR"
    )
    entry = lambda name, storage, count: b"X" + struct.pack("<I", len(name)) + name + tensor % (storage, count)
    both = b"(" + entry(b"4.weight", b"0", 24) + entry(b"4.bias", b"1", 4) + b"u"
    put("pytorch", "state_dict", b"p\x80\x02}" + both + b".")
    put("pytorch", "ordered", b"p\x80\x02ccollections\nOrderedDict\n)R" + both + b".")
    put("pytorch", "under_a_key", b"p\x80\x02}X\x05\0\0\0modelq\0}q\1" + both + b"s.")
    put("pytorch", "numbers", b"p" + pickle.dumps({"epoch": 3, "lr": 0.5, "name": "x", "all": [1, (2, None)]}, 2))
    put("pytorch", "doubling", b"p\x80\x02N" + b"".join(bytes([113, i, 104, i, 0x86]) for i in range(40)) + b".")
    put("pytorch", "one_more_key", b"p\x80\x02}" + both + b"X\1\0\0\0xK\1s.")
    put("pytorch", "deep", b"p\x80\x02N" + 300 * b"\x85" + b".")


def runs():
    """One file of a run folder each, after a byte that says which."""
    names = ["config.toml", "environment.json", "metrics.jsonl", "progress.json", "result.json", "analysis.json"]
    for number, name in enumerate(names):
        put("run", name, bytes([number]) + (Path(__file__).parent / "run" / name).read_bytes())
    put("run", "torn_line", b"\2" + (Path(__file__).parent / "run/metrics.jsonl").read_bytes()[:-9])
    put("run", "huge_number", b'\3{"epoch": 1e999}')
    put("run", "deep", b"\4" + 300 * b"[")


for make in [archives, batches, idx, images, parquet, safetensors, pickles, runs]:
    make()
