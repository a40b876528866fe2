"""Small networks, one for each kind of layer and way of composition: what layers.json is made from (see networks.py).

Each case says the same thing twice. One is a description in the format of the Rust program, the other a PyTorch
module, written by hand. Nothing here reads the description: the numbers are PyTorch's own. Where both are made from one
set of arguments (`conv`, `max_pool` and so on), the arguments are PyTorch's.

Most cases are [a convolution] -> [the layer] -> Flatten. The convolution in front has parameters, so that its gradients
show the gradient of the input of the layer after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

# The description of a layer, and the layer.
Layer = tuple[str, Callable[[], nn.Module]]
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A network, described and built."""

    name: str
    input: tuple[int, int, int]
    layers: tuple[str, ...]
    build: Callable[[], nn.Module]
    batch: int = 2
    # Whole numbers low..=high for an input, in place of the formula's real ones.
    levels: tuple[int, int] | None = None

    def toml(self) -> str:
        layers = "".join(f"    {layer},\n" for layer in self.layers)
        return f'name = "case"\ninput = {list(self.input)}\nlayers = [\n{layers}]\n'


class Net(nn.Module):
    """Named layers and the forward pass through them."""

    def __init__(self, compute: Callable[[Net, Tensor], Tensor], **layers: Layer | nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer if isinstance(layer, nn.Module) else layer[1]())
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


class Apply(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def absorbed(large: Tensor, small: Tensor) -> Tensor:
    """large + small, where f32 rounds the small one away. f64 would not: there only its gradient is kept."""
    assert large.dtype != torch.float32 or torch.equal(large + small, large)
    return large + small if large.dtype == torch.float32 else large + (small - small.detach())


def flat(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


# ----------------------------------------------------------------------------------------------------- layers in words


def size(value: Size) -> str:
    return str(value) if isinstance(value, int) else f"[{value[0]}, {value[1]}]"


def table(kind: str, arguments: dict[str, str]) -> str:
    inner = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    return f"{{ {kind} = {{ {inner} }} }}" if inner else f'"{kind}"'


def conv(
    cin: int, cout: int, kernel: Size, stride: Size = 1, padding: Size = 0, groups: int = 1, bias: bool = True
) -> Layer:
    arguments = {"out_channels": str(cout), "kernel_size": size(kernel)}
    arguments |= {"stride": size(stride)} if stride != 1 else {}
    arguments |= {"padding": size(padding)} if padding != 0 else {}
    arguments |= {"groups": str(groups)} if groups != 1 else {}
    arguments |= {} if bias else {"bias": "false"}
    return table("Conv2d", arguments), lambda: nn.Conv2d(
        cin, cout, kernel, stride=stride, padding=padding, groups=groups, bias=bias
    )


def linear(features: int, out: int, bias: bool = True) -> Layer:
    arguments = {"out_features": str(out)} | ({} if bias else {"bias": "false"})
    return table("Linear", arguments), lambda: nn.Linear(features, out, bias=bias)


def norm(channels: int, eps: float = 1e-5, momentum: float = 0.1, weight: bool = True, bias: bool = True) -> Layer:
    arguments = {"eps": repr(eps)} if eps != 1e-5 else {}
    arguments |= {"momentum": repr(momentum)} if momentum != 0.1 else {}
    arguments |= {} if weight else {"weight": "false"}
    arguments |= {} if bias else {"bias": "false"}

    def build() -> nn.Module:
        module = nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
        # torch.nn.BatchNorm2d has an argument for both alone; the underlying function takes either.
        if not weight:
            module.register_parameter("weight", None)
        if not bias:
            module.register_parameter("bias", None)
        return module

    return table("BatchNorm2d", arguments), build


def max_pool(kernel: Size, stride: Size | None = None, padding: Size = 0) -> Layer:
    arguments = {"kernel_size": size(kernel)}
    arguments |= {"stride": size(stride)} if stride is not None else {}
    arguments |= {"padding": size(padding)} if padding != 0 else {}
    return table("MaxPool2d", arguments), lambda: nn.MaxPool2d(kernel, stride=stride, padding=padding)


def avg_pool(kernel: Size, stride: Size | None = None, padding: Size = 0, count_include_pad: bool = True) -> Layer:
    arguments = {"kernel_size": size(kernel)}
    arguments |= {"stride": size(stride)} if stride is not None else {}
    arguments |= {"padding": size(padding)} if padding != 0 else {}
    arguments |= {} if count_include_pad else {"count_include_pad": "false"}
    return table("AvgPool2d", arguments), lambda: nn.AvgPool2d(
        kernel, stride=stride, padding=padding, count_include_pad=count_include_pad
    )


def scale(factor: float) -> Layer:
    return table("Scale", {"factor": repr(factor)}), lambda: Apply(lambda x: x * factor)


def subsample(rows: int, columns: int) -> Layer:
    stride = size(rows if rows == columns else (rows, columns))
    return table("Subsample", {"stride": stride}), lambda: Apply(lambda x: x[:, :, ::rows, ::columns])


def pad_channels(before: int, after: int) -> Layer:
    arguments = {"before": str(before)} if before else {}
    arguments |= {"after": str(after)} if after else {}
    return table("PadChannels", arguments), lambda: Apply(lambda x: F.pad(x, (0, 0, 0, 0, before, after)))


FLAT: Layer = ('"Flatten"', nn.Flatten)
GLOBAL: Layer = ('"AdaptiveAvgPool2d"', lambda: nn.AdaptiveAvgPool2d(1))
RELU: Layer = ('"ReLU"', nn.ReLU)
SIGMOID: Layer = ('"Sigmoid"', nn.Sigmoid)
NO_DROPOUT: Layer = (table("Dropout", {"p": "0.0"}), lambda: nn.Dropout(0.0))

ACTIVATIONS: dict[str, Layer] = {
    "ReLU": RELU,
    "ReLU6": ('"ReLU6"', nn.ReLU6),
    "LeakyReLU": ('"LeakyReLU"', nn.LeakyReLU),
    "LeakyReLU 0.2": (table("LeakyReLU", {"negative_slope": "0.2"}), lambda: nn.LeakyReLU(0.2)),
    "GELU": ('"GELU"', nn.GELU),
    "GELU tanh": (table("GELU", {"approximate": '"tanh"'}), lambda: nn.GELU(approximate="tanh")),
    "SiLU": ('"SiLU"', nn.SiLU),
    "Sigmoid": SIGMOID,
    "Tanh": ('"Tanh"', nn.Tanh),
}


def named(name: str, layer: Layer | str) -> str:
    """The description of a layer, or of a composition, with a name."""
    text = layer if isinstance(layer, str) else layer[0]
    table_of = f"{{ {text[1:-1]} = {{}} }}" if text.startswith('"') else text
    return f'{{ name = "{name}", {table_of[2:]}'


def sequence(*texts: str) -> str:
    return f"{{ Sequential = [{', '.join(texts)}] }}"


def branches(kind: str, *branches: list[str]) -> str:
    """A composition; the empty list is the identity."""
    return f"{{ {kind} = [{', '.join('[' + ', '.join(branch) + ']' for branch in branches)}] }}"


def chain(name: str, shape: tuple[int, int, int], *layers: Layer, batch: int = 2) -> Case:
    """One after the other, without names: numbered like those of torch.nn.Sequential."""
    return Case(name, shape, tuple(text for text, _ in layers), lambda: nn.Sequential(*(b() for _, b in layers)), batch)


# ------------------------------------------------------------------------------------------------------------ the cases


def convolutions() -> list[Case]:
    cases = []

    def behind(title: str, layer: Layer, shape: tuple[int, int, int] = (2, 7, 7), middle: int = 3, **more: int) -> None:
        """After a pointwise convolution to `middle` channels."""
        cases.append(chain(f"Conv2d {title}", shape, conv(shape[0], middle, 1), layer, FLAT, **more))

    for kernel, stride, padding, height, width in [
        (1, 1, 0, 4, 5),
        (1, 1, 1, 3, 4),
        (1, 2, 0, 5, 6),
        (1, 2, 1, 5, 5),
        (1, 3, 0, 8, 7),
        (2, 1, 0, 4, 5),
        (2, 2, 0, 7, 8),
        (2, 2, 1, 5, 6),
        (3, 1, 0, 6, 5),
        (3, 1, 1, 5, 5),
        (3, 1, 2, 3, 3),
        (3, 2, 1, 8, 8),
        (3, 2, 1, 7, 9),
        (3, 2, 0, 8, 9),
        (3, 3, 0, 8, 9),
        (3, 3, 1, 9, 8),
        (3, (2, 1), 1, 7, 4),
        (3, (1, 2), 1, 4, 7),
        (3, 1, (0, 1), 5, 4),
        (3, 2, (1, 0), 6, 7),
        (5, 1, 2, 5, 5),
        (5, 2, 2, 9, 8),
        (5, 2, 1, 9, 9),
        (5, 1, 0, 7, 8),
        (7, 1, 3, 4, 5),
        (7, 2, 3, 9, 9),
        ((1, 7), 1, (0, 3), 3, 7),
        ((7, 1), 1, (3, 0), 7, 3),
        ((3, 5), 1, (1, 2), 4, 6),
        ((3, 5), (2, 1), (0, 1), 7, 6),
        ((1, 7), (1, 2), (0, 2), 4, 9),
    ]:
        title = f"{size(kernel)} stride {size(stride)} padding {size(padding)} on {height}x{width}"
        wide = kernel in (7, 5)
        layer = conv(2 if wide else 3, 2 if wide else 3, kernel, stride=stride, padding=padding)
        behind(title, layer, (2, height, width), middle=2 if wide else 3)

    behind("3 without bias", conv(3, 3, 3, padding=1, bias=False), (2, 5, 5), batch=3)
    behind("1 without bias, stride 2", conv(3, 4, 1, stride=2, bias=False), (2, 7, 7))
    cases.append(chain("Conv2d 3 without bias, first", (3, 6, 6), conv(3, 3, 3, padding=1, bias=False), FLAT))
    cases.append(chain("Conv2d 1 with padding 1, first", (3, 3, 4), conv(3, 3, 1, padding=1), FLAT))
    cases.append(chain("Conv2d 3 on one pixel", (3, 1, 1), conv(3, 4, 3, padding=1), conv(4, 4, 1), FLAT, batch=3))
    for groups, cin, cout in [(2, 4, 6), (3, 6, 3), (4, 8, 4)]:
        layer = conv(cin, cout, 3, padding=1, groups=groups)
        behind(f"3 in {groups} groups, {cin} to {cout}", layer, (2, 4, 5), middle=cin)
    behind("1 in 2 groups", conv(4, 6, 1, groups=2), (2, 4, 4), middle=4)
    behind("3 stride 2 in 2 groups, without bias", conv(4, 4, 3, 2, 1, groups=2, bias=False), (2, 7, 6), middle=4)
    behind("depthwise 3", conv(4, 4, 3, padding=1, groups=4), (2, 5, 4), middle=4)
    behind("depthwise 3 stride 2", conv(4, 4, 3, 2, 1, groups=4), (2, 8, 7), middle=4)
    behind("depthwise 3 without padding or bias", conv(4, 4, 3, groups=4, bias=False), (2, 6, 5), middle=4)
    behind("depthwise 5", conv(3, 3, 5, padding=2, groups=3), (2, 5, 6), middle=3)
    behind("depthwise 5 stride 2", conv(3, 3, 5, 2, 2, groups=3), (2, 9, 7), middle=3)
    behind("depthwise 3, two outputs a channel", conv(3, 6, 3, padding=1, groups=3), (2, 4, 4), middle=3)
    behind("depthwise 1", conv(4, 4, 1, groups=4), (2, 4, 4), middle=4)
    behind("depthwise 3 stride [2, 1]", conv(3, 3, 3, (2, 1), (1, 0), groups=3), (2, 7, 6), middle=3)
    for middle, out in [(1, 1), (15, 17), (16, 33), (17, 15), (33, 16), (16, 16)]:
        behind(f"1 from {middle} to {out} channels", conv(middle, out, 1), (2, 2, 2), middle=middle)
    for middle, out in [(1, 1), (15, 2), (16, 2), (17, 2), (33, 2), (2, 33), (1, 17)]:
        behind(f"3 from {middle} to {out} channels", conv(middle, out, 3, padding=1), (1, 3, 2), middle=middle)
    for channels in (1, 15, 16, 17, 33):
        layer = conv(channels, channels, 3, padding=1, groups=channels)
        behind(f"depthwise 3 of {channels} channels", layer, (1, 3, 2), middle=channels)
    cases.append(
        chain(
            "Conv2d depthwise and pointwise with BatchNorm and ReLU",
            (2, 5, 5),
            conv(2, 4, 1),
            conv(4, 4, 3, padding=1, groups=4, bias=False),
            norm(4),
            RELU,
            conv(4, 3, 1, bias=False),
            norm(3),
            RELU,
            FLAT,
            linear(75, 4),
        )  # fmt: skip
    )
    return cases


def linears() -> list[Case]:
    return [
        chain("Linear", (2, 3, 3), conv(2, 3, 1), FLAT, linear(27, 5), batch=3),
        chain("Linear without bias", (2, 3, 3), conv(2, 3, 1), FLAT, linear(27, 5, bias=False), batch=3),
        chain("Linear first", (2, 3, 2), FLAT, linear(12, 7), RELU, linear(7, 4), batch=3),
        chain(
            "Linear to 17, to 33, to 1, to 2",
            (2, 2, 2),
            FLAT,
            *(linear(a, b) for a, b in [(8, 17), (17, 33), (33, 1), (1, 2)]),
        ),
    ]


def norms() -> list[Case]:
    def behind(title: str, layer: Layer, **more: int) -> Case:
        return chain(f"BatchNorm2d {title}", (2, 4, 4), conv(2, 3, 3, padding=1), layer, FLAT, **more)

    return [
        behind("with defaults", norm(3)),
        behind("batch 3", norm(3), batch=3),
        behind("eps 0.001", norm(3, eps=1e-3)),
        behind("momentum 0.01", norm(3, momentum=0.01)),
        behind("momentum 1", norm(3, momentum=1.0)),
        behind("momentum 0", norm(3, momentum=0.0)),
        behind("eps 0.001, momentum 0.01", norm(3, eps=1e-3, momentum=0.01)),
        behind("without weight", norm(3, weight=False)),
        behind("without bias", norm(3, bias=False)),
        behind("without weight and bias", norm(3, weight=False, bias=False)),
        chain("BatchNorm2d first", (3, 4, 4), norm(3), FLAT),
        chain("BatchNorm2d first, then a convolution", (3, 4, 4), norm(3), conv(3, 4, 3, padding=1), FLAT),
        chain("BatchNorm2d twice", (2, 4, 4), conv(2, 3, 1), norm(3), RELU, norm(3, eps=1e-3), FLAT),
        chain("BatchNorm2d before ReLU and convolution", (2, 4, 4), conv(2, 3, 1), norm(3), RELU, conv(3, 4, 1), FLAT),
        chain(
            "BatchNorm2d of 17 channels", (2, 3, 3), conv(2, 17, 1, bias=False), norm(17), RELU, FLAT, linear(153, 3)
        ),
        chain(
            "BatchNorm2d of 33 channels", (2, 2, 2), conv(2, 33, 1, bias=False), norm(33), conv(33, 2, 1), FLAT, batch=3
        ),
        chain(
            "BatchNorm2d of 1 channel, of one pixel", (3, 1, 1), conv(3, 1, 1), norm(1), conv(1, 3, 1), FLAT, batch=3
        ),
        chain(
            "BatchNorm2d behind pool", (2, 6, 6), conv(2, 3, 3, padding=1), max_pool(2), norm(3), conv(3, 3, 1), FLAT
        ),
    ]


def activations() -> list[Case]:
    cases = []
    for name, layer in ACTIVATIONS.items():
        stem = conv(2, 3, 3, padding=1)
        free = conv(2, 3, 3, padding=1, bias=False)
        cases += [
            chain(f"{name} after convolution", (2, 4, 4), stem, layer, FLAT),
            chain(f"{name} after convolution and BatchNorm", (2, 4, 4), free, norm(3), layer, FLAT),
            chain(f"{name} on vectors", (2, 3, 3), FLAT, linear(18, 9), layer, linear(9, 4), batch=3),
            chain(f"{name} first", (2, 4, 4), layer, stem, FLAT),
            chain(f"{name} and pool", (2, 6, 6), stem, layer, max_pool(2), FLAT),
            chain(f"{name} after BatchNorm, and pool", (2, 5, 7), free, norm(3), layer, max_pool(2), FLAT),
            # Large values: otherwise a convolution's are about one, and ReLU6 would never reach its six.
            chain(f"{name} of large values", (2, 4, 4), scale(10.0), stem, layer, conv(3, 4, 1), FLAT),
        ]
    cases += [
        chain(
            "ReLU6 of large values, and pool",
            (2, 6, 6),
            scale(20.0),
            conv(2, 3, 3, padding=1),
            ACTIVATIONS["ReLU6"],
            max_pool(2),
            FLAT,
        ),
        chain(
            "ReLU before pool 3 stride 2 padding 1", (2, 7, 7), conv(2, 3, 3, padding=1), RELU, max_pool(3, 2, 1), FLAT
        ),
        chain("ReLU before average", (2, 4, 4), conv(2, 3, 3, padding=1), RELU, GLOBAL, FLAT, linear(3, 4)),
        chain("ReLU twice", (2, 4, 4), conv(2, 3, 1), RELU, RELU, FLAT),
        chain("Sigmoid last", (2, 3, 3), conv(2, 3, 3), FLAT, SIGMOID),
    ]
    return cases


def pools() -> list[Case]:
    cases = []
    stem = conv(2, 3, 3, padding=1)
    for kernel, stride, padding, height, width in [
        (2, None, 0, 6, 6),
        (2, None, 0, 7, 5),
        (3, 2, 0, 7, 7),
        (3, 2, 0, 8, 6),
        (3, 2, 1, 7, 7),
        (3, 2, 1, 8, 8),
        (3, 1, 1, 4, 5),
        (3, None, 0, 9, 8),
        ((2, 3), None, 0, 6, 7),
        (2, (2, 1), 0, 6, 5),
        (2, 1, 0, 5, 4),
        (3, (2, 1), (1, 0), 5, 6),
    ]:
        title = f"MaxPool2d {size(kernel)} stride {stride and size(stride)} padding {size(padding)} on {height}x{width}"
        title = title.replace(" stride None", "")
        cases.append(chain(title, (2, height, width), stem, max_pool(kernel, stride, padding), FLAT))
    for kernel, stride, padding, counted, height, width in [
        (2, None, 0, True, 6, 7),
        (3, 2, 1, True, 7, 8),
        (3, 2, 1, False, 7, 8),
        (4, None, 0, True, 8, 9),
        (3, 1, 1, False, 4, 4),
        ((2, 3), (1, 2), (1, 0), False, 5, 7),
        ((1, 3), (1, 2), (0, 1), True, 4, 7),
        (1, None, 0, True, 3, 3),
    ]:
        title = f"AvgPool2d {size(kernel)} stride {stride and size(stride)} padding {size(padding)} on {height}x{width}"
        title = title.replace(" stride None", "") + ("" if counted else ", without padding")
        cases.append(chain(title, (2, height, width), stem, avg_pool(kernel, stride, padding, counted), FLAT))
    cases += [
        chain("AdaptiveAvgPool2d", (2, 5, 6), conv(2, 7, 3, padding=1), GLOBAL, FLAT),
        chain("AdaptiveAvgPool2d of one pixel", (2, 1, 1), conv(2, 7, 1), GLOBAL, FLAT, batch=3),
        chain("AdaptiveAvgPool2d and convolution", (2, 4, 4), conv(2, 5, 1), GLOBAL, conv(5, 4, 1), FLAT),
        chain("AdaptiveAvgPool2d first", (3, 4, 5), GLOBAL, conv(3, 4, 1), FLAT),
        chain("MaxPool2d first", (2, 6, 7), max_pool(2), conv(2, 4, 1), FLAT),
        chain("MaxPool2d 3 stride 2 padding 1 first", (2, 7, 7), max_pool(3, 2, 1), conv(2, 3, 1), FLAT),
        chain("AvgPool2d first", (2, 6, 7), avg_pool(2), conv(2, 4, 1), FLAT),
        chain("MaxPool2d and AvgPool2d", (2, 9, 9), conv(2, 3, 1), max_pool(3, 1, 1), avg_pool(2), FLAT),
    ]

    # Ties. The convolution is small next to 2^30 and lost in the sum, so that the values of a window are few whole
    # numbers; yet the gradient reaches it, at the place of the window's first maximum.
    up, down, small = 2.0**30, 2.0**-30, conv(2, 2, 3, padding=1)
    for kernel, stride, padding, height, width in [
        (2, None, 0, 6, 6),
        (3, 2, 1, 7, 7),
        (3, 1, 1, 4, 5),
        (3, 2, 0, 7, 7),
    ]:
        layer = max_pool(kernel, stride, padding)

        def tied(m: Net, x: Tensor) -> Tensor:
            return flat(m.pool(absorbed(x * up, m.a(x))) * down)

        title = f"MaxPool2d {size(kernel)} stride {size(stride or kernel)} padding {size(padding)}, ties"
        texts = (
            branches("Sum", [named("a", small)], [scale(up)[0]]),
            named("pool", layer),
            scale(down)[0],
            '"Flatten"',
        )
        build = functools.partial(Net, tied, a=small, pool=layer)
        cases.append(Case(title, (2, height, width), texts, build, levels=(1, 3)))
    first = chain("", (2, 6, 6), max_pool(2), conv(2, 4, 1), FLAT)
    cases.append(Case("MaxPool2d first, ties", first.input, first.layers, first.build, levels=(-1, 1)))
    return cases


def channels() -> list[Case]:
    stem = conv(2, 3, 3, padding=1)
    return [
        chain("Scale 0.5", (2, 4, 4), stem, scale(0.5), FLAT),
        chain("Scale -1.7", (2, 4, 4), stem, scale(-1.7), RELU, FLAT),
        chain("Scale of vectors", (2, 3, 3), FLAT, linear(18, 6), scale(3.0), linear(6, 4)),
        chain("Scale first", (2, 4, 4), scale(0.25), stem, FLAT),
        chain("Subsample 2", (2, 6, 6), stem, subsample(2, 2), FLAT),
        chain("Subsample 2 on 7x5", (2, 7, 5), stem, subsample(2, 2), FLAT),
        chain("Subsample [2, 3] on 7x8", (2, 7, 8), stem, subsample(2, 3), FLAT),
        chain("Subsample first", (2, 7, 7), subsample(2, 2), stem, FLAT),
        chain("PadChannels before 2", (2, 3, 3), stem, pad_channels(2, 0), conv(5, 4, 1), FLAT),
        chain("PadChannels after 2", (2, 3, 3), stem, pad_channels(0, 2), conv(5, 4, 1), FLAT),
        chain("PadChannels before 1 and after 2", (2, 3, 3), stem, pad_channels(1, 2), FLAT),
        chain("PadChannels first", (2, 4, 4), pad_channels(1, 1), conv(4, 3, 3, padding=1), FLAT),
        chain("Dropout 0", (2, 4, 4), stem, NO_DROPOUT, conv(3, 4, 1), FLAT),
        chain(
            "Dropout 0 of vectors",
            (2, 3, 3),
            conv(2, 3, 1),
            FLAT,
            NO_DROPOUT,
            linear(27, 5),
            RELU,
            NO_DROPOUT,
            linear(5, 4),
        ),
    ]


def sums() -> list[Case]:
    stem, a, b, c = (conv(i, 3, 3, padding=1) for i in (2, 3, 3, 3))
    point = conv(3, 3, 1)
    case = Case
    small = (2, 4, 4)
    start = named("stem", stem)
    end = '"Flatten"'
    A, B, C = named("a", a), named("b", b), named("c", point)
    free = conv(3, 3, 3, padding=1, bias=False)
    down = conv(3, 6, 3, 2, 1, bias=False)
    return [
        case("Sum of two", small, (start, branches("Sum", [A], [B]), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) + m.b(y)), stem=stem, a=a, b=b)),
        case("Sum of two, ReLU", small, (start, branches("Sum", [A], [B]), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.a(y := m.stem(x)) + m.b(y))), stem=stem, a=a, b=b, relu=RELU)),
        case("Sum of three", small, (start, branches("Sum", [A], [B], [C]), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) + m.b(y) + m.c(y)), stem=stem, a=a, b=b, c=point)),
        case("Sum with identity", small, (start, branches("Sum", [A], []), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) + y), stem=stem, a=a)),
        case("Sum with identity, identity first", small, (start, branches("Sum", [], [A]), end),
             lambda: Net(lambda m, x: flat((y := m.stem(x)) + m.a(y)), stem=stem, a=a)),
        case("Sum with identity, ReLU", small, (start, branches("Sum", [A], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.a(y := m.stem(x)) + y)), stem=stem, a=a, relu=RELU)),
        case("Sum of three with identity, ReLU", small, (start, branches("Sum", [A], [B], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.a(y := m.stem(x)) + m.b(y) + y)), stem=stem, a=a, b=b, relu=RELU)),
        case("Sum of identity and identity", small, (start, branches("Sum", [], []), named("a", a), end),
             lambda: Net(lambda m, x: flat(m.a((y := m.stem(x)) + y)), stem=stem, a=a)),
        case("Sum of identity, identity and convolution", small, (start, branches("Sum", [], [A], []), end),
             lambda: Net(lambda m, x: flat((y := m.stem(x)) + m.a(y) + y), stem=stem, a=a)),
        case("Sum behind ReLU with identity, ReLU", small,
             (start, '"ReLU"', branches("Sum", [A, '"ReLU"', B], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.b(m.relu(m.a(y := m.relu(m.stem(x))))) + y)),
                         stem=stem, a=a, b=b, relu=RELU)),
        case("Sum first: both branches read the image", small,
             (branches("Sum", [named("a", stem)], [named("b", conv(2, 3, 1))]), end),
             lambda: Net(lambda m, x: flat(m.a(x) + m.b(x)), a=stem, b=conv(2, 3, 1))),
        case("Sum first, of three, with BatchNorm and ReLU", small,
             (branches("Sum", [named("a", stem), named("bn", norm(3))], [named("b", conv(2, 3, 1))],
                       [named("c", conv(2, 3, 3, padding=1, bias=False)), '"ReLU"']), end),
             lambda: Net(lambda m, x: flat(m.bn(m.a(x)) + m.b(x) + m.relu(m.c(x))), a=stem, bn=norm(3),
                         b=conv(2, 3, 1), c=conv(2, 3, 3, padding=1, bias=False), relu=RELU)),
        case("Sum first: the image and a convolution of it", (3, 4, 4),
             (branches("Sum", [], [A]), named("b", b), end),
             lambda: Net(lambda m, x: flat(m.b(x + m.a(x))), a=a, b=b)),
        case("Sum first: the image and a convolution of it, ReLU", (3, 4, 4),
             (branches("Sum", [A], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.a(x) + x)), a=a, relu=RELU)),
        case("Sum of vectors", (2, 3, 3),
             ('"Flatten"', named("stem", linear(18, 6)), branches("Sum", [named("a", linear(6, 6)), '"ReLU"'], []),
              named("fc", linear(6, 4))),
             lambda: Net(lambda m, x: m.fc(m.relu(m.a(y := m.stem(flat(x)))) + y), stem=linear(18, 6),
                         a=linear(6, 6), fc=linear(6, 4), relu=RELU), batch=3),
        case("Identity with three readers", small,
             (start, branches("Sum", [A], [B], [named("c", point), '"ReLU"']), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) + m.b(y) + m.relu(m.c(y))), stem=stem, a=a, b=b,
                         c=point, relu=RELU)),
        case("Sum within a branch", small,
             (start, branches("Sum", [branches("Sum", [A], []), '"ReLU"', B], []), end),
             lambda: Net(lambda m, x: flat(m.b(m.relu(m.a(y := m.stem(x)) + y)) + y), stem=stem, a=a, b=b, relu=RELU)),
        case("Sum of Sums of the same", small,
             (start, branches("Sum", [branches("Sum", [A], [])], [branches("Sum", [B], []), '"ReLU"'], []), end),
             lambda: Net(lambda m, x: flat((m.a(y := m.stem(x)) + y) + m.relu(m.b(y) + y) + y), stem=stem, a=a, b=b,
                         relu=RELU)),
        case("Sum after Sum", small,
             (start, branches("Sum", [A], []), '"ReLU"', branches("Sum", [B], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.b(y := m.relu(m.a(s := m.stem(x)) + s)) + y)), stem=stem, a=a, b=b,
                         relu=RELU)),
        case("Residual block with BatchNorm", small,
             (start, named("bn", norm(3)), '"ReLU"',
              named("block", sequence(
                  branches("Sum", [named("conv1", free), named("bn1", norm(3)), '"ReLU"', named("conv2", free),
                                   named("bn2", norm(3))], []), '"ReLU"')), end),
             lambda: Net(lambda m, x: flat(m.relu(
                 m.block.bn2(m.block.conv2(m.relu(m.block.bn1(m.block.conv1(y := m.relu(m.bn(m.stem(x)))))))) + y)),
                 stem=stem, bn=norm(3), relu=RELU,
                 block=Net(lambda _, x: x, conv1=free, bn1=norm(3), conv2=free, bn2=norm(3)))),
        case("Sum with a shortcut of Subsample and PadChannels", (2, 6, 6),
             (start, '"ReLU"', branches("Sum", [named("a", down)],
                                        [subsample(2, 2)[0], pad_channels(1, 2)[0]]), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(
                 m.a(y := m.relu(m.stem(x))) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))),
                 stem=stem, a=down, relu=RELU)),
        case("Sum with a shortcut of Subsample and PadChannels on 7x7", (2, 7, 7),
             (start, branches("Sum", [named("a", down), named("bn", norm(6))],
                              [subsample(2, 2)[0], pad_channels(0, 3)[0]]), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(
                 m.bn(m.a(y := m.stem(x))) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 0, 3)))),
                 stem=stem, a=down, bn=norm(6), relu=RELU)),
        case("Sum with a convolution of stride 2 as shortcut", (2, 6, 6),
             (start, branches("Sum", [named("a", down)],
                              [named("shortcut", sequence(conv(3, 6, 1, 2, bias=False)[0], norm(6)[0]))]), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) + m.shortcut(y)), stem=stem, a=down,
                         shortcut=nn.Sequential(nn.Conv2d(3, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)))),
        case("Sum of pools", (2, 6, 6), (start, branches("Sum", [max_pool(2)[0]], [avg_pool(2)[0]]), end),
             lambda: Net(lambda m, x: flat(m.most(y := m.stem(x)) + F.avg_pool2d(y, 2)), stem=stem, most=max_pool(2))),
        case("Sum with Scale: a tenth of a branch", small,
             (start, branches("Sum", [A, scale(0.1)[0]], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.a(y := m.stem(x)) * 0.1 + y)), stem=stem, a=a, relu=RELU)),
    ]  # fmt: skip


def concats() -> list[Case]:
    stem, a = conv(2, 3, 3, padding=1), conv(3, 2, 3, padding=1)
    b, c = conv(3, 4, 1), conv(3, 1, 3, padding=1)
    case, small, start, end = Case, (2, 3, 3), named("stem", stem), '"Flatten"'
    A, B, C = named("a", a), named("b", b), named("c", c)

    def cat(*parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)

    def grow(m: Net, x: Tensor) -> Tensor:
        return cat(x, m.conv(m.relu(m.bn(x))))

    grow1, grow2, grow3 = (conv(i, 2, 3, padding=1, bias=False) for i in (3, 5, 7))
    return [
        case("Concat of two", small, (start, branches("Concat", [A], [B]), end),
             lambda: Net(lambda m, x: flat(cat(m.a(y := m.stem(x)), m.b(y))), stem=stem, a=a, b=b)),
        case("Concat of three", small, (start, branches("Concat", [A], [B], [C]), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(cat(m.a(y := m.stem(x)), m.b(y), m.c(y)))), stem=stem, a=a, b=b, c=c,
                         relu=RELU)),
        case("Concat and convolution", small,
             (start, branches("Concat", [A, '"ReLU"'], [B]), named("d", conv(6, 3, 1)), end),
             lambda: Net(lambda m, x: flat(m.d(cat(m.relu(m.a(y := m.stem(x))), m.b(y)))), stem=stem, a=a, b=b,
                         d=conv(6, 3, 1), relu=RELU)),
        case("Concat and BatchNorm", small,
             (start, branches("Concat", [A], [], [B]), named("bn", norm(9)), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(m.bn(cat(m.a(y := m.stem(x)), y, m.b(y))))), stem=stem, a=a, b=b,
                         bn=norm(9), relu=RELU)),
        case("Concat with identity", small, (start, branches("Concat", [], [A]), end),
             lambda: Net(lambda m, x: flat(cat(y := m.stem(x), m.a(y))), stem=stem, a=a)),
        case("Concat of identity and identity", small,
             (start, branches("Concat", [], []), named("d", conv(6, 3, 1)), end),
             lambda: Net(lambda m, x: flat(m.d(cat(y := m.stem(x), y))), stem=stem, d=conv(6, 3, 1))),
        case("Concat three times, each with all before it", small,
             (start,
              *(named(f"layer{i}", branches("Concat", [], [named("bn", norm(k)), '"ReLU"', named("conv", g)]))
                for i, k, g in [(1, 3, grow1), (2, 5, grow2), (3, 7, grow3)]),
              named("bn", norm(9)), '"ReLU"', '"AdaptiveAvgPool2d"', end),
             lambda: Net(lambda m, x: flat(m.mean(m.relu(m.bn(m.layer3(m.layer2(m.layer1(m.stem(x)))))))), stem=stem,
                         layer1=Net(grow, bn=norm(3), conv=grow1, relu=RELU),
                         layer2=Net(grow, bn=norm(5), conv=grow2, relu=RELU),
                         layer3=Net(grow, bn=norm(7), conv=grow3, relu=RELU), bn=norm(9), relu=RELU, mean=GLOBAL)),
        case("Concat within a branch", small,
             (start, branches("Concat", [branches("Concat", [A], []), '"ReLU"', named("d", conv(5, 2, 1))], [B]), end),
             lambda: Net(lambda m, x: flat(cat(m.d(m.relu(cat(m.a(y := m.stem(x)), y))), m.b(y))), stem=stem, a=a, b=b,
                         d=conv(5, 2, 1), relu=RELU)),
        case("Concat of Concats", small,
             (start, branches("Concat", [branches("Concat", [A], [])], [branches("Concat", [], [C])]), end),
             lambda: Net(lambda m, x: flat(cat(cat(m.a(y := m.stem(x)), y), cat(y, m.c(y)))), stem=stem, a=a, c=c)),
        case("Concat of vectors", (2, 3, 3),
             ('"Flatten"', branches("Concat", [named("a", linear(18, 5)), '"ReLU"'], [named("b", linear(18, 3))]),
              named("fc", linear(8, 4))),
             lambda: Net(lambda m, x: m.fc(cat(m.relu(m.a(y := flat(x))), m.b(y))), a=linear(18, 5), b=linear(18, 3),
                         fc=linear(8, 4), relu=RELU), batch=3),
        case("Concat of flattened maps of unequal size", (2, 4, 4),
             (start, branches("Concat", [max_pool(2)[0], '"Flatten"'], ['"AdaptiveAvgPool2d"', '"Flatten"']),
              named("fc", linear(15, 4))),
             lambda: Net(lambda m, x: m.fc(cat(flat(m.most(y := m.stem(x))), flat(m.mean(y)))), stem=stem,
                         most=max_pool(2), mean=GLOBAL, fc=linear(15, 4))),
        case("Concat first: the image and a convolution of it", (2, 3, 3),
             (branches("Concat", [], [named("a", stem)]), named("b", conv(5, 3, 3, padding=1)), end),
             lambda: Net(lambda m, x: flat(m.b(cat(x, m.a(x)))), a=stem, b=conv(5, 3, 3, padding=1))),
        case("Concat of a pool and convolutions", (2, 5, 5),
             (start, '"ReLU"',
              branches("Concat", [named("b1", sequence(conv(3, 2, 1)[0], norm(2)[0], '"ReLU"'))],
                       [named("b2", sequence(conv(3, 2, 1)[0], '"ReLU"', conv(2, 2, 3, padding=1)[0], '"ReLU"'))],
                       [named("b3", sequence(max_pool(3, 1, 1)[0], conv(3, 3, 1)[0], '"ReLU"'))]),
              '"AdaptiveAvgPool2d"', end),
             lambda: Net(lambda m, x: flat(m.mean(cat(m.b1(y := m.relu(m.stem(x))), m.b2(y), m.b3(y)))), stem=stem,
                         relu=RELU, mean=GLOBAL,
                         b1=nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU()),
                         b2=nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()),
                         b3=nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(3, 3, 1), nn.ReLU()))),
        case("Sum of a Concat", small,
             (start, branches("Sum", [branches("Concat", [A], [C])], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(cat(m.a(y := m.stem(x)), m.c(y)) + y)), stem=stem, a=a, c=c,
                         relu=RELU)),
        case("Concat of a Sum", small,
             (start, branches("Concat", [branches("Sum", [named("d", conv(3, 3, 1))], []), '"ReLU"'], [C]), end),
             lambda: Net(lambda m, x: flat(cat(m.relu(m.d(y := m.stem(x)) + y), m.c(y))), stem=stem, d=conv(3, 3, 1),
                         c=c, relu=RELU)),
    ]  # fmt: skip


def products() -> list[Case]:
    stem, a, b = conv(2, 4, 3, padding=1), conv(4, 4, 3, padding=1), conv(4, 4, 1)
    squeeze, excite = conv(4, 2, 1), conv(2, 4, 1)
    case, small, start, end = Case, (2, 4, 4), named("stem", stem), '"Flatten"'
    A, B = named("a", a), named("b", b)
    gate = ['"AdaptiveAvgPool2d"', named("fc1", squeeze), '"ReLU"', named("fc2", excite), '"Sigmoid"']
    parts = {"stem": stem, "fc1": squeeze, "fc2": excite, "relu": RELU, "mean": GLOBAL, "sigmoid": SIGMOID}

    def gated(m: Net, y: Tensor) -> Tensor:
        return m.sigmoid(m.fc2(m.relu(m.fc1(m.mean(y)))))

    return [
        case("Multiply of equal shapes", small, (start, branches("Multiply", [A], [B]), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) * m.b(y)), stem=stem, a=a, b=b)),
        case("Multiply of three", small, (start, branches("Multiply", [A], [B, '"Sigmoid"'], []), end),
             lambda: Net(lambda m, x: flat(m.a(y := m.stem(x)) * m.gate(m.b(y)) * y), stem=stem, a=a, b=b,
                         gate=SIGMOID)),
        case("Multiply of identity and identity", small, (start, branches("Multiply", [], []), B, end),
             lambda: Net(lambda m, x: flat(m.b((y := m.stem(x)) * y)), stem=stem, b=b)),
        case("Multiply with a gate of one pixel", small, (start, branches("Multiply", [], gate), end),
             lambda: Net(lambda m, x: flat((y := m.stem(x)) * gated(m, y)), **parts)),
        case("Multiply with a gate of one pixel, gate first", small, (start, branches("Multiply", gate, []), end),
             lambda: Net(lambda m, x: flat(gated(m, y := m.stem(x)) * y), **parts)),
        case("Multiply with two gates", small,
             (start, branches("Multiply", gate, ['"AdaptiveAvgPool2d"'], []), end),
             lambda: Net(lambda m, x: flat(gated(m, y := m.stem(x)) * m.mean(y) * y), **parts)),
        case("Multiply of two gates alone", small,
             (start, branches("Multiply", gate, ['"AdaptiveAvgPool2d"']), end),
             lambda: Net(lambda m, x: flat(gated(m, y := m.stem(x)) * m.mean(y)), **parts)),
        case("Squeeze and excitation in a residual block", small,
             (start, named("bn", norm(4)), '"ReLU"',
              branches("Sum", [A, named("bn2", norm(4)), branches("Multiply", [], gate)], []), '"ReLU"', end),
             lambda: Net(lambda m, x: flat(m.relu(
                 (z := m.bn2(m.a(y := m.relu(m.bn(m.stem(x)))))) * gated(m, z) + y)), a=a, bn=norm(4), bn2=norm(4),
                 **parts)),
        case("Multiply of vectors", (2, 3, 3),
             ('"Flatten"', branches("Multiply", [named("a", linear(18, 6))], [named("b", linear(18, 6)), '"Sigmoid"']),
              named("fc", linear(6, 4))),
             lambda: Net(lambda m, x: m.fc(m.a(y := flat(x)) * m.gate(m.b(y))), a=linear(18, 6), b=linear(18, 6),
                         fc=linear(6, 4), gate=SIGMOID), batch=3),
        case("Multiply first: the image with a gate of its own", (3, 3, 4),
             (branches("Multiply", [], ['"AdaptiveAvgPool2d"', named("fc", conv(3, 3, 1)), '"Sigmoid"']),
              named("b", conv(3, 4, 1)), end),
             lambda: Net(lambda m, x: flat(m.b(x * m.gate(m.fc(m.mean(x))))), fc=conv(3, 3, 1), b=conv(3, 4, 1),
                         gate=SIGMOID, mean=GLOBAL)),
    ]  # fmt: skip


def names() -> list[Case]:
    """The names of parameters: numbers and names, sequences in sequences, repetition."""
    a, b = conv(3, 3, 3, padding=1), conv(3, 3, 1)

    def at(m: Net, number: int) -> nn.Module:
        return m.get_submodule(str(number))

    return [
        Case("Numbers count layers without parameters, and named ones", (2, 4, 4),
             (conv(2, 3, 1)[0], '"ReLU"', named("middle", a), b[0], '"Flatten"'),
             lambda: Net(lambda m, x: flat(at(m, 3)(m.middle(at(m, 1)(at(m, 0)(x))))),
                         **{"0": conv(2, 3, 1), "1": RELU, "middle": a, "3": b})),
        Case("Numbers leave out a Sum without a name", (2, 4, 4),
             (conv(2, 3, 1)[0], branches("Sum", [named("a", a)], []), '"ReLU"', b[0], '"Flatten"'),
             lambda: Net(lambda m, x: flat(at(m, 2)(at(m, 1)(
                 m.a(y := at(m, 0)(x)) + y))), **{"0": conv(2, 3, 1), "a": a, "1": RELU, "2": b})),
        Case("A Sum with a name counts, and its branches lie in it", (2, 4, 4),
             (conv(2, 3, 1)[0], named("sum", branches("Sum", [named("a", a), named("b", b)], [])), b[0], '"Flatten"'),
             lambda: Net(lambda m, x: flat(at(m, 2)(
                 m.sum.b(m.sum.a(y := at(m, 0)(x))) + y)),
                 **{"0": conv(2, 3, 1), "sum": Net(lambda _, x: x, a=a, b=b), "2": b})),
        Case("A layer twice: `repeat`", (2, 4, 4),
             (conv(2, 3, 1)[0], "{ repeat = 2, " + a[0][2:], b[0], '"Flatten"'),
             lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1),
                                   nn.Conv2d(3, 3, 1), nn.Flatten())),
        Case("A block three times in a named sequence", (2, 4, 4),
             (named("stem", conv(2, 3, 1)),
              named("layer1", sequence(
                  "{ repeat = 3, "
                  + sequence(branches("Sum", [named("conv1", b), named("bn1", norm(3))], []), '"ReLU"')[2:])),
              '"Flatten"'),
             lambda: Net(lambda m, x: flat(m.layer1(m.stem(x))), stem=conv(2, 3, 1),
                         layer1=nn.Sequential(*(Net(lambda m, x: m.relu(m.bn1(m.conv1(x)) + x), conv1=b, bn1=norm(3),
                                                    relu=RELU) for _ in range(3))))),
        Case("Sequences in sequences", (2, 4, 4),
             (sequence(sequence(conv(2, 3, 1)[0], '"ReLU"'), sequence(a[0])),
              named("fc", sequence('"Flatten"', linear(48, 4)[0]))),
             lambda: Net(lambda m, x: m.fc(at(m, 0)(x)),
                         **{"0": nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()),
                                               nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))),
                            "fc": nn.Sequential(nn.Flatten(), nn.Linear(48, 4))})),
    ]  # fmt: skip


def all_cases() -> list[Case]:
    cases = [
        case
        for family in (convolutions, linears, norms, activations, pools, channels, sums, concats, products, names)
        for case in family()
    ]
    titles = [case.name for case in cases]
    assert len(set(titles)) == len(titles), [title for title in titles if titles.count(title) > 1]
    return cases
