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

    The bar is silent where the output is no terminal, so that log files stay readable.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)
        bar = ProgressBar(persist=False, disable=None)  # None: tqdm asks whether it writes to a terminal
        bar.attach(engine, output_transform=lambda output: {"loss": self.losses[-1]})

    def epoch_started(self, engine: Engine) -> None:
        self.losses.clear()
        self.started = time.perf_counter()

    def iteration_completed(self, engine: Engine) -> None:
        self.losses.append(float(engine.state.output["loss"]))  # type: ignore[index, call-overload]

    def epoch_completed(self, engine: Engine) -> None:
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        logger.info(
            "Epoch %d of %s: mean loss %.6f, learning rate %.2e, %.1f s",
            engine.state.epoch,
            engine.state.max_epochs,
            sum(self.losses) / max(len(self.losses), 1),
            rate,
            time.perf_counter() - self.started,
        )
