"""How far a result may go beside an edge, at a peak, and where a strong edge rings."""

import numpy as np
import pytest
import torch

import custom_nets
from custom_nets.checkpoints import load_network
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.inferers.measured_blur import MeasuredBlur
from custom_nets.inferers.overshoot import OvershootLimits, _largest, upper_bound
from custom_nets.operators.slice_profile import PointSpread, degrade


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


def test_an_edge_that_leaves_the_volume_is_no_peak_and_a_lesion_in_the_last_slice_is_one():
    edge = torch.zeros(24, 24, 5)
    edge[..., -1] = 0.5 * (torch.arange(24) >= 9)  # it has reached the last slice in a part of it
    assert upper_bound(edge, "blurred").max() <= 0.5 * 1.031 < 1 <= upper_bound(edge).max()
    lesion = torch.zeros(24, 24, 5)
    lesion[8:13, 8:13, -1] = 0.5
    assert upper_bound(lesion, "blurred").max() >= 0.95


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


@pytest.mark.parametrize("width", [3, 5, 9])
def test_largest_values_around_are_those_of_pooling(width: int):
    volume = torch.rand(11, 6, 7, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.max_pool3d(volume[None], width, 1, width // 2)[0]
    assert torch.equal(_largest(volume, width), pooled)
    pooled = torch.nn.functional.max_pool3d(volume[None], (1, width, 1), 1, (0, width // 2, 0))[0]
    assert torch.equal(_largest(volume, width, 1), pooled)


# ---- with shipped weights ----


@pytest.fixture(scope="module")
def edge() -> torch.Tensor:
    """[48, 48, 48]: an oblique edge from 0.2 to 0.8, its voxels partly filled."""
    x, y, z = np.meshgrid(*[np.arange(96) / 2 - 0.25] * 3, indexing="ij")
    filled = (0.9 * x + 0.3 * y + 0.6 * z > 43).reshape(48, 2, 48, 2, 48, 2).mean((1, 3, 5))
    return torch.as_tensor(0.2 + 0.6 * filled).float()


EVERYWHERE = {"gaussian:1.0", "box:1.0", "trapezoid:1.0"}  # a crop of k-space rings at the faces, which cut its waves


@pytest.mark.parametrize("profile", [*sorted(EVERYWHERE), "kspace:1.0", "kspace_hann:1.0"])
def test_an_edge_is_not_overshot(edge: torch.Tensor, profile: str):
    network, spread = (
        load_network(custom_nets.bundle_root("arssr") + "/models/model.pt").eval(),
        PointSpread.of(profile),
    )
    fine = Grid(tuple(edge.shape), np.eye(4))
    source = fine.rescaled([0.5, 0.5, 0.5])
    measured = degrade(edge, source.shape, spread)
    blur, reports = MeasuredBlur((spread,) * 3, (1.0,) * 3, "told"), []
    results = {
        limited: ImplicitVolumeInferer(scale=2, limit_overshoot=limited).sample(
            network, measured, source, fine, blur, reports
        )
        for limited in (True, False)
    }
    inside = (slice(8, -8),) * 3
    over = {how: float(max(out[inside].max() - 0.8, 0.2 - out[inside].min())) / 0.6 for how, out in results.items()}
    assert over[True] < 0.05 < over[False]
    if profile in EVERYWHERE:
        out = results[True]
        assert float(max(out.max() - 0.8, 0.2 - out.min())) / 0.6 < 0.055
    report = reports[0]
    assert report["overshoot_cut"] > 0 and report["data_consistency"]["largest_deviation_after"] < 1.1e-3
    error = {how: float((out - edge)[inside].square().mean()) for how, out in results.items()}
    assert error[True] < error[False]


def test_thin_slices_are_not_overshot(edge: torch.Tensor):
    network, spread = (
        load_network(custom_nets.bundle_root("transmrsr") + "/models/model.pt").eval(),
        PointSpread.of("box:1.0"),
    )
    fine = Grid(tuple(edge.shape), np.eye(4))
    source = fine.rescaled([1, 1, 0.25])
    measured = degrade(edge, source.shape, spread)
    blur = MeasuredBlur((spread,) * 3, (1.0,) * 3, "told")
    out, _, report = ThickSliceInferer().sample(network, measured, source, fine, 2, blur)
    free = ThickSliceInferer(limit_overshoot=False).sample(network, measured, source, fine, 2, blur)[0]
    inside = (slice(8, -8),) * 3
    assert out[inside].max() < 0.8 + 0.06 * 0.6 < free[inside].max()
    assert report["overshoot_cut"] > 0 and report["data_consistency"]["largest_deviation_after"] < 1e-3


@pytest.mark.parametrize("told", ["kspace:1.1", "kspace:1.3", "kspace_hann:1.3"])
def test_slices_that_cannot_have_been_measured_so_are_not_corrected(edge: torch.Tensor, told: str):
    network = load_network(custom_nets.bundle_root("transmrsr") + "/models/model.pt").eval()
    fine = Grid(tuple(edge.shape), np.eye(4))
    source = fine.rescaled([1, 1, 0.25])
    noise = 0.01 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    measured = degrade(edge, source.shape, PointSpread.of("kspace:1.0")) + noise
    blur = MeasuredBlur((PointSpread.of(told),) * 3, (1.0,) * 3, "told")
    with pytest.warns(UserWarning, match="not corrected to what was measured"):
        out, _, report = ThickSliceInferer().sample(network, measured, source, fine, 2, blur)
    assert not report["data_consistency"]["applied"]
    assert out.min() > -0.3 and out.max() < 1.3  # it was 50 times the range
