#!/usr/bin/env python3
"""check.py TRAINER [--run DIR]... [--network NAME]... [--images N] [--candle PROGRAM]: exported ONNX models, as other programs read them.

Each network that comes with the program is trained until BatchNorm's statistics have forgotten how they began, and so is
`every_layer.toml`, which has what those networks lack; with --run, weights of finished runs are used. They are exported plain, with
BatchNorm folded, and with images as input and probabilities as output. Then

* `onnx.checker` checks each model in full, with its shapes against those that ONNX infers;
* ONNX Runtime answers the images of CIFAR-10's test set (with CIFAR10_DIR, else random ones) one by one and in batches, with the class
  that `trainer predict` gives, and logits that differ by at most 1e-4;
* with --candle, candle-onnx does so as well. If it lacks an operator, it must say so.

Needs the packages onnx, onnxruntime and numpy.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy
import onnx
import onnxruntime

HERE = pathlib.Path(__file__).parent
TRAINING = "--limit-train 160 --limit-test 8 --batch-size 4 --epochs 1 --quiet".split()
# Largest difference of a logit. Ours and ONNX Runtime's convolutions sum in other orders, and Winograd's rounds by more.
TOLERANCE = 1e-4
VARIANTS = {
    "plain": [],
    "folded": ["--fold"],
    "whole": ["--fold", "--preprocess", "--softmax", "--opset", "22"],
}
# Operators that candle-onnx 0.11.1 has only in part, with its error messages.
CANDLE_LACKS = {
    "googlenet": "MaxPool with pads",
    "resnet20": "unsupported 'mode' value \"constant\" for Pad",
    "every_layer": "strides have to be the same on both axis",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    parser.add_argument("--run", action="append", type=pathlib.Path, default=[], help="a finished run")
    parser.add_argument("--network", action="append", default=[], help="check only these")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--candle", help="the program of xtask/peers/candle-onnx")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        pixels = images(arguments.images)
        files = written(pixels, folder)
        runs = arguments.run or trained(arguments, folder)
        for run in runs:
            check(arguments, run, pixels, files, folder)
    print(f"{len(runs)} networks answer as ours")


def images(count):
    """The first images of the test set, u8 of shape (count, rows, columns, channels)."""
    source = os.environ.get("CIFAR10_DIR")
    if source is None:
        print("CIFAR10_DIR is not set: the images are random")
        return numpy.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=numpy.uint8)
    records = numpy.fromfile(pathlib.Path(source) / "test_batch.bin", dtype=numpy.uint8).reshape(-1, 3073)
    planes = records[:count, 1:].reshape(-1, 3, 32, 32)
    return numpy.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def written(pixels, folder):
    """The images as PNG files."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    files = []
    for place, image in enumerate(pixels):
        rows, columns, _ = image.shape
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0))
        lines = b"".join(b"\0" + line.tobytes() for line in image)
        files.append(folder / f"{place:04}.png")
        files[-1].write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b""))
    return files


def trained(arguments, folder):
    data = ["--data", "cifar10"] if "CIFAR10_DIR" in os.environ else ["--data", "synthetic"]
    names = [model["model"] for model in json.loads(output(arguments.trainer, "summary", "--json"))]
    models = [str(HERE / "every_layer.toml"), *names]
    runs = []
    for model in models:
        name = pathlib.Path(model).stem
        if not arguments.network or name in arguments.network:
            runs.append(folder / name)
            output(arguments.trainer, "train", "--model", model, "--run-dir", str(runs[-1]), *data, *TRAINING)
    return runs


def check(arguments, run, pixels, files, folder):
    config = json.loads(metadata(exported(arguments, run, folder, "plain"))["provenance"])["checkpoint"]
    name = config["model"]
    predictions = json.loads(output(arguments.trainer, "predict", "--json", "--checkpoint", str(run), *map(str, files)))
    classes = None
    worst = 0.0
    for variant in VARIANTS:
        path = exported(arguments, run, folder, variant)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        shapes = {value.name: shape(value) for value in inferred.graph.value_info}
        for value in model.graph.value_info:
            assert shapes[value.name] == shape(value), f"{name}: {value.name}"
        found = metadata(path)
        assert json.loads(found["provenance"])["network"] == name
        classes = json.loads(found["classes"])
        probabilities = numpy.array([[row["probabilities"][of] for of in classes] for row in predictions])
        expected = numpy.log(probabilities)
        normalisation = json.loads(found["normalisation"])
        inputs = pixels if variant == "whole" else normalised(pixels, normalisation)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (declared,), (result,) = session.get_inputs(), session.get_outputs()
        ours = {"whole": ("image", "probabilities")}.get(variant, ("input", "logits"))
        assert (declared.name, result.name) == ours
        assert (declared.shape, result.shape) == (["batch", *inputs.shape[1:]], ["batch", len(classes)])
        answers = [session.run(None, {declared.name: part})[0] for part in parts(inputs, 100)]
        one = session.run(None, {declared.name: inputs[:1]})[0]
        difference = compare(f"{name}, {variant}", numpy.concatenate(answers), expected, variant)
        worst = max(worst, difference, compare(f"{name}, {variant}, one image", one, expected[:1], variant))
    candle = f", candle-onnx {candle_answers(arguments, run, folder, name, pixels, expected, normalisation)}" if arguments.candle else ""
    print(f"{name}: {len(files)} images, largest difference of a logit {worst:.1e}{candle}", flush=True)


def compare(what, answers, expected, variant):
    """Logits are compared up to their mean, which a softmax ignores."""
    answers = answers.astype(numpy.float64)
    if variant == "whole":
        assert numpy.allclose(answers.sum(axis=1), 1, atol=1e-5), what
        difference = numpy.abs(answers - numpy.exp(expected)).max()
    else:
        centred = [values - values.mean(axis=1, keepdims=True) for values in (answers, expected)]
        difference = numpy.abs(centred[0] - centred[1]).max()
    assert difference <= TOLERANCE, f"{what}: a difference of {difference}"
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all(), f"{what}: another class"
    return difference


def candle_answers(arguments, run, folder, name, pixels, expected, normalisation):
    few = 20
    inputs = folder / "inputs.f32"
    inputs.write_bytes(normalised(pixels[:few], normalisation).tobytes())
    differences = []
    for variant in ("plain", "folded"):
        command = [arguments.candle, exported(arguments, run, folder, variant), str(inputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lacks = CANDLE_LACKS.get(name)
        if lacks is not None:
            assert done.returncode != 0 and lacks in done.stderr, f"{name}: {done.stderr or 'candle-onnx has it now'}"
            return f"lacks an operator ({lacks})"
        assert done.returncode == 0, f"{name}: {done.stderr}"
        answers = numpy.array(json.loads(done.stdout))
        differences.append(compare(f"{name}, {variant}, candle-onnx", answers, expected[:few], variant))
    return f"{max(differences):.1e}"


def exported(arguments, run, folder, variant):
    path = folder / f"{run.name}-{variant}.onnx"
    if not path.exists():
        output(arguments.trainer, "export", str(run), "--format", "onnx", "--out", str(path), *VARIANTS[variant])
    return str(path)


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def normalised(pixels, normalisation):
    mean, std = (numpy.array(normalisation[key], dtype=numpy.float32) for key in ("mean", "std"))
    values = (pixels.astype(numpy.float32) / numpy.float32(255) - mean) / std
    return numpy.ascontiguousarray(values.transpose(0, 3, 1, 2))


def shape(value):
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def parts(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:6])} ...: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
