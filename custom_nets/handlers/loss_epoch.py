"""Losses whose weights follow a schedule of epochs."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

__all__ = ["LossEpoch"]


class LossEpoch:
    """Tell a loss the epoch, from 1 on, at its start: also right when a training is resumed.

    Args:
        loss: with an attribute ``epoch``.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.loss.epoch = engine.state.epoch
