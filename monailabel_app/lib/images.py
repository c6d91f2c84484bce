"""The images in a folder: files, and DICOM series and runs as one image each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from custom_nets.data.cases import IMAGE_SUFFIXES
from custom_nets.data.dicom.files import dicom_files, is_dicom_file
from custom_nets.utils import one_line
from monailabel_app.lib.bundles import WrongRequest

__all__ = [
    "LONGEST_NAME",
    "check_id",
    "check_image",
    "check_upload",
    "image_suffix",
    "is_run",
    "list_images",
    "without_suffix",
]

LONGEST_NAME = 200  # bytes: what is written of an image gets longer names

_SUFFIXES = (*IMAGE_SUFFIXES, ".npz")
_OWN = {"labels"}  # what MONAI Label keeps beside the images


def list_images(root: Path) -> dict[str, str]:
    """Images in a folder and in its sub-folders (one level).

    Every NIfTI, MGH and NPZ file and every multi-frame DICOM file is an image. The single-frame DICOM files of a series
    are one image: their folder, where it holds nothing else, otherwise the first file of the series stands for it.

    Returns:
        Name -> path relative to the folder. The name is the path without suffix, unless two images would share it.
    """
    paths = sorted(_images_in(root, deeper=True))
    relative = [str(path.relative_to(root)) for path in paths]
    short = [without_suffix(text) for text in relative]
    return {(text if short.count(name) > 1 else name): text for name, text in zip(short, relative, strict=True)}


def _images_in(folder: Path, deeper: bool) -> Iterator[Path]:
    singles: dict[str, Path] = {}
    multi = 0
    for file in dicom_files(folder):
        frames, series = _header(file, file.stat().st_mtime_ns)
        if frames > 1:
            multi += 1
            yield file
        else:
            singles.setdefault(series, file)
    if len(singles) == 1 and not multi and not deeper:
        yield folder
    else:
        yield from singles.values()
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _OWN:
            continue
        if path.is_dir():
            if deeper:
                yield from _images_in(path, deeper=False)
        elif path.name.lower().endswith(_SUFFIXES) and not is_dicom_file(path):
            yield path


@lru_cache(maxsize=100_000)
def _header(file: Path, changed: int) -> tuple[int, str]:
    """Number of frames and series of a DICOM file; a damaged one is listed, too, and refused when it is read."""
    header = _read(file, ["NumberOfFrames", "SeriesInstanceUID"])
    try:
        return int(header.get("NumberOfFrames") or 1), str(header.get("SeriesInstanceUID", file.name))
    except (AttributeError, ValueError, TypeError):
        return 1, file.name


def _read(file: Path, tags: list[str]) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(tags))
    except Exception:  # pydicom raises many kinds for damaged files
        return {}


def without_suffix(name: str) -> str:
    for suffix in sorted((*_SUFFIXES, ".dcm"), key=len, reverse=True):
        if name.lower().endswith(suffix) and len(Path(name).name) > len(suffix):
            return name[: -len(suffix)]
    return name


def image_suffix(name: str) -> str:
    """The suffix that says what an image is: NIfTI, MGH, NPZ, DICOM.

    Raises:
        WrongRequest: another, or none.
    """
    allowed = sorted((*_SUFFIXES, ".dcm"), key=len, reverse=True)
    found = next((suffix for suffix in allowed if name.lower().endswith(suffix)), None)
    if found is None:
        raise WrongRequest(f"images only ({', '.join(sorted(allowed))}), got {one_line(name)[-40:]!r}.", 415)
    return found


def check_upload(name: str | None) -> str:
    """The last part of an uploaded file's name, which becomes that of a file.

    Raises:
        WrongRequest: none, a hidden one, one that is too long or cannot be shown.
    """
    last = Path((name or "").replace("\\", "/")).name
    if (
        not last
        or last.startswith(".")
        or not last.isprintable()
        or len(last.encode("utf-8", "replace")) > LONGEST_NAME
    ):
        raise WrongRequest(
            f"an uploaded file needs a name with its suffix, of at most {LONGEST_NAME} letters, got "
            f"{one_line(name or '')[:60]!r}."
        )
    return last


def check_image(path: Path) -> None:
    """Read an uploaded file through.

    Raises:
        WrongRequest: it is none of the images that :func:`image_suffix` names, or damaged.
    """
    from custom_nets.data.volumes.nifti import read_nifti
    from custom_nets.data.whole_files import DAMAGED, load_arrays

    try:
        if image_suffix(path.name) == ".dcm":
            if not is_dicom_file(path) or "Rows" not in _read(path, ["Rows"]):
                raise ValueError("it is no DICOM image")
        elif image_suffix(path.name) == ".npz":
            if "frames" not in load_arrays(path):
                raise ValueError("it holds no array 'frames'")
        else:
            read_nifti(path)
    except DAMAGED as error:
        if isinstance(error, WrongRequest):
            raise
        raise WrongRequest(str(error).replace(f"{path.parent}/", "")) from error


def is_run(path: Path) -> bool:
    """Whether an image is an angiography run and no volume: by its DICOM modality, NPZ always."""
    from custom_nets.data.angiography.xa_reader import is_xa

    file = next(dicom_files(path), path) if path.is_dir() else path
    if file.is_file() and is_dicom_file(file):
        return is_xa(_read(file, ["SOPClassUID"]))
    return file.suffix.lower() == ".npz"


def check_id(name: str) -> str:
    """A name that stays in the folder of images.

    Raises:
        ValueError: it leads somewhere else, or is hidden.
    """
    parts = Path(name).parts
    if not name.strip() or Path(name).is_absolute() or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of an image: give one of the server's images, not a path.")
    if any(part.startswith(".") for part in parts):
        raise ValueError(f"{name!r} is no name of an image: it leads out of the folder of images, or is hidden.")
    return name
