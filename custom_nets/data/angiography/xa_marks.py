"""Which frames of an XA object are made: said in two places of the file, and read again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["mark_synthetic_frames", "remove_marks", "synthetic_frames_of"]

_PRIVATE_BLOCK = (0x0029, "CUSTOM_NETS RUN")  # element 01: numbers of made frames, 02: time of every frame (s)
_SYNTHETIC = "synthetic"  # FrameOfInterestDescription of a made frame


def mark_synthetic_frames(dataset: Any, numbers: Sequence[int], times_s: NDArray[np.float64]) -> None:
    """Say in FrameNumbersOfInterest and in a private block which frames (numbers from 1) are made."""
    if not len(numbers):
        return
    old, words = _many(dataset.get("FrameNumbersOfInterest")), _many(dataset.get("FrameOfInterestDescription"))
    kept = [(n, w) for n, w in zip(old, words + [""] * len(old), strict=False) if n not in set(numbers)]
    dataset.FrameNumbersOfInterest = [n for n, _ in kept] + list(numbers)
    dataset.FrameOfInterestDescription = [w for _, w in kept] + [_SYNTHETIC] * len(numbers)
    block = dataset.private_block(*_PRIVATE_BLOCK, create=True)
    # not block.add_new: in a copied data set pydicom's block still writes into the original
    dataset.add_new(block.get_tag(0x01), "UL", list(numbers))
    dataset.add_new(block.get_tag(0x02), "FD", times_s.tolist())


def remove_marks(dataset: Any) -> None:
    """Take the private marks of an earlier run off."""
    try:
        block = dataset.private_block(*_PRIVATE_BLOCK)
    except KeyError:
        return
    for offset in (0x01, 0x02):
        dataset.pop(block.get_tag(offset), None)


def synthetic_frames_of(dataset: Any) -> list[int]:
    """Numbers (from 1) of the frames that a file written here says are made; empty for any other file.

    They stand in a private element and in FrameNumbersOfInterest: archives may drop the one or the other.
    """
    found: set[int] = set()
    try:
        value = dataset.private_block(*_PRIVATE_BLOCK)[0x01].value
        # an archive that writes implicit VR forgets the type of private elements
        found.update(np.frombuffer(value, "<u4").tolist() if isinstance(value, bytes) else _many(value))
    except KeyError:
        pass
    numbers, words = (_many(dataset.get(f"Frame{name}")) for name in ("NumbersOfInterest", "OfInterestDescription"))
    found.update(number for number, word in zip(numbers, words, strict=False) if word == _SYNTHETIC)
    return sorted(int(number) for number in found)


def _many(value: Any) -> list[Any]:
    """The values of an element that may be absent, single or several."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    return list(value) if np.ndim(value) else [value]
