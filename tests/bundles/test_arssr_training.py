"""Training of the arssr bundle through the bundle runner: tiny heads, a tiny network, a few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy import ndimage

from custom_nets.checkpoints import load_network
from custom_nets.networks import ResidualArSSR
from custom_nets.operators.slice_profile import degrade
from custom_nets.utils import root_cause
from tests.bundles.timed import check_time_budget
from tests.bundles.training import checkpoint, losses_of, save_heads, start

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "bundles" / "arssr" / "configs"
TRAIN = str(CONFIGS / "train.json")
TINY = {
    "network_def#num_blocks": 1,
    "network_def#num_features": 8,
    "network_def#growth": 8,
    "network_def#feature_dim": 8,
    "network_def#decoder_width": 16,
    "patch_size": 12,
    "num_points": 800,
    "batch_size": 2,
    "iterations_per_epoch": 6,
    "max_epochs": 4,
    "val_interval": 2,
    "validation_crop_size": 40,
    "validation_scales": [[2, 2, 2], [1, 1, 3]],
    "lr_scheduler#warmup_steps": 2,
    "lr_scheduler#t_total": 200,
    "ema#momentum": 0.2,
    "learning_rate": 0.003,
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return save_heads(tmp_path_factory.mktemp("heads"))


workflow = partial(start, TRAIN, TINY)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, list[float]]:
    """Four epochs, from the command's own entry points; all tests that only look share it."""
    output = tmp_path_factory.mktemp("trained")
    return output, losses_of(workflow(data, output))


def test_properties_are_complete(data, tmp_path):
    assert workflow(data, tmp_path).check_properties() == []


def test_properties_are_complete_with_evaluation(data, tmp_path):
    if not (CONFIGS / "evaluate.json").is_file():
        pytest.skip("no evaluate.json yet")
    made = ConfigWorkflow(
        [TRAIN, str(CONFIGS / "evaluate.json")],
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(data),
        output_dir=str(tmp_path),
        initialize=["$custom_nets.bundle.check_config()"],
    )
    made.initialize()
    assert made.check_properties() == []


def test_training_leaves_what_it_promises(trained):
    output, losses = trained
    assert len(losses) == 24 and np.isfinite(losses).all()
    state = checkpoint(output)
    assert state["epoch"] == 4 and {"model", "ema", "optimizer", "lr_scheduler", "best"} <= set(state)
    assert state["best"]["epoch"] in (2, 4) and state["best"]["metric"] > 15
    assert (output / "validation.png").stat().st_size > 5000

    model = torch.load(output / "model.pt", weights_only=True)
    assert model["arch"]["name"] == "ResidualArSSR" and model["arch"]["num_features"] == 8
    network = load_network(output / "model.pt")
    assert network(torch.rand(1, 1, 8, 9, 10)).shape == (1, 1, 16, 18, 20)
    assert float(network.decoder[-1].weight.abs().sum()) > 0
    assert not list(output.glob("*.partial"))


def test_same_command_same_losses(data, trained, tmp_path):
    assert losses_of(workflow(data, tmp_path)) == trained[1]
    assert losses_of(workflow(data, tmp_path, seed=1, max_epochs=1)) != trained[1][:6]


def test_resumed_training_equals_an_uninterrupted_one(data, trained, tmp_path):
    losses = losses_of(workflow(data, tmp_path, max_epochs=2))
    before = checkpoint(tmp_path)
    made = workflow(data, tmp_path, resume=True)
    losses += losses_of(made)
    whole, both = checkpoint(trained[0]), checkpoint(tmp_path)
    assert losses == trained[1]
    assert (before["epoch"], both["epoch"]) == (2, 4)
    assert both["lr_scheduler"]["last_epoch"] == 24
    assert both["optimizer"]["param_groups"][0]["lr"] == whole["optimizer"]["param_groups"][0]["lr"]
    for part in ("model", "ema"):
        assert all(torch.equal(both[part][key], whole[part][key]) for key in whole[part])
    assert both["best"] == whole["best"]


def test_a_prolonged_schedule_takes_its_new_shape(data, trained, tmp_path):
    made = workflow(data, tmp_path, max_epochs=1, **{"lr_scheduler#t_total": 6})
    losses_of(made)
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)
    losses_of(workflow(data, tmp_path, max_epochs=2, resume=True))
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"] > 0.0025


def test_finetune_starts_from_given_weights(data, trained, tmp_path):
    weights = trained[0] / "model.pt"
    made = workflow(data, tmp_path, finetune=str(weights))
    given = torch.load(weights, weights_only=True)["model"]
    for network in (made.trainer.network, made.evaluator.network):  # this one is the moving average
        assert all(torch.equal(value, given[key]) for key, value in network.state_dict().items())


def test_finetune_says_what_is_wrong(data, tmp_path):
    for weights, words in (
        ("nowhere.pt", "no checkpoint at nowhere.pt"),
        (
            "bundles/most_dsa/models/model.pt",
            "has the weights of SymmetricMoStDSA, but this config trains ResidualArSSR",
        ),
        ("bundles/arssr/models/model.pt", "does not fit ResidualArSSR"),
    ):
        with pytest.raises(Exception) as caught:
            workflow(data, tmp_path, finetune=weights if weights == "nowhere.pt" else str(REPOSITORY / weights))
        assert words in str(root_cause(caught.value))


def test_resume_says_what_is_wrong(data, trained, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        workflow(data, tmp_path, resume=True)
    assert "nothing to resume" in str(root_cause(caught.value))
    with pytest.raises(RuntimeError) as caught:
        workflow(data, trained[0], resume=True).run()
    assert "--max_epochs above 4" in str(root_cause(caught.value))
    with pytest.raises(RuntimeError) as caught:
        workflow(data, trained[0], resume=True, max_epochs=5, **{"network_def#num_features": 9}).run()
    assert "'model' of" in str(root_cause(caught.value)) and "does not fit" in str(root_cause(caught.value))


def test_early_stop(data, tmp_path):
    # nothing can improve without a learning rate; the first validation is the best one
    made = workflow(data, tmp_path, learning_rate=0.0, val_interval=1, early_stop_patience=2, max_epochs=9)
    losses_of(made)
    assert checkpoint(tmp_path)["epoch"] == 3


def test_max_minutes(data, tmp_path, monkeypatch):
    check_time_budget(partial(workflow, data, tmp_path), tmp_path, monkeypatch)


def test_incomplete_batch_and_more_points_than_voxels(data, tmp_path):
    sampler = {"_target_": "torch.utils.data.RandomSampler", "data_source": "@train#dataset", "num_samples": 3}
    override = {"num_points": 40000, "max_epochs": 1, "train#dataloader#sampler": sampler}
    assert len(losses_of(workflow(data, tmp_path, **override))) == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"max_epoch": 3}, "did you mean 'max_epochs'"),
        ({"train::trainer::max_epoch": 3}, "'train::trainer::max_epochs'"),
        ({"amp": "false"}, "write False"),
        ({"network_def#num_block": 3}, "'network_def::num_blocks'"),
        ({"batch_size": "four"}, "must be a number"),
    ],
)
def test_wrong_ids_and_values_are_refused(data, tmp_path, override, words):
    with pytest.raises(SystemExit, match=words):
        workflow(data, tmp_path, **override)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        workflow(tmp_path / "nowhere", tmp_path)
    assert "nowhere does not exist" in str(root_cause(caught.value))


def test_published_recipe(data, tmp_path):
    tiny = {
        "network_def": {"_target_": "custom_nets.networks.ArSSR", "encoder": "ResCNN", "feature_dim": 8},
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.StepLR",
            "optimizer": "@optimizer",
            "step_size": 2,
            "gamma": 0.5,
        },
        "max_epochs": 1,
        "iterations_per_epoch": 3,
        "batch_size": 2,
        "val_interval": 1,
        "precision": "float32",
        "device": "cpu",
        "dataset_dir": str(data),
        "output_dir": str(tmp_path),
    }
    files = [TRAIN, str(CONFIGS / "train_published.json")]
    made = ConfigWorkflow(files, workflow_type="train", logging_file=False, **tiny)
    made.initialize()
    assert float(made.network_def.decoder.stage_two[-2].bias) == pytest.approx(0.4)
    losses_of(made)
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(5e-5)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["arch"]["name"] == "ArSSR"


# ---- the command line, alone and with two processes ----


def command(data: Path, output: Path, *files: str) -> list[str]:
    override = {**TINY, "max_epochs": 2, "dataset_dir": str(data), "output_dir": str(output)}
    listed = str([str(CONFIGS / f"{name}.json") for name in files])
    return ["-m", "monai.bundle", "run", "--config_file", listed] + [f"--{k}={v}" for k, v in override.items()]


def start(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes(data, trained, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = start(launcher + command(data, tmp_path / "out", "train", "multi_gpu_train"), tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("Epoch 2 of 2: mean loss") == 1  # the first process alone reports
    state, single = checkpoint(tmp_path / "out"), checkpoint(trained[0])
    assert state["epoch"] == 2
    assert {key: value.shape for key, value in state["model"].items()} == {
        key: value.shape for key, value in single["model"].items()
    }
    assert load_network(tmp_path / "out" / "model.pt") is not None
    # and one process goes on from there
    resumed = workflow(data, tmp_path / "out", resume=True, max_epochs=3)
    assert len(losses_of(resumed)) == 6


def test_command_line_from_another_folder(data, tmp_path):
    result = start([*command(data, tmp_path / "out", "train"), "--epochs=3"], tmp_path)
    assert result.returncode == 1 and not (tmp_path / "out").exists()
    assert result.stderr.strip().splitlines()[-1].startswith("error: 'epochs' is not an id of this config")


# ---- the network itself ----


@pytest.mark.parametrize("seed", range(20))
def test_loss_falls_for_every_seed(seed):
    """No seed starts with a dead output unit, as a third of them do in the published network."""
    torch.manual_seed(seed)
    network = ResidualArSSR(16, 16, 16, 1, 2, decoder_width=64, decoder_depth=3)
    noise = ndimage.gaussian_filter(np.random.RandomState(seed).rand(16, 16, 16), 2)
    truth = torch.as_tensor(noise > np.median(noise)).float()[None, None]  # sharp edges: there is something to learn
    image = degrade(truth, (8, 8, 8))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = (network(image) - truth).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
