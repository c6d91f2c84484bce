"""Arrays inside of a page: rounded to a step, then stored without loss.

A value is ``offset + step * q`` with q in 0..65535. Of each plane the page holds what its left and upper neighbours do
not foretell, as bytes, deflated, in base64: about what a PNG of the same values takes. ``static/page.js`` undoes it.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedArray", "halve", "pack", "round_to_step"]

LEVELS = 65535


@dataclass(frozen=True)
class PackedArray:
    """An array as a page holds it.

    Attributes:
        shape: slowest axis first; planes are the last two.
        step, offset: value = offset + step * q.
        text: base64.
    """

    shape: tuple[int, ...]
    step: float
    offset: float
    text: str

    def header(self) -> dict[str, object]:
        """What the script needs besides the text."""
        return {"shape": list(self.shape), "step": self.step, "offset": self.offset}


def round_to_step(values: NDArray, levels: int) -> tuple[float, float]:
    """Step and offset: ``levels`` steps between the 0.1 and the 99.9 percentile, and room for the extremes.

    Whole numbers (but for what float32 lost on the way) with a range of at most 65535 are stored as they are where that
    is not finer, and always for 4000 levels and more.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return 1.0, low
    sample = values.reshape(-1)[:: max(1, values.size // 1_000_000)]
    inner = float(np.subtract(*np.percentile(sample, (99.9, 0.1))))
    step = max((inner or high - low) / levels, (high - low) / LEVELS)
    may_be_whole = high - low <= LEVELS and (step <= 1 or levels >= 4000)
    if may_be_whole and np.abs(values - np.rint(values)).max() < 1e-3:
        return 1.0, round(low)
    return step, low


def pack(values: NDArray, step: float, offset: float) -> PackedArray:
    """Store an array [..., rows, columns].

    Args:
        values: finite.
        step, offset: of :func:`round_to_step`, or of an array that is to be compared; beyond 0..65535 steps values are
            cut off.
    """
    shape = values.shape
    squeeze = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    parts = []
    for plane in values.reshape(-1, *shape[-2:]):
        q = np.clip(np.rint((plane.astype(np.float64) - offset) / step), 0, LEVELS).astype(np.int32)
        rest = q.copy()
        rest[1:, 1:] -= (q[1:, :-1] + q[:-1, 1:]) >> 1
        rest[0, 1:] -= q[0, :-1]
        rest[1:, 0] -= q[:-1, 0]
        rest = rest.astype(np.int16).astype(np.int32)  # modulo 2^16
        folded = ((rest << 1) ^ (rest >> 31)).astype(np.uint16)  # 0, -1, 1, -2 ... become 0, 1, 2, 3 ...
        parts.append(squeeze.compress((folded & 255).astype(np.uint8).tobytes()))
        parts.append(squeeze.compress((folded >> 8).astype(np.uint8).tobytes()))
    parts.append(squeeze.flush())
    return PackedArray(tuple(shape), float(step), float(offset), base64.b64encode(b"".join(parts)).decode("ascii"))


def halve(values: NDArray, axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Means of pairs along some axes; the last of an odd number stays alone."""
    for axis in axes:
        n = values.shape[axis]
        sums = np.add.reduceat(values.astype(np.float32), np.arange(0, n, 2), axis=axis)
        counts = np.full(sums.shape[axis], 2.0, dtype=np.float32)
        counts[-1] = 2 - n % 2
        values = sums / np.expand_dims(counts, tuple(range(1, values.ndim - axis)))
    return values
