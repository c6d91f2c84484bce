"""All that a bundle must do, done with the only bundle of this checkout; run by test_toy_bundle.py in a copy of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from scipy import ndimage

from custom_nets.bundle.folder import find_bundles
from custom_nets.bundle.pack import pack
from custom_nets.checkpoints import load_network
from monailabel_app.lib.bundles import find_bundles as served_bundles
from tests.bundles.runner import infer

(BUNDLE,) = find_bundles()


def workflow(name: str, kind: str, **options) -> None:
    config = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / name),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        workflow_type=kind,
        device="cpu",
        **options,
    )
    config.initialize()
    config.run()
    config.finalize()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "data").mkdir()
    for seed in range(2):
        values = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 40, 40)), 1.5).astype(np.float32)
        nib.save(nib.Nifti1Image(values * 1000, np.eye(4)), folder / "data" / f"sub-{seed}.nii.gz")
    thick = values.reshape(40, 40, 10, 4).mean(-1) * 1000
    nib.save(nib.Nifti1Image(thick, np.diag([1.0, 1.0, 4.0, 1.0])), folder / "thick.nii.gz")
    return folder


def test_it_trains_and_its_weights_are_shipped(folder):
    tiny = {"max_epochs": 1, "iterations_per_epoch": 2, "val_interval": 1, "batch_size": 2}
    tiny.update(validation_crop_size=32, rows=24, columns=24, scale=[2.0, 3.0])
    workflow("train.json", "train", dataset_dir=str(folder / "data"), output_dir=str(folder / "run"), **tiny)
    weights = folder / "run" / "model.pt"
    assert type(load_network(weights)).__name__ == "Toy"
    (BUNDLE / "models").mkdir(exist_ok=True)
    (BUNDLE / "models" / "model.pt").write_bytes(weights.read_bytes())


def test_it_evaluates(folder):
    options = {"dataset_dir": str(folder / "data"), "output_dir": str(folder / "report")}
    workflow("evaluate.json", "inference", **options)
    assert (folder / "report" / "table.md").read_text().strip()


def test_it_infers(folder):
    infer(BUNDLE, folder / "thick.nii.gz", folder / "out")
    made = nib.load(folder / "out" / "thick_toy.nii.gz")
    assert made.shape == (40, 40, 40) and json.loads((folder / "out" / "thick_toy.json").read_text())


def test_it_is_packed_and_served(folder):
    assert pack("toy", folder / "toy.zip").is_file()
    assert [bundle.name for bundle in served_bundles(BUNDLE.parent).values()] == ["toy"]
