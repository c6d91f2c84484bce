"""Stored values of DICOM files: decoded, and nothing but intensities.

A header says how wide the values are, which of them mean "nothing was measured here", and how they become intensities;
where it contradicts the pixels, or they are numbers of colours, nothing is guessed.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.dicom.elements import numbers, sequence, text_of, valid_number
from custom_nets.utils.memory import check_memory

__all__ = ["apply_table", "check_grey", "decode_pixels", "padding_of"]

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_FEW = 0.001  # share of the pixels that may be marks or faults
_AGAIN = "Export the series again."


def check_grey(header: Any, path: Path) -> None:
    """Refuse pixels that are no intensities.

    Raises:
        ValueError: colour, numbers of colours in a palette, or a segmentation.
    """
    if text_of(header, "Modality") == "SEG" or valid_number(header, "BitsAllocated") == 1:
        raise ValueError(
            f"{path} is a segmentation: its values are labels, no intensities. Give the images themselves."
        )
    samples, kind = valid_number(header, "SamplesPerPixel"), text_of(header, "PhotometricInterpretation")
    if samples not in (None, 1.0) or kind not in ("", *_GREY):
        what = {"PALETTE COLOR": "its values are the numbers of colours, no intensities"}.get(kind, "it is in colour")
        raise ValueError(
            f"{path} is {kind or 'an image'} with {samples or 1:g} samples per pixel ({what}): one grey value per "
            "pixel (MONOCHROME1 or MONOCHROME2) is needed. Export the original images."
        )
    if text_of(header, "PixelPresentation") in ("COLOR", "MIXED", "TRUE_COLOR"):
        raise ValueError(
            f"{path} is grey with some pixels in colour (PixelPresentation {header.PixelPresentation}), whose values "
            "are no intensities. Export the images without the colour map."
        )


def decode_pixels(path: Path, dataset: Any = None, notes: set[str] | None = None) -> NDArray[Any]:
    """Stored values of one file, [rows, columns] or [frames, rows, columns].

    Args:
        dataset: the file as pydicom read it; None: it is read here.
        notes: gets what is unusual.

    Raises:
        ValueError: the pixel data cannot be decoded (truncated, or in an unknown, encrypted or uninstalled syntax), or
            contradicts the header.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian

    if dataset is None:
        from custom_nets.data.dicom.elements import read_header

        dataset, _ = read_header(path, pixels=True)
    notes = set() if notes is None else notes
    if dataset.get("FloatPixelData") or dataset.get("DoubleFloatPixelData"):
        raise ValueError(
            f"{path} has floating-point pixels (FloatPixelData), and whole numbers (PixelData) are read: convert it to "
            "NIfTI first, or export the original images."
        )
    if not dataset.get("PixelData"):
        raise ValueError(f"{path} has no pixel data. {_AGAIN}")
    if not text_of(dataset, "PhotometricInterpretation"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
        notes.add("PhotometricInterpretation is missing: MONOCHROME2 is taken")
    if valid_number(dataset, "SamplesPerPixel") is None:
        dataset.SamplesPerPixel = 1
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        # a file without the part-10 header: its elements tell by their form how it was encoded
        dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax = _read_syntax(dataset) or ImplicitVRLittleEndian
    elif not isinstance(syntax, UID):  # something that is no UID at all
        dataset.file_meta.TransferSyntaxUID = syntax = UID(str(syntax))
    size = [valid_number(dataset, name) for name in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated")]
    rows, columns, frames, bits = (int(number or 1) for number in size)
    check_memory(2 * rows * columns * frames * bits // 8, str(path))
    if str(syntax) in _NATIVE:
        _check_length(dataset, path, notes)
    stored = _bits_stored(dataset, path)
    if hasattr(dataset, "pixel_array_options"):  # pydicom 3 would cut values to BitsStored without a word
        dataset.pixel_array_options(correct_unused_bits=False)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            pixels = dataset.pixel_array
    except Exception as error:  # every plug-in of pydicom has its own kinds
        raise ValueError(_why_not(path, error, syntax)) from error
    if any("Bits Stored" in str(warning.message) for warning in said):
        found = next(str(w.message).split(".")[0] for w in said if "Bits Stored" in str(w.message))
        raise ValueError(f"{path}: the header contradicts the pixels ({found}). {_AGAIN}")
    pixels = _within_bits(pixels, stored, dataset, path)
    _check_sign(pixels, stored, path)
    return pixels


def _read_syntax(dataset: Any) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = getattr(dataset, "original_encoding", None) or (
        getattr(dataset, "is_implicit_VR", None), getattr(dataset, "is_little_endian", None),
    )  # fmt: skip
    if implicit is None or little is None:
        return None
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_length(dataset: Any, path: Path, notes: set[str]) -> None:
    """Pixels of another number of bytes than the header says; a few behind them are padding."""
    count = int(valid_number(dataset, "NumberOfFrames") or 1)
    rows, columns, allocated = (valid_number(dataset, k) for k in ("Rows", "Columns", "BitsAllocated"))
    if rows is None or columns is None or allocated is None:
        raise ValueError(f"{path} has no valid Rows, Columns or BitsAllocated: its pixels cannot be read. {_AGAIN}")
    if allocated not in (1, 8, 16, 32, 64):
        raise ValueError(f"{path}: BitsAllocated is {allocated:g}, 8 or 16 bits per pixel are read. {_AGAIN}")
    frame = int(rows * columns * allocated) // 8
    need, have = count * frame, len(dataset.PixelData)
    if have < need or frame <= 0 or have - need >= frame:
        raise ValueError(
            f"{path}: the pixel data cannot be decoded: NumberOfFrames is {count}, which makes {need} bytes of pixels, "
            f"but the file has {have}: it is truncated, or the number is wrong. {_AGAIN}"
        )
    if have > need + 1:
        notes.add(f"{have - need} bytes behind the pixels are taken for padding")
        dataset.PixelData = dataset.PixelData[: need + need % 2]


def _bits_stored(dataset: Any, path: Path) -> int:
    """BitsStored; where it is missing, what the pixels take."""
    allocated, stored = (int(valid_number(dataset, f"Bits{k}") or 0) for k in ("Allocated", "Stored"))
    if not stored:
        dataset.BitsStored, dataset.HighBit = allocated, allocated - 1
        return allocated
    high = valid_number(dataset, "HighBit")
    if not 0 < stored <= allocated or (high is not None and high != stored - 1):
        raise ValueError(
            f"{path}: BitsAllocated {allocated}, BitsStored {stored} and HighBit {high} do not fit together: values of "
            f"{stored} bits end at bit {stored - 1}. {_AGAIN}"
        )
    return stored


def _within_bits(pixels: NDArray[Any], stored: int, dataset: Any, path: Path) -> NDArray[Any]:
    """Values of BitsStored bits; overlays may lie above them, and nothing else."""
    allocated = 8 * pixels.dtype.itemsize
    if stored >= allocated or pixels.dtype.kind not in "iu":
        return pixels
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    words = np.ascontiguousarray(pixels).view(f"u{pixels.dtype.itemsize}")
    kind = words.dtype.type
    spare = ((1 << allocated) - 1) ^ ((1 << stored) - 1)
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        if position is not None and isinstance(position.value, int) and 0 < position.value < allocated:
            spare &= ~(1 << position.value)
    above = words & kind(spare)
    wrong = above != 0
    signed = valid_number(dataset, "PixelRepresentation") == 1
    if signed:
        negative = (words >> kind(stored - 1)) & kind(1) == 1
        wrong &= ~(negative & (above == spare))  # bits above the sign repeat it
    if wrong.any():
        widest = int(words[wrong].max()).bit_length()
        raise ValueError(
            f"{path}: BitsStored is {stored}, but {int(wrong.sum())} pixels have more bits (up to {widest}): "
            f"the header contradicts the pixels. {_AGAIN}"
        )
    shift = kind(allocated - stored)
    moved = words << shift
    return (
        moved.view(f"i{pixels.dtype.itemsize}") >> shift.astype(f"i{pixels.dtype.itemsize}")
        if signed
        else moved >> shift
    )


def _check_sign(pixels: NDArray[Any], stored: int, path: Path) -> None:
    """Refuse numbers below zero that the header calls unsigned: they lie at the upper end, and nothing between."""
    if pixels.dtype.kind != "u" or stored < 10:
        return
    quarter = 1 << (stored - 2)
    high = pixels >= 3 * quarter
    low = pixels < quarter
    # a single value up there may be padding or a burnt-in mark
    if high.any() and low.any() and (high | low).all() and np.ptp(pixels[high]) > 1 and high.mean() > _FEW:
        raise ValueError(
            f"{path}: PixelRepresentation says that no value is below zero, but {100 * high.mean():.2g} % of the "
            f"pixels are from {int(pixels[high].min())} on and all others below {quarter}: these are numbers below "
            f"zero, and the header contradicts the pixels. {_AGAIN}"
        )


def _why_not(path: Path, error: Exception, syntax: Any) -> str:
    reason = " ".join(str(error).split()) or "the data end too early: truncated, or NumberOfFrames is wrong"
    cause = f"{path}: the pixel data cannot be decoded ({reason[:300]})."
    if syntax.is_private or not syntax.is_transfer_syntax:
        return cause + (
            f" Its transfer syntax {syntax} is none of the DICOM standard (encrypted, or a vendor's own): export"
            " the series again without encryption, as 'Explicit VR Little Endian'."
        )
    if syntax.is_compressed:
        return cause + (
            f" It is compressed ({syntax.name}): pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg,"
            " or decompress it with dcmdjpeg or gdcmconv --raw."
        )
    return cause


def padding_of(header: Any, pixels: NDArray[Any]) -> tuple[NDArray[np.bool_], int] | None:
    """Where PixelPaddingValue (with PixelPaddingRangeLimit: from the one to the other) stands, and the value.

    Returns:
        None where the header names no padding, or no pixel has it.
    """
    low = _padding_number(header, "PixelPaddingValue", pixels.dtype)
    if low is None:
        return None
    limit = _padding_number(header, "PixelPaddingRangeLimit", pixels.dtype)
    first, last = sorted((low, low if limit is None else limit))
    mask = (pixels >= first) & (pixels <= last)
    return (mask, low) if mask.any() else None


def _padding_number(header: Any, keyword: str, dtype: np.dtype) -> int | None:
    """The number as the pixels have it: files give it a sign or none as they like."""
    value = header.get(keyword)
    if isinstance(value, bytes) and len(value) >= 2:  # implicit VR does not say which
        value = int.from_bytes(value[:2], "little")
    else:
        found = numbers(header, keyword)
        value = None if found is None else int(found[0])
    if value is None:
        return None
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        value = (value - limits.min) % (limits.max - limits.min + 1) + limits.min
    return int(value)


def apply_table(header: Any, pixels: NDArray[Any], path: Path) -> NDArray[np.float64] | None:
    """Values by ModalityLUTSequence; None where there is none.

    Raises:
        ValueError: the table cannot be read.
    """
    if not (tables := sequence(header, "ModalityLUTSequence")):
        return None
    descriptor = numbers(tables[0], "LUTDescriptor", 3)
    data = tables[0].get("LUTData")
    if descriptor is None or data is None:
        raise ValueError(f"{path}: ModalityLUTSequence cannot be read, so that the values are not known. {_AGAIN}")
    count, first = int(descriptor[0]) or 65536, int(descriptor[1])
    if np.issubdtype(pixels.dtype, np.signedinteger) and first >= 1 << 15:
        first -= 1 << 16
    wide = descriptor[2] > 8 or (isinstance(data, bytes) and len(data) >= 2 * count)
    table = np.frombuffer(data, "<u2" if wide else "u1") if isinstance(data, bytes) else np.asarray(data)
    if len(table) < count:
        raise ValueError(f"{path}: ModalityLUTSequence has {len(table)} of {count} entries. {_AGAIN}")
    return table[np.clip(pixels.astype(np.int64) - first, 0, count - 1)].astype(np.float64)
