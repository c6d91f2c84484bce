"""Training and validation data of TransMRSR: planes and volumes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom_nets.geometry import Grid
from custom_nets.operators.interpolation import bspline_matrix
from custom_nets.transforms import DegradeVolumed, RandSlabd, RandThickSlicesd, SlabToPlaned
from custom_nets.transforms.validation import FixedThickSlicesd

SLOPE = np.array([1.0, 2.3, -1.7])


def ramp(shape: tuple[int, int, int]) -> torch.Tensor:
    """A linear field of the voxel index, positive, [1, X, Y, Z]: tells a place from any other, flipped or permuted."""
    return torch.as_tensor(np.moveaxis(np.indices(shape), 0, -1) @ SLOPE + 200, dtype=torch.float32)[None]


def texture(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = ndimage.gaussian_filter(np.random.RandomState(seed).rand(*shape), 1.5)
    return torch.as_tensor((noise - noise.min()) / np.ptp(noise), dtype=torch.float32)[None]


# ---- slabs ----


def test_slabs_are_parts_of_the_volume_in_all_orientations():
    volume = ramp((40, 34, 30))
    slab = RandSlabd("image", rows=16, columns=12, slices=3, margin=4, blur_margin=1).set_random_state(seed=0)
    slopes, firsts = set(), set()
    for _ in range(40):
        made = slab({"image": volume})
        part, first = made["image"][0], made["first_row"]
        assert part.shape[1:] == (12, 5) and 16 + first <= part.shape[0] <= 24 and first <= 4
        # constant steps along rows and columns: neighbours in the volume, along another axis each
        for axis in (0, 1):
            steps = part.diff(dim=axis)
            torch.testing.assert_close(steps, steps.flatten()[0].expand_as(steps), atol=1e-3, rtol=0)
        slopes.add((round(float(part.diff(dim=0)[0, 0, 0]), 1), round(float(part.diff(dim=1)[0, 0, 0]), 1)))
        firsts.add(first)
    assert len(slopes) > 15  # of 24: axes in any order, any of them backwards
    assert {abs(a) for a, _ in slopes} == {1.0, 2.3, 1.7} and len(firsts) > 1


def test_rows_of_a_flipped_slab_are_where_first_row_says():
    volume = ramp((40, 40, 40))
    slab = RandSlabd("image", rows=16, columns=16, slices=1, margin=5, blur_margin=0).set_random_state(seed=1)
    for _ in range(20):
        made = slab({"image": volume, "labels": False})
        plane = SlabToPlaned("image", rows=16)(made)
        start, axes = slab.start, slab.axes
        turned = volume[0].permute(*axes)
        wanted = turned[start[0] : start[0] + 16, start[1] : start[1] + 16, start[2] : start[2] + 1].flip(slab.flips)
        torch.testing.assert_close(plane["image"][0], wanted[..., 0])
        assert "first_row" not in plane


def test_neighbours_beyond_the_volume_are_mirrored():
    volume = ramp((18, 18, 18))
    slab = RandSlabd("image", rows=16, columns=16, slices=15, margin=0, blur_margin=2).set_random_state(seed=0)
    for _ in range(10):
        made = slab({"image": volume})["image"][0]
        row, column, plane = slab.start
        turned = volume[0].permute(*slab.axes).numpy()
        mirrored = np.pad(turned, ((0, 0), (0, 0), (2, 2)), mode="symmetric")
        wanted = mirrored[row : row + 16, column : column + 16, plane : plane + 19]
        torch.testing.assert_close(made, torch.as_tensor(wanted.copy()).flip(slab.flips))


def test_slabs_lie_in_the_foreground():
    volume = torch.zeros(1, 60, 60, 60)
    volume[0, 30:, 30:, 30:] = 1
    slab = RandSlabd("image", rows=16, columns=16, slices=1, foreground=1.0).set_random_state(seed=0)
    hits = [float(SlabToPlaned("image", 16)(slab({"image": volume}))["image"][0, 8, 8]) for _ in range(30)]
    assert np.mean(hits) > 0.7  # by chance it would be 0.1
    labels = torch.ones(1, 20, 20, 20, dtype=torch.int16)
    assert slab({"image": labels})["image"].dtype == torch.int16


def test_a_small_volume_is_refused():
    with pytest.raises(ValueError, match=r"\(20, 20, 10\) is smaller than a patch of 16 x 16 pixels in 3 planes"):
        for _ in range(9):
            RandSlabd("image", rows=16, columns=16, slices=3)({"image": torch.zeros(1, 20, 20, 10)})


# ---- thick slices ----


def thick(slab: torch.Tensor, first: int, rows: int = 32, slices: int = 3, seed: int = 0, **options):
    transform = RandThickSlicesd("image", rows=rows, slices=slices, noise=0, **options).set_random_state(seed=seed)
    return transform({"image": slab, "first_row": first})


def test_a_constant_stays_constant():
    for seed in range(5):
        made = thick(torch.full((1, 64, 20, 7), 3.0), 16, seed=seed)
        torch.testing.assert_close(made["image"], torch.full((3, 32, 20), 3.0))
        assert made["label"].shape == (1, 32, 20) and 2 <= float(made["scale"]) <= 8


def test_a_straight_line_stays_where_it_is():
    """Slices lie where ``position`` says: a ramp along the rows comes back as it was, away from the ends."""
    rows = torch.arange(96.0)[None, :, None, None].expand(1, 96, 8, 5)
    for seed in range(8):
        made = thick(rows, 32, seed=seed, box=0.0)
        torch.testing.assert_close(made["image"][1], made["label"][0], atol=0.05, rtol=0)


def test_the_label_is_the_middle_plane_as_it_was():
    slab = texture(64, 20, 7)
    made = thick(slab, 10)
    assert torch.equal(made["label"][0], slab[0, 10:42, :, 3])
    assert made["image"].shape == (3, 32, 20)


def test_same_operator_as_in_evaluation():
    """Where the slices lie as ``DegradeVolumed`` puts them, planes are what B-spline makes of its result."""
    slab = texture(40, 12, 3)
    options = {"scale": (4.0, 4.0), "thickness_gaussian": (1.0, 1.0), "box": 0.0}
    transform = RandThickSlicesd("image", rows=40, slices=3, noise=0, **options)

    class Draws:
        """Offset zero: the first slice begins with the first row."""

        def uniform(self, low, high):
            return low

        def rand(self):
            return 0.9

    transform.R = Draws()
    made = transform({"image": slab, "first_row": 0})
    coarse = DegradeVolumed("image", scale=(4, 1, 1))({"image": slab})["image"]
    wanted = torch.einsum("rm,mcs->src", bspline_matrix(10, (np.arange(40) + 0.5) / 4 - 0.5).float(), coarse[0])
    torch.testing.assert_close(made["image"], wanted, atol=1e-5, rtol=0)
    assert float(made["position"]) == pytest.approx(0.5 / 4 - 0.5) and float(made["scale"]) == 4


def test_draws_cover_what_they_should():
    slab = texture(96, 6, 1)
    transform = RandThickSlicesd("image", rows=32, slices=1).set_random_state(seed=0)
    made = [transform({"image": slab, "first_row": 32}) for _ in range(60)]
    scales = torch.stack([m["scale"] for m in made])
    whole = (scales == scales.round()).float().mean()
    assert float(scales.min()) < 2.6 and float(scales.max()) > 7 and 0.3 < float(whole) < 0.7
    fractions = torch.stack([m["position"] for m in made]) % 1
    assert float(fractions.min()) < 0.15 and float(fractions.max()) > 0.85
    torch.testing.assert_close(
        RandThickSlicesd("image", rows=32, slices=1).set_random_state(seed=3)({"image": slab, "first_row": 32}),
        RandThickSlicesd("image", rows=32, slices=1).set_random_state(seed=3)({"image": slab, "first_row": 32}),
    )


def test_noise_is_in_the_slices_not_in_the_truth():
    slab = torch.full((1, 64, 40, 1), 0.5)
    transform = RandThickSlicesd("image", rows=32, slices=1, noise=1.0, noise_std=0.1).set_random_state(seed=0)
    made = transform({"image": slab, "first_row": 16})
    assert float(made["image"].std()) > 1e-3 and torch.equal(made["label"], torch.full((1, 32, 40), 0.5))


# ---- validation volumes ----


def test_validation_stack_lies_where_the_truth_lies():
    made = FixedThickSlicesd("image", crop_size=24)({"image": ramp((30, 28, 40)), "scale": [1, 1, 4]})
    assert made["image"].shape == (1, 24, 24, 6) and made["label"].shape == made["bspline"].shape == (1, 24, 24, 24)
    assert made["scale"].tolist() == [1, 1, 4]
    assert Grid.of(made["image"]).spacing_mm.tolist() == [1, 1, 4]
    assert made["image"].affine[:3, 3].tolist() == [0, 0, 1.5]
    assert torch.equal(made["label"], ramp((30, 28, 40))[:, 3:27, 2:26, 8:32])
    torch.testing.assert_close(made["bspline"][..., 8:-8], made["label"][..., 8:-8], atol=0.1, rtol=0)


def test_validation_axis_fractions_and_what_is_too_small():
    volume = ramp((30, 20, 20))
    made = FixedThickSlicesd("image", crop_size=None, axis=0, scale=3.3)({"image": volume})
    assert made["image"].shape == (1, 20, 20, 9) and made["label"].shape == (1, 20, 20, 30)
    assert float(made["scale"][2]) == pytest.approx(30 / 9)
    assert float(made["label"][0].diff(dim=2).mean()) == pytest.approx(1.0, abs=1e-3)  # the first axis is the last now
    with pytest.raises(ValueError, match="too small to validate at scale 8"):
        FixedThickSlicesd("image", crop_size=24, scale=8)({"image": volume})
    with pytest.raises(ValueError, match="is empty"):
        FixedThickSlicesd("image")({"image": torch.zeros(1, 30, 30, 30)})
    with pytest.raises(ValueError, match="axis must be"):
        FixedThickSlicesd("image", axis=3)
