"""A training, or an evaluation, as one MLflow run that says how to repeat it."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from custom_nets.bundle.folder import copy_bundle
from custom_nets.handlers.running_means import RunningMeans
from custom_nets.utils.record import environment, file_record, git_revision
from custom_nets.utils.servers import check_server, make_database, public_uri

__all__ = ["MLflowEvaluation", "MLflowRun", "data_record"]

logger = logging.getLogger(__name__)

_BATCH = 100  # parameters that MLflow takes in one call; metrics may be more
_DATA = ("image", "label", "mask")  # keys of an item that name files


class MLflowRun(MLFlowHandler):
    """Track a training in a run of its own: always a new one, always closed, also when the training fails.

    Recorded: settings, library versions and git revision; the data list with a hash of each file; the mean loss (and
    what else the trainer's ``logged_outputs`` name) and the learning rate every ``log_every`` iterations; the
    validation metrics; a picture per validation; the config; the whole bundle with the weights of this run as its
    model, ready for :mod:`custom_nets.tracking.registry`. (MONAI's handler goes on with any unfinished run, and leaves
    a failed one "running".)

    A file that lies there from an earlier run is not taken for one of this run, unless this one goes on with it.

    A tracking server is another machine, so that nothing that says whose scans these are leaves for it: no path, no
    name of a case or subject, neither as parameter nor in a file. Files are known by their hashes, subjects and cases
    by numbers. ``log_identities`` sends all as it is.

    Args:
        tracking_uri: of the tracking server or data base; the environment variable MLFLOW_TRACKING_URI goes first,
            which the log then says.
        experiment_name: the experiment, made if it is new.
        run_name: of the run.
        settings: parameters to record.
        data: name -> items with paths as ``image``, ``label`` or ``mask`` (training, validation).
        config: the whole config, kept as ``config.json``.
        evaluator: whose metrics to record; None for a training without validation.
        picture: file drawn after each validation, or where there is none, after epochs.
        weights: bundle checkpoint that the run writes.
        bundle_root: the bundle to keep the weights in, as ``bundle/models/model.pt``; None keeps them under their name.
        output_dir: where the run writes its files.
        files: patterns of files in ``output_dir`` to keep at the end, under the same names.
        log_every: iterations between two points of the loss curve.
        log_identities: paths, cases and subjects as they are.
    """

    kind = "training"

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
        weights: str | Path | None = None,
        bundle_root: str | Path | None = None,
        output_dir: str | Path = ".",
        files: Sequence[str] = (),
        log_every: int = 10,
        log_identities: bool = False,
    ) -> None:
        if (variable := os.environ.get("MLFLOW_TRACKING_URI")) and variable != tracking_uri:
            logger.warning("MLFLOW_TRACKING_URI sends this run to %s", public_uri(variable))
        make_database(variable or tracking_uri)
        super().__init__(tracking_uri=tracking_uri, experiment_name=experiment_name, run_name=run_name)
        self.settings = settings
        self.data = data
        self.config = config
        self.evaluator = evaluator
        self.picture = None if picture is None else Path(picture)
        self.weights = None if weights is None else Path(weights)
        self.bundle_root = bundle_root
        self.output_dir = Path(output_dir)
        self.files = files
        self.log_every = log_every
        self.names = Hidden(data, disabled=log_identities)
        self.outputs = RunningMeans()
        self.seen: dict[Path, tuple[int, int, int]] = {}  # files of earlier runs, and those already kept

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.log_means)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.validated)
        else:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep_picture)
        self._close_after_run(engine)

    def _close_after_run(self, engine: Engine) -> None:
        # of several handlers for a failure ignite calls the first alone, and none for an interrupt at the wrong moment;
        # around the run itself every way out is seen
        run = engine.run

        @functools.wraps(run)
        def closing_run(*args: Any, **kwargs: Any) -> Any:
            try:
                with _termination_raises():
                    result = run(*args, **kwargs)
            except BaseException as error:
                self.finish("KILLED" if isinstance(error, KeyboardInterrupt | _Terminated) else "FAILED")
                raise
            self.finish("FINISHED")
            return result

        engine.run = closing_run  # type: ignore[method-assign]

    def start(self, engine: Engine) -> None:
        if engine.state.epoch == 0:  # otherwise it goes on with an earlier run, and with its files
            self.seen = {path: _state(path) for path in self._results() if path.is_file()}
        self._check_experiment()
        self._set_experiment()
        revision = git_revision()
        tags = {"kind": self.kind, "mlflow.source.git.commit": revision.removesuffix("+changes")}
        experiment: Any = self.experiment
        self.cur_run = self.client.create_run(experiment.experiment_id, run_name=self.run_name, tags=tags)
        data = data_record(self.data, self.names)
        self._log_params(
            {
                **{name: self.names.setting(name, value) for name, value in self.settings.items()},
                **{f"version.{name}": version for name, version in environment().items()},
                "git_revision": revision,
                "network_parameters": sum(p.numel() for p in engine.network.parameters()),  # type: ignore[attr-defined]
                **{f"data.{name}": f"{len(files)} files" for name, files in data.items()},
                **self.engine_settings(engine),
            }
        )
        self.client.log_dict(self._run_id, data, "data.json")
        if self.config is not None:
            config = self.names.settings(json.loads(json.dumps(self.config, default=str)))
            self.client.log_dict(self._run_id, config, "config.json")
        logger.info("MLflow run '%s' (%s)", self.run_name, self._run_id)

    def _check_experiment(self) -> None:
        """Refuse before the work what nothing can be tracked in."""
        if self.client.tracking_uri.startswith(("http://", "https://")):
            check_server(self.client.tracking_uri)
        found = self.client.get_experiment_by_name(self.experiment_name)
        if found is not None and found.lifecycle_stage != "active":
            raise ValueError(
                f"experiment '{self.experiment_name}' was deleted: restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}), or give another --experiment_name."
            )

    def engine_settings(self, engine: Engine) -> dict[str, Any]:
        """What only the engine knows."""
        return {
            "optimizer": type(getattr(engine, "optimizer", None)).__name__,
            "first_epoch": engine.state.epoch + 1,
            "iterations_in_epoch": engine.state.epoch_length,
        }

    @property
    def _run_id(self) -> str:
        return self.cur_run.info.run_id  # type: ignore[attr-defined]

    def _log_params(self, params: Mapping[str, Any]) -> None:
        entries = [(_name(key), value) for key, value in params.items()]
        for first in range(0, len(entries), _BATCH):
            super()._log_params(dict(entries[first : first + _BATCH]))

    def _log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        entries = [(_name(key), float(value)) for key, value in metrics.items()]
        for first in range(0, len(entries), _BATCH):
            super()._log_metrics(dict(entries[first : first + _BATCH]), step)

    def iteration_completed(self, engine: Engine) -> None:
        self.outputs.add(engine)
        if engine.state.iteration % self.log_every == 0:
            self.log_means(engine)

    def log_means(self, engine: Engine) -> None:
        """A point of the loss curve: means since the last one."""
        means = {f"train_{name}": value for name, value in self.outputs.take().items()}
        if self.cur_run is None or not means:
            return
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        self._log_metrics({**means, "learning_rate": rate}, step=engine.state.iteration)

    def validated(self, engine: Engine) -> None:
        """Record the metrics of a validation under the number of the training epoch, and its picture."""
        if self.cur_run is None:
            return
        metrics = {f"val_{name}": value for name, value in engine.state.metrics.items()}
        self._log_metrics(metrics, step=engine.state.epoch)
        self.keep_picture(engine)

    def keep_picture(self, engine: Engine) -> None:
        """Keep the picture if it was drawn anew."""
        if self.picture is not None and self._is_new(self.picture):
            self.seen[self.picture] = _state(self.picture)
            self.client.log_artifact(self._run_id, str(self.picture), f"pictures/epoch_{engine.state.epoch:05d}")

    def finish(self, status: str) -> None:
        """Keep the files and close the run; does nothing when it is closed, or never began."""
        if self.cur_run is None:
            return
        try:
            for path in self._results():
                if path not in (self.picture, self.weights) and self._is_new(path):
                    folder = path.relative_to(self.output_dir).parent.as_posix()
                    with self.names.hidden_in(path) as shown:
                        self.client.log_artifact(self._run_id, str(shown), None if folder == "." else folder)
            if self.has_weights():
                self._keep_weights()
        finally:
            self.run_finish_status = status
            self.close()

    def has_weights(self) -> bool:
        """Whether the run wrote weights."""
        return self.weights is not None and self._is_new(self.weights)

    def _keep_weights(self) -> None:
        weights = Path(self.weights)  # type: ignore[arg-type]
        self.client.set_tag(self._run_id, "weights_sha256", file_record(weights)["sha256"])
        if self.bundle_root is None:
            self.client.log_artifact(self._run_id, str(weights))
            return
        with tempfile.TemporaryDirectory() as folder:
            bundle = copy_bundle(self.bundle_root, weights, Path(folder) / "bundle")
            self.client.log_artifacts(self._run_id, str(bundle), "bundle")

    def _results(self) -> list[Path]:
        """What the run may leave, as far as it is there."""
        found = [path for pattern in self.files for path in sorted(self.output_dir.glob(pattern))]
        return [*found, *(path for path in (self.picture, self.weights) if path is not None)]

    def _is_new(self, path: Path) -> bool:
        return path.is_file() and self.seen.get(path) != _state(path)


class MLflowEvaluation(MLflowRun):
    """Track an evaluation in the same way: the metrics of its report, the report's files, and the bundle with the
    weights that were evaluated.

    Put it after the report among the engine's handlers.

    Args:
        kwargs: of :class:`MLflowRun`; ``weights`` are those evaluated.
    """

    kind = "evaluation"

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.measured)
        self._close_after_run(engine)

    def engine_settings(self, engine: Engine) -> dict[str, Any]:
        return {"device": str(engine.state.device)} if hasattr(engine.state, "device") else {}

    def measured(self, engine: Engine) -> None:
        """Record the metrics, named DEGRADATION/REGION/METRIC/METHOD by the report."""
        self._log_metrics(engine.state.metrics)

    def has_weights(self) -> bool:
        return self.weights is not None and self.weights.is_file()


def data_record(
    data: Mapping[str, Sequence[Mapping[str, Any]]], names: Hidden | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The files of each list's items, each once, with SHA-256 and size, and with what may be told of whose they are."""
    names = names or Hidden(data)
    record: dict[str, list[dict[str, Any]]] = {}
    for name, items in data.items():
        files = {str(item[key]): (key, item) for item in items for key in _DATA if key in item}
        record[name] = []
        for path, (key, item) in files.items():
            plain = {k: item[k] for k in ("weight", "labels", "licence") if k in item}
            whose = {k: names.text(str(item[k])) for k in ("case", "subject") if k in item}
            record[name].append({key: names.text(path), **whose, **plain, **file_record(path)})
    return record


# settings that name a file, a folder or a person, in whatever form
_PRIVATE = re.compile(
    r"(^|::)(\w*dir|datalist|items|pairs|cases|input|like|finetune|prior|checkpoint|image|label|mask|series_uid|subject"
    r"|case|\w*_uri|\w*path|\w*_root|weights)(::\d+)*(::\w+)?$"
)
_A_PATH = re.compile(r"(?:(?<=^)|(?<=[\s'\"=(,\[]))(?:/[^\s'\"/]+/|~[/\\]|[A-Za-z]:\\|\\\\|\.\.?/)[^'\"\],)]*")


class Hidden:
    """What stands for names of people, cases and files where these are not to be told.

    Args:
        data: the items whose names are meant.
        disabled: everything is told.
    """

    def __init__(self, data: Mapping[str, Sequence[Mapping[str, Any]]], disabled: bool = False) -> None:
        self.disabled = disabled
        self.instead: dict[str, str] = {}
        subjects: dict[str, int] = {}
        # an item without files is nobody's: phantoms keep their names
        for item in (item for items in data.values() for item in items if set(_DATA) & set(item)):
            subject = str(item.get("subject") or item.get("case") or item.get("image"))
            number = subjects.setdefault(subject, len(subjects) + 1)
            for key in _DATA:
                if key in item:
                    path = Path(str(item[key]))
                    stem = path.name.split(".")[0]
                    for text in (str(path), path.name, stem, str(path.parent)):
                        self.instead.setdefault(text, f"{key} of subject {number}")
            for key in ("case", "subject"):
                if key in item:
                    self.instead[str(item[key])] = f"subject {number}"
        words = sorted((text for text in self.instead if len(text) > 1), key=len, reverse=True)
        self.words = re.compile("|".join(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])" for word in words) or r"(?!)")

    def text(self, text: str) -> str:
        """A text without any of the names, and without paths."""
        if self.disabled:
            return text
        if text in self.instead:
            return self.instead[text]
        return _A_PATH.sub("(path)", self.words.sub(lambda found: self.instead[found[0]], text))

    def setting(self, name: str, value: Any) -> Any:
        """A setting; the value of one that names a file is left out where it was given, and no reference."""
        if self.disabled or not isinstance(value, str) or value in ("", "None"):
            return value
        if _PRIVATE.search(name) and not value.startswith(("@", "$@", "$custom_nets.")):
            return "(private)"
        return self.text(value)

    def settings(self, value: Any, name: str = "") -> Any:
        """A whole config."""
        if isinstance(value, Mapping):
            return {self.text(str(k)): self.settings(v, f"{name}::{k}" if name else str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self.settings(item, f"{name}::{number}") for number, item in enumerate(value)]
        return self.setting(name, value)

    @contextmanager
    def hidden_in(self, path: Path) -> Iterator[Path]:
        """The file itself; or, for as long as it is needed, a copy in whose name and text the names do not stand."""
        if self.disabled:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.text(path.name).replace("/", "_")
            if path.suffix == ".json":
                copy.write_text(json.dumps(self.settings(json.loads(path.read_text(encoding="utf-8"))), indent=2))
            elif path.suffix in (".csv", ".md", ".txt", ".html"):
                copy.write_text(self.text(path.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                shutil.copyfile(path, copy)
            yield copy


def _name(text: str) -> str:
    """A name that MLflow takes, of one that a person gave: "net::width" -> "net.width"."""
    return re.sub(r"[^\w./ -]", "_", text.replace("::", "."))


def _state(path: Path) -> tuple[int, int, int]:
    """Changes whenever a file is written or replaced."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


class _Terminated(SystemExit):
    """Somebody, or the batch system, ended the process."""


@contextmanager
def _termination_raises() -> Iterator[None]:
    """A polite kill (SIGTERM) comes as an exception, so that the run can be closed."""

    def terminate(number: int, frame: Any) -> None:
        raise _Terminated(128 + number)

    usual = threading.current_thread() is threading.main_thread()
    if not usual or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
