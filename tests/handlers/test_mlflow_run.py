"""An MLflow run is closed whatever happens, and holds nothing that another run left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from custom_nets.handlers import MLflowEvaluation, MLflowRun
from custom_nets.tracking import sqlite_uri

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return sqlite_uri(tmp_path_factory.mktemp("tracking"))


def engine_that(step: Any, kind: type[MLflowRun] = MLflowRun, **options: Any) -> tuple[Engine, MLflowRun]:
    """A trainer that calls ``step(engine)``, tracked."""

    def iteration(engine: Engine, batch: Any) -> dict[str, float]:
        step(engine)
        return {"loss": float(engine.state.iteration)}

    engine = Engine(iteration)
    engine.network = torch.nn.Linear(2, 2)
    engine.optimizer = torch.optim.SGD(engine.network.parameters(), 0.5)
    options = {"experiment_name": "test", "run_name": "same", "settings": {}, "data": {}, "log_every": 4, **options}
    handler = kind(**options)
    handler.attach(engine)
    return engine, handler


def last_run(uri: str) -> Any:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    return client.search_runs(experiment.experiment_id, order_by=["attributes.start_time DESC"])[0]


def names(uri: str, run: Any, folder: str | None = None) -> list[str]:
    return [entry.path for entry in mlflow.MlflowClient(uri).list_artifacts(run.info.run_id, folder)]


@pytest.mark.parametrize(
    ("what", "error", "status"),
    [
        (lambda engine: None, None, "FINISHED"),
        (lambda engine: 1 / 0, ZeroDivisionError, "FAILED"),
        (lambda engine: exec("raise SystemExit('two evaluations failed')"), SystemExit, "FAILED"),
        (lambda engine: exec("raise KeyboardInterrupt"), KeyboardInterrupt, "KILLED"),
        (lambda engine: os.kill(os.getpid(), signal.SIGTERM), SystemExit, "KILLED"),
    ],
)
def test_every_run_is_closed(uri, what, error, status):
    before = signal.getsignal(signal.SIGTERM)
    engine, handler = engine_that(what, tracking_uri=uri)
    if error is None:
        engine.run(range(3))
    else:
        with pytest.raises(error):
            engine.run(range(3))
    run = last_run(uri)
    assert run.info.status == status and handler.cur_run is None
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_curve_has_its_end_and_a_second_run_starts_anew(uri):
    engine, _ = engine_that(lambda engine: None, tracking_uri=uri)
    for _ in range(2):
        engine.run(range(6), max_epochs=1)
        run = last_run(uri)
        points = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "train_loss")
        assert [(point.step, point.value) for point in points] == [(4, 2.5), (6, 5.5)]
        assert run.data.metrics["learning_rate"] == 0.5


def test_names_that_people_give_and_many_of_them(uri):
    settings = {f"degradations::iso {i} (mine)": i for i in range(150)}
    engine, _ = engine_that(lambda engine: None, MLflowEvaluation, tracking_uri=uri, settings=settings)
    metrics = {f"2x2 [{i}]/brain/psnr/ours": torch.tensor(float(i)) for i in range(1500)}
    # as a report does, before the tracking handler
    engine._event_handlers[Events.EPOCH_COMPLETED].insert(0, (lambda: engine.state.metrics.update(metrics), (), {}))
    engine.run([0])
    run = last_run(uri)
    assert run.data.params["degradations.iso 149 _mine_"] == "149"
    assert len(run.data.metrics) == 1500 and run.data.metrics["2x2 _7_/brain/psnr/ours"] == 7


def test_files_of_an_earlier_run_count_only_when_it_is_resumed(uri, tmp_path):
    weights, picture = tmp_path / "prior.pt", tmp_path / "samples.png"
    options = {"tracking_uri": uri, "weights": weights, "picture": picture}

    def write(engine: Engine) -> None:
        weights.write_bytes(b"%d" % engine.state.iteration)
        picture.write_bytes(b"drawn")

    engine_that(write, **options)[0].run(range(2))
    assert sorted(names(uri, last_run(uri))) == ["data.json", "pictures", "prior.pt"]
    engine_that(lambda engine: None, **options)[0].run(range(2))
    assert names(uri, last_run(uri)) == ["data.json"]
    resumed, handler = engine_that(lambda engine: None, **options)
    resumed.state.epoch = 1
    handler.start(resumed)
    handler.finish("FINISHED")
    assert "prior.pt" in names(uri, last_run(uri))


def test_an_evaluation_keeps_what_it_evaluated_and_wrote(uri, tmp_path):
    weights = tmp_path / "published.pt"
    weights.write_bytes(b"weights")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "table.md").write_text("of an earlier evaluation")

    def write(engine: Engine) -> None:
        (tmp_path / "cases.csv").write_text("case\n")
        (tmp_path / "pictures" / "a.png").write_bytes(b"drawn")

    options = {"weights": weights, "output_dir": tmp_path, "files": ["*.csv", "*.md", "pictures/*.png"]}
    data = {"evaluation": [{"case": "a", "label": str(weights), "mask": str(weights)}, {"case": "a", "label": "none"}]}
    engine, _ = engine_that(write, MLflowEvaluation, tracking_uri=uri, data=data, **options)
    engine.run([0])
    run = last_run(uri)
    assert sorted(names(uri, run)) == ["cases.csv", "data.json", "pictures", "published.pt"]
    assert names(uri, run, "pictures") == ["pictures/a.png"]
    assert run.data.params["data.evaluation"] == "2 files"


def test_a_folder_that_cannot_hold_a_data_base_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"because of the \?: give another --output_dir"):
        sqlite_uri(tmp_path / "what?")
    assert sqlite_uri(Path("with a space")).endswith("/with a space/mlruns.db")


def test_a_deleted_experiment_is_refused_before_the_work(uri):
    client = mlflow.MlflowClient(uri)
    client.delete_experiment(client.create_experiment("gone#1"))
    done = []
    engine, _ = engine_that(done.append, tracking_uri=uri, experiment_name="gone#1")
    with pytest.raises(ValueError, match="experiment 'gone#1' was deleted: restore it .* another --experiment_name"):
        engine.run([0, 1], max_epochs=1)
    assert not done


def test_a_server_that_is_not_there_is_said_at_once():
    done = []
    engine, _ = engine_that(done.append, tracking_uri="http://user:secret@127.0.0.1:9")
    with pytest.raises(ConnectionError, match="no MLflow server answers at http://127.0.0.1:9") as caught:
        engine.run([0], max_epochs=1)
    assert not done and "secret" not in str(caught.value)
