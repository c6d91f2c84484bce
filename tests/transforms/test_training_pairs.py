"""Validation points and published pairs: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from scipy import ndimage

from custom_nets.data import expand_scales
from custom_nets.geometry import Grid
from custom_nets.metrics.points import PointPSNR, gains_by_scale
from custom_nets.operators.scipy_resampling import resample_bspline
from custom_nets.transforms.published_arssr import FixedPublishedPairsd, RandPublishedPairsd
from custom_nets.transforms.validation import FixedPointsd


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    noise = ndimage.gaussian_filter(np.random.RandomState(0).rand(40, 36, 44), 1.5)
    return torch.as_tensor((noise - noise.min()) / np.ptp(noise)).float()[None]


def test_fixed_points_are_fixed_and_true(volume):
    make = FixedPointsd("image", crop_size=32, num_points=500)
    first, second = (make({"image": volume, "scale": [2, 2, 2]}) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in ("image", "positions", "label", "bspline"))
    assert first["image"].shape == (1, 16, 16, 16) and first["truth"].shape == (1, 32, 32, 32)
    index = ((first["positions"] + 0.5) * 2 - 0.5).round().long()
    assert torch.equal(first["label"][:, 0], first["truth"][0][tuple(index.T)])
    assert index.min() >= 4 and index.max() < 28
    # the baseline equals scipy's on the same grids
    coarse, fine = Grid((16, 16, 16), np.diag([2, 2, 2, 1.0])), Grid((16, 16, 16), np.diag([2, 2, 2, 1.0])).rescaled(2)
    whole = resample_bspline(first["image"][0].numpy(), coarse, fine)
    np.testing.assert_allclose(first["bspline"][:, 0], whole[tuple(index.T.numpy())], atol=2e-5)


def test_thick_axis_goes_last(volume):
    made = FixedPointsd("image", crop_size=32, num_points=50)({"image": volume, "scale": [4, 1, 1]})
    assert made["image"].shape == (1, 32, 32, 8) and made["scale"].tolist() == [1, 1, 4]


def test_fixed_points_say_what_is_wrong(volume):
    with pytest.raises(ValueError, match="too small to validate at scale"):
        FixedPointsd("image", crop_size=32)({"image": volume, "scale": [8, 8, 8]})
    with pytest.raises(ValueError, match="empty"):
        FixedPointsd("image", crop_size=32)({"image": volume * 0, "scale": [2, 2, 2]})


def test_point_psnr_and_gain():
    truth = torch.zeros(2, 10, 1)
    engine = Engine(lambda engine, batch: {"pred": truth + torch.tensor([0.1, 0.01])[:, None, None], "label": truth})
    PointPSNR().attach(engine, "psnr")
    for name, metric in gains_by_scale([[2, 2, 2], [1, 1, 4]]).items():
        metric.attach(engine, name)
    engine.run([{"bspline": truth + 0.1, "scale": torch.tensor([[2.0, 2, 2], [1, 1, 4]])}])
    found = {name: round(value, 3) for name, value in engine.state.metrics.items()}
    assert found == {"psnr": 30.0, "gain_db": 10.0, "gain_2x2x2_db": 0.0, "gain_1x1x4_db": 20.0}


def test_published_pairs(volume):
    make = RandPublishedPairsd("image", num_points=9000)
    make.set_random_state(seed=0)
    for _ in range(5):
        made = make({"image": volume})
        assert made["image"].shape == (1, 10, 10, 10) and made["label"].shape == (9000, 1)
        assert made["positions"].abs().max() < 1
    fixed = FixedPublishedPairsd("image", crop_size=36)({"image": volume, "scale": [3, 3, 3]})
    block = volume[0].permute(2, 1, 0)[4:40, :, 2:38]
    np.testing.assert_allclose(fixed["image"][0], ndimage.zoom(block, 1 / 3, order=3), atol=1e-5)
    assert torch.equal(fixed["label"].reshape(36, 36, 36), block)
    # coordinates: cell centres of [-1, 1] along z, y, x, the last one fastest
    assert fixed["positions"][1].tolist() == pytest.approx([-35 / 36, -35 / 36, -33 / 36])


def test_profiles_have_validation_cases_and_gains_of_their_own(volume):
    items = expand_scales([{"image": volume}], [[2, 2, 2]], ["gaussian", "kspace"])
    made = [FixedPointsd("image", crop_size=32, num_points=500)(item) for item in items]
    assert [m["profile"] for m in made] == ["gaussian", "kspace"]
    assert not torch.equal(made[0]["image"], made[1]["image"])
    assert made[1]["mtf"].tolist() == [[1.0, 1.0]] * 3 and float(made[0]["mtf"].max()) < 0.9
    truth = torch.zeros(2, 10, 1)
    engine = Engine(lambda engine, batch: {"pred": truth + torch.tensor([0.1, 0.01])[:, None, None], "label": truth})
    for name, metric in gains_by_scale([[2, 2, 2]], profiles=["gaussian", "kspace"]).items():
        metric.attach(engine, name)
    engine.run([{"bspline": truth + 0.1, "scale": torch.full((2, 3), 2.0), "profile": ["gaussian", "kspace"]}])
    found = {name: round(value, 3) for name, value in engine.state.metrics.items()}
    assert found == {
        "gain_db": 10.0, "gain_2x2x2_db": 10.0, "gain_2x2x2_gaussian_db": 0.0, "gain_2x2x2_kspace_db": 20.0
    }  # fmt: skip
