"""The part `sanitizer`: NVIDIA's compute-sanitizer over short trainings, limited to our own kernels."""

import pathlib
import re
import shutil

from part import SKIPPED, TOLD

# Two steps and an evaluation; the odd batch leaves partial blocks.
CASES = [("memcheck", "nin"), ("memcheck", "alexnet_plain"), ("memcheck", "alexnet")]
CASES += [("racecheck", "alexnet_plain"), ("synccheck", "alexnet_plain"), ("racecheck", "nin")]


def sanitizer(part):
    program = shutil.which("compute-sanitizer") or next(
        (str(path) for path in sorted(pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    kernels = (part.options.here / "kernels.txt").read_text(encoding="utf-8").split()
    filters = [word for stem in stems(kernels) for word in ["--kernel-regex", f"kns={stem}"]]
    part.note("kernels that are looked at", TOLD, f"{len(kernels)}, by {len(filters) // 2} stems")
    if program is None:
        part.note("compute-sanitizer", SKIPPED, "it is not installed here: it comes with CUDA")
        return
    for tool, model in CASES:
        name = f"{tool}-{model}"
        folder = part.folder / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        # Libraries try calls that may be refused, above all cuDNN in its search for algorithms: these are not what we look for.
        command = [program, "--tool", tool, "--error-exitcode", 9, "--report-api-errors", "no", *filters]
        command += [part.options.trainer, "train", "--quiet", "--model", model, "--device", "cuda", "--engine", "cuda", "--deterministic"]
        command += ["--precision", "bf16" if model == "alexnet" else "f32"]
        command += ["--data", "synthetic", "--limit-train", 26, "--limit-test", 13, "--batch-size", 13, "--epochs", 1]
        command += ["--run-dir", folder]
        part.check_program(f"{tool} of {model}", name, command, detail=summary_of)


def stems(kernels):
    """Names without their last word, `_f32` or `_bf16`, without those that begin with another one."""
    found = sorted({re.sub(r"_(f32|bf16)$", "", kernel) for kernel in kernels})
    return [stem for stem in found if not any(stem != other and stem.startswith(other) for other in found)]


def summary_of(output):
    found = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", output)
    return found[-1] if found else ""
