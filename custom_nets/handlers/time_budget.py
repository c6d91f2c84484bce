"""Training for a given number of minutes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Real
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.utils import ensure_tuple
from torch.optim import Optimizer

__all__ = ["TimeBudget", "timed_rate"]

logger = logging.getLogger(__name__)


def timed_rate(progress: float, warmup: float) -> float:
    """Share of the highest learning rate: a linear warm-up, then a cosine to zero.

    Args:
        progress: how much of the training's time is over, 0 to 1.
        warmup: the share of it that the warm-up takes.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))


class TimeBudget:
    """Train for ``max_minutes``: learning rate, epochs and the end follow the clock.

    The minutes are those of the whole command from :meth:`start` on: reading the data, validation and checkpoints are
    counted in. The learning rate rises, then falls by a cosine and is zero at the end. An epoch is a twentieth of the
    minutes (and at least nine times as long as validation and checkpoint at its end, so that they take a tenth of the
    time at most); the last one ends early enough for its own validation and checkpoint. Iterations are never cut.

    Attach it to the trainer, in place of a learning rate schedule. The trainer needs a loader that is longer than an
    epoch, and validates after each epoch. In a distributed run the first process' clock holds.

    With a :class:`custom_nets.handlers.TrainingState` it knows, when a training is resumed, how many of the
    minutes are used up; what was trained after the last checkpoint is lost and not counted.

    Args:
        max_minutes: the budget; None: nothing is done.
        optimizers: one or several; the learning rates that they were made with are the highest ones.
        warmup: share of the training's time that the warm-up takes.
        epochs: how many an undisturbed training has.

    Raises:
        ValueError: ``max_minutes`` is not a positive number.
    """

    def __init__(
        self,
        max_minutes: float | None,
        optimizers: Optimizer | Sequence[Optimizer],
        warmup: float = 0.05,
        epochs: int = 20,
    ) -> None:
        if max_minutes is not None and (
            not isinstance(max_minutes, Real) or isinstance(max_minutes, bool) or not 0 < max_minutes < math.inf
        ):
            raise ValueError(f"max_minutes must be a number above 0, such as 8 or 0.5, got {max_minutes!r}.")
        self.budget = None if max_minutes is None else 60.0 * float(max_minutes)  # seconds, as all below
        self.optimizers: Sequence[Optimizer] = ensure_tuple(optimizers)
        self.rates = [float(group.get("initial_lr", group["lr"])) for group in self._groups()]
        self.warmup = warmup
        self.epochs = epochs
        self.used_before = 0.0  # by the processes that this one goes on from
        self.first_iteration: float | None = None  # when the training proper began
        self.closing = 0.0  # the longest validation with checkpoint so far
        self.epoch_start = self.epoch_end = self.iteration_start = 0.0
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self.started = monotonic()

    def seconds(self) -> float:
        """What is used up of the budget."""
        return self.used_before + monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "first_iteration": self.first_iteration, "closing": self.closing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: too little is left: what comes after the iterations would not fit in.
        """
        self.used_before = float(state["seconds"])
        self.first_iteration = state["first_iteration"]
        self.closing = float(state["closing"])
        if self.budget is not None and self.seconds() >= self.end:
            raise ValueError(
                f"{self.used_before / 60:.1f} of {self.budget / 60:.1f} minutes were used already, and reading the "
                "data again, a validation and a checkpoint would take the rest: give more --max_minutes to train it "
                "longer."
            )

    def attach(self, engine: Engine) -> None:
        if self.budget is None:
            return
        engine.add_event_handler(Events.STARTED, self.run_started)
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_STARTED, self.iteration_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.run_completed)

    @property
    def end(self) -> float:
        """When the iterations end: what comes after them has to fit in, too, and is not always equally quick."""
        assert self.budget is not None
        return self.budget - 1.25 * self.closing

    def run_started(self, engine: Engine) -> None:
        engine.state.max_epochs = 2**31  # the clock says when it is over, not the number of epochs

    def epoch_started(self, engine: Engine) -> None:
        assert self.budget is not None
        if self.epoch_end:
            self.closing = max(self.closing, self.seconds() - self.epoch_end)
            self.epoch_end = 0.0
        self.epoch_start = self._agreed_seconds(engine)
        # what to expect; that this epoch is the last one is only known at its end
        engine.state.max_epochs = engine.state.epoch + max(1, self.epochs - 1 - self._part())

    def _part(self) -> int:
        """Number of the part of the budget that this epoch began in, from 0."""
        assert self.budget is not None
        return min(self.epochs - 1, int(self.epochs * self.epoch_start / self.budget))

    def iteration_started(self, engine: Engine) -> None:
        self.iteration_start = seconds = self._agreed_seconds(engine)
        if self.first_iteration is None:
            self.first_iteration = seconds
        whole = max(self.end - self.first_iteration, 1e-6)
        self._set_rates(timed_rate((seconds - self.first_iteration) / whole, self.warmup))

    def iteration_completed(self, engine: Engine) -> None:
        assert self.budget is not None
        seconds = self._agreed_seconds(engine)
        over = 2 * seconds - self.iteration_start > self.end  # another one would be too long
        # this epoch and the next one
        long_enough = min(seconds - self.epoch_start, self.end - seconds) >= 9 * self.closing
        if over or (long_enough and seconds >= self.budget * (self._part() + 1) / self.epochs):
            self.epoch_end = self.seconds()
            engine.terminate_epoch()
        if over:
            engine.state.max_epochs = engine.state.epoch
            self._set_rates(0.0)

    def run_completed(self, engine: Engine) -> None:
        assert self.budget is not None
        seconds = self.seconds()
        late = seconds - self.budget
        if late > 10:
            logger.warning(
                "The training took %.0f s longer than max_minutes: a validation takes %.0f s here. Give more minutes, "
                "or a smaller validation.",
                late,
                self.closing or seconds - self.epoch_end,
            )
        logger.info("Trained for %.1f of %.1f minutes", seconds / 60, self.budget / 60)

    def _set_rates(self, share: float) -> None:
        for group, rate in zip(self._groups(), self.rates, strict=True):
            group["lr"] = rate * share

    def _groups(self) -> list[dict[str, Any]]:
        """Not to be kept: an optimizer that loads a state makes new ones."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _agreed_seconds(self, engine: Engine) -> float:
        """The first process' seconds, so that all end in the same iteration."""
        seconds = self.seconds()
        if not (dist.is_available() and dist.is_initialized()):
            return seconds
        told = torch.tensor([seconds], dtype=torch.float64, device=engine.state.device)  # type: ignore[attr-defined]
        dist.broadcast(told, 0)
        return float(told)
