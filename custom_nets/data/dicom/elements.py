"""Elements of headers that others wrote: an element that is there may be empty, hold a word, or no number at all."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.utils.memory import check_memory

__all__ = ["drop_unreadable", "image_size", "numbers", "read_header", "sequence", "text_of", "valid_number"]

_LARGEST_IS = 2**31 - 1
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIECE = 1 << 20
_NUMBERS = ("DS", "IS", "FD", "FL", "US", "SS", "UL", "SL")


def read_header(path: Any, keywords: Iterable[str] | None = None, pixels: bool = False) -> tuple[Any, dict[str, str]]:
    """Read a DICOM file (with or without its part-10 header) and leave out what cannot be read.

    Args:
        path: of the file.
        keywords: read these elements only.
        pixels: read the pixel data, too.

    Returns:
        The data set, and keyword -> text of the elements that were left out: see :func:`drop_unreadable`.

    Raises:
        ValueError: the file is damaged so that its elements cannot be told apart.
    """
    import pydicom

    tags = None if keywords is None else list(keywords)
    try:
        _check_expansion(path)
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=tags, force=True)
        return dataset, drop_unreadable(dataset)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise ValueError(f"{path} is a damaged DICOM file: {' '.join(str(error).split())}.") from error


def _check_expansion(path: Any) -> None:
    """Compare what a deflated file unpacks to with the memory: pydicom unpacks all of it for a single element.

    Raises:
        ValueError: it is more.
    """
    with open(path, "rb") as file:
        if _DEFLATED not in file.read(1024):
            return
        from pydicom.filereader import read_file_meta_info

        file.seek(144 + int(read_file_meta_info(path).FileMetaInformationGroupLength))
        unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while piece := unpack.unconsumed_tail or file.read(_PIECE):
            size += len(unpack.decompress(piece, _PIECE))
            if size > _PIECE * 64:
                check_memory(2 * size, str(path))


def drop_unreadable(dataset: Any) -> dict[str, str]:
    """Remove the elements whose value is not what their type says (a word for a number, NaN), at any depth.

    What is removed is missing from then on: whoever needs it says so, whoever does not goes on without it.

    Returns:
        Keyword -> the text that stood there.
    """
    removed: dict[str, str] = {}
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        try:
            element = dataset[tag]
            readable = _is_readable(element)
        except Exception:  # pydicom has its own kinds for each type of element
            readable, element = False, None
        if not readable:
            removed[_keyword(tag)] = _shown(raw if element is None else element)
            del dataset[tag]
        elif element is not None and element.VR == "SQ":
            for item in element.value or []:
                removed.update(drop_unreadable(item))
    return removed


def _is_readable(element: Any) -> bool:
    if element.VR not in _NUMBERS or element.value is None or isinstance(element.value, bytes):
        return True
    values = np.atleast_1d(np.asarray(element.value, dtype=object))
    found = [float(v) for v in values if v not in (None, "")]
    return bool(np.isfinite(found).all()) and not (element.VR == "IS" and any(abs(v) > _LARGEST_IS for v in found))


def _keyword(tag: Any) -> str:
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or str(tag)


def _shown(element: Any) -> str:
    value = element.value
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text.strip(" \0"))
    return text if len(text) <= 40 else f"{text[:37]}..."


def numbers(header: Any, keyword: str, count: int | None = None) -> NDArray[np.float64] | None:
    """The values of an element as numbers; None where it is absent, empty, no number, or (``count``) not so many."""
    value = header.get(keyword)
    if value is None or isinstance(value, bytes) or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        return None
    return found if count is None or len(found) == count else None


def valid_number(header: Any, keyword: str) -> float | None:
    """The (first) value of an element as a number; None where there is none."""
    found = numbers(header, keyword)
    return None if found is None else float(found[0])


def image_size(header: Any) -> tuple[int, int] | None:
    """(Rows, Columns); None where one of them is no number above zero."""
    found = [numbers(header, keyword, 1) for keyword in ("Rows", "Columns")]
    sizes = [0 if size is None else int(size[0]) for size in found]
    return (sizes[0], sizes[1]) if min(sizes) > 0 else None


def text_of(header: Any, keyword: str) -> str:
    """The value of an element as text, "" where it is absent or empty; of several values the first."""
    value = header.get(keyword)
    if value is None or isinstance(value, bytes):
        return ""
    if not isinstance(value, str) and hasattr(value, "__len__"):
        value = value[0] if len(value) else ""
    return str(value).strip()


def sequence(header: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where it is absent, no sequence, or has nothing in any of its items."""
    value = header.get(keyword)
    try:
        items = [item for item in value or [] if hasattr(item, "get")]
    except TypeError:
        return []
    return items if any(len(item) for item in items) else []
