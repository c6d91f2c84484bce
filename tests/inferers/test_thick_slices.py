"""Stacks of thick slices: in the right place, the same whatever the way, reproducing what was measured."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F

from custom_nets.geometry import Grid
from custom_nets.inferers import ThickSliceInferer, find_thick_axis, thick_slices
from custom_nets.inferers.measured_blur import MeasuredBlur
from custom_nets.inferers.thick_slices import _tiles
from custom_nets.networks import AnySizeTransMRSR, TransMRSR
from custom_nets.operators.data_consistency import TOLERANCE
from custom_nets.operators.scipy_resampling import resample_bspline
from custom_nets.operators.slice_profile import PointSpread, degrade, slice_profile_matrix
from tests.conftest import blobs, random_affine, world_points


class Identity(nn.Module):
    """Adds nothing."""

    slices, divisor = 3, 4

    def forward(self, image, scale, position):
        return image[:, 1:2]


class Local(nn.Module):
    """Sees 5 x 5 pixels of three planes, and the places of the rows; borders as a large plane has them."""

    slices, divisor = 3, 4

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.05 * torch.randn(1, 3, 5, 5, generator=generator))

    def forward(self, image, scale, position):
        rows = position + torch.arange(image.shape[2]) / scale
        place = 0.1 * torch.sin(2 * torch.pi * rows)[:, None]
        return image[:, 1:2] + F.conv2d(F.pad(image, [2] * 4, mode="replicate"), self.weight) * (1 + place)


class Sharper(Identity):
    """Adds a little of what a mean over nine rows takes away."""

    def forward(self, image, scale, position):
        x = image[:, 1:2]
        return x + 0.1 * (x - F.avg_pool2d(F.pad(x, [0, 0, 4, 4], mode="replicate"), (9, 1), 1))


def transmrsr() -> AnySizeTransMRSR:
    torch.manual_seed(0)
    network = AnySizeTransMRSR(slices=3, widths=(8, 16), style_dim=16, head_width=4, num_centroids=0)
    nn.init.normal_(network.last.weight, std=0.03)
    return network.eval()


def scan(factor: float = 5.0, shape=(22, 20, 6), affine=None) -> MetaTensor:
    affine = np.diag([1.0, 1.0, factor, 1.0]) if affine is None else affine
    values = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    return MetaTensor(values, affine=torch.as_tensor(affine, dtype=torch.float64))


def plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_subclass(torch.Tensor)


def report_of(out: MetaTensor) -> dict:
    inference = out.meta["inference"]
    return json.loads(inference if isinstance(inference, str) else inference[0])


# ---- place ----


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [2.0, 3.3, 5.0, 8.0])
def test_identity_is_the_spline_in_the_right_place(axis: int, factor: float):
    spacing = [0.9, 0.9, 0.9]
    spacing[axis] = 0.9 * factor
    affine = random_affine(np.random.default_rng(axis), tuple(spacing))
    shape = [15, 14, 16]
    shape[axis] = 6
    stack = scan(shape=tuple(shape), affine=affine)
    source = Grid.of(stack[0])
    out = ThickSliceInferer(data_consistency=False)(stack, Identity())
    target = source.with_spacing(0.9)
    assert tuple(out.shape[2:]) == target.shape
    np.testing.assert_allclose(out.affine[0], target.affine, atol=1e-9)
    wanted = resample_bspline(stack[0, 0].numpy(), source, target)
    np.testing.assert_allclose(plain(out)[0, 0], wanted, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_field_in_the_world_stays_where_it_is(seed: int):
    """Oblique stacks, axes in any order: values lie where the affine says, and the centre of mass does not move."""
    rng = np.random.default_rng(seed)
    spacing, shape = rng.permutation([[1.0, 28], [1.0, 30], [3.0, 10]]).T
    affine = random_affine(rng, tuple(spacing))
    shape = tuple(int(n) for n in shape)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)

    def field(points):
        return np.exp(-((points - [2.0, -1.0, 1.0]) ** 2).sum(-1) / (2 * 3.5**2))

    values = torch.from_numpy(field(world_points(shape, affine)).astype(np.float32))[None, None]
    out = ThickSliceInferer(data_consistency=False, directions="both")(
        MetaTensor(values, affine=torch.as_tensor(affine)), Identity()
    )
    grid = Grid.of(out[0])
    found, places = plain(out)[0, 0].numpy().astype(np.float64), world_points(grid.shape, grid.affine)
    assert np.abs(found - field(places)).max() < 0.03
    centre = (found[..., None] * places).sum((0, 1, 2)) / found.sum()
    np.testing.assert_allclose(centre, [2.0, -1.0, 1.0], atol=0.02)


@pytest.mark.parametrize("options", [{}, {"directions": "both", "flips": True, "uncertainty": True}])
@pytest.mark.parametrize("order, flips", [((2, 0, 1), (1, 0, 1)), ((1, 0, 2), (0, 0, 1)), ((0, 2, 1), (1, 1, 1))])
def test_the_file_s_order_of_axes_does_not_matter(order, flips, options):
    stack = scan(3.5)  # a whole number of rows: otherwise the grid begins at the slice that comes first
    wanted = plain(ThickSliceInferer(**options)(stack, Local()))
    grid = Grid.of(stack[0]).turned(order, [bool(f) for f in flips])
    axes = [2 + a for a in range(3) if flips[a]]

    def turned(volume):
        return volume.permute(0, 1, *(2 + a for a in order)).flip(axes)

    out = ThickSliceInferer(**options)(MetaTensor(turned(plain(stack)), affine=torch.as_tensor(grid.affine)), Local())
    torch.testing.assert_close(plain(out), turned(wanted), atol=1e-6, rtol=0)


def test_like_takes_any_grid_along_the_axes():
    stack = scan(4.0)
    source = Grid.of(stack[0])
    fine = source.with_spacing(1.0)
    wanted = plain(ThickSliceInferer()(stack, Local()))[0, 0]
    same = plain(ThickSliceInferer(like=fine)(stack, Local()))[0, 0]
    torch.testing.assert_close(same, wanted, atol=1e-6, rtol=0)
    called = plain(ThickSliceInferer(spacing=2.0)(stack, Local(), like=fine))[0, 0]
    torch.testing.assert_close(called, wanted, atol=1e-6, rtol=0)
    turned = fine.turned([2, 0, 1], [True, False, False])
    out = ThickSliceInferer(like=turned)(stack, Local())
    np.testing.assert_allclose(out.affine[0], turned.affine)
    torch.testing.assert_close(plain(out)[0, 0], wanted.permute(2, 0, 1).flip(0), atol=1e-6, rtol=0)
    # a part of the field of view, and beyond: the part is what the whole has there
    shift = np.eye(4)
    shift[:3, 3] = (3, -4, 5)
    out = plain(ThickSliceInferer(like=Grid((12, 10, 30), fine.affine @ shift))(stack, Local()))[0, 0]
    torch.testing.assert_close(out[:, 4:, :19], wanted[3:15, :6, 5:24], atol=1e-6, rtol=0)
    assert (out[:, :4] == plain(stack).min()).all() and (out[:, :, 19:] == plain(stack).min()).all()


def test_within_the_slices_only_what_differs_is_resampled():
    affine = np.diag([0.5, 0.502, 3.0, 1.0])
    target = ThickSliceInferer().target_grid(Grid((40, 40, 6), affine))
    np.testing.assert_allclose(target.spacing_mm, (0.5, 0.502, 0.5))
    target = ThickSliceInferer().target_grid(Grid((40, 40, 6), np.diag([0.5, 0.7, 3.0, 1.0])))
    np.testing.assert_allclose(target.spacing_mm, (0.5, 0.5, 0.5))
    with pytest.warns(UserWarning, match="coarser than the input's .* within the slices"):
        out = ThickSliceInferer(spacing=1.0)(scan(affine=affine, shape=(40, 40, 6)), Identity())
    assert out.shape[2:] == (20, 20, 18)


# ---- one result, many ways ----


@pytest.mark.parametrize("make", [Local, transmrsr])
def test_one_plane_at_a_time_or_many(make):
    network, stack = make(), scan(2.5)
    one, many = (ThickSliceInferer(batch=batch)(stack, network) for batch in (1, 50))
    torch.testing.assert_close(plain(one), plain(many), atol=1e-6, rtol=0)


def test_tiles_equal_the_whole():
    stack = scan(8.0, (130, 20, 12))
    for directions in ("one", "both"):
        whole = ThickSliceInferer(directions=directions)(stack, Local())
        tiled = ThickSliceInferer(directions=directions, tile=64)(stack, Local())
        torch.testing.assert_close(plain(tiled), plain(whole), atol=1e-5, rtol=0)
    for n in (65, 96, 97, 500):
        weights = torch.zeros(n)
        for start, end, weight in _tiles(n, 64, 16):
            weights[start:end] += weight
            assert start % 16 == 0
        torch.testing.assert_close(weights, torch.ones(n))


def test_tiles_of_a_network_that_sees_the_whole_plane_have_no_seams():
    stack = scan(8.0, (130, 6, 10))
    network = transmrsr()
    whole = plain(ThickSliceInferer(data_consistency=False)(stack, network))
    tiled = plain(ThickSliceInferer(data_consistency=False, tile=64)(stack, network))
    added = whole - plain(ThickSliceInferer(data_consistency=False)(stack, Identity()))
    assert (tiled - whole).abs().max() < 0.1 * added.abs().max()


def test_the_budget_makes_tiles_and_refuses_what_cannot_be():
    stack = scan(8.0, (130, 6, 12))
    options = {"memory_gb": 1.13, "data_consistency": False}
    whole = plain(ThickSliceInferer(data_consistency=False)(stack, Local()))
    torch.testing.assert_close(plain(ThickSliceInferer(**options)(stack, Local())), whole, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="budget of 1.105 GiB is too small.*smallest tile"):
        ThickSliceInferer(memory_gb=1.105)(stack, Local())
    with (
        pytest.warns(UserWarning, match="factor"),
        pytest.raises(ValueError, match="budget of 4 GiB is too small.*output voxels"),
    ):
        ThickSliceInferer(spacing=0.01)(stack, Local())


def test_planes_are_those_that_the_network_was_trained_on():
    """Rows along the thick axis, neighbours as channels, mirrored at the ends; places of rows."""
    seen = []

    class Spy(Identity):
        def forward(self, image, scale, position):
            seen.append((image.clone(), scale, position))
            return image[:, 1:2]

    stack = scan(3.3, (20, 12, 6))
    ThickSliceInferer(batch=1)(stack, Spy())
    thin = resample_bspline(stack[0, 0].numpy(), Grid.of(stack[0]), Grid.of(stack[0]).with_spacing(1.0))
    assert len(seen) in (12, 20)
    image, scale, position = seen[0]
    assert scale == pytest.approx(3.3) and position == pytest.approx(0.5 / 3.3 - 0.5)
    # of 12 planes of 20 columns, or 20 planes of 12 columns
    first = np.moveaxis(thin, 2, 1) if len(seen) == 20 else np.transpose(thin, (1, 2, 0))
    np.testing.assert_allclose(image[0], first[[0, 0, 1]], atol=2e-5)
    np.testing.assert_allclose(seen[-1][0][0], first[[-2, -1, -1]], atol=2e-5)


def test_flips_turn_the_places_of_rows_too():
    """A network that writes where its rows lie writes the same, mirrored or not: its sine changes sign."""

    class Places(Identity):
        def forward(self, image, scale, position):
            rows = position + torch.arange(image.shape[2]) / scale
            return image[:, 1:2] + 0.1 * torch.cos(2 * torch.pi * rows)[:, None]

    stack = scan(3.3)
    once, twice = (ThickSliceInferer(flips=flips)(stack, Places()) for flips in (False, True))
    torch.testing.assert_close(plain(once), plain(twice), atol=1e-5, rtol=0)


def test_empty_planes_and_borders_stay_as_interpolated():
    calls = []

    class Spy(Local):
        def forward(self, image, scale, position):
            calls.append(tuple(image.shape))
            return super().forward(image, scale, position)

    values = torch.zeros(1, 1, 90, 80, 8)
    values[:, :, 30:50, 30:40, 3:6] = plain(scan(shape=(20, 10, 3)))
    stack = MetaTensor(values, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)))
    found = plain(ThickSliceInferer(data_consistency=False)(stack, Spy()))
    assert sum(shape[0] for shape in calls) <= 20 and max(shape[3] for shape in calls) <= 40
    spline = plain(ThickSliceInferer(data_consistency=False)(stack, Identity()))
    changed = (found != spline)[0, 0]
    assert changed[30:50, 30:40].any() and not changed[:20].any() and not changed[:, 52:].any()


def test_channels_and_items_one_by_one():
    stack = MetaTensor(torch.cat([plain(scan()), 2 * plain(scan()).flip(2)], 1), affine=scan().affine)
    out = ThickSliceInferer()(stack, Local())
    assert out.shape == (1, 2, 22, 20, 30)
    for channel in range(2):
        alone = MetaTensor(plain(stack)[:, channel : channel + 1], affine=stack.affine)
        torch.testing.assert_close(plain(ThickSliceInferer()(alone, Local()))[0, 0], plain(out)[0, channel])


def test_half_precision_is_close():
    stack, network = scan(), transmrsr()
    whole, half = (
        ThickSliceInferer(precision=p, data_consistency=False)(stack, network) for p in ("float32", "bfloat16")
    )
    assert 0 < (plain(whole) - plain(half)).abs().max() < 0.05


# ---- data consistency ----


@pytest.mark.parametrize("factor", [2.0, 3.3, 5.0, 8.0])
@pytest.mark.parametrize("profile, thickness", [("gaussian", 1.0), ("box", 1.0), ("gaussian", 0.7), ("box", 0.7)])
def test_the_measured_slices_come_back(factor: float, profile: str, thickness: float):
    stack = scan(factor, shape=(12, 11, 7))
    options = {"profile": profile, "thickness": thickness}
    out = ThickSliceInferer(**options)(stack, Local())
    n = out.shape[-1]
    centres = (np.arange(7) + 0.5) * factor - 0.5
    again = plain(out).double() @ slice_profile_matrix(n, centres, factor, profile, thickness).T
    assert (again - plain(stack)).abs().max() < TOLERANCE
    found = report_of(out[0])["data_consistency"]
    assert found["applied"] and found["largest_deviation_after"] < TOLERANCE < found["largest_deviation_before"]
    assert found["thickness_over_spacing"] == thickness and found["profile"] == profile

    off = ThickSliceInferer(data_consistency=False, **options)(stack, Local())
    found = report_of(off[0])["data_consistency"]
    assert not found["applied"] and found["largest_deviation_after"] == found["largest_deviation_before"] > TOLERANCE


def test_consistent_within_resampled_slices_too():
    stack = scan(affine=np.diag([1.0, 1.4, 5.0, 1.0]))
    out = ThickSliceInferer()(stack, Local())
    assert report_of(out[0])["data_consistency"]["largest_deviation_after"] < TOLERANCE


def test_thickness_is_the_header_s():
    stack = scan()
    stack.meta["slice_thickness_mm"] = 4.0
    assert report_of(ThickSliceInferer()(stack, Identity())[0])["data_consistency"]["thickness_over_spacing"] == 0.8
    stack.meta["slice_thickness_mm"] = 10.0
    found = report_of(ThickSliceInferer()(stack, Identity())[0])["data_consistency"]
    assert found["thickness_over_spacing"] == 2.0
    assert found["largest_deviation_after"] < TOLERANCE < found["largest_deviation_before"]  # overlap by half: by steps


def test_slices_that_overlap_by_half_are_left_as_they_are_where_noise_would_grow():
    stack = scan()
    stack.meta["slice_thickness_mm"] = 10.0
    with pytest.warns(UserWarning, match="noise would grow"):
        out = ThickSliceInferer()(stack, Sharper())
    assert not report_of(out[0])["data_consistency"]["applied"]


def test_a_filter_that_leaves_nothing_at_its_edge_is_undone_as_far_as_noise_allows():
    """A smooth stack is reproduced; of noise, a correction that goes too far is left out, and a warning says so."""
    rows = torch.linspace(-2, 2, 48)
    thin = torch.exp(-rows[:, None, None].square()) * torch.ones(48, 16, 16)
    source = Grid((12, 16, 16), np.diag([4.0, 1, 1, 1]))
    spread = PointSpread.of("kspace_hann:1.0")
    stack = degrade(thin, source.shape, spread)
    blur = MeasuredBlur((spread, None, None), (1.0, 1.0, 1.0), "told")
    target = source.rescaled((4, 1, 1))
    made, _, report = ThickSliceInferer().sample(Identity(), stack, source, target, 0, blur)
    assert report["data_consistency"]["applied"]
    assert report["data_consistency"]["largest_deviation_after"] < TOLERANCE
    plain, _, _ = ThickSliceInferer(data_consistency=False).sample(Identity(), stack, source, target, 0, blur)
    assert float((made - thin).abs().mean()) < 0.7 * float((plain - thin).abs().mean())


# ---- uncertainty ----


def test_uncertainty():
    stack = scan()
    for options in ({"flips": True}, {"directions": "both"}, {"flips": True, "directions": "both"}):
        out = plain(ThickSliceInferer(uncertainty=True, **options)(stack, Identity()))
        assert out.shape == (1, 2, 22, 20, 30) and out[:, 1].max() < 1e-7
        out = plain(ThickSliceInferer(uncertainty=True, data_consistency=False, **options)(stack, Local()))
        mean = plain(ThickSliceInferer(data_consistency=False, **options)(stack, Local()))
        torch.testing.assert_close(out[:, :1], mean)
        assert (out[:, 1] >= 0).all() and 0.001 < out[:, 1].mean() < 0.5


@pytest.mark.filterwarnings("ignore:what the network adds", "ignore:the result is not corrected")
@pytest.mark.parametrize("corrected", [True, False], ids=["corrected", "correction left out"])
def test_uncertainty_is_the_standard_deviation_of_two_directions(corrected: bool, monkeypatch):
    if not corrected:
        monkeypatch.setattr(thick_slices, "LARGEST_OVERREACH", -1.0)
        monkeypatch.setattr(thick_slices, "LEAST_AGREEMENT", -1.0)
    options = {"profile": "box", "limit_overshoot": False}
    stack = scan(shape=(16, 16, 6))
    # each direction alone: a stack whose other axis is longer makes the other one the cheaper
    members = []
    for column in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(thick_slices._StackSharpener, "_columns", lambda self, column=column: [column])
            members.append(plain(ThickSliceInferer(**options)(stack, Local())))
    both = torch.cat(members)
    result = ThickSliceInferer(directions="both", uncertainty=True, **options)(stack, Local())
    assert report_of(result[0])["data_consistency"]["applied"] == corrected
    out = plain(result)
    torch.testing.assert_close(out[0, 0], both.mean(0)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[0, 1], both.std(0)[0], atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:what the network adds", "ignore:the result is not corrected")
def test_weights_say_how_far_a_correction_of_theirs_may_go(monkeypatch):
    monkeypatch.setattr(thick_slices, "LEAST_AGREEMENT", -1.0)
    network, stack = Local(), scan(shape=(16, 16, 6))
    for bound, applied in ((1e6, True), (-1.0, False)):
        network.largest_overreach = bound
        result = ThickSliceInferer(profile="box")(stack, network)
        assert report_of(result[0])["data_consistency"]["applied"] == applied


# ---- what is asked for ----


@pytest.mark.parametrize(
    "spacing, shape, message",
    [
        ((1.0, 1.0, 1.0), (20, 20, 20), "no thick slices: voxels of 1 x 1 x 1 mm.*Other bundles"),
        ((1.0, 1.2, 1.4), (20, 20, 20), "no thick slices"),
        ((1.0, 4.0, 5.0), (20, 20, 20), "no unique thick axis: voxels of 1 x 4 x 5 mm.*--thick_axis"),
        ((1.0, 1.0, 5.0), (20, 20, 3), "only 3 slices along z.*at least 4"),
    ],
)
def test_stacks_that_are_none(spacing, shape, message):
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    with pytest.raises(ValueError, match=message):
        find_thick_axis(grid)


def test_thick_axis_can_be_named():
    grid = Grid((20, 20, 20), np.diag([1.0, 4.0, 5.0, 1.0]))
    assert find_thick_axis(grid, "y") == find_thick_axis(grid, 1) == 1
    assert find_thick_axis(Grid((20, 20, 20), np.diag([3.0, 1.0, 1.0, 1.0]))) == 0
    with pytest.warns(UserWarning, match="factor"):
        out = ThickSliceInferer(spacing=[1.0, 1.0, 4.5], thick_axis="z")(
            scan(affine=grid.affine, shape=(10, 6, 8)), Identity()
        )
    assert out.shape[2:] == (10, 24, 9)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"directions": "three"}, "directions must be 'one' or 'both', got 'three'"),
        ({"profile": "sinc"}, "profile must be auto or one of gaussian, box"),
        ({"precision": "half"}, "precision must be"),
        ({"spacing": 0}, "spacing must be above zero"),
        ({"spacing": 1, "like": "x"}, "not both"),
        ({"thick_axis": "s"}, "thick_axis must be 'x', 'y' or 'z'"),
        ({"thickness": 0}, "thickness .* must be above zero"),
        ({"memory_gb": -1}, "memory_gb must be above zero"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"tile": 10}, "tile must be at least 64"),
        ({"uncertainty": True}, "uncertainty is the spread of several estimates"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ThickSliceInferer(**options)


def test_grids_that_cannot_be_made():
    stack = scan()
    with pytest.raises(ValueError, match="no finer than the slices' 5 mm along z"):
        ThickSliceInferer(spacing=5)(stack, Identity())
    oblique = random_affine(np.random.default_rng(0), (1.0, 1.0, 1.0))
    middle = Grid.of(stack).affine @ [*((np.array(stack.shape[-3:]) - 1) / 2), 1.0]
    oblique[:3, 3] = middle[:3] - oblique[:3, :3] @ [9.5, 9.5, 9.5]  # both have the same middle
    with pytest.raises(ValueError, match="oblique to the input"):
        ThickSliceInferer(like=Grid((20, 20, 20), oblique))(stack, Identity())
    away = np.eye(4)
    away[:3, 3] = 500
    with pytest.raises(ValueError, match="no voxel in common with the scan"):
        ThickSliceInferer(like=Grid((20, 20, 20), away))(stack, Identity())


def test_a_factor_outside_of_the_training_is_said():
    with pytest.warns(UserWarning, match="factor 10 along the thick axis is outside"):
        ThickSliceInferer(spacing=[1, 1, 0.5])(scan(), Identity())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ThickSliceInferer()(scan(2.0), Identity())
        ThickSliceInferer()(scan(8.0), Identity())


def test_a_smooth_field_is_kept_through_a_real_network(blob_volume):
    """Nothing wild: an untrained network on smooth values adds about nothing, everywhere."""
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[:3, 3] = (-14, -13, -12)
    stack = blob_volume((28, 26, 9), affine)[None] / 1000
    torch.manual_seed(0)
    network = AnySizeTransMRSR(slices=3, widths=(8, 16), style_dim=16, head_width=4, num_centroids=0).eval()
    out = ThickSliceInferer()(stack, network)
    grid = Grid.of(out[0])
    wanted = blobs(world_points(grid.shape, grid.affine)) / 1000
    # what rises beyond a face is held where it ends
    assert np.abs(plain(out)[0, 0].numpy() - wanted)[:, :, 3:-3].max() < 0.04


def test_the_published_network_takes_planes_of_its_size_in_tiles():
    torch.manual_seed(0)
    network = TransMRSR(64, channels=(16, 32, 32, 32, 16), style_dim=8).eval()
    stack = scan(8.0, (70, 4, 5), None)
    out = plain(ThickSliceInferer(data_consistency=False)(stack, network))
    assert out.shape == (1, 1, 70, 4, 40) and torch.isfinite(out).all()
    assert (out - plain(ThickSliceInferer(data_consistency=False)(stack, Identity()))).abs().max() > 1e-4
