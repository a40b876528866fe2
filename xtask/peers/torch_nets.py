#!/usr/bin/env python3
"""Networks in PyTorch, from the JSON that `trainer summary --graph` prints.

A network is what one would write by hand: modules of `torch.nn` under the paths of the description, so that its
`state_dict` has our names, and a forward pass that calls one after the other. Activations work in place where that is
possible, and a sum adds to a branch that nothing else reads, as published implementations do.

    trainer summary --model NAME --graph > GRAPH.json
    python torch_nets.py --check GRAPH.json...

compares every output shape, parameter, multiply-accumulate, gradient and value of such networks with the description, without any
of these shortcuts.
"""

import argparse
import json
import math
import sys

import torch
from torch import nn
from torch.nn import functional

# Activations that can overwrite their input.
IN_PLACE = ("ReLU", "ReLU6", "LeakyReLU")
# Operations whose output is a new tensor that their own backward pass does not need: with one reader, it can be overwritten.
OVERWRITABLE = (
    "Conv2d",
    "Linear",
    "BatchNorm2d",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "Sum",
    "Concat",
    "Multiply",
)
# The prefix of modules without parameters: no path has a blank, so it collides with none.
REST = "without parameters"


def read_graph(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def network(graph):
    """The network, with PyTorch's initial values; ends the program if it is not the described one."""
    made = Network(graph)
    expected = {
        f"{node['path']}.{name}": shape for node in graph["nodes"] for name, shape in node["parameters"].items()
    }
    found = {name: list(parameter.shape) for name, parameter in made.named_parameters()}
    if found != expected:
        name = next(name for name in [*expected, *found] if found.get(name) != expected.get(name))
        raise SystemExit(
            f"error: {name} of {graph['name']} has shape {found.get(name)} where the description says {expected.get(name)}"
        )
    return made


class Network(nn.Module):
    """Walks through the nodes. Each value has a place in a list, which the next value takes over when it is no longer needed: a chain
    costs what `nn.Sequential` does, and no value outlives its last reader."""

    def __init__(self, graph, in_place=True):
        super().__init__()
        nodes = graph["nodes"]
        readers = [0] * len(nodes)
        for node in nodes:
            for place in node["inputs"]:
                readers[place] += 1
        # The inputs that a node may overwrite, never the image.
        owned = [
            in_place and readers[place] == 1 and node["kind"] in OVERWRITABLE for place, node in enumerate(nodes)
        ]
        made = [part(node, owned) for node in nodes]
        self.output, self.places = 0, 1
        self.steps = self.plan(nodes, made, readers)
        self.register(nodes, made)

    def register(self, nodes, made):
        """Puts the modules under their paths. `add_module` would refuse a layer of the name `type`, or of one of our attributes,
        which Python finds before it looks for modules."""
        modules = [(node["path"], made) for node, made in zip(nodes, made) if isinstance(made, nn.Module)]
        named = [(path, module) for path, module in modules if module.state_dict()]
        # A module inside another one comes after it.
        for path, module in sorted(named, key=lambda item: item[0].count(".")):
            *scopes, name = path.split(".")
            parent = self
            for scope in scopes:
                parent = parent._modules.setdefault(scope, nn.Module())
            parent._modules[name] = module
        # They have no names in a state_dict, and several may have one path; here they follow the network's training mode.
        self._modules[REST] = nn.ModuleList(module for _, module in modules if not module.state_dict())

    def plan(self, nodes, made, readers):
        """Steps: what to call, the places of its inputs and its output, and which places are free afterwards."""
        place_of, free, steps = {0: 0}, [], []
        for number, (node, call) in enumerate(zip(nodes, made)):
            if node["kind"] == "Input":
                continue
            inputs = tuple(place_of[source] for source in node["inputs"])
            for source in node["inputs"]:
                readers[source] -= 1
            done = sorted({place_of[source] for source in node["inputs"] if readers[source] == 0})
            free += done
            place = free.pop(0) if free else self.places
            self.places = max(self.places, place + 1)
            place_of[number] = place
            # A place that is taken over at once need not be emptied.
            empty = tuple(other for other in done if other != place)
            # One input is by far the most common case, and needs no tuple of arguments.
            steps.append((call, inputs[0] if len(inputs) == 1 else None, inputs, place, empty))
            self.output = place
        return steps

    def forward(self, images):
        values = [None] * self.places
        values[0] = images
        for call, single, inputs, place, empty in self.steps:
            if single is not None:
                values[place] = call(values[single])
            else:
                values[place] = call(*[values[source] for source in inputs])
            for other in empty:
                values[other] = None
        return values[self.output]


def part(node, owned):
    """A module or a function that computes a node."""
    kind, arguments = node["kind"], dict(node["arguments"])
    for name, value in arguments.items():
        if isinstance(value, list):
            arguments[name] = tuple(value)
    if kind == "Input":
        return None
    if kind == "Sum":
        return sum_of([owned[place] for place in node["inputs"]])
    if kind == "Concat":
        return concat
    if kind == "Multiply":
        return product
    if kind == "Scale":
        factor = arguments["factor"]
        return lambda x: x * factor
    if kind == "Subsample":
        rows, columns = arguments["stride"]
        return lambda x: x[:, :, ::rows, ::columns]
    if kind == "PadChannels":
        channels = (0, 0, 0, 0, arguments["before"], arguments["after"])
        return lambda x: functional.pad(x, channels)
    if kind == "BatchNorm2d":
        return batch_norm(**arguments)
    if kind in IN_PLACE:
        # With a negative slope PyTorch cannot tell from the result what the input was.
        arguments["inplace"] = owned[node["inputs"][0]] and arguments.get("negative_slope", 0) >= 0
    return getattr(nn, kind)(**arguments)


def batch_norm(num_features, eps, momentum, weight, bias):
    norm = nn.BatchNorm2d(num_features, eps=eps, momentum=momentum, affine=weight or bias)
    if not weight:
        norm.register_parameter("weight", None)
    if not bias:
        norm.register_parameter("bias", None)
    return norm


def sum_of(owned):
    """Adds its inputs, into one of them if that may be overwritten. The order of two does not change a bit."""
    if owned == [False, True]:
        return lambda a, b: b.add_(a)
    if len(owned) == 2:
        return torch.Tensor.add_ if owned[0] else torch.add

    def add(first, second, *others):
        total = first.add_(second) if owned[0] else first + second
        for other in others:
            total.add_(other)
        return total

    return add


def concat(*inputs):
    return torch.cat(inputs, 1)


def product(first, *others):
    for other in others:
        first = first * other
    return first


def check(path):
    """Compares all that the description says, on two random images; returns a line about it."""
    graph = read_graph(path)
    nodes = graph["nodes"]
    torch.manual_seed(0)
    made, plain = network(graph), Network(graph, in_place=False)
    plain.load_state_dict(made.state_dict())
    # In double precision and without dropout, so that both must agree closely.
    for model in (made, plain):
        model.double().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    images = torch.randn(2, *graph["input"], dtype=torch.float64)
    before = images.clone()

    macs, values = 0, [None] * len(nodes)
    for number, (node, call) in enumerate(zip(nodes, [None, *(step[0] for step in plain.steps)])):
        value = call(*[values[place] for place in node["inputs"]]) if call else images
        if list(value.shape[1:]) != node["output"]:
            raise SystemExit(f"error: {node['path']} of {graph['name']} has {list(value.shape[1:])}, not {node['output']}")
        if node["kind"] in ("Conv2d", "Linear"):
            macs += call.weight.numel() * math.prod(node["output"][1:])
        values[number] = value
    if macs != graph["macs"]:
        raise SystemExit(f"error: {graph['name']} has {macs} multiply-accumulates, not {graph['macs']}")

    plain.load_state_dict(made.state_dict())
    labels = torch.arange(2) % graph["classes"]
    outputs = [model(images) for model in (made, plain)]
    for output in outputs:
        functional.cross_entropy(output, labels).backward()
    pairs = [("the output", *outputs), ("the image", images, before)]
    others = dict(plain.named_parameters())
    pairs += [(name, own.grad, others[name].grad) for name, own in made.named_parameters()]
    for name, one, other in pairs:
        if not torch.allclose(one, other, rtol=1e-6, atol=1e-12):
            raise SystemExit(f"error: {name} of {graph['name']} differs when values are overwritten")
    with torch.inference_mode():
        made.eval()(images)
    if not torch.equal(images, before):
        raise SystemExit(f"error: {graph['name']} overwrites its images")
    count = sum(parameter.numel() for parameter in made.parameters())
    overwritten = sum(getattr(module, "inplace", False) for module in made.modules())
    return (
        f"{graph['name']}: {count} parameters, {macs} multiply-accumulates, output {list(outputs[0].shape[1:])}, "
        f"{len(nodes)} nodes, {made.places} values at once, {overwritten} activations in place"
    )


def main():
    parser = argparse.ArgumentParser(description="Compares networks in PyTorch with their descriptions.")
    parser.add_argument("--check", nargs="+", required=True, metavar="GRAPH", help="what `trainer summary --graph` printed")
    for path in parser.parse_args().check:
        print(check(path))


if __name__ == "__main__":
    sys.exit(main())
