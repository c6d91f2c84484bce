"""DICOM files: which they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["dicom_files", "holds_dicom", "is_dicom_file", "series_files"]

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


def is_dicom_file(path: str | Path) -> bool:
    """Whether the file starts as DICOM does: with the "DICM" mark, or (old and cut files) directly with an element.

    Such an element is of group 0008, or of the file meta group 0002.
    """
    try:
        if not os.path.isfile(path):  # nothing ever comes out of a pipe
            return False
        with open(path, "rb") as file:
            head = file.read(132)
    except (OSError, ValueError):
        return False
    if head[128:] == b"DICM":
        return True
    if head[:2] not in (b"\x08\x00", b"\x02\x00") or head[3:4] != b"\x00":
        return False
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"DA", b"TM", b"DT", b"SH", b"LO")
    implicit = head[6:8] == b"\x00\x00" and Path(path).suffix.lower() in ("", ".dcm", ".ima", ".dicom")
    return explicit or implicit


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files directly in a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR" and is_dicom_file(path):
            yield path


def series_files(path: Path) -> list[Path]:
    """The files beside a DICOM file that belong to its series, with it; a multi-frame file stands alone."""
    import pydicom

    def header(file: Path) -> Any:
        try:
            tags: list[Any] = ["SeriesInstanceUID", "NumberOfFrames"]
            return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
        except Exception:  # pydicom raises many kinds for damaged files; the reader will name this one
            return {}

    own = header(path)
    uid = own.get("SeriesInstanceUID")
    if not uid or str(own.get("NumberOfFrames") or 1) != "1":
        return [path]
    return [file for file in dicom_files(path.parent) if file == path or header(file).get("SeriesInstanceUID") == uid]


def holds_dicom(folder: str | Path) -> bool:
    """Whether at least one file directly in ``folder`` is DICOM."""
    return next(dicom_files(Path(folder)), None) is not None
