"""Where pixels of one frame are in another: dense inverse search (Kroeger et al., ECCV 2016) by OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SMALLEST_SIDE", "dis_flow_px", "gap_flows_px"]

SMALLEST_SIDE = 16  # the search's patches need as much


def dis_flow_px(source: NDArray, target: NDArray) -> NDArray[np.float32]:
    """Flow from ``source`` to ``target``: a pixel ``x`` of the one is at ``x + flow`` in the other.

    Args:
        source, target: [H, W] in network units; the search sees them in 8 bits, 0 to 1 of the units.

    Returns:
        [2, H, W], x and y in pixels; zeros for frames with a side below 16 pixels.
    """
    import cv2

    if min(source.shape) < SMALLEST_SIDE:
        return np.zeros((2, *source.shape), np.float32)
    pair: list[Any] = [np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8) for frame in (source, target)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return np.ascontiguousarray(np.moveaxis(search.calc(*pair, None), -1, 0))


def gap_flows_px(
    frame0: NDArray, frame1: NDArray, before: NDArray | None = None, after: NDArray | None = None
) -> NDArray[np.float32]:
    """[8, H, W] as ``SymmetricMoStDSA`` takes them: 0 to 1, 1 to 0, 0 to before, 1 to after; zeros for no frame."""
    pairs = ((frame0, frame1), (frame1, frame0), (frame0, before), (frame1, after))
    none = np.zeros((2, *frame0.shape), np.float32)
    return np.concatenate([none if target is None else dis_flow_px(source, target) for source, target in pairs])
