"""Angiography runs from any kind of file or folder: one door in, told by content, and a list of what is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.file_readers import (
    PICTURE_SUFFIXES,
    picture_files,
    picture_runs,
    read_nifti_run,
    read_numpy,
    read_pictures,
)
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.data.angiography.xa_reader import frame_count, read_xa, run_headers
from custom_nets.data.cases import existing_path, from_json, unique_names
from custom_nets.data.dicom.elements import text_of
from custom_nets.data.dicom.files import dicom_files, holds_dicom, is_dicom_file
from custom_nets.utils.files import as_typed

__all__ = ["find_runs", "read_angiography", "run_name"]

logger = logging.getLogger(__name__)

_NIFTI = (".nii", ".nii.gz")
_NUMPY = (".npz", ".npy")
_WHAT = "an XA or XRF DICOM file, the folder of a DICOM series or of PNG/TIFF pictures, NIfTI, or NPZ"


def read_angiography(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    fps: float | None = None,
    frame_time_ms: float | None = None,
    *,
    series_uid: str | None = None,
    subtract: bool = True,
    intensity: str = "auto",
    inverted: bool | None = None,
) -> AngiographyRun:
    """Read a run; the content says how, not the name.

    Args:
        path: a multi-frame XA or XRF DICOM file (classic or enhanced); a folder with the single-frame files of a
            DICOM series, or one of them; a folder of PNG or TIFF pictures in natural order; a multi-page TIFF; NIfTI
            [x, y, frame] or [x, y, 1, frame]; NPZ with ``frames`` [T, H, W] and ``times_s`` [T].
        times_s, fps, frame_time_ms: at most one of them, instead of the times in the file: a time per frame (s),
            frames per second, ms from frame to frame.
        series_uid: SeriesInstanceUID to take where a folder holds several.
        subtract: do the mask subtraction that a DICOM file asks for on the way to network units.
        intensity: ``"auto"``, ``"percentile"``, ``"full"`` or ``"window"``: see
            :func:`custom_nets.data.angiography.intensity.fit_mapping`.
        inverted: True: vessels are bright in the stored values; None: as the file or the picture says.

    Returns:
        The run. Where nothing is known about times, ``has_times`` is False and frames are counted.

    Raises:
        FileNotFoundError: no such path.
        ValueError: not a run of grey frames: the message says what it is and what to do.
    """
    found = existing_path(path)
    step_s = _given_step(times_s, fps, frame_time_ms)
    how: dict[str, Any] = {"intensity": intensity, "inverted": inverted}
    times = None if times_s is None else np.asarray(times_s, dtype=np.float64).reshape(-1)
    if holds_dicom(found) if found.is_dir() else is_dicom_file(found):
        return read_xa(found, times, step_s, series_uid=series_uid, subtract=subtract, **how)
    if found.is_dir():
        if picture_files(found):
            return read_pictures(found, times, step_s, **how)
        raise ValueError(f"{found} holds no run itself: give {_WHAT}.")
    name = found.name.lower()
    if name.endswith(_NIFTI):
        return read_nifti_run(found, times, step_s, **how)
    if name.endswith(_NUMPY):
        return read_numpy(found, times, step_s, **how)
    if name.endswith(PICTURE_SUFFIXES):
        return read_pictures(found, times, step_s, **how)
    raise ValueError(f"{found} is no run that can be read: give {_WHAT}.")


def _given_step(times_s: object, fps: float | None, frame_time_ms: float | None) -> float | None:
    """Seconds from frame to frame, where a rate was given."""
    if sum(value is not None for value in (times_s, fps, frame_time_ms)) > 1:
        raise ValueError("give only one of times_s, fps and frame_time_ms for the times of the input's frames.")
    for name, value in (("fps", fps), ("frame_time_ms", frame_time_ms)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise ValueError(f"the input's {name} must be a number above zero, got {value!r}.")
    return 1 / fps if fps is not None else None if frame_time_ms is None else frame_time_ms / 1000


def run_name(path: str | Path) -> str:
    """Name of a run: of its folder, or of its file without suffix."""
    path = Path(os.path.abspath(as_typed(path)))
    if path.is_dir():
        return path.name or "run"
    for suffix in (*_NIFTI[::-1], *_NUMPY, *PICTURE_SUFFIXES, ".dcm", ".dicom", ".ima"):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name  # files of DICOM often have no suffix, but dots from a UID


def find_runs(
    input: str | Path | Sequence[str | Path], section: str | None = None, skip_postfix: str | None = None
) -> list[dict[str, str]]:
    """List the runs that ``input`` names, without reading pixels.

    Args:
        input: what :func:`read_angiography` takes; a folder of such files and folders; a list of them; or a ``.json``
            datalist as in :func:`custom_nets.data.cases.find_cases`. In a folder every multi-frame DICOM file, every
            series of single-frame files, every NIfTI and NPZ file is a run, all pictures together are one.
        section: the list to take from a JSON dictionary with several.
        skip_postfix: leave out what is called ``*_<skip_postfix>``: results of an earlier run.

    Returns:
        ``{"image": path, "case": name}`` sorted by path, names unique without regard to upper and lower case.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: nothing found that can be read; the message says what is there instead.
    """
    named: dict[Path, str] = {}
    others: set[str] = set()
    if isinstance(input, (str, Path)):
        path = existing_path(input)
        if path.is_dir():
            named = _in_folder(path, skip_postfix, others, deeper=True)
        elif path.suffix.lower() == ".json":
            named = from_json(path, section, existing_path)
        else:
            named = {path: ""}
    elif isinstance(input, Iterable):
        for entry in input:
            path = existing_path(entry)
            named.update(_in_folder(path, None, others, deeper=False) if path.is_dir() else {path: ""})
    else:
        raise ValueError(f"input must be a path or a list of paths, got {input!r}.")
    if not named:
        there = f" There is: {', '.join(sorted(others)[:5])}." if others else ""
        raise ValueError(f"no run in {input}.{there} Give {_WHAT}.")
    paths = sorted(named)
    names = unique_names([named[path] or run_name(path) for path in paths], paths)
    return [{"image": str(path), "case": name} for path, name in zip(paths, names, strict=True)]


def _in_folder(folder: Path, skip_postfix: str | None, others: set[str], deeper: bool) -> dict[Path, str]:
    def own_result(path: Path) -> bool:
        return bool(skip_postfix) and run_name(path).endswith(f"_{skip_postfix}")

    found = dict.fromkeys((p for p in _dicom_runs(folder, others) if not own_result(p)), "")
    if [p for p in picture_files(folder) if not own_result(p)]:
        found.update(dict.fromkeys((p for p in picture_runs(folder) if p == folder or not own_result(p)), ""))
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or own_result(path):
            continue
        if path.is_dir():
            if deeper:
                found.update(_in_folder(path, skip_postfix, others, deeper=False))
        elif path.name.lower().endswith((*_NIFTI, *_NUMPY)) and (path.is_file() or not path.exists()):
            found[path] = ""
    return found


def _dicom_runs(folder: Path, others: set[str]) -> list[Path]:
    """Multi-frame files, and each series of single-frame files by its first one (by the folder if it is alone)."""
    runs: list[Path] = []
    series: dict[str, Path] = {}
    for file, header in run_headers(dicom_files(folder), others):
        if frame_count(header) > 1:
            runs.append(file)
        else:
            series.setdefault(text_of(header, "SeriesInstanceUID"), file)
    if len(series) == 1 and not runs:
        return [folder]
    return runs + list(series.values())
