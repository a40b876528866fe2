#!/usr/bin/env python3
"""Compares the trainer with PyTorch as distributions over seeds, where follow.py compares them step by step.

    python distributions.py recipe --trainer target/release/trainer --data-dir DIR --record recipe.jsonl
    python distributions.py states --trainer target/release/trainer --data-dir DIR --record states.jsonl
    python distributions.py judge recipe.jsonl states.jsonl

Each training run appends a line to the record; the same command continues where it stopped. DIR holds the binary version of
CIFAR-10, as for follow.py, whose PyTorch side this is. Needs torch, numpy and safetensors; `judge` needs scipy.

recipe
    The study's recipe, short: the first IMAGES training images, EPOCHS epochs, crop and flip, shuffling, dropout, own initial
    values. SEEDS seeds a side and network. Compared are the mean training loss of each epoch, and loss and accuracy on the
    test set after the last one.

states
    To test the initial values: STATES initial states of PyTorch's and as many of the trainer's, both trained by the trainer on
    the same batches: images in file order, no augmentation, no dropout. Compared is the mean training loss of the first
    STEPS steps.

judge
    Welch's t test and the Mann-Whitney test of each figure; Holm's correction over the figures of each record. Exit code 1 if a
    corrected p value of Welch's test is below 0.05.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

IMAGES, EPOCHS, SEEDS, BATCH = 5_000, 3, 10, 126
STATES, STEPS = 100, 30
MODELS = ("alexnet_plain", "alexnet", "nin")
SIDES = ("pytorch", "pointwise")
ALPHA = 0.05


def read(record: Path) -> list[dict]:
    """The rows of a record; none if it does not exist yet."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def append(record: Path, row: dict) -> None:
    print(json.dumps(row), flush=True)
    with record.open("a") as file:
        file.write(json.dumps(row) + "\n")


def recipe(arguments: argparse.Namespace) -> None:
    import follow
    import torch

    train, test = follow.load_train(arguments.data_dir, IMAGES), follow.load(arguments.data_dir, ["test_batch.bin"])
    done = {(row["model"], row["seed"], row["side"]) for row in read(arguments.record)}
    for seed in range(SEEDS):
        for model in MODELS:
            for side in SIDES:
                if (model, seed, side) in done:
                    continue
                if side == "pytorch":
                    curve = follow.curve_torch(model, train, test, EPOCHS, BATCH, seed, last_only=True)
                else:
                    arguments.epochs, arguments.batch_size, arguments.seed = EPOCHS, BATCH, seed
                    curve = follow.curve_trainer(arguments, model, IMAGES, len(test))
                append(arguments.record, {
                    "part": "recipe", "model": model, "seed": seed, "side": side, "torch": torch.__version__,
                    **{f"train_loss_{k}": epoch.train_loss for k, epoch in enumerate(curve, 1)},
                    "test_loss": curve[-1].test_loss, "test_acc": curve[-1].test_acc,
                })  # fmt: skip


def states(arguments: argparse.Namespace) -> None:
    import follow
    import torch
    from safetensors.torch import save_file

    model, images = arguments.model, STEPS * BATCH
    done = {(row["model"], row["seed"], row["side"]) for row in read(arguments.record)}
    for seed in range(STATES):
        for side in SIDES:
            if (model, seed, side) in done:
                continue
            with tempfile.TemporaryDirectory(prefix="states-") as folder:
                options = []
                if side == "pytorch":
                    torch.manual_seed(seed)
                    init = Path(folder) / "init.safetensors"
                    state = follow.NETS[model]().state_dict()
                    save_file({key: value.contiguous() for key, value in state.items()}, init)
                    options = ["--init", str(init)]
                records = follow.run_trainer(arguments, Path(folder) / "run", [
                    "--model", model, "--seed", str(seed), "--augment", "none", "--shuffle", "false", "--dropout", "0",
                    "--epochs", "1", "--batch-size", str(BATCH), "--limit-train", str(images), "--limit-test", str(BATCH),
                    *options,
                ])  # fmt: skip
            (epoch,) = (record for record in records if record["kind"] == "epoch")
            append(arguments.record, {
                "part": "states", "model": model, "seed": seed, "side": side, "torch": torch.__version__,
                "train_loss": epoch["train_loss"],
            })  # fmt: skip


def holm(values: list[float]) -> list[float]:
    """Holm's corrected p values, in the order given."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def judge(records: list[Path]) -> bool:
    """Prints a table for each record; true if no difference is significant."""
    from scipy import stats

    good = True
    for record in records:
        rows = read(record)
        known = {"part", "model", "seed", "side", "torch"}
        lines, values = [], []
        for model in MODELS:
            of_model = [row for row in rows if row["model"] == model]
            for figure in [key for key in (of_model[0] if of_model else {}) if key not in known]:
                theirs, ours = (
                    np.array([row[figure] for row in of_model if row["side"] == side]) for side in SIDES
                )
                if min(len(theirs), len(ours)) < 2:
                    continue
                difference = ours.mean() - theirs.mean()
                error = math.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
                values.append(float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue))
                rank = float(stats.mannwhitneyu(ours, theirs).pvalue)
                lines.append((
                    f"{model:14} {figure:13} {len(ours):3} and {len(theirs):3}  {ours.mean():.4f} ± {ours.std(ddof=1):.4f}"
                    f"  {theirs.mean():.4f} ± {theirs.std(ddof=1):.4f}  {difference:+.4f} ± {error:.4f}",
                    rank,
                ))  # fmt: skip
        print(f"{record}: pointwise, PyTorch, difference and its standard error; p by Welch, by Holm, by Mann-Whitney")
        for (line, rank), welch, corrected in zip(lines, values, holm(values)):
            print(f"  {line}  {welch:.4f} {corrected:.4f} {rank:.4f}")
            good &= corrected >= ALPHA
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("recipe", "states"):
        part = parts.add_parser(name)
        part.add_argument("--trainer", type=Path, required=True)
        part.add_argument("--data-dir", type=Path, required=True)
        part.add_argument("--record", type=Path, required=True)
        part.add_argument("--model", choices=MODELS, default="nin", help="of states")
        part.add_argument("--engine")
        part.add_argument("--device")
        part.add_argument("--threads", type=int)
    parts.add_parser("judge").add_argument("records", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.part == "judge":
        return 0 if judge(arguments.records) else 1
    (recipe if arguments.part == "recipe" else states)(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
