#!/usr/bin/env python3
"""Makes the golden values of single layers, of compositions and of the shipped networks, using real PyTorch on the CPU.

    python networks.py [--out DIR] [--only NAME ...]        (needs torch, numpy)

Writes layers.json and one file for each network next to this script (or into DIR). README.md describes every key.
Running it twice on one machine gives the same bytes.

It is an independent reference: networks are ordinary PyTorch modules, below and in cases.py, and the descriptions that the
Rust program ships are not read. Parameters, inputs and labels are those of the formula in golden.py, which also
defines the deviations. Names and structure of the networks are those of well-known implementations for CIFAR-10:

    lenet, vgg16, resnet18, mobilenetv2, senet18, googlenet     kuangliu/pytorch-cifar
    resnet20                                                    akamaster/pytorch_resnet_cifar10, shortcut A
    densenet_bc_100_12                                          bamos/densenet.pytorch, without its log-softmax
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from cases import Case, all_cases
from golden import (
    BETAS, CLASSES, EPS, F64, LR, NOISE, WEIGHT_DECAY, Evaluation, Pass, Runs, Training, Variant, batch, correct,
    digits, disturb_convolutions, evaluate, exacts, fill, forward_backward, largest, norm, numbers, statistics_of,
    u_values, wide, write, wides, z_values,
)  # fmt: skip

TORCH = torch.__version__.split("+")[0]

# --------------------------------------------------------------------------------------------------------- the networks

# ReLUs are modules, which have no parameters and leave no trace in the state, so that `nearest_kink` can watch them.


def conv3(cin: int, cout: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=bias)


def conv1(cin: int, cout: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, 1, stride=stride, bias=bias)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, CLASSES)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x)))))


class VGG16(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for entry in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
            if entry == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [conv3(cin, entry, bias=True), nn.BatchNorm2d(entry), nn.ReLU()]
                cin = entry
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `pad` channels of zeros (option A), or a convolution where shapes differ."""

    def __init__(self, cin: int, cout: int, stride: int, pad: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(cin, cout, stride), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = conv3(cout, cout), nn.BatchNorm2d(cout)
        self.relu = nn.ReLU()
        self.changes = stride != 1 or cin != cout
        self.padding = (cout - cin) // 2 if pad else None
        if self.changes and not pad:
            self.shortcut = nn.Sequential(conv1(cin, cout, stride), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if not self.changes:
            return self.relu(out + x)
        if self.padding is None:
            return self.relu(out + self.shortcut(x))
        return self.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding)))


def stage(block: Callable[..., nn.Module], cin: int, cout: int, count: int, stride: int, *more: Any) -> nn.Sequential:
    first = block(cin, cout, stride, *more)
    return nn.Sequential(first, *(block(cout, cout, 1, *more) for _ in range(count - 1)))


class ResNet(nn.Module):
    """Stages of equally many blocks, each stage after the first with half the map; an average over the remaining map."""

    def __init__(self, widths: list[int], count: int, block: Callable[..., nn.Module], *more: Any) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1, self.bn1 = conv3(3, widths[0]), nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{i}" for i in range(1, len(widths) + 1)]
        cin = widths[0]
        for index, (name, cout) in enumerate(zip(self.stages, widths, strict=True)):
            self.add_module(name, stage(block, cin, cout, count, 1 if index == 0 else 2, *more))
            cin = cout
        self.linear = nn.Linear(cin, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(torch.flatten(F.avg_pool2d(x, x.shape[2]), 1))


class PreActivationSE(nn.Module):
    """Pre-activated block, whose channels are weighted by what a small network makes of their means."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv3(cin, cout, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv3(cout, cout)
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(conv1(cin, cout, stride))
        self.relu = nn.ReLU()
        self.fc1 = conv1(cout, cout // 16, bias=True)
        self.fc2 = conv1(cout // 16, cout, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        shortcut = self.shortcut(activated) if hasattr(self, "shortcut") else x
        out = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        weight = torch.sigmoid(self.fc2(self.relu(self.fc1(F.avg_pool2d(out, out.shape[2])))))
        return out * weight + shortcut


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * cin
        self.relu = nn.ReLU()
        self.stride = stride
        self.conv1, self.bn1 = conv1(cin, middle), nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = conv1(middle, cout), nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride == 1 and cin != cout:
            self.shortcut = nn.Sequential(conv1(cin, cout), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.stride == 1 else out


class MobileNetV2(nn.Module):
    # Expansion, channels, blocks, stride of the first block: strides for images of 32x32.
    STAGES = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1, self.bn1 = conv3(3, 32), nn.BatchNorm2d(32)
        blocks, cin = [], 32
        for expansion, cout, count, stride in self.STAGES:
            for index in range(count):
                blocks.append(InvertedResidual(cin, cout, expansion, stride if index == 0 else 1))
                cin = cout
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = conv1(320, 1280), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.linear(torch.flatten(F.avg_pool2d(x, 4), 1))


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv1(cin, 4 * growth)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), conv3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        return torch.cat((x, out), 1)


class Transition(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv1(cin, cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(self.relu(self.bn1(x))), 2)


class DenseNetBC(nn.Module):
    """Bottlenecks, and transitions that halve the channels."""

    def __init__(self, depth: int = 100, growth: int = 12) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        count = (depth - 4) // 6
        channels = 2 * growth
        self.conv1 = conv3(3, channels)
        for index in (1, 2, 3):
            layers = (DenseLayer(channels + i * growth, growth) for i in range(count))
            self.add_module(f"dense{index}", nn.Sequential(*layers))
            channels += count * growth
            if index < 3:
                self.add_module(f"trans{index}", Transition(channels, channels // 2))
                channels //= 2
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for index in (1, 2, 3):
            x = self.get_submodule(f"dense{index}")(x)
            x = self.get_submodule(f"trans{index}")(x) if index < 3 else x
        return self.fc(torch.flatten(F.avg_pool2d(self.relu(self.bn1(x)), 8), 1))


def normed(*convolutions: nn.Conv2d) -> list[nn.Module]:
    return [layer for conv in convolutions for layer in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())]


class Inception(nn.Module):
    """Four branches, concatenated along the channels; the one of 5x5 is two convolutions of 3x3."""

    def __init__(self, cin: int, n1: int, n3_before: int, n3: int, n5_before: int, n5: int, pooled: int) -> None:
        super().__init__()
        biased = {"bias": True}
        self.b1 = nn.Sequential(*normed(conv1(cin, n1, **biased)))
        self.b2 = nn.Sequential(*normed(conv1(cin, n3_before, **biased), conv3(n3_before, n3, **biased)))
        self.b3 = nn.Sequential(
            *normed(conv1(cin, n5_before, **biased), conv3(n5_before, n5, **biased), conv3(n5, n5, **biased))
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *normed(conv1(cin, pooled, **biased)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_layers = nn.Sequential(*normed(conv3(3, 192, bias=True)))
        self.a3 = Inception(192, 64, 96, 128, 16, 32, 32)
        self.b3 = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.a4 = Inception(480, 192, 96, 208, 16, 48, 64)
        self.b4 = Inception(512, 160, 112, 224, 24, 64, 64)
        self.c4 = Inception(512, 128, 128, 256, 24, 64, 64)
        self.d4 = Inception(512, 112, 144, 288, 32, 64, 64)
        self.e4 = Inception(528, 256, 160, 320, 32, 128, 128)
        self.a5 = Inception(832, 256, 160, 320, 32, 128, 128)
        self.b5 = Inception(832, 384, 192, 384, 48, 128, 128)
        self.linear = nn.Linear(1024, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.b3(self.a3(self.pre_layers(x))))
        x = self.maxpool(self.e4(self.d4(self.c4(self.b4(self.a4(x))))))
        x = self.b5(self.a5(x))
        return self.linear(torch.flatten(F.avg_pool2d(x, 8), 1))


@dataclass(frozen=True)
class Shipped:
    """A network and how much of it is stored. More steps and more runs cost time, more samples cost bytes."""

    make: Callable[[], nn.Module]
    parameters: int
    # Number of the smooth batch.
    smooth: int
    batch: int = 4
    samples: int = 4
    noise_runs: int = 4
    # With the formula's running variances of about one, images fade: after a ReLU a convolution has a variance of about
    # a sixth, and the logits of a deep network in eval mode come to depend on its biases alone. With this share of the
    # running variances images come through, and do not grow beyond measure either.
    variance_scale: float = 0.1875


NETWORKS: dict[str, Shipped] = {
    "lenet": Shipped(LeNet, 62_006, smooth=0, batch=8, samples=8, noise_runs=8),
    "vgg16": Shipped(VGG16, 14_728_266, smooth=34),
    "resnet20": Shipped(lambda: ResNet([16, 32, 64], 3, BasicBlock, True), 269_722, smooth=20, batch=8, noise_runs=8),
    "resnet18": Shipped(lambda: ResNet([64, 128, 256, 512], 2, BasicBlock, False), 11_173_962, smooth=0),
    "mobilenetv2": Shipped(MobileNetV2, 2_296_922, smooth=17, variance_scale=0.25),
    "densenet_bc_100_12": Shipped(DenseNetBC, 769_162, smooth=16, samples=3),
    "senet18": Shipped(lambda: ResNet([64, 128, 256, 512], 2, PreActivationSE), 11_260_354, smooth=14),
    "googlenet": Shipped(GoogLeNet, 6_166_250, smooth=6),
}
STEPS = 10
# Statistics, gradients of the first batch and parameters after Adam are stored for this many names, evenly spread.
SOME = 24

# The smooth batch: no ReLU's input is near zero there, no two rivals in a pool near each other. In networks of this
# depth no batch is like that by chance: too many values are normal around zero. So every BatchNorm's bias is raised by
# NORM_BIAS, which leaves few values near zero. The numbers above are those of the clearest batches of some tens.
SMOOTH_BATCH = 2
NORM_BIAS = 4.0

# The first gives the stored values.
VARIANTS = (
    Variant("nchw"),
    Variant("channels_last", layout=torch.channels_last),
    Variant("nchw, no mkldnn", mkldnn=False),
)


# ---------------------------------------------------------------------------------------------------------------- kinks


class NearKink(Exception):
    """An input came nearer to a kink than allowed."""


def watch_kinks(net: nn.Module, note: Callable[[Tensor], None]) -> None:
    """Passes to `note`, in every forward pass, the distances of inputs to the nearest kink.

    A kink is where an activation has a corner, and where the two largest values of a pool's window meet. Those that are
    equal in f64 are so by construction and stay out: zeros after a ReLU, through which no gradient passes, and copies
    of one value after a pool of overlapping windows. The gradients of the parameters do not depend on which one wins.
    """

    def watch_pool(module: nn.MaxPool2d, args: tuple[Tensor], _output: Tensor) -> None:
        (kh, kw), (sh, sw), (ph, pw) = (
            (v, v) if isinstance(v, int) else v for v in (module.kernel_size, module.stride, module.padding)
        )
        padded = F.pad(args[0], (pw, pw, ph, ph), value=-math.inf)
        windows = padded.unfold(2, kh, sh).unfold(3, kw, sw).flatten(4)
        top = windows.topk(2, dim=-1).values
        gap = top[..., 0] - top[..., 1]
        note(gap[gap != 0])

    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.register_forward_hook(lambda _m, args, _o: note(torch.minimum(args[0].abs(), (args[0] - 6).abs())))
        elif isinstance(module, (nn.ReLU, nn.LeakyReLU)):
            # A second ReLU reads zeros of the first: they stay zeros.
            module.register_forward_hook(lambda _m, args, _o: note(args[0].abs()[args[0] != 0]))
        elif isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(watch_pool)


class Nearest:
    """The least of the distances passed to it; below `at_least`, NearKink. Infinite without any."""

    def __init__(self, at_least: float = 0.0) -> None:
        self.at_least = at_least
        self.distance = math.inf

    def __call__(self, distances: Tensor) -> None:
        self.distance = min(self.distance, float(distances.detach().min()) if distances.numel() else math.inf)
        if self.distance < self.at_least:
            raise NearKink


def nearest_kink(net: nn.Module, images: Tensor, at_least: float = 0.0) -> float:
    """The distance to the nearest kink in a train-mode pass; below `at_least`, NearKink."""
    nearest = Nearest(at_least)
    watch_kinks(net, nearest)
    with torch.no_grad():
        net.train()(images)
    return nearest.distance


def clear(make: Callable[[], nn.Module], images: Callable[[str], Tensor], at_least: float) -> tuple[str, float]:
    """The first input of "input", "input.smooth1", "input.smooth2" and so on that is clear of kinks, and how clear."""
    for number in itertools.count():
        name = f"input.smooth{number}" if number else "input"
        net = make()
        fill(net)
        try:
            return name, nearest_kink(net.double(), images(name).double(), at_least)
        except NearKink:
            continue
    raise AssertionError


# -------------------------------------------------------------------------------------------------------------- layers

# No ReLU's input is nearer to zero, and no two rivals of a pool nearer to each other: hundreds of times the rounding.
LAYER_MARGIN = 1e-3
LAYER_VARIANTS = (*VARIANTS, Variant("channels_last, no mkldnn", layout=torch.channels_last, mkldnn=False))
LAYER_NOISE_SEEDS = range(1, 7)

# Rounding of a layer by 2^-22 of the root mean square of its output: two to four units in the last place.
ROUNDING = 2.0**-22
ROUNDED = (
    nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU,
    nn.SiLU, nn.Sigmoid, nn.Tanh,
)  # fmt: skip


def disturb_by_rounding(net: nn.Module, seed: int) -> None:
    """Disturbs the output of every layer, and the gradient that comes back to it, by normal noise of ROUNDING."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def noise(values: Tensor) -> Tensor:
        return ROUNDING * values.detach().square().mean().sqrt() * torch.randn(values.shape, generator=generator)

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        disturbed = output + noise(output) * (output.detach() != 0)
        if disturbed.requires_grad:
            disturbed.register_hook(lambda gradient: gradient + noise(gradient))
        return disturbed

    for module in net.modules():
        if isinstance(module, ROUNDED):
            module.register_forward_hook(hook)


@dataclass
class LayerOutcome:
    """A pass in train mode, and then one in eval mode with the statistics after it."""

    first: Pass
    evaluation: Evaluation


def case_images(case: Case, name: str) -> Tensor:
    shape = (case.batch, *case.input)
    if case.levels is None:
        return torch.from_numpy((np.float32(2) * u_values(name, math.prod(shape))).reshape(shape))
    low, high = case.levels
    z = z_values(name, math.prod(shape)) % np.uint32(high - low + 1)
    return torch.from_numpy((z.astype(np.float32) + np.float32(low)).reshape(shape))


def run_case(
    case: Case, name: str, variant: Variant, disturb: Callable[[nn.Module], None] | None = None
) -> LayerOutcome:
    net = case.build()
    fill(net)
    if disturb is not None:
        disturb(net)
    net = net.to(dtype=variant.dtype, memory_format=variant.layout)
    images = case_images(case, name).to(dtype=variant.dtype, memory_format=variant.layout)
    with variant.active():
        outputs = net.train()(images).shape[1]
        labels = torch.from_numpy((z_values("labels", case.batch) % np.uint32(outputs)).astype(np.int64))
        # Finding the number of outputs has moved the running statistics.
        clean = case.build()
        fill(clean)
        net.load_state_dict(clean.state_dict())
        first = forward_backward(net, images, labels)
        return LayerOutcome(first, evaluate(net, images, labels))


def case_document(case: Case) -> dict[str, Any]:
    if case.levels is None:
        name, margin = clear(case.build, lambda name: case_images(case, name), LAYER_MARGIN)
    else:
        name, margin = "input", math.inf
    plain = [run_case(case, name, variant) for variant in LAYER_VARIANTS]
    f64 = run_case(case, name, F64)
    noisy = [
        run_case(case, name, VARIANTS[0], lambda net, s=s: disturb_convolutions(net, s)) for s in LAYER_NOISE_SEEDS
    ]
    rounded = [
        run_case(case, name, VARIANTS[0], lambda net, s=s: disturb_by_rounding(net, s)) for s in LAYER_NOISE_SEEDS
    ]
    state = case.build().state_dict()
    longest = max(norm(gradient) for gradient in f64.first.grads.values())

    def listed(pick: Callable[[LayerOutcome], np.ndarray], shape: list[int] | None = None) -> dict[str, Any]:
        runs = Runs([pick(o) for o in plain], pick(f64), [pick(o) for o in noisy])
        rounding = max(largest(wide(pick(o)) - wide(runs.stored)) for o in rounded)
        values = exacts(runs.stored)
        content = {"value": values[0]} if shape is None else {"shape": shape, "values": values}
        return {**content, **runs.deviations(), "dev_rounding": rounding}

    def gradient(key: str) -> dict[str, Any]:
        shape = list(state[key].shape)
        # Gradients that vanish except for rounding: those of a bias that BatchNorm or the softmax cancels.
        if norm(f64.first.grads[key]) > 1e-12 * longest:
            return {"name": key, **listed(lambda o: o.first.grads[key], shape)}
        return {"name": key, "shape": shape, "noise": True}

    shape = [case.batch, plain[0].first.logits.size // case.batch]
    assert 1 <= shape[1] <= 256, "a label is a byte"

    def statistic(key: str) -> dict[str, Any]:
        return {"name": key, **listed(lambda o: o.first.statistics[key], list(state[key].shape))}

    return {
        "name": case.name,
        "toml": case.toml(),
        "batch": case.batch,
        "input": name,
        **({} if case.levels is None else {"levels": list(case.levels)}),
        **({} if margin == math.inf else {"margin": digits(margin, 3)}),
        "train": {
            "logits": listed(lambda o: o.first.logits, shape),
            "loss": listed(lambda o: o.first.loss),
            "grads": [gradient(key) for key in f64.first.grads],
            "statistics": [statistic(key) for key in f64.first.statistics],
        },
        "eval": {
            "logits": listed(lambda o: o.evaluation.logits, shape),
            "loss": listed(lambda o: o.evaluation.loss),
        },
    }


def layers_document() -> dict[str, Any]:
    return {
        "torch": TORCH,
        "variants": [variant.name for variant in LAYER_VARIANTS],
        "noise_sigma": NOISE,
        "noise_runs": len(LAYER_NOISE_SEEDS),
        "rounding_sigma": ROUNDING,
        "cases": [case_document(case) for case in all_cases()],
    }


# ------------------------------------------------------------------------------------------------------- whole networks


@dataclass
class Outcome:
    """Everything that one variant computed. Each part starts from the formula's parameters and statistics."""

    evaluation: Evaluation
    lively: Evaluation
    first: Pass
    training: Training
    smooth: Pass


def train(net: nn.Module, images: Tensor, labels: Tensor) -> Training:
    """STEPS steps of the study's Adam, the same batch at every step."""
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    losses, corrects = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(numbers(loss)[0])
        corrects.append(correct(logits, labels))
    tracked = [int(value) for key, value in net.named_buffers() if key.endswith("num_batches_tracked")]
    assert all(count == STEPS for count in tracked)
    parameters = {key: numbers(parameter) for key, parameter in net.named_parameters()}
    return Training(np.stack(losses), corrects, statistics_of(net), STEPS, evaluate(net, images, labels), parameters)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def raise_norms(net: nn.Module) -> None:
    """Adds NORM_BIAS to every BatchNorm's bias."""
    for module in norms(net):
        module.bias.data.add_(NORM_BIAS)


def scale_variances(net: nn.Module, factor: float) -> None:
    """Multiplies every running variance."""
    for module in norms(net):
        module.running_var.mul_(factor)


def run_network(shipped: Shipped, variant: Variant, smooth: str) -> Outcome:
    def fresh(change: Callable[[nn.Module], None] | None = None) -> nn.Module:
        net = shipped.make()
        fill(net)
        if change is not None:
            change(net)
        if variant.noise_seed is not None:
            disturb_convolutions(net, variant.noise_seed)
        return net.to(dtype=variant.dtype, memory_format=variant.layout)

    def ready(name: str, size: int) -> tuple[Tensor, Tensor]:
        images, labels = batch(name, size)
        return images.to(dtype=variant.dtype, memory_format=variant.layout), labels

    with variant.active():
        given = ready("input", shipped.batch)
        return Outcome(
            evaluation=evaluate(fresh(), *given),
            lively=evaluate(fresh(lambda net: scale_variances(net, shipped.variance_scale)), *given),
            first=forward_backward(fresh(), *given),
            training=train(fresh(), *given),
            smooth=forward_backward(fresh(raise_norms), *ready(smooth, SMOOTH_BATCH)),
        )


def spread(items: list[str], count: int) -> list[str]:
    """`count` of the items, evenly spread from the first to the last; all of them if there are fewer."""
    if len(items) <= count:
        return items
    return [items[k * (len(items) - 1) // (count - 1)] for k in range(count)]


def network_document(name: str) -> dict[str, Any]:
    shipped = NETWORKS[name]
    net = shipped.make()
    assert sum(parameter.numel() for parameter in net.parameters()) == shipped.parameters, name
    fill(net)
    state = net.state_dict()
    smooth = f"input.smooth{shipped.smooth}"
    watched = shipped.make()
    fill(watched)
    raise_norms(watched)
    margin = nearest_kink(watched.double(), batch(smooth, SMOOTH_BATCH)[0].double())

    plain = [run_network(shipped, variant, smooth) for variant in VARIANTS]
    f64 = run_network(shipped, F64, smooth)
    noisy = [
        run_network(shipped, replace(VARIANTS[0], noise_seed=seed), smooth) for seed in range(1, shipped.noise_runs + 1)
    ]

    def runs(pick: Callable[[Outcome], np.ndarray]) -> Runs:
        return Runs([pick(o) for o in plain], pick(f64), [pick(o) for o in noisy])

    def evaluation(pick: Callable[[Outcome], Evaluation | Pass], size: int) -> dict[str, Any]:
        counts = {pick(o).correct for o in [*plain, f64, *noisy]}
        return {
            "logits": runs(lambda o: pick(o).logits).whole((size, CLASSES)),
            "loss": runs(lambda o: pick(o).loss).scalar(),
            # Only if all variants agree.
            "correct": counts.pop() if len(counts) == 1 else None,
        }

    def vanishing(grads: dict[str, np.ndarray]) -> set[str]:
        """Gradients that are only rounding: of a bias that the next BatchNorm cancels."""
        longest = max((norm(gradient) for gradient in grads.values()), default=0.0)
        return {key for key, gradient in grads.items() if norm(gradient) < 1e-12 * longest}

    def sampled(key: str, of: Runs, noise: bool) -> dict[str, Any]:
        """A record like golden.py's, with fewer samples and without their f64 values."""
        shape = list(state[key].shape)
        if noise:
            seen = max(float(np.abs(values).max()) for values in [*of.f32, *of.noisy])
            return {"name": key, "shape": shape, "noise": True, "largest": digits(seen * 1.005, 3)}
        norms = Runs([np.array(norm(v)) for v in of.f32], np.array(norm(of.f64)), [np.array(norm(v)) for v in of.noisy])
        indices = [k * (of.stored.size - 1) // (shipped.samples - 1) for k in range(shipped.samples)]
        return {
            "name": key,
            "shape": shape,
            "norm": {"value": digits(norms.stored, 9), **norms.deviations()},
            "indices": indices,
            "samples": exacts(of.stored[indices]),
            **of.deviations(),
            "rel_noise": of.relative()["rel_noise"],
        }

    def records(pick: Callable[[Outcome], dict[str, np.ndarray]], count: int | None) -> list[dict[str, Any]]:
        keys = list(pick(f64))
        noise = vanishing(pick(f64))
        return [
            sampled(key, runs(lambda o, key=key: pick(o)[key]), key in noise)
            for key in (keys if count is None else spread(keys, count))
        ]

    losses = runs(lambda o: o.training.losses)
    images, labels = batch("input", shipped.batch)
    first_keys = [key for key in state if not key.endswith("num_batches_tracked")]
    return {
        "net": name,
        "torch": TORCH,
        "parameter_count": shipped.parameters,
        "state_dict": {key: list(value.shape) for key, value in state.items()},
        "batch": shipped.batch,
        "dropout": 0.0,
        "variants": [variant.name for variant in VARIANTS],
        "noise_sigma": NOISE,
        "noise_runs": shipped.noise_runs,
        "first": {
            "input": exacts(numbers(images)[:4]),
            "labels": labels.tolist(),
            **{key: exacts(numbers(state[key])[:4]) for key in spread(first_keys, 6)},
        },
        "eval": evaluation(lambda o: o.evaluation, shipped.batch),
        "lively": {"variance_scale": shipped.variance_scale, **evaluation(lambda o: o.lively, shipped.batch)},
        "train": evaluation(lambda o: o.first, shipped.batch)
        | {
            "grads": records(lambda o: o.first.grads, SOME),
            "statistics": records(lambda o: o.first.statistics, SOME),
        },
        "adam": {
            "lr": LR,
            "betas": list(BETAS),
            "eps": EPS,
            "weight_decay": WEIGHT_DECAY,
            "steps": STEPS,
            "losses": exacts(losses.stored),
            "losses_f64": wides(losses.f64),
            "losses_dev_f32": losses.each(losses.f32),
            "losses_dev_f64": losses.each([losses.f64]),
            "losses_dev_noise": losses.each(losses.noisy),
            "correct": plain[0].training.correct,
            "num_batches_tracked": STEPS,
            "statistics": records(lambda o: o.training.statistics, SOME),
            "eval": evaluation(lambda o: o.training.evaluation, shipped.batch),
            "parameters": records(lambda o: o.training.parameters, SOME),
        },
        "smooth": {
            "batch": SMOOTH_BATCH,
            "norm_bias": NORM_BIAS,
            "input": smooth,
            "margin": digits(margin, 3),
            **evaluation(lambda o: o.smooth, SMOOTH_BATCH),
            "grads": records(lambda o: o.smooth.grads, None),
        },
    }


def main() -> None:
    documents: dict[str, Callable[[], dict[str, Any]]] = {
        "layers": layers_document,
        **{name: lambda name=name: network_document(name) for name in NETWORKS},
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder for the files")
    parser.add_argument("--only", nargs="+", choices=documents, default=list(documents), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    for name in arguments.only:
        write(arguments.out / f"{name}.json", documents[name]())


if __name__ == "__main__":
    main()
