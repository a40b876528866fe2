#!/usr/bin/env python3
"""Runs the trainer and PyTorch side by side on CIFAR-10, for a person to judge; continuous integration does not run it.

    python follow.py --trainer target/release/trainer --data-dir DIR --model all
    python follow.py --trainer target/release/trainer --data-dir DIR --model nin --curve

DIR holds the binary version of CIFAR-10 (data_batch_1.bin ... test_batch.bin), or a folder cifar-10-batches-bin that
does. Needs torch, numpy and safetensors; golden.py next to this script has the networks. Without --trainer PyTorch runs
alone.

Following (the default)
    Both start from one PyTorch initialisation and take the same batches: images in file order, no augmentation, no
    dropout. Three checks for each network:
    * the first loss, before any update, agrees to FIRST_LOSS (relative);
    * over 10 steps, and over all steps, the trainer differs from PyTorch's NCHW run by at most RATIO times what
      PyTorch's channels_last run differs from it by (in the first steps these may be equal to the bit: FIRST_LOSS of
      the first loss always passes).
    Adam divides by the gradient's own size and so amplifies any rounding: how far two correct programs drift apart is a
    property of the network and the batches, which has to be measured. With --noise N, N more PyTorch runs carry noise
    in every convolution as large as the rounding of a Winograd convolution in f32 (golden.py: NOISE). They are shown
    but not judged by: they help to judge an engine with Winograd convolutions that fails the ratio.
    The ratio finds only gross errors: a PyTorch run without weight decay, or with a rate 1 % higher, passes it over 10
    and over 30 steps for all three networks. Small errors of the recipe are found by the golden values (README.md).

The curve (--curve)
    The study's whole recipe on few images: own initialisation, shuffling, crop and flip, dropout. The trainer's epochs
    are shown next to those of CURVE_SEEDS PyTorch seeds. Its last train loss must lie in the 95 % prediction interval of
    these seeds; the test figures are shown and not judged: after so few steps BatchNorm's statistics are still young.

Exit code: 0 all checks passed, 1 a check failed or the trainer did, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from golden import BETAS, EPS, LR, MEAN, NETS, STD, WEIGHT_DECAY, disturb_convolutions
from safetensors.torch import save_file
from torch import Tensor

FIRST_LOSS = 1e-5
RATIO = 4.0
EARLY_STEPS = 10

CURVE_SEEDS = 3
# Student's t for 95 % and CURVE_SEEDS - 1 degrees of freedom: the prediction interval for one more run is
# mean +- T * s * sqrt(1 + 1 / CURVE_SEEDS).
T = 4.303
# Three seeds may agree by luck: an interval is never narrower than this share of the mean.
FLOOR = 0.02

EVAL_BATCH = 500
RECORD_BYTES = 1 + 3 * 32 * 32


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass
class Images:
    """`pixels` (N, 3, 32, 32) u8, `labels` (N,) i64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Images:
        return Images(self.pixels[:count], self.labels[:count])


def data_folder(given: Path) -> Path:
    """The folder itself, or the one in it that the archive unpacks to."""
    inner = given / "cifar-10-batches-bin"
    return inner if inner.is_dir() else given


def load(given: Path, names: list[str]) -> Images:
    """Reads binary files of records: one label byte, then the red, the green and the blue plane, row by row."""
    folder = data_folder(given)
    records = np.concatenate([np.fromfile(folder / name, dtype=np.uint8).reshape(-1, RECORD_BYTES) for name in names])
    pixels = records[:, 1:].reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(pixels.copy()), torch.from_numpy(records[:, 0].astype(np.int64)))


def load_train(folder: Path, count: int) -> Images:
    files = min(5, math.ceil(count / 10_000))
    return load(folder, [f"data_batch_{k}.bin" for k in range(1, files + 1)]).first(count)


def normalise(pixels: Tensor) -> Tensor:
    """u8 to f32 as torchvision's ToTensor and Normalize do it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def crop_flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random 32x32 window of each image in its 4 pixels of black border, mirrored with probability 1/2."""
    count = len(pixels)
    padded = F.pad(pixels, (4, 4, 4, 4))
    dy, dx = torch.randint(0, 9, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    steps = torch.arange(32)
    rows = dy[:, None] + steps  # (N, 32)
    columns = dx[:, None] + torch.where(flip[:, None], 31 - steps, steps)
    image = torch.arange(count)[:, None, None, None]
    channel = torch.arange(3)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def batches_in_file_order(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch without end; the last batch of an epoch may be short."""
    while True:
        for start in range(0, len(images), size):
            window = slice(start, start + size)
            yield normalise(images.pixels[window]), images.labels[window]


# ------------------------------------------------------------------------------------------------------------- PyTorch


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> tuple[float, int]:
    """One update: the batch's mean loss and how many it had right, both before the update."""
    optimizer.zero_grad()
    logits = net(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item(), int((logits.argmax(1) == labels).sum())


def follow_torch(
    model: str,
    state: dict[str, Tensor],
    images: Images,
    batch_size: int,
    steps: int,
    layout: torch.memory_format = torch.contiguous_format,
    noise_seed: int | None = None,
) -> np.ndarray:
    """The losses of PyTorch's steps from `state`, without dropout."""
    net = NETS[model](dropout=0.0)
    net.load_state_dict(state)
    net = net.to(memory_format=layout).train()
    if noise_seed is not None:
        disturb_convolutions(net, noise_seed)
    optimizer = adam(net)
    batches = batches_in_file_order(images, batch_size)
    losses = []
    for _ in range(steps):
        inputs, labels = next(batches)
        losses.append(step(net, optimizer, inputs.contiguous(memory_format=layout), labels)[0])
    return np.array(losses)


@dataclass
class Epoch:
    """Mean losses, and accuracies as fractions."""

    train_loss: float
    train_acc: float
    test_loss: float
    test_acc: float


def curve_torch(
    model: str, train: Images, test: Images, epochs: int, batch_size: int, seed: int, last_only: bool = False
) -> list[Epoch]:
    """The study's recipe in PyTorch. With `last_only` the test images are evaluated only after the last epoch."""
    torch.manual_seed(seed)  # initial values, and dropout
    generator = torch.Generator().manual_seed(seed)  # order and augmentation
    net = NETS[model]().to(memory_format=torch.channels_last)
    optimizer = adam(net)
    curve = []
    for epoch in range(1, epochs + 1):
        net.train()
        loss_sum, right = 0.0, 0
        for chosen in torch.randperm(len(train), generator=generator).split(batch_size):
            inputs = normalise(crop_flip(train.pixels[chosen], generator))
            loss, hits = step(
                net, optimizer, inputs.contiguous(memory_format=torch.channels_last), train.labels[chosen]
            )
            loss_sum += loss * len(chosen)
            right += hits
        if last_only and epoch < epochs:
            curve.append(Epoch(loss_sum / len(train), right / len(train), math.nan, math.nan))
            continue
        net.eval()
        test_loss, test_right = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(test), EVAL_BATCH):
                window = slice(start, start + EVAL_BATCH)
                logits = net(normalise(test.pixels[window]).contiguous(memory_format=torch.channels_last))
                test_loss += F.cross_entropy(logits, test.labels[window], reduction="sum").item()
                test_right += int((logits.argmax(1) == test.labels[window]).sum())
        curve.append(Epoch(loss_sum / len(train), right / len(train), test_loss / len(test), test_right / len(test)))
    return curve


# ------------------------------------------------------------------------------------------------------------- trainer


class TrainerFailed(Exception):
    """The trainer ended with an error, or did not write what it should have."""


def run_trainer(arguments: argparse.Namespace, run_dir: Path, options: list[str]) -> list[dict]:
    """Runs `trainer train` and returns the records of its metrics.jsonl."""
    command = [str(arguments.trainer), "train", "--run-dir", str(run_dir), "--data-dir", str(arguments.data_dir)]
    for name in ("engine", "device", "threads"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name}", str(value)]
    command += options
    print("  $", shlex.join(command), flush=True)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise TrainerFailed(f"exit code {done.returncode}\n{done.stderr[-2000:]}")
    print(f"  trainer: {time.monotonic() - started:.1f} s")
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        raise TrainerFailed("no metrics.jsonl in the run folder")
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def follow_trainer(arguments: argparse.Namespace, model: str, state: dict[str, Tensor], limit: int) -> np.ndarray:
    """The losses of the trainer's steps from `state`."""
    with tempfile.TemporaryDirectory(prefix="follow-") as folder:
        init = Path(folder) / "init.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, init)
        steps_an_epoch = math.ceil(limit / arguments.batch_size)
        records = run_trainer(arguments, Path(folder) / "run", [
            "--model", model, "--init", str(init), "--augment", "none", "--shuffle", "false", "--dropout", "0",
            "--batch-size", str(arguments.batch_size), "--epochs", str(math.ceil(arguments.steps / steps_an_epoch)),
            "--max-steps", str(arguments.steps), "--log-every", "1", "--seed", str(arguments.seed),
            "--limit-train", str(limit), "--limit-test", str(arguments.limit_test or 100),
        ])  # fmt: skip
    losses = {record["step"]: record["loss"] for record in records if record["kind"] == "step"}
    if sorted(losses) != list(range(1, arguments.steps + 1)):
        raise TrainerFailed(f"metrics.jsonl has steps {sorted(losses)}, not 1..{arguments.steps}")
    return np.array([losses[k] for k in sorted(losses)])


def curve_trainer(arguments: argparse.Namespace, model: str, limit: int, limit_test: int) -> list[Epoch]:
    with tempfile.TemporaryDirectory(prefix="follow-") as folder:
        records = run_trainer(arguments, Path(folder) / "run", [
            "--model", model, "--batch-size", str(arguments.batch_size), "--epochs", str(arguments.epochs),
            "--seed", str(arguments.seed), "--limit-train", str(limit), "--limit-test", str(limit_test),
        ])  # fmt: skip
    names = Epoch.__dataclass_fields__
    curve = [Epoch(**{name: record[name] for name in names}) for record in records if record["kind"] == "epoch"]
    if len(curve) != arguments.epochs:
        raise TrainerFailed(f"metrics.jsonl has {len(curve)} epochs, not {arguments.epochs}")
    return curve


# ------------------------------------------------------------------------------------------------------------- reports


def check(passed: bool, text: str) -> bool:
    print(f"  {'ok  ' if passed else 'FAIL'}  {text}")
    return passed


def follow(arguments: argparse.Namespace, model: str) -> bool:
    """Prints the comparison of one network; true if every check passed."""
    limit = min(50_000, arguments.limit_train or arguments.steps * arguments.batch_size)
    images = load_train(arguments.data_dir, limit)
    torch.manual_seed(arguments.seed)
    state = {key: value.clone() for key, value in NETS[model]().state_dict().items()}

    print(
        f"{model}: {arguments.steps} steps of {arguments.batch_size}, {limit} images, seed {arguments.seed}", flush=True
    )
    given = (model, state, images, arguments.batch_size, arguments.steps)
    nchw = follow_torch(*given)
    others = {"channels_last": follow_torch(*given, layout=torch.channels_last)}
    for seed in range(1, arguments.noise + 1):
        others[f"noise {seed}"] = follow_torch(*given, noise_seed=seed)
    if arguments.trainer is not None:
        others["trainer"] = follow_trainer(arguments, model, state, limit)

    print("  step     NCHW loss" + "".join(f"{'|' + name + ' - NCHW|':>26}" for name in others))
    for k, loss in enumerate(nchw):
        print(f"  {k + 1:4}  {loss:12.8f}" + "".join(f"{abs(losses[k] - loss):26.3e}" for losses in others.values()))
    for name, losses in others.items():
        spans = [f"{np.abs(losses - nchw)[:n].max():.3e} over {n}" for n in spans_of(arguments.steps)]
        print(f"  {name:14} largest difference from NCHW: {', '.join(spans)}")
    if (trainer := others.pop("trainer", None)) is None:
        return True

    first = abs(trainer[0] - nchw[0]) / nchw[0]
    passed = [check(first <= FIRST_LOSS, f"first loss: relative difference {first:.2e} (at most {FIRST_LOSS:.0e})")]
    for n in spans_of(arguments.steps):
        spans = {name: float(np.abs(losses - nchw)[:n].max()) for name, losses in others.items()}
        ours, layouts = float(np.abs(trainer - nchw)[:n].max()), spans["channels_last"]
        ratio = ours / layouts if layouts else math.inf
        text = f"{n} steps: {ours:.3e} is {ratio:.2f} times PyTorch's own {layouts:.3e} (at most {RATIO:g})"
        passed.append(check(ours <= max(RATIO * layouts, FIRST_LOSS * nchw[0]), text))
        if arguments.noise:
            print(f"        {n} steps: {ours / max(spans.values()):.2f} times the largest of PyTorch's, noise included")
    return all(passed)


def spans_of(steps: int) -> list[int]:
    return sorted({min(EARLY_STEPS, steps), steps})


def curve(arguments: argparse.Namespace, model: str) -> bool:
    """Prints the epochs of one network side by side; true if the trainer's last train loss is plausible."""
    limit, limit_test = arguments.limit_train or 2_000, arguments.limit_test or 1_000
    train = load_train(arguments.data_dir, limit)
    test = load(arguments.data_dir, ["test_batch.bin"]).first(limit_test)
    print(f"{model}: {arguments.epochs} epochs of {limit} images, batch {arguments.batch_size}, tested on {limit_test}")

    runs = {}
    for seed in range(arguments.seed, arguments.seed + CURVE_SEEDS):
        runs[f"torch seed {seed}"] = curve_torch(model, train, test, arguments.epochs, arguments.batch_size, seed)
        print(f"  PyTorch, seed {seed}: done", flush=True)
    seeds = list(runs.values())
    if arguments.trainer is not None:
        runs["trainer"] = curve_trainer(arguments, model, limit, limit_test)

    print(f"  {'':14}" + "".join(f"{title:>12}" for title in ("train loss", "train acc", "test loss", "test acc")))
    for k in range(arguments.epochs):
        for name, epochs in runs.items():
            e = epochs[k]
            row = f"{e.train_loss:12.4f}{e.train_acc:12.2%}{e.test_loss:12.4f}{e.test_acc:12.2%}"
            print(f"  {k + 1} {name:12}{row}")

    passed = True
    for field in Epoch.__dataclass_fields__:
        values = [getattr(epochs[-1], field) for epochs in seeds]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        line = f"last {field}: PyTorch {mean:.4f}, standard deviation {spread:.4f} over {CURVE_SEEDS} seeds"
        if "trainer" not in runs:
            print(f"        {line}")
            continue
        ours = getattr(runs["trainer"][-1], field)
        line += f"; trainer {ours:.4f}, difference {ours - mean:+.4f}"
        if field == "train_loss":
            half = max(T * spread * math.sqrt(1 + 1 / CURVE_SEEDS), FLOOR * mean)
            passed = check(abs(ours - mean) <= half, f"{line} (at most {half:.4f})")
        else:
            print(f"        {line}")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, help="the binary; without it, PyTorch alone")
    parser.add_argument("--data-dir", type=Path, required=True, help="CIFAR-10, binary version")
    parser.add_argument("--model", choices=[*NETS, "all"], default="all")
    parser.add_argument("--curve", action="store_true", help="compare whole epochs of the default recipe")
    parser.add_argument("--steps", type=int, default=30, help="steps to follow [30]")
    parser.add_argument("--noise", type=int, default=0, metavar="N", help="also N PyTorch runs with noise [0]")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the curve [3]")
    parser.add_argument("--batch-size", type=int, help="[63; with --curve 126]")
    parser.add_argument("--limit-train", type=int, help="training images [steps * batch size; with --curve 2000]")
    parser.add_argument("--limit-test", type=int, help="test images [100; with --curve 1000]")
    parser.add_argument("--seed", type=int, default=0, help="first seed of PyTorch, and the trainer's [0]")
    parser.add_argument("--engine", help="the trainer's --engine")
    parser.add_argument("--device", help="the trainer's --device")
    parser.add_argument("--threads", type=int, help="the trainer's --threads")
    parser.add_argument("--torch-threads", type=int, default=1, help="PyTorch's threads [1]")
    arguments = parser.parse_args()
    if arguments.batch_size is None:
        arguments.batch_size = 126 if arguments.curve else 63
    for name in ("steps", "epochs", "batch_size", "limit_train", "limit_test", "torch_threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not (data_folder(arguments.data_dir) / "data_batch_1.bin").is_file():
        parser.error(f"no data_batch_1.bin in {arguments.data_dir}")
    if arguments.trainer is not None and not arguments.trainer.is_file():
        parser.error(f"no trainer at {arguments.trainer}")
    torch.set_num_threads(arguments.torch_threads)

    passed = []
    for model in NETS if arguments.model == "all" else [arguments.model]:
        try:
            passed.append((curve if arguments.curve else follow)(arguments, model))
        except TrainerFailed as error:
            passed.append(check(False, f"trainer: {error}"))
        print(flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
