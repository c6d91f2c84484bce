"""Training of the most_dsa bundle through the bundle runner: tiny runs, a tiny network, a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom_nets.apps.simulate_training_runs import simulate_run
from custom_nets.checkpoints import load_network
from custom_nets.utils import root_cause
from tests.bundles.timed import check_time_budget
from tests.bundles.training import checkpoint, losses_of, start

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "bundles" / "most_dsa" / "configs"
TRAIN = str(CONFIGS / "train.json")
TINY = {
    "network_def#widths": [4, 4, 4, 4],
    "network_def#pair_width": 4,
    "network_def#time_width": 4,
    "crop_size": 48,
    "longest_gap": 4,
    "batch_size": 2,
    "iterations_per_epoch": 5,
    "max_epochs": 4,
    "val_interval": 2,
    "validation_fraction": 0.4,
    "validation_repeats": 2,
    "lr_scheduler#warmup_steps": 2,
    "lr_scheduler#t_total": 200,
    "ema#momentum": 0.2,
    "learning_rate": 0.003,
    "device": "cpu",
}
KINDS = {"flow": True, "motions": 3, "angles": True, "cubic": True}  # what the recipe switches on


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two simulated runs, one of each kind, and two measured ones."""
    folder = tmp_path_factory.mktemp("runs")
    simulate_run(folder, 1, "fixed", (64, 64), 7)
    simulate_run(folder, 2, "rotational", (64, 64), 7)
    rng = np.random.default_rng(0)
    for name in ("patient_a", "patient_b"):
        (folder / name).mkdir()
        frames = rng.integers(500, 900, (6, 50, 60)).astype(np.uint16)
        np.savez(folder / name / "run.npz", frames=frames, times_s=np.array([0, 0.2, 0.4, 0.7, 1.2, 1.3]))
    return folder


workflow = partial(start, TRAIN, TINY)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, list[float]]:
    """Four epochs; all tests that only look share it."""
    output = tmp_path_factory.mktemp("trained")
    return output, losses_of(workflow(data, output))


def test_properties_are_complete(data, tmp_path):
    assert workflow(data, tmp_path).check_properties() == []


def test_training_leaves_what_it_promises(trained):
    output, losses = trained
    assert len(losses) == 20 and np.isfinite(losses).all()
    state = checkpoint(output)
    assert state["epoch"] == 4 and {"model", "ema", "optimizer", "lr_scheduler", "best"} <= set(state)
    assert state["best"]["epoch"] in (2, 4) and state["best"]["metric"] > 15
    assert (output / "validation.png").stat().st_size > 5000
    model = torch.load(output / "model.pt", weights_only=True)
    sizes = {"widths": [4, 4, 4, 4], "pair_width": 4, "time_width": 4}
    assert model["arch"] == {"name": "SymmetricMoStDSA", **sizes, **KINDS}
    network = load_network(output / "model.pt")
    assert network(torch.rand(1, 1, 33, 40), torch.rand(1, 1, 33, 40), [0.2, 0.7]).shape == (1, 2, 1, 33, 40)
    assert float(network.output.weight.detach().abs().sum()) > 0
    assert not list(output.glob("*.partial"))


def test_the_angles_are_learned_where_they_are_asked_for(data, tmp_path):
    """From weights that do not know them: the new layers leave zero."""
    kinds = {"train": "rotational_00002", "validation": "fixed_00001"}
    runs = [{"image": str(data / name), "subject": name, "split": split} for split, name in kinds.items()]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    given = {"max_epochs": 1, "val_interval": 1, "iterations_per_epoch": 3, "datalist": str(tmp_path / "runs.json")}
    losses_of(workflow(data, tmp_path / "before", angle_prob=None, **given))
    start_from = tmp_path / "before" / "model.pt"
    assert not load_network(start_from).takes_angles
    assert np.isfinite(losses_of(workflow(data, tmp_path / "out", finetune=str(start_from), **given))).all()
    network = load_network(tmp_path / "out" / "model.pt")
    assert network.takes_angles
    assert all(network.get_submodule(f"turn_{part}").weight.any() for part in ("bottom", "level", "depth"))


def test_people_are_not_divided(data, tmp_path):
    made = workflow(data, tmp_path)
    training, validation = made.parser.get_parsed_content("split")
    assert not {item["subject"] for item in training} & {item["subject"] for item in validation}
    assert {item["subject"] for item in training + validation} == {
        "simulated_fixed_00001", "simulated_rotational_00002", "patient_a", "patient_b",
    }  # fmt: skip


def test_same_command_same_losses(data, trained, tmp_path):
    assert losses_of(workflow(data, tmp_path)) == trained[1]
    assert losses_of(workflow(data, tmp_path, seed=1, max_epochs=1)) != trained[1][:5]


def test_resumed_training_equals_an_uninterrupted_one(data, trained, tmp_path):
    losses = losses_of(workflow(data, tmp_path, max_epochs=2))
    losses += losses_of(workflow(data, tmp_path, resume=True))
    whole, both = checkpoint(trained[0]), checkpoint(tmp_path)
    assert losses == trained[1]
    for part in ("model", "ema"):
        assert all(torch.equal(both[part][key], whole[part][key]) for key in whole[part])
    assert both["best"] == whole["best"]


def test_max_minutes(data, tmp_path, monkeypatch):
    check_time_budget(partial(workflow, data, tmp_path), tmp_path, monkeypatch)


def test_accumulated_batches_make_fewer_steps(data, tmp_path):
    made = workflow(data, tmp_path, max_epochs=1, accumulation_steps=5)
    losses_of(made)
    steps = {float(state["step"]) for state in made.parser.get_parsed_content("optimizer").state.values()}
    assert steps == {1.0}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"max_epoch": 3}, "did you mean 'max_epochs'"),
        ({"network_def#width": [4]}, "'network_def::widths'"),
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
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError) as caught:
        workflow(tmp_path / "empty", tmp_path)
    assert "simulate some by" in str(root_cause(caught.value))


# ---- the published recipe, on the published layout ----


@pytest.fixture(scope="module")
def tuples(tmp_path_factory) -> Path:
    """``frame_1.png, frame_2_gt.png, frame_3_gt.png, frame_4.png`` in four folders, and their lists."""
    import cv2

    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(1)
    for number in range(4):
        folder = root / "data" / f"sequence_{number}" / "0"
        folder.mkdir(parents=True)
        for name in ("frame_1", "frame_2_gt", "frame_3_gt", "frame_4"):
            grey = rng.integers(100, 220, (64, 64), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{name}.png"), np.repeat(grey[..., None], 3, 2))
    (root / "lists").mkdir()
    (root / "lists" / "TrainList.txt").write_text("sequence_0/0\nsequence_1/0\nsequence_2/0\n")
    (root / "lists" / "TestList.txt").write_text("sequence_3/0\n")
    return root / "lists"


def test_published_recipe(tuples, tmp_path):
    files = [TRAIN, str(CONFIGS / "train_published.json")]
    tiny = {
        "network_def": {
            "_target_": "custom_nets.networks.MoStDSA", "num_features": 16, "num_blocks": 1, "motion_dim": 64,
            "window": 3, "head_width": 8, "refiner_width": 8,
        },
        "frames_missing": 2, "max_epochs": 2, "iterations_per_epoch": 2, "batch_size": 2, "val_interval": 1,
        "crop_size": 64, "validation_repeats": 1, "device": "cpu",
    }  # fmt: skip
    made = ConfigWorkflow(
        files, workflow_type="train", logging_file=False, dataset_dir=str(tuples), output_dir=str(tmp_path), **tiny
    )
    with pytest.warns(UserWarning, match="perceptual and style losses are left out"):
        made.initialize()
    losses = losses_of(made)
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert made.parser.get_parsed_content("loss").epoch == 2
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(4e-7)  # 4 of 2000 warm-up steps
    network = load_network(tmp_path / "model.pt")
    assert type(network).__name__ == "MoStDSA"
    item = made.parser.get_parsed_content("train#dataset")[0]
    assert item["timesteps"].tolist() == pytest.approx([1 / 3, 2 / 3])
    split = made.parser.get_parsed_content("split")
    assert [len(part) for part in split] == [3, 1] and "sequence_3" in split[1][0]["image"]


def test_second_part_of_the_recipe(data, trained, tmp_path):
    """Other loss, from trained weights on."""
    files = [TRAIN, str(CONFIGS / "finetune.json")]
    weights = trained[0] / "model.pt"
    made = workflow(data, tmp_path, files, finetune=str(weights), max_epochs=1)
    expected, started = load_network(weights).state_dict(), made.trainer.network.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in started.items())
    assert type(made.trainer.loss_function).__name__ == "MultiscalePSNRLoss"
    losses = losses_of(made)
    assert len(losses) == 5 and np.isfinite(losses).all() and max(losses) < 0  # logarithms of errors below 1


def test_published_layout_says_what_is_wrong(tuples, tmp_path):
    (tmp_path / "TrainList.txt").write_text("nothing/here\n")
    with pytest.raises(RuntimeError) as caught:
        workflow(tmp_path, tmp_path / "out")
    assert "there is no folder 'nothing/here'" in str(root_cause(caught.value))
    (tmp_path / "nothing" / "here").mkdir(parents=True)
    with pytest.raises(RuntimeError) as caught:
        workflow(tmp_path, tmp_path / "out")
    assert "frame_2_gt.png" in str(root_cause(caught.value))


# ---- MLflow ----


def test_mlflow_run_is_complete(data, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    tracked = {"tracking": str(CONFIGS / "mlflow.json"), "log_every": 2, "max_epochs": 2}
    losses_of(workflow(data, tmp_path, **tracked))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    runs = client.search_runs(client.get_experiment_by_name("most_dsa_train").experiment_id)
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert {"val_psnr_db", "val_gain_over_blend_db", "learning_rate"} <= set(runs[0].data.metrics)
    names = [entry.path for entry in client.list_artifacts(runs[0].info.run_id)]
    assert {"bundle", "config.json", "data.json", "pictures"} <= set(names)
    assert "bundle/models/model.pt" in [e.path for e in client.list_artifacts(runs[0].info.run_id, "bundle/models")]
    record = json.loads(Path(client.download_artifacts(runs[0].info.run_id, "data.json", str(tmp_path))).read_text())
    assert all(len(entry["sha256"]) == 64 for entry in record["train"])


# ---- two processes ----


def test_two_processes(data, trained, tmp_path):
    override = {**TINY, "max_epochs": 2, "dataset_dir": str(data), "output_dir": str(tmp_path / "out")}
    files = str([str(CONFIGS / f"{name}.json") for name in ("train", "multi_gpu_train")])
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    arguments += ["--config_file", files] + [f"--{k}={v}" for k, v in override.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("Epoch 2 of 2: mean loss") == 1  # the first process alone reports
    state, single = checkpoint(tmp_path / "out"), checkpoint(trained[0])
    assert state["epoch"] == 2
    assert {k: v.shape for k, v in state["model"].items()} == {k: v.shape for k, v in single["model"].items()}
    assert load_network(tmp_path / "out" / "model.pt") is not None
