"""Training tasks of the app in this process: every bundle fine-tunes on scans as they lie in a datastore."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.checkpoints import load_network
from custom_nets.utils.weights import read_checkpoint
from monailabel_app.lib.bundles import WrongRequest, find_bundles
from monailabel_app.lib.images import list_images
from monailabel_app.lib.trained import Trained
from tests.conftest import blobs, world_points
from tests.tools.dicom_writer import write_dicom_series
from tests.tools.xa_writer import contrast_run, write_xa

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed", allow_module_level=True)

pytestmark = pytest.mark.label

ONCE = {"max_epochs": 1, "iterations_per_epoch": 1, "batch_size": 1, "val_interval": 1, "name": "tried"}
TINY = {
    "arssr": {"patch_size": 8, "num_points": 100, "validation_crop_size": 16, "validation_scales": [[2, 2, 2]]},
    "transmrsr": {"validation_crop_size": 32, "validation_scales": [4]},
    "most_dsa": {"crop_size": 32, "longest_gap": 3, "validation_repeats": 1},
}


class Datastore:
    """The two questions that a training asks."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, list_images(folder)

    def list_images(self) -> list[str]:
        return list(self.names)

    def get_image_uri(self, name: str) -> str:
        return str(self.folder / self.names[name])


@pytest.fixture(scope="module")
def datastore(tmp_path_factory) -> Datastore:
    """A NIfTI volume, a DICOM series and two runs, of four people."""
    folder = tmp_path_factory.mktemp("datastore")
    values = blobs(world_points((72, 72, 72), np.eye(4)))
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), folder / "sub-01_T1w.nii.gz")
    write_dicom_series(folder / "series", values[::-1].round().astype(np.int16), np.eye(4), PatientID="two")
    for patient in ("three", "four"):
        write_xa(
            folder / "runs" / f"{patient}.dcm", contrast_run(8), PixelIntensityRelationship="DISP", PatientID=patient
        )
    return Datastore(folder)


@pytest.mark.parametrize("name", sorted(find_bundles()))
def test_fine_tuning(name, datastore, tmp_path):
    import mlflow

    from monailabel_app.lib.train import BundleTrain

    bundle = find_bundles()[name]
    shipped = bundle.weights.read_bytes()
    result = BundleTrain(bundle, Trained(tmp_path))({**ONCE, **TINY[name], "learning_rate": 1e-5}, datastore)

    client = mlflow.MlflowClient(tracking_uri=result["tracking_uri"])
    (run,) = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    assert run.info.status == "FINISHED" and run.data.params["finetune"] == "(private)"
    assert result["metrics"] and all(np.isfinite(value) for value in result["metrics"].values())

    assert Trained(tmp_path).names(name) == ["tried"] and Path(result["file"]) == tmp_path / name / "tried" / "model.pt"
    old, new = read_checkpoint(bundle.weights), read_checkpoint(result["file"])
    assert load_network(result["file"]) is not None and new["arch"]["name"] == old["arch"]["name"]
    # it went on from the shipped weights: one small step away from them, not a new start
    steps = [float((new["model"][key] - value).abs().max()) for key, value in old["model"].items() if value.numel()]
    assert 0 < max(steps) < 1e-3
    assert bundle.weights.read_bytes() == shipped


def test_only_one_person_is_too_few(datastore, tmp_path):
    from monailabel_app.lib.train import BundleTrain

    task = BundleTrain(find_bundles()["arssr"], Trained(tmp_path))
    with pytest.raises(WrongRequest, match="at least 2 subjects are needed"):
        task({**ONCE, "images": ["series"]}, datastore)
    assert not (tmp_path / "arssr" / "tried").exists()
