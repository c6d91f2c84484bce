"""A training as one MLflow run that says how to repeat it."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from custom_nets.utils.record import environment, file_record, git_revision

__all__ = ["MLflowRun", "data_record"]

logger = logging.getLogger(__name__)

_BATCH = 100  # parameters that MLflow takes in one call


class MLflowRun(MLFlowHandler):
    """Track a training in a run of its own: always a new one, always closed, also when the training fails.

    Recorded: settings, library versions and git revision; the data list with a hash of each file; the mean loss (and
    what else the trainer has in its attribute ``numbers``) and the learning rate every ``log_every`` iterations; the
    validation metrics; a picture per validation; weights and config. (MONAI's handler goes on with any unfinished run,
    and leaves a failed one "running".)

    Args:
        tracking_uri: of the tracking server or data base; the environment variable MLFLOW_TRACKING_URI goes first.
        experiment_name: the experiment, made if it is new.
        run_name: of the run.
        settings: parameters to record.
        config: the whole config, kept as ``config.json``.
        data: name -> items with ``image`` paths (training, validation).
        evaluator: whose metrics to record; None for a training without validation.
        picture: file drawn after each validation, or where there is none, after epochs.
        artifacts: files to keep at the end, those that exist.
        log_every: iterations between two points of the loss curve.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str,
        run_name: str,
        settings: Mapping[str, Any],
        data: Mapping[str, Sequence[Mapping[str, Any]]],
        config: Mapping[str, Any] | None = None,
        evaluator: Engine | None = None,
        picture: str | Path | None = None,
        artifacts: Sequence[str | None] = (),
        log_every: int = 10,
    ) -> None:
        if tracking_uri.startswith("sqlite:///"):
            Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(tracking_uri=tracking_uri, experiment_name=experiment_name, run_name=run_name)
        self.settings = settings
        self.data = data
        self.config = config
        self.evaluator = evaluator
        self.picture = None if picture is None else Path(picture)
        self.files = [Path(p) for p in artifacts if p]
        self.log_every = log_every
        self.values: dict[str, list[float]] = {}
        self.picture_time = 0  # of the last one that was kept

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.validated)
        else:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep_picture)
        # of several handlers for a failure ignite calls the first alone, and none for an interrupt at the wrong moment;
        # around the run itself every way out is seen
        run = engine.run

        @functools.wraps(run)
        def closing_run(*args: Any, **kwargs: Any) -> Any:
            try:
                result = run(*args, **kwargs)
            except BaseException as error:
                self.finish("FAILED" if isinstance(error, Exception) else "KILLED")
                raise
            self.finish("FINISHED")
            return result

        engine.run = closing_run  # type: ignore[method-assign]

    def start(self, engine: Engine) -> None:
        self._set_experiment()
        self.cur_run = self.client.create_run(self.experiment.experiment_id, run_name=self.run_name)  # type: ignore[attr-defined]
        optimizer = getattr(engine, "optimizer", None)
        parameters = {
            **{key.replace("::", "."): value for key, value in self.settings.items()},
            **{f"version.{name}": version for name, version in environment().items()},
            "git_revision": git_revision(),
            "optimizer": type(optimizer).__name__,
            "network_parameters": sum(p.numel() for p in engine.network.parameters()),  # type: ignore[attr-defined]
            "first_epoch": engine.state.epoch + 1,
            "iterations_in_epoch": engine.state.epoch_length,
        }
        entries = list(parameters.items())
        for first in range(0, len(entries), _BATCH):
            self._log_params(dict(entries[first : first + _BATCH]))
        self.client.log_dict(self._run_id, data_record(self.data), "data.json")
        if self.config is not None:
            self.client.log_dict(self._run_id, json.loads(json.dumps(self.config, default=str)), "config.json")
        logger.info("MLflow run '%s' (%s)", self.run_name, self._run_id)

    @property
    def _run_id(self) -> str:
        return self.cur_run.info.run_id  # type: ignore[attr-defined]

    def iteration_completed(self, engine: Engine) -> None:
        for name in getattr(engine, "numbers", ("loss",)):
            self.values.setdefault(name, []).append(float(engine.state.output[name]))  # type: ignore[index, call-overload]
        if engine.state.iteration % self.log_every == 0:
            rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
            means = {f"train_{name}": sum(values) / len(values) for name, values in self.values.items()}
            self._log_metrics({**means, "learning_rate": rate}, step=engine.state.iteration)
            self.values.clear()

    def validated(self, engine: Engine) -> None:
        """Record the metrics of a validation under the number of the training epoch, and its picture."""
        if self.cur_run is None:
            return
        metrics = {f"val_{name}": value for name, value in engine.state.metrics.items()}
        self._log_metrics(metrics, step=engine.state.epoch)
        self.keep_picture(engine)

    def keep_picture(self, engine: Engine) -> None:
        """Keep the picture if it was drawn anew."""
        if self.picture is None or not self.picture.is_file():
            return
        if (drawn := self.picture.stat().st_mtime_ns) != self.picture_time:
            self.picture_time = drawn
            folder = f"pictures/epoch_{engine.state.epoch:05d}"
            self.client.log_artifact(self._run_id, str(self.picture), folder)

    def finish(self, status: str) -> None:
        """Keep the files and close the run; does nothing when it is closed, or never began."""
        if self.cur_run is None:
            return
        try:
            for path in self.files:
                if path.is_file():
                    self.client.log_artifact(self._run_id, str(path))
        finally:
            self.run_finish_status = status
            self.close()


def data_record(data: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The items of each list, once per file, with the file's SHA-256 and size."""
    record: dict[str, list[dict[str, Any]]] = {}
    for name, items in data.items():
        files = {str(item["image"]): item for item in items}
        record[name] = []
        for path, item in files.items():
            plain = {key: item[key] for key in ("subject", "weight", "labels", "licence") if key in item}
            record[name].append({"image": path, **plain, **file_record(path)})
    return record
