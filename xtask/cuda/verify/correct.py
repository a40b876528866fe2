"""The part `correct`: distances to the engine `cpu` as numbers, equal bytes when repeated and resumed, both devices, the tests."""

import json
import re
import shutil

from part import FAILED, PASSED, SKIPPED, OutOfTime, Stop, because

# Limits of the relative distance of the first loss on the same weights, and of the worst gradient, from the CPU's. The distances themselves
# are reported; these limits are generous, to find what cannot be rounding: f32 in another order of sums; factors rounded or truncated to 11
# bits; everything in 8 bits, where a ReLU or a pool here and there decides otherwise.
LOSS = {"f32": 1e-4, "tf32": 1e-2, "bf16": 6e-2}
GRADIENT = {"f32": 2e-2, "tf32": 0.5, "bf16": 1.0}

# The test that the dry run takes of each test program: it shows that the program starts and finds its files.
ONE_TEST = {
    "pointwise-engine-cuda-tests": "resident_images_are_checked",
    "pointwise-engine-cuda_choices-tests": "what_was_measured_is_used_the_next_time_and_what_cannot_be_used_is_measured_again",
    "pointwise-engine-engines-tests": "batches_that_cannot_be_computed_are_refused",
    "pointwise-engine-recipes-tests": "the_norm_is_that_of_all_gradients",
    "pointwise-tests-pytorch-tests": "adam_alone",
    "pointwise-tests-pytorch_layers-tests": "training_mode_outputs",
    "pointwise-tests-pytorch_networks-tests": "lenet",
    "pointwise-tests-pytorch_recipes-tests": "resumed_to_the_same_bytes",
    "trainer-gpu_study-tests": "a_run_that_fails_on_a_gpu_leaves_the_others_alone",
}


def correct(part):
    distances(part)
    for precision in ["bf16"] if part.options.dry_run else ["bf16", "f32"]:
        resume(part, "alexnet" if part.options.dry_run else "alexnet_plain", precision)
    between_devices(part, "alexnet" if part.options.dry_run else "nin")
    reference(part, "nin")
    # The most telling come first.
    order = ["engine-cuda", "pytorch-tests", "engine-engines", "pytorch_networks", "recipes", "pytorch_layers"]
    programs = list((part.options.here / "programs").iterdir())
    place = lambda program: next((number for number, word in enumerate(order) if word in program.name), len(order))
    for program in sorted(programs, key=lambda program: (place(program), program.name)):
        test_program(part, program)


def distances(part):
    """First loss and gradients of each network in each precision, against the engine `cpu`."""
    answers, failure = part.ask("distances")
    for answer in answers:
        if answer.get("what") != "distance":
            continue
        precision = answer["precision"]
        # A distance that is NaN or infinite is sent as null.
        values = [answer["loss"], answer["worst"]]
        good = None not in values and values[0] <= LOSS[precision] and values[1] <= GRADIENT[precision]
        shown = ["not a number" if value is None else f"{value:.1e}" for value in [*values, answer["median"]]]
        detail = f"loss {shown[0]} away, gradients {shown[2]} by the median and at most {shown[1]} ({answer['name']})"
        part.note(f"{answer['model']} in {precision}: distance to the engine cpu", PASSED if good else FAILED, detail)
    if failure:
        part.note("distances to the engine cpu", FAILED, failure)


def train(part, name, model, device, more=(), engine=None, **sizes):
    """A short training on random images; returns its folder."""
    folder = part.folder / "runs" / name
    if "--resume" not in more:
        shutil.rmtree(folder, ignore_errors=True)
    size = {"batch": 126, "images": 1260, "test": 252, "epochs": 1, **sizes}
    if part.options.dry_run:
        size |= {"batch": 6, "images": 18, "test": 6}
    command = [part.options.trainer, "train", "--quiet", "--model", model, "--device", device, "--engine", engine or device]
    command += ["--data", "synthetic", "--limit-train", size["images"], "--limit-test", size["test"]]
    command += ["--batch-size", size["batch"], "--epochs", size["epochs"], "--log-every", 1, "--run-dir", folder, *more]
    code, output, _ = part.run(name, command)
    if code != 0:
        raise Stop(because(code, output))
    return folder


def metrics(folder):
    """The lines of a run, without the measured seconds."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines]


def same_run(a, b):
    """The difference between two runs that should be equal byte for byte."""
    if metrics(a) != metrics(b):
        return "the metrics differ"
    for name in ["best.safetensors", "last.safetensors"]:
        if (a / "checkpoints" / name).read_bytes() != (b / "checkpoints" / name).read_bytes():
            return f"{name} differs"
    return ""


def resume(part, model, precision):
    """A deterministic run twice, and once in two pieces."""
    options = ["--precision", precision, "--deterministic"]
    name, check = f"{model}-{precision}", f"{model} in {precision}: "
    try:
        whole = train(part, f"{name}-whole", model, "cuda", options, epochs=2)
        again = train(part, f"{name}-again", model, "cuda", options, epochs=2)
        difference = same_run(whole, again)
        part.note(check + "deterministic twice", FAILED if difference else PASSED, difference or "equal bytes")
        train(part, f"{name}-pieces", model, "cuda", [*options, "--max-steps", 2], epochs=2)
        pieces = train(part, f"{name}-pieces", model, "cuda", [*options, "--resume"], epochs=2)
        difference = same_run(whole, pieces)
        part.note(check + "stopped and resumed", FAILED if difference else PASSED, difference or "equal bytes")
    except Stop as reason:
        part.note(check + "deterministic and resumed", FAILED, str(reason))


def between_devices(part, model):
    """A checkpoint of the GPU evaluated on both devices."""
    check = f"{model}: a checkpoint on both devices"
    figures = {}
    try:
        folder = train(part, f"{model}-checkpoint", model, "cuda", ["--precision", "f32"])
        for device in ["cpu", "cuda"]:
            limit = 12 if part.options.dry_run else 1000
            command = [part.options.trainer, "eval", "--checkpoint", folder / "checkpoints" / "last.safetensors", "--device", device]
            command += ["--engine", device, "--data", "synthetic", "--limit", limit, "--batch-size", min(limit, 126), "--json"]
            code, output, _ = part.run(f"{model}-eval-{device}", command)
            # Progress is on stderr, which shares the log.
            found = re.search(r"^\{.*^\}", output, re.MULTILINE | re.DOTALL)
            if code != 0 or not found:
                raise Stop(because(code, output))
            figures[device] = json.loads(found[0])
    except Stop as reason:
        part.note(check, FAILED, str(reason))
        return
    cpu, cuda = figures["cpu"], figures["cuda"]
    away = abs(cuda["loss"] - cpu["loss"]) / abs(cpu["loss"])
    # Two logits can be close enough for rounding to change which is larger.
    good = away <= 1e-4 and abs(cuda["correct"] - cpu["correct"]) <= 1 + cpu["images"] // 500
    detail = f"loss {cpu['loss']:.6f} and {cuda['loss']:.6f}, {cpu['correct']} and {cuda['correct']} of {cpu['images']} right"
    part.note(check, PASSED if good else FAILED, detail)


def reference(part, model):
    """Ten steps of the engine `reference`, with candle's kernels, and of ours on the same weights and batches. Adam's division by small gradients
    makes small differences large, so all but the first are only reported."""
    check = f"{model}: the engine reference on the GPU"
    if part.options.emulated:
        part.note(check, SKIPPED, "the emulator has none of candle's kernels")
        return
    try:
        runs = [train(part, f"{model}-{engine}", model, "cuda", engine=engine) for engine in ["reference", "cuda"]]
    except Stop as reason:
        part.note(check, FAILED, str(reason))
        return
    losses = [[line["loss"] for line in metrics(folder) if line["kind"] == "step"] for folder in runs]
    shares = [abs(a - b) / abs(b) for a, b in zip(*losses)]
    detail = f"first loss {shares[0]:.1e} away from the engine cuda, the last of {len(shares)} {shares[-1]:.1e}"
    part.note(check, PASSED if shares[0] <= LOSS["f32"] else FAILED, detail)


def test_program(part, program):
    def count(output):
        results = re.findall(r"test result: ok\. (\d+) passed; \d+ failed; (\d+) ignored", output)
        return f"{results[-1][0]} tests" + (f", {results[-1][1]} ignored" if results[-1][1] != "0" else "") if results else ""

    # One at a time: a thread that closes a library spoils the graph that another one is recording.
    command = [program, "--test-threads=1"]
    if part.options.dry_run:
        command += ["--exact", ONE_TEST[program.name]]
    check, facts = f"tests {program.name}", {"CARGO_MANIFEST_DIR": str(part.options.here / "tests"), "RUST_BACKTRACE": "0"}
    code, output, seconds = part.run(program.name, command, **facts)
    if code is None:
        done = len(re.findall(r"^test .* ok$", output, re.MULTILINE))
        part.note(check, FAILED, f"out of time after {done} tests that passed")
        raise OutOfTime
    for failed in re.findall(r"^test (\S+) \.\.\. FAILED$", output, re.MULTILINE):
        part.note(f"{check}: {failed}", FAILED, f"see {program.name}.log")
    tests = count(output)
    # A name that no test has would pass.
    good = code == 0 and not tests.startswith("0 ")
    part.note(check, PASSED if good else FAILED, f"{tests}, {seconds:.0f} s" if code == 0 else because(code, output))
