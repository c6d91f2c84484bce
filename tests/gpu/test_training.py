"""Trainings of all bundles through the bundle runner on the GPU: the same first steps and validation as on the CPU."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_nets import bundle_root
from custom_nets.checkpoints import load_network
from custom_nets.engines import AdversarialTrainer
from custom_nets.utils import leave_processes
from tests.bundles import runner, test_arssr_training, test_most_dsa_training, test_transmrsr_training
from tests.bundles.most_dsa_runs import save_weights
from tests.bundles.training import losses_of, save_heads, simulated_head

KINDS = ("arssr", "most_dsa", "transmrsr")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Two tiny heads, and two tiny simulated runs."""
    from custom_nets.apps.simulate_training_runs import simulate_run

    heads, runs = tmp_path_factory.mktemp("heads"), tmp_path_factory.mktemp("runs")
    save_heads(heads)
    for seed in range(2):
        simulate_run(runs, seed + 1, ("fixed", "rotational")[seed], (64, 64), 7)
    return {"arssr": heads, "transmrsr": heads, "most_dsa": runs}


def workflow(kind: str, data: dict[str, Path], output: Path, device: Any, *more: str, **override: Any) -> Any:
    """An initialized training: tiny network, tiny crops, in this process."""
    override = {"max_epochs": 1, "val_interval": 1, "num_workers": 0, **override, "device": str(device)}
    if kind in ("transmrsr", "pretrain_prior"):
        stage = "train" if kind == "transmrsr" else kind
        if stage == "pretrain_prior":
            del override["val_interval"]
        return test_transmrsr_training.workflow([stage, *more], output, data["transmrsr"], **override)
    module = {"arssr": test_arssr_training, "most_dsa": test_most_dsa_training}[kind]
    files = [str(module.CONFIGS / f"{name}.json") for name in ("train", *more)]
    return module.workflow(data[kind], output, files, **override)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_validation(kind, data, device, tmp_path):
    found, wanted = (workflow(kind, data, tmp_path / str(i), where) for i, where in enumerate((device, "cpu")))
    there, here = losses_of(found), losses_of(wanted)
    assert there == pytest.approx(here, rel=1e-3) and there[0] == pytest.approx(here[0], rel=1e-4)
    metrics = [made.evaluator.state.metrics for made in (found, wanted)]
    assert metrics[0] == pytest.approx(metrics[1], abs=0.02)
    assert (tmp_path / "0" / "model.pt").is_file()
    assert next(load_network(tmp_path / "0" / "model.pt").parameters()).device.type == "cpu"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"amp": True}, {"num_workers": 2}])
def test_other_ways_to_train(kind, options, data, device, tmp_path):
    losses = losses_of(workflow(kind, data, tmp_path, device, **options))
    assert np.isfinite(losses).all() and (tmp_path / "model.pt").is_file()


def test_resumed_and_timed(data, device, tmp_path):
    losses_of(workflow("arssr", data, tmp_path, device))
    losses_of(workflow("arssr", data, tmp_path, device, max_epochs=2, resume=True))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 2
    losses_of(workflow("arssr", data, tmp_path / "timed", device, max_minutes=0.05))
    state = torch.load(tmp_path / "timed" / "checkpoint.pt", weights_only=True)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0


def test_adversarial_steps(data, device, tmp_path, monkeypatch):
    """Latents are drawn on the CPU, so that both see the same."""

    def latents(self: Any, batch: int) -> torch.Tensor:
        return torch.randn(batch, int(self.generator.style_dim)).to(self.state.device)

    monkeypatch.setattr(AdversarialTrainer, "_latents", latents)
    found, wanted = (
        losses_of(workflow("pretrain_prior", data, tmp_path / str(i), where, differentiable_augment=False))
        for i, where in enumerate((device, "cpu"))
    )
    assert found == pytest.approx(wanted, rel=1e-3)
    assert np.isfinite(losses_of(workflow("pretrain_prior", data, tmp_path / "amp", device, amp=True))).all()


def test_a_process_group_of_one(data, device, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    made = workflow("arssr", data, tmp_path, device, "multi_gpu_train")
    assert torch.distributed.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
    try:
        assert np.isfinite(losses_of(made)).all()
    finally:
        if torch.distributed.is_initialized():
            leave_processes()
    assert not any(key.startswith("module.") for key in torch.load(tmp_path / "model.pt", weights_only=True)["model"])


# ---- the commands of the README ----


@pytest.mark.parametrize("bundle, options", [("arssr", {"scale": 2}), ("transmrsr", {})])
def test_volumes(bundle, options, device, tmp_path):
    affine = np.diag([1.0, 1.0, 4.0 if bundle == "transmrsr" else 1.0, 1.0])
    head = np.asarray(simulated_head(0, 40).dataobj)[..., :12]
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "scan.nii.gz")
    root = Path(bundle_root(bundle))
    results = [
        nib.load(next(runner.infer(root, tmp_path / "scan.nii.gz", tmp_path / str(where), device=str(where), **options)
                      .glob("*.nii.gz")))
        for where in (device, "cpu")
    ]  # fmt: skip
    np.testing.assert_array_equal(results[0].affine, results[1].affine)
    np.testing.assert_allclose(results[0].get_fdata(), results[1].get_fdata(), atol=1e-4 * head.max())


def test_runs(device, tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(500, 900, (4, 64, 64)).astype(np.uint16)
    np.savez(tmp_path / "run.npz", frames=frames, times_s=np.array([0, 0.2, 0.5, 0.7]))
    weights = save_weights(tmp_path, 0, 0.1)
    made = [
        np.load(next(runner.infer(Path(bundle_root("most_dsa")), tmp_path / "run.npz", tmp_path / str(where),
                                  device=str(where), checkpoint=weights, frames_between=2).glob("*.npz")))["frames"]
        for where in (device, "cpu")
    ]  # fmt: skip
    assert made[0].shape == (10, 64, 64)
    np.testing.assert_allclose(made[0].astype(float), made[1].astype(float), atol=1)
