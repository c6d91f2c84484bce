"""Frames between two frames without a network: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.evaluation.frames.baselines import BASELINES, dis_flow, linear_blend, nearest_frame, tv_l1_flow


def texture(shift_px: float, size: int = 64) -> np.ndarray:
    """A smooth pattern, moved to the right."""
    y, x = np.indices((size, size))
    x = x - shift_px
    return (0.6 + 0.15 * np.sin(x / 4) * np.cos(y / 5) + 0.1 * np.sin((x + y) / 9 + 1)).astype(np.float32)


@pytest.mark.parametrize("method", BASELINES.values())
def test_ends_and_equal_frames_stay(method):
    a, b = texture(0), texture(2)
    np.testing.assert_array_equal(method(a, b, 0.0), a)
    np.testing.assert_array_equal(method(a, b, 1.0), b)
    np.testing.assert_allclose(method(a, a, 0.3), a, atol=2e-3)
    several = method(a, b, [0.25, 0.5])
    assert several.shape == (2, 64, 64) and several.dtype == np.float32
    np.testing.assert_array_equal(several[1], method(a, b, 0.5))


def test_nearest_and_blend():
    a, b = np.zeros((20, 20)), np.ones((20, 20))
    assert [float(nearest_frame(a, b, t).mean()) for t in (0.4, 0.5, 0.6)] == [0, 0, 1]
    np.testing.assert_allclose(linear_blend(a, b, 0.3), 0.3, rtol=1e-6)


@pytest.mark.parametrize("flow", [dis_flow, tv_l1_flow])
def test_flow_follows_what_moves(flow):
    """A pattern that moves by 6 pixels: the flow finds it half way, where blending sees two."""
    a, b = texture(0), texture(6)
    inner = (slice(10, -10),) * 2
    for t in (0.25, 0.5):
        truth = texture(6 * t)
        by_flow = np.abs(flow(a, b, t) - truth)[inner].mean()
        assert by_flow < 0.15 * np.abs(linear_blend(a, b, t) - truth)[inner].mean()


def test_values_beyond_eight_bits_are_kept():
    a = texture(0) * 3 - 1.3  # below 0 and above 1: only the copies for the flow are cut off
    assert a.min() < 0.0 and a.max() > 0.9
    np.testing.assert_allclose(dis_flow(a, a, 0.5), a, atol=1e-6)
    tiny = a[:12, :12]
    np.testing.assert_array_equal(dis_flow(tiny, tiny + 1, 0.5), linear_blend(tiny, tiny + 1, 0.5))


def test_bad_arguments():
    with pytest.raises(ValueError, match="of one size"):
        linear_blend(np.zeros((4, 4)), np.zeros((4, 5)), 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nearest_frame(np.zeros((4, 4)), np.zeros((4, 4)), 1.5)
