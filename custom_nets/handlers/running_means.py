"""Means of what a trainer's iterations give."""

from __future__ import annotations

import torch
from ignite.engine import Engine

__all__ = ["RunningMeans"]


class RunningMeans:
    """Means of an engine's scalar outputs, summed where they are: reading one back would hold up the device.

    An engine whose iterations give more than a loss says which in its attribute ``logged_outputs``.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.last: dict[str, torch.Tensor] = {}
        self.count = 0

    def add(self, engine: Engine) -> None:
        """Take the outputs of the iteration that has just ended."""
        self.count += 1
        for name in getattr(engine, "logged_outputs", ("loss",)):
            value = torch.as_tensor(engine.state.output[name]).detach()  # type: ignore[index, call-overload]
            self.sums[name] = self.sums[name] + value if name in self.sums else value.double()
            self.last[name] = value

    def latest(self) -> dict[str, float]:
        """Read the last iteration's outputs."""
        return {name: float(value) for name, value in self.last.items()}

    def take(self) -> dict[str, float]:
        """Read the means since the last call, and begin anew; empty where nothing came."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means
