"""Checkpoints of a whole training, and going on from one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from custom_nets.utils.weights import read_checkpoint, write_checkpoint

__all__ = ["TrainingState"]

logger = logging.getLogger(__name__)


class TrainingState:
    """Write all that a training needs to go on, after every ``interval`` epochs; with ``resume`` go on from there.

    Saved: the state of each object, the epoch, the gradient scaler where there is one, and the best validation metric
    so far. One file, replaced whole: an interrupted run never leaves half of it. Only tensors and plain types are in
    it, so it loads with ``weights_only=True``.

    A learning rate schedule gets back its place, not its shape: a run may be prolonged with a larger ``max_epochs``,
    one with a time budget with larger ``max_minutes``.

    Args:
        path: the file.
        objects: name -> network, optimizer, schedule...; anything with ``state_dict``.
        evaluator: whose best metric is part of the state.
        resume: load ``path`` when training starts.
        save: write the file (in a distributed run, on the first process only).
        interval: epochs between two writings; the last epoch is always written.
        time_budget: the :class:`custom_nets.handlers.TimeBudget` of the training, if it has one.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        evaluator: Any = None,
        resume: bool = False,
        save: bool = True,
        interval: int = 1,
        time_budget: Any = None,
    ) -> None:
        self.path = Path(path)
        self.objects = {name: item for name, item in objects.items() if item is not None}
        self.evaluator = evaluator
        self.resume = resume
        self.save = save
        self.interval = interval
        self.time_budget = time_budget
        if resume and not self.path.is_file():
            raise FileNotFoundError(
                f"nothing to resume: {self.path} does not exist. Start without --resume True, or give the --output_dir "
                "of the run to go on with."
            )

    def attach(self, engine: Engine) -> None:
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.load)
        if self.save:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.write)
            engine.add_event_handler(Events.COMPLETED, self.write_last)

    def write_last(self, engine: Engine) -> None:
        """After all that others write at the end: a training that was killed before goes on to there."""
        self.write(engine, complete=True)

    def write(self, engine: Engine, complete: bool = False) -> None:
        state: dict[str, Any] = {name: item.state_dict() for name, item in self.objects.items()}
        state["epoch"], state["iteration"] = engine.state.epoch, engine.state.iteration
        state["complete"] = complete
        if self.time_budget is not None:
            state["time_budget"] = self.time_budget.state_dict()
        if getattr(engine, "scaler", None) is not None:
            state["scaler"] = engine.scaler.state_dict()  # type: ignore[attr-defined]
        if self.evaluator is not None:
            best = self.evaluator.state
            state["best"] = {"metric": float(best.best_metric), "epoch": int(best.best_metric_epoch)}
        write_checkpoint(self.path, state)

    def load(self, engine: Engine) -> None:
        """
        Raises:
            ValueError: the file belongs to another network, or its training is already as long as asked for.
        """
        state = read_checkpoint(self.path)
        epoch = state.get("epoch")
        if not isinstance(epoch, int):
            raise ValueError(f"{self.path} does not say its epoch: it is no state of a training.")
        timed = self.time_budget is not None and self.time_budget.budget is not None
        wanted = engine.state.max_epochs or 0
        if not timed and (epoch > wanted or (epoch == wanted and state.get("complete", True))):
            raise ValueError(
                f"{self.path} is already at epoch {epoch}: give --max_epochs above {epoch} to train it longer."
            )
        for name, item in self.objects.items():
            if name not in state:
                raise ValueError(f"{self.path} has no '{name}': it was written by another kind of training.")
            part = state[name]
            if isinstance(item, torch.optim.lr_scheduler.LRScheduler):
                part = {**item.state_dict(), **{key: part[key] for key in ("last_epoch", "_step_count", "_last_lr")}}
            try:
                item.load_state_dict(part)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"'{name}' of {self.path} does not fit this training: {error}") from error
        if getattr(engine, "scaler", None) is not None and "scaler" in state:
            engine.scaler.load_state_dict(state["scaler"])  # type: ignore[attr-defined]
        engine.state.epoch = epoch
        iteration = epoch * (engine.state.epoch_length or 0)
        engine.state.iteration = min(iteration, state.get("iteration", iteration))
        if self.time_budget is not None and "time_budget" in state:
            self.time_budget.load_state_dict(state["time_budget"])
        if self.evaluator is not None and "best" in state:
            self.evaluator.state.best_metric = state["best"]["metric"]
            self.evaluator.state.best_metric_epoch = state["best"]["epoch"]
        logger.info("Going on from epoch %d of %s", epoch, self.path)
