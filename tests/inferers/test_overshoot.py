"""How far a result may go beside an edge, at a peak, and where a strong edge rings."""

import numpy as np
import pytest
import torch

from custom_nets.inferers.overshoot import OvershootLimits, upper_bound


def line(*values):
    """[4, 4, n]: the same along two axes."""
    return torch.tensor(values).expand(4, 4, len(values)).contiguous()


def test_beside_an_edge_nothing_goes_beyond_what_was_measured():
    step = line(0.0, 0, 0, 0, 0.4, 1, 1, 1, 1)
    high, low = upper_bound(step), -upper_bound(-step)
    assert high.max() <= 1 + 0.031 and low.min() >= -0.031
    assert torch.equal(high[:, :, -2:], torch.ones(4, 4, 2))  # far from it, exactly what was measured


@pytest.mark.parametrize("sign", [1, -1])
def test_a_peak_may_become_twice_as_high(sign):
    peak = sign * line(0.0, 0, 0, 0, 0.5, 0, 0, 0, 0)
    bound = sign * upper_bound(peak) if sign > 0 else -upper_bound(-peak) * sign
    assert 1.0 <= float(bound.max()) <= 1.02


def test_a_thin_sheet_is_a_peak_and_a_corner_is_none():
    sheet = torch.zeros(9, 9, 9)
    sheet[4] = 0.5
    assert upper_bound(sheet)[4].min() >= 1
    corner = torch.zeros(9, 9, 9)
    corner[4:, 4:, 4:] = 1
    assert upper_bound(corner).max() <= 1.031


def test_the_ringing_of_a_cropped_step_is_no_peak():
    fine = torch.linspace(-6, 6, 1201)
    step = 0.5 + torch.special.sinc(fine).cumsum(0) / 100 - 0.5 * torch.special.sinc(fine).sum() / 100
    cropped = step[::100].expand(5, 5, 13).contiguous()  # sampled where the edge lies on a voxel
    assert cropped.max() > 1.04  # it rings
    assert upper_bound(cropped, "cropped").max() < 1.06 < upper_bound(cropped).max()


def test_bounds_lie_around_the_measured_and_clipping_keeps_what_is_inside():
    torch.manual_seed(0)
    measured = torch.nn.functional.avg_pool3d(torch.rand(1, 1, 16, 16, 16), 5, 1, 2)[0, 0]
    limits = OvershootLimits(measured, [None, None, None])
    result = measured.clone()
    limits.clip(result)
    assert (result - measured).abs().max() < 0.1 * (measured.max() - measured.min())
    again = result.clone()
    assert limits.clip(again) <= 1e-6 and torch.equal(again, result)


def test_parts_are_clipped_as_the_whole():
    torch.manual_seed(0)
    measured, places = torch.rand(8, 9, 7), [np.arange(-0.25, 7.5, 0.5), None, np.arange(-0.25, 6.5, 0.5)]
    limits = OvershootLimits(measured, places)
    volume = 3 * torch.rand(16, 9, 14) - 1
    whole = volume.clone()
    step = limits.clip(whole)
    parts = [volume[:, columns].clone() for columns in (slice(0, 4), slice(4, 9))]
    steps = [limits.clip(part, columns) for part, columns in zip(parts, (slice(0, 4), slice(4, 9)), strict=True)]
    assert torch.equal(torch.cat(parts, 1), whole) and max(steps) == step > 0
    assert not torch.equal(whole, volume)
