"""MLflow through the real configs: trainings and an evaluation one after another, and what becomes of their bundles."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.tracking import sqlite_uri
from custom_nets.utils.record import file_record
from tests.bundles.test_arssr_training import TINY, TRAIN, workflow
from tests.bundles.training import simulated_head

mlflow = pytest.importorskip("mlflow")

BUNDLES = sorted(path.parents[1] for path in Path(TRAIN).parents[2].glob("*/configs/mlflow.json"))
CONFIGS = Path(TRAIN).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for seed in range(2):
        nib.save(simulated_head(seed, 40), folder / f"sub-{seed:02d}_T1w.nii.gz")
    return folder


def train(data: Path, output: Path, **override: Any) -> None:
    made = workflow(data, output, tracking=str(CONFIGS / "mlflow.json"), **override)
    if override.get("learning_rate") == 666.0:  # one that shall fail
        made.trainer.loss_function = lambda *_: 1 / 0
    made.run()
    made.finalize()


def evaluate(data: Path, output: Path, **override: Any) -> None:
    made = ConfigWorkflow(
        str(CONFIGS / "evaluate.json"),
        workflow_type="inference",
        logging_file=False,
        tracking=str(CONFIGS / "mlflow_eval.json"),
        dataset_dir=str(data),
        output_dir=str(output),
        device="cpu",
        **override,
    )
    made.initialize()
    made.run()
    made.finalize()


@pytest.fixture(scope="module")
def tracked(data, tmp_path_factory) -> tuple[Path, Any, list[Any]]:
    """Folder (with a space), client and runs of: training, training that fails, training, evaluation of the last."""
    folder = tmp_path_factory.mktemp("all runs")
    short = {"max_epochs": 2, "iterations_per_epoch": 3, "log_every": 2, "run_name": "same"}
    short |= {"tracking_uri": sqlite_uri(folder)}
    train(data, folder / "one", **short)
    with pytest.raises(RuntimeError):
        train(data, folder / "one", **short, learning_rate=666.0)
    train(data, folder / "two", **short, seed=1)
    old = folder / "report" / "pictures" / "of_an_earlier_evaluation.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    evaluate(
        data,
        folder / "report",
        checkpoint=str(folder / "two" / "model.pt"),
        degradations={"iso2 (own)": [2, 2, 2]},
        tracking_uri=short["tracking_uri"],
    )
    client = mlflow.MlflowClient(short["tracking_uri"])
    experiments = [e.experiment_id for e in client.search_experiments()]
    return folder, client, client.search_runs(experiments, order_by=["attributes.start_time"])


def artifacts(client: Any, run: Any, folder: str | None = None) -> set[str]:
    found: set[str] = set()
    for entry in client.list_artifacts(run.info.run_id, folder):
        found |= artifacts(client, run, entry.path) if entry.is_dir else {entry.path}
    return found


def content(client: Any, run: Any, name: str, folder: Path) -> Any:
    return json.loads(Path(client.download_artifacts(run.info.run_id, name, str(folder))).read_text())


def test_each_run_is_its_own_and_closed(tracked):
    folder, client, runs = tracked
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]
    assert [run.data.tags["kind"] for run in runs] == ["training"] * 3 + ["evaluation"]
    names = [client.get_experiment(run.info.experiment_id).name for run in runs]
    assert names == ["arssr_train"] * 3 + ["arssr_evaluate"]
    # nothing lies beside the folder that was named
    assert sorted(path.name for path in folder.iterdir()) == ["mlruns", "mlruns.db", "one", "report", "two"]
    assert not [path for path in folder.parent.iterdir() if "%" in path.name]


def test_a_training_says_how_to_repeat_it(tracked, tmp_path):
    _, client, runs = tracked
    run = runs[0]
    parameters = run.data.params
    assert parameters["learning_rate"] == "0.003" and parameters["seed"] == "0" and parameters["batch_size"] == "2"
    assert parameters["network_def.num_features"] == "8" and parameters["version.torch"] == torch.__version__
    assert len(parameters["git_revision"].removesuffix("+changes")) in (40, len("unknown"))
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in history] == [2, 4, 6]
    assert {"val_psnr_db", "val_gain_db", "learning_rate"} == {
        name for name in run.data.metrics if not name.startswith(("train_", "val_gain_2x2x2", "val_gain_1x1x3"))
    }
    assert {"val_gain_1x1x3_db", "val_gain_1x1x3_box_db"} <= set(run.data.metrics)
    assert {"config.json", "data.json", "pictures/epoch_00002/validation.png"} <= artifacts(client, run)
    record = content(client, run, "data.json", tmp_path)
    assert len(record["train"]) == len(record["validation"]) == 1 and len(record["train"][0]["sha256"]) == 64
    assert content(client, run, "config.json", tmp_path)["patch_size"] == TINY["patch_size"]


def test_nothing_that_is_sent_says_whose_scan_it_is(tracked, tmp_path):
    """No path, name of a file, case or subject: in parameters, tags, names of artifacts and what stands in them."""
    folder, client, runs = tracked
    for run in runs:
        local = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        sent = [str(run.data.params), str(run.data.tags), *artifacts(client, run)]
        files = [path for path in local.rglob("*") if path.suffix in (".json", ".csv", ".md", ".html")]
        sent += [path.read_text() for path in files if "bundle" not in path.parts]
        for text in sent:
            for name in ("sub-0", "T1w", str(folder), folder.name, tempfile.gettempdir()):
                assert name not in text, (name, text[max(0, text.find(name) - 200) :][:400])


def test_an_evaluation_says_what_it_measured(tracked, tmp_path):
    folder, client, runs = tracked
    run = runs[3]
    summary = json.loads((folder / "report" / "report.json").read_text())["summary"]
    (ours,) = [r for r in summary if (r["method"], r["region"], r["metric"]) == ("ours", "brain", "psnr")]
    assert run.data.metrics["iso2 _own_/brain/psnr/ours"] == pytest.approx(ours["mean"])
    assert {"iso2 _own_/brain/nrmse/excess_over_bspline", "iso2 _own_/whole/published_ssim/ours"} <= set(
        run.data.metrics
    )
    assert not [name for name in run.data.metrics if name.startswith(("train_", "val_", "learning"))]
    assert run.data.params["checkpoint"] == "(private)" and str(folder) not in str(run.data.params)
    names = artifacts(client, run)
    assert {"report.json", "table.md", "summary.csv", "config.json"} <= names
    assert sum(name.startswith("pictures/") and name.endswith("_iso2 (own).png") for name in names) == 2
    assert "pictures/of_an_earlier_evaluation.png" not in names
    record = content(client, run, "data.json", tmp_path)["evaluation"]
    assert len(record) == 2 and not any("sub-0" in str(entry) for entry in record)
    assert all(len(entry["sha256"]) == 64 for entry in record)


def test_the_bundle_of_a_run_has_its_own_weights(tracked, tmp_path):
    folder, client, runs = tracked
    model = "bundle/models/model.pt"
    needed = {model, "bundle/LICENSE", "bundle/configs/inference.json", "bundle/docs/README.md"}
    hashes = []
    for run in (runs[0], runs[2], runs[3]):
        names = {name for name in artifacts(client, run) if name.startswith("bundle/")}
        assert needed <= names and all(name.split("/")[1] in ("configs", "docs", "LICENSE", "models") for name in names)
        path = client.download_artifacts(run.info.run_id, model, str(tmp_path))
        hashes.append(file_record(path)["sha256"])
        assert run.data.tags["weights_sha256"] == hashes[-1]
    assert hashes == [file_record(folder / name / "model.pt")["sha256"] for name in ("one", "two", "two")]
    assert hashes[0] != hashes[1]
    # the failed training wrote no weights; those that lay there are of the first one
    assert not [name for name in artifacts(client, runs[1]) if "model.pt" in name or "validation.png" in name]


def test_settings_of_all_bundles_are_the_same():
    assert len(BUNDLES) >= 3
    for name in ("mlflow.json", "mlflow_eval.json"):
        texts = {re.sub(rf"\b{b.name}_", "NAME_", (b / "configs" / name).read_text()) for b in BUNDLES}
        assert len(texts) == 1, name


def test_settings_of_the_wrong_kind_are_refused(data, tmp_path):
    with pytest.raises(SystemExit, match="mlflow.json to a training, mlflow_eval.json to an evaluation"):
        workflow(data, tmp_path, tracking=str(CONFIGS / "mlflow_eval.json"))
    with pytest.raises(SystemExit, match="'tracking_url' is not an id of this config; did you mean 'tracking_uri'"):
        workflow(data, tmp_path, tracking=str(CONFIGS / "mlflow.json"), tracking_url="http://localhost:1")


def test_a_tracked_run_becomes_a_version_that_runs(tracked, tmp_path):
    from custom_nets.tracking import compare as compare_runs
    from custom_nets.tracking import registry

    folder, client, runs = tracked
    uri = sqlite_uri(folder)
    registry.register(runs[2].info.run_id, "mine", uri)
    with pytest.raises(ValueError, match="is FAILED, only a FINISHED run"):
        registry.register(runs[1].info.run_id, "mine", uri)
    fetched = registry.fetch("mine", tmp_path, version=1, tracking_uri=uri)
    assert file_record(fetched / "models" / "model.pt")["sha256"] == runs[2].data.tags["weights_sha256"]

    written = compare_runs.compare_runs(runs[0].info.run_id, runs[2].info.run_id, tmp_path / "compared", uri)
    text = written[0].read_text()
    assert "| seed | 0 | 1 |" in text and "| val_psnr_db |" in text
    assert [path.suffix for path in written] == [".md", ".csv", ".png"]
