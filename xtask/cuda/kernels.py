#!/usr/bin/env python3
"""kernels.py [--update]: the resources that the engine's kernels need on a GPU, found without one.

Compiles them for each architecture and compares what the compiler says of every kernel (registers of a thread, static shared memory, stack
frame, bytes spilled) with the committed record, and with limits. With `--update` the record is replaced, if the limits hold.

Needs nvcc: from NVCC, from CUDA_HOME, or on the path. `. target/cuda/env.sh` sets them, see toolkit.sh.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "crates/engine/src/cuda/kernels/kernels.cu"
RECORD = ROOT / "data/records/cuda/kernels.json"
UPDATE = "python3 xtask/cuda/kernels.py --update"

# A100, H100, B200, and the GeForce cards of B200's generation.
ARCHITECTURES = ["sm_80", "sm_90", "sm_100", "sm_120"]
FIGURES = ["registers", "shared", "stack", "spilled"]

# Per multiprocessor, for each of them.
REGISTERS = 65536
# Registers are allocated in units of this many per thread.
REGISTER_UNIT = 8
THREADS = 256
# A block's static shared memory must be below this.
SHARED = 48 * 1024
# Kernels that every training step of the study runs over whole maps or all parameters. A multiprocessor must have room for HOT_BLOCKS
# blocks of them, so that one block's arithmetic hides another's loads.
HOT = re.compile(r"(gather_augment_batch|batch_moments|bn_\w+|adamw?|sgd)_(f32|bf16)")
HOT_BLOCKS = 2
# Index arithmetic may spill a few registers in kernels for windows of any size, which the study does not run.
MAY_SPILL = {"avg_pool_forward_f32": 4, "max_pool_backward_f32": 12, "grouped_conv_backward_data_f32": 8}

ENTRY = re.compile(r"ptxas info\s*: Compiling entry function '(\w+)' for '(\w+)'")
FRAME = re.compile(r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"ptxas info\s*: Used (\d+) registers(.*)")
SHARED_USED = re.compile(r"(\d+) bytes smem")


class Failure(Exception):
    """What is wrong, in a sentence."""


def nvcc():
    if "NVCC" in os.environ:
        return os.environ["NVCC"]
    return os.path.join(os.environ["CUDA_HOME"], "bin/nvcc") if "CUDA_HOME" in os.environ else "nvcc"


def output(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise Failure(f"{command[0]} cannot be started ({error}): run xtask/cuda/toolkit.sh target/cuda, then `. target/cuda/env.sh`")
    if done.returncode:
        raise Failure(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def version():
    """The compiler's version: another one gives other figures."""
    text = output([nvcc(), "--version"])
    found = re.search(r"release [\d.]+, V([\d.]+)", text)
    if not found:
        raise Failure(f"nvcc does not say its version as expected:\n{text}")
    return found[1]


def parse(text, architecture, declared):
    """Figures of each of the declared kernels, in the order of FIGURES, from what ptxas says."""
    kernels, frames, name = {}, {}, None
    for line in text.splitlines():
        if found := ENTRY.match(line):
            name = found[1]
            if found[2] != architecture:
                raise Failure(f"ptxas compiled {name} for {found[2]}, not for {architecture}")
        elif found := FRAME.match(line):
            # Also printed for functions that are not inlined: each such line belongs to the current kernel.
            stack, stored, loaded = map(int, found.groups())
            before = frames.get(name, (0, 0))
            frames[name] = (max(before[0], stack), before[1] + max(stored, loaded))
        elif found := USED.match(line):
            shared = SHARED_USED.search(found[2])
            if name is None or name not in frames or name in kernels:
                raise Failure(f"ptxas' output cannot be read at: {line}")
            kernels[name] = [int(found[1]), int(shared[1]) if shared else 0, *frames[name]]
    if set(kernels) != declared:
        other = ", ".join(sorted(declared ^ set(kernels))[:5])
        raise Failure(
            f"ptxas' output for {architecture} cannot be read: it has {len(kernels)} kernels, the source {len(declared)}; they differ in {other}"
        )
    return kernels


def declared_kernels():
    """Names of the kernels in the source after preprocessing by the host's compiler."""
    words = ["-D__global__=KERNEL", "-D__launch_bounds__(...)="]
    text = output(["g++", "-std=c++17", "-E", "-P", "-x", "c++", *words, str(SOURCE)])
    names = re.findall(r'extern\s+"C"\s+KERNEL\s+void\s+(\w+)\s*\(', text)
    if not names or len(names) != text.count("KERNEL"):
        raise Failure(f"not every kernel of {SOURCE.name} is written as expected")
    return set(names)


def measure(architecture, declared):
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernels.cubin")
        text = output([nvcc(), "-O3", "-cubin", f"-arch={architecture}", "-Xptxas", "-v", "-o", cubin, str(SOURCE)])
    if "warning" in text:
        raise Failure(f"nvcc warns for {architecture}:\n{text}")
    return parse(text, architecture, declared)


def blocks(registers):
    """Blocks of THREADS threads that a multiprocessor's registers are enough for."""
    own = -(-registers // REGISTER_UNIT) * REGISTER_UNIT
    return REGISTERS // (own * THREADS)


def beyond_limits(name, architecture, registers, shared, stack, spilled):
    may_spill = MAY_SPILL.get(name, 0)
    if spilled > may_spill:
        yield f"{name} for {architecture}: {spilled} bytes are spilled, the limit is {may_spill}"
    if shared >= SHARED:
        yield f"{name} for {architecture}: {shared} bytes of shared memory, the limit of a block is below {SHARED}"
    if HOT.fullmatch(name) and blocks(registers) < HOT_BLOCKS:
        yield f"{name} for {architecture}: {registers} registers leave room for {blocks(registers)} blocks, not {HOT_BLOCKS}"


def table(measured):
    """The record's part: of each kernel, a list of the architectures' figures for each figure."""
    names = sorted(measured[ARCHITECTURES[0]])
    return {
        name: {figure: [measured[a][name][i] for a in ARCHITECTURES] for i, figure in enumerate(FIGURES)} for name in names
    }


def differences(recorded, measured):
    for name in sorted(recorded.keys() | measured.keys()):
        if name not in measured:
            yield f"{name} is in the record but not in the kernels"
        elif name not in recorded:
            yield f"{name} is not in the record"
        else:
            for figure in FIGURES:
                pairs = zip(ARCHITECTURES, recorded[name][figure], measured[name][figure])
                for architecture, before, now in pairs:
                    if before != now:
                        yield f"{name} for {architecture}: {figure} {now}, in the record {before}"


def text_of(record):
    """A line a kernel."""
    lines = [f'    {json.dumps(name)}: {json.dumps(figures)}' for name, figures in record["kernels"].items()]
    head = {key: value for key, value in record.items() if key != "kernels"}
    return json.dumps(head, indent=2)[:-2] + ',\n  "kernels": {\n' + ",\n".join(lines) + "\n  }\n}\n"


def check(update):
    compiler, declared = version(), declared_kernels()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = dict(zip(ARCHITECTURES, pool.map(lambda a: measure(a, declared), ARCHITECTURES)))
    wrong = [line for a in ARCHITECTURES for name, f in measured[a].items() for line in beyond_limits(name, a, *f)]
    if wrong:
        raise Failure("\n".join(wrong))
    record = {"compiler": f"nvcc {compiler}", "architectures": ARCHITECTURES, "kernels": table(measured)}
    if update:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(text_of(record))
        print(f"{len(record['kernels'])} kernels are in {RECORD.relative_to(ROOT)}")
        return
    try:
        before = json.loads(RECORD.read_text())
        recorded = before["kernels"]
        for key in ["compiler", "architectures"]:
            if before[key] != record[key]:
                raise Failure(f"the record is of {before[key]}, this is {record[key]}: run {UPDATE}")
        wrong = list(differences(recorded, record["kernels"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{RECORD.relative_to(ROOT)} cannot be read ({error!r}): run {UPDATE}")
    if wrong:
        raise Failure("\n".join(wrong) + f"\nif that is intended, run {UPDATE}")
    print(f"{len(recorded)} kernels on {', '.join(ARCHITECTURES)} are as in {RECORD.relative_to(ROOT)}")


def main(arguments):
    if arguments not in ([], ["--update"]):
        sys.exit("usage: kernels.py [--update]")
    try:
        check(bool(arguments))
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main(sys.argv[1:])
