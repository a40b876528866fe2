#!/usr/bin/env python3
"""Describes a PyTorch network for Pointwise, and saves its weights under the same names.

    python export_network.py models.py:ResNet18 --input 3 32 32 --weights resnet18.pth --out described
    trainer summary --model described/ResNet18.toml
    trainer eval --model described/ResNet18.toml --checkpoint described/ResNet18.safetensors

The network is given as FILE:EXPRESSION. The expression is evaluated in the file: a class or function that can be called without
arguments, an object, or a call such as "models.py:VGG('VGG16')". `--weights` is a file of torch.save: a state_dict, or a
checkpoint with one. Without it, the weights are those of the expression's value.

torch.fx traces the forward pass; an error names what a description cannot hold, see docs/own-network.md for what it can. The result is
computed once and compared with what the network itself computes. Needs torch and safetensors.
"""

import argparse
import builtins
import importlib.util
import json
import operator
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

# Parts of paths that torch.compile and DataParallel add; readers of weights remove them.
WRAPPERS = ("module", "_orig_mod")
# Keys under which checkpoints have their state_dict.
USUAL_KEYS = ("model", "state_dict", "net", "model_state_dict", "model_state", "network", "weights", "params", "module")
COMPOSITIONS = ("Sum", "Concat", "Multiply")
# Largest relative difference of what the description computes: at most the order of the same operations differs.
TOLERANCE = 1e-4
# Images in the batch that is traced: a view with a hard-coded size would not fit another batch.
BATCH = 3


class CannotDescribe(Exception):
    """A sentence that names what a description cannot hold."""


@dataclass(eq=False)
class Value:
    """The value of a layer or a composition; the image has no kind."""

    kind: str | None
    inputs: list
    shape: tuple
    arguments: dict = field(default_factory=dict)
    # The module's path, if the layer has parameters.
    path: str | None = None
    # Its name in a sentence.
    where: str = ""
    # The path of the module in whose forward pass it is computed.
    scope: tuple = ()


def export(module, input_shape, name, about=""):
    """The description of a module as TOML, and its weights by name.

    `input_shape` is the shape of one image, (channels, rows, columns). Raises CannotDescribe.
    """
    while isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    module = getattr(module, "_orig_mod", module)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise CannotDescribe(f"`{name}` cannot be a network's name: give 1 to 64 letters, digits, _, . and -")
    was_training = module.training
    # Random numbers of the network come from a generator that nothing else uses.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
        images = torch.randn(BATCH, *input_shape, device=device)
        try:
            output = trace(module, images)
            layers = structure(output)
            weights = weights_of(module, output)
            compare(module, output, images, weights)
        finally:
            module.train(was_training)
    text = [f"name = {quoted(name)}"]
    if about:
        text.append(f"about = {quoted(about)}")
    text += [f"input = {list(input_shape)}", "layers = ["]
    text += toml_of(entries(layers, ()), 1)
    return "\n".join([*text, "]", ""]), weights


# From the forward pass to values.


def graph_of(module):
    try:
        return fx.symbolic_trace(module)
    except Exception as error:
        raise CannotDescribe(
            f"torch.fx cannot trace the forward pass ({first_line(error)}): it may not depend on the values of tensors"
        ) from error


def trace(module, images):
    """The last value of the forward pass: as in training, where dropout is seen, if that has one result."""
    module.eval()
    quiet = graph_of(module)
    dropouts = (functional.dropout, functional.dropout2d, functional.alpha_dropout)
    for node in quiet.graph.nodes:
        if node.op == "call_function" and node.target in dropouts and argument(node, 2, "training", True):
            raise CannotDescribe(f"{node.name} also drops values in evaluation: give it training=self.training")
    module.train()
    try:
        traced = graph_of(module)
    except CannotDescribe:
        traced = quiet
    if not isinstance(result_of(traced), fx.Node):
        traced = quiet
    if not isinstance(result_of(traced), fx.Node):
        raise CannotDescribe("the forward pass returns several results: let it return only the logits")
    module.eval()
    traced.eval()
    try:
        ShapeProp(traced).propagate(images)
    except Exception as error:
        raise CannotDescribe(
            f"the forward pass fails on images of shape {list(images.shape[1:])} ({first_line(error)}): give the input's "
            "shape with --input"
        ) from error
    return Reader(traced).read()


def result_of(traced):
    return next(node for node in traced.graph.nodes if node.op == "output").args[0]


def argument(node, place, name, default=None):
    """An argument of a call, by its position or name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


class Reader:
    """Makes values of the nodes of a traced module, in their order."""

    def __init__(self, traced):
        self.modules = dict(traced.named_modules())
        self.graph = traced.graph
        self.values = {}
        self.used = {}
        # Concatenations, by all their parts.
        self.concats = {}

    def read(self):
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if not inputs or any(user for node in inputs[1:] for user in node.users):
            raise CannotDescribe("the forward pass takes more than images")
        for node in self.graph.nodes:
            meta = node.meta.get("tensor_meta")
            if node.op == "output":
                value = self.values[result_of(self)]
                if len(value.shape) != 1:
                    raise CannotDescribe(f"the forward pass returns shape {list(value.shape)}, not a vector of logits")
                return value
            # Sizes and other numbers follow from the shapes.
            if meta is None:
                continue
            if not hasattr(meta, "shape"):
                raise self.cannot(node, "it returns several tensors")
            if node.op == "placeholder":
                self.values[node] = Value(None, [], tuple(meta.shape[1:]), where="the image")
                continue
            if node.op == "get_attr":
                # An error where it is used.
                continue
            if meta.shape[:1] != (BATCH,):
                raise CannotDescribe(f"{self.named(node)} returns shape {list(meta.shape)}, not a row for each image")
            self.values[node] = value = self.value(node, tuple(meta.shape[1:]))
            value.scope = value.scope or self.scope(node)
            if self.is_in_place(node):
                # Later readers of the input read what overwrote it.
                before = self.values[self.tensors(node)[0]]
                for other, known in self.values.items():
                    if known is before:
                        self.values[other] = value

    def named(self, node):
        """A call as a sentence names it."""
        if node.op == "call_module":
            return f"{node.target} ({type(self.modules[node.target]).__name__})"
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        scopes = node.meta.get("nn_module_stack")
        where = list(scopes)[-1] if scopes else ""
        return f"{name} in {where}" if where else str(name)

    def scope(self, node):
        if node.op == "call_module":
            path = node.target.split(".")[:-1]
        else:
            scopes = list(node.meta.get("nn_module_stack") or [""])
            path = scopes[-1].split(".") if scopes[-1] else []
        return tuple(step for step in path if step not in WRAPPERS)

    def cannot(self, node, why):
        return CannotDescribe(f"{self.named(node)} cannot be described: {why}")

    def tensors(self, node):
        return [argument for argument in node.all_input_nodes if argument in self.values]

    def is_in_place(self, node):
        if node.op == "call_module":
            return getattr(self.modules[node.target], "inplace", False)
        if node.op == "call_method":
            return node.target.endswith("_") and not node.target.endswith("__")
        name = getattr(node.target, "__name__", "")
        return bool(node.kwargs.get("inplace")) or name.endswith("_") or node.target in (operator.iadd, operator.imul)

    def value(self, node, shape):
        for used in node.all_input_nodes:
            if used.op == "get_attr":
                raise self.cannot(node, f"it takes the tensor {used.target} itself; use a module")
        inputs = [self.values[used] for used in self.tensors(node)]
        try:
            return self.module(node, inputs, shape) if node.op == "call_module" else self.call(node, inputs, shape)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise self.cannot(node, f"its arguments are not understood ({first_line(error)})") from error

    def layer(self, node, inputs, shape, kind, arguments, path=None):
        [source] = inputs
        return Value(kind, [source], shape, arguments, path, self.named(node))

    def module(self, node, inputs, shape):
        module, target = self.modules[node.target], node.target
        kind = type(module).__name__
        if len(inputs) != 1:
            raise self.cannot(node, "it takes more than one tensor")
        [source] = inputs
        path, arguments = None, {}
        if list(module.parameters()) or list(module.buffers()):
            first = self.used.setdefault(id(module), node)
            if first is not node:
                raise self.cannot(node, "it is used twice, and layers cannot share weights")
            path = ".".join(step for step in target.split(".") if step not in WRAPPERS)
            bad = next((s for s in path.split(".") if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", s)), None)
            if bad is not None:
                raise self.cannot(node, f"`{bad}` cannot be a layer's name")
        if isinstance(module, nn.Identity):
            return source
        if type(module) is nn.Conv2d:
            arguments = self.convolution(node, module)
        elif type(module) is nn.BatchNorm2d:
            if not module.track_running_stats or module.momentum is None:
                raise self.cannot(node, "it has no running statistics with a momentum")
            arguments = {"eps": module.eps, "momentum": module.momentum, "weight": module.affine, "bias": module.affine}
            if module.affine:
                arguments.update(weight=module.weight is not None, bias=module.bias is not None)
        elif type(module) is nn.Linear:
            if len(source.shape) != 1:
                raise self.cannot(node, f"its input has shape {list(source.shape)}, which is not a vector")
            arguments = {"out_features": module.out_features, "bias": module.bias is not None}
        elif kind in ("ReLU", "ReLU6", "SiLU", "Sigmoid", "Tanh") and path is None:
            pass
        elif type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (0, 6):
            kind = "ReLU6"
        elif type(module) is nn.LeakyReLU:
            arguments = {"negative_slope": module.negative_slope}
        elif type(module) is nn.GELU:
            arguments = {"approximate": module.approximate}
        elif type(module) is nn.Dropout:
            return self.dropout(node, inputs, shape, module.p)
        elif type(module) is nn.Flatten:
            return self.flatten(node, inputs, shape)
        elif type(module) in (nn.MaxPool2d, nn.AvgPool2d):
            options = {key: getattr(module, key) for key in module.__constants__ if hasattr(module, key)}
            return self.pool(node, inputs, shape, kind, options)
        elif type(module) in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d):
            return self.adaptive_pool(node, inputs, shape, kind)
        else:
            raise self.cannot(node, "there is no such layer")
        return self.layer(node, inputs, shape, kind, arguments, path)

    def convolution(self, node, module):
        if module.padding_mode != "zeros":
            raise self.cannot(node, f"it pads by {module.padding_mode}, not zeros")
        if pair(module.dilation) != (1, 1):
            raise self.cannot(node, f"its dilation is {module.dilation}")
        padding = module.padding
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            if any(size % 2 == 0 for size in module.kernel_size):
                raise self.cannot(node, "padding='same' of an even kernel is not the same on all sides")
            padding = tuple(size // 2 for size in module.kernel_size)
        return {
            "out_channels": module.out_channels,
            "kernel_size": module.kernel_size,
            "stride": module.stride,
            "padding": padding,
            "groups": module.groups,
            "bias": module.bias is not None,
        }

    def dropout(self, node, inputs, shape, p):
        return inputs[0] if p == 0 else self.layer(node, inputs, shape, "Dropout", {"p": p})

    def flatten(self, node, inputs, shape):
        before = inputs[0].shape
        if before == shape:
            return inputs[0]
        count = 1
        for size in before:
            count *= size
        if shape != (count,):
            raise self.cannot(node, f"it reshapes {list(before)} to {list(shape)}, and only flattening to a vector is a layer")
        return self.layer(node, inputs, shape, "Flatten", {})

    def pool(self, node, inputs, shape, kind, options):
        if options.get("return_indices"):
            raise self.cannot(node, "it returns indices")
        if pair(options.get("dilation") or 1) != (1, 1):
            raise self.cannot(node, "it has a dilation")
        if options.get("divisor_override"):
            raise self.cannot(node, "it has its own divisor")
        kernel = pair(options["kernel_size"])
        stride = pair(options.get("stride") or kernel)
        padding = pair(options.get("padding") or 0)
        sizes = inputs[0].shape[1:]
        floor = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(sizes, kernel, stride, padding))
        if floor != shape[1:]:
            raise self.cannot(node, "with ceil_mode it has windows that reach beyond the map")
        arguments = {"kernel_size": kernel, "stride": None if stride == kernel else stride, "padding": padding}
        if kind == "AvgPool2d":
            arguments["count_include_pad"] = options.get("count_include_pad", True)
        return self.layer(node, inputs, shape, kind, arguments)

    def adaptive_pool(self, node, inputs, shape, kind):
        before, after = inputs[0].shape[1:], shape[1:]
        if before == after != (1, 1):
            return inputs[0]
        if any(old % new for old, new in zip(before, after)):
            raise self.cannot(node, f"its windows from {list(before)} to {list(after)} differ in size")
        if kind == "AdaptiveAvgPool2d" and after == (1, 1):
            return self.layer(node, inputs, shape, kind, {})
        kernel = tuple(old // new for old, new in zip(before, after))
        options = {"kernel_size": kernel}
        return self.pool(node, inputs, shape, kind.replace("Adaptive", ""), options)

    def call(self, node, inputs, shape):
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        name = name.strip("_")
        tensors = len(inputs)
        if name in ("add", "iadd"):
            return self.sum(node, inputs, shape)
        if name in ("mul", "imul", "multiply"):
            if tensors == 2:
                return self.compose(node, inputs, shape, "Multiply")
            return self.scale(node, inputs, shape, lambda factor: factor)
        if name in ("truediv", "div", "itruediv") and tensors == 1 and node.args[0] is self.tensors(node)[0]:
            return self.scale(node, inputs, shape, lambda divisor: 1 / divisor)
        if name in ("cat", "concat", "concatenate"):
            if argument(node, 1, "dim", node.kwargs.get("axis", 0)) not in (1, -len(shape)):
                raise self.cannot(node, "only channels can be concatenated")
            parts = argument(node, 0, "tensors")
            return self.compose(node, [self.values[part] for part in parts], shape, "Concat")
        if name in ("expand", "expand_as"):
            return self.expand(node, inputs)
        if tensors != 1:
            raise self.cannot(node, "there is no such layer")
        plain = {"relu": "ReLU", "relu6": "ReLU6", "silu": "SiLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        if name in plain:
            return self.layer(node, inputs, shape, plain[name], {})
        if name == "hardtanh" and (argument(node, 1, "min_val", -1), argument(node, 2, "max_val", 1)) == (0, 6):
            return self.layer(node, inputs, shape, "ReLU6", {})
        if name == "leaky_relu":
            slope = argument(node, 1, "negative_slope", 0.01)
            return self.layer(node, inputs, shape, "LeakyReLU", {"negative_slope": slope})
        if name == "gelu":
            return self.layer(node, inputs, shape, "GELU", {"approximate": node.kwargs.get("approximate", "none")})
        if name == "dropout":
            return self.dropout(node, inputs, shape, argument(node, 1, "p", 0.5))
        if name in ("flatten", "view", "reshape", "squeeze"):
            return self.flatten(node, inputs, shape)
        if name in ("contiguous", "clone", "detach", "to", "float") and inputs[0].shape == shape:
            return inputs[0]
        if name in ("max_pool2d", "boolean_dispatch", "avg_pool2d", "fn") and "pool2d" in node.name:
            kind = "AvgPool2d" if "avg" in node.name else "MaxPool2d"
            order = ["input", "kernel_size", "stride", "padding"]
            order += ["ceil_mode", "count_include_pad", "divisor_override"] if kind == "AvgPool2d" else ["dilation"]
            options = {**dict(zip(order, node.args)), **node.kwargs}
            return self.pool(node, inputs, shape, kind, options)
        if name == "adaptive_avg_pool2d":
            return self.adaptive_pool(node, inputs, shape, "AdaptiveAvgPool2d")
        if name == "adaptive_max_pool2d" or "adaptive_max_pool2d" in node.name:
            return self.adaptive_pool(node, inputs, shape, "AdaptiveMaxPool2d")
        if name == "mean":
            return self.mean(node, inputs, shape)
        if name == "getitem":
            return self.subsample(node, inputs, shape)
        if name == "pad":
            return self.pad(node, inputs, shape)
        raise self.cannot(node, "there is no such layer")

    def sum(self, node, inputs, shape):
        if argument(node, 2, "alpha", 1) != 1:
            raise self.cannot(node, "it has a factor")
        if len(self.tensors(node)) == 1 and not all(part in self.values for part in node.args[:2]):
            raise self.cannot(node, "a number is added")
        return self.compose(node, [self.values[part] for part in node.args[:2]], shape, "Sum")

    def scale(self, node, inputs, shape, factor):
        numbers = [part for part in node.args if isinstance(part, (int, float)) and not isinstance(part, bool)]
        if len(inputs) == 1 and all(part in self.values for part in node.args):
            # The square of a tensor.
            return self.compose(node, inputs * 2, shape, "Multiply")
        if len(numbers) != 1:
            raise self.cannot(node, "there is no such layer")
        return self.layer(node, inputs, shape, "Scale", {"factor": float(factor(numbers[0]))})

    def compose(self, node, inputs, shape, kind):
        shapes = [value.shape for value in inputs]
        if kind == "Sum" and any(other != shape for other in shapes):
            raise self.cannot(node, f"it adds shapes {[list(shape) for shape in shapes]}, which must be equal")
        if kind == "Multiply":
            gate = (shape[0], *(1 for _ in shape[1:]))
            if any(other not in (shape, gate) for other in shapes):
                raise self.cannot(node, f"it multiplies shapes {[list(shape) for shape in shapes]}")
        parts = tuple(inputs)
        if kind == "Concat":
            # A concatenation that begins with another one continues it, as in a DenseNet that keeps a list of its features.
            longest = max((len(known) for known in self.concats if known == parts[: len(known)]), default=0)
            if longest:
                inputs = [self.concats[parts[:longest]], *inputs[longest:]]
        if len(inputs) == 1:
            return inputs[0]
        value = Value(kind, inputs, shape, where=self.named(node))
        if kind == "Concat":
            self.concats[parts] = value
        return value

    def expand(self, node, inputs):
        users = [getattr(user.target, "__name__", user.target) for user in node.users]
        if any(str(user).strip("_") not in ("mul", "imul", "multiply") for user in users):
            raise self.cannot(node, "it is not only multiplied")
        return inputs[0]

    def mean(self, node, inputs, shape):
        dims = argument(node, 1, "dim")
        dims = [dims] if isinstance(dims, int) else list(dims or [])
        if len(inputs[0].shape) != 3 or sorted(dim % 4 for dim in dims) != [2, 3]:
            raise self.cannot(node, "only the mean over rows and columns is a layer")
        pooled = self.layer(node, inputs, (inputs[0].shape[0], 1, 1), "AdaptiveAvgPool2d", {})
        return pooled if len(shape) == 3 else self.layer(node, [pooled], shape, "Flatten", {})

    def subsample(self, node, inputs, shape):
        places = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        every = slice(None)
        pixels = [place for place in places[2:] if isinstance(place, slice)]
        if (
            len(inputs[0].shape) != 3
            or len(places) != 4
            or len(pixels) != 2
            or any(place != every for place in places[:2])
            or any((place.start or 0, place.stop) != (0, None) for place in pixels)
        ):
            raise self.cannot(node, "only x[:, :, ::rows, ::columns] is a layer")
        stride = tuple(place.step or 1 for place in pixels)
        return self.layer(node, inputs, shape, "Subsample", {"stride": stride})

    def pad(self, node, inputs, shape):
        sides = list(argument(node, 1, "pad"))
        mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", None)
        if mode != "constant" or value or len(sides) != 6 or any(sides[:4]) or len(inputs[0].shape) != 3:
            raise self.cannot(node, "only channels of zeros can be padded: give a convolution or pool its padding")
        return self.layer(node, inputs, shape, "PadChannels", {"before": sides[4], "after": sides[5]})


# From values to sequences and branches.


@dataclass(eq=False)
class Item:
    """A step of a sequence: a layer, or a composition with branches."""

    value: Value
    branches: list = field(default_factory=list)


def structure(output):
    """The sequence of items that leads to the output."""
    order = []

    def visit(value):
        # Networks are deeper than Python's stack.
        stack = [(value, iter(value.inputs))]
        known = {value}
        while stack:
            top, rest = stack[-1]
            following = next((source for source in rest if source not in known), None)
            if following is None:
                order.append(top)
                stack.pop()
            else:
                known.add(following)
                stack.append((following, iter(following.inputs)))

    visit(output)
    image = order[0]
    if image.kind is not None:
        raise CannotDescribe("the output does not depend on the image")
    # Immediate dominators: the last value that all paths to a value pass through.
    depth, dominator = {image: 0}, {image: image}
    for value in order[1:]:
        common = value.inputs[0]
        for other in value.inputs[1:]:
            while common is not other:
                if depth[common] >= depth[other]:
                    common = dominator[common]
                else:
                    other = dominator[other]
        dominator[value], depth[value] = common, depth[common] + 1
    emitted = set()

    def sequence(end, start):
        items, at = [], end
        while at is not start:
            if at in emitted and (at.path is not None or at.kind in COMPOSITIONS):
                raise CannotDescribe(
                    f"the output of {at.where} goes to several places that do not join again: a description has "
                    "branches that begin at one place and join in one"
                )
            emitted.add(at)
            if at.kind in COMPOSITIONS:
                before = dominator[at]
                items.append(Item(at, [sequence(branch, before) for branch in at.inputs]))
                at = before
            else:
                items.append(Item(at))
                at = at.inputs[0]
        return items[::-1]

    return sequence(output, image)


# From sequences to the description.


def paths(item):
    """The paths of the modules with parameters in an item, as tuples."""
    if not item.branches:
        return [tuple(item.value.path.split("."))] if item.value.path else []
    return [path for branch in item.branches for inner in branch for path in paths(inner)]


def entries(items, scope):
    """Entries of a description, as (name, kind, content): the modules of one module become a Sequential of its name."""
    depth = len(scope)

    def step(item):
        """The module of this scope that contains an item; None if it spans several."""
        if not paths(item):
            within = item.value.scope[:depth] == scope
            return item.value.scope[depth] if within and len(item.value.scope) > depth else None
        steps = {path[depth] if len(path) > depth + (1 if item.branches else 0) else None for path in paths(item)}
        return steps.pop() if len(steps) == 1 else None

    result, at = [], 0
    while at < len(items):
        item = items[at]
        name = step(item)
        own = paths(item)
        if name is None or not own or own == [(*scope, name)] and not item.branches:
            if item.branches:
                content = [entries(branch, scope) for branch in item.branches]
                result.append((None, item.value.kind, content))
            else:
                result.append((name if own else None, item.value.kind, item.value.arguments))
            at += 1
            continue
        # Up to the module's last layer, with the items between its layers and at its end.
        end = at + 1
        for place in range(at + 1, len(items)):
            is_it = not items[place].branches and paths(items[place]) == [(*scope, name)]
            if step(items[place]) == name and not is_it:
                end = place + 1
            elif paths(items[place]):
                break
        result.append((name, "Sequential", entries(items[at:end], (*scope, name))))
        at = end
    return result


DEFAULTS = {
    "stride": ((1, 1), None),
    "padding": ((0, 0),),
    "groups": (1,),
    "bias": (True,),
    "weight": (True,),
    "eps": (1e-5,),
    "momentum": (0.1,),
    "count_include_pad": (True,),
    "approximate": ("none",),
    "negative_slope": (0.01,),
}


def quoted(text):
    return json.dumps(text)


def number(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return str(value[0]) if value[0] == value[1] else f"[{value[0]}, {value[1]}]"
    return repr(value)


def toml_of(sequence, indent):
    """The lines of a sequence, without the names that are the layers' default numbers."""
    lines, place = [], 0
    for name, kind, content in sequence:
        lines += toml((None if name == str(place) else name, kind, content), indent)
        place += kind not in COMPOSITIONS
    return lines


def toml(entry, indent):
    """The lines of an entry."""
    name, kind, content = entry
    space = "    " * indent
    named = f"name = {quoted(name)}, " if name is not None else ""
    if kind == "Sequential":
        return [f"{space}{{ {named}Sequential = [", *toml_of(content, indent + 1), f"{space}] }},"]
    if kind in COMPOSITIONS:
        lines = [f"{space}{{ {kind} = ["]
        for branch in content:
            # It continues the numbers of its scope, or has names.
            inner = [line for part in branch for line in toml(part, indent + 2)]
            lines += [f"{space}    [", *inner, f"{space}    ],"] if inner else [f"{space}    [],"]
        return [*lines, f"{space}] }},"]
    known = kind not in ("PadChannels", "Scale", "Subsample")
    kept = {
        key: value
        for key, value in content.items()
        if not (known and value in DEFAULTS.get(key, ())) and not (kind == "PadChannels" and value == 0)
    }
    inner = ", ".join(f"{key} = {number(value)}" for key, value in kept.items())
    if not inner and not named:
        return [f"{space}{quoted(kind)},"]
    return [f"{space}{{ {named}{kind} = {{{f' {inner} ' if inner else ''}}} }},"]


# The result.


def values_of(output):
    """All values that lead to one, each after its inputs."""
    known, order, stack = set(), [], [output]
    while stack:
        value = stack[-1]
        missing = [source for source in value.inputs if source not in known]
        if value in known or not missing:
            if value not in known:
                known.add(value)
                order.append(value)
            stack.pop()
        else:
            stack += missing
    return order


def weights_of(module, output):
    """The tensors of the described layers; prints the names of the others."""
    described = {value.path for value in values_of(output) if value.path is not None}
    weights, others = {}, []
    for name, tensor in module.state_dict().items():
        plain = ".".join(step for step in name.split(".") if step not in WRAPPERS)
        if plain.rpartition(".")[0] in described:
            weights[plain] = tensor.detach().cpu().clone().contiguous()
        else:
            others.append(name)
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        print(f"left out, since the forward pass does not use it: {shown}", file=sys.stderr)
    return weights


def compare(module, output, images, weights):
    """Computes what is described, and compares it with the module."""
    results = {}
    for value in values_of(output):
        inputs = [results[source] for source in value.inputs]
        results[value] = images if value.kind is None else computed(value, inputs, weights)
        if tuple(results[value].shape[1:]) != value.shape:
            raise CannotDescribe(f"{value.where} would have shape {list(results[value].shape[1:])}, not {list(value.shape)}")
    expected = module.eval()(images.clone())
    largest = (results[output] - expected).abs().max().item()
    if not largest <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise CannotDescribe(
            f"the description differs by {largest:.3g} from what the network computes: it may overwrite a tensor that "
            "is read again, or draw random numbers"
        )


def computed(value, inputs, weights):
    kind, arguments = value.kind, value.arguments
    x = inputs[0]

    def weight(name):
        tensor = weights.get(f"{value.path}.{name}")
        return None if tensor is None else tensor.to(x.device)

    if kind == "Sum":
        return sum(inputs[1:], inputs[0])
    if kind == "Multiply":
        product = inputs[0]
        for other in inputs[1:]:
            product = product * other
        return product
    if kind == "Concat":
        return torch.cat(inputs, 1)
    if kind == "Conv2d":
        geometry = (arguments[key] for key in ("stride", "padding"))
        return functional.conv2d(x, weight("weight"), weight("bias"), *geometry, 1, arguments["groups"])
    if kind == "Linear":
        return functional.linear(x, weight("weight"), weight("bias"))
    if kind == "BatchNorm2d":
        moments = (weight("running_mean"), weight("running_var"))
        return functional.batch_norm(x, *moments, weight("weight"), weight("bias"), False, 0.0, arguments["eps"])
    if kind == "MaxPool2d":
        return functional.max_pool2d(x, arguments["kernel_size"], arguments["stride"], arguments["padding"])
    if kind == "AvgPool2d":
        counted = arguments["count_include_pad"]
        geometry = (arguments[key] for key in ("kernel_size", "stride", "padding"))
        return functional.avg_pool2d(x, *geometry, count_include_pad=counted)
    if kind == "Subsample":
        rows, columns = arguments["stride"]
        return x[:, :, ::rows, ::columns]
    if kind == "PadChannels":
        return functional.pad(x, (0, 0, 0, 0, arguments["before"], arguments["after"]))
    simple = {
        "ReLU": functional.relu,
        "ReLU6": functional.relu6,
        "SiLU": functional.silu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "LeakyReLU": lambda x: functional.leaky_relu(x, arguments["negative_slope"]),
        "GELU": lambda x: functional.gelu(x, approximate=arguments["approximate"]),
        "Dropout": lambda x: x,
        "Flatten": lambda x: x.flatten(1),
        "AdaptiveAvgPool2d": lambda x: functional.adaptive_avg_pool2d(x, 1),
        "Scale": lambda x: x * arguments["factor"],
    }
    return simple[kind](x)


def state_dict_of(path):
    """The state_dict in a file of torch.save, with plain names."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CannotDescribe(f"{path} cannot be loaded ({first_line(error)})") from error
    while isinstance(content, dict) and not any(torch.is_tensor(value) for value in content.values()):
        inner = [content[key] for key in USUAL_KEYS if isinstance(content.get(key), dict)]
        if len(inner) != 1:
            raise CannotDescribe(f"{path} has no state_dict, or several, under a usual key ({', '.join(USUAL_KEYS)})")
        [content] = inner
    if not isinstance(content, dict):
        raise CannotDescribe(f"{path} holds no state_dict")
    return content


def load(module, path):
    """Loads weights into a module, whichever of the two is wrapped."""

    def plain(name):
        return ".".join(step for step in name.split(".") if step not in WRAPPERS)

    names = {plain(name): name for name in module.state_dict()}
    state = {names.get(plain(name), name): tensor for name, tensor in state_dict_of(path).items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CannotDescribe(f"{path} does not fit: {' '.join(str(error).split())}") from error


def module_of(text):
    """The module that FILE:EXPRESSION names, and a name for it."""
    path, _, expression = text.rpartition(":")
    if not path or not Path(path).is_file():
        raise CannotDescribe(f"`{text}` is not FILE:EXPRESSION with an existing Python file, such as models.py:ResNet18")
    # As if it ran in its folder.
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    file = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = file
    spec.loader.exec_module(file)
    try:
        found = builtins.eval(expression, vars(file))
        if not isinstance(found, nn.Module):
            found = found()
    except Exception as error:
        raise CannotDescribe(f"`{expression}` in {path} fails ({first_line(error)})") from error
    if not isinstance(found, nn.Module):
        raise CannotDescribe(f"`{expression}` in {path} is a {type(found).__name__}, not an nn.Module")
    return found, re.sub(r"[^A-Za-z0-9_-]+", "_", expression).strip("_")[:64]


def first_line(error):
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", metavar="FILE:EXPRESSION")
    parser.add_argument("--input", nargs=3, type=int, default=[3, 32, 32], metavar=("CHANNELS", "ROWS", "COLUMNS"))
    parser.add_argument("--weights", type=Path, help="the network's file of torch.save")
    parser.add_argument("--name", help="the network's name [default: from the expression]")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for NAME.toml and NAME.safetensors")
    options = parser.parse_args()
    module, name = module_of(options.network)
    name = options.name or name
    if options.weights:
        load(module, options.weights)
    description, weights = export(module, options.input, name)
    files = [options.out / f"{name}{end}" for end in (".toml", ".safetensors")]
    there = next((path for path in files if path.exists()), None)
    if there:
        raise CannotDescribe(f"{there} already exists: give another --out or --name")
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, files[1])
    files[0].write_text(description, encoding="utf-8")
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    try:
        main()
    except CannotDescribe as error:
        sys.exit(f"error: {error}")
