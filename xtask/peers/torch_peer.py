#!/usr/bin/env python3
"""The study's networks in PyTorch, timed for `cargo xtask bench`.

The networks are the notebook's, and so is the way a step is taken: eager, 32-bit, Adam with coupled weight decay. What is
timed is a whole step: in training zero_grad, forward, loss, backward and optimizer, in evaluation forward and loss; in both
the loss and the number of correct predictions are read back, because the study's training loop shows them. The images are
tensors in the asked memory format before the clock starts.
"""

import argparse
import json
import math
import os
import sys
import time

PARAMETERS = {"alexnet_plain": 6_979_146, "alexnet": 2_256_458, "nin": 1_485_386}
# Batches that take turns, so that no step sees the images of the one before.
BATCHES = 4


def arguments():
    def at_least(least):
        def parse(text):
            if text.isdecimal() and int(text) >= least:
                return int(text)
            raise argparse.ArgumentTypeError(f"give a number from {least} up")

        return parse

    parser = argparse.ArgumentParser(description="Times whole steps of one network on random images.")
    parser.add_argument("--model", choices=PARAMETERS, required=True, help="the network")
    parser.add_argument("--phase", choices=["train", "eval"], default="train", help="what a step is")
    parser.add_argument("--batch", type=at_least(1), default=126, metavar="N", help="images in a batch")
    parser.add_argument("--warmup", type=at_least(0), default=2, metavar="N", help="steps before the clock starts")
    parser.add_argument("--steps", type=at_least(1), default=5, metavar="N", help="steps to time")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="computing threads [default: torch's]")
    parser.add_argument(
        "--memory-format",
        choices=["contiguous", "channels_last"],
        default="contiguous",
        help="layout of weights and images; the notebook's is contiguous",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    return parser.parse_args()


def features(nn, blocks):
    """A chain of convolution and BatchNorm; `ending` is what follows them: r is ReLU, p is the pool."""
    layers = []
    for channels_in, channels_out, kernel, ending in blocks:
        layers += [nn.Conv2d(channels_in, channels_out, kernel, padding=1), nn.BatchNorm2d(channels_out)]
        layers += [{"r": nn.ReLU(inplace=True), "p": nn.MaxPool2d(2)}[letter] for letter in ending]
    return nn.Sequential(*layers)


def network(nn, name):
    if name == "nin":
        # The pointwise convolutions pad as well: that is the published network.
        body = features(
            nn,
            [(3, 64, 3, "rp"), (64, 128, 3, ""), (128, 128, 1, ""), (128, 192, 1, "rp"), (192, 256, 3, "")]
            + [(256, 256, 1, ""), (256, 384, 1, "rp"), (384, 256, 1, ""), (256, 256, 3, ""), (256, 256, 1, "rp")],
        )
    else:
        body = features(
            nn,
            [(3, 64, 3, "rp"), (64, 192, 3, "rp"), (192, 384, 3, "r"), (384, 256, 3, "r"), (256, 256, 3, "rp")],
        )
    if name == "alexnet_plain":
        head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(4096, 1024), nn.ReLU(inplace=True)]
        head += [nn.Dropout(0.5), nn.Linear(1024, 512), nn.ReLU(inplace=True), nn.Linear(512, 10)]
    else:
        head = [nn.Conv2d(256, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(body, *head)


def peak_memory():
    """The largest resident set of this process so far, in bytes, where the system tells (Linux)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def measure(options):
    import torch
    from torch import nn

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[options.memory_format]
    model = network(nn, options.model).to(memory_format=layout)
    found, published = sum(p.numel() for p in model.parameters()), PARAMETERS[options.model]
    if found != published:
        sys.exit(f"error: the network has {found} parameters where the published one has {published}")
    batches = [
        (
            torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=layout),
            torch.randint(0, 10, (options.batch,)),
        )
        for _ in range(BATCHES)
    ]
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-4)

    def train(images, labels):
        optimizer.zero_grad(set_to_none=True)
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item(), (logits.argmax(1) == labels).sum().item()

    @torch.inference_mode()
    def evaluate(images, labels):
        logits = model(images)
        return criterion(logits, labels).item(), (logits.argmax(1) == labels).sum().item()

    step = train if options.phase == "train" else evaluate
    model.train(options.phase == "train")
    seconds, losses = [], []
    for number in range(options.warmup + options.steps):
        images, labels = batches[number % BATCHES]
        start = time.perf_counter()
        loss, correct = step(images, labels)
        elapsed = time.perf_counter() - start
        if not math.isfinite(loss) or correct > options.batch:
            sys.exit(f"error: step {number} gave a loss of {loss} and {correct} correct of {options.batch}")
        if number >= options.warmup:
            seconds.append(elapsed)
            losses.append(loss)
    row = {
        "contender": "pytorch" if options.memory_format == "contiguous" else "pytorch-channels-last",
        "version": torch.__version__,
        "model": options.model,
        "phase": options.phase,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "warmup": options.warmup,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory(),
        "detail": f"eager, {options.memory_format}, Adam",
    }
    return row, losses


def main():
    options = arguments()
    # A machine with a GPU is asked for its processor's time here.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        row, losses = measure(options)
    except ImportError as error:
        sys.exit(f"error: PyTorch cannot be loaded ({error}); install it with `pip install torch numpy`")
    if options.json:
        print(json.dumps(row))
        return
    print(f"{row['contender']} {row['version']}: {row['detail']}")
    for number, (seconds, loss) in enumerate(zip(row["seconds"], losses), 1):
        rate = options.batch / seconds
        print(f"step {number:>3} {1e3 * seconds:>10.1f} ms {rate:>8.0f} images/s   loss {loss:.4f}")


if __name__ == "__main__":
    main()
