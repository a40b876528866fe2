"""Checks and times a bundle (see bundle.sh) on a machine with an NVIDIA GPU.

    bash verify.sh [--data CIFAR10] [--records DIR] [part ...]

Parts, in this order: ground (the card and NVIDIA's libraries), clock (start-up times), layers (every algorithm of every layer),
correct (distances to the engine `cpu`, equal bytes when repeated and resumed, both devices, the tests), timeline (a step's kernels),
speed (recorded steps, ours and PyTorch's, runs at once), run (one whole run); and, if named, sanitizer (NVIDIA's), study (ten
seeds with the verdict on each published figure) and compile (ours and torch.compile).

Findings are printed, and written to `lines.jsonl` in the records, as they come. All parts together end within --minutes: each has its share and
what the ones before it have left; one that is late is stopped, and the next begins. If ground, clock or layers fails, the parts after it
are skipped. `study` continues where it stopped when it is run again with the same --records.

Exit code: 0 nothing failed, 1 something did, 2 wrong usage.
"""

import argparse
import json
import pathlib
import re
import sys
import tarfile
import tempfile
import time
import traceback

from correct import correct
from machine import clock, environment, ground, layers, timeline
from part import FAILED, OUT_OF_TIME, PASSED, SKIPPED, OutOfTime, Part, Records
from sanitizer import sanitizer
from speed import compiled, run, speed
from study import study

HERE = pathlib.Path(__file__).resolve().parent.parent
PRECISIONS = ["f32", "tf32", "bf16"]

# Each with its share of the time, in seconds of nine minutes.
PARTS = {
    "ground": (ground, 40),
    "clock": (clock, 30),
    "layers": (layers, 75),
    "correct": (correct, 145),
    "timeline": (timeline, 35),
    "speed": (speed, 170),
    "run": (run, 45),
    "sanitizer": (sanitizer, 520),
    "study": (study, 520),
    "compile": (compiled, 520),
}
USUAL = list(PARTS)[:7]
# If one of these fails, the others are skipped.
FOUNDATIONS = ["ground", "clock", "layers"]


def arguments():
    def folder(text):
        path = pathlib.Path(text).resolve()
        if not path.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is not a folder")
        return path

    def archive(text):
        if not tarfile.is_tarfile(text):
            raise argparse.ArgumentTypeError(f"{text} is not an archive of images.sh")
        return pathlib.Path(text)

    def seeds(text):
        if not re.fullmatch(r"\d+(,\d+)*", text):
            raise argparse.ArgumentTypeError("give numbers separated by commas")
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(prog="verify.sh", description="Checks and times the project on an NVIDIA GPU.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} [default: {', '.join(USUAL)}]")
    parser.add_argument("--data", type=folder, metavar="DIR", help="folder with CIFAR-10")
    parser.add_argument(
        "--data-archive", type=archive, action="append", metavar="FILE", help="instead of --data, each archive that images.sh made"
    )
    parser.add_argument("--records", type=pathlib.Path, default=HERE / "records", metavar="DIR", help="where logs and records go")
    parser.add_argument("--pack", type=pathlib.Path, metavar="FILE", help="the records without weights, as a .tar.gz")
    parser.add_argument("--minutes", type=float, metavar="N", help="time of all parts together [default: 9; for a dry run 60]")
    parser.add_argument("--seeds", type=seeds, default=list(range(42, 52)), metavar="LIST", help="seeds of the study [default: ten]")
    parser.add_argument("--precision", choices=PRECISIONS, default="tf32", help="precision of the study [default: tf32]")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="runs at once in the study [default: 3]")
    parser.add_argument(
        "--dry-run", action="store_true", help="every part in small sizes, for an emulated GPU: checks that each of them finds something"
    )
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"`{part}` is not a part: choose from {', '.join(PARTS)}")
    if options.data and options.data_archive:
        parser.error("give --data or --data-archive")
    usual = list(PARTS) if options.dry_run else USUAL
    # The first part shows whether the others can run.
    options.parts = [name for name in PARTS if name in (options.parts or usual) or name == "ground"]
    options.minutes = options.minutes or (60.0 if options.dry_run else 9.0)
    options.records = options.records.resolve()
    options.here, options.trainer, options.emulated = HERE, HERE / "bin" / "trainer", False
    if options.data_archive:
        options.data = unpacked(options.data_archive)
    return options


def unpacked(archives):
    """A folder with the content of these archives, which hold only files."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cifar10-"))
    for path in archives:
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    (folder / pathlib.Path(member.name).name).write_bytes(archive.extractfile(member).read())
    return folder


def schedule(names, seconds):
    """The deadline of each part, in seconds from the beginning."""
    whole = sum(PARTS[name][1] for name in names)
    ends, so_far = {}, 0
    for name in names:
        so_far += PARTS[name][1]
        ends[name] = seconds * so_far / whole
    return ends


def verify(options, records):
    """Runs the parts."""
    began, variables = time.monotonic(), environment(HERE)
    for name, ends in schedule(options.parts, 60 * options.minutes).items():
        part = Part(name, options, records, began + ends)
        part.environment = variables
        try:
            good = PARTS[name][0](part) is not False
        except OutOfTime:
            part.note("the rest of the part", FAILED, OUT_OF_TIME)
            good = True
        except Exception as error:
            # An unforeseen error in one part must not stop the others.
            (part.folder / "traceback.log").write_text(traceback.format_exc(), encoding="utf-8")
            part.note("the rest of the part", FAILED, f"{type(error).__name__}: {error}; see traceback.log")
            good = False
        if not good and name in FOUNDATIONS:
            part.note("the parts after it", SKIPPED, f"without {name} they mean nothing")
            return


def silent(options, records):
    """Parts whose only findings are failures or skips, although each should have found something."""
    spoke = {check["part"] for check in records.checks if check["result"] == PASSED}
    # Their requirements are not installed everywhere.
    spoke |= {check["part"] for check in records.checks if check["part"] in ("sanitizer", "compile")}
    return [name for name in options.parts if name not in spoke]


def report(options, records):
    built = json.loads((HERE / "built.json").read_text(encoding="utf-8"))
    checks = records.checks
    record = {"built": built, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "checks": checks}
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
    records = Records(options.records)
    verify(options, records)
    code = report(options, records)
    if options.dry_run and silent(options, records):
        print(f"verify.sh: these parts found nothing: {', '.join(silent(options, records))}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
