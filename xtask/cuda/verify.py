"""Checks and times a bundle (see bundle.sh) on a machine with an NVIDIA GPU.

    bash verify.sh [--data CIFAR10] [--records DIR] [part ...]

Parts: numbers (the tests with PyTorch's numbers, agreement of the engines step by step, resuming, checkpoints between devices),
sanitizer (NVIDIA's compute-sanitizer over short trainings), speed (`xtask bench --device cuda`, and one study with 1, 2 and 3 runs at
once), study (ten seeds of the whole study, with the verdict on each published figure); and, if named, compile (torch.compile
beside ours). A part ends within ten minutes: what is left then has failed for want of time, and `study` goes on where it stopped
when it is asked again with the same --records.

Exit code: 0 nothing failed, 1 something did, 2 wrong usage.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TRAINER, XTASK = HERE / "bin" / "trainer", HERE / "bin" / "xtask"
MODELS = ["alexnet_plain", "alexnet", "nin"]
PRECISIONS = ["f32", "tf32", "bf16"]
PARTS = ["numbers", "sanitizer", "speed", "study", "compile"]
USUAL = PARTS[:4]

# What the project set itself, on an H100 with the study's batch.
GRAPH_RATIO, NOTEBOOK_RATIO, STUDY_SECONDS = 1.3, 10.0, 20.0

# How far the loss of the first step, on the same weights, may be from the CPU's, as a share of it. Rounding of f32 in other orders;
# factors of 11 bits; factors of 8 bits. The same relative to the mean over the steps that follow, where Adam's division by small
# gradients has made small differences large.
FIRST = {"f32": 2e-5, "tf32": 4e-3, "bf16": 3e-2}
AFTER = {"f32": 2e-2, "tf32": 5e-2, "bf16": 1e-1}

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Stop(Exception):
    """A part cannot go on."""


class Part:
    """Runs programs within the part's time, and notes what was found."""

    def __init__(self, name, options):
        self.name, self.options, self.checks = name, options, []
        self.folder = options.records / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ends = time.monotonic() + 60 * options.minutes

    def left(self):
        return self.ends - time.monotonic()

    def note(self, check, result, detail=""):
        self.checks.append({"part": self.name, "check": check, "result": result, "detail": detail})
        print(f"{self.name}: {check}: {result}{': ' if detail else ''}{detail}", flush=True)

    def run(self, log, command, limit=None, **environment):
        """Exit code, or None out of time, and output; both streams go into the records."""
        limit = min(self.left(), limit or self.left())
        if limit <= 0:
            return None, "", 0.0
        environment = {**os.environ, **library_environment(), **environment}
        start = time.monotonic()
        path = self.folder / f"{log}.log"
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            words = [str(word) for word in command]
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            try:
                child = subprocess.Popen(words, env=environment, start_new_session=True, **streams)
            except OSError as error:
                return 127, f"error: {words[0]} cannot be started: {error.strerror}", 0.0
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
                end(child)
        return code, path.read_text(encoding="utf-8", errors="replace"), time.monotonic() - start

    def check_program(self, check, log, command, limit=None, detail=lambda output: "", **environment):
        """A program that must succeed."""
        code, output, seconds = self.run(log, command, limit, **environment)
        if code == 0:
            self.note(check, PASSED, detail(output) or f"{seconds:.1f} s")
            return True
        self.note(check, FAILED, because(code, output))
        return False


def end(child):
    """Ends a program and what it started, first with the request that leaves a checkpoint."""
    for number, patience in [(2, 20), (15, 5), (9, 5)]:
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def because(code, output):
    """Why a program failed, in a line."""
    if code is None:
        return "out of time"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "Error", "test result: FAILED"))]
    line = (errors or lines or ["it says nothing"])[-1]
    return f"{line[:300]} (exit code {code})"


def libraries():
    """Folders that may hold NVIDIA's libraries: the user's choice, this Python's packages, the system's."""
    folders = [pathlib.Path(folder) for folder in os.environ.get("POINTWISE_CUDA_LIBRARIES", "").split(":") if folder]
    packages = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()}
    for package in sorted(packages):
        folders += sorted(pathlib.Path(package).glob("nvidia/*/lib"))
    for pattern in ["usr/local/cuda*/lib64", "usr/local/cuda*/targets/x86_64-linux/lib", "usr/local/nvidia/lib*"]:
        folders += sorted(pathlib.Path("/").glob(pattern))
    return [str(folder) for folder in folders if folder.is_dir()]


def library_environment():
    folders = ":".join(libraries())
    # cuDNN loads parts of itself by name.
    search = ":".join(part for part in [folders, os.environ.get("LD_LIBRARY_PATH", "")] if part)
    return {
        "POINTWISE_CUDA_LIBRARIES": folders,
        "LD_LIBRARY_PATH": search,
        # Where tests and xtask look for files of the project, as cargo would tell them.
        "POINTWISE_TRAINER": str(TRAINER),
    }


def python_with_torch():
    for python in [os.environ.get("POINTWISE_PYTHON"), sys.executable, "python3"]:
        if python and subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
            return python
    return None


# --- numbers


def numbers(part):
    programs = sorted((HERE / "programs").iterdir())
    for program in programs:
        test_program(part, program)
    for model in MODELS:
        agreement(part, model)
    for precision in PRECISIONS:
        resume(part, "alexnet_plain", precision)
    between_devices(part, "nin")


def test_program(part, program):
    def count(output):
        results = re.findall(r"test result: ok\. (\d+) passed; \d+ failed; (\d+) ignored", output)
        return f"{results[-1][0]} tests" + (f", {results[-1][1]} ignored" if results[-1][1] != "0" else "") if results else ""

    # Tests of the trainer drive the real program on the CPU: an old machine needs its time.
    part.check_program(
        f"tests {program.name}",
        program.name,
        [program, "--test-threads=4"],
        detail=count,
        CARGO_MANIFEST_DIR=str(HERE / "tests"),
        RUST_BACKTRACE="0",
    )


def train(part, name, model, device, more=(), engine=None, **sizes):
    """A short training on drawn images; gives its folder, or None."""
    folder = part.folder / "runs" / name
    if "--resume" not in more:
        shutil.rmtree(folder, ignore_errors=True)
    size = {"batch": 126, "images": 1260, "test": 252, "epochs": 1, **sizes}
    if part.options.small:
        size |= {"batch": 6, "images": 36, "test": 12}
    command = [TRAINER, "train", "--quiet", "--model", model, "--device", device, "--engine", engine or device]
    command += ["--data", "synthetic", "--limit-train", size["images"], "--limit-test", size["test"]]
    command += ["--batch-size", size["batch"], "--epochs", size["epochs"], "--log-every", 1, "--run-dir", folder, *more]
    code, output, _ = part.run(name, command)
    if code != 0:
        raise Stop(because(code, output))
    return folder


def losses(folder):
    return [record["loss"] for record in metrics(folder) if record["kind"] == "step"]


def metrics(folder):
    """The lines of a run, without the measured seconds."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines]


def agreement(part, model):
    """Ten steps from the same weights on the same batches: every engine against `cpu`."""
    check = f"{model}: engines step by step"
    try:
        expected = losses(train(part, f"{model}-cpu", model, "cpu"))
    except Stop as reason:
        part.note(f"{check}, cpu", FAILED, str(reason))
        return
    others = [("cuda", precision) for precision in PRECISIONS]
    # An emulator runs our kernels only, not candle's.
    others += [] if part.options.small else [("reference", "f32")]
    for engine, precision in others:
        name = f"{engine} in {precision}"
        more = ["--precision", precision] if engine == "cuda" else []
        try:
            got = losses(train(part, f"{model}-{engine}-{precision}", model, "cuda", more, engine=engine))
        except Stop as reason:
            part.note(f"{check}, {name}", FAILED, str(reason))
            continue
        if len(got) != len(expected):
            part.note(f"{check}, {name}", FAILED, f"{len(got)} steps, not {len(expected)}")
            continue
        shares = [abs(a - b) / abs(b) for a, b in zip(got, expected)]
        first, after = shares[0], sum(shares[1:]) / max(len(shares) - 1, 1)
        good = first <= FIRST[precision] and after <= AFTER[precision]
        detail = (
            f"first loss {first:.1e} away (at most {FIRST[precision]:.0e}), "
            f"later ones {after:.1e} on average (at most {AFTER[precision]:.0e})"
        )
        part.note(f"{check}, {name}", PASSED if good else FAILED, detail)


def same_run(a, b):
    """What differs between two runs that should be equal byte for byte."""
    if metrics(a) != metrics(b):
        return "the metrics differ"
    for name in ["best.safetensors", "last.safetensors"]:
        if (a / "checkpoints" / name).read_bytes() != (b / "checkpoints" / name).read_bytes():
            return f"{name} differs"
    return ""


def resume(part, model, precision):
    """A deterministic run twice, and once in two pieces."""
    options = ["--precision", precision, "--deterministic"]
    name = f"{model}-{precision}"
    check = f"{model} in {precision}: "
    try:
        whole = train(part, f"{name}-whole", model, "cuda", options, epochs=2)
        again = train(part, f"{name}-again", model, "cuda", options, epochs=2)
        difference = same_run(whole, again)
        part.note(check + "deterministic twice", FAILED if difference else PASSED, difference or "equal bytes")
        train(part, f"{name}-pieces", model, "cuda", [*options, "--max-steps", 4], epochs=2)
        pieces = train(part, f"{name}-pieces", model, "cuda", [*options, "--resume"], epochs=2)
        difference = same_run(whole, pieces)
        part.note(check + "stopped and resumed", FAILED if difference else PASSED, difference or "equal bytes")
    except Stop as reason:
        part.note(check + "deterministic and resumed", FAILED, str(reason))


def between_devices(part, model):
    """A checkpoint of the GPU evaluated on both devices."""
    check = f"{model}: a checkpoint on both devices"
    try:
        folder = train(part, f"{model}-checkpoint", model, "cuda", ["--precision", "f32"])
    except Stop as reason:
        part.note(check, FAILED, str(reason))
        return
    figures = {}
    for device in ["cpu", "cuda"]:
        limit = 12 if part.options.small else 1000
        command = [TRAINER, "eval", "--checkpoint", folder / "checkpoints" / "last.safetensors", "--device", device]
        command += ["--engine", device, "--data", "synthetic", "--limit", limit, "--batch-size", min(limit, 126), "--json"]
        code, output, _ = part.run(f"{model}-eval-{device}", command)
        # Progress is on stderr, which shares the log.
        found = re.search(r"^\{.*^\}", output, re.MULTILINE | re.DOTALL)
        if code != 0 or not found:
            part.note(check, FAILED, because(code, output))
            return
        figures[device] = json.loads(found[0])
    cpu, cuda = figures["cpu"], figures["cuda"]
    away = abs(cuda["loss"] - cpu["loss"]) / abs(cpu["loss"])
    # Two logits can be close enough for rounding to change which is larger.
    good = away <= 1e-4 and abs(cuda["correct"] - cpu["correct"]) <= 1 + cpu["images"] // 500
    detail = f"loss {cpu['loss']:.6f} and {cuda['loss']:.6f}, {cpu['correct']} and {cuda['correct']} of {cpu['images']} right"
    part.note(check, PASSED if good else FAILED, detail)


# --- sanitizer


def sanitizer(part):
    program = shutil.which("compute-sanitizer") or next(
        (str(path) for path in sorted(pathlib.Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None
    )
    if program is None:
        part.note("compute-sanitizer", SKIPPED, "it is not installed here: it comes with CUDA")
        return
    # Two steps and an evaluation; the odd batch leaves ends of blocks over.
    cases = [("memcheck", model) for model in ["nin", "alexnet_plain", "alexnet"]]
    cases += [("racecheck", "alexnet_plain"), ("synccheck", "alexnet_plain"), ("racecheck", "nin")]
    for tool, model in cases:
        name = f"{tool}-{model}"
        folder = part.folder / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        command = [program, "--tool", tool, "--error-exitcode", 9, TRAINER, "train", "--quiet", "--model", model]
        command += ["--device", "cuda", "--engine", "cuda", "--precision", "bf16" if model == "alexnet" else "f32"]
        command += ["--data", "synthetic", "--limit-train", 26, "--limit-test", 13, "--batch-size", 13, "--epochs", 1]
        command += ["--run-dir", folder]
        part.check_program(f"{tool} of {model}", name, command, detail=lambda output: summary_of(output))


def summary_of(output):
    found = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", output)
    return found[-1] if found else ""


# --- speed


def speed(part):
    bench(part, "bench", "pointwise,pytorch-graph,pytorch-notebook", rounds=5)
    jobs(part)


def compiled(part):
    # Compiling takes minutes: only what matters most.
    bench(part, "compile", "pointwise,pytorch-compile", rounds=3, more=["--phases", "train", "--precisions", "tf32,bf16"])


def bench(part, name, contenders, rounds, more=()):
    python = python_with_torch()
    if python is None:
        part.note("PyTorch beside ours", SKIPPED, "no Python here has PyTorch: ours is timed alone")
        contenders = "pointwise"
    record = part.folder / f"{name}.json"
    command = [XTASK, "bench", "--device", "cuda", "--trainer", TRAINER, "--only", contenders, "--rounds", rounds]
    command += ["--out", record, *more]
    if python:
        command += ["--python", python]
    if name == "compile":
        command += ["--studies", 0]
    elif part.options.data:
        command += ["--data-dir", part.options.data]
    if part.options.small:
        command += ["--models", "alexnet", "--batch", 4, "--steps", 1, "--studies", 0]
    record.unlink(missing_ok=True)
    ran = part.check_program(f"xtask bench ({contenders})", name, command, CARGO_MANIFEST_DIR=str(HERE / "xtask"))
    if not record.is_file():
        return
    if not ran:
        part.note(f"the record {name}.json", FAILED, "it lacks what failed")
    targets(part, json.loads(record.read_text(encoding="utf-8")))


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def targets(part, record):
    """The project's own aims, by the record's rows."""
    steps = {}
    for row in record["rows"]:
        key = (row["contender"], row["model"], row["phase"], row.get("precision"))
        steps.setdefault(key, {})[row["round"]] = median(row["seconds"])
    for (contender, model, phase, precision), ours in sorted(steps.items(), key=str):
        if contender != "pointwise" or phase != "train":
            continue
        for peer, of, least in [
            ("pytorch-graph", precision, GRAPH_RATIO),
            ("pytorch-compile", precision, GRAPH_RATIO),
            ("pytorch-notebook", None, NOTEBOOK_RATIO),
        ]:
            theirs = steps.get((peer, model, phase, of), {})
            ratios = [theirs[number] / ours[number] for number in ours if number in theirs]
            if ratios:
                ratio = median(ratios)
                check = f"{model}, training in {precision}: against {peer}"
                part.note(check, PASSED if ratio >= least else FAILED, f"{ratio:.2f}x, the aim is {least:g}x")
    for study in record.get("studies", []):
        data = "drawn images" if study["synthetic"] else "CIFAR-10"
        check = f"a whole study in {study['precision']} on {data}"
        good = study["seconds"] < STUDY_SECONDS
        part.note(check, PASSED if good else FAILED, f"{study['seconds']:.2f} s, the aim is {STUDY_SECONDS:g} s")


def jobs(part):
    """One seed of the study with one, two and three runs at once."""
    check = "runs at once"
    if not part.options.data:
        part.note(check, SKIPPED, "it takes the images: name their folder by --data")
        return
    measured = {}
    for count in [1, 2, 3]:
        out = part.folder / f"jobs-{count}"
        shutil.rmtree(out, ignore_errors=True)
        code, output, seconds = part.run(f"jobs-{count}", reproduce(part, out, [42], count))
        if code not in JUDGED:
            part.note(f"{check}: {count}", FAILED, because(code, output))
            continue
        measured[count] = seconds
        part.note(f"{check}: {count}", PASSED, f"{seconds:.2f} s for three networks")
        shutil.rmtree(out)
    (part.folder / "jobs.json").write_text(json.dumps({"seconds_by_jobs": measured}, indent=2) + "\n")


# --- study

# Exit codes of a reproduction that ended with a verdict.
JUDGED = {0: "reproduced", 3: "different from the published study", 4: "not comparable with it", 5: "undecided"}


def reproduce(part, out, seeds, count):
    command = [XTASK, "reproduce", "--trainer", TRAINER, "--device", "cuda", "--engine", "cuda"]
    command += ["--precision", part.options.precision, "--seeds", ",".join(map(str, seeds)), "--jobs", count]
    return [*command, "--data-dir", part.options.data, "--out", out]


def study(part):
    check = f"the study, {len(part.options.seeds)} seeds in {part.options.precision}"
    if not part.options.data:
        part.note(check, SKIPPED, "it takes the images: name their folder by --data")
        return
    out = part.folder / "study"
    code, output, seconds = part.run("study", reproduce(part, out, part.options.seeds, part.options.jobs))
    if code not in JUDGED:
        finished = len(list(out.glob("runs/*/result.json")))
        detail = because(code, output)
        more = f"; {finished} runs are finished, the same command goes on" if finished else ""
        part.note(check, FAILED, detail + more)
        return
    # That the runs could not have told is a finding about their number, not about the GPU.
    good = JUDGED[code] in ("reproduced", "undecided")
    part.note(check, PASSED if good else FAILED, f"{JUDGED[code]}, {seconds:.1f} s; see report.md")
    told = (out / "report.md").read_text(encoding="utf-8")
    print("\n".join(line for line in told.splitlines() if line.startswith("|")))


# --- everything


def arguments():
    def folder(text):
        path = pathlib.Path(text).resolve()
        if not path.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is not a folder")
        return path

    def seeds(text):
        if not re.fullmatch(r"\d+(,\d+)*", text):
            raise argparse.ArgumentTypeError("give numbers with commas between")
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(prog="verify.sh", description="Checks and times the project on an NVIDIA GPU.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} [default: all but compile]")
    parser.add_argument("--data", type=folder, metavar="DIR", help="folder with CIFAR-10")
    parser.add_argument("--records", type=pathlib.Path, default=HERE / "records", metavar="DIR", help="where logs and records go")
    parser.add_argument("--pack", type=pathlib.Path, metavar="FILE", help="the records without weights, as a .tar.gz")
    parser.add_argument("--minutes", type=float, default=9.0, metavar="N", help="time of a part [default: 9]")
    parser.add_argument("--seeds", type=seeds, default=list(range(42, 52)), metavar="LIST", help="seeds of the study [default: ten]")
    parser.add_argument("--precision", choices=PRECISIONS, default="tf32", help="of the study [default: tf32]")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once in the study [default: 1]")
    parser.add_argument("--small", action="store_true", help="few small batches and no candle kernels: for an emulated GPU")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"`{part}` is not a part: choose from {', '.join(PARTS)}")
    options.parts = options.parts or USUAL
    options.records = options.records.resolve()
    return options


def look_for_gpu(part):
    """A step and an evaluation on the GPU, or the trainer's own sentence about it."""
    folder = part.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    command = [TRAINER, "train", "--quiet", "--device", "cuda", "--engine", "cuda", "--model", "alexnet", "--run-dir", folder]
    command += ["--data", "synthetic", "--limit-train", 4, "--limit-test", 2, "--batch-size", 4, "--epochs", 1]
    code, output, seconds = part.run("first-step", command, limit=120)
    if code != 0:
        raise Stop(because(code, output))
    return f"{seconds:.1f} s"


def machine():
    """Card, driver and memory, as NVIDIA's program tells, and PyTorch's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        told = None
    return told


def report(options, checks, card):
    built = json.loads((HERE / "built.json").read_text(encoding="utf-8"))
    record = {"built": built, "card": card, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "checks": checks}
    path = options.records / "verify.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    width = max(len(check["check"]) for check in checks)
    print()
    for check in checks:
        print(f"{check['result']:<8} {check['part']:<10} {check['check']:<{width}}  {check['detail']}".rstrip())
    count = {result: sum(check["result"] == result for check in checks) for result in (PASSED, FAILED, SKIPPED)}
    print(f"\n{count[PASSED]} passed, {count[FAILED]} failed, {count[SKIPPED]} skipped; records are in {options.records}")
    if options.pack:
        pack(options)
    return 1 if count[FAILED] or not count[PASSED] else 0


def pack(options):
    def without_weights(member):
        return None if member.name.endswith(".safetensors") else member

    with tarfile.open(options.pack, "w:gz") as archive:
        archive.add(options.records, arcname="records", filter=without_weights)
    print(f"packed into {options.pack}: {options.pack.stat().st_size / 1e6:.1f} MB")


def main():
    options = arguments()
    options.records.mkdir(parents=True, exist_ok=True)
    card, checks = machine(), []
    print(f"card: {card or 'nvidia-smi tells none'}")
    first = Part("device", options)
    try:
        first.note("a step on the GPU", PASSED, look_for_gpu(first))
    except Stop as reason:
        first.note("a step on the GPU", FAILED, str(reason))
        print("\nWithout a GPU that works there is nothing to verify. Folders with NVIDIA's libraries that were looked through:")
        print("\n".join(f"    {folder}" for folder in libraries()) or "    none")
        return report(options, first.checks, card)
    checks += first.checks
    functions = {"numbers": numbers, "sanitizer": sanitizer, "speed": speed, "study": study, "compile": compiled}
    for name in options.parts:
        part = Part(name, options)
        functions[name](part)
        checks += part.checks
    return report(options, checks, card)


if __name__ == "__main__":
    sys.exit(main())
