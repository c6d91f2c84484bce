"""Learning rates of the published trainings, one value for each optimiser step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["most_dsa_schedule", "published_rate"]

STRATEGIES = ("ori", "ori-custom", "ori-for-continue", "3-stage-decay", "2-stage-decay")


def published_rate(
    step: int,
    strategy: str = "ori",
    steps_per_epoch: int = 1,
    base_lr: float = 2e-4,
    milestones: Sequence[int] = (),
    continue_lr: float = 0.0,
    gamma: float = 0.1,
    max_epochs: int = 300,
) -> float:
    """Learning rate of MoSt-DSA's training at a step (from 0).

    * "ori": warm-up from 0 over 2000 steps, then a cosine to a tenth. As published it ends after 300 epochs even when
      fewer are run; ``max_epochs`` ties it to another number.
    * "ori-custom": the same with a warm-up of ``milestones[0]`` steps.
    * "ori-for-continue": the same again, with a warm-up from ``continue_lr``.
    * "3-stage-decay", "2-stage-decay": ``base_lr`` times ``gamma`` from each of two (one) milestones on.

    Args:
        step: optimiser steps made so far.
        strategy: one of these names.
        steps_per_epoch: optimiser steps of an epoch.
        base_lr: the highest rate. The published "ori" has 2e-4.
        milestones: in steps.
        continue_lr: where the warm-up of "ori-for-continue" starts.
        gamma: factor of the stages.
        max_epochs: where the cosine ends.

    Raises:
        ValueError: unknown strategy, or milestones that it does not take.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}, allowed: {', '.join(STRATEGIES)}.")
    wanted = {"ori": 0, "3-stage-decay": 2}.get(strategy, 1)
    if len(milestones) != wanted:
        raise ValueError(f"'{strategy}' takes {wanted} milestones, got {list(milestones)}.")
    if strategy.endswith("stage-decay"):
        return base_lr * gamma ** sum(step >= milestone for milestone in milestones)
    warm_up = milestones[0] if milestones else 2000
    if step < warm_up:
        start = continue_lr if strategy == "ori-for-continue" else 0.0
        return start + (base_lr - start) * step / warm_up
    floor = 0.1 * base_lr
    end = max_epochs * steps_per_epoch
    progress = min(1.0, (step - warm_up) / max(1, end - warm_up))
    return floor + (base_lr - floor) * (0.5 + 0.5 * math.cos(math.pi * progress))


def most_dsa_schedule(optimizer: Optimizer, base_lr: float = 2e-4, **options: Any) -> LambdaLR:
    """:func:`published_rate` as a scheduler; call its ``step`` after each step of the optimiser.

    The rates are those of ``base_lr``, for all parameter groups.

    Args:
        options: of :func:`published_rate`.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = base_lr
    return LambdaLR(optimizer, lambda step: published_rate(step, base_lr=base_lr, **options) / base_lr)
