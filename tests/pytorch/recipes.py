#!/usr/bin/env python3
"""Makes the golden values of recipes, using the optimizers, schedulers and averages of real PyTorch on the CPU.

    python recipes.py [--only NAME...] [--out DIR]        (needs torch, numpy)

Writes recipes.json next to this script (or into DIR); with `--only`, the other cases stay as they are in the file.
README.md describes every key. Running it twice on one machine gives the same bytes.

Each case says the same thing twice: as a recipe, a text that is not read here, and as PyTorch code. Each
trains one small network from the formula of golden.py for 20 steps, four epochs of five batches; the last has a network,
a length and a loop of its own.

Images are chosen so that in no step a ReLU's input, or the two largest values of a pool's window, come nearer to a kink
than MARGIN: golden.py says why.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR,
)  # fmt: skip
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from golden import (
    F64, NOISE, NOISE_SEEDS, VARIANTS, Runs, Variant, digits, disturb_convolutions, exacts, fill, largest, numbers,
    statistics_of, u_values, wide, write, z_values,
)  # fmt: skip
from networks import ROUNDING, TORCH, NearKink, Nearest, disturb_by_rounding, watch_kinks

EPOCHS = 4
EPOCH = 5  # steps
STEPS = EPOCHS * EPOCH
BATCH = 4
CLASSES = 5
INPUT = (3, 6, 6)

# Tens of times the accumulated noise of NOISE in every convolution after 20 steps.
MARGIN = 1e-4

NETWORK = """\
name = "recipes"
input = [3, 6, 6]
layers = [
    { name = "conv1", Conv2d = { out_channels = 8, kernel_size = 3, padding = 1, bias = false } },
    { name = "bn1", BatchNorm2d = {} },
    "ReLU",
    { MaxPool2d = { kernel_size = 2 } },
    { Sum = [
        [
            { name = "depthwise", Conv2d = { out_channels = 8, kernel_size = 3, padding = 1, groups = 8, \
bias = false } },
            { name = "bn2", BatchNorm2d = {} },
            "ReLU",
            { name = "pointwise", Conv2d = { out_channels = 8, kernel_size = 1 } },
        ],
        [],
    ] },
    "ReLU",
    "AdaptiveAvgPool2d",
    "Flatten",
    { name = "fc", Linear = { out_features = 5 } },
]
"""


class Net(nn.Module):
    """A convolution with BatchNorm and pool, a residual block with a depthwise one, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, CLASSES)
        # Modules of their own, so that each can be watched.
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu3(self.pointwise(self.relu2(self.bn2(self.depthwise(x)))) + x)
        return self.fc(x.mean((2, 3)))


def images(number: int, batch: int, shape: tuple[int, ...] = INPUT) -> Tensor:
    """The images and labels of batch `batch` of an epoch, for the choice `number`."""
    values = np.float32(2) * u_values(f"recipe{number}.{batch}", BATCH * int(np.prod(shape)))
    return torch.from_numpy(values.reshape(BATCH, *shape))


def labels(batch: int) -> Tensor:
    return torch.from_numpy((z_values(f"labels.{batch}", BATCH) % np.uint32(CLASSES)).astype(np.int64))


# ----------------------------------------------------------------------------------------------------------- the cases

# Of a network, and which of PyTorch's implementations.
MakeOptimizer = Callable[[nn.Module, dict[str, bool]], Optimizer]


@dataclass(frozen=True)
class Program:
    """A training written out, and the description of its network."""

    network: str
    # Of the case's number, as `run`.
    run: Callable[[int, Variant, dict[str, bool], Callable[[nn.Module], None]], Outcome]
    epochs: int


@dataclass(frozen=True)
class Case:
    """A recipe, and the same in PyTorch."""

    name: str
    # Without epochs and batch-size, which all cases share.
    toml: str
    optimizer: MakeOptimizer | None = None
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    # Steps of the optimizer for one of the scheduler.
    every: int = 1
    smoothing: float = 0.0
    clip: float | None = None
    ema: float | None = None
    # Steps from one return to the slow weights to the next, and the share of those that stays after a step.
    lookahead: tuple[int, Callable[[int], float]] | None = None
    # Parameters, and the epochs after which each is frozen.
    frozen: Callable[[nn.Module], list[tuple[nn.Parameter, int]]] | None = None
    # A network, its description and a training of its own, in place of all that.
    program: Program | None = None


def sgd(**arguments: Any) -> MakeOptimizer:
    return lambda net, how: SGD(net.parameters(), **arguments, **how)


def adam(**arguments: Any) -> MakeOptimizer:
    return lambda net, how: Adam(net.parameters(), **arguments, **how)


def adamw(**arguments: Any) -> MakeOptimizer:
    return lambda net, how: AdamW(net.parameters(), **arguments, **how)


def vectors(net: nn.Module) -> list[nn.Parameter]:
    """Biases, and the weights of norms."""
    return [parameter for parameter in net.parameters() if parameter.ndim <= 1]


def arrays(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.ndim > 1]


def no_decay_adamw(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    groups = [{"params": vectors(net), "weight_decay": 0.0}, {"params": arrays(net)}]
    return AdamW(groups, lr=0.02, weight_decay=0.5, **how)


def fast_head_sgd(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    others = [parameter for name, parameter in net.named_parameters() if not name.startswith("fc.")]
    return SGD([{"params": net.fc.parameters(), "lr": 0.2}, {"params": others}], lr=0.02, momentum=0.9, **how)


def first_match_sgd(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    """conv1 is frozen, the weights of norms are slow, other vectors do not decay."""
    norms = [net.bn1.weight, net.bn2.weight]
    rest = [p for p in vectors(net) if not any(p is norm for norm in norms)]
    others = [p for p in arrays(net) if p is not net.conv1.weight]
    groups = [
        {"params": [net.conv1.weight], "lr": 0.0},
        {"params": norms, "lr": 0.025, "weight_decay": 0.3},
        {"params": rest, "weight_decay": 0.0},
        {"params": others},
    ]
    return SGD(groups, lr=0.05, momentum=0.8, weight_decay=0.1, **how)


def grouped_adam(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    others = [p for p in net.parameters() if p is not net.depthwise.weight]
    return Adam([{"params": [net.depthwise.weight], "weight_decay": 0.2}, {"params": others}], lr=0.02, **how)


def all_sgd(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    groups = [{"params": vectors(net), "weight_decay": 0.0}, {"params": arrays(net)}]
    return SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05, **how)


def all_adamw(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    head = [net.fc.weight, net.fc.bias]
    rest = [p for p in vectors(net) if p is not net.fc.bias]
    others = [p for p in arrays(net) if p is not net.fc.weight]
    groups = [
        {"params": head, "lr": 0.06, "weight_decay": 0.1},
        {"params": rest, "weight_decay": 0.0},
        {"params": others},
    ]
    return AdamW(groups, lr=0.03, betas=(0.85, 0.99), weight_decay=0.4, **how)


def frozen_adamw(net: nn.Module, how: dict[str, bool]) -> Optimizer:
    others = [p for p in net.parameters() if p is not net.depthwise.weight]
    return AdamW([{"params": [net.depthwise.weight], "lr": 0.06}, {"params": others}], lr=0.03, weight_decay=0.3, **how)


def warm(scheduler: Callable[[Optimizer], LRScheduler], start: float, steps: int) -> Callable[[Optimizer], LRScheduler]:
    def make(optimizer: Optimizer) -> LRScheduler:
        first = LinearLR(optimizer, start_factor=start, total_iters=steps)
        return SequentialLR(optimizer, [first, scheduler(optimizer)], milestones=[steps])

    return make


CASES = [
    Case("SGD", "optimizer = { SGD = { lr = 0.1 } }", sgd(lr=0.1)),
    Case("SGD, momentum", "optimizer = { SGD = { lr = 0.05, momentum = 0.9 } }", sgd(lr=0.05, momentum=0.9)),
    Case("SGD, decay", "optimizer = { SGD = { lr = 0.1, weight_decay = 0.1 } }", sgd(lr=0.1, weight_decay=0.1)),
    Case(
        "SGD, momentum, decay",
        "optimizer = { SGD = { lr = 0.05, momentum = 0.8, weight_decay = 0.1 } }",
        sgd(lr=0.05, momentum=0.8, weight_decay=0.1),
    ),
    Case(
        "SGD, Nesterov",
        "optimizer = { SGD = { lr = 0.05, momentum = 0.9, nesterov = true } }",
        sgd(lr=0.05, momentum=0.9, nesterov=True),
    ),
    Case(
        "SGD, Nesterov, decay",
        "optimizer = { SGD = { lr = 0.03, momentum = 0.7, nesterov = true, weight_decay = 0.2 } }",
        sgd(lr=0.03, momentum=0.7, nesterov=True, weight_decay=0.2),
    ),
    Case("Adam", "optimizer = { Adam = { lr = 0.02 } }", adam(lr=0.02)),
    Case(
        "Adam, betas and eps",
        "optimizer = { Adam = { lr = 0.02, betas = [0.7, 0.9], eps = 1e-3 } }",
        adam(lr=0.02, betas=(0.7, 0.9), eps=1e-3),
    ),
    Case("Adam, decay", "optimizer = { Adam = { lr = 0.02, weight_decay = 0.1 } }", adam(lr=0.02, weight_decay=0.1)),
    Case("AdamW", "optimizer = { AdamW = { lr = 0.02 } }", adamw(lr=0.02)),
    Case(
        "AdamW, betas, eps and decay",
        "optimizer = { AdamW = { lr = 0.02, betas = [0.8, 0.95], eps = 1e-4, weight_decay = 0.5 } }",
        adamw(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.5),
    ),
    Case(
        "MultiStepLR by epoch on SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9 } }\n"
        "schedule = { MultiStepLR = { milestones = [1, 3], gamma = 0.2 } }",
        sgd(lr=0.1, momentum=0.9),
        lambda optimizer: MultiStepLR(optimizer, [1, 3], gamma=0.2),
        every=EPOCH,
    ),
    Case(
        "MultiStepLR by step on Adam",
        'optimizer = { Adam = { lr = 0.02 } }\nschedule = { MultiStepLR = { milestones = [7, 13], by = "step" } }',
        adam(lr=0.02),
        lambda optimizer: MultiStepLR(optimizer, [7, 13]),
    ),
    Case(
        "CosineAnnealingLR by epoch on SGD",
        'optimizer = { SGD = { lr = 0.1, momentum = 0.9 } }\nschedule = "CosineAnnealingLR"',
        sgd(lr=0.1, momentum=0.9),
        lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS),
        every=EPOCH,
    ),
    Case(
        "CosineAnnealingLR by step on AdamW",
        "optimizer = { AdamW = { lr = 0.03, weight_decay = 0.3 } }\n"
        'schedule = { CosineAnnealingLR = { T_max = 12, eta_min = 0.002, by = "step" } }',
        adamw(lr=0.03, weight_decay=0.3),
        lambda optimizer: CosineAnnealingLR(optimizer, 12, eta_min=0.002),
    ),
    Case(
        "OneCycleLR on SGD, momentum",
        'optimizer = { SGD = { lr = 0.2, momentum = 0.9 } }\nschedule = "OneCycleLR"',
        sgd(lr=0.2, momentum=0.9),
        lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=STEPS),
    ),
    Case(
        "OneCycleLR on SGD without a momentum of its own",
        "optimizer = { SGD = { lr = 0.2 } }\nschedule = { OneCycleLR = { base_momentum = 0.5, max_momentum = 0.8 } }",
        sgd(lr=0.2),
        lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=STEPS, base_momentum=0.5, max_momentum=0.8),
    ),
    Case(
        "OneCycleLR on SGD, Nesterov, decay",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.1 } }\n"
        'schedule = { OneCycleLR = { three_phase = true, anneal_strategy = "linear" } }',
        sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda optimizer: OneCycleLR(
            optimizer, 0.1, total_steps=STEPS, three_phase=True, anneal_strategy="linear"
        ),
    ),
    Case(
        "OneCycleLR on Adam",
        "optimizer = { Adam = { lr = 0.05 } }\nschedule = { OneCycleLR = { base_momentum = 0.6, div_factor = 5 } }",
        adam(lr=0.05),
        lambda optimizer: OneCycleLR(optimizer, 0.05, total_steps=STEPS, base_momentum=0.6, div_factor=5),
    ),
    Case(
        "OneCycleLR on AdamW, momentum as it is",
        "optimizer = { AdamW = { lr = 0.05, weight_decay = 0.3 } }\n"
        "schedule = { OneCycleLR = { cycle_momentum = false, pct_start = 0.5 } }",
        adamw(lr=0.05, weight_decay=0.3),
        lambda optimizer: OneCycleLR(optimizer, 0.05, total_steps=STEPS, cycle_momentum=False, pct_start=0.5),
    ),
    Case(
        "PiecewiseLinear on SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.8 } }\n"
        "schedule = { PiecewiseLinear = { points = [[0, 0.1], [1.5, 1], [4, 0]] } }",
        sgd(lr=0.1, momentum=0.8),
        lambda optimizer: LambdaLR(optimizer, lambda step: np.interp(step / EPOCH, [0, 1.5, 4], [0.1, 1, 0]).item()),
    ),
    Case(
        "Warm-up on Adam",
        "optimizer = { Adam = { lr = 0.03 } }\nwarmup = { steps = 7, start_factor = 0.1 }",
        adam(lr=0.03),
        lambda optimizer: LinearLR(optimizer, start_factor=0.1, total_iters=7),
    ),
    Case(
        "Warm-up, then CosineAnnealingLR by step on SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9 } }\nwarmup = { epochs = 1 }\n"
        'schedule = { CosineAnnealingLR = { by = "step" } }',
        sgd(lr=0.1, momentum=0.9),
        warm(lambda optimizer: CosineAnnealingLR(optimizer, STEPS - EPOCH), 1 / 3, EPOCH),
    ),
    Case(
        "Groups: no decay of vectors, AdamW",
        "optimizer = { AdamW = { lr = 0.02, weight_decay = 0.5 } }\n"
        "parameter-groups = [{ max_dims = 1, weight_decay = 0 }]",
        no_decay_adamw,
    ),
    Case(
        "Groups: a fast head, SGD",
        'optimizer = { SGD = { lr = 0.02, momentum = 0.9 } }\nparameter-groups = [{ names = "fc.*", lr_factor = 10 }]',
        fast_head_sgd,
    ),
    Case(
        "Groups: the first match counts, SGD",
        "optimizer = { SGD = { lr = 0.05, momentum = 0.8, weight_decay = 0.1 } }\nparameter-groups = [\n"
        '    { names = "conv1.*", lr_factor = 0 },\n'
        '    { names = "bn?.weight", max_dims = 1, lr_factor = 0.5, weight_decay = 0.3 },\n'
        "    { max_dims = 1, weight_decay = 0 },\n]",
        first_match_sgd,
    ),
    Case(
        "Groups under OneCycleLR, Adam",
        'optimizer = { Adam = { lr = 0.02 } }\nschedule = "OneCycleLR"\n'
        'parameter-groups = [{ names = "depth*", lr_factor = 2.5, weight_decay = 0.2 }]',
        grouped_adam,
        lambda optimizer: OneCycleLR(optimizer, [0.05, 0.02], total_steps=STEPS),
    ),
    Case(
        "Label smoothing",
        "optimizer = { Adam = { lr = 0.02 } }\nlabel-smoothing = 0.2",
        adam(lr=0.02),
        smoothing=0.2,
    ),
    Case(
        "Clipping, SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9, weight_decay = 0.05 } }\nclip-norm = 1.3",
        sgd(lr=0.1, momentum=0.9, weight_decay=0.05),
        clip=1.3,
    ),
    Case("Clipping, Adam", "optimizer = { Adam = { lr = 0.02 } }\nclip-norm = 1.5", adam(lr=0.02), clip=1.5),
    Case(
        "Average, SGD",
        "optimizer = { SGD = { lr = 0.05, momentum = 0.9 } }\nema = { decay = 0.9 }",
        sgd(lr=0.05, momentum=0.9),
        ema=0.9,
    ),
    Case("Average, Adam", "optimizer = { Adam = { lr = 0.02 } }\nema = {}", adam(lr=0.02), ema=0.999),
    Case(
        "All together, SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.05 } }\n"
        'schedule = "OneCycleLR"\nparameter-groups = [{ max_dims = 1, weight_decay = 0 }]\n'
        "label-smoothing = 0.1\nclip-norm = 1.4\nema = { decay = 0.8 }",
        all_sgd,
        lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=STEPS),
        smoothing=0.1,
        clip=1.4,
        ema=0.8,
    ),
    Case(
        "All together, AdamW",
        "optimizer = { AdamW = { lr = 0.03, betas = [0.85, 0.99], weight_decay = 0.4 } }\n"
        'schedule = { CosineAnnealingLR = { by = "step" } }\nwarmup = { steps = 4, start_factor = 0.25 }\n'
        'parameter-groups = [{ names = "fc.*", lr_factor = 2, weight_decay = 0.1 }, '
        "{ max_dims = 1, weight_decay = 0 }]\n"
        "label-smoothing = 0.05\nclip-norm = 1.4\nema = { decay = 0.95 }",
        all_adamw,
        warm(lambda optimizer: CosineAnnealingLR(optimizer, STEPS - 4), 0.25, 4),
        smoothing=0.05,
        clip=1.4,
        ema=0.95,
    ),
    Case(
        "Lookahead, Adam",
        "optimizer = { Adam = { lr = 0.02 } }\nlookahead = {}",
        adam(lr=0.02),
        lookahead=(5, lambda step: 0.5),
    ),
    Case(
        "Lookahead that grows, a last step between two averages, SGD",
        "optimizer = { SGD = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.05 } }\n"
        "lookahead = { every = 3, decay = 0.9, power = 3 }",
        sgd(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
        lookahead=(3, lambda step: 0.9 * (step / STEPS) ** 3),
    ),
    Case(
        "Frozen groups, SGD",
        "optimizer = { SGD = { lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 0.1 } }\n"
        'parameter-groups = [{ names = "conv1.*", frozen_after = 0 }, { names = "bn?.*", frozen_after = 1 }]',
        sgd(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        frozen=lambda net: [
            (net.conv1.weight, 0), (net.bn1.weight, 1), (net.bn1.bias, 1), (net.bn2.weight, 1), (net.bn2.bias, 1),
        ],
    ),
    Case(
        "Frozen groups, AdamW",
        "optimizer = { AdamW = { lr = 0.03, weight_decay = 0.3 } }\n"
        'schedule = { CosineAnnealingLR = { by = "step" } }\n'
        'parameter-groups = [{ names = "depthwise.*", lr_factor = 2, frozen_after = 3 }, '
        '{ names = "conv1.*", frozen_after = 0 }, { names = "fc.bias", frozen_after = 1 }]',
        frozen_adamw,
        lambda optimizer: CosineAnnealingLR(optimizer, STEPS),
        frozen=lambda net: [(net.depthwise.weight, 3), (net.conv1.weight, 0), (net.fc.bias, 1)],
    ),
]


# -------------------------------------------------------------------------------------------------------- the training

Arrays = dict[str, np.ndarray]


@dataclass
class Outcome:
    """The results of 20 steps; arrays are flat, in f32 or f64."""

    losses: np.ndarray
    # Of all gradients before clipping.
    norms: np.ndarray | None
    parameters: Arrays
    statistics: Arrays
    # By the optimizer's name of the buffer, then the parameter's.
    buffers: dict[str, Arrays]
    logits: np.ndarray
    average_parameters: Arrays = field(default_factory=dict)
    average_statistics: Arrays = field(default_factory=dict)
    average_tracked: int | None = None
    average_logits: np.ndarray | None = None


class Slow:
    """The slow weights of Lookahead: a copy of the state, which begins as the initial one."""

    def __init__(self, net: nn.Module) -> None:
        self.state = {name: value.clone() for name, value in net.state_dict().items()}

    def update(self, net: nn.Module, decay: float) -> None:
        for slow, trained in zip(self.state.values(), net.state_dict().values()):
            if trained.is_floating_point():
                slow.lerp_(trained, 1 - decay)
                trained.copy_(slow)


def of(named: Iterable[tuple[str, Tensor]]) -> Arrays:
    return {name: numbers(tensor) for name, tensor in named}


def outcome_of(
    net: nn.Module, optimizer: Optimizer, shown: Tensor, losses: list[np.ndarray], norms: list[np.ndarray]
) -> Outcome:
    """The results of a training."""
    net.eval()
    names = {parameter: name for name, parameter in net.named_parameters()}
    state = [(names[parameter], state) for parameter, state in optimizer.state.items()]
    # Without momentum SGD keeps none.
    keys = {key for _, entry in state for key, value in entry.items() if key != "step" and value is not None}
    # PyTorch keeps no buffers for parameters that never had a gradient, which amounts to zeros.
    kept = {name for name, _ in state}
    none = [(name, torch.zeros_like(value)) for name, value in net.named_parameters() if name not in kept]
    with torch.no_grad():
        return Outcome(
            losses=np.stack(losses),
            norms=np.stack(norms) if norms else None,
            parameters=of(net.named_parameters()),
            statistics=statistics_of(net),
            buffers={
                key: of([*((name, entry[key]) for name, entry in state), *none]) for key in sorted(keys)
            },
            logits=numbers(net(shown)),
        )


def run(
    case: Case,
    number: int,
    variant: Variant,
    how: dict[str, bool] | None = None,
    prepare: Callable[[nn.Module], None] = lambda net: None,
) -> Outcome:
    """Trains on the images of the choice `number`, as one does in PyTorch."""
    if case.program is not None:
        return case.program.run(number, variant, how or {}, prepare)
    net = Net()
    fill(net)
    net = net.to(dtype=variant.dtype, memory_format=variant.layout)
    prepare(net)
    loss_of = nn.CrossEntropyLoss(label_smoothing=case.smoothing)
    with variant.active():
        optimizer = case.optimizer(net, how or {})
        scheduler = case.scheduler and case.scheduler(optimizer)
        average = None
        if case.ema is not None:
            average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(case.ema), use_buffers=True)
        slow = None if case.lookahead is None else Slow(net)
        losses, norms = [], []
        net.train()
        for step in range(STEPS):
            batch = step % EPOCH
            if case.frozen is not None:
                for parameter, epochs in case.frozen(net):
                    parameter.requires_grad = step // EPOCH < epochs
            optimizer.zero_grad()
            shown = images(number, batch).to(variant.dtype, memory_format=variant.layout)
            loss = loss_of(net(shown), labels(batch))
            loss.backward()
            losses.append(numbers(loss)[0])
            if case.clip is not None:
                norms.append(numbers(nn.utils.clip_grad_norm_(net.parameters(), case.clip))[0])
            optimizer.step()
            if average is not None:
                average.update_parameters(net)
            if slow is not None and (step + 1) % case.lookahead[0] == 0:
                slow.update(net, case.lookahead[1](step + 1))
            if scheduler is not None and (step + 1) % case.every == 0 and step + 1 < STEPS:
                scheduler.step()
        if slow is not None:
            slow.update(net, 1.0)
        shown = images(number, 0).to(variant.dtype, memory_format=variant.layout)
        outcome = outcome_of(net, optimizer, shown, losses, norms)
        with torch.no_grad():
            if average is not None:
                average.eval()
                outcome.average_parameters = of(average.module.named_parameters())
                outcome.average_statistics = statistics_of(average.module)
                outcome.average_tracked = int(average.module.bn1.num_batches_tracked)
                outcome.average_logits = numbers(average(shown))
    return outcome


# ------------------------------------------------------------------------------------------------------------- airbench

# airbench94 in small (Jordan 2024, arXiv 2404.00498): its network, two blocks of its three, and its loop, which sums the
# loss over a batch. The recipe has the equivalent for a mean: the rate times the batch, decay divided by it.

AIR_EPOCHS = 4.8
AIR_STEPS = math.ceil(EPOCH * AIR_EPOCHS)
AIR_INPUT = (3, 10, 10)
AIR_WIDTHS = (4, 5)
AIR_LR = 0.025
AIR_DECAY = 2e-3
AIR_BIAS_SCALER = 64.0
AIR_WHITEN_BIAS_EPOCHS = 2

AIR_NETWORK = """\
name = "airbench"
input = [3, 10, 10]
layers = [
    { name = "whiten", Conv2d = { out_channels = 24, kernel_size = 2 } },
    "GELU",
    { name = "conv1", Conv2d = { out_channels = 4, kernel_size = 3, padding = 1, bias = false } },
    { MaxPool2d = { kernel_size = 2 } },
    { name = "norm1", BatchNorm2d = { eps = 1e-12, momentum = 0.4, weight = false } },
    "GELU",
    { name = "conv2", Conv2d = { out_channels = 4, kernel_size = 3, padding = 1, bias = false } },
    { name = "norm2", BatchNorm2d = { eps = 1e-12, momentum = 0.4, weight = false } },
    "GELU",
    { name = "conv3", Conv2d = { out_channels = 5, kernel_size = 3, padding = 1, bias = false } },
    { MaxPool2d = { kernel_size = 2 } },
    { name = "norm3", BatchNorm2d = { eps = 1e-12, momentum = 0.4, weight = false } },
    "GELU",
    { name = "conv4", Conv2d = { out_channels = 5, kernel_size = 3, padding = 1, bias = false } },
    { name = "norm4", BatchNorm2d = { eps = 1e-12, momentum = 0.4, weight = false } },
    "GELU",
    { MaxPool2d = { kernel_size = 2 } },
    "Flatten",
    { name = "head", Linear = { out_features = 5, bias = false } },
    { Scale = { factor = 0.1111111111111111 } },
]
"""

AIR_RECIPE = f"""\
last-epoch = 0.8
drop-last = true
optimizer = {{ SGD = {{ lr = {AIR_LR * BATCH!r}, momentum = 0.85, nesterov = true, weight_decay = {AIR_DECAY / AIR_LR / BATCH!r} }} }}
schedule = {{ PiecewiseLinear = {{ points = [[0, 0.2], [1, 1], [4.8, 0.07]] }} }}
parameter-groups = [
    {{ names = "whiten.weight", frozen_after = 0 }},
    {{ names = "whiten.bias", frozen_after = {AIR_WHITEN_BIAS_EPOCHS} }},
    {{ names = "norm*", lr_factor = {AIR_BIAS_SCALER!r}, weight_decay = {AIR_DECAY / AIR_LR / AIR_BIAS_SCALER / BATCH!r} }},
]
label-smoothing = 0.2
lookahead = {{ every = 5, decay = {0.95**5!r}, power = 3 }}"""


class AirNorm(nn.BatchNorm2d):
    """Its weight stays 1."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=1 - 0.6)
        self.weight.requires_grad = False


class Mul(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def air() -> nn.Sequential:
    one, two = AIR_WIDTHS
    layers = [
        ("whiten", nn.Conv2d(3, 24, 2, padding=0, bias=True)), ("gelu0", nn.GELU()),
        ("conv1", nn.Conv2d(24, one, 3, padding="same", bias=False)), ("pool1", nn.MaxPool2d(2)),
        ("norm1", AirNorm(one)), ("gelu1", nn.GELU()),
        ("conv2", nn.Conv2d(one, one, 3, padding="same", bias=False)), ("norm2", AirNorm(one)), ("gelu2", nn.GELU()),
        ("conv3", nn.Conv2d(one, two, 3, padding="same", bias=False)), ("pool3", nn.MaxPool2d(2)),
        ("norm3", AirNorm(two)), ("gelu3", nn.GELU()),
        ("conv4", nn.Conv2d(two, two, 3, padding="same", bias=False)), ("norm4", AirNorm(two)), ("gelu4", nn.GELU()),
        ("pool", nn.MaxPool2d(2)), ("flatten", nn.Flatten()),
        ("head", nn.Linear(two, CLASSES, bias=False)), ("scale", Mul(1 / 9)),
    ]  # fmt: skip
    net = nn.Sequential(OrderedDict(layers))
    net.whiten.weight.requires_grad = False
    return net


def triangle(steps: int, start: float, end: float, peak: float) -> Tensor:
    """Straight lines from `start` up to 1 and down to `end`, a value a step."""
    xp = torch.tensor([0, int(peak * steps), steps])
    fp = torch.tensor([start, 1, end], dtype=torch.float64)
    x = torch.arange(1 + steps)
    m = (fp[1:] - fp[:-1]) / (xp[1:] - xp[:-1])
    b = fp[:-1] - (m * xp[:-1])
    indices = torch.sum(torch.ge(x[:, None], xp[None, :]), 1) - 1
    indices = torch.clamp(indices, 0, len(m) - 1)
    return m[indices] * x + b[indices]


def run_airbench(
    number: int, variant: Variant, how: dict[str, bool], prepare: Callable[[nn.Module], None]
) -> Outcome:
    model = air()
    fill(model)
    for module in model.modules():
        if isinstance(module, AirNorm):
            module.weight.data.fill_(1)
    model = model.to(dtype=variant.dtype, memory_format=variant.layout)
    prepare(model)

    def shown(batch: int) -> Tensor:
        return images(number, batch, AIR_INPUT).to(variant.dtype, memory_format=variant.layout)

    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    lr, wd = AIR_LR, AIR_DECAY
    lr_biases = lr * AIR_BIAS_SCALER
    norm_biases = [p for k, p in model.named_parameters() if "norm" in k and p.requires_grad]
    other_params = [p for k, p in model.named_parameters() if "norm" not in k and p.requires_grad]
    param_configs = [
        dict(params=norm_biases, lr=lr_biases, weight_decay=wd / lr_biases),
        dict(params=other_params, lr=lr, weight_decay=wd / lr),
    ]
    losses = []
    with variant.active():
        optimizer = SGD(param_configs, lr=lr, momentum=0.85, nesterov=True, **how)
        lr_schedule = triangle(AIR_STEPS, start=0.2, end=0.07, peak=0.23)
        scheduler = LambdaLR(optimizer, lambda i: lr_schedule[i].item())
        alpha_schedule = 0.95**5 * (torch.arange(AIR_STEPS + 1, dtype=torch.float64) / AIR_STEPS) ** 3
        lookahead_state = Slow(model)
        current_steps = 0
        for epoch in range(math.ceil(AIR_EPOCHS)):
            model.whiten.bias.requires_grad = epoch < AIR_WHITEN_BIAS_EPOCHS
            model.train()
            for batch in range(EPOCH):
                outputs = model(shown(batch))
                loss = loss_fn(outputs, labels(batch)).sum()
                losses.append(numbers(loss)[0] / BATCH)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
                current_steps += 1
                if current_steps % 5 == 0:
                    lookahead_state.update(model, decay=alpha_schedule[current_steps].item())
                if current_steps >= AIR_STEPS:
                    lookahead_state.update(model, decay=1.0)
                    break
        outcome = outcome_of(model, optimizer, shown(0), losses, [])

    def described(arrays: Arrays) -> Arrays:
        """Without the weights of norms, which are not parameters of the described network."""
        return {name: values for name, values in arrays.items() if "norm" not in name or "weight" not in name}

    outcome.parameters = described(outcome.parameters)
    # Gradients of a sum are those of a mean, times the batch.
    outcome.buffers = {key: described(arrays) for key, arrays in outcome.buffers.items()}
    for arrays in outcome.buffers.values():
        for name in arrays:
            arrays[name] = arrays[name] / arrays[name].dtype.type(BATCH)
    return outcome


CASES.append(Case("airbench94 in small", AIR_RECIPE, program=Program(AIR_NETWORK, run_airbench, math.ceil(AIR_EPOCHS))))


# ------------------------------------------------------------------------------------------------------------- the file


def clear(case: Case) -> tuple[int, float]:
    """The first choice of images that stays clear of kinks in every step, and how clear."""
    for number in itertools.count():
        nearest = Nearest(MARGIN)
        try:
            run(case, number, F64, prepare=lambda net, nearest=nearest: watch_kinks(net, nearest))
            return number, nearest.distance
        except NearKink:
            continue
    raise AssertionError


# PyTorch's implementations of an optimizer, besides the one that loops over the parameters, the default on a CPU.
IMPLEMENTATIONS = ({"foreach": True}, {"fused": True})


def implementations(case: Case) -> list[dict[str, bool]]:
    """The implementations that the case's optimizer has."""
    optimizer = SGD if case.optimizer is None else type(case.optimizer(Net(), {}))
    has = inspect.signature(optimizer).parameters
    return [how for how in IMPLEMENTATIONS if how.keys() <= has.keys()]


def document(case: Case) -> dict[str, Any]:
    number, margin = clear(case)
    plain = [run(case, number, variant) for variant in VARIANTS]
    plain += [run(case, number, VARIANTS[0], how) for how in implementations(case)]
    f64 = run(case, number, F64)

    def disturbed(disturb: Callable[[nn.Module, int], None]) -> list[Outcome]:
        return [run(case, number, VARIANTS[0], prepare=lambda net, s=s: disturb(net, s)) for s in NOISE_SEEDS]

    noisy, rounded = disturbed(disturb_convolutions), disturbed(disturb_by_rounding)

    def runs(pick: Callable[[Outcome], np.ndarray]) -> Runs:
        return Runs([pick(o) for o in plain], pick(f64), [pick(o) for o in noisy])

    def whole(pick: Callable[[Outcome], np.ndarray]) -> dict[str, Any]:
        all_runs = runs(pick)
        rounding = max(largest(wide(pick(o)) - wide(all_runs.stored)) for o in rounded)
        return {"values": exacts(all_runs.stored), **all_runs.deviations(), "dev_rounding": rounding}

    def steps(pick: Callable[[Outcome], np.ndarray]) -> dict[str, Any]:
        """A value a step, with deviations of each."""
        all_runs = runs(pick)
        return {
            "values": exacts(all_runs.stored),
            "dev_f32": all_runs.each(all_runs.f32),
            "dev_f64": all_runs.each([all_runs.f64]),
            "dev_noise": all_runs.each(all_runs.noisy),
            "dev_rounding": all_runs.each([pick(o) for o in rounded]),
        }

    def listed(pick: Callable[[Outcome], Arrays]) -> list[dict[str, Any]]:
        return [{"name": key, **whole(lambda o, key=key: pick(o)[key])} for key in pick(f64)]

    if case.clip is not None:
        clipped = f64.norms > case.clip
        assert clipped.any() and not clipped.all(), (case.name, f64.norms)
    content: dict[str, Any] = {
        "name": case.name,
        "recipe": f"epochs = {EPOCHS if case.program is None else case.program.epochs}\nbatch-size = {BATCH}\n{case.toml}\n",
        **({} if case.program is None else {"network": case.program.network}),
        "images": number,
        "margin": digits(margin, 3),
        "losses": steps(lambda o: o.losses),
    }
    if case.clip is not None:
        content["norms"] = steps(lambda o: o.norms)
    content |= {
        "parameters": listed(lambda o: o.parameters),
        "statistics": listed(lambda o: o.statistics),
        "buffers": {key: listed(lambda o, key=key: o.buffers[key]) for key in f64.buffers},
        "logits": whole(lambda o: o.logits),
    }
    if case.ema is not None:
        content["average"] = {
            "parameters": listed(lambda o: o.average_parameters),
            "statistics": listed(lambda o: o.average_statistics),
            "num_batches_tracked": f64.average_tracked,
            "logits": whole(lambda o: o.average_logits),
        }
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="make these cases, and keep the others of the file")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder for the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    titles = [case.name for case in CASES]
    assert len(set(titles)) == len(titles)
    path = arguments.out / "recipes.json"
    only = titles if arguments.only is None else arguments.only
    assert set(only) <= set(titles), f"there are {titles}"
    kept = {} if arguments.only is None else {case["name"]: case for case in json.loads(path.read_text())["cases"]}
    write(
        path,
        {
            "torch": TORCH,
            "network": NETWORK,
            "batch": BATCH,
            "steps_per_epoch": EPOCH,
            "variants": [*(variant.name for variant in VARIANTS), "nchw, foreach", "nchw, fused"],
            "noise_sigma": NOISE,
            "noise_runs": len(NOISE_SEEDS),
            "rounding_sigma": ROUNDING,
            "cases": [document(case) if case.name in only else kept[case.name] for case in CASES],
        },
    )


if __name__ == "__main__":
    main()
