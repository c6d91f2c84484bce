"""Scores of planes as TransMRSR reports them: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from custom_nets.metrics.published_transmrsr import mean_plane_scores, plane_scores, published_levels
from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.transforms.published_transmrsr import pad_or_crop


def two(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = 0.1 + 0.7 * torch.rand(3, size, size, generator=generator)
    return a, a + 0.1 * torch.rand(a.shape, generator=generator)


def test_levels():
    values = torch.tensor([-0.2, 0.0, 0.5, 1.0, 1.3]).view(1, 1, 5).expand(3, 1, 5)
    levels = published_levels(to_imagenet_units(values))
    assert levels.dtype == torch.float64
    wanted = torch.tensor([0, 0.5, 128, 255, 255]).double().expand(3, 1, 5)
    torch.testing.assert_close(levels, wanted, atol=1e-4, rtol=0)


def test_psnr_and_rmse_of_a_known_difference():
    a = torch.full((3, 16, 16), 0.5)
    b = a + torch.tensor([0.1, 0.2, 0.0])[:, None, None]
    scores = plane_scores(to_imagenet_units(a), to_imagenet_units(b))
    assert scores["psnr"] == pytest.approx(-10 * math.log10((0.01 + 0.04) / 3), abs=1e-3)
    assert scores["rmse"] == pytest.approx(255 * 0.3 / 3, rel=1e-4)
    # over white nothing is seen
    assert plane_scores(to_imagenet_units(a + 0.6), to_imagenet_units(a + 0.8))["rmse"] == 0


def test_ssim_is_scikit_images_inside():
    from skimage.metrics import structural_similarity

    a, b = two()
    levels = [published_levels(to_imagenet_units(x)).numpy() for x in (a, b)]
    wanted = structural_similarity(
        *levels, data_range=255, channel_axis=0, gaussian_weights=True, use_sample_covariance=False, full=True
    )[1]
    inside = float(np.mean(wanted[:, 5:-5, 5:-5]))
    assert plane_scores(to_imagenet_units(a), to_imagenet_units(b))["ssim"] == pytest.approx(inside, abs=1e-6)


def test_a_black_border_raises_the_psnr():
    """218 x 182 pixels in 256 x 256: by 10 log10 of the ratio of areas, 2.2 dB."""
    a, b = (pad_or_crop(x[:, :218, :182])[0] for x in two(218))
    inside = plane_scores(*(to_imagenet_units(x[:, 19:237, 37:219]) for x in (a, b)))
    whole = plane_scores(to_imagenet_units(a), to_imagenet_units(b))
    assert whole["psnr"] - inside["psnr"] == pytest.approx(10 * math.log10(256**2 / 218 / 182), abs=1e-3)
    assert whole["psnr"] - inside["psnr"] == pytest.approx(2.2, abs=0.05) and whole["ssim"] > inside["ssim"]


def test_means_leave_equal_planes_out_of_the_psnr():
    a, b = (to_imagenet_units(x) for x in two())
    scores, same = plane_scores(a, b), plane_scores(a, a)
    assert same == {"psnr": math.inf, "ssim": pytest.approx(1), "rmse": 0}
    means = mean_plane_scores([scores, same])
    assert means["psnr"] == pytest.approx(scores["psnr"])
    assert means["rmse"] == pytest.approx(scores["rmse"] / 2)
    assert mean_plane_scores([same, same])["psnr"] == math.inf
    with pytest.raises(ValueError, match="no plane to average over"):
        mean_plane_scores([])


def test_what_does_not_fit_is_refused():
    a, _ = two()
    for pair in ((a, a[:, :20]), (a[None], a[None]), (a[:, :10], a[:, :10])):
        with pytest.raises(ValueError, match="expected two planes .* from 11 x 11 pixels on"):
            plane_scores(*pair)
