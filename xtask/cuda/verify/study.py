"""The part `study`: seeds of the whole study, with the verdict on each published figure. And studies on random images, for timing."""

from part import FAILED, PASSED, SKIPPED, because

# Exit codes of a reproduction that ended with a verdict.
JUDGED = {0: "reproduced", 3: "different from the published study", 4: "not comparable with it", 5: "undecided"}

DRAWN = """
name = "drawn"
title = "Drawn images"
question = "How long does it take?"
conclusion = "It ends."

[data]
kind = "synthetic"
limit-train = {train}
limit-test = {test}

[recipe]
epochs = {epochs}
batch-size = {batch}
optimizer = {{ Adam = {{ lr = 0.001, betas = [0.9, 0.999], eps = 1e-8, weight_decay = 5e-4 }} }}
augment = "crop-flip"
normalise = "dataset"

[grid]
seeds = [42]

{networks}
"""


def drawn_study(part, epochs):
    """The file of a study with the sizes of the published one, on random images."""
    models = ["alexnet", "nin"] if part.options.dry_run else ["alexnet_plain", "alexnet", "nin"]
    networks = "\n\n".join(f'[[networks]]\nnetwork = "{model}"' for model in models)
    train, test, batch = (6, 6, 6) if part.options.dry_run else (50_000, 10_000, 126)
    path = part.folder / "drawn.toml"
    path.write_text(DRAWN.format(train=train, test=test, epochs=epochs, batch=batch, networks=networks), encoding="utf-8")
    return path


def reproduce(part, study, out, precision, count):
    command = [part.options.here / "bin" / "xtask", "reproduce", "--trainer", part.options.trainer, study, "--device", "cuda"]
    return [*command, "--engine", "cuda", "--precision", precision, "--jobs", count, "--out", out]


def study(part):
    options = part.options
    check = f"the study, {len(options.seeds)} seeds in {options.precision}"
    out = part.folder / "study"
    if options.dry_run:
        command = reproduce(part, drawn_study(part, epochs=1), out, options.precision, options.jobs)
    elif options.data:
        command = reproduce(part, "pointwise", out, options.precision, options.jobs)
        command += ["--seeds", ",".join(map(str, options.seeds)), "--data-dir", options.data]
    else:
        part.note(check, SKIPPED, "it needs CIFAR-10: name its folder with --data")
        return
    code, output, seconds = part.run("study", command)
    if code not in JUDGED:
        finished = len(list(out.glob("runs/*/result.json")))
        more = f"; {finished} runs are finished, the same command continues" if finished else ""
        part.note(check, FAILED, because(code, output) + more)
        return
    # An undecided verdict is a finding about the number of runs, not about the GPU; random images have no published figures.
    good = options.dry_run or JUDGED[code] in ("reproduced", "undecided")
    part.note(check, PASSED if good else FAILED, f"{JUDGED[code]}, {seconds:.1f} s; see report.md")
    told = (out / "report.md").read_text(encoding="utf-8")
    print("\n".join(line for line in told.splitlines() if line.startswith("|")), flush=True)
