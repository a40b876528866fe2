#!/usr/bin/env python3
"""Makes operators.json: convolutions, pools and BatchNorm with every argument, and steps of optimizers, by real PyTorch on the CPU.

For the tests of a crate of single layers (`crates/candle`); layers.json has networks of them. The operators' records are those of
ops.json. A record of an optimizer has `lr` and its other arguments, `param0`, `grads` (step by element), and after each step `param` and
the buffers by PyTorch's names, each with the largest deviation of f64 from it.

    python operators.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from golden import exacts, formula, largest, numbers, operator_case, whole_numbers, wide, write
from torch import Tensor

# Batch, channels, rows and columns of the images; outputs and the kernel's sides; stride, padding, dilation, groups, and whether there is a bias.
CONVOLUTIONS = [
    ((2, 3, 5, 4), 4, (3, 3), 1, 1, 1, 1, True),
    ((1, 17, 6, 5), 3, (3, 3), 1, 0, 1, 1, True),
    ((2, 3, 6, 5), 4, (1, 1), 1, 1, 1, 1, True),
    ((2, 3, 7, 6), 2, (3, 3), 2, 1, 1, 1, True),
    ((1, 2, 8, 7), 3, (5, 5), 3, 2, 1, 1, False),
    ((1, 3, 6, 7), 2, (1, 3), 1, 1, 1, 1, True),
    ((1, 2, 7, 9), 2, (3, 3), 1, 2, 2, 1, True),
    ((1, 2, 9, 8), 3, (3, 3), 2, 3, 3, 1, True),
    ((2, 4, 5, 5), 6, (3, 3), 1, 1, 1, 2, True),
    ((2, 5, 5, 4), 5, (3, 3), 2, 1, 1, 5, True),
    ((1, 3, 5, 5), 6, (3, 3), 1, 1, 1, 3, False),
    ((1, 4, 7, 7), 4, (3, 3), 1, 2, 2, 4, True),
]

# Sides of a window, stride and padding, and the sides of the images.
POOLS = [
    ((2, 2), (2, 2), (0, 0), (5, 6)),
    ((3, 3), (2, 2), (1, 1), (7, 6)),
    ((3, 3), (1, 1), (1, 1), (4, 5)),
    ((2, 3), (1, 2), (0, 1), (5, 6)),
    ((2, 2), (3, 3), (0, 0), (6, 6)),
]

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("adam", {}),
    ("adam", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ("adamw", {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
]
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
LR = 0.05
STEPS = 6
# Not a multiple of a vector's width.
ELEMENTS = 19


def convolution(number: int) -> dict[str, Any]:
    shape, outputs, kernel, stride, padding, dilation, groups, bias = CONVOLUTIONS[number]
    inputs = {
        "x": formula(f"conv{number}.x", *shape),
        "weight": formula(f"conv{number}.weight", outputs, shape[1] // groups, *kernel),
    }
    if bias:
        inputs["bias"] = formula(f"conv{number}.bias", outputs)

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    grad = formula(f"conv{number}.grad", *apply(**inputs).shape)
    return operator_case(f"{shape} by {kernel}", apply, inputs, grad, attributes=attributes)


def pool(mean: bool, number: int, count_include_pad: bool = True) -> dict[str, Any]:
    kernel, stride, padding, sides = POOLS[number]

    def apply(x: Tensor) -> Tensor:
        if mean:
            return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=count_include_pad)
        return F.max_pool2d(x, kernel, stride, padding)

    # A few whole numbers, so that maxima tie.
    x = whole_numbers(f"pool{number}", -2, 2, 2, 2, *sides)
    attributes: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
    if mean:
        attributes["count_include_pad"] = count_include_pad
    grad = formula(f"pool{number}.grad", *apply(x).shape)
    return operator_case(f"{kernel} of {sides}", apply, {"x": x}, grad, attributes=attributes)


def batch_norm(shape: tuple[int, ...], train: bool, shift: float) -> dict[str, Any]:
    def apply(x: Tensor, running_mean: Tensor, running_var: Tensor, **affine: Tensor) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, **affine, training=train, momentum=0.3, eps=1e-3)

    channels = shape[1]
    inputs = {
        "x": formula("bn.x", *shape, shift=shift),
        "weight": formula("bn.weight", channels, scale=0.25, shift=1),
        "bias": formula("bn.bias", channels),
    }
    state = {
        "running_mean": formula("bn.running_mean", channels),
        "running_var": formula("bn.running_var", channels, scale=0.25, shift=1),
    }
    attributes = {"train": train, "momentum": 0.3, "eps": 1e-3}
    return operator_case(
        f"{shape}, train {train}, shifted by {shift}", apply, inputs, formula("bn.grad", *shape), state, attributes
    )


def optimizer(number: int) -> dict[str, Any]:
    name, arguments = OPTIMIZERS[number]
    start = formula("optimizer.param", ELEMENTS)
    grads = [formula(f"optimizer.grad{step}", ELEMENTS, scale=10.0 ** (step - 3)) for step in range(STEPS)]

    def run(dtype: torch.dtype) -> dict[str, list[Tensor]]:
        parameter = torch.nn.Parameter(start.to(dtype))
        subject = CLASSES[name]([parameter], lr=LR, **arguments)
        states: dict[str, list[Tensor]] = {"param": []}
        for grad in grads:
            parameter.grad = grad.to(dtype)
            subject.step()
            states["param"].append(parameter.detach().clone())
            for key, value in subject.state[parameter].items():
                if isinstance(value, Tensor) and value.numel() == ELEMENTS:
                    states.setdefault(key, []).append(value.clone())
        return states

    single, double = run(torch.float32), run(torch.float64)
    record: dict[str, Any] = {"optimizer": name, "lr": LR, **arguments}
    record["param0"] = exacts(numbers(start))
    record["grads"] = [exacts(numbers(grad)) for grad in grads]
    for key, values in single.items():
        record[key] = [exacts(numbers(value)) for value in values]
        differences = [largest(numbers(b) - wide(numbers(a))) for a, b in zip(values, double[key], strict=True)]
        record[f"{key}_dev_f64"] = differences
    return record


def main() -> None:
    counted = [pool(True, i) for i in range(len(POOLS))]
    uncounted = [pool(True, i, False) for i, (_, _, padding, _) in enumerate(POOLS) if any(padding)]
    document = {
        "torch": torch.__version__.split("+")[0],
        "conv2d": [convolution(i) for i in range(len(CONVOLUTIONS))],
        "max_pool2d": [pool(False, i) for i in range(len(POOLS))],
        "avg_pool2d": counted + uncounted,
        "batch_norm": [
            batch_norm((3, 2, 3, 5), True, 0.0),
            batch_norm((3, 2, 3, 5), True, 1000.0),
            batch_norm((3, 2, 3, 5), False, 0.0),
            batch_norm((6, 5), True, 0.0),
        ],
        "optimizers": [optimizer(i) for i in range(len(OPTIMIZERS))],
    }
    write(Path(__file__).with_name("operators.json"), document)


if __name__ == "__main__":
    main()
