#!/usr/bin/env python3
"""PyTorch's side of `cargo xtask bench`: options, the clock, and the line of JSON that is a row.

The time is that of a whole step: in training zero_grad, forward, loss, backward and optimizer, in evaluation forward and loss. The
loss and the number of correct predictions are read back, because the study's training loop shows them: on the CPU after each
step, on a GPU after each group of steps, when the clock is read. `torch_cpu.py` and `torch_cuda.py` take the steps;
`torch_nets.py` makes the network of a graph that `trainer summary --graph` printed.

With `--serve` the process keeps running: each line on stdin is a JSON list of further options, each answer a line on stdout. On a GPU
that saves loading PyTorch and choosing its kernels anew in each round.
"""

import argparse
import json
import math
import os
import sys
import time

# Steps that share one reading of the clock: the GPU works through them while the host is ahead.
GROUPS = {"eager": 1, "notebook": 10, "graph": 20, "compile": 20}


def parser():
    def at_least(least):
        def parse(text):
            if text.isdecimal() and int(text) >= least:
                return int(text)
            raise argparse.ArgumentTypeError(f"give a number from {least} up")

        return parse

    parser = argparse.ArgumentParser(description="Times whole steps of one network on random images.")
    parser.add_argument("--graph", metavar="FILE", help="the network, as `trainer summary --graph` prints it")
    parser.add_argument("--phase", choices=["train", "eval"], default="train", help="what a step is")
    parser.add_argument("--batch", type=at_least(1), metavar="N", help="images in a batch")
    parser.add_argument("--lr", type=float, metavar="RATE", help="Adam's learning rate")
    parser.add_argument("--weight-decay", type=float, metavar="FACTOR", help="Adam's weight decay, added to the gradient")
    parser.add_argument("--warmup", type=at_least(0), default=2, metavar="N", help="groups before the clock starts")
    parser.add_argument("--steps", type=at_least(1), default=5, metavar="N", help="groups of steps to time")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="computing threads [default: torch's]")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
    parser.add_argument(
        "--memory-format",
        choices=["contiguous", "channels_last"],
        default="contiguous",
        help="eager steps: layout of weights and images; the notebook's is contiguous",
    )
    parser.add_argument(
        "--settings",
        choices=GROUPS,
        default="eager",
        help="eager on prepared images (the CPU's contenders); notebook: with its DataLoader; graph: images, augmentation and a CUDA "
        "graph of the whole step on the GPU; compile: a graph of what torch.compile makes at max-autotune. The last three also run "
        "on --device cpu, for trying out, without graphs",
    )
    parser.add_argument(
        "--precision",
        choices=["f32", "tf32", "bf16"],
        default="f32",
        help="graph and compile: TF32 in every product, or bf16 by autocast; the notebook's is PyTorch's default",
    )
    parser.add_argument("--group", type=at_least(1), metavar="N", help="steps per reading of the clock [default: by settings]")
    parser.add_argument("--images", type=at_least(1), default=50_000, metavar="N", help="notebook, graph, compile: images to draw from")
    parser.add_argument("--serve", action="store_true", help="answer questions from stdin")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    return parser


def complete(options):
    """The options that make a question; with --serve they come later."""
    required = {"--graph": options.graph, "--batch": options.batch, "--lr": options.lr, "--weight-decay": options.weight_decay}
    missing = [option for option, value in required.items() if value is None]
    if missing:
        parser().error(f"the following arguments are required: {', '.join(missing)}")
    return options


def peak_memory():
    """The largest resident set of this process so far, in bytes, if the system reports it (Linux)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def make(options, graph):
    """What takes the steps: `take()` is one of them, `totals()` waits for them all and gives the last one's loss, and how many of
    its predictions are right."""
    if options.settings == "eager":
        if options.device != "cpu":
            raise SystemExit("error: eager steps are the CPU's contenders; give --settings notebook, graph or compile")
        import torch_cpu

        return torch_cpu.Eager(options, graph)
    import torch_cuda

    return torch_cuda.make(options, graph)


def contender(options):
    if options.settings == "eager":
        return "pytorch" if options.memory_format == "contiguous" else "pytorch-channels-last"
    return f"pytorch-{options.settings}"


def timed(subject, options, group):
    """Seconds of a step, and the loss, at each reading of the clock."""
    seconds, losses = [], []
    for number in range(options.warmup + options.steps):
        start = time.perf_counter()
        for _ in range(group):
            subject.take()
        loss, correct = subject.totals()
        elapsed = time.perf_counter() - start
        if not math.isfinite(loss) or not 0 <= correct <= options.batch:
            raise SystemExit(f"error: group {number} gave a loss of {loss} and {correct} correct of {options.batch}")
        if number >= options.warmup:
            seconds.append(elapsed / group)
            losses.append(loss)
    return seconds, losses


def measure(options, subjects):
    """A row and its losses. Subjects are kept for further rounds, by the options they were made for."""
    import torch
    from torch_nets import read_graph

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # The notebook has the one precision that PyTorch's defaults give it.
    precision = options.precision if options.settings in ("graph", "compile") else None
    group = options.group or GROUPS[options.settings]
    key = (options.graph, options.phase, options.batch, options.lr, options.weight_decay, precision)
    if key not in subjects:
        graph = read_graph(options.graph)
        subjects[key] = graph["name"], make(options, graph)
    name, subject = subjects[key]
    seconds, losses = timed(subject, options, group)
    row = {
        "contender": contender(options),
        "version": torch.__version__,
        "model": name,
        "parameters": subject.parameters,
        "phase": options.phase,
        "precision": precision,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "warmup": options.warmup,
        "group": group,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "detail": subject.detail,
    }
    return row, losses


def show(row, losses):
    print(f"{row['contender']} {row['version']}: {row['detail']}")
    for number, (seconds, loss) in enumerate(zip(row["seconds"], losses), 1):
        rate = row["batch"] / seconds
        print(f"step {number:>3} {1e3 * seconds:>10.2f} ms {rate:>8.0f} images/s   loss {loss:.4f}")


def serve(typed):
    # Only rows go to stdout: what libraries print goes to stderr.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subjects = {}
    for line in sys.stdin:
        row, _ = measure(complete(parser().parse_args(typed + json.loads(line))), subjects)
        print(json.dumps(row), file=rows, flush=True)


def main():
    typed = sys.argv[1:]
    options = parser().parse_args(typed)
    if not options.serve:
        complete(options)
    if options.device == "cpu":
        # On a machine with a GPU, this times its processor.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        if options.serve:
            serve(typed)
            return
        row, losses = measure(options, {})
    except ImportError as error:
        sys.exit(f"error: PyTorch cannot be loaded ({error}); install it with `pip install torch numpy`")
    if options.json:
        print(json.dumps(row))
    else:
        show(row, losses)


if __name__ == "__main__":
    main()
