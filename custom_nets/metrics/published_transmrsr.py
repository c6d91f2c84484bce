"""PSNR, SSIM and RMSE of planes as TransMRSR (https://arxiv.org/abs/2306.06669) reports them.

The whole padded plane counts, on a scale from 0 to 255 with half a level added and not rounded, three channels. Large
black borders raise all of it: 218 x 182 pixels in 256 x 256 gain 2.2 dB. To compare with published tables only;
:mod:`custom_nets.metrics.image_quality` measures volumes inside the brain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from custom_nets.metrics.frames import ssim_map
from custom_nets.metrics.mean import psnr_db
from custom_nets.networks.layers.imagenet import from_imagenet_units

__all__ = ["mean_plane_scores", "plane_scores", "published_levels"]

_BORDER = 5  # half of SSIM's window


def published_levels(image: torch.Tensor) -> torch.Tensor:
    """[..., 3, H, W] in ImageNet's units -> levels from 0 to 255, half a level added, not rounded; float64."""
    return (from_imagenet_units(image).double() * 255 + 0.5).clamp(0, 255)


def plane_scores(image: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Scores of one plane.

    Args:
        image, truth: [3, H, W] in ImageNet's units, at least 11 pixels on each axis.

    Returns:
        "psnr" in dB over all channels and pixels (infinite for equal planes), "ssim" (Gaussian window of 11, sigma
        1.5, without the border; mean over channels), "rmse" in levels (mean over channels).
    """
    if image.shape != truth.shape or image.ndim != 3 or min(image.shape[1:]) < 2 * _BORDER + 1:
        raise ValueError(
            f"expected two planes [3, H, W] of one shape from 11 x 11 pixels on, got {tuple(image.shape)} and "
            f"{tuple(truth.shape)}."
        )
    a, b = published_levels(image), published_levels(truth)
    squared = (a - b).square()
    inside = ssim_map(a, b, 255.0)[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
    return {
        "psnr": float(psnr_db(squared.mean(), 255.0)),
        "ssim": float(inside.mean()),
        "rmse": float(squared.mean((1, 2)).sqrt().mean()),
    }


def mean_plane_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over planes; equal planes (infinite PSNR) are left out of the PSNR's, as published."""
    if not scores:
        raise ValueError("no plane to average over.")
    means = {}
    for name in scores[0]:
        values = torch.tensor([score[name] for score in scores], dtype=torch.float64)
        finite = values[values.isfinite()]
        means[name] = float(finite.mean() if len(finite) else values.mean())
    return means
