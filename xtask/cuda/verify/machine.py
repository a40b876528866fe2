"""The machine: its card, NVIDIA's libraries, a Python with PyTorch. The parts `ground`, `clock`, `layers` and `timeline`."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import site
import sys
import sysconfig

from part import FAILED, OUT_OF_TIME, PASSED, SKIPPED, TOLD, Stop, because

# The first folder found with each of these is used. cuDNN comes first: parts of two versions of it refuse each other.
LIBRARIES = ["libcudnn.so", "libcublas.so", "libcublasLt.so", "libcudart.so", "libnvrtc.so", "libcurand.so"]

CARD = "name,driver_version,compute_cap,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,persistence_mode"
CUDNN = """
import cudnn
print("cudnn-frontend", cudnn.__version__, "cuDNN", cudnn.backend_version())
try:
    print(cudnn.create_device_properties(0).serialize())
except TypeError:
    print(cudnn.create_device_properties().serialize())
"""
PYTORCH = """
import torch
card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else "it finds no GPU"
print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version(), card)
"""


def library_folders():
    """The folders of NVIDIA's libraries for programs to use: the user's choice; else those of this Python's packages, and the system's for
    what these lack."""
    named = [folder for folder in os.environ.get("POINTWISE_CUDA_LIBRARIES", "").split(":") if folder]
    if named:
        return named
    packages = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()}
    folders = [folder for package in sorted(packages) for folder in sorted(pathlib.Path(package).glob("nvidia/*/lib"))]
    for pattern in ["usr/local/cuda*/lib64", "usr/local/cuda*/targets/x86_64-linux/lib", "usr/local/nvidia/lib*", "usr/lib/x86_64-linux-gnu"]:
        folders += sorted(pathlib.Path("/").glob(pattern))
    return first_with_each(folders)


def first_with_each(folders):
    """The first folder that holds each library, without repetitions."""
    chosen = []
    for library in LIBRARIES:
        holds = next((folder for folder in folders if any(folder.glob(f"{library}.*"))), None)
        if holds is not None and str(holds) not in chosen:
            chosen.append(str(holds))
    return chosen


def environment(here):
    """Variables that tell programs where NVIDIA's libraries are, and tests and xtask where the project's files are, as cargo would."""
    return {"POINTWISE_CUDA_LIBRARIES": ":".join(library_folders()), "POINTWISE_TRAINER": str(here / "bin" / "trainer")}


def python_with_torch(part):
    """A Python that has PyTorch, and what PyTorch says of the machine: multiprocessors and caches, which nvidia-smi does not report."""
    for python in [os.environ.get("POINTWISE_PYTHON"), sys.executable, "python3"]:
        if python:
            code, output, _ = part.run("pytorch", [python, "-c", PYTORCH], limit=40)
            if code == 0:
                return python, " ".join(output.split())
    return None, "no Python here has PyTorch"


def ground(part):
    """The card and its libraries. Returns whether to continue."""
    size = sum(path.stat().st_size for path in part.options.here.rglob("*") if path.is_file() and part.records.folder not in path.parents)
    part.note("size of the bundle", TOLD, f"{size / 2**20:.0f} MiB unpacked")
    part.note("folders of NVIDIA's libraries", TOLD, ", ".join(library_folders()) or "none is found: the system's search is left")
    nvidia_smi(part)
    answers, failure = part.ask("ground")
    if failure:
        part.note("the GPU", FAILED, failure)
        return False
    names = [answer["name"] for answer in answers if answer.get("what") == "card"]
    part.options.emulated = any("emulator" in name for name in names)
    part.note("the GPU", PASSED, ", ".join(names))
    one_cudnn(part, answers)
    try:
        part.note("the trainer's first step", PASSED, first_step(part))
    except Stop as reason:
        part.note("the trainer's first step", FAILED, str(reason))
        return False
    packages = {f"{it.metadata['Name']} {it.version}" for it in importlib.metadata.distributions() if "nvidia" in (it.metadata["Name"] or "")}
    part.note("NVIDIA's packages of this Python", TOLD, ", ".join(sorted(packages)) or "none")
    cudnn_properties(part)
    part.note("the card as PyTorch describes it", TOLD, python_with_torch(part)[1])
    return True


def nvidia_smi(part):
    if not shutil.which("nvidia-smi"):
        part.note("nvidia-smi", SKIPPED, "it is not installed here")
        return
    for check, query in [("the card", f"--query-gpu={CARD}"), ("programs on it", "--query-compute-apps=pid,process_name,used_memory")]:
        code, output, _ = part.run(f"nvidia-smi-{check.split()[-1]}", ["nvidia-smi", query, "--format=csv,noheader"], limit=6)
        part.note(f"nvidia-smi: {check}", TOLD, "; ".join(output.split("\n")).strip("; ") or "none" if code == 0 else because(code, output))
    # The reasons why clocks are lower than they could be.
    code, output, _ = part.run("nvidia-smi-all", ["nvidia-smi", "-q", "-d", "CLOCK,PERFORMANCE,POWER,TEMPERATURE"], limit=6)
    active = [line.split(":")[0].strip() for line in output.splitlines() if re.search(r":\s*Active$", line)]
    part.note("nvidia-smi: clocks are held down by", TOLD, ", ".join(active) or "nothing" if code == 0 else because(code, output))


def cudnn_properties(part):
    """From these properties cuDNN makes plans for the card on a machine without it."""
    check = "the card as cuDNN describes it"
    code, output, _ = part.run("cudnn", [sys.executable, "-c", CUDNN], limit=10)
    if code != 0:
        part.note(check, SKIPPED, f"cudnn-frontend does not report it: {because(code, output)}")
        return
    part.note(check, TOLD, " ".join(output.split()))


def one_cudnn(part, answers):
    """Parts of cuDNN that a program loads from several folders do not work together."""
    mapped = [pathlib.Path(answer["path"]) for answer in answers if answer.get("what") == "mapped"]
    folders = sorted({str(path.parent) for path in mapped if path.name.startswith("libcudnn")})
    if folders:
        part.note("one cuDNN", PASSED if len(folders) == 1 else FAILED, ", ".join(folders))


def first_step(part):
    """A step and an evaluation by the trainer; if they fail, its own error message."""
    folder = part.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    command = [part.options.trainer, "train", "--quiet", "--device", "cuda", "--engine", "cuda", "--model", "alexnet"]
    command += ["--data", "synthetic", "--limit-train", 4, "--limit-test", 2, "--batch-size", 4, "--epochs", 1, "--run-dir", folder]
    code, output, seconds = part.run("first-step", command)
    if code != 0:
        raise Stop(because(code, output))
    return f"{seconds:.1f} s"


def clock(part):
    """Times of opening, the first steps and the first replay. Returns whether to continue."""
    _, failure = part.ask("clock")
    part.note("start-up, cold and warm", FAILED if failure else PASSED, failure)
    return failure in ("", OUT_OF_TIME)


def layers(part):
    """Every algorithm of every layer. Returns whether to continue."""
    answers, failure = part.ask("layers")
    refused = sum(answer.get("can_be_used") is True and answer.get("us") is None for answer in answers)
    without = sum(answer.get("what") == "no algorithm" for answer in answers)
    detail = f"{len(answers)} told; {refused} that may be used did not run; {without} directions of layers are without one"
    part.note("algorithms of cuDNN", FAILED if failure else PASSED, failure or detail)
    return failure in ("", OUT_OF_TIME)


def timeline(part):
    answers, failure = part.ask("timeline")
    part.note("a step's timeline", FAILED if failure else PASSED, failure or f"{len(answers)} lines")
