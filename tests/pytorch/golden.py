#!/usr/bin/env python3
"""Makes the golden values that the Rust tests compare with, using real PyTorch on the CPU.

    python golden.py [--out DIR] [--only NAME ...]      (needs torch, torchvision, numpy)

Writes alexnet_plain.json, alexnet.json, nin.json, adam.json, init.json, augment.json and ops.json next to this script
(or into DIR). README.md describes every key. Running it twice on one machine gives the same bytes.

No weights and no images are stored. Both sides compute them from the closed formula below.

The formula
    h      = FNV-1a (32 bits) of the tensor's name in UTF-8
    z(i)   = mix(h + i * 0x9E3779B9)                                        all arithmetic modulo 2^32
    mix(z) : z ^= z >> 16; z *= 0x7FEB352D; z ^= z >> 15; z *= 0x846CA68B; z ^= z >> 16
    u(i)   = f32(z >> 8) * 2^-23 - 1                                        in [-1, 1), exact in f32

    convolution and linear weight and bias   u * bound           bound = f32(1 / sqrt(fan_in)), computed in f64
    BatchNorm weight                         1 + 0.25 * u
    BatchNorm bias                           0.1f32 * u
    BatchNorm running_mean                   0.1f32 * u
    BatchNorm running_var                    1 + 0.25 * u
    batch "input", shape (8, 3, 32, 32)      2 * u        (the smooth batch: another name, shape (2, 3, 32, 32))
    batch "labels", shape (8,)               z mod 10

i counts elements in row-major order of the PyTorch shape; names are PyTorch's state_dict keys, for example
"features.0.weight". Every f32 operation rounds once, to nearest; products with 0.25 and 2 are exact, so that the only
roundings are those of `u * bound`, `0.1f32 * u` and the sum `1 + ...`.

What a deviation is
    PyTorch does not give one answer: its own implementations differ by rounding. Each quantity is therefore computed by
    several f32 variants, by one in f64, and by some that carry deliberate noise:
    dev_f32    largest difference of any f32 variant (VARIANTS) from the stored values, which are those of the first
    dev_f64    difference of the stored values from the same computation in f64
    dev_noise  largest difference when the output of every convolution is disturbed by independent normal noise of
               NOISE times the output's standard deviation: what a Winograd F(4x4, 3x3) convolution in f32 rounds by
    For tensors these are the maximum over all elements, stored samples or not; `rel_*` are ||a - b|| / ||b||.

Kinks, and the smooth batch
    A ReLU near zero or a max pool with two values nearly equal may go either way under rounding, and then a gradient
    moves by a whole term. Among the hundreds of thousands of such choices in a batch of 8, noise of NOISE turns one or
    two. Gradients then move by up to some percent, and no correct implementation can promise less. `smooth` therefore
    holds one more forward and backward pass, on a batch of 2 whose name was searched so that every choice is clear by
    MARGIN: there, gradients agree to rounding, and a tight tolerance is a fair one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

BATCH = 8
STEPS = 20
SAMPLES = 8
CLASSES = 10

# The study's recipe.
LR = 1e-3
BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 5e-4
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

# Rounding error of Winograd F(4x4, 3x3) in f32, as a share of the output's standard deviation (measured against f64).
NOISE = 3e-6
NOISE_SEEDS = range(1, 9)

# The smooth batch of each network, by number: input "input.smooth{number}". Found by `smooth_input`, asserted at each
# run: no ReLU input is nearer to zero, and no two rivals in a max pool nearer to each other, than MARGIN times the
# accumulated noise of NOISE in all convolutions before.
SMOOTH_BATCH = 2
SMOOTH = {"alexnet_plain": 30, "alexnet": 30, "nin": 17}
MARGIN = 5.0


# --------------------------------------------------------------------------------------------------------- the networks


def conv_bn(cin: int, cout: int, kernel: int, relu: bool = True) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU. The padding is 1 whatever the kernel: the published network pads 1x1 too."""
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, kernel, padding=1), nn.BatchNorm2d(cout)]
    return layers + [nn.ReLU(inplace=True)] if relu else layers


def pool() -> nn.Module:
    return nn.MaxPool2d(kernel_size=2, stride=2)


def alexnet_features() -> nn.Sequential:
    """(N, 3, 32, 32) -> (N, 256, 4, 4)."""
    return nn.Sequential(
        *conv_bn(3, 64, 3), pool(),
        *conv_bn(64, 192, 3), pool(),
        *conv_bn(192, 384, 3),
        *conv_bn(384, 256, 3),
        *conv_bn(256, 256, 3), pool(),
    )  # fmt: skip


def pointwise_head() -> nn.Sequential:
    """A 1x1 convolution to the classes, then the mean over the map: (N, 256, H, W) -> (N, 10)."""
    return nn.Sequential(nn.Conv2d(256, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class AlexNetPlain(nn.Module):
    """6,979,146 parameters."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = alexnet_features()
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(256 * 4 * 4, 1024), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(1024, 512), nn.ReLU(inplace=True),
            nn.Linear(512, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class AlexNet(nn.Module):
    """2,256,458 parameters."""

    def __init__(self, dropout: float = 0.0) -> None:
        del dropout  # it has none
        super().__init__()
        self.features = alexnet_features()
        self.head = pointwise_head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class NetworkInNetwork(nn.Module):
    """1,485,386 parameters. The padded 1x1 convolutions let the maps grow: 16, 18, 20 | 10, 12, 14 | 9, 9, 11 | 5."""

    def __init__(self, dropout: float = 0.0) -> None:
        del dropout  # it has none
        super().__init__()
        self.features = nn.Sequential(
            *conv_bn(3, 64, 3), pool(),
            *conv_bn(64, 128, 3, relu=False), *conv_bn(128, 128, 1, relu=False), *conv_bn(128, 192, 1), pool(),
            *conv_bn(192, 256, 3, relu=False), *conv_bn(256, 256, 1, relu=False), *conv_bn(256, 384, 1), pool(),
            *conv_bn(384, 256, 1, relu=False), *conv_bn(256, 256, 3, relu=False), *conv_bn(256, 256, 1), pool(),
        )  # fmt: skip
        self.head = pointwise_head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


NETS: dict[str, Callable[..., nn.Module]] = {"alexnet_plain": AlexNetPlain, "alexnet": AlexNet, "nin": NetworkInNetwork}
PARAMETERS = {"alexnet_plain": 6_979_146, "alexnet": 2_256_458, "nin": 1_485_386}


# ---------------------------------------------------------------------------------------------------------- the formula


def fnv1a_32(name: str) -> int:
    h = 0x811C9DC5
    for byte in name.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def fnv1a_64(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x00000100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def z_values(name: str, count: int) -> np.ndarray:
    """`count` mixed 32-bit words. numpy's uint32 arrays wrap, as the formula requires."""
    z = np.uint32(fnv1a_32(name)) + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x7FEB352D)
    z ^= z >> np.uint32(15)
    z *= np.uint32(0x846CA68B)
    z ^= z >> np.uint32(16)
    return z


def u_values(name: str, count: int) -> np.ndarray:
    """`count` f32 in [-1, 1)."""
    return (z_values(name, count) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def bound_of(fan_in: int) -> np.float32:
    return np.float32(1.0 / math.sqrt(fan_in))


def fan_ins(net: nn.Module) -> dict[str, int]:
    """Name of each convolution or linear parameter -> fan_in of its layer."""
    found: dict[str, int] = {}
    for path, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            found[f"{path}.weight"] = found[f"{path}.bias"] = fan_in
    return found


def noise_parameters(net: nn.Module) -> set[str]:
    """Biases of convolutions under BatchNorm, which subtracts them again: their gradient is zero but for rounding."""
    return {
        f"{path}.bias"
        for (path, module), (_, following) in itertools.pairwise(net.named_modules())
        if isinstance(module, nn.Conv2d) and isinstance(following, nn.BatchNorm2d)
    }


def fill(net: nn.Module) -> None:
    """Sets every parameter and statistic of an f32 network by the formula."""
    fan_in = fan_ins(net)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        u = u_values(name, value.numel())
        if name in fan_in:
            filled = u * bound_of(fan_in[name])
        elif name.endswith((".weight", ".running_var")):
            filled = np.float32(1) + np.float32(0.25) * u
        else:  # BatchNorm bias and running_mean
            filled = np.float32(0.1) * u
        assert filled.dtype == np.float32
        value.copy_(torch.from_numpy(filled.reshape(value.shape)))  # state_dict shares storage with the network


def batch(name: str = "input", size: int = BATCH) -> tuple[Tensor, Tensor]:
    """The (size, 3, 32, 32) f32 input of that name and the first `size` labels of "labels"."""
    images = np.float32(2) * u_values(name, size * 3 * 32 * 32)
    labels = (z_values("labels", size) % np.uint32(CLASSES)).astype(np.int64)
    return torch.from_numpy(images.reshape(size, 3, 32, 32)), torch.from_numpy(labels)


# ------------------------------------------------------------------------------------------------------------- variants


@dataclass(frozen=True)
class Variant:
    """One way in which PyTorch can compute the same thing."""

    name: str
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    threads: int = 1
    mkldnn: bool = True
    noise_seed: int | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        torch.set_num_threads(self.threads)
        with torch.backends.mkldnn.flags(enabled=self.mkldnn):
            yield
        torch.set_num_threads(1)


# The first gives the stored values.
VARIANTS = (
    Variant("nchw"),
    Variant("channels_last", layout=torch.channels_last),
    Variant("nchw, 2 threads", threads=2),
    Variant("nchw, no mkldnn", mkldnn=False),
    Variant("channels_last, no mkldnn", layout=torch.channels_last, mkldnn=False),
)
F64 = Variant("f64", dtype=torch.float64)
NOISY = tuple(Variant(f"noise {seed}", noise_seed=seed) for seed in NOISE_SEEDS)


def disturb_convolutions(net: nn.Module, seed: int) -> None:
    """Adds normal noise of NOISE standard deviations to the output of every convolution, in every forward pass."""
    generator = torch.Generator().manual_seed(seed)

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        scale = NOISE * output.detach().std()
        return output + scale * torch.randn(output.shape, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(hook)


def numbers(tensor: Tensor) -> np.ndarray:
    """A flat row-major copy, whatever the memory layout."""
    return tensor.detach().contiguous().reshape(-1).numpy().copy()


# ---------------------------------------------------------------------------------------------------- running a network


@dataclass
class Pass:
    """One forward and backward pass in train mode; arrays are flat, in f32 or f64."""

    logits: np.ndarray
    loss: np.ndarray
    correct: int
    grads: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


@dataclass
class Evaluation:
    """One forward pass in eval mode."""

    logits: np.ndarray
    loss: np.ndarray
    correct: int


@dataclass
class Training:
    """STEPS steps of Adam and the state after them."""

    losses: np.ndarray
    correct: list[int]
    statistics: dict[str, np.ndarray]
    batches_tracked: int
    evaluation: Evaluation
    parameters: dict[str, np.ndarray]


@dataclass
class Outcome:
    """Everything that one variant computed. Each part starts from the formula's parameters and statistics."""

    evaluation: Evaluation
    first: Pass
    training: Training
    smooth: Pass


def fresh(name: str, variant: Variant) -> nn.Module:
    """A network filled by the formula. The f64 one starts from the f32 values, widened."""
    net = NETS[name](dropout=0.0)
    fill(net)
    if variant.noise_seed is not None:
        disturb_convolutions(net, variant.noise_seed)
    return net.to(dtype=variant.dtype, memory_format=variant.layout)


def correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(1) == labels).sum())


def statistics_of(net: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: numbers(value) for name, value in net.named_buffers() if name.endswith(("running_mean", "running_var"))
    }


def evaluate(net: nn.Module, images: Tensor, labels: Tensor) -> Evaluation:
    net.eval()
    with torch.no_grad():
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
    return Evaluation(numbers(logits), numbers(loss), correct(logits, labels))


def forward_backward(net: nn.Module, images: Tensor, labels: Tensor) -> Pass:
    net.train()
    logits = net(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    grads = {key: numbers(parameter.grad) for key, parameter in net.named_parameters()}
    return Pass(numbers(logits), numbers(loss), correct(logits, labels), grads, statistics_of(net))


def train(net: nn.Module, images: Tensor, labels: Tensor) -> Training:
    """The same batch at every step."""
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
    tracked = {int(value) for key, value in net.named_buffers() if key.endswith("num_batches_tracked")}
    assert len(tracked) == 1
    return Training(
        losses=np.stack(losses),
        correct=corrects,
        statistics=statistics_of(net),
        batches_tracked=tracked.pop(),
        evaluation=evaluate(net, images, labels),
        parameters={key: numbers(parameter) for key, parameter in net.named_parameters()},
    )


def run_net(name: str, variant: Variant, smooth: str) -> Outcome:
    def ready(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(dtype=variant.dtype, memory_format=variant.layout), labels

    with variant.active():
        return Outcome(
            evaluation=evaluate(fresh(name, variant), *ready(*batch())),
            first=forward_backward(fresh(name, variant), *ready(*batch())),
            training=train(fresh(name, variant), *ready(*batch())),
            smooth=forward_backward(fresh(name, variant), *ready(*batch(smooth, SMOOTH_BATCH))),
        )


class NearKink(Exception):
    """A batch came nearer to a kink than allowed."""


def margin(name: str, input_name: str, at_least: float = 0.0) -> float:
    """The distance to the nearest kink in a train-mode pass over a smooth batch, in f64; below `at_least`, NearKink.

    The unit is one standard deviation of the disturbance there: values at a ReLU come from BatchNorm and have a
    deviation of about one, and each of the convolutions up to there adds noise of NOISE.

    Values of a window nearer to each other than TIE are equal by construction and stay out: the border of a padded 1x1
    convolution holds one value per channel. Whichever of them wins, the gradients of the parameters are the same.
    """
    TIE = 1e-10
    net = fresh(name, F64).train()
    nearest, convolutions = math.inf, 0

    def note(distance: Tensor, rivals: int) -> None:
        nonlocal nearest
        nearest = min(nearest, float(distance.min()) / (NOISE * math.sqrt(convolutions * rivals)))
        if nearest < at_least:
            raise NearKink

    def watch_relu(_module: nn.Module, args: tuple[Tensor], _output: Tensor) -> None:
        note(args[0].abs(), rivals=1)

    def watch_pooled_relu(_module: nn.Module, args: tuple[Tensor], _output: Tensor) -> None:
        """Before a pool, only the largest of a window must keep off zero, and off the next one if it is positive."""
        x = args[0]
        height, width = (side // 2 * 2 for side in x.shape[2:])
        windows = F.unfold(x[:, :, :height, :width].flatten(0, 1).unsqueeze(1), 2, stride=2)  # (N * C, 4, windows)
        top = windows.amax(1)
        note(top.abs(), rivals=1)
        gaps = top.unsqueeze(1) - windows
        note(gaps.masked_fill(gaps < TIE, math.inf).amin(1)[top > 0], rivals=2)

    def count(_module: nn.Module, _args: tuple[Tensor], _output: Tensor) -> None:
        nonlocal convolutions
        convolutions += 1

    for module, following in itertools.pairwise(net.modules()):
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
        elif isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_forward_hook(watch_pooled_relu if isinstance(following, nn.MaxPool2d) else watch_relu)
    with torch.no_grad():
        net(batch(input_name, SMOOTH_BATCH)[0].double())
    return nearest


def smooth_input(name: str) -> int:
    """Searches for the first smooth batch; takes seconds. To be run after a change of a network or the formula."""

    def clear(number: int) -> bool:
        try:
            margin(name, f"input.smooth{number}", at_least=MARGIN)
        except NearKink:
            return False
        return True

    return next(number for number in itertools.count() if clear(number))


# ------------------------------------------------------------------------------------------------------ numbers as JSON


def exact(value: np.floating[Any] | float) -> float:
    """An f32 as the shortest decimal that reads back to the same f32, also by way of f64."""
    single = np.float32(value)
    assert np.isfinite(single)
    shortest = float(str(single))
    assert np.float32(shortest) == single
    return shortest


def exacts(values: np.ndarray) -> list[float]:
    assert values.dtype == np.float32
    return [exact(value) for value in values.reshape(-1)]


def digits(value: float, count: int) -> float:
    return float(f"{float(value):.{count}g}")


def wides(values: np.ndarray) -> list[float]:
    """f64 values to ten digits: beyond any f32."""
    return [digits(value, 10) for value in values.reshape(-1)]


def largest(difference: np.ndarray) -> float:
    """The largest magnitude, to three digits rounded up, so that a test against it never fails by its rounding."""
    value = float(np.max(np.abs(difference)))
    return digits(value * 1.005, 3)


def wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(wide(values)))


@dataclass
class Runs:
    """The same quantity by all variants."""

    f32: list[np.ndarray]
    f64: np.ndarray
    noisy: list[np.ndarray]

    @property
    def stored(self) -> np.ndarray:
        return self.f32[0]

    def deviations(self) -> dict[str, float]:
        base = wide(self.stored)
        return {
            "dev_f32": max(largest(wide(other) - base) for other in self.f32),
            "dev_f64": largest(self.f64 - base),
            "dev_noise": max(largest(wide(other) - base) for other in self.noisy),
        }

    def each(self, others: list[np.ndarray]) -> list[float]:
        """Element by element, the largest difference of any of the others from the stored values."""
        differences = [np.abs(wide(other) - wide(self.stored)) for other in others]
        return [largest(element) for element in np.max(differences, axis=0)]

    def relative(self) -> dict[str, float]:
        """Relative L2 distances; left out where the quantity is all noise and they would mean nothing."""
        base, size = wide(self.stored), norm(self.stored)
        return {
            "rel_f32": max(digits(norm(wide(other) - base) / size, 3) for other in self.f32),
            "rel_f64": digits(norm(self.f64 - base) / size, 3),
            "rel_noise": max(digits(norm(wide(other) - base) / size, 3) for other in self.noisy),
        }

    def scalar(self) -> dict[str, Any]:
        return {"value": exact(self.stored.item()), "f64": digits(self.f64.item(), 10), **self.deviations()}

    def whole(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {
            "shape": list(shape),
            "values": exacts(self.stored),
            "f64": wides(self.f64),
            **self.deviations(),
            **self.relative(),
        }

    def sampled(self, name: str, shape: tuple[int, ...], noise: bool = False) -> dict[str, Any]:
        """Norm and SAMPLES evenly spread elements: index k is floor(k * (numel - 1) / (SAMPLES - 1))."""
        indices = [k * (self.stored.size - 1) // (SAMPLES - 1) for k in range(SAMPLES)]
        norms = Runs(
            [np.array(norm(values)) for values in self.f32],
            np.array(norm(self.f64)),
            [np.array(norm(values)) for values in self.noisy],
        )
        record: dict[str, Any] = {
            "name": name,
            "shape": list(shape),
            **({"noise": True} if noise else {}),
            "norm": {"value": digits(norms.stored, 10), "f64": digits(norms.f64, 10), **norms.deviations()},
            "indices": indices,
            "samples": exacts(self.stored[indices]),
            "f64": wides(self.f64[indices]),
            **self.deviations(),
        }
        return record if noise else {**record, **self.relative()}


def write(path: Path, document: dict[str, Any]) -> None:
    """Compact JSON that still shows in a diff which record changed: one line for each entry of a long list."""

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)

    def render(value: Any, indent: str) -> str:
        inner = indent + " "
        if (
            isinstance(value, dict)
            and any(isinstance(v, (dict, list)) for v in value.values())
            and len(compact(value)) > 600
        ):
            rows = [f"{inner}{compact(k)}:{render(v, inner)}" for k, v in value.items()]
            return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
        if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
            return "[\n" + ",\n".join(f"{inner}{render(v, inner)}" for v in value) + f"\n{indent}]"
        return compact(value)

    path.write_text(render(document, "") + "\n")
    print(f"{path.name}: {path.stat().st_size:,} bytes")


# -------------------------------------------------------------------------------------------------------- network files


def net_document(name: str) -> dict[str, Any]:
    net = fresh(name, VARIANTS[0])
    state = net.state_dict()
    noise = noise_parameters(net)
    smooth = f"input.smooth{SMOOTH[name]}"
    smooth_margin = margin(name, smooth, at_least=MARGIN)

    plain = [run_net(name, variant, smooth) for variant in VARIANTS]
    f64 = run_net(name, F64, smooth)
    noisy = [run_net(name, variant, smooth) for variant in NOISY]

    def runs(pick: Callable[[Outcome], np.ndarray]) -> Runs:
        return Runs([pick(o) for o in plain], pick(f64), [pick(o) for o in noisy])

    def agreed(pick: Callable[[Outcome], Any]) -> Any:
        """A count on which all variants agree, so that a test can ask for equality."""
        values = [pick(o) for o in [*plain, f64, *noisy]]
        assert all(value == values[0] for value in values), (name, values)
        return values[0]

    def evaluation(pick: Callable[[Outcome], Evaluation | Pass], size: int = BATCH) -> dict[str, Any]:
        return {
            "logits": runs(lambda o: pick(o).logits).whole((size, CLASSES)),
            "loss": runs(lambda o: pick(o).loss).scalar(),
            "correct": agreed(lambda o: pick(o).correct),
        }

    def records(pick: Callable[[Outcome], dict[str, np.ndarray]], noisy_names: set[str]) -> list[dict[str, Any]]:
        return [
            runs(lambda o, key=key: pick(o)[key]).sampled(key, tuple(state[key].shape), key in noisy_names)
            for key in pick(plain[0])
        ]

    # The parameters marked as noise, by the structure of the network, are those whose gradient vanishes in f64.
    assert noise == {key for key, grad in f64.first.grads.items() if norm(grad) < 1e-12}

    losses = runs(lambda o: o.training.losses)
    last_bias = [key for key in state if key.endswith(".bias")][-1]
    shown = ["features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"]
    shown += ["features.1.running_mean", "features.1.running_var", last_bias]
    images, labels = batch()
    return {
        "net": name,
        "torch": torch.__version__.split("+")[0],
        "batch": BATCH,
        "dropout": 0.0,
        "variants": [variant.name for variant in VARIANTS],
        "noise_sigma": NOISE,
        "noise_runs": len(NOISY),
        # The first elements of a tensor of each kind, which show a misreading of the formula.
        "first": {
            "input": exacts(numbers(images)[:4]),
            "labels": labels.tolist(),
            **{key: exacts(numbers(state[key])[:4]) for key in shown},
        },
        "eval": evaluation(lambda o: o.evaluation),
        "train": evaluation(lambda o: o.first)
        | {
            "grads": records(lambda o: o.first.grads, noise),
            "statistics": records(lambda o: o.first.statistics, set()),
        },
        "adam": {
            "lr": LR,
            "betas": list(BETAS),
            "eps": EPS,
            "weight_decay": WEIGHT_DECAY,
            "steps": STEPS,
            "losses": exacts(losses.stored),
            "losses_f64": wides(losses.f64),
            "losses_dev_channels_last": losses.each([losses.f32[1]]),
            "losses_dev_f32": losses.each(losses.f32),
            "losses_dev_f64": losses.each([losses.f64]),
            "losses_dev_noise": losses.each(losses.noisy),
            "correct": plain[0].training.correct,
            "num_batches_tracked": agreed(lambda o: o.training.batches_tracked),
            "statistics": records(lambda o: o.training.statistics, set()),
            "eval": evaluation(lambda o: o.training.evaluation),
            "parameters": records(lambda o: o.training.parameters, set()),
        },
        "smooth": {
            "batch": SMOOTH_BATCH,
            "input": smooth,
            "margin": digits(smooth_margin, 3),
            **evaluation(lambda o: o.smooth, SMOOTH_BATCH),
            "grads": records(lambda o: o.smooth.grads, noise),
        },
    }


# ----------------------------------------------------------------------------------------------------------------- Adam

ADAM_SIZE = 16
ADAM_STEPS = 10
ADAM_KINDS = {
    0: "gradient always zero",
    1: "gradient 1e-12 * u: below eps even after the square root",
    2: "gradient 1e6 * u",
    3: "gradient 1e6, its sign alternating",
    4: "gradient zero but at step 3",
    5: "parameter and gradient zero: must stay zero, without NaN",
    6: "gradient 1e-12, constant",
    7: "gradient u, but 1e6 at step 5: the second moment must remember it",
}


def adam_gradient(step: int) -> np.ndarray:
    """The gradient of step 1..ADAM_STEPS; elements from 8 on are plain u of "adam.grad{step}"."""
    grad = u_values(f"adam.grad{step}", ADAM_SIZE)
    grad[0] = 0
    grad[1] *= np.float32(1e-12)
    grad[2] *= np.float32(1e6)
    grad[3] = 1e6 if step % 2 else -1e6
    grad[4] = grad[4] if step == 3 else 0
    grad[5] = 0
    grad[6] = 1e-12
    grad[7] = 1e6 if step == 5 else grad[7]
    return grad


def adam_states(weight_decay: float, dtype: torch.dtype, **options: bool) -> dict[str, np.ndarray]:
    """Parameters and both moments after each step: arrays (ADAM_STEPS, ADAM_SIZE)."""
    start = u_values("adam.param", ADAM_SIZE)
    start[5] = 0
    parameter = nn.Parameter(torch.from_numpy(start).to(dtype))
    optimizer = torch.optim.Adam([parameter], lr=LR, betas=BETAS, eps=EPS, weight_decay=weight_decay, **options)
    states: dict[str, list[np.ndarray]] = {"param": [], "exp_avg": [], "exp_avg_sq": []}
    for step in range(1, ADAM_STEPS + 1):
        parameter.grad = torch.from_numpy(adam_gradient(step)).to(dtype)
        optimizer.step()
        states["param"].append(numbers(parameter))
        for moment in ("exp_avg", "exp_avg_sq"):
            states[moment].append(numbers(optimizer.state[parameter][moment]))
    return {key: np.stack(rows) for key, rows in states.items()}


def adam_document() -> dict[str, Any]:
    start = u_values("adam.param", ADAM_SIZE)
    start[5] = 0
    cases = []
    for weight_decay in (0.0, WEIGHT_DECAY):
        # PyTorch has three implementations of Adam, which order their operations differently.
        stored = adam_states(weight_decay, torch.float32, foreach=False)
        others = [adam_states(weight_decay, torch.float32, **{kind: True}) for kind in ("foreach", "fused")]
        f64 = adam_states(weight_decay, torch.float64, foreach=False)
        case: dict[str, Any] = {"weight_decay": weight_decay}
        for key, rows in stored.items():
            between = np.max([np.abs(wide(other[key]) - wide(rows)) for other in others], axis=0)
            case[key] = [exacts(row) for row in rows]
            case[f"{key}_dev_f32"] = [[largest(d) for d in row] for row in between]
            case[f"{key}_dev_f64"] = [[largest(d) for d in row] for row in f64[key] - wide(rows)]
        cases.append(case)
    return {
        "torch": torch.__version__.split("+")[0],
        "lr": LR,
        "betas": list(BETAS),
        "eps": EPS,
        "elements": {str(index): text for index, text in ADAM_KINDS.items()},
        "param0": exacts(start),
        "grads": [exacts(adam_gradient(step)) for step in range(1, ADAM_STEPS + 1)],
        "cases": cases,
    }


# ------------------------------------------------------------------------------------------------------- initialisation


def init_document() -> dict[str, Any]:
    nets: dict[str, Any] = {}
    for name, make in NETS.items():
        torch.manual_seed(0)
        net = make()
        fan_in = fan_ins(net)
        parameters = []
        for key, parameter in net.named_parameters():
            values = wide(numbers(parameter))
            record: dict[str, Any] = {"name": key, "shape": list(parameter.shape)}
            if key in fan_in:
                bound = bound_of(fan_in[key])
                assert float(np.abs(values).max()) <= float(bound) * (1 + 1e-6), key
                record |= {"fan_in": fan_in[key], "bound": exact(bound)}
            else:
                assert np.all(values == (1.0 if key.endswith(".weight") else 0.0)), key
                record |= {"constant": float(values[0])}
            # The sample deviation: divisor n - 1.
            measured = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std(ddof=1)}
            parameters.append(record | {k: digits(v, 8) for k, v in measured.items()})
        count = sum(parameter.numel() for parameter in net.parameters())
        assert count == PARAMETERS[name]
        nets[name] = {
            "parameter_count": count,
            "state_dict": [
                {
                    "name": key,
                    "shape": list(value.shape),
                    "dtype": {"float32": "F32", "int64": "I64"}[str(value.dtype)[6:]],
                }
                for key, value in net.state_dict().items()
            ],
            "parameters": parameters,
        }
    return {"torch": torch.__version__.split("+")[0], "seed": 0, "nets": nets}


# --------------------------------------------------------------------------------------------------------- augmentation

# (dy, dx, flip): the corner of the 32x32 window in the 40x40 padded image, then whether the window is mirrored.
CROPS = [
    (4, 4, False), (4, 4, True),
    (0, 0, False), (0, 0, True),
    (0, 8, False), (0, 8, True),
    (8, 0, False), (8, 0, True),
    (8, 8, False), (8, 8, True),
    (3, 6, False), (1, 5, True),
]  # fmt: skip
AUGMENT_SAMPLES = 24


def normalised(image: Any) -> np.ndarray:
    """A PIL image to (3, 32, 32) f32, as the study's transforms do."""
    from torchvision.transforms import functional as tv

    return tv.normalize(tv.to_tensor(image), MEAN, STD).numpy()


def augment_document() -> dict[str, Any]:
    import torchvision
    from PIL import Image
    from torchvision.transforms import functional as tv

    def picture(planes: np.ndarray) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))

    cases = []
    for k, (dy, dx, flip) in enumerate(CROPS):
        planes = (z_values(f"image{k}", 3 * 32 * 32) & np.uint32(255)).astype(np.uint8).reshape(3, 32, 32)
        # RandomCrop(32, padding=4) is this pad and this crop, on the raw image; RandomHorizontalFlip comes after it.
        window = tv.crop(tv.pad(picture(planes), [4], fill=0), dy, dx, 32, 32)
        out = normalised(tv.hflip(window) if flip else window)
        assert out.dtype == np.float32 and out.shape == (3, 32, 32)

        # The same by hand: three roundings in f32, no fused scale and shift. The border is black before normalisation.
        padded = np.zeros((3, 40, 40), np.uint8)
        padded[:, 4:36, 4:36] = planes
        window_by_hand = padded[:, dy : dy + 32, dx : dx + 32]
        window_by_hand = window_by_hand[:, :, ::-1] if flip else window_by_hand
        mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, STD))
        assert np.array_equal((window_by_hand.astype(np.float32) / np.float32(255) - mean) / std, out)

        # An odd stride through the 3,072 values meets all planes, and border and inside of each.
        indices = [(k * 131 + j * 127) % out.size for j in range(AUGMENT_SAMPLES)]
        flat = out.reshape(-1)
        cases.append({
            "image": f"image{k}",
            "dy": dy,
            "dx": dx,
            "flip": flip,
            "sum": float(np.sum(wide(flat))),
            "fnv1a_64": f"{fnv1a_64(flat.astype('<f4').tobytes()):016x}",
            "samples": [[index, exact(flat[index])] for index in indices],
        })  # fmt: skip

    # All possible values: byte b of channel c. Row c of the (3, 256) table.
    ramp = np.arange(256, dtype=np.uint8)
    table = normalised(Image.fromarray(np.repeat(ramp.reshape(8, 32, 1), 3, axis=2))).reshape(3, 256)
    return {
        "torchvision": torchvision.__version__.split("+")[0],
        "mean": list(MEAN),
        "std": list(STD),
        "padding": 4,
        "black": exacts(table[:, 0]),
        "white": exacts(table[:, 255]),
        "table_fnv1a_64": f"{fnv1a_64(table.astype('<f4').tobytes()):016x}",
        "cases": cases,
    }


# ----------------------------------------------------------------------------------------------------- single operators


def operator_case(
    title: str,
    function: Callable[..., Tensor],
    inputs: dict[str, Tensor],
    grad_out: Tensor | None = None,
    state: dict[str, Tensor] | None = None,
    attributes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Forward and backward of `function(**inputs, **state)`, in f32 and in f64.

    Inputs get gradients; state tensors are updated in place and listed before and after. Without `grad_out` the
    output's gradient is ones.
    """

    def run(dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = {key: value.to(dtype).clone().requires_grad_() for key, value in inputs.items()}
        kept = {key: value.to(dtype).clone() for key, value in (state or {}).items()}
        # Some functions work in place on their argument (ReLU): pass them a non-leaf.
        out = function(**{key: value * 1 for key, value in leaves.items()}, **kept)
        out.backward(torch.ones_like(out) if grad_out is None else grad_out.to(dtype))
        results = {"output": out, **{f"grad_{key}": value.grad for key, value in leaves.items()}}
        return results | {f"{key}_after": value for key, value in kept.items()}

    def listed(value: Tensor) -> dict[str, Any]:
        return {"shape": list(value.shape), "values": exacts(numbers(value.float()))}

    single, double = run(torch.float32), run(torch.float64)
    shown_grad = torch.ones_like(single["output"]) if grad_out is None else grad_out
    given = {**inputs, **(state or {}), "grad_output": shown_grad.reshape(single["output"].shape)}
    expected = {
        key: listed(value) | {"dev_f64": largest(numbers(double[key]) - wide(numbers(value)))}
        for key, value in single.items()
    }
    return {
        "case": title,
        **(attributes or {}),
        "given": {key: listed(value) for key, value in given.items()},
        "expected": expected,
    }


def formula(name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    u = u_values(name, math.prod(shape))
    return torch.from_numpy((np.float32(scale) * u + np.float32(shift)).reshape(shape))


def whole_numbers(name: str, low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers low..=high from the formula: few different ones, so that maxima tie."""
    z = z_values(name, math.prod(shape)) % np.uint32(high - low + 1)
    return torch.from_numpy((z.astype(np.float32) + np.float32(low)).reshape(shape))


def ops_document() -> dict[str, Any]:
    def max_pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel_size=2, stride=2)

    def counting(*shape: int) -> Tensor:
        """1, 2, 3, ...: shows to which element a gradient went."""
        return torch.arange(1, math.prod(shape) + 1, dtype=torch.float32).reshape(shape)

    ties = torch.tensor([[1, 1, 2, 3], [1, 1, 3, 3], [-1, -2, 0, -0.5], [-2, -1, 0, 0]]).reshape(1, 1, 4, 4)

    def pool_case(title: str, x: Tensor) -> dict[str, Any]:
        return operator_case(title, max_pool, {"x": x}, counting(*max_pool(x).shape))

    pools = [
        pool_case("ties: the first maximum in row-major order gets the whole gradient", ties),
        pool_case("all negative", formula("pool.negative", 1, 2, 4, 4, shift=-2)),
        pool_case(
            "odd size 5, floor: last row and column get no gradient", whole_numbers("pool.five", -2, 2, 2, 1, 5, 5)
        ),
        pool_case("odd size 9, floor, ties", whole_numbers("pool.nine", -3, 3, 1, 1, 9, 9)),
        pool_case("after ReLU, many zeros tie", F.relu(whole_numbers("pool.relu", -3, 2, 1, 1, 6, 6))),
    ]

    relus = [
        operator_case(
            "no gradient at zero",
            lambda x: F.relu(x),
            {"x": torch.tensor([-2.0, -1e-30, 0.0, 1e-30, 0.5, 3.0])},
            torch.tensor([1.0, 2, 3, 4, 5, 6]),
        )
    ]

    def batch_norm(train: bool) -> Callable[..., Tensor]:
        def apply(x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training=train, momentum=0.1, eps=1e-5)

        return apply

    channels = 3
    affine = {"weight": formula("bn.weight", channels, scale=0.25, shift=1), "bias": formula("bn.bias", channels)}
    running = {
        "running_mean": formula("bn.running_mean", channels),
        "running_var": formula("bn.running_var", channels, scale=0.25, shift=1),
    }
    shape = (2, channels, 3, 2)
    bn_grad = formula("bn.grad", *shape)

    def bn_case(title: str, x: Tensor, train: bool = True) -> dict[str, Any]:
        attributes = {"train": train, "momentum": 0.1, "eps": 1e-5}
        return operator_case(title, batch_norm(train), {"x": x, **affine}, bn_grad, running, attributes)

    batch_norms = [
        bn_case("train; running_var takes the unbiased estimate", formula("bn.x", *shape)),
        bn_case("train; mean far from zero: variance needs a shifted sum", formula("bn.x", *shape, shift=1000)),
        bn_case("train; a constant input has variance zero", torch.full(shape, 0.75)),
        bn_case("eval", formula("bn.x", *shape), train=False),
    ]

    def entropy_case(title: str, logits: Tensor, labels: list[int]) -> dict[str, Any]:
        target = torch.tensor(labels)
        return operator_case(title, lambda x: F.cross_entropy(x, target), {"x": logits}, attributes={"labels": labels})

    large = torch.tensor(
        [[1000.0, -1000, 0, 999, 0, 0, 0, 0, 0, 0], [-1e4, -1e4, -1e4, -1e4, -1e4, -1e4, -1e4, -1e4, -1e4, -9999]]
    )
    entropies = [
        entropy_case("ordinary", formula("xent", 4, CLASSES, scale=3), [0, 3, 9, 3]),
        entropy_case("equal logits: ln 10", torch.zeros(1, CLASSES), [7]),
        entropy_case("large logits, right", large, [0, 9]),
        entropy_case("large logits, wrong: no overflow", large * torch.tensor([[1.0], [10000.0]]), [1, 0]),
    ]

    def average_case(size: int) -> dict[str, Any]:
        x = formula(f"gap{size}", 2, 2, size, size)
        return operator_case(
            f"global average of {size}x{size}", lambda x: F.adaptive_avg_pool2d(x, 1), {"x": x}, counting(2, 2, 1, 1)
        )

    averages = [average_case(size) for size in (1, 4, 5)]

    def conv_case(
        title: str, cin: int, cout: int, kernel: int, padding: int, height: int, width: int
    ) -> dict[str, Any]:
        out = (2, cout, height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1)
        given = {
            "x": formula("conv.x", 2, cin, height, width),
            "weight": formula("conv.weight", cout, cin, kernel, kernel),
            "bias": formula("conv.bias", cout),
        }
        return operator_case(
            title,
            lambda x, weight, bias: F.conv2d(x, weight, bias, padding=padding),
            given,
            formula("conv.grad", *out),
            attributes={"padding": padding},
        )

    convolutions = [
        conv_case("3x3 padded by 1", 3, 2, 3, 1, 4, 5),
        conv_case("1x1 padded by 1: the border holds the bias", 2, 3, 1, 1, 2, 3),
        conv_case("1x1", 2, 3, 1, 0, 2, 3),
    ]
    linear = operator_case(
        "linear",
        F.linear,
        {
            "input": formula("linear.x", 2, 5),
            "weight": formula("linear.weight", 3, 5),
            "bias": formula("linear.bias", 3),
        },
        formula("linear.grad", 2, 3),
    )
    return {
        "torch": torch.__version__.split("+")[0],
        "max_pool2d": pools,
        "relu": relus,
        "batch_norm": batch_norms,
        "cross_entropy": entropies,
        "adaptive_avg_pool2d": averages,
        "conv2d": convolutions,
        "linear": [linear],
    }


# ----------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    documents: dict[str, Callable[[], dict[str, Any]]] = {
        **{name: lambda name=name: net_document(name) for name in NETS},
        "adam": adam_document,
        "init": init_document,
        "augment": augment_document,
        "ops": ops_document,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder for the files")
    parser.add_argument("--only", nargs="+", choices=documents, default=list(documents), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Switching mkldnn off prints a warning about Intel GPUs.
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    for name in arguments.only:
        write(arguments.out / f"{name}.json", documents[name]())


if __name__ == "__main__":
    main()
