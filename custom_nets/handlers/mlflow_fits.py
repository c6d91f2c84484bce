"""Fits of scans in MLflow: a run for each, with its curve, how well it foretells left-out views, and a preview."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from custom_nets.handlers.mlflow_run import Hidden, MLflowRun
from custom_nets.visualize.reconstruction import reconstruction_figure

__all__ = ["MLflowFits"]


class MLflowFits(MLflowRun):
    """Track a :class:`custom_nets.engines.ReconstructionEvaluator`: each scan is a run of its own.

    Recorded besides what :class:`MLflowRun` says: the loss of each epoch, the error of the views that the fit held out,
    the scores of the views that were left out, the preview, the record, and seconds and memory. Put it behind the
    record among the engine's handlers.

    Args:
        saver: the ``SaveReconstructiond`` of the engine; it knows where a case went.
        log_identities: paths and names of cases as they are.
        kwargs: of :class:`MLflowRun`.
    """

    kind = "fit"

    def __init__(self, saver: Any, log_identities: bool = False, **kwargs: Any) -> None:
        super().__init__(data={}, output_dir=saver.output_dir, log_identities=log_identities, **kwargs)
        self.saver, self.log_identities, self.name = saver, log_identities, self.run_name

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.fitted)
        self._close_after_run(engine)

    def start(self, engine: Engine) -> None:
        self.finish("FAILED")  # the case before, if it did not come to its end
        cases: Any = engine.cases.data  # type: ignore[attr-defined]
        number, item = next((n, i) for n, i in enumerate(cases, 1) if str(i["case"]) == engine.case)  # type: ignore[attr-defined]
        self.data = {"scan": [item]}
        self.names = Hidden(self.data, disabled=self.log_identities)
        self.shown = str(item["case"]) if self.log_identities else f"scan {number}"
        self.run_name = f"{self.name} {self.shown}"
        super().start(engine)

    def engine_settings(self, engine: Engine) -> dict[str, Any]:
        return {"device": str(engine.state.device)}  # type: ignore[attr-defined]

    def fitted(self, engine: Engine) -> None:
        """Record what came out, and close the run."""
        case, found = str(engine.state.batch["case"]), engine.state.output["pred"]  # type: ignore[call-overload, index]
        if (curve := found.curve) is not None:
            for epoch, loss in enumerate(curve.loss, 1):
                self._log_metrics({"loss": loss}, step=epoch)
            for epoch, error in curve.held_out.items():
                self._log_metrics({"held_out": error}, step=epoch)
            self._log_metrics({"fit_seconds": curve.seconds})
        scores: Mapping[str, Any] = found.scores
        self._log_metrics({f"left_out_{k}": v for k, v in scores.items() if isinstance(v, float)})
        if (record := self.saver.record_for(case)).is_file():
            with self.names.hidden_in(record) as shown:
                self.client.log_artifact(self._run_id, str(shown))
        with tempfile.TemporaryDirectory() as folder:  # the one beside the record has a name in it
            preview = reconstruction_figure(Path(folder) / "preview.png", found, self.shown)
            self.client.log_artifact(self._run_id, str(preview))
        self.finish("FINISHED")
