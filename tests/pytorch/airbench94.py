#!/usr/bin/env python3
"""The training of the study `airbench94` in PyTorch: to time it next to the trainer, and to train with it.

    python airbench94.py time --trainer target/release/trainer --data-dir DIR --record data/records/DATE-airbench94-PROCESSOR.jsonl
    python airbench94.py train --data-dir DIR --seed 1

The recipe is Keller Jordan's (arXiv 2404.00498), rewritten for 32-bit floats on a CPU, in PyTorch's memory format channels_last: sums of
losses, parameter groups, half of the images mirrored in every other epoch, random shifts, lookahead, the whitening layer. DIR holds the
binary version of CIFAR-10. Needs torch and numpy.

time
    ROUNDS times STEPS steps of PyTorch, then as many of the trainer, which resumes its run; before them WARMUP steps that do not count. A
    line of the record for each side and round. Whole steps: images shifted and mirrored, forward, loss, backward, optimizer,
    lookahead. PyTorch makes the images of an epoch at its beginning; their share of a step is added to each.

train
    A whole training; a line of JSON for each epoch, and one for the test at the end, on plain images and on six views of each.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

EPOCHS, BATCH, LR, MOMENTUM, DECAY, BIAS_SCALE, SMOOTHING = 9.9, 1024, 11.5, 0.85, 0.0153, 64.0, 0.2
WHITENING_EPOCHS, WHITENING_IMAGES, WHITENING_EPS = 3, 5000, 5e-4
SHIFT, VIEW_SHIFT = 2, 1
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ROUNDS, STEPS, WARMUP = 10, 10, 2


def load(folder: Path, files: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images, channels_last, and labels."""
    records = np.concatenate([np.fromfile(folder / name, dtype=np.uint8).reshape(-1, 3073) for name in files])
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    images = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first filters pass their input's channels on."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight.data[:inputs])
    return made


def norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    made.weight.requires_grad = False
    return made


def group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs), nn.MaxPool2d(2), norm(outputs), nn.GELU(),
        convolution(outputs, outputs), norm(outputs), nn.GELU(),
    )  # fmt: skip


class Scale(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values / 9


def network(images: torch.Tensor) -> nn.Sequential:
    """The network, with a whitening layer computed from images."""
    first = nn.Conv2d(3, 24, 2)
    nn.init.zeros_(first.bias)
    first.weight.requires_grad = False
    patches = images[:WHITENING_IMAGES].unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    moments = (patches.double().T @ patches.double()) / len(patches)
    values, vectors = torch.linalg.eigh(moments)
    scaled = (vectors / torch.sqrt(values + WHITENING_EPS)).T.flip(0).float().reshape(12, 3, 2, 2)
    first.weight.data = torch.cat([scaled, -scaled])
    made = nn.Sequential(
        first, nn.GELU(), group(24, 64), group(64, 256), group(256, 256), nn.MaxPool2d(3), nn.Flatten(),
        nn.Linear(256, 10, bias=False), Scale(),
    )  # fmt: skip
    return made.to(memory_format=torch.channels_last)


class Training:
    """A training that can be taken step by step."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, seed: int):
        torch.manual_seed(seed)
        self.images, self.labels = images, labels
        self.model = network(images)
        self.steps_per_epoch = len(images) // BATCH
        self.steps = math.ceil(self.steps_per_epoch * EPOCHS)
        scale = BATCH * (1 + 1 / (1 - MOMENTUM))
        lr, decay = LR / scale, DECAY * BATCH / scale
        norms = [module.bias for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        known = {id(parameter) for parameter in norms}
        others = [own for own in self.model.parameters() if own.requires_grad and id(own) not in known]
        groups = [
            {"params": norms, "lr": lr * BIAS_SCALE, "weight_decay": decay / (lr * BIAS_SCALE)},
            {"params": others, "lr": lr, "weight_decay": decay / lr},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
        peak = int(0.23 * self.steps)
        rates = np.interp(np.arange(self.steps + 1), [0, peak, self.steps], [0.2, 1, 0.07])
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rates[step])
        self.slow = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.step, self.image_seconds = 0, 0.0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        start = time.perf_counter()
        epoch = self.step // self.steps_per_epoch
        count = len(self.images)
        if epoch == 0:
            mirrored = (torch.rand(count) < 0.5).view(-1, 1, 1, 1)
            flipped = torch.where(mirrored, self.images.flip(-1), self.images)
            self.padded = functional.pad(flipped, (SHIFT,) * 4, "reflect")
        shifts = torch.randint(0, 2 * SHIFT + 1, (count, 2))
        made = torch.empty_like(self.images)
        for row in range(2 * SHIFT + 1):
            for column in range(2 * SHIFT + 1):
                here = (shifts[:, 0] == row) & (shifts[:, 1] == column)
                made[here] = self.padded[here, :, row : row + 32, column : column + 32]
        self.epoch_images = made.flip(-1) if epoch % 2 == 1 else made
        self.order = torch.randperm(count)
        self.model[0].bias.requires_grad = epoch < WHITENING_EPOCHS
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0
        self.model.train()
        self.image_seconds = time.perf_counter() - start

    def look_ahead(self, decay: float) -> None:
        for slow, own in zip(self.slow.values(), self.model.state_dict().values()):
            if own.is_floating_point():
                slow.lerp_(own, 1 - decay)
                own.copy_(slow)

    def take(self) -> float:
        """One step; the mean loss of its batch."""
        place = self.step % self.steps_per_epoch
        if self.step > 0 and place == 0:
            self.begin_epoch()
        chosen = self.order[place * BATCH : (place + 1) * BATCH]
        images, labels = self.epoch_images[chosen], self.labels[chosen]
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="none").sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.step % 5 == 0:
            self.look_ahead(0.95**5 * (self.step / self.steps) ** 3)
        if self.step == self.steps:
            self.look_ahead(1.0)
        self.loss_sum += loss.item()
        self.correct += (logits.argmax(1) == labels).sum().item()
        self.seen += len(labels)
        return loss.item() / len(labels)

    @torch.inference_mode()
    def test(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        """Accuracy on plain images, and on six views of each."""
        self.model.eval()

        def mirrored(batch: torch.Tensor) -> torch.Tensor:
            return (self.model(batch) + self.model(batch.flip(-1))) / 2

        plain, viewed = 0, 0
        for batch, truth in zip(images.split(1000), labels.split(1000)):
            plain += (self.model(batch).argmax(1) == truth).sum().item()
            padded = functional.pad(batch, (VIEW_SHIFT,) * 4, "reflect")
            moved = [padded[:, :, at : at + 32, at : at + 32] for at in (0, 2 * VIEW_SHIFT)]
            logits = mirrored(batch) / 2 + (mirrored(moved[0]) + mirrored(moved[1])) / 4
            viewed += (logits.argmax(1) == truth).sum().item()
        return plain / len(labels), viewed / len(labels)


TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]


def train(arguments: argparse.Namespace) -> None:
    training = Training(*load(arguments.data_dir, TRAIN), arguments.seed)
    test = load(arguments.data_dir, ["test_batch.bin"])
    steps = min(training.steps, arguments.steps or training.steps)
    start = time.perf_counter()
    while training.step < steps:
        training.take()
        if training.step % training.steps_per_epoch == 0 or training.step == steps:
            row = {
                "part": "train", "side": "pytorch", "seed": arguments.seed, "step": training.step,
                "train_loss": training.loss_sum / training.seen, "train_acc": training.correct / training.seen,
                "seconds": time.perf_counter() - start,
            }  # fmt: skip
            print(json.dumps(row), flush=True)
    plain, viewed = training.test(*test)
    print(json.dumps({"part": "test", "seed": arguments.seed, "test_acc": plain, "tta_test_acc": viewed}))


def recipe(study: Path) -> str:
    """The recipe's part of the study's file."""
    found = re.search(r"^\[recipe\]\n.*?(?=^\[)", study.read_text(encoding="utf-8"), re.S | re.M)
    if found is None:
        sys.exit(f"error: {study} has no recipe")
    return found.group(0)


def trainer_steps(arguments: argparse.Namespace, folder: Path, until: int) -> list[float]:
    """Seconds of the trainer's newest STEPS steps, of a run that continues until that one."""
    config, run = folder / "config.toml", folder / "run"
    config.write_text(recipe(arguments.study), encoding="utf-8")
    line = [
        arguments.trainer, "train", "--model", "airbench94", "--config", config, "--run-dir", run, "--resume", "--quiet",
        "--data-dir", arguments.data_dir, "--threads", str(arguments.threads), "--max-steps", str(until), "--log-every", "1",
        "--limit-test", "100",
    ]  # fmt: skip
    subprocess.run([str(word) for word in line], check=True)
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = {record["step"]: record["seconds"] for record in records if record["kind"] == "step"}
    return [seconds[step] - seconds[step - 1] for step in range(until - STEPS + 1, until + 1)]


def timed(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    training = Training(*load(arguments.data_dir, TRAIN), 1)
    of_step = training.image_seconds / training.steps_per_epoch
    medians: dict[str, list[float]] = {"pytorch": [], "pointwise": []}
    with tempfile.TemporaryDirectory(prefix="airbench94-") as folder:
        for number in range(1, ROUNDS + 1):
            seconds = []
            for step in range(WARMUP + STEPS):
                start = time.perf_counter()
                training.take()
                if step >= WARMUP:
                    seconds.append(time.perf_counter() - start + of_step)
            sides = {"pytorch": seconds}
            sides["pointwise"] = trainer_steps(arguments, Path(folder), number * (WARMUP + STEPS))
            for side, values in sides.items():
                row = {
                    "part": "time", "round": number, "side": side, "threads": arguments.threads, "seconds": values,
                    "torch": torch.__version__, "processor": processor(), "commit": arguments.commit,
                }  # fmt: skip
                print(json.dumps(row), flush=True)
                with arguments.record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                medians[side].append(statistics.median(values))
    ratios = [theirs / ours for theirs, ours in zip(medians["pytorch"], medians["pointwise"])]
    print(
        f"a step: pytorch {statistics.median(medians['pytorch']):.3f} s, pointwise {statistics.median(medians['pointwise']):.3f} s; "
        f"{statistics.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f} over {ROUNDS} rounds)"
    )


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.*)", text)
    return (found.group(1) if found else platform.processor()) + (", AVX-512" if "avx512f" in text else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("time", help="time steps of both sides")
    part.add_argument("--trainer", type=Path, required=True, help="the release build")
    part.add_argument("--data-dir", type=Path, required=True)
    part.add_argument("--record", type=Path, required=True, help="the file to which lines are appended")
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--study", type=Path, default=Path(__file__).parents[2] / "data/studies/airbench94.toml")
    part.add_argument("--commit", default=None, help="the commit that the trainer was built from, for the record")
    part.set_defaults(run=timed)
    part = parts.add_parser("train", help="train with PyTorch")
    part.add_argument("--data-dir", type=Path, required=True)
    part.add_argument("--seed", type=int, default=1)
    part.add_argument("--steps", type=int, default=None, help="end sooner")
    part.set_defaults(run=train)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
