"""Stored grey values of an angiography run <-> what a network sees: one invertible map for the whole run.

A network is trained on subtracted frames with dark vessels on a bright ground. A window per frame would make a run
flicker, so there is one linear map per run; where the run says that a mask is to be subtracted (DICOM PS3.3 C.7.6.10)
this happens on the way in and is undone on the way out, so that a made frame is a raw frame like its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["BACKGROUND", "IntensityMapping", "MaskSubtraction", "fit_mapping"]

BACKGROUND = 0.75  # where the ground of a subtracted frame lies in network units
_DARKEST, _BRIGHTEST = 0.05, 1.0  # where the robust extremes must fit in
_TAILS = (0.05, 99.95)  # percent
_LOWEST_COUNT = 0.25  # stored counts of zero have no logarithm; this rounds back to zero
_TO_THE_END = 1 << 30
_SAMPLED_FRAMES, _SAMPLED_PIXELS = 16, 1 << 17


@dataclass(frozen=True)
class MaskSubtraction:
    """One item of a mask subtraction.

    Attributes:
        operation: ``"AVG_SUB"`` (mean of the mask frames) or ``"TID"`` (the frame ``tid_offset`` before).
        mask_frames: indices from 0, for ``AVG_SUB``.
        tid_offset: frames, for ``TID``; below zero the mask comes later.
        shift_px: (down, right) that the mask is moved by before it is subtracted.
        first, last: frames that the item holds for, indices from 0, both included.
    """

    operation: str = "AVG_SUB"
    mask_frames: tuple[int, ...] = ()
    tid_offset: int = 1
    shift_px: tuple[float, float] = (0.0, 0.0)
    first: int = 0
    last: int = _TO_THE_END

    def distance(self, position: float) -> float:
        """Frames between ``position`` and the range of the item; 0 inside."""
        return max(self.first - position, position - self.last, 0.0)


@dataclass(frozen=True)
class IntensityMapping:
    """``unit = scale * s + offset`` with s = f(stored), or f(stored) - f(mask) where a mask is subtracted.

    Attributes:
        scale: below zero where vessels are bright in the stored values.
        log: f is the logarithm (linear intensity, PixelIntensityRelationship LIN) instead of the value itself.
        zero: stored value + zero is proportional to the intensity (rescale intercept / slope), for the logarithm.
        subtraction: items, each for its range of frames; empty: no mask.
    """

    scale: float = 1.0
    offset: float = 0.0
    log: bool = False
    zero: float = 0.0
    subtraction: tuple[MaskSubtraction, ...] = ()

    def __post_init__(self) -> None:
        if not (np.isfinite([self.scale, self.offset]).all() and self.scale != 0):
            raise ValueError(
                f"an intensity mapping needs a finite scale other than 0, got {self.scale}, {self.offset}."
            )

    def forward(self, stored: NDArray) -> NDArray[np.float64]:
        """f(stored): logarithm or value, float64."""
        values = stored.astype(np.float64)
        return np.log(np.maximum(values + self.zero, _LOWEST_COUNT)) if self.log else values

    def backward(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The stored value, not yet rounded, of f."""
        return np.exp(values) - self.zero if self.log else values

    def item_for(self, position: float) -> int | None:
        """Number of the subtraction item for a frame position; outside all ranges the nearest one; None: no mask."""
        if not self.subtraction:
            return None
        return min(range(len(self.subtraction)), key=lambda number: self.subtraction[number].distance(position))

    def mask(self, frames: NDArray, position: float) -> NDArray[np.float64] | None:
        """f(mask), [H, W] float64, for the frame at ``position`` (between two measured frames: a fraction)."""
        number = self.item_for(position)
        return None if number is None else self.item_mask(frames, self.subtraction[number], position)

    def item_mask(self, frames: NDArray, item: MaskSubtraction, position: float) -> NDArray[np.float64]:
        """f(mask) of one item: shifted, averaged; for ``TID`` between frames the blend of their masks."""
        if item.operation == "AVG_SUB":
            mean = np.mean([frames[index] for index in item.mask_frames], axis=0, dtype=np.float64)
            return self.forward(_shift(np.asarray(mean), item.shift_px))
        below = int(np.floor(position))
        masks = [
            self.forward(_shift(frames[min(max(index - item.tid_offset, item.first), len(frames) - 1)], item.shift_px))
            for index in ([below] if position == below else [below, below + 1])
        ]
        return masks[0] if len(masks) == 1 else masks[0] + (position - below) * (masks[1] - masks[0])

    def renumbered(self, new_index: NDArray[np.int64]) -> IntensityMapping | None:
        """The mapping after frames were inserted or left out.

        Args:
            new_index: [T] where each old frame is now, -1 where it is gone.

        Returns:
            None where the subtraction cannot be said for the new numbering.
        """
        items = []
        kept = np.flatnonzero(new_index >= 0)
        for item in self.subtraction:
            inside = kept[(kept >= item.first) & (kept <= item.last)]
            if not inside.size:
                continue
            tid = item.tid_offset
            masks: tuple[int, ...] = ()
            if item.operation == "TID":
                old = inside - item.tid_offset
                sure = inside[(old >= 0) & (old < len(new_index))]
                steps = {int(new_index[i] - new_index[i - item.tid_offset]) for i in sure}
                if len(steps) != 1 or any(new_index[i - item.tid_offset] < 0 for i in sure):
                    return None
                tid = steps.pop()
            else:
                masks = tuple(int(new_index[index]) for index in item.mask_frames)
                if min(masks) < 0:
                    return None
            last = _TO_THE_END if item.last >= len(new_index) - 1 else int(new_index[inside[-1]])
            items.append(replace(item, mask_frames=masks, tid_offset=tid, first=int(new_index[inside[0]]), last=last))
        return replace(self, subtraction=tuple(items))


def _shift(image: NDArray, shift_px: Sequence[float]) -> NDArray:
    if not any(shift_px):
        return image
    from scipy.ndimage import shift

    return shift(image.astype(np.float64), shift_px, order=1, mode="nearest")


def fit_mapping(
    frames: NDArray,
    active: NDArray[np.bool_],
    base: IntensityMapping,
    mode: str = "auto",
    inverted: bool | None = None,
    window: tuple[float, float] | None = None,
    skip: Sequence[int] = (),
) -> tuple[IntensityMapping, str]:
    """Find scale and offset of a run.

    Args:
        frames: [T, H, W] stored values.
        active: [H, W] where the picture is; a letterbox says nothing about grey values.
        base: logarithm and mask subtraction to use.
        mode: ``"percentile"``: the median of the run becomes 0.75, its robust extremes fit into 0.05..1.
            ``"full"``: the range of the stored type becomes 0..1. ``"window"``: the given window becomes 0..1.
            ``"auto"``: ``"full"`` for unsigned 8-bit frames without a mask that are bright already (as published
            networks expect), otherwise ``"percentile"``.
        inverted: whether vessels are bright in the stored values, as the file says; None: nothing is known.
        window: (lowest, highest) stored value for ``"window"``.
        skip: frames to leave out (mask frames).

    Returns:
        The mapping and a note about what was decided against or without the file ("" if nothing was).

    Raises:
        ValueError: unknown mode, a window that is missing or that a mask subtraction makes meaningless, every pixel
            the same.
    """
    if mode not in ("auto", "percentile", "full", "window"):
        raise ValueError(f"intensity must be 'auto', 'percentile', 'full' or 'window', got {mode!r}.")
    low, ground, high = _robust_range(frames, active, base, skip)
    if not high > low:
        raise ValueError(f"every pixel of the run has the same value ({low:g}): there is nothing to see in it.")
    flip, note = _polarity(low, ground, high, inverted, subtracted=bool(base.subtraction))
    eight_bit = frames.dtype == np.uint8 and not base.subtraction and not base.log
    if mode == "auto":
        bright = 0.4 * 255 < (255 - ground if flip else ground) < 0.95 * 255
        mode = "full" if eight_bit and bright else "percentile"
    if mode == "percentile":
        dark, bright_tail = (high - ground, ground - low) if flip else (ground - low, high - ground)
        size = max(dark / (BACKGROUND - _DARKEST), bright_tail / (_BRIGHTEST - BACKGROUND))
        scale = (-1.0 if flip else 1.0) / size
        return replace(base, scale=scale, offset=BACKGROUND - scale * ground), note
    if base.subtraction or base.log:
        raise ValueError(
            f"intensity {mode!r} is about stored values; with mask subtraction use 'percentile' or 'auto'."
        )
    if mode == "full":
        if not np.issubdtype(frames.dtype, np.integer):
            raise ValueError(f"intensity 'full' needs whole numbers, the run has {frames.dtype}: use 'percentile'.")
        window = (float(np.iinfo(frames.dtype).min), float(np.iinfo(frames.dtype).max))
    if window is None or not window[1] > window[0]:
        raise ValueError(f"intensity 'window' needs a window (lowest, highest) in the file, got {window}.")
    scale = (-1.0 if flip else 1.0) / (window[1] - window[0])
    return replace(base, scale=scale, offset=-scale * window[1 if flip else 0]), note


def _robust_range(
    frames: NDArray, active: NDArray[np.bool_], base: IntensityMapping, skip: Sequence[int]
) -> tuple[float, float, float]:
    """Low percentile, median and high percentile of f(frame) - f(mask), from a sample of frames and pixels."""
    indices = [i for i in range(len(frames)) if i not in set(skip)] or list(range(len(frames)))
    indices = [indices[k] for k in np.unique(np.linspace(0, len(indices) - 1, _SAMPLED_FRAMES).round().astype(int))]
    rows, columns = np.nonzero(active)
    step = max(1, len(rows) // _SAMPLED_PIXELS)
    # a stride that shares a factor with the width would sample a few columns only
    chosen = np.random.default_rng(0).permutation(len(rows))[: len(rows) // step] if step > 1 else slice(None)
    rows, columns = rows[chosen], columns[chosen]
    masks: dict[int, NDArray[np.float64]] = {}
    samples = []
    for index in indices:
        values = base.forward(frames[index][rows, columns])
        number = base.item_for(index)
        if number is not None:
            item = base.subtraction[number]
            if item.operation == "TID":
                values = values - base.item_mask(frames, item, index)[rows, columns]
            else:
                if number not in masks:
                    masks[number] = base.item_mask(frames, item, index)[rows, columns]
                values = values - masks[number]
        samples.append(values)
    low, ground, high = np.percentile(np.concatenate(samples), [_TAILS[0], 50, _TAILS[1]])
    return float(low), float(ground), float(high)


def _polarity(low: float, ground: float, high: float, inverted: bool | None, subtracted: bool) -> tuple[bool, str]:
    """Whether bright means vessel, and a note where the picture contradicts the file or decides alone."""
    dark, bright = ground - low, high - ground
    flip = bool(inverted)
    if inverted is None and bright > 2 * dark:
        return True, "vessels taken to be bright: the bright tail of the grey values is the longer one"
    if subtracted and inverted is not None and (dark if flip else bright) > 3 * (bright if flip else dark):
        return (
            not flip,
            "the subtracted vessels have the opposite polarity of what the header says; the picture decides",
        )
    return flip, ""
