"""What people hold of version 0.1 loads and runs, and gives what it gave: packed bundles, checkpoints, the registry.

``tests/version_0_1`` has bundles as ``python -m custom_nets.pack`` of 0.1 made them, with small networks and without
its code, inputs, and the outputs that 0.1 wrote. Made at commit 697cd11.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom_nets.checkpoints import load_network
from tests.bundles.runner import infer

STORED = Path(__file__).parent / "version_0_1"
BUNDLES = {
    "arssr": ("volume.nii.gz", {"scale": 1.5}, "volume_arssr.nii.gz"),
    # with data consistency, what an untrained network adds would be shrunk away
    "transmrsr": ("thick.nii.gz", {"data_consistency": False}, "thick_transmrsr.nii.gz"),
    "most_dsa": ("run.npz", {"frames_between": 1}, "run_most_dsa.npz"),
}


@pytest.fixture
def unpacked(tmp_path):
    def unpack(name: str) -> Path:
        with zipfile.ZipFile(STORED / f"{name}.zip") as archive:
            archive.extractall(tmp_path)
        return tmp_path / name

    return unpack


def values_of(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        with np.load(path) as content:
            return content["frames"].astype(np.float64)
    return nib.load(path).get_fdata()


def same(made: Path, stored: Path) -> None:
    wanted = values_of(stored)
    # stored whole numbers may differ by rounding
    tolerance = 1.0 if made.suffix == ".npz" else 1e-4 * np.ptp(wanted)
    np.testing.assert_allclose(values_of(made), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_packed_bundle_runs_with_this_version(name, unpacked, tmp_path):
    source, options, result = BUNDLES[name]
    bundle = unpacked(name)
    load_network(bundle / "models" / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its configs hold old names
        infer(bundle, STORED / source, tmp_path / "out", **options)
    same(tmp_path / "out" / result, STORED / result)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_training_config_is_wired_by_its_old_names(name, unpacked, tmp_path):
    data = tmp_path / "data"
    for seed in range(2):
        values = np.random.default_rng(seed).random((40, 40, 40), dtype=np.float32)
        (data / f"subject-{seed}").mkdir(parents=True)
        if name == "most_dsa":
            np.savez(data / f"subject-{seed}" / "run.npz", frames=values[:12], times_s=np.arange(12) / 4)
        else:
            nib.save(nib.Nifti1Image(values, np.eye(4)), data / f"sub-{seed}.nii.gz")
    small = {"crop_size": 32, "longest_gap": 3} if name == "most_dsa" else {"validation_crop_size": 32}
    configs = unpacked(name) / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "train.json"),
        meta_file=str(configs / "metadata.json"),
        workflow_type="train",
        dataset_dir=str(data),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        **small,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        workflow.initialize()
        assert workflow.check_properties() == []


def test_a_registered_bundle_is_fetched_and_runs(unpacked, tmp_path):
    pytest.importorskip("mlflow")
    from custom_nets.tracking import registry
    from custom_nets.tracking.client import sqlite_uri

    source, options, result = BUNDLES["arssr"]
    uri = sqlite_uri(tmp_path)
    bundle = unpacked("arssr")
    registry.register(str(bundle), "arssr", uri)
    fetched = registry.fetch("arssr", tmp_path / "fetched", version=1, tracking_uri=uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        infer(Path(fetched), STORED / source, tmp_path / "out", **options)
    same(tmp_path / "out" / result, STORED / result)
