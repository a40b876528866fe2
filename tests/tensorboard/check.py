#!/usr/bin/env python3
"""check.py TRAINER: TensorBoard's own reader reads the events of a training.

The training is stopped and set back to an older checkpoint, as after a kill, so that some steps are taken twice: each must be
shown once. Needs the package `tensorboard`.
"""

import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PARAMETERS = 1_485_386
TRAINING = (
    "train --model nin --data synthetic --limit-train 40 --limit-test 8 --batch-size 4 --epochs 2 --log-every 1 "
    "--tensorboard --resume --quiet"
).split()


def train(trainer, run, *more):
    subprocess.run([trainer, *TRAINING, "--run-dir", str(run), *more], check=True, stdout=subprocess.DEVNULL)


def close(got, expected):
    return math.isclose(got, expected, rel_tol=1e-6)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check.py TRAINER")
    trainer = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder) / "run"
        last = run / "checkpoints" / "last.safetensors"
        train(trainer, run, "--max-steps", "7")
        kept = last.with_suffix(".kept")
        shutil.copy(last, kept)
        train(trainer, run, "--max-steps", "13")
        kept.replace(last)
        train(trainer, run)
        check(run)
    print("TensorBoard reads the events as intended")


def check(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={kind: 0 for kind in ("scalars", "images", "histograms")})
    events.Reload()
    tags = events.Tags()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "train_loss" not in record]
    epochs = [record for record in records if "train_loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 21)), steps

    def scalar(tag, expected):
        got = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in got] == [step for step, _ in expected], f"{tag}: {got}"
        assert all(close(a, b) for (_, a), (_, b) in zip(got, expected)), f"{tag}: {got}, not {expected}"

    scalar("step/loss", [(record["step"], record["loss"]) for record in steps])
    assert all(event.value > 0 for event in events.Scalars("step/images_per_second"))
    names = {"train_loss": "train_loss", "train_acc": "train_accuracy", "test_loss": "test_loss", "test_acc": "test_accuracy"}
    for ours, shown in names.items():
        scalar(f"epoch/{shown}", [(record["step"], record[ours]) for record in epochs])
    assert "epoch/validation_loss" not in tags["scalars"], tags["scalars"]

    assert set(tags["images"]) == {"batch/augmented", "filters/first_layer"}, tags["images"]
    # A batch of four images side by side, each of 32 pixels drawn at twice the size, and a line.
    for image in events.Images("batch/augmented"):
        assert (image.width, image.height) == (4 * 65, 65), image
        assert image.encoded_image_string.startswith(b"\x89PNG"), image
    assert [image.step for image in events.Images("filters/first_layer")] == [10, 20]

    for epoch in range(2):
        histograms = [events.Histograms(tag)[epoch] for tag in tags["histograms"]]
        assert all(event.step == 10 * (epoch + 1) for event in histograms)
        assert sum(event.histogram_value.num for event in histograms) == PARAMETERS
        for event in histograms:
            value = event.histogram_value
            assert len(value.bucket) == len(value.bucket_limit) and sum(value.bucket) == value.num
            assert value.min <= value.sum / value.num <= value.max
    assert len(events.Histograms(tags["histograms"][0])) == 2


if __name__ == "__main__":
    main()
