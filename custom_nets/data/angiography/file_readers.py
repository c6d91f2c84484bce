"""Runs from pictures (PNG, TIFF), NIfTI and NumPy files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.run import AngiographyRun, RunGeometry, RunOrigin, make_run
from custom_nets.data.nifti_header import units_of
from custom_nets.data.whole_files import DAMAGED, check_picture, image_array, load_arrays, open_image
from custom_nets.utils.files import read_json

__all__ = ["PICTURE_SUFFIXES",
    "SIDE_FILE", "natural_key", "picture_files", "picture_runs", "read_nifti_run", "read_numpy", "read_pictures",
           "side_file"]  # fmt: skip

PICTURE_SUFFIXES = (".png", ".tif", ".tiff")
SIDE_FILE = "frames.json"
_SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def side_file(path: Path) -> Path:
    """The JSON file that says times and made frames: in a folder of pictures, or beside a file."""
    if path.is_dir():
        return path / SIDE_FILE
    return path.with_name(f"{path.name.removesuffix('.gz').rsplit('.', 1)[0]}.{SIDE_FILE}")


def natural_key(name: str) -> list[Any]:
    """Sort key that puts 2.png before 10.png."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", name)]


def picture_files(folder: Path) -> list[Path]:
    """The pictures directly in a folder, 2.png before 10.png."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    return sorted((p for p in found if p.is_file()), key=lambda p: natural_key(p.name))


def picture_runs(folder: Path) -> list[Path]:
    """The runs that the pictures directly in a folder are: the folder, or each of its TIFF files with several pages.

    Raises:
        ValueError: files with several pages lie among single pictures.
    """
    files = picture_files(folder)
    pages = [file for file in files if page_count(file) > 1]
    if pages and len(pages) < len(files):
        single = next(file for file in files if file not in pages)
        raise ValueError(
            f"{folder}: {pages[0].name} has {page_count(pages[0])} pages and {single.name} is a single picture: which "
            "is the run? Put each run into a folder of its own."
        )
    return pages or ([folder] if files else [])


def page_count(file: Path) -> int:
    """Pictures in a file: of a TIFF its pages, otherwise 1 (a damaged one is refused when it is read)."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return 1
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            return len(tiff.pages)
    except (tifffile.TiffFileError, OSError, ValueError):
        return 1


def read_pictures(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    step_s: float | None = None,
    intensity: str = "auto",
    inverted: bool | None = None,
) -> AngiographyRun:
    """Read a folder of PNG or TIFF files, one frame each, or one TIFF file with several pages.

    Grey, or colour with three equal channels (an opaque fourth one is passed over), 8 or 16 bits, TIFF also float32.
    """
    path = Path(path)
    if path.is_dir():
        runs = picture_runs(path)
        if not runs:
            raise ValueError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
        if runs != [path]:
            names = ", ".join(run.name for run in runs[:5])
            if len(runs) > 1:
                raise ValueError(f"{path} holds {len(runs)} runs of several pages each ({names}): name one of them.")
            return read_pictures(runs[0], times_s, step_s, intensity, inverted)
        files = picture_files(path)
        frames = _stack(files, path)
    else:
        frames = _pages(path)
        files = [path]
    meta = {"files": [file.name for file in files]}
    return _finish(frames, path, "png", times_s, step_s, meta, intensity, inverted)


def _stack(files: list[Path], folder: Path) -> NDArray:
    frames: NDArray | None = None
    for number, file in enumerate(files):
        image = _grey(_load_picture(file), file)
        if frames is None:
            frames = np.empty((len(files), *image.shape), dtype=image.dtype)
        if image.shape != frames.shape[1:] or image.dtype != frames.dtype:
            raise ValueError(
                f"{folder}: {file.name} is {image.shape[0]} x {image.shape[1]} {image.dtype}, {files[0].name} is "
                f"{frames.shape[1]} x {frames.shape[2]} {frames.dtype}: the frames of a run have one size and type."
            )
        frames[number] = image
    assert frames is not None
    return frames


def _load_picture(file: Path) -> NDArray:
    import cv2

    check_picture(file)
    if (pages := _white_is_zero(file)) is not None:
        return pages[0]
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{file} is damaged or no picture.")
    return image


def _white_is_zero(file: Path) -> list[NDArray] | None:
    """Pages of a TIFF whose zero is white, turned round; None for all others.

    (OpenCV turns them round where they have 8 bits, and does not where they have 16.)
    """
    if file.suffix.lower() not in (".tif", ".tiff"):
        return None
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            if not any(page.photometric == tifffile.PHOTOMETRIC.MINISWHITE for page in tiff.pages):
                return None
            if any(page.photometric != tifffile.PHOTOMETRIC.MINISWHITE for page in tiff.pages):
                raise ValueError("zero is white in some of its pages and black in others")
            pages = [page.asarray() for page in tiff.pages]
            bits = int(tiff.pages[0].bitspersample)
    except Exception as error:  # its decoders raise many kinds
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{file} cannot be read as a picture: {reason}. Save it uncompressed, or as PNG.") from error
    if pages[0].dtype.kind != "u":
        raise ValueError(f"{file}: zero is white, which says nothing for {pages[0].dtype} pixels: write it as PNG.")
    return [page.dtype.type((1 << bits) - 1) - page for page in pages]


def _pages(file: Path) -> NDArray:
    import cv2

    check_picture(file)
    turned = _white_is_zero(file)
    done, pages = (True, turned) if turned else cv2.imreadmulti(str(file), flags=cv2.IMREAD_UNCHANGED)
    if not done or not pages:
        raise ValueError(f"{file} is damaged or no picture.")
    if len(pages) == 1:
        raise ValueError(f"{file} is a single picture: give the folder with the pictures of the run.")
    images = [_grey(np.asarray(page), file) for page in pages]
    if len({(image.shape, image.dtype) for image in images}) > 1:
        raise ValueError(f"{file}: its pages differ in size or type; the frames of a run have one size and type.")
    return np.stack(images)


def _grey(image: NDArray, file: Path) -> NDArray:
    if image.ndim == 3:
        if image.shape[2] == 4 and (image[..., 3] == image[0, 0, 3]).all():
            image = image[..., :3]
        if not (image == image[..., :1]).all():
            raise ValueError(
                f"{file} is a colour picture with different channels: grey frames are needed (or three equal channels)."
            )
        image = np.ascontiguousarray(image[..., 0])
    return image.astype(np.float32) if image.dtype == np.float64 else image


def read_nifti_run(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    step_s: float | None = None,
    intensity: str = "auto",
    inverted: bool | None = None,
) -> AngiographyRun:
    """Read a run stored as NIfTI [x, y, frame] or [x, y, 1, frame].

    The time step is taken from a 4D header that states a unit of time. The third pixdim of a 3D file is a distance by
    the standard, and the fourth one without a unit is a default that says nothing: neither is taken for a time.
    """
    path = Path(path)
    try:
        image = open_image(path)
        slope, inter = image.dataobj.slope, image.dataobj.inter
        dtype = np.dtype(image.get_data_dtype())
        exact = slope == 1 and inter == 0 and dtype.kind in "iu" and dtype.itemsize <= 2
        array = image_array(image, dtype.newbyteorder("=") if exact else np.float32, path)
    except (AttributeError, *DAMAGED) as error:
        raise ValueError(f"{path} cannot be read as a run: {' '.join(str(error).split())}.") from error
    step = None
    if array.ndim == 4 and array.shape[2] == 1:
        array = array[:, :, 0]
        unit = units_of(image.header)[1]
        stored = float(image.header["pixdim"][4])
        step = stored * _SECONDS_PER_UNIT[unit] if unit in _SECONDS_PER_UNIT and stored > 0 else None
    if array.ndim != 3:
        raise ValueError(f"{path} has shape {array.shape}: [x, y, frame] or [x, y, 1, frame] is needed for a run.")
    spacing = [float(v) for v in image.header.get_zooms()[:2]]
    notes = [note] if (note := image.extra.get("note")) else []
    return _finish(
        np.ascontiguousarray(array.transpose(2, 1, 0)), path, "nifti", times_s, step_s,
        {"affine": np.asarray(image.affine).tolist()}, intensity, inverted, header_step_s=step,
        geometry=RunGeometry(pixel_spacing_mm=(spacing[1], spacing[0])), notes=notes,
    )  # fmt: skip


def read_numpy(
    path: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    step_s: float | None = None,
    intensity: str = "auto",
    inverted: bool | None = None,
) -> AngiographyRun:
    """Read an ``.npz`` with ``frames`` [T, H, W] and, if there, ``times_s`` and ``synthetic`` [T]; or an ``.npy``."""
    path = Path(path)
    try:
        content = load_arrays(path)
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read as a NumPy file: {' '.join(str(error).split())}.") from error
    if "frames" not in content:
        raise ValueError(f"{path} has the arrays {sorted(content)}: 'frames' [T, H, W] is needed (and 'times_s' [T]).")
    frames = content["frames"]
    if frames.ndim == 4 and frames.shape[-1] in (3, 4):
        frames = np.stack([_grey(frame, path) for frame in frames])
    if frames.dtype == np.float64 or frames.dtype == np.float16:
        frames = frames.astype(np.float32)
    elif frames.dtype.kind in "iu" and frames.dtype.itemsize > 2:
        low, high = int(frames.min()), int(frames.max())
        kinds = [kind for kind in (np.uint16, np.int16) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
        if not kinds:
            raise ValueError(f"{path}: frames hold {low} to {high}, which 16 bits cannot: use float32.")
        frames = frames.astype(kinds[0])
    return _finish(
        frames, path, "npz", times_s, step_s, {}, intensity, inverted,
        file_times=content.get("times_s"), synthetic=content.get("synthetic"),
    )  # fmt: skip


def _finish(
    frames: NDArray,
    path: Path,
    format: str,
    times_s: Sequence[float] | NDArray | None,
    step_s: float | None,
    meta: dict[str, Any],
    intensity: str,
    inverted: bool | None,
    header_step_s: float | None = None,
    file_times: NDArray | None = None,
    synthetic: NDArray | None = None,
    geometry: RunGeometry | None = None,
    notes: Sequence[str] = (),
) -> AngiographyRun:
    """Choose the times: as given, of the file, of the side file that our writer leaves, of its header, or none."""
    count, notes, masks = len(frames), list(notes), []
    beside = side_file(path)
    side = _read_side(beside) if beside.is_file() else {}
    times: Any = times_s
    source = "given"
    if times is None and step_s is not None:
        times = np.arange(count) * step_s
    if side and len(side["times_s"]) == count:
        synthetic = np.asarray(side["synthetic"], dtype=bool) if synthetic is None else synthetic
        masks = [number - 1 for number in side.get("mask_frames") or []]
        if times is None and file_times is None and side.get("has_times", True):
            times, source = side["times_s"], beside.name
    if times is None and file_times is not None:
        times, source = file_times, "times_s"
    if times is None and header_step_s is not None:
        times, source = np.arange(count) * header_step_s, "header"
    if times is None:
        source = "none"
        notes.append("nothing is known about the times of the frames: they are taken as evenly spaced and counted")
    return make_run(
        frames, times, synthetic=synthetic, mask_frames=masks, intensity=intensity, inverted=inverted,
        geometry=geometry, origin=RunOrigin(str(path), format, {**meta, "time_source": source}, tuple(notes)),
    )  # fmt: skip


def _read_side(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        if len(content["times_s"]) != len(content["synthetic"]):
            raise ValueError("times_s and synthetic differ in length")
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of frames ({error}): remove it or write it again.") from error
