"""Training of the transmrsr bundle through the bundle runner, stage after stage: tiny heads, tiny networks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from custom_nets.checkpoints import load_network, save_checkpoint
from custom_nets.networks import SwinRegressor
from custom_nets.utils import root_cause
from tests.bundles.timed import check_time_budget
from tests.bundles.training import checkpoint, losses_of, save_heads

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "bundles" / "transmrsr" / "configs"
WIDTHS = {"network_def#widths": [8, 16], "network_def#style_dim": 16, "network_def#head_width": 4}
PRIOR = {
    **WIDTHS,
    "discriminator_channels": [8, 8, 8],
    "network_def#num_centroids": 3,
    "batch_size": 4,
    "iterations_per_epoch": 3,
    "max_epochs": 4,
    "r1_interval": 2,
    "device": "cpu",
}
TRAIN = {
    **WIDTHS,
    "slices": 3,
    "rows": 32,
    "columns": 32,
    "batch_size": 2,
    "iterations_per_epoch": 3,
    "max_epochs": 4,
    "val_interval": 2,
    "validation_crop_size": 32,
    "validation_scales": [4, 5],
    "lr_scheduler#warmup_steps": 2,
    "lr_scheduler#t_total": 200,
    "ema#momentum": 0.2,
    "learning_rate": 0.003,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two balls of smooth texture in air, raw scanner values."""
    return save_heads(tmp_path_factory.mktemp("heads"), 40)


def workflow(files: str | list[str], output: Path, data: Path | None = None, **override: Any) -> ConfigWorkflow:
    """``files``: names in the bundle; the first says which stage."""
    files = [files] if isinstance(files, str) else files
    tiny = {"pretrain_prior": PRIOR, "train": TRAIN}.get(files[0], {})
    override = {**tiny, "output_dir": str(output), **override}
    if data is not None:
        override["dataset_dir"] = str(data)
    paths = [str(CONFIGS / f"{name}.json") for name in files]
    made = ConfigWorkflow(paths, workflow_type="train", logging_file=False, **override)
    made.initialize()
    return made


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises((RuntimeError, ValueError)) as caught:
        call(*args, **kwargs)
    return str(root_cause(caught.value))


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory) -> tuple[Path, list[float]]:
    """Stage 1, four epochs."""
    output = tmp_path_factory.mktemp("pretrained")
    return output, losses_of(workflow("pretrain_prior", output, data))


@pytest.fixture(scope="module")
def prior(pretrained, tmp_path_factory) -> str:
    """The prior with its centroids."""
    folder = tmp_path_factory.mktemp("prior")
    shutil.copy(pretrained[0] / "prior.pt", folder)
    workflow("fit_centroids", folder, latents=200).run()
    return str(folder / "prior.pt")


@pytest.fixture(scope="module")
def trained(data, prior, tmp_path_factory) -> tuple[Path, list[float]]:
    """Stage 2 with the prior, four epochs."""
    output = tmp_path_factory.mktemp("trained")
    return output, losses_of(workflow("train", output, data, prior=prior, **{"network_def#num_centroids": 3}))


# ---- stage 1 ----


def test_prior_leaves_what_it_promises(pretrained):
    from PIL import Image

    output, losses = pretrained
    assert len(losses) == 12 and np.isfinite(losses).all()
    state = checkpoint(output)
    own = {"model", "discriminator", "ema", "g_optimizer", "d_optimizer", "epoch", "complete"}
    assert set(state) == own | {"iteration", "time_budget"}
    assert state["epoch"] == 4
    prior = load_network(output / "prior.pt")
    assert prior.size == 32 and len(prior.centroids) == 3 and bool(torch.isnan(prior.centroids).all())
    assert torch.equal(prior.synthesis.constant, state["ema"]["synthesis.constant"])  # the moving average
    assert Image.open(output / "samples.png").size == (8 * 32, 4 * 32)
    assert not list(output.glob("*.partial"))


def test_resumed_prior_equals_an_uninterrupted_one(data, pretrained, tmp_path):
    losses = losses_of(workflow("pretrain_prior", tmp_path, data, max_epochs=2))
    losses += losses_of(workflow("pretrain_prior", tmp_path, data, resume=True))
    assert losses == pretrained[1]
    whole, both = checkpoint(pretrained[0]), checkpoint(tmp_path)
    for part in ("model", "discriminator", "ema"):
        assert all(torch.equal(both[part][key], value) for key, value in whole[part].items() if key != "centroids")


def test_all_options_of_stage_1_at_once(data, tmp_path):
    override = {"consistency": 10.0, "spectral_norm": False, "differentiable_augment": False, "amp": True}
    made = workflow("pretrain_prior", tmp_path, data, max_epochs=1, r1_weight=5.0, **override)
    trainer = made.parser.get_parsed_content("train#trainer")
    assert isinstance(trainer.augment, torch.nn.Identity)
    assert np.isfinite(losses_of(made)).all() and trainer.r1 > 0
    assert not any("weight_orig" in key for key in checkpoint(tmp_path)["discriminator"])


# ---- centroids ----


def test_centroids_are_fitted(prior):
    network = load_network(prior)
    assert network.centroids.shape == (3, 16) and bool(torch.isfinite(network.centroids).all())


def test_centroids_of_something_else_are_refused(tmp_path):
    assert "no checkpoint at" in message(workflow("fit_centroids", tmp_path).run)
    arch = {"slices": 3, "dim": 8, "depths": [1], "head_width": 4}
    save_checkpoint(tmp_path / "prior.pt", SwinRegressor(**arch), {"name": "SwinRegressor", **arch})
    assert "not a BrainPrior" in message(workflow("fit_centroids", tmp_path).run)


# ---- stage 2 ----


def test_properties_are_complete(data, tmp_path):
    assert workflow("train", tmp_path, data).check_properties() == []


def test_training_leaves_what_it_promises(trained, prior):
    output, losses = trained
    assert len(losses) == 12 and np.isfinite(losses).all()
    state = checkpoint(output)
    assert state["epoch"] == 4 and state["best"]["epoch"] in (2, 4) and np.isfinite(state["best"]["metric"])
    assert {"model", "ema", "optimizer", "lr_scheduler"} <= set(state)
    assert (output / "validation.png").stat().st_size > 5000
    network = load_network(output / "model.pt")
    assert network(torch.rand(1, 3, 20, 30), 3.5).shape == (1, 1, 20, 30)
    first = load_network(prior)
    assert torch.equal(network.centroids, first.centroids)
    # it started from the prior's decoder, and went on
    moved = (network.generator.constant - first.synthesis.constant).abs().max()
    assert 0 < float(moved) < 0.2
    assert not list(output.glob("*.partial"))


def test_resumed_training_equals_an_uninterrupted_one(data, prior, trained, tmp_path):
    more = {"prior": prior, "network_def#num_centroids": 3}
    losses = losses_of(workflow("train", tmp_path, data, max_epochs=2, **more))
    losses += losses_of(workflow("train", tmp_path, data, resume=True, **more))
    assert losses == trained[1]
    whole, both = checkpoint(trained[0]), checkpoint(tmp_path)
    assert all(torch.equal(both["ema"][key], value) for key, value in whole["ema"].items())
    assert both["best"] == whole["best"]


@pytest.mark.parametrize("stage", ["pretrain_prior", "train"])
def test_max_minutes(data, tmp_path, monkeypatch, stage):
    check_time_budget(partial(workflow, stage, tmp_path, data), tmp_path, monkeypatch)


def test_without_prior_and_with_ablations(data, tmp_path):
    switches = {"network_def#multi_resolution": False, "network_def#skip": False, "network_def#truncation": 1.0}
    made = workflow("train", tmp_path, data, max_epochs=1, val_interval=1, **switches)
    losses_of(made)
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert model["arch"]["num_centroids"] == 0 and model["arch"]["skip"] is False
    assert not any(key.startswith("condition") for key in model["model"])
    metrics = made.parser.get_parsed_content("validate#evaluator").state.metrics
    assert {"psnr_gain_db", "gain_db", "gain_1x1x4_db", "gain_1x1x5_db"} <= set(metrics)
    assert metrics["gain_db"] == pytest.approx((metrics["gain_1x1x4_db"] + metrics["gain_1x1x5_db"]) / 2)


def test_a_frozen_prior_stays(data, prior, tmp_path):
    more = {"prior": prior, "freeze_prior": True, "network_def#num_centroids": 3}
    losses_of(workflow("train", tmp_path, data, max_epochs=1, **more))
    state, first = checkpoint(tmp_path), load_network(prior).synthesis.state_dict()
    assert all(torch.equal(state["model"][f"generator.{key}"], value) for key, value in first.items())
    network = load_network(tmp_path / "model.pt")  # the moving average is rounded
    torch.testing.assert_close(network.generator.state_dict(), first)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"prior": "nowhere.pt"}, "no checkpoint at nowhere.pt"),
        ({"freeze_prior": True}, "name it \\(prior\\)"),
        ({"prior": "PRIOR"}, "has 3 centroids, this network takes 8"),
        ({"prior": "PRIOR", "network_def#widths": [8, 8]}, "other sizes"),
        ({"prior": "UNFITTED"}, "fit_centroids.json"),
        ({"network_def#widths": [8]}, "at least 2 levels"),
        ({"network_def#widths": [8, 12]}, "multiples of 2 head_width"),
        ({"slices": 4}, "slices must be odd"),
        ({"rows": 64}, "smaller than a patch"),
        ({"validation_scales": [12]}, "too small to validate at scale 12"),
    ],
)
def test_bad_options_say_what_is_wrong(data, prior, pretrained, tmp_path, override, words):
    import re

    places = {"PRIOR": prior, "UNFITTED": str(pretrained[0] / "prior.pt")}
    override = {key: places.get(value, value) if isinstance(value, str) else value for key, value in override.items()}

    def run() -> None:
        workflow("train", tmp_path, data, max_epochs=1, **override).run()

    assert re.search(words, message(run))


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        ("train", {"max_epoch": 3}, "did you mean 'max_epochs'"),
        ("train", {"network_def#skips": False}, "'network_def::skip'"),
        ("train", {"freeze_prior": "false"}, "write False"),
        ("pretrain_prior", {"r1_interva": 4}, "did you mean 'r1_interval'"),
        ("fit_centroids", {"cluster": 4}, "did you mean 'clusters'"),
    ],
)
def test_wrong_ids_and_values_are_refused(data, tmp_path, stage, override, words):
    with pytest.raises(SystemExit, match=words):
        workflow(stage, tmp_path, None if stage == "fit_centroids" else data, **override)


def test_published_recipe(data, tmp_path):
    tiny = {
        "network_def": {
            "_target_": "custom_nets.networks.TransMRSR", "size": 32, "channels": [16, 16, 16, 16], "style_dim": 8,
        },
        "max_epochs": 1, "iterations_per_epoch": 2, "batch_size": 2, "val_interval": 1, "slices": 1, "rows": 30,
        "columns": 30, "validation_crop_size": 28, "validation_scales": ["@factor"], "learning_rate": 1e-4,
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1, "gamma": 0.5,
        },
        "device": "cpu", "dataset_dir": str(data), "output_dir": str(tmp_path),
    }  # fmt: skip
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "train_published")]
    made = ConfigWorkflow(files, workflow_type="train", logging_file=False, **tiny)
    made.initialize()
    item = made.parser.get_parsed_content("train#dataset")[0]
    assert float(item["scale"]) == 4 and item["image"].shape == (1, 30, 30)
    losses_of(made)
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(2.5e-5)
    assert load_network(tmp_path / "model.pt")(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_the_plain_competitor_is_trained_by_the_same_recipe(data, tmp_path):
    small = {"dim": 8, "depths": [2], "head_width": 4, "window": 4, "ratio": 2}
    options = {
        **{key: value for key, value in TRAIN.items() if key not in WIDTHS},
        **{f"network_def#{name}": value for name, value in small.items()},
        "max_epochs": 1, "val_interval": 1, "output_dir": str(tmp_path), "dataset_dir": str(data),
    }  # fmt: skip
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "regressor")]
    made = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
    made.initialize()
    losses_of(made)
    network = load_network(tmp_path / "model.pt")
    assert isinstance(network, SwinRegressor) and len(network.groups) == 1


def test_full_size_networks_fit_together():
    parts = {}
    for stage in ("pretrain_prior", "train"):
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / f"{stage}.json"), str(CONFIGS / "full.json")])
        with torch.device("meta"):
            parts[stage] = parser.get_parsed_content("network_def")
            if stage == "pretrain_prior":
                assert parser.get_parsed_content("discriminator_def").size == parts[stage].size == 128
    assert parts["train"].divisor == 128
    shapes = {key: value.shape for key, value in parts["pretrain_prior"].synthesis.state_dict().items()}
    assert shapes == {key: value.shape for key, value in parts["train"].generator.state_dict().items()}


# ---- MLflow ----


@pytest.mark.parametrize(
    ("stage", "settings", "metrics", "files"),
    [
        ("pretrain_prior", "mlflow_prior", {"train_loss", "train_d_loss", "train_r1"}, {"prior.pt", "samples.png"}),
        ("train", "mlflow", {"train_loss", "val_gain_1x1x5_db"}, {"bundle", "validation.png"}),
    ],
)
def test_mlflow_run_is_complete(data, tmp_path, stage, settings, metrics, files):
    mlflow = pytest.importorskip("mlflow")
    tracked = {"tracking": str(CONFIGS / f"{settings}.json"), "log_every": 2, "max_epochs": 2}
    losses_of(workflow(stage, tmp_path, data, **tracked))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments() if "transmrsr" in e.name])
    assert run.info.status == "FINISHED" and metrics | {"learning_rate"} <= set(run.data.metrics)
    assert run.data.params["network_def.style_dim"] == "16"
    names = [entry.path for entry in client.list_artifacts(run.info.run_id)]
    pictures = [e.path for e in client.list_artifacts(run.info.run_id, "pictures/epoch_00002")]
    assert files <= {*names, *(Path(path).name for path in pictures)} and {"config.json", "data.json"} <= set(names)


# ---- two processes ----


@pytest.mark.parametrize("stage", ["pretrain_prior", "train"])
def test_two_processes(data, request, tmp_path, stage):
    tiny = {"pretrain_prior": PRIOR, "train": TRAIN}[stage]
    override = {**tiny, "max_epochs": 2, "dataset_dir": str(data), "output_dir": str(tmp_path / "out")}
    files = str([str(CONFIGS / f"{name}.json") for name in (stage, "multi_gpu_train")])
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    arguments += ["--config_file", files] + [f"--{k}={v}" for k, v in override.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("Epoch 2 of 2: mean loss") == 1  # the first process alone reports
    state = checkpoint(tmp_path / "out")
    assert state["epoch"] == 2 and not any(key.startswith("module.") for key in state["model"])
    # and one process goes on from there
    assert len(losses_of(workflow(stage, tmp_path / "out", data, resume=True, max_epochs=3))) == 3
