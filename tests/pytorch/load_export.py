#!/usr/bin/env python3
"""load_export.py TRAINER [NETWORK]...: PyTorch loads exported weights.

Each network with a class in this folder, or each named one, is trained until BatchNorm's statistics have forgotten how they
began, and exported. `torch.load(weights_only=True)` reads the file, also by mapping it into memory, `load_state_dict(strict=True)` accepts what
it reads, every type and shape is the module's own, and the module then answers images as `trainer predict` does. Needs torch, torchvision and
numpy.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from PIL import Image

import golden
import networks

TRAINING = "--data synthetic --limit-train 160 --limit-test 8 --batch-size 4 --epochs 1 --quiet".split()
IMAGES = 8
# Largest difference of a logit: the two sum in different orders.
TOLERANCE = 1e-4


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: load_export.py TRAINER [NETWORK]...")
    trainer, *names = sys.argv[1:]
    makers = {**golden.NETS, **{name: shipped.make for name, shipped in networks.NETWORKS.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or makers:
            check(trainer, name, makers[name](), pathlib.Path(folder))
    print(f"PyTorch loads the weights of {len(names or makers)} networks")


def check(trainer, name, module, folder):
    run, path = folder / name, folder / f"{name}.pt"
    output(trainer, "train", "--model", name, "--run-dir", str(run), *TRAINING)
    output(trainer, "export", str(run), "--format", "pytorch", "--out", str(path))
    state = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    expected = module.state_dict()
    assert sorted(state) == sorted(expected), name
    for key, tensor in state.items():
        assert (tensor.dtype, tensor.shape) == (expected[key].dtype, expected[key].shape), f"{name}: {key}"
        assert torch.equal(tensor, mapped[key]), f"{name}: {key}"
    module.load_state_dict(state, strict=True)
    module.eval()

    pixels = numpy.random.default_rng(1).integers(0, 256, (IMAGES, 32, 32, 3), dtype=numpy.uint8)
    files = [folder / f"{place}.png" for place in range(IMAGES)]
    for image, file in zip(pixels, files):
        Image.fromarray(image).save(file)
    rows = json.loads(output(trainer, "predict", "--json", "--checkpoint", str(run), *map(str, files)))
    dataset = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    data = described(run)
    mean, std = (torch.tensor(data[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = module((dataset - mean) / std).double()
    logits -= logits.mean(dim=1, keepdim=True)
    ours = torch.tensor([[row["probabilities"][of] for of in data["classes"]] for row in rows], dtype=torch.float64).log()
    ours -= ours.mean(dim=1, keepdim=True)
    worst = (ours - logits).abs().max().item()
    assert worst <= TOLERANCE, f"{name}: a difference of {worst}"
    print(f"{name}: largest difference of a logit {worst:.1e}", flush=True)


def described(run):
    """Classes, mean and deviation of the images, from the metadata of the run's weights."""
    bytes = (run / "checkpoints" / "best.safetensors").read_bytes()
    header = json.loads(bytes[8 : 8 + int.from_bytes(bytes[:8], "little")])
    return json.loads(header["__metadata__"]["pointwise"])["run"]["dataset"]


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:6])} ...: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
