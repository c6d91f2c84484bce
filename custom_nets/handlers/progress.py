"""How far a training is."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from tqdm.auto import tqdm

from custom_nets.handlers.time_budget import TimeBudget

__all__ = ["TrainingProgress"]

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A bar per epoch with the loss, and a line in the log with its mean.

    The bar is silent where the output is no terminal, so that log files stay readable. A trainer whose iterations give
    more than a loss says which in its attribute ``logged_outputs``.

    Args:
        time_budget: of the training; where it sets an end, one bar shows the minutes instead.
    """

    def __init__(self, time_budget: TimeBudget | None = None) -> None:
        self.values: dict[str, list[float]] = {}
        self.started = 0.0
        self.time_budget = time_budget

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        if self.time_budget is not None and self.time_budget.budget is not None:
            self._attach_minutes(engine, self.time_budget, self.time_budget.budget)
            return
        bar = ProgressBar(persist=False, disable=None)  # None: tqdm asks whether it writes to a terminal
        bar.attach(engine, output_transform=lambda output: self._latest())

    def _attach_minutes(self, engine: Engine, clock: TimeBudget, seconds: float) -> None:
        layout = "{desc}{percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} min{postfix}"
        bar = tqdm(total=seconds / 60, bar_format=layout, leave=False, disable=None)

        def advance(engine: Engine) -> None:
            if not bar.disable:
                bar.set_description(f"Epoch {engine.state.epoch}: ", refresh=False)
                bar.set_postfix(self._latest(), refresh=False)
                bar.update(clock.seconds() / 60 - bar.n)

        engine.add_event_handler(Events.ITERATION_COMPLETED, advance)
        engine.add_event_handler(Events.COMPLETED, bar.close)

    def _latest(self) -> dict[str, float]:
        return {name: found[-1] for name, found in self.values.items()}

    def epoch_started(self, engine: Engine) -> None:
        self.values = {name: [] for name in getattr(engine, "logged_outputs", ("loss",))}
        self.started = time.perf_counter()

    def iteration_completed(self, engine: Engine) -> None:
        for name, values in self.values.items():
            values.append(float(engine.state.output[name]))  # type: ignore[index, call-overload]

    def epoch_completed(self, engine: Engine) -> None:
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        logger.info(
            "Epoch %d of %s: mean %s, learning rate %.2e, %.1f s",
            engine.state.epoch,
            engine.state.max_epochs,
            ", ".join(f"{name} {sum(values) / max(len(values), 1):.6f}" for name, values in self.values.items()),
            rate,
            time.perf_counter() - self.started,
        )
