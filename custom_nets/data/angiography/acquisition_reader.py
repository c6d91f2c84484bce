"""Rotational acquisitions from any kind of file or folder: one door in, told by content."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.acquisition_folders import (
    is_published_folder,
    is_vpal_folder,
    read_togs_folder,
    read_vpal_folder,
)
from custom_nets.data.angiography.acquisition_xa import XAOptions, read_xa_acquisition
from custom_nets.data.angiography.views import Acquisition, default_volume
from custom_nets.data.dicom.files import holds_dicom, is_dicom_file
from custom_nets.utils.files import as_typed, new_file

__all__ = ["is_npz_acquisition", "read_acquisition", "read_npz_acquisition", "write_npz_acquisition"]

_WHAT = (
    "the folder of VPAL or 4DRGS (transforms.json), of TOGS (transforms_train.json), a fill run in XA DICOM with its "
    "mask run, a folder with the two, or NPZ"
)
_ARRAYS = ("projections", "times_s", "source_mm", "panel_mm", "column_step_mm", "row_step_mm")


def read_acquisition(
    path: str | Path,
    mask: str | Path | None = None,
    *,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
    mm_per_unit: float = 1000.0,
    volume_shape: Sequence[int] | None = None,
    voxel_mm: float | None = None,
    **xa: Any,
) -> Acquisition:
    """Read a rotational acquisition; the content says how, not the name.

    Args:
        path: a folder of VPAL or 4DRGS, or of TOGS; a (fill) run as XA DICOM, or a folder with mask and fill run; NPZ
            of :func:`write_npz_acquisition`.
        mask: the mask run, for XA DICOM.
        times_s: [N] seconds of the (fill) frames, instead of what the files say.
        duration_s: seconds from the first to the last frame, where the files say no times.
        mm_per_unit: of the scene of a TOGS folder.
        volume_shape: (nx, ny, nz) instead of the file's, or of what every frame can see.
        voxel_mm: edge of a voxel, likewise. Given alone the volume keeps its extent.
        xa: what headers of XA DICOM do not say: see
            :class:`custom_nets.data.angiography.acquisition_xa.XAOptions`.

    Raises:
        FileNotFoundError: no such path, or a file of it is missing.
        ValueError: not an acquisition, or not enough is known about it; the message says what to do.
    """
    found = as_typed(path)
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist.")
    if times_s is not None and duration_s is not None:
        raise ValueError("give times_s or duration_s, not both.")
    published = found.is_dir() and is_published_folder(found)
    is_xa = not published and (holds_dicom(found) if found.is_dir() else is_dicom_file(found))
    if not is_xa and (said := _said(mask, xa)):
        raise ValueError(f"{', '.join(said)} is for runs in XA DICOM, and {found} is none.")
    if is_xa:
        scan = read_xa_acquisition(found, mask, times_s, duration_s, XAOptions(**xa))
    elif published and is_vpal_folder(found):
        scan = read_vpal_folder(found, times_s, duration_s)
    elif published:
        scan = read_togs_folder(found, times_s, duration_s, mm_per_unit)
    elif found.is_file() and found.suffix.lower() == ".npz":
        scan = read_npz_acquisition(found, times_s, duration_s)
    else:
        raise ValueError(f"{found} is no rotational acquisition that can be read: give {_WHAT}.")
    return _with_grid(scan, volume_shape, voxel_mm)


def _said(mask: str | Path | None, xa: dict[str, Any]) -> list[str]:
    """Names of the options for XA DICOM that differ from what they are by themselves."""
    standard = vars(XAOptions())
    changed = [k for k, v in xa.items() if (tuple(v) if isinstance(v, list) else v) != standard.get(k, v)]
    return ["mask"] * (mask is not None) + changed


def _with_grid(scan: Acquisition, shape: Sequence[int] | None, voxel_mm: float | None) -> Acquisition:
    if voxel_mm is not None:
        if not 0 < voxel_mm < np.inf:
            raise ValueError(f"voxel_mm must be above zero, got {voxel_mm!r}.")
        if shape is None:
            extent = np.array(scan.volume_shape) * scan.volume_spacing_mm
            shape = np.maximum(1, np.rint(extent / voxel_mm)).astype(int).tolist()
        return scan.with_volume(shape, (voxel_mm,) * 3)
    return scan if shape is None else scan.with_volume(shape)


def is_npz_acquisition(path: str | Path) -> bool:
    """Whether a file is an archive of NumPy with the arrays of an acquisition."""
    if Path(path).suffix.lower() != ".npz":
        return False
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {"projections", "source_mm"} <= set(loaded.files)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return False


def write_npz_acquisition(scan: Acquisition, path: str | Path) -> Path:
    """Write an acquisition as NPZ, with the names of its fields; whole or not at all."""
    path = Path(path)
    arrays: dict[str, Any] = {name: getattr(scan, name) for name in _ARRAYS}
    if scan.weights is not None:
        arrays["weights"] = scan.weights
    arrays["volume_shape"] = np.array(scan.volume_shape)
    arrays["volume_spacing_mm"] = np.array(scan.volume_spacing_mm)
    arrays["quantitative"] = np.array(scan.quantitative)
    arrays["notes"] = np.array(scan.notes, dtype=str)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part, open(part, "wb") as file:  # NumPy would add a suffix to a path
        np.savez_compressed(file, **arrays)
    return path


def read_npz_acquisition(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
) -> Acquisition:
    """Read ``projections`` [N, H, W], ``source_mm``, ``panel_mm``, ``column_step_mm``, ``row_step_mm`` [N, 3] and
    ``times_s`` [N]; optional are ``weights``, ``volume_shape``, ``volume_spacing_mm``, ``quantitative``, ``notes``.

    Raises:
        ValueError: no NumPy archive, or arrays are missing or make no acquisition.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            content = {name: loaded[name] for name in loaded.files}
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a NumPy archive: {' '.join(str(error).split())}.") from error
    if times_s is not None:
        content["times_s"] = np.asarray(times_s, dtype=np.float64)
    elif duration_s is not None:
        content["times_s"] = np.linspace(0, float(duration_s), len(content.get("projections", ())))
    if missing := [name for name in _ARRAYS if name not in content]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(content)) or 'nothing'}.")
    more: dict[str, Any] = {"weights": content.get("weights"), "quantitative": bool(content.get("quantitative", True))}
    more["notes"] = [str(note) for note in np.atleast_1d(content.get("notes", np.empty(0, dtype=str)))]
    try:
        scan = Acquisition(**{name: content[name] for name in _ARRAYS}, **more)
        shape, spacing = default_volume(scan.geometry)
        return scan.with_volume(content.get("volume_shape", shape), content.get("volume_spacing_mm", spacing))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
