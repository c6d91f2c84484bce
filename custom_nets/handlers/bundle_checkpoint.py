"""The weights that a bundle ships."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from custom_nets.checkpoints import save_checkpoint

__all__ = ["BundleCheckpoint"]

logger = logging.getLogger(__name__)


class BundleCheckpoint:
    """Keep the best network of a training as a bundle checkpoint (``model.pt``), ready for inference.

    The last one is kept beside it (``model_last.pt``): after a schedule that ends at zero it often is as good, and a
    small validation set may choose by chance. Attach it to the trainer, after the ``ValidationHandler``. A training
    that never validated leaves its last network; one without an evaluator that of each epoch, the last in the end.

    Args:
        path: of the checkpoint.
        network: whose weights to keep; usually the moving average.
        arch: how to build it again, see :func:`custom_nets.checkpoints.build_network`.
        evaluator: that validates; best is its key metric's best epoch. None where nothing says what is best.
    """

    def __init__(self, path: str | Path, network: nn.Module, arch: Mapping[str, Any], evaluator: Any = None) -> None:
        self.path = Path(path)
        self.network = network
        self.arch = arch
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.after_epoch)
        engine.add_event_handler(Events.COMPLETED, self.at_end)

    def check(self, engine: Engine) -> None:
        if not self.arch:
            raise ValueError(
                "network_def must be a component (_target_ and arguments) in the config, so that the weights can be "
                "stored with the network that they belong to."
            )

    def after_epoch(self, engine: Engine) -> None:
        if self.evaluator is None or self.evaluator.state.best_metric_epoch == engine.state.epoch:
            self._save(engine, self.path)

    def at_end(self, engine: Engine) -> None:
        if self.evaluator is not None:
            self._save(engine, self.path.with_name(f"{self.path.stem}_last{self.path.suffix}"))
            if self.evaluator.state.best_metric_epoch < 1:
                self._save(engine, self.path)

    def _save(self, engine: Engine, path: Path) -> None:
        # what is still being cut is stored as what it will be
        network = self.network.cut() if hasattr(self.network, "cut") else self.network  # type: ignore[operator]
        save_checkpoint(path, network, self.arch)
        logger.info("Weights of epoch %d written to %s", engine.state.epoch, path)
