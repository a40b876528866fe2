#!/usr/bin/env python3
"""Other libraries' side of `cargo xtask bench --inference`: ONNX Runtime, OpenVINO and PyTorch on the same network, in f32.

The time is from images in host memory to logits in host memory. ONNX Runtime and OpenVINO get the ONNX file that PyTorch's own
exporter makes of the network, with a dynamic batch, which OpenVINO fixes to the one timed; `torch_nets.py` makes the network of
a graph that `trainer summary --graph` printed. The process keeps running: each line on stdin is a JSON list of options, each answer a
line on stdout.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time

# Batches used in turn, so that no call sees the images of the one before.
BATCHES = 4


def parser():
    parser = argparse.ArgumentParser(description="Times the inference of one network on random images.")
    parser.add_argument("--library", choices=["onnxruntime", "openvino", "pytorch"], required=True)
    parser.add_argument("--graph", metavar="FILE", help="the network, as `trainer summary --graph` prints it")
    parser.add_argument("--phase", choices=["infer"], default="infer")
    parser.add_argument("--batch", type=int, metavar="N", help="images in a batch")
    parser.add_argument("--threads", type=int, metavar="N", help="computing threads")
    parser.add_argument("--warmup", type=int, default=2, metavar="N", help="calls before the clock starts")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="calls to time at least; more until half a second has passed")
    parser.add_argument("--serve", action="store_true", help="answer questions from stdin")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


class Networks:
    """Networks and their ONNX files, made once."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.made = {}

    def get(self, path):
        import torch
        from torch_nets import network, read_graph

        if path not in self.made:
            graph = read_graph(path)
            torch.manual_seed(0)
            self.made[path] = (graph, network(graph).eval())
        return self.made[path]

    def onnx(self, path):
        import torch

        graph, model = self.get(path)
        file = os.path.join(self.folder.name, f"{list(self.made).index(path)}.onnx")
        if not os.path.exists(file):
            images = torch.zeros(2, *graph["input"])
            names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": {"images": {0: "n"}}}
            torch.onnx.export(model, (images,), file, dynamo=False, opset_version=17, **names)
        return file


def onnxruntime(options, networks):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options.threads, 1
    session = onnxruntime.InferenceSession(
        networks.onnx(options.graph), settings, providers=["CPUExecutionProvider"]
    )
    detail = "CPUExecutionProvider, all optimisations, arrays in and out"
    return lambda images: session.run(None, {"images": images})[0], onnxruntime.__version__, detail


def openvino(options, networks):
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(networks.onnx(options.graph))
    graph, _ = networks.get(options.graph)
    model.reshape([options.batch, *graph["input"]])
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    detail = "CPU, f32, latency hint, the batch as a static shape"
    return lambda images: request.infer({0: images})[0], openvino.__version__.split("-")[0], detail


def pytorch(options, networks):
    import torch

    torch.set_num_threads(options.threads)
    _, model = networks.get(options.graph)

    def call(images):
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return call, torch.__version__, "eager, inference mode"


def peak_memory():
    """The largest resident set of this process so far, in bytes, if the system reports it (Linux)."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def measure(options, networks):
    import numpy

    graph, model = networks.get(options.graph)
    call, version, detail = {"onnxruntime": onnxruntime, "openvino": openvino, "pytorch": pytorch}[options.library](
        options, networks
    )
    shape = (options.batch, *graph["input"])
    batches = [numpy.random.default_rng(i).standard_normal(shape).astype(numpy.float32) for i in range(BATCHES)]
    seconds = []
    for number in range(options.warmup + options.steps):
        start = time.perf_counter()
        logits = call(batches[number % BATCHES])
        elapsed = time.perf_counter() - start
        if logits.shape != (options.batch, graph["classes"]) or not math.isfinite(float(logits.sum())):
            raise SystemExit(f"error: call {number} gave logits of shape {logits.shape}")
        if number >= options.warmup:
            seconds.append(elapsed)
    return {
        "contender": options.library,
        "version": version,
        "model": graph["name"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "phase": options.phase,
        "batch": options.batch,
        "threads": options.threads,
        "warmup": options.warmup,
        "seconds": seconds,
        # One process for all networks: it says nothing about a single one.
        "peak_memory_bytes": None if options.serve else peak_memory(),
        "detail": detail,
    }


def main():
    typed = sys.argv[1:]
    options = parser().parse_args(typed)
    networks = Networks()
    if not options.serve:
        print(json.dumps(measure(options, networks)))
        return
    # Only rows go to stdout: what libraries print goes to stderr.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        row = measure(parser().parse_args(typed + json.loads(line)), networks)
        print(json.dumps(row), file=rows, flush=True)


if __name__ == "__main__":
    main()
