"""Motion between two frames: known shifts are found, in the order that the network takes them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from custom_nets.data.angiography.optical_flow import dis_flow_px, gap_flows_px


def picture(shift: int = 0) -> np.ndarray:
    """[64, 96] soft texture in network units, moved to the right."""
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((64, 96)), 3)
    return np.roll(0.6 + 0.3 * texture / np.abs(texture).max(), shift, axis=1).astype(np.float32)


def test_a_shift_is_found_in_pixels():
    flow = dis_flow_px(picture(), picture(3))
    assert flow.shape == (2, 64, 96) and flow.dtype == np.float32
    inner = flow[:, 16:-16, 16:-16]
    assert np.median(inner[0]) == pytest.approx(3, abs=0.2)  # x first
    assert np.median(inner[1]) == pytest.approx(0, abs=0.1)


def test_the_four_flows_of_a_gap():
    flows = gap_flows_px(picture(0), picture(2), picture(-3), picture(5))
    found = [float(np.median(flows[2 * k, 16:-16, 16:-16])) for k in range(4)]
    assert found == pytest.approx([2, -2, -3, 3], abs=0.2)
    alone = gap_flows_px(picture(0), picture(2))
    assert np.array_equal(alone[:4], flows[:4]) and not alone[4:].any()


def test_frames_too_small_to_search_stand_still():
    assert not dis_flow_px(picture()[:8], picture(2)[:8]).any()
