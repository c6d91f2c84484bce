"""Students of all trained bundles through the bundle runner: train.json and distill.json, a few steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from torch import nn

from custom_nets.apps.simulate_training_runs import simulate_run
from custom_nets.checkpoints import build_network, load_network, save_checkpoint
from custom_nets.utils import root_cause
from tests.bundles import test_arssr_training, test_most_dsa_training, test_transmrsr_training
from tests.bundles.training import simulated_head

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = {
    "arssr": test_arssr_training.TINY,
    "transmrsr": test_transmrsr_training.TRAIN,
    "most_dsa": test_most_dsa_training.TINY,
}
TEACHERS: dict[str, dict[str, Any]] = {
    "arssr": {
        "name": "ResidualArSSR",
        "feature_dim": 8,
        "num_features": 8,
        "growth": 16,
        "num_blocks": 1,
        "decoder_width": 16,
        "takes_mtf": True,
    },
    "transmrsr": {
        "name": "AnySizeTransMRSR",
        "slices": 3,
        "widths": [8, 16],
        "style_dim": 32,
        "head_width": 4,
        "num_centroids": 0,
        "takes_mtf": True,
    },
    "most_dsa": {
        "name": "SymmetricMoStDSA",
        "widths": [8, 8, 8, 8],
        "pair_width": 8,
        "time_width": 8,
        "flow": True,
        "motions": 3,
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    heads, runs = tmp_path_factory.mktemp("heads"), tmp_path_factory.mktemp("runs")
    for seed in range(2):
        nib.save(simulated_head(seed, 40), heads / f"sub-{seed:02d}_T1w.nii.gz")
    for seed, kind in ((1, "fixed"), (2, "rotational")):
        simulate_run(runs, seed, kind, (64, 64), 7)
    return {"arssr": heads, "transmrsr": heads, "most_dsa": runs}


@pytest.fixture
def teacher(request, tmp_path) -> Path:
    torch.manual_seed(0)
    arch = TEACHERS[request.param]
    network = build_network(arch)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    save_checkpoint(tmp_path / "teacher.pt", network, arch)
    return tmp_path / "teacher.pt"


def settings(bundle: str, data: dict[str, Path], output: Path, teacher: Path, /, **override: Any) -> dict[str, Any]:
    tiny = {key: value for key, value in TINY[bundle].items() if not key.startswith("network_def")}
    return {
        **tiny, "dataset_dir": str(data[bundle]), "output_dir": str(output), "teacher": str(teacher),
        "iterations_per_epoch": 2, "max_epochs": 1, "val_interval": 1, **override,
    }  # fmt: skip


def files_of(bundle: str, *names: str) -> list[str]:
    return [str(REPOSITORY / "bundles" / bundle / "configs" / f"{name}.json") for name in names]


def train(bundle: str, /, *args: Any, overlays: tuple[str, ...] = ("distill",), **override: Any) -> list[float]:
    made = ConfigWorkflow(
        files_of(bundle, "train", *overlays),
        workflow_type="train",
        logging_file=False,
        **settings(bundle, *args, **override),
    )
    made.initialize()
    losses: list[float] = []
    made.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    made.run()
    made.finalize()
    return losses


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("bundle", "teacher"), [(name, name) for name in TEACHERS], indirect=["teacher"])
def test_a_student_is_a_plain_checkpoint(bundle, data, teacher, tmp_path):
    before = teacher.read_bytes()
    losses = train(bundle, data, tmp_path / "out", teacher, affinity_weight=0.1)
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert teacher.read_bytes() == before
    content = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert content["arch"]["name"] == TEACHERS[bundle]["name"]
    student = load_network(tmp_path / "out" / "model.pt")
    assert 0.2 < weights(student) / weights(load_network(teacher)) < 0.8
    assert (tmp_path / "out" / "validation.png").stat().st_size > 1000
    # and it goes on from where it was
    again = train(bundle, data, tmp_path / "out", teacher, affinity_weight=0.1, resume=True, max_epochs=2)
    assert len(again) == 2


@pytest.mark.parametrize("teacher", ["arssr"], indirect=True)
def test_stages_and_gates(data, teacher, tmp_path):
    train("arssr", data, tmp_path / "first", teacher, student_share=0.75, output_weight=0.0, feature_weight=1.0)
    first = load_network(tmp_path / "first" / "model.pt")
    train("arssr", data, tmp_path / "gates", teacher, overlays=("distill", "learn_gates"))
    gated = load_network(tmp_path / "gates" / "model.pt")
    assert weights(gated) < weights(first) < weights(load_network(teacher))
    start = str(tmp_path / "gates" / "model.pt")
    train("arssr", data, tmp_path / "second", teacher, inherit_from=start, learning_rate=1e-9)
    second = load_network(tmp_path / "second" / "model.pt")
    for a, b in zip(second.parameters(), gated.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("teacher", ["arssr"], indirect=True)
def test_what_cannot_be_taught_is_said(data, teacher, tmp_path):
    for override, words in (
        ({"teacher": "nowhere.pt"}, "no checkpoint at nowhere.pt"),
        ({"student_share": 2}, "student_share is a share"),
        ({"inherit": "best"}, "inherit must be one of importance, interval, scratch"),
        ({"task_weight": 0.0, "output_weight": 0.0, "affinity_weight": 0.0}, "nor all 0"),
    ):
        with pytest.raises((Exception, SystemExit)) as caught:
            train("arssr", data, tmp_path / "out", teacher, **override)
        assert words in str(root_cause(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["arssr"], indirect=True)
def test_two_processes_and_mlflow(data, teacher, tmp_path):
    override = settings("arssr", data, tmp_path / "out", teacher)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"]
    line += ["run", "--config_file", str(files_of("arssr", "train", "multi_gpu_train", "distill"))]
    line += [f"--{key}={value}" for key, value in override.items()]
    line += ["--tracking", files_of("arssr", "mlflow")[0]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(load_network(tmp_path / "out" / "model.pt")) < weights(load_network(teacher))
    assert (tmp_path / "out" / "mlruns.db").is_file()
