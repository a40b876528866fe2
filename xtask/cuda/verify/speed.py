"""The parts `speed`, `run` and `compile`: recorded steps alone and together, ours next to PyTorch, several runs at once, one whole run."""

import json
import shutil

from machine import python_with_torch
from part import FAILED, PASSED, SKIPPED, TOLD, because
from study import JUDGED, drawn_study, reproduce

# The project's aims, on an H100 with the study's batch. In f32 both sides run the same convolutions, so that is only reported.
GRAPH_RATIO, NOTEBOOK_RATIO = 1.3, 10.0
AIMS = {
    ("pytorch-graph", "tf32"): GRAPH_RATIO,
    ("pytorch-graph", "bf16"): GRAPH_RATIO,
    ("pytorch-compile", "tf32"): GRAPH_RATIO,
    ("pytorch-compile", "bf16"): GRAPH_RATIO,
    ("pytorch-notebook", None): NOTEBOOK_RATIO,
}

# The network of the dry run.
SMALL = """
name = "small"
input = [3, 8, 8]
layers = [
    { Conv2d = { out_channels = 8, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU", { MaxPool2d = { kernel_size = 2 } },
    "Flatten", { Linear = { out_features = 4 } },
]
"""

# Seconds of `speed` that are reserved for the runs at once.
JOBS_SECONDS = 45


def speed(part):
    answers, failure = part.ask("speed")
    part.note("recorded steps, alone and three engines at once", FAILED if failure else PASSED, failure or f"{len(answers)} figures")
    bench(part, "bench", "pointwise,pytorch-graph,pytorch-notebook", rounds=2, keep=JOBS_SECONDS)
    jobs(part)


def compiled(part):
    # Compiling takes minutes: only the most important.
    bench(part, "compile", "pointwise,pytorch-compile", rounds=3, more=["--precisions", "bf16,tf32"])


def bench(part, name, contenders, rounds, keep=0, more=()):
    python, why = (None, "a dry run times nothing") if part.options.dry_run else python_with_torch(part)
    if python is None:
        part.note("PyTorch beside ours", SKIPPED, why)
        if name == "compile":
            return
        contenders = "pointwise"
    record = part.folder / f"{name}.json"
    command = [part.options.here / "bin" / "xtask", "bench", "--device", "cuda", "--trainer", part.options.trainer]
    command += ["--only", contenders, "--rounds", rounds, "--phases", "train", "--studies", 0, "--out", record, *more]
    if python:
        command += ["--python", python]
    if part.options.dry_run:
        # Warming up a card with groups of steps, and measuring its rates, would take minutes on an emulator.
        small = part.folder / "small.toml"
        small.write_text(SMALL, encoding="utf-8")
        command += ["--models", small, "--batch", 4, "--steps", 1, "--peak-gflops", 1, "--bandwidth-gb", 1]
    record.unlink(missing_ok=True)
    check = f"xtask bench ({contenders})"
    code, output, seconds = part.run(
        name, command, limit=max(part.left() - keep, 1), CARGO_MANIFEST_DIR=str(part.options.here / "xtask")
    )
    # The record is written after each row: what was measured is there.
    rows = json.loads(record.read_text(encoding="utf-8"))["rows"] if record.is_file() else []
    why = f"{seconds:.0f} s" if code == 0 else because(code, output)
    part.note(check, PASSED if code == 0 and rows else FAILED, f"{len(rows)} rows, {why}")
    targets(part, rows)


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def targets(part, rows):
    """The project's own aims, by the rows of a benchmark."""
    steps = {}
    for row in rows:
        key = (row["contender"], row["model"], row.get("precision"))
        steps.setdefault(key, {})[row["round"]] = median(row["seconds"])
    for (contender, model, precision), ours in sorted(steps.items(), key=str):
        if contender != "pointwise":
            continue
        part.note(f"{model}, training in {precision}", TOLD, f"{1e3 * median(ours.values()):.3f} ms a step")
        for peer, of in [("pytorch-graph", precision), ("pytorch-compile", precision), ("pytorch-notebook", None)]:
            theirs = steps.get((peer, model, of), {})
            ratios = [theirs[number] / ours[number] for number in ours if number in theirs]
            if not ratios:
                continue
            ratio, least = median(ratios), AIMS.get((peer, of))
            result = TOLD if least is None else PASSED if ratio >= least else FAILED
            aim = "" if least is None else f", the aim is {least:g}x"
            part.note(f"{model}, training in {precision}: against {peer}", result, f"{ratio:.2f}x{aim}")


def jobs(part):
    """The study's networks on random images, one, two and three runs at once."""
    study = drawn_study(part, epochs=1 if part.options.dry_run else 2)
    for count in [1, 2, 3]:
        check, out = f"runs at once: {count}", part.folder / f"jobs-{count}"
        shutil.rmtree(out, ignore_errors=True)
        code, output, seconds = part.run(f"jobs-{count}", reproduce(part, study, out, "bf16", count))
        good = code in JUDGED
        part.note(check, PASSED if good else FAILED, f"{seconds:.2f} s" if good else because(code, output))
        shutil.rmtree(out, ignore_errors=True)


def run(part):
    """One whole run in bf16: where its seconds go."""
    options = part.options
    model, folder = "nin", part.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    command = [options.trainer, "train", "--quiet", "--model", model, "--device", "cuda", "--engine", "cuda", "--precision", "bf16"]
    command += ["--data-dir", options.data] if options.data else ["--data", "synthetic"]
    command += ["--run-dir", folder]
    if options.dry_run:
        command += ["--limit-train", 12, "--limit-test", 6, "--batch-size", 6, "--epochs", 2]
    check = f"one whole run of {model} on {'CIFAR-10' if options.data else 'drawn images'}"
    code, output, seconds = part.run("run", command)
    if code != 0:
        part.note(check, FAILED, because(code, output))
        return
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    training, evaluation = result["train_seconds"], result["eval_seconds"]
    inside = result["seconds"] - training - evaluation
    outside = seconds - result["seconds"]
    detail = f"{seconds:.2f} s: {training:.2f} training, {evaluation:.2f} evaluation, {inside:.2f} between them (checkpoints), "
    part.note(check, PASSED, f"{detail}{outside:.2f} before and after (images, start, end); accuracy {result['final_acc']:.4f}")
