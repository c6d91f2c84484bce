"""What a faster scan would have measured: geometry, and pairs whose points are where they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from custom_nets.geometry import Grid
from custom_nets.operators.interpolation import bspline_coefficients, sample_bspline
from custom_nets.operators.slice_profile import PROFILES, PointSpread, degrade
from custom_nets.transforms import DegradeVolumed, PublishedDegraded, PublishedPaird, RandDegradeCropd, RandScaledCropd
from tests.conftest import random_affine, world_points

SLOPE = np.array([1.0, 2.3, -1.7])


def ramp(shape: tuple[int, int, int]) -> torch.Tensor:
    """A linear field of the voxel index, positive, [1, X, Y, Z]: tells a place from any other, flipped or permuted."""
    return torch.as_tensor(np.moveaxis(np.indices(shape), 0, -1) @ SLOPE + 200, dtype=torch.float32)[None]


# ---- whole volumes ----


@pytest.mark.parametrize("profile", ["gaussian", "box"])
@pytest.mark.parametrize("scale", [2.0, (1, 1, 4), (2, 1.5, 3)])
def test_a_smooth_field_keeps_its_place_in_the_world(scale, profile: str):
    affine = random_affine(np.random.default_rng(0), (1.0, 1.0, 1.0))
    shape = (36, 30, 48)
    direction = np.array([0.3, -0.5, 0.8])
    values = world_points(shape, affine) @ direction
    fine = MetaTensor(torch.as_tensor(values, dtype=torch.float32)[None], affine=torch.as_tensor(affine))
    fine.meta["note"] = "kept"
    made = DegradeVolumed("image", scale=scale, profile=profile)({"image": fine})["image"]
    assert made.meta["note"] == "kept"
    assert Grid.of(made).shape == tuple(np.round(np.array(shape) / scale).astype(int))
    np.testing.assert_allclose(made.affine, Grid(shape, affine).rescaled(1 / np.broadcast_to(scale, 3)).affine)
    wanted = world_points(tuple(made.shape[1:]), made.affine.numpy()) @ direction
    inside = (slice(4, -4),) * 3  # at the faces the slice profile sees the repeated border
    # a box that ends inside of voxels takes their share as if they were flat: up to 1/8 voxel of tilt over its width
    tolerance = 0.05 if profile == "box" and 1.5 in np.atleast_1d(scale) else 2e-3
    np.testing.assert_allclose(made[0][inside], wanted[inside], atol=tolerance)


def test_spacing_in_mm_and_axes_that_are_coarse_already():
    fine = MetaTensor(ramp((20, 20, 10)), affine=torch.diag(torch.tensor([1.0, 1, 3, 1])))
    made = DegradeVolumed("image", spacing_mm=(2, 1, 2))({"image": fine})["image"]
    assert Grid.of(made).spacing_mm.tolist() == [2, 1, 3]
    assert made.shape == (1, 10, 20, 10)


def test_plain_tensors_and_4d():
    volume = torch.cat([ramp((8, 8, 8)), ramp((8, 8, 8)) * 2])
    made = DegradeVolumed("image", scale=2)({"image": volume})["image"]
    assert type(made) is torch.Tensor and made.shape == (2, 4, 4, 4)
    torch.testing.assert_close(made[1], 2 * made[0])
    torch.testing.assert_close(made, degrade(volume, (4, 4, 4)))


def test_noise_is_seeded_and_of_the_stated_size():
    volume = ramp((30, 30, 30))
    clean, first, again, other = (
        DegradeVolumed("image", scale=2, noise_std=std, seed=seed)({"image": volume})["image"]
        for std, seed in ((0, 0), (0.02, 0), (0.02, 0), (0.02, 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    level = 0.02 * np.percentile(clean.numpy(), 99.9)
    assert float((first - clean).std()) == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "exactly one of"),
        ({"scale": 2, "spacing_mm": 1}, "exactly one of"),
        ({"scale": 0.5}, "cannot sharpen"),
        ({"scale": (1, 2)}, "one number or three"),
        ({"scale": 2, "profile": "sinc"}, "gaussian, box"),
        ({"spacing_mm": -1}, "above zero"),
    ],
)
def test_bad_options(options, message: str):
    with pytest.raises(ValueError, match=message):
        DegradeVolumed("image", **options)


def test_published_operator_has_the_published_size():
    made = PublishedDegraded("image", scale=2)({"image": ramp((23, 17, 14))})["image"]
    assert made.shape == (1, 12, 8, 7)  # half to even


# ---- training pairs ----


def pair(volume: torch.Tensor, seed: int, crop: dict | None = None, **options) -> dict:
    make = Compose(
        [
            RandScaledCropd("image", patch_size=16, **(crop or {})),
            RandDegradeCropd("image", **{"patch_size": 16, "num_points": 300, "noise": 0.0, "margin": 5.0, **options}),
        ]
    )
    make.set_random_state(seed)
    return make({"image": volume})


@pytest.mark.parametrize("seed", range(12))
def test_points_of_a_pair_are_where_they_say(seed: int):
    """A ramp is exact under degradation and interpolation, so the label is the B-spline at the positions, whatever
    scale, crop, flip and permutation were drawn."""
    made = pair(ramp((60, 66, 72)), seed, {"isotropic": (1.5, 3.0), "single": (1.5, 4.0), "support": 12})
    assert made["image"].shape == (1, 16, 16, 16)
    assert made["positions"].shape == (300, 3) and made["label"].shape == (300, 1)
    assert (made["scale"] >= 1).all() and (made["scale"].diff() >= 0).all()  # sorted, as the network takes it
    assert made["positions"].min() >= 4.49 and made["positions"].max() <= 10.51
    at_points = sample_bspline(bspline_coefficients(made["image"][None].double()), made["positions"][None].double())
    error = (at_points[0] - made["label"][:, 0]) / np.abs(SLOPE).max()
    assert float(error.abs().max()) < 0.02  # HR voxels


def test_pairs_are_reproducible_and_differ():
    volume = ramp((60, 66, 72))
    first, again, other = (pair(volume, seed, noise=1.0) for seed in (3, 3, 4))
    for key in ("image", "positions", "label", "scale"):
        assert torch.equal(first[key], again[key])
    assert not torch.equal(first["image"], other["image"])


def test_modes_of_the_scale():
    volume = ramp((60, 66, 72))
    isotropic = [pair(volume, seed, {"modes": (1, 0, 0)})["scale"] for seed in range(5)]
    single = [pair(volume, seed, {"modes": (0, 1, 0)})["scale"] for seed in range(5)]
    assert all(float(s[0]) == float(s[2]) for s in isotropic)
    assert all(s[:2].tolist() == [1, 1] and s[2] >= 1 for s in single)


def test_flips_permutations_and_every_face_come_up():
    """The ramp's largest slope tells where an axis went, its sign whether it was flipped."""
    seen = set()
    for seed in range(60):
        image = pair(ramp((60, 66, 72)), seed, {"modes": (1, 0, 0)})["image"][0]
        steps = [float((image.narrow(a, 9, 1) - image.narrow(a, 7, 1)).mean()) for a in range(3)]
        order = tuple(np.argsort(np.abs(steps)).tolist())
        seen.add((order, tuple(np.sign(steps).astype(int).tolist())))
    assert len({order for order, _ in seen}) == 6 and len({signs for _, signs in seen}) == 8


def test_a_volume_smaller_than_the_patch_is_refused():
    with pytest.raises(ValueError, match="smaller than a patch of 16"):
        RandScaledCropd("image", patch_size=16)({"image": ramp((60, 12, 60))})


def test_a_volume_of_just_the_patch_leaves_no_room_for_a_scale():
    made = pair(ramp((16, 16, 16)), 0, margin=2.0)
    assert made["scale"].tolist() == [1, 1, 1]
    index = (made["positions"] + 0.5 - 0.5).round().long()  # at scale 1 an LR voxel is an HR voxel
    torch.testing.assert_close(made["image"][0][tuple(index.T)][:, None], made["label"], atol=1e-2, rtol=0)


def test_more_points_than_voxels():
    made = pair(ramp((16, 16, 16)), 0, num_points=5000, margin=7.0)
    assert made["label"].shape == (5000, 1)


def test_label_maps_stay_whole_numbers():
    labels = (ramp((40, 40, 40)) > 250).to(torch.int16)
    crop = RandScaledCropd("image", patch_size=16).set_random_state(0)({"image": labels})["image"]
    assert crop.dtype == torch.int16


# ---- the published sampler (its numbers: tests/test_golden_arssr.py) ----


def test_published_pair_takes_the_corner():
    volume = ramp((42, 41, 40))
    made = PublishedPaird("image", num_points=100).set_random_state(0)({"image": volume})
    scale = float(made["scale"][0])
    n = int(10 * scale)
    index = ((made["positions"] + 1) * n / 2 - 0.5).round().long()  # z, y, x
    assert torch.equal(volume[0].permute(2, 1, 0)[tuple(index.T)][:, None], made["label"])
    assert len(torch.unique(index, dim=0)) == 100  # without repetition


def test_published_pair_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="smaller than the"):
        PublishedPaird("image").set_random_state(0)({"image": ramp((15, 40, 40))})
    with pytest.raises(ValueError, match="num_points must be at most"):
        PublishedPaird("image", num_points=70000).set_random_state(0)({"image": ramp((40, 40, 40))})


# ---- the mix of point spreads ----

MIX = {"box": 0.2, "trapezoid": 0.2, "kspace": 0.3, "smooth": 0.5, "unknown": 0.5}


def test_all_kinds_are_drawn_and_told():
    transform = RandDegradeCropd("image", **MIX).set_random_state(0)
    kinds = [transform.draw_spread() for _ in range(400)]
    shares = {name: np.mean([k.profile.startswith(name) for k in kinds]) for name in ("gaussian", *MIX)}
    assert shares["gaussian"] == pytest.approx(0.3, abs=0.08) and shares["kspace"] == pytest.approx(0.3, abs=0.08)
    assert {k.profile for k in kinds} == set(PROFILES)
    made = [pair(ramp((60, 66, 72)), seed, **MIX) for seed in range(40)]
    unknown = torch.stack([m["mtf"].isnan().any() for m in made]).float().mean()
    assert 0.25 < float(unknown) < 0.75
    known = torch.stack([m["mtf"] for m in made if not m["mtf"].isnan().any()])
    assert known.shape[1:] == (3, 2) and known.min() >= 0 and known.max() <= 1
    single = [m for m in made if m["scale"][0] == 1 and not m["mtf"].isnan().any()]
    assert single and all(m["mtf"][0].tolist() == [1, 1] for m in single)  # nothing to undo where nothing was lost


def test_what_is_told_is_what_was_done():
    volume = torch.rand(1, 60, 66, 72, generator=torch.Generator().manual_seed(0))
    made = pair(volume, 0, {"modes": (1, 0, 0)}, thickness_gaussian=(1.0, 1.0), box=0.0)
    scale = float(made["scale"][0])
    torch.testing.assert_close(made["mtf"], torch.tensor([PointSpread("gaussian").transfer(scale)] * 3))


def test_some_are_told_up_to_30_percent_wrong_and_measured_right():
    volume = torch.rand(1, 60, 66, 72, generator=torch.Generator().manual_seed(0))
    options = {"crop": {"modes": (0, 1, 0)}, "thickness_gaussian": (1.0, 1.0), "box": 0.0}
    widest, narrowest = PointSpread("gaussian", 1.3), PointSpread("gaussian", 1 / 1.3)
    seen = []
    for seed in range(6):
        right, wrong = pair(volume, seed, **options, unknown=0.0), pair(volume, seed, **options, mistold=1.0)
        axis = int(right["scale"].argmax())
        scale, told = float(right["scale"][axis]), wrong["mtf"][axis]
        assert widest.transfer(scale)[1] - 1e-6 <= float(told[1]) <= narrowest.transfer(scale)[1] + 1e-6
        seen.append(float(told[1] - right["mtf"][axis, 1]))
        kept = wrong["scale"] == 1
        assert kept.sum() == 2 and bool((wrong["mtf"][kept] == 1).all())  # nothing is wrong where nothing was lost
    assert min(seen) < -0.02 and max(seen) > 0.02


def test_a_smoothed_truth_is_what_is_asked_for():
    """The network never sees a sharper truth than the one that was measured: a smooth scan stays smooth."""
    volume = torch.rand(1, 60, 66, 72, generator=torch.Generator().manual_seed(0))
    options = {"crop": {"modes": (1, 0, 0)}, "num_points": 4000}
    rough = pair(volume, 3, **options)["label"]
    smooth = pair(volume, 3, **options, smooth=1.0, smooth_std=(0.8, 0.8))["label"]
    assert float(smooth.std()) < 0.35 * float(rough.std())
    assert float(smooth.mean()) == pytest.approx(float(rough.mean()), abs=0.02)
    constant = pair(torch.full((1, 60, 66, 72), 0.5), 3, smooth=1.0)
    torch.testing.assert_close(constant["label"], torch.full((300, 1), 0.5))


def test_probabilities_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="add up to at most 1"):
        RandDegradeCropd("image", box=0.6, kspace=0.5)
    with pytest.raises(ValueError, match="unknown and mistold are probabilities"):
        RandDegradeCropd("image", unknown=0.6, mistold=0.5)


def test_the_floor_is_looked_up_once(monkeypatch):
    """With ``floor`` from the loader the volume's maximum is not looked for at every draw; the draws are the same."""
    volume = ramp((60, 66, 72))
    plain = RandScaledCropd("image", patch_size=16).set_random_state(5)({"image": volume})
    given = {"image": volume, "floor": float(0.02 * volume.max())}
    monkeypatch.setattr("custom_nets.transforms.degradation.foreground_floor", None)
    told = RandScaledCropd("image", patch_size=16).set_random_state(5)(given)
    assert torch.equal(plain["image"], told["image"])
