"""Stop when the validation metric no longer improves."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["EarlyStop"]

logger = logging.getLogger(__name__)


class EarlyStop:
    """Stop a trainer whose evaluator has had no better key metric for ``patience`` epochs.

    Attach it to the trainer, after the ``ValidationHandler``. It asks the evaluator, and so goes on correctly after a
    resume, and stops all processes of a distributed run in the same epoch.

    Args:
        evaluator: that the trainer validates with.
        patience: epochs (not validations) without improvement.
    """

    def __init__(self, evaluator: Any, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"early_stop_patience must be at least 1 epoch (0 switches it off), got {patience}.")
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        best = self.evaluator.state.best_metric_epoch
        validated = self.evaluator.state.epoch == engine.state.epoch
        if validated and best > 0 and engine.state.epoch - best >= self.patience:
            logger.info("No improvement since epoch %d: stopped after epoch %d.", best, engine.state.epoch)
            engine.terminate()
