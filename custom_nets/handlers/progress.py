"""How far a training is."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events
from tqdm.auto import tqdm

from custom_nets.handlers.running_means import RunningMeans
from custom_nets.handlers.time_budget import TimeBudget

__all__ = ["TrainingProgress"]

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A bar per epoch with the loss, and a line in the log with its mean.

    The bar is silent where the output is no terminal, so that log files stay readable. The loss is read back from the
    device only as often as the bar is drawn, and once an epoch.

    Args:
        time_budget: of the training; where it sets an end, one bar shows the minutes instead.
    """

    def __init__(self, time_budget: TimeBudget | None = None) -> None:
        self.outputs = RunningMeans()
        self.started = 0.0
        self.clock = None if time_budget is None or time_budget.budget is None else time_budget
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def _new_bar(self, engine: Engine) -> tqdm:
        # disable None: tqdm asks whether it writes to a terminal
        if self.clock is None:
            return tqdm(total=engine.state.epoch_length, leave=False, disable=None)
        layout = "{desc}{percentage:3.0f}%|{bar}| {n:.1f} of {total:.1f} min{postfix}"
        return tqdm(total=(self.clock.budget or 0.0) / 60, bar_format=layout, leave=False, disable=None)

    def epoch_started(self, engine: Engine) -> None:
        self.outputs.take()
        self.started = time.perf_counter()
        if self.bar is None:
            self.bar = self._new_bar(engine)
        self.bar.set_description(f"Epoch [{engine.state.epoch}/{engine.state.max_epochs}]")

    def iteration_completed(self, engine: Engine) -> None:
        self.outputs.add(engine)
        if self.bar is None or self.bar.disable:
            return
        drawn = self.bar.update(1 if self.clock is None else self.clock.seconds() / 60 - self.bar.n)
        if drawn:  # tqdm draws ten times a second at most
            self.bar.set_postfix(self.outputs.latest())

    def epoch_completed(self, engine: Engine) -> None:
        if self.clock is None:
            self.close()
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        logger.info(
            "Epoch %d of %s: mean %s, learning rate %.2e, %.1f s",
            engine.state.epoch,
            engine.state.max_epochs,
            ", ".join(f"{name} {mean:.6f}" for name, mean in self.outputs.take().items()),
            rate,
            time.perf_counter() - self.started,
        )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
