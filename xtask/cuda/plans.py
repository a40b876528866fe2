#!/usr/bin/env python3
"""plans.py GRAPH.json... [--batch N] [--properties FILE] [--out RECORD.json]: the plans that cuDNN has for a network's convolutions.

Asks the real cuDNN, which since 9.8 makes plans for a card from its properties alone: no GPU is needed. For each convolution
that the engine `cuda` leaves to cuDNN, each direction and each precision it says how many plans there are, which one comes first, what
memory that one needs, and whether it uses tensor cores and gives the same bits every time. It can say neither which one is fastest on a card,
nor which of them the calls of cuDNN's older interface reach.

GRAPH.json is what `trainer summary --model NAME --graph` prints. plans.sh installs what this needs and calls it.
"""

import argparse
import json
import math
import pathlib
import sys

import cudnn

# An H100 of the kind SXM with 80 GB, from public figures: ASSUMED, unless --properties gives those of a real card, which
# `cudnn.create_device_properties(0).serialize()` prints there. The driver's version is that of CUDA 13.0.
H100 = {
    "deviceName": "NVIDIA H100 80GB HBM3",
    "deviceVer": 900,
    "driverVer": 13000,
    "cudaDeviceId": 0,
    "pciDeviceId": 0x233010DE,
    "isTccDriver": 0,
    "multiProcessorCount": 132,
    "smClockRateKHz": 1_980_000,
    "memClockRateKHz": 2_619_000,
    "l2CacheSize": 50 << 20,
    "totalGlobalMem": 84_943_110_144,
    "warpSize": 32,
    "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048,
    "maxCtasPerSM": 32,
    "maxBlockSize": [1024, 1024, 64],
    "maxGridSize": [2**31 - 1, 65535, 65535],
    "regsPerBlock": 65536,
    "maxRegistersPerSM": 65536,
    "maxSharedMemoryPerBlock": 48 << 10,
    "maxSharedMemoryPerBlockOptin": 227 << 10,
    "reservedSharedMemoryPerBlock": 1 << 10,
    "supportCoopLaunch": 1,
}

# Name, type of tensors, channels of a vector of 16 bytes, and whether tensor cores may be used.
PRECISIONS = [
    ("f32", cudnn.data_type.FLOAT, 4, False),
    ("tf32", cudnn.data_type.FLOAT, 4, True),
    ("bf16", cudnn.data_type.BFLOAT16, 8, True),
]
DIRECTIONS = ("forward", "data", "filter")
NOTES = {
    "tensor_cores": cudnn.numerical_note.TENSOR_CORE,
    "nondeterministic": cudnn.numerical_note.NONDETERMINISTIC,
    "reduced_precision_sums": cudnn.numerical_note.REDUCED_PRECISION_REDUCTION,
    "converted_inputs": cudnn.numerical_note.DOWN_CONVERT_INPUTS,
}


def convolutions(graph):
    """The convolutions of a network that cuDNN computes: not the pointwise ones, which are matrix products, nor small groups."""
    for node in graph["nodes"]:
        if node["kind"] != "Conv2d":
            continue
        told = node["arguments"]
        pad, stride, kernel, groups = told["padding"], told["stride"], told["kernel_size"], told["groups"]
        if groups == 1 and kernel == [1, 1] and stride == [1, 1] and pad[0] == pad[1]:
            continue
        source = graph["nodes"][node["inputs"][0]]
        yield {
            "layer": f"{graph['name']} {node['path']}",
            "images": source["kind"] == "Input",
            "channels": [told["in_channels"], told["out_channels"]],
            "size": [source["output"][1:], node["output"][1:]],
            "kernel": kernel, "padding": pad, "stride": stride, "groups": groups,
        }


def question(layer, vector):
    """The shapes that cuDNN is asked about; channels padded as the engine pads them. None if the engine's own kernels compute the groups."""
    groups, (inputs, outputs) = layer["groups"], layer["channels"]
    if groups == 1:
        inputs, outputs = (math.ceil(channels / vector) * vector for channels in (inputs, outputs))
    elif inputs // groups % vector or outputs // groups % vector:
        return None
    return {"channels": [inputs, outputs], **{key: layer[key] for key in ("size", "kernel", "padding", "stride", "groups")}}


def tensor(graph, name, n, channels, height, width):
    """A tensor (n, channels, height, width), channels last."""
    shape, strides = [n, channels, height, width], [channels * height * width, 1, channels * width, channels]
    return graph.tensor(name=name, dim=shape, stride=strides), shape, strides


def graph_of(asked, direction, kind, batch, card):
    graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=cudnn.data_type.FLOAT,
                          compute_data_type=cudnn.data_type.FLOAT, device_property=card)
    (inputs, outputs), ((height, width), (down, across)), (rows, columns) = asked["channels"], asked["size"], asked["kernel"]
    x = (batch, inputs, height, width)
    y = (batch, outputs, down, across)
    w = (outputs, inputs // asked["groups"], rows, columns)
    how = {"padding": asked["padding"], "stride": asked["stride"], "dilation": [1, 1]}
    operation, first, second, result = {
        "forward": (graph.conv_fprop, ("x", x), ("w", w), y),
        "data": (graph.conv_dgrad, ("dy", y), ("w", w), x),
        "filter": (graph.conv_wgrad, ("x", x), ("dy", y), w),
    }[direction]
    made = operation(tensor(graph, first[0], *first[1])[0], tensor(graph, second[0], *second[1])[0], **how)
    n, channels, height, width = result
    made.set_output(True).set_dim(list(result)).set_stride([channels * height * width, 1, channels * width, channels])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    return graph


def plans(asked, direction, kind, batch, card, barred):
    """The plans that can be built without a kind of arithmetic, in cuDNN's order of preference: name and bytes of workspace."""
    try:
        graph = graph_of(asked, direction, kind, batch, card)
        graph.deselect_numeric_notes(barred)
        listed = graph.get_execution_plan_count()
    except cudnn.cudnnGraphNotSupportedError:
        return {}
    found = {}
    for index in range(listed):
        try:
            graph.build_plan_at_index(index)
        # A plan that is barred, or one that cuDNN lists but cannot build.
        except (cudnn.cudnnGraphNotSupportedError, RuntimeError):
            continue
        found[graph.get_plan_name_at_index(index)] = graph.get_workspace_size_plan_at_index(index)
    return found


def ask(asked, direction, kind, tensor_cores, batch, card):
    """How many plans there are, and what the first is like; a plan has a note if barring the note takes the plan away."""
    barred = [] if tensor_cores else [NOTES["tensor_cores"]]
    every = plans(asked, direction, kind, batch, card, barred)
    if not every:
        return {"plans": 0, "deterministic": 0}
    without = {name: plans(asked, direction, kind, batch, card, [*barred, note]) for name, note in NOTES.items() if note not in barred}
    engine, workspace = next(iter(every.items()))
    deterministic = without["nondeterministic"]
    answer = {"plans": len(every), "deterministic": len(deterministic), "engine": engine, "workspace": workspace,
              "notes": [name for name, others in without.items() if engine not in others]}
    if deterministic and engine not in deterministic:
        answer["deterministic_engine"], answer["deterministic_workspace"] = next(iter(deterministic.items()))
    return answer


def table(entries):
    lines = [f"{'convolution':34} {'direction':9} {'':5} {'plans':>5} {'deterministic':>13} {'workspace':>10}  first plan"]
    for entry in entries:
        (inputs, outputs), (size, _), kernel = entry["channels"], entry["size"], entry["kernel"]
        shape = f"{inputs}->{outputs} at {size[0]}x{size[1]}, {kernel[0]}x{kernel[1]}"
        if entry["groups"] > 1:
            shape += f", {entry['groups']} groups"
        space = f"{entry['workspace'] / 2**20:.1f} MiB" if "workspace" in entry else ""
        notes = ", ".join(note.replace("_", " ") for note in entry.get("notes", ()))
        lines.append(f"{shape:34} {entry['direction']:9} {entry['precision']:5} {entry['plans']:5} {entry['deterministic']:13} {space:>10}  "
                     f"{entry.get('engine', 'none')}{f' ({notes})' if notes else ''}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("graphs", nargs="+", type=pathlib.Path, metavar="GRAPH.json")
    parser.add_argument("--batch", type=int, default=126)
    parser.add_argument("--properties", type=pathlib.Path, help="a file with the properties of a real card, instead of an H100's public figures")
    parser.add_argument("--command", default="xtask/cuda/plans.sh", help="the command that the record names")
    parser.add_argument("--out", type=pathlib.Path, help="the file to write the record to")
    options = parser.parse_args()
    try:
        properties = json.loads(options.properties.read_text()) if options.properties else H100
        card = cudnn.create_device_properties(json.dumps(properties))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{options.properties} does not hold a card's properties as cuDNN serializes them: {error}")
    questions = {}
    for path in options.graphs:
        for layer in convolutions(json.loads(path.read_text())):
            for precision, kind, vector, tensor_cores in PRECISIONS:
                asked = question(layer, vector)
                if asked is None:
                    continue
                # Images need no gradient.
                for direction in DIRECTIONS[:1] + DIRECTIONS[1 + layer["images"]:]:
                    key = json.dumps([precision, direction, asked])
                    entry = questions.setdefault(key, (asked, direction, precision, kind, tensor_cores, []))
                    entry[5].append(layer["layer"])
    entries = []
    for asked, direction, precision, kind, tensor_cores, layers in questions.values():
        answer = ask(asked, direction, kind, tensor_cores, options.batch, card)
        entries.append({"layers": layers, "direction": direction, "precision": precision, **asked, **answer})
    print(f"cuDNN {cudnn.backend_version_string()} for {properties['deviceName']}"
          f"{'' if options.properties else ', whose properties are assumed'}, batches of {options.batch}")
    print(table(entries))
    if options.out:
        lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
        head = {"command": options.command, "cudnn": cudnn.backend_version_string(), "frontend": cudnn.__version__, "batch": options.batch,
                "properties_are_assumed": options.properties is None, "properties": properties}
        text = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
        options.out.write_text(f'{{\n{text},\n  "plans": [\n{lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
