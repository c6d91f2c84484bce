"""How far a training is."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

__all__ = ["TrainingProgress"]

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A bar per epoch with the loss, and a line in the log with its mean.

    The bar is silent where the output is no terminal, so that log files stay readable. A trainer whose iterations give
    more than a loss says which in its attribute ``logged_outputs``.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        bar = ProgressBar(persist=False, disable=None)  # None: tqdm asks whether it writes to a terminal
        bar.attach(engine, output_transform=lambda output: {name: found[-1] for name, found in self.values.items()})

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
