"""Tests of verify: `python3 xtask/cuda/test_verify.py`. Nothing here needs a GPU."""

import argparse
import importlib.util
import io
import json
import pathlib
import sys
import tarfile
import tempfile
import unittest
from unittest import mock

VERIFY = pathlib.Path(__file__).resolve().parent / "verify"
sys.dont_write_bytecode = True
sys.path.insert(0, str(VERIFY))

import machine
import sanitizer
import speed
from part import FAILED, PASSED, SKIPPED, Part, Records

spec = importlib.util.spec_from_file_location("verify_main", VERIFY / "__main__.py")
verify_main = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify_main)


class Verify(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.records = Records(self.folder / "records")
        self.addCleanup(self.records.file.close)

    def run_parts(self, parts, seconds):
        options = argparse.Namespace(parts=list(parts), minutes=seconds / 60, here=self.folder, dry_run=False)
        with mock.patch.object(verify_main, "PARTS", parts), mock.patch("builtins.print"):
            verify_main.verify(options, self.records)

    def lines(self):
        text = (self.folder / "records" / "lines.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def test_a_part_that_hangs_is_cut_off_and_the_later_ones_run(self):
        def hangs(part):
            part.note("before", PASSED)
            part.run("hangs", ["sh", "-c", "echo begun; sleep 600"])
            part.run("never", ["true"])

        def breaks(part):
            raise KeyError("loss")

        def after(part):
            part.note("after", PASSED)

        self.run_parts({"hangs": (hangs, 1), "breaks": (breaks, 1), "after": (after, 1)}, seconds=3)
        found = [(line["part"], line["check"], line["result"]) for line in self.lines()]
        rest = "the rest of the part"
        expected = [("hangs", "before", PASSED), ("hangs", rest, FAILED), ("breaks", rest, FAILED), ("after", "after", PASSED)]
        self.assertEqual(found, expected)
        self.assertEqual((self.folder / "records/hangs/hangs.log").read_text(), "begun\n")

    def test_without_a_foundation_nothing_else_is_begun(self):
        begun = []
        parts = {"ground": (lambda part: True, 1), "clock": (lambda part: False, 1), "speed": (begun.append, 1)}
        self.run_parts(parts, seconds=60)
        self.assertEqual(begun, [])
        self.assertEqual([line["result"] for line in self.lines()], [SKIPPED])

    def test_answers_are_lines_as_they_come(self):
        program = self.folder / "bin" / "first_contact"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\necho \'{"part": "clock", "what": "open", "ms": 1.5}\'\necho no JSON\necho "error: no luck" >&2\nexit 1\n')
        program.chmod(0o755)
        options = argparse.Namespace(here=self.folder, dry_run=False)
        part = Part("clock", options, self.records, ends=float("inf"))
        with mock.patch("builtins.print"), mock.patch.object(Part, "left", lambda part: 60):
            answers, failure = part.ask("clock")
        self.assertEqual((len(answers), failure), (1, "error: no luck (exit code 1)"))
        self.assertEqual([(line["part"], line["ms"]) for line in self.lines()], [("clock", 1.5)])

    def test_a_foundation_that_is_late_lets_the_others_try(self):
        answers = {"ask": lambda part, question: ([], "out of time")}
        begun = []
        parts = {"layers": (machine.layers, 1), "correct": (begun.append, 1)}
        with mock.patch.multiple(Part, **answers):
            self.run_parts(parts, seconds=60)
        self.assertEqual([part.name for part in begun], ["correct"])

    def test_archives_become_a_folder_of_files(self):
        paths = []
        for name in ["cifar-10-batches-bin/data_batch_1.bin", "../test_batch.bin"]:
            paths.append(self.folder / f"{len(paths)}.tar.xz")
            with tarfile.open(paths[-1], "w:xz") as archive:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
        with mock.patch("tempfile.mkdtemp", lambda prefix: str(self.folder / "records")):
            folder = verify_main.unpacked(paths)
        self.assertEqual((folder / "test_batch.bin").read_text(), "../test_batch.bin")
        self.assertTrue((folder / "data_batch_1.bin").is_file())

    def test_the_parts_share_the_time(self):
        ends = verify_main.schedule(verify_main.USUAL, 540)
        self.assertEqual(list(ends), verify_main.USUAL)
        self.assertEqual(list(ends.values()), sorted(ends.values()))
        self.assertAlmostEqual(ends["run"], 540)
        # With the time to end late programs, and the machine's start, within ten minutes.
        self.assertLessEqual(sum(verify_main.PARTS[name][1] for name in verify_main.USUAL), 540)

    def test_one_folder_for_each_library(self):
        for name in ["a/libcublas.so.13", "b/libcudnn.so.9", "b/libcublas.so.13", "c/libcudnn.so.9", "c/libnvrtc.so.13", "b/libcurand.so.10"]:
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        folders = [self.folder / name for name in "abc"]
        chosen = [pathlib.Path(folder).name for folder in machine.first_with_each(folders)]
        self.assertEqual(chosen, ["b", "a", "c"])

    def test_stems_hold_all_kernels_and_none_twice(self):
        kernels = ["average_f32", "average_bf16", "average_pool_f32", "loss_total", "adam_f32", "adamw_f32", "moments_bf16"]
        self.assertEqual(sanitizer.stems(kernels), ["adam", "average", "loss_total", "moments"])

    def test_aims_are_of_what_can_be_reached(self):
        row = lambda contender, precision, ms: {"contender": contender, "model": "nin", "precision": precision, "round": 1, "seconds": [ms / 1e3]}
        rows = [row("pointwise", "f32", 3.0), row("pytorch-graph", "f32", 3.1), row("pointwise", "bf16", 1.0), row("pytorch-graph", "bf16", 1.2)]
        part = Part("speed", None, self.records, ends=0)
        with mock.patch("builtins.print"):
            speed.targets(part, rows)
        against = {line["check"]: line["result"] for line in self.lines() if "against" in line["check"]}
        expected = {"nin, training in f32: against pytorch-graph": "told", "nin, training in bf16: against pytorch-graph": FAILED}
        self.assertEqual(against, expected)


if __name__ == "__main__":
    unittest.main()
