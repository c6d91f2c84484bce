"""DICOM files: which they are, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from custom_nets.utils.memory import check_memory

__all__ = ["decode_pixels", "dicom_files", "holds_dicom", "is_dicom_file"]


DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


def is_dicom_file(path: str | Path) -> bool:
    """Whether the file starts as DICOM does: the "DICM" mark, or (old files) directly with a tag of group 0008."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    old = head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and (head[4:6].isalpha() or head[6:8] == b"\x00\x00")
    return head[128:] == b"DICM" or (old and Path(path).suffix.lower() in ("", ".dcm", ".ima", ".dicom"))


def dicom_files(folder: Path) -> Iterator[Path]:
    """The DICOM files directly in a folder, by name."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR" and is_dicom_file(path):
            yield path


def holds_dicom(folder: str | Path) -> bool:
    """Whether at least one file directly in ``folder`` is DICOM."""
    return next(dicom_files(Path(folder)), None) is not None


def decode_pixels(path: Path, dataset: Any = None) -> NDArray[Any]:
    """Stored values of one file, [rows, columns] or [frames, rows, columns].

    Args:
        dataset: the file as pydicom read it; None: it is read here.

    Raises:
        ValueError: the pixel data cannot be decoded: truncated, or in an unknown, encrypted or uninstalled syntax.
    """
    import pydicom

    if dataset is None:
        dataset = pydicom.dcmread(path, force=True)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        # a file without the part-10 header: the standard's default encoding
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    size = [dataset.get(name) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated")]
    rows, columns, frames, samples, bits = (int(number or 1) for number in size)
    check_memory(2 * rows * columns * frames * samples * bits // 8, str(path))
    try:
        return dataset.pixel_array
    except Exception as error:  # every plug-in of pydicom has its own kinds
        reason = " ".join(str(error).split()) or "the data end too early: truncated, or NumberOfFrames is wrong"
        cause = f"{path}: the pixel data cannot be decoded ({reason})."
        if syntax is not None and (syntax.is_private or not syntax.is_transfer_syntax):
            cause += (
                f" Its transfer syntax {syntax} is none of the DICOM standard (encrypted, or a vendor's own): export"
                " the series again without encryption, as 'Explicit VR Little Endian'."
            )
        elif syntax is not None and syntax.is_compressed:
            cause += (
                f" It is compressed ({syntax.name}): pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg,"
                " or decompress it with dcmdjpeg or gdcmconv --raw."
            )
        raise ValueError(cause) from error
