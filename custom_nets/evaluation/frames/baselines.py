"""Frames between two frames without a network: what a trained one has to beat.

All take and give network units (see :mod:`custom_nets.data.angiography.intensity`); nothing is rounded or clipped
here, so that the way back to stored values is the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.optical_flow import SMALLEST_SIDE, dis_flow_px

__all__ = ["BASELINES", "USUAL", "dis_flow", "linear_blend", "nearest_frame", "tv_l1_flow"]

Frames = NDArray[np.float32]
Times = float | Sequence[float] | NDArray


def _at(t: Times, frame_at: Callable[[float], NDArray]) -> Frames:
    """One frame for a number, [T, H, W] for T of them."""
    times = np.asarray(t, dtype=np.float64)
    if not ((times >= 0) & (times <= 1)).all():
        raise ValueError(f"times must lie between 0 and 1 (nothing is extrapolated), got {times.tolist()}.")
    if times.ndim == 0:
        return frame_at(float(times)).astype(np.float32)
    return np.stack([frame_at(float(time)) for time in times]).astype(np.float32)


def _check(frame0: NDArray, frame1: NDArray) -> None:
    if frame0.ndim != 2 or frame0.shape != frame1.shape:
        raise ValueError(f"two frames [H, W] of one size are needed, got {frame0.shape} and {frame1.shape}.")


def nearest_frame(frame0: NDArray, frame1: NDArray, t: Times) -> Frames:
    """The frame that is nearer in time; in the middle the earlier one, as a player shows it.

    Args:
        frame0, frame1: [H, W], network units.
        t: share of the time between them, 0 to 1; a number or T of them.

    Returns:
        [H, W], or [T, H, W].
    """
    _check(frame0, frame1)
    return _at(t, lambda time: frame0 if time <= 0.5 else frame1)


def linear_blend(frame0: NDArray, frame1: NDArray, t: Times) -> Frames:
    """``(1 - t) frame0 + t frame1``; arguments and result as in :func:`nearest_frame`."""
    _check(frame0, frame1)
    return _at(t, lambda time: (1 - time) * frame0 + time * frame1)


def dis_flow(frame0: NDArray, frame1: NDArray, t: Times) -> Frames:
    """Dense inverse search optical flow (Kroeger et al. 2016; OpenCV, preset "medium") both ways, warped, blended.

    Of the usual simple ways to go along a flow (own flow turned round, Super SloMo's combination, flow moved along
    itself) :func:`_along_flows` was the best, or within 0.3 dB of the best, on a standing and on rotational runs. Flow
    is found in 8-bit copies, as OpenCV needs them; what is warped (bilinear, border repeated) are the frames as they
    are.

    Arguments and result as in :func:`nearest_frame`. Frames with a side below 16 pixels are too small for the flow's
    patches: they are blended.
    """
    return _along_flows(frame0, frame1, t, dis_flow_px)


def tv_l1_flow(frame0: NDArray, frame1: NDArray, t: Times) -> Frames:
    """Optical flow of least total variation and L1 error (Zach et al. 2007; scikit-image), used as DIS is.

    It takes some forty times as long as DIS.
    """
    return _along_flows(frame0, frame1, t, tv_l1_flow_px)


def tv_l1_flow_px(source: NDArray, target: NDArray) -> NDArray[np.float32]:
    """Flow [2, H, W], x and y in pixels: a pixel ``x`` of ``source`` is at ``x + flow`` in ``target``."""
    from skimage.registration import optical_flow_tvl1

    row, column = optical_flow_tvl1(source, target, dtype=np.float32)
    return np.stack([column, row]).astype(np.float32)


def _along_flows(frame0: NDArray, frame1: NDArray, t: Times, flow_px: Callable[[Any, Any], NDArray]) -> Frames:
    """``(1 - t) frame0(x + t F10(x)) + t frame1(x + (1 - t) F01(x))`` with F01 the flow of frame 0 towards frame 1.

    The flow towards a frame is taken from the other frame's pixels, which it was found at, without turning its sign.
    """
    import cv2

    _check(frame0, frame1)
    if min(frame0.shape) < SMALLEST_SIDE:
        return linear_blend(frame0, frame1, t)
    frames: list[Any] = [np.ascontiguousarray(frame, dtype=np.float32) for frame in (frame0, frame1)]
    forward, back = (flow_px(*pair) for pair in (frames, frames[::-1]))
    row, column = np.indices(frame0.shape, dtype=np.float32)

    def warped(frame: Any, flow: NDArray, share: float) -> NDArray[np.float32]:
        x, y = column + share * flow[0], row + share * flow[1]
        return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    return _at(t, lambda time: (1 - time) * warped(frames[0], back, time) + time * warped(frames[1], forward, 1 - time))


BASELINES: dict[str, Callable[[NDArray, NDArray, Times], Frames]] = {
    "nearest": nearest_frame,
    "blend": linear_blend,
    "dis": dis_flow,
    "tvl1": tv_l1_flow,
}
USUAL = ("nearest", "blend", "dis")  # those that are fast
