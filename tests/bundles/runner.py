"""Running the inference of a bundle as a function or as a command, and inputs that no bundle for volumes takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from custom_nets.transforms import load_volume
from custom_nets.utils import root_cause

REPOSITORY = Path(__file__).resolve().parents[2]


def infer(bundle: Path, input: Any, output_dir: Path, **options: Any) -> Path:
    """One run of the bundle's inference in this process; the folder with what it wrote."""
    options = {"device": "cpu", "progress": False, "preview": False, **options}
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="inference",
        input=str(input) if isinstance(input, Path) else input,
        output_dir=str(output_dir),
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return output_dir


def message_of(bundle: Path, input: Any, output_dir: Path, **options: Any) -> str:
    """What a run that must fail says."""
    with pytest.raises((SystemExit, Exception)) as caught:
        infer(bundle, input, output_dir, **options)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code not in (None, 0)
    return str(root_cause(caught.value))


def command_line(config: str, *arguments: Any, processes: int = 1) -> list[str]:
    """``python -m monai.bundle run``, or the same by ``torchrun``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    return [sys.executable, *launcher, "-m", "monai.bundle", "run", "--config_file", config, *map(str, arguments)]


def newcomer() -> dict[str, str]:
    """What a newcomer's shell has: no variables of ours."""
    return {**{key: value for key, value in os.environ.items() if key != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"}


def command(
    config: str, *arguments: Any, cwd: Path = REPOSITORY, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """One run of a bundle from the command line."""
    line = command_line(config, *arguments, processes=processes)
    return subprocess.run(line, cwd=cwd, env=newcomer(), capture_output=True, text=True, timeout=500)


def expect(pattern: str, message: str) -> None:
    """The message is this one, short, and no traceback."""
    assert re.search(pattern, message), message
    assert len(message) < 600 and "Traceback" not in message


def volumes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.nii*")) if folder.is_dir() else []


def same_as_nifti(dicom: Path, nifti: Path) -> list[Any]:
    """The DICOM series says the same as the NIfTI file: places to 1e-3 mm, values to half a step. Its headers."""
    import pydicom

    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(dicom.iterdir())]
    read, other = load_volume(dicom), nib.load(nifti)
    to_read = np.linalg.inv(read.affine.numpy()) @ other.affine
    index = np.moveaxis(np.indices(other.shape), 0, -1) @ to_read[:3, :3].T + to_read[:3, 3]
    assert np.abs(index - index.round()).max() * np.max(other.header.get_zooms()) < 1e-3
    assert read.shape[1:] == other.shape
    values = read[0].numpy()[tuple(np.moveaxis(index.round().astype(int), -1, 0))]
    half = float(headers[0].RescaleSlope) / 2
    np.testing.assert_allclose(values, other.get_fdata(), atol=1.001 * half + 1e-6 * np.abs(values).max(), rtol=0)
    assert half < 2e-5 * np.ptp(values)
    return headers


def outer_corner(affine: np.ndarray) -> np.ndarray:
    """The corner of the field of view that belongs to the first voxel, mm."""
    return affine[:3, :3] @ [-0.5, -0.5, -0.5] + affine[:3, 3]


# ---- scans that must be refused ----


def _with(values: dict[tuple, float]):
    def make(save_nifti) -> Path:
        array = np.random.default_rng(0).random((12, 12, 6), dtype=np.float32)
        for index, value in values.items():
            array[index] = value
        return save_nifti(array, name="bad.nii.gz")

    return make


def _text(save_nifti) -> Path:
    path = save_nifti(np.zeros((2, 2, 2)), name="bad.nii.gz")
    path.write_text("this is no image")
    return path


def _flat_voxels(save_nifti) -> Path:
    image = nib.Nifti1Image(np.random.default_rng(0).random((12, 12, 6)), np.eye(4))
    image.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), 1)
    image.set_qform(None, 0)
    path = save_nifti(np.zeros((2, 2, 2)), name="bad.nii.gz")
    nib.save(image, path)
    return path


BAD_SCANS = {
    "not an image": (_text, "bad.nii.gz cannot be read as an image volume"),
    "2D": (lambda save: save(np.ones((12, 12)), name="bad.nii.gz"), r"is 2D \(shape \(12, 12\)\)"),
    "NaN": (_with({(0, 0, 0): np.nan, (1, 1, 1): np.nan}), "has 2 NaN and 0 infinite values among 864"),
    "infinite": (_with({(0, 0, 0): np.inf}), "has 0 NaN and 1 infinite values among 864"),
    "constant": (lambda save: save(np.full((12, 12, 6), 7.0), name="bad.nii.gz"), "is constant, every voxel is 7"),
    "zero spacing": (_flat_voxels, "bad.nii.gz has an affine that is not invertible"),
    "missing": (lambda save: Path("/nowhere/scan.nii.gz"), "/nowhere/scan.nii.gz does not exist"),
    "none given": (lambda save: "", "--input is empty"),
}
