#!/usr/bin/env python3
"""Makes the golden values of learning rates and cycled momenta, using the schedulers of real PyTorch.

    python schedules.py [--out DIR]      (needs torch, numpy)

Writes schedules.json next to this script (or into DIR). README.md describes every key. It holds the values in the
parameter group of an optimizer at every step, in f64 with all its digits.

Each case says the same thing twice: as a recipe, a text that is not read here, and as calls of PyTorch.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR,
)  # fmt: skip

from golden import write

LR = 0.1


@dataclass(frozen=True)
class Shape:
    """How long a training is."""

    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs


# Odd lengths, epochs of one step, a training of one epoch and one of one step.
SHAPES = (Shape(7, 6), Shape(1, 17), Shape(11, 1), Shape(4, 9), Shape(1, 1))

# The optimizer's steps after which a scheduler takes a step.
STEP, EPOCH = "step", "epoch"


@dataclass(frozen=True)
class Schedule:
    """A schedule as a recipe has it, and as PyTorch makes it for the rest of a training."""

    toml: str
    # From the optimizer, the steps of an epoch and the steps that remain.
    make: Callable[[Optimizer, int, int], LRScheduler] | None
    by: str = STEP
    # Whether it can be made for this many steps: PyTorch's OneCycleLR divides by zero if its first phase has none.
    fits: Callable[[int], bool] = lambda steps: True


def table(name: str, **arguments: Any) -> str:
    def value(of: Any) -> str:
        return {True: "true", False: "false"}[of] if isinstance(of, bool) else repr(of).replace("'", '"')

    return f"{{ {name} = {{ {', '.join(f'{key} = {value(of)}' for key, of in arguments.items())} }} }}"


def multi_step(milestones: list[int], gamma: float, by: str) -> Schedule:
    return Schedule(
        table("MultiStepLR", milestones=milestones, gamma=gamma, by=by),
        lambda optimizer, _epoch, _steps: MultiStepLR(optimizer, milestones, gamma=gamma),
        by,
    )


def cosine(t_max: int | None, eta_min: float, by: str) -> Schedule:
    def make(optimizer: Optimizer, epoch: int, steps: int) -> LRScheduler:
        rest = steps if by == STEP else -(-steps // epoch)
        return CosineAnnealingLR(optimizer, rest if t_max is None else t_max, eta_min=eta_min)

    arguments = ({} if t_max is None else {"T_max": t_max}) | {"eta_min": eta_min, "by": by}
    return Schedule(table("CosineAnnealingLR", **arguments), make, by)


def one_cycle(**arguments: Any) -> Schedule:
    start = arguments.get("pct_start", 0.3)
    return Schedule(
        table("OneCycleLR", **arguments),
        lambda optimizer, _epoch, steps: OneCycleLR(optimizer, LR, **{"total_steps": steps, **arguments}),
        fits=lambda steps: steps > 1 and start * steps > 1.0,
    )


def piecewise(points: list[list[float]]) -> Schedule:
    def make(optimizer: Optimizer, epoch: int, _steps: int) -> LRScheduler:
        at, factors = zip(*points, strict=True)
        return LambdaLR(optimizer, lambda step: float(np.interp(step / epoch, at, factors)))

    return Schedule(table("PiecewiseLinear", points=points), make)


SCHEDULES = (
    Schedule('"constant"', None),
    multi_step([3, 5], 0.1, EPOCH),
    multi_step([1, 2, 2, 9], 0.5, EPOCH),
    multi_step([4, 30, 55], 0.2, STEP),
    multi_step([2, 40], 1.5, STEP),
    *(cosine(t_max, eta_min, by) for by in (EPOCH, STEP) for t_max in (None, 1, 5, 16) for eta_min in (0.0, 0.003)),
    one_cycle(),
    one_cycle(anneal_strategy="linear"),
    one_cycle(three_phase=True),
    one_cycle(three_phase=True, anneal_strategy="linear", pct_start=0.45),
    one_cycle(cycle_momentum=False, pct_start=0.5),
    one_cycle(cycle_momentum=False, three_phase=True, pct_start=0.1),
    one_cycle(base_momentum=0.7, max_momentum=0.99, div_factor=10.0, final_div_factor=50.0, pct_start=0.2),
    one_cycle(total_steps=200, pct_start=0.05, div_factor=4.0),
    piecewise([[0.0, 0.2], [2.0, 1.0], [6.0, 0.0]]),
    piecewise([[1.5, 0.5], [1.75, 2.0], [3.0, 0.25]]),
    piecewise([[2.0, 0.75]]),
)


@dataclass(frozen=True)
class Warmup:
    """A warm-up as a recipe has it; `start` is its first factor."""

    toml: str
    steps: Callable[[Shape], int]
    start: float


WARMUPS = (
    None,
    Warmup("{ steps = 3, start_factor = 0.25 }", lambda _: 3, 0.25),
    Warmup("{ steps = 1 }", lambda _: 1, 1 / 3),
    Warmup("{ epochs = 2, start_factor = 0.01 }", lambda shape: 2 * shape.steps_per_epoch, 0.01),
    # 10.5 steps of 7, 1.5 of 1, 16.5 of 11, 6 of 4: halves are rounded away from zero.
    Warmup("{ epochs = 1.5, start_factor = 1.0 }", lambda shape: int(1.5 * shape.steps_per_epoch + 0.5), 1.0),
)


def optimizer() -> Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR, momentum=0.5)


def follow(sgd: Optimizer, scheduler: LRScheduler | None, steps: int, every: int = 1) -> list[tuple[float, float]]:
    """Learning rate and momentum of every step, with a step of the scheduler after each `every` of them."""
    rates = []
    for step in range(steps):
        group = sgd.param_groups[0]
        rates.append((group["lr"], group["momentum"]))
        sgd.step()
        if scheduler is not None and (step + 1) % every == 0 and step + 1 < steps:
            scheduler.step()
    return rates


def rates(schedule: Schedule, warmup: Warmup | None, shape: Shape) -> list[tuple[float, float]]:
    warm = 0 if warmup is None else warmup.steps(shape)
    rest = max(shape.steps - warm, 1)
    every = shape.steps_per_epoch if schedule.by == EPOCH else 1
    sgd = optimizer()
    if warmup is None:
        make = schedule.make
        return follow(sgd, make and make(sgd, shape.steps_per_epoch, rest), shape.steps, every)
    # SequentialLR begins with `initial_lr`, which OneCycleLR sets and LambdaLR does not: a warm-up in front of LambdaLR
    # would rise to the optimizer's own rate. A recipe's rises to the schedule's first, which LinearLR is given here.
    main = None if schedule.make is None else schedule.make(sgd, shape.steps_per_epoch, rest)
    group = sgd.param_groups[0]
    first = group["lr"]
    if main is not None and every == 1 and not isinstance(main, LambdaLR):
        linear = LinearLR(sgd, start_factor=warmup.start, total_iters=warm)
        return follow(sgd, SequentialLR(sgd, [linear, main], milestones=[warm]), shape.steps)
    # By epoch, the schedule counts epochs from the end of the warm-up: SequentialLR counts only one thing.
    alone = optimizer()
    alone.param_groups[0]["lr"] = first
    alone.param_groups[0]["momentum"] = group["momentum"]
    linear = LinearLR(alone, start_factor=warmup.start, total_iters=warm)
    before = follow(alone, linear, min(warm, shape.steps))
    return before + follow(sgd, main, shape.steps - len(before), every)


def document() -> dict[str, Any]:
    cases = []
    for schedule in SCHEDULES:
        for shape in SHAPES:
            for warmup in WARMUPS:
                rest = max(shape.steps - (0 if warmup is None else warmup.steps(shape)), 1)
                if not schedule.fits(rest):
                    continue
                found = rates(schedule, warmup, shape)
                momenta = [momentum for _, momentum in found]
                cases.append(
                    {
                        "schedule": schedule.toml,
                        **({} if warmup is None else {"warmup": warmup.toml}),
                        "steps_per_epoch": shape.steps_per_epoch,
                        "epochs": shape.epochs,
                        "lr": [rate for rate, _ in found],
                        **({} if set(momenta) == {0.5} else {"momentum": momenta}),
                    }
                )
    return {"torch": torch.__version__.split("+")[0], "lr": LR, "momentum": 0.5, "cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder for the file")
    arguments = parser.parse_args()
    # Schedulers are stepped before their optimizer, which has no gradients.
    warnings.filterwarnings("ignore", message="Detected call of")
    write(arguments.out / "schedules.json", document())


if __name__ == "__main__":
    main()
