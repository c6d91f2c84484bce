"""Rotational acquisitions as files: the public folder layout of VPAL and 4DRGS, and XA runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.parts import RunGeometry
from custom_nets.data.angiography.xa_writer import new_xa_dataset, save_dataset
from custom_nets.data.dicom.derived import decimal
from custom_nets.utils.files import new_file, write_json

__all__ = ["as_logarithms", "from_logarithms", "write_vpal_files", "write_xa_run"]

_LOG_SCALE = 65535 / np.log(65535)  # stored values per natural logarithm


def write_vpal_files(
    folder: str | Path,
    stacks: Mapping[str, NDArray],
    *,
    angles_rad: NDArray[np.float64],
    times_s: NDArray[np.float64],
    sad_mm: float,
    sid_mm: float,
    spacing_mm: Sequence[float],
    offset_mm: Sequence[float] = (0.0, 0.0),
    volume_shape: Sequence[int],
    volume_spacing_mm: Sequence[float],
) -> Path:
    """Write ``transforms.json`` and NIfTI stacks [column, row, frame] into a folder; the JSON comes last.

    Args:
        folder: made if needed.
        stacks: [N, H, W] by name: ``proj``, or ``mask_run`` and ``fill_run`` (linear intensities), or all three.
        angles_rad, sad_mm, sid_mm, spacing_mm, offset_mm: see
            :func:`custom_nets.geometry.cone_beam.circular_trajectory`.
        times_s: [N] since the first fill frame.
        volume_shape, volume_spacing_mm: of the volume to make, x, y, z.

    Returns:
        The folder.
    """
    import nibabel as nib

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count, height, width = next(iter(stacks.values())).shape
    for name, stack in stacks.items():
        if stack.shape != (count, height, width) or len(angles_rad) != count or len(times_s) != count:
            raise ValueError(f"{name} is {stack.shape}: stacks, angles and times must have one number of frames.")
        with new_file(folder / f"{name}.nii.gz") as part:
            nib.save(nib.Nifti1Image(stack.astype(np.float32).transpose(2, 1, 0), np.eye(4)), part)
    du, dv = (float(v) for v in spacing_mm)
    write_json(
        folder / "transforms.json",
        {
            "sad": sad_mm,
            "sid": sid_mm,
            "N_views": count,
            "proj_resolution": [width, height],
            "proj_spacing": [du, dv],
            "proj_phy": [width * du, height * dv],
            "volume_resolution": list(volume_shape),
            "volume_spacing": list(volume_spacing_mm),
            "volume_phy": [n * s for n, s in zip(volume_shape, volume_spacing_mm, strict=True)],
            "detector_offset_mm": list(offset_mm),
            "frames": [
                {"PrimaryAngle": float(a), "SecondaryAngle": 0.0, "file": f"{k:04d}", "index": k, "time_s": float(t)}
                for k, (a, t) in enumerate(zip(angles_rad, times_s, strict=True))
            ],
        },
    )
    return folder


def as_logarithms(frames: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Linear intensities from 1 on as a LOG detector of 16 bits stores them."""
    return np.rint(_LOG_SCALE * np.log(frames.astype(np.float64))).astype(np.uint16)


def from_logarithms(stored: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Linear intensities that :func:`as_logarithms` has stored."""
    return np.exp(stored / _LOG_SCALE)


def write_xa_run(
    path: str | Path,
    frames: NDArray[np.uint16],
    *,
    primary_deg: NDArray[np.float64],
    times_s: NDArray[np.float64],
    sad_mm: float,
    sid_mm: float,
    spacing_mm: Sequence[float],
    relationship: str = "LIN",
    series_number: int = 1,
    description: str = "",
) -> Path:
    """Write a simulated rotational run as an X-Ray Angiographic Image of 16 bits.

    Args:
        path: of the file.
        frames: [N, H, W] linear intensities from 1 on, pictures as seen from the panel.
        primary_deg: [N] positioner angles.
        times_s: [N].
        spacing_mm: (between columns, between rows) at the panel.
        relationship: ``"LIN"``; or ``"LOG"``: their logarithm, whose scale RescaleSlope says.
        series_number, description: of the series.

    Raises:
        ValueError: another relationship.
    """
    if relationship not in ("LIN", "LOG"):
        raise ValueError(f"relationship must be 'LIN' or 'LOG', got {relationship!r}.")
    stored = as_logarithms(frames) if relationship == "LOG" else frames
    du, dv = spacing_mm
    dataset: Any = new_xa_dataset(
        stored,
        times_s,
        relationship=relationship,
        geometry=RunGeometry(
            pixel_spacing_mm=(float(dv), float(du)),
            primary_deg=np.asarray(primary_deg, dtype=np.float64),
            secondary_deg=np.zeros(len(frames)),
            source_detector_mm=sid_mm,
            source_isocenter_mm=sad_mm,
        ),
        patient="SIMULATED^RUN",
        series_description=description,
    )
    # as exact as decimal strings can be: both files of a scan are to make the same volume
    angles = np.asarray(primary_deg, dtype=np.float64)
    dataset.PositionerPrimaryAngle = decimal(angles[0])
    dataset.PositionerPrimaryAngleIncrement = [decimal(step) for step in np.diff(angles, prepend=angles[0])]
    if "FrameTime" in dataset:
        dataset.FrameTime = decimal(1000 * (times_s[-1] - times_s[0]) / (len(times_s) - 1))
    if relationship == "LOG":
        dataset.RescaleSlope = decimal(1 / _LOG_SCALE)
    dataset.SeriesNumber = dataset.AcquisitionNumber = series_number
    save_dataset(dataset, path)
    return Path(path)
