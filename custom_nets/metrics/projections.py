"""How well rendered views match measured ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["projection_scores"]


def projection_scores(rendered: NDArray, measured: NDArray) -> dict[str, Any]:
    """Score rendered views in the raw range and as VPAL and 4DRGS publish it.

    The published definition stretches each picture, rendered and measured, to 0 .. 1 by its own extremes first, so it
    does not see a wrong scale or offset. Views that are constant are left out of it.

    Args:
        rendered, measured: [N, H, W] line integrals.

    Returns:
        ``psnr_db`` and ``ssim`` (means over views; the range is that of all measured views), ``published_psnr_db`` and
        ``published_ssim``, ``relative_error`` (norm of all differences over norm of all measured).
    """
    from skimage.metrics import structural_similarity

    measured, rendered = np.asarray(measured, np.float64), np.asarray(rendered, np.float64)
    span = max(float(measured.max() - measured.min()), 1e-12)
    psnr, ssim, published_psnr, published_ssim = [], [], [], []
    for ours, theirs in zip(rendered, measured, strict=True):
        psnr.append(_psnr(ours, theirs, span))
        ssim.append(structural_similarity(ours, theirs, data_range=span))
        if np.ptp(ours) > 0 and np.ptp(theirs) > 0:
            a, b = ((p - p.min()) / np.ptp(p) for p in (ours, theirs))
            published_psnr.append(_psnr(a, b, 1.0))
            published_ssim.append(structural_similarity(a, b, data_range=1.0))
    return {
        "views": len(measured),
        "psnr_db": float(np.mean(psnr)),
        "ssim": float(np.mean(ssim)),
        "published_psnr_db": float(np.mean(published_psnr)) if published_psnr else None,
        "published_ssim": float(np.mean(published_ssim)) if published_ssim else None,
        "relative_error": float(np.linalg.norm(rendered - measured) / max(np.linalg.norm(measured), 1e-12)),
    }


def _psnr(rendered: NDArray, measured: NDArray, span: float) -> float:
    return float(10 * np.log10(span**2 / max(float(((rendered - measured) ** 2).mean()), 1e-20)))
