"""Synthetic contrasts from label maps."""

from __future__ import annotations

import torch

from custom_nets.transforms.synthetic_contrast import RandContrastFromLabelsd


def labels(high: int = 900) -> torch.Tensor:
    """Air, a head (``high``: a label that skull stripping takes away) and two tissues, [1, 24, 24, 24]."""
    volume = torch.zeros(1, 24, 24, 24, dtype=torch.int16)
    volume[:, 4:20, 4:20, 4:20] = high
    volume[:, 6:18, 6:18, 6:18] = 2
    volume[:, 10:14, 10:14, 10:14] = 41
    return volume


def make(seed: int, high: int = 900, **options) -> torch.Tensor:
    transform = RandContrastFromLabelsd("image", **options).set_random_state(seed)
    return transform({"image": labels(high), "labels": True})["image"]


def test_an_image_of_about_the_unit_range():
    for seed in range(8):
        image = make(seed)
        assert image.dtype == torch.float32 and image.shape == (1, 24, 24, 24)
        assert torch.isfinite(image).all() and image.min() >= 0 and image.max() < 1.5


def test_reproducible_and_different():
    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


def test_background_stays_dark_and_tissues_differ():
    image = make(5, texture_std=0.0, partial_volume=(0.3, 0.3))[0]
    assert float(image[:2].max()) < 1e-6
    inside, around = image[11:13, 11:13, 11:13], image[7:9, 7:9, 7:9]
    assert float(inside.std()) < 0.02 and float(around.std()) < 0.02
    assert abs(float(inside.mean() - around.mean())) > 0.02


def test_the_head_is_taken_away_half_of_the_time():
    without = sum(
        float(make(seed, texture_std=0.0, partial_volume=(0.3, 0.3))[0, 4, 12, 12]) < 0.01 for seed in range(40)
    )
    assert 10 <= without <= 30
    assert all(float(make(seed, high=400, texture_std=0.0)[0, 4, 12, 12]) > 0.01 for seed in range(5))


def test_partial_volume_mixes_the_borders():
    sharp = make(3, texture_std=0.0, partial_volume=(0.2, 0.2))
    soft = make(3, texture_std=0.0, partial_volume=(1.5, 1.5))
    assert len(torch.unique(soft.round(decimals=3))) > len(torch.unique(sharp.round(decimals=3)))


def test_scans_pass_through():
    scan = torch.rand(1, 5, 5, 5)
    transform = RandContrastFromLabelsd("image").set_random_state(0)
    assert transform({"image": scan})["image"] is scan
    assert transform({"image": scan, "labels": False})["image"] is scan
