"""Which voxels of a scan may hold vessel: 1 to 3 % of them, found early, so that nothing else has to be computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from custom_nets.networks.bolus_atoms import bolus_curves
from custom_nets.operators.cone_beam import SupportOperator, panel_positions, view_vectors

__all__ = ["VesselSupport", "noise_level", "turn_warning", "vessel_support"]

logger = logging.getLogger(__name__)

_WINDOW = 0.25  # of the scan: a bolus stays that long in a vessel
_MOST_VOXELS = 300_000  # of a volume that is searched at once; a larger one at half the resolution first
_FAINTEST = 0.03  # of the brightest pixels: what is fainter is no vessel
_SMALLEST = 0.03  # of the peak of well filled voxels
_CLEARLY = 0.985  # of a misfit: a better one
_PRICE = 1.2  # of a coefficient, in standard deviations of what noise gives it


@dataclass(frozen=True)
class VesselSupport:
    """Where a scan's vessels may be.

    Args:
        voxels: [M] flat indices, sorted.
        mean: [M] first guess of the attenuation's mean over time, 1/mm.
        attenuation: of well filled vessel, 1/mm.
        noise: standard deviation of a pixel of weight one, unit-free.
        misfit: of the first guess to the views, relative to their size.
    """

    voxels: torch.Tensor
    mean: torch.Tensor
    attenuation: float
    noise: float
    misfit: float = float("nan")


def noise_level(projections: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    """Standard deviation of the noise of pixels of weight one, from what a pixel differs from its four neighbours.

    The median takes no notice of vessels, as they cover few pixels. Pixels of weight 0 are left out.

    Args:
        projections: [N, H, W].
        weights: [N, H, W] inverse variances up to a factor.
    """
    across = projections[:, 1:-1, 2:] + projections[:, 1:-1, :-2]
    along = projections[:, 2:, 1:-1] + projections[:, :-2, 1:-1]
    rest = projections[:, 1:-1, 1:-1] - (across + along) / 4  # of 1.25 times the variance
    if weights is not None:
        inner = weights[:, 1:-1, 1:-1]
        rest = (rest * inner.sqrt())[inner > 0]
    return float(rest.abs().flatten()[:: max(1, rest.numel() // 1_000_000)].median()) / 0.6745 / 1.25**0.5


def vessel_support(acquisition: Any, device: torch.device | str = "cpu") -> VesselSupport:
    """Find the voxels that may hold vessel.

    First by what every view of some quarter of the scan sees there (a vessel that fills and empties still stays filled
    that long); then by a few steps towards a non-negative sum of boluses, which most voxels get nothing of.

    Args:
        acquisition: an :class:`custom_nets.data.angiography.views.Acquisition`.
        device: to compute on; the result is there, too.

    Raises:
        ValueError: no vessel is seen.
    """
    projections = torch.as_tensor(acquisition.projections).to(device)
    weights = None if acquisition.weights is None else torch.as_tensor(acquisition.weights).to(device)
    if weights is not None:
        weights = weights / weights[weights > 0].mean()
    noise = noise_level(projections, weights)
    # a perfect scan has no noise, but the projector's own error
    noise = max(noise, 0.003 * float(np.quantile(acquisition.projections[:, ::2, ::2], 0.999)))
    found = None
    # pooled over 3 x 3 pixels noise alone hardly ever gets to twice its pixels' deviation
    if float(F.avg_pool2d(projections[:, None], 3, 1).amax()) > 2 * noise:
        found = _search(
            projections, weights, noise, view_vectors(acquisition), np.asarray(acquisition.times_s),
            tuple(acquisition.volume_shape), np.asarray(acquisition.volume_spacing_mm),
        )  # fmt: skip
    if found is None:
        raise ValueError(
            f"no vessel is seen in these {len(projections)} views: nothing stands out from the noise ({noise:.4f} per "
            "pixel) in several views at once. Is the scan subtracted (ln mask - ln fill), and is its geometry right?"
        )
    voxels, curves, misfit = found
    peak = curves.amax(1)
    attenuation = float(peak.quantile(0.98)) if len(peak) < 1 << 23 else float(peak.max()) / 2
    logger.info("vessels may be in %d of %d voxels", len(voxels), int(np.prod(acquisition.volume_shape)))
    return VesselSupport(voxels, curves.mean(1), max(attenuation, 1e-6), noise, misfit)


def turn_warning(acquisition: Any, support: VesselSupport, device: torch.device | str = "cpu") -> str | None:
    """Say so where the views would fit better if the arm turned the other way round, or the pictures were mirrored.

    Both are the same, and hard to see: the mirrored vessels explain the mirrored views but for perspective, as what is
    nearer to the source is enlarged more. So both are tried.

    Args:
        acquisition: as it was read.
        support: of it.
    """
    try:
        mirrored = vessel_support(replace(acquisition, column_step_mm=-acquisition.column_step_mm), device)
    except ValueError:  # no vessel is seen
        return None
    logger.info("misfit of the first guess: %.4f as read, %.4f mirrored", support.misfit, mirrored.misfit)
    if not mirrored.misfit < _CLEARLY * support.misfit:
        return None
    return (
        "this seems to turn the wrong way: the views fit better if the arm turns the other way round, or the pictures "
        f"are mirrored (a first guess is off by {mirrored.misfit:.3f} of their size, as they were read by "
        f"{support.misfit:.3f}). Check the sign of the angles, and --seen_from."
    )


def _search(
    projections: torch.Tensor,
    weights: torch.Tensor | None,
    noise: float,
    vectors: np.ndarray,
    times_s: np.ndarray,
    shape: tuple[int, ...],
    spacing_mm: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """Flat voxels [M], their first curves [M, N] at the views' times, and the misfit; None where nothing is seen."""
    candidates = torch.arange(int(np.prod(shape)), device=projections.device)
    if len(candidates) > _MOST_VOXELS and min(*shape, *projections.shape[1:]) >= 32:
        half = tuple(-(-n // 2) for n in shape)
        pooled = [None if p is None else F.avg_pool2d(p[:, None], 2)[:, 0] for p in (projections, weights)]
        coarse = _search(
            pooled[0], pooled[1], noise / 2, _pooled_vectors(vectors, projections.shape[1:]), times_s, half,  # type: ignore[arg-type]
            spacing_mm * 2,
        )  # fmt: skip
        if coarse is None:
            return None
        allowed = torch.zeros(half, device=projections.device).flatten()
        peak = coarse[1].amax(1)
        allowed[coarse[0][peak > 2 * _SMALLEST * float(peak.quantile(0.95))]] = 1
        allowed = F.interpolate(allowed.reshape(1, 1, *half), scale_factor=2.0)
        allowed = F.max_pool3d(allowed, 3, 1, 1)[0, 0, : shape[0], : shape[1], : shape[2]]
        candidates = candidates[allowed.flatten() > 0]
    voxels = _seen_long_enough(projections, weights, noise, vectors, times_s, candidates, shape, spacing_mm)
    if not len(voxels):
        return None
    curves, misfit = _first_curves(projections, weights, noise, vectors, times_s, voxels, shape, spacing_mm)
    peak = curves.amax(1)
    if not float(peak.max()) > 0:
        return None
    kept = peak > _SMALLEST * float(peak[peak > 0].quantile(0.95) if (peak > 0).sum() < 1 << 23 else peak.max())
    return voxels[kept], curves[kept], misfit


def _pooled_vectors(vectors: np.ndarray, panel_shape: tuple[int, ...]) -> np.ndarray:
    """The views with pixels of twice the size; an odd last row or column is left out."""
    wider = vectors.copy()
    wider[:, 6:] *= 2
    for axis, steps in ((1, slice(6, 9)), (0, slice(9, 12))):
        wider[:, 3:6] -= (panel_shape[axis] % 2) / 2 * vectors[:, steps]
    return wider


def _seen_long_enough(
    projections: torch.Tensor,
    weights: torch.Tensor | None,
    noise: float,
    vectors: np.ndarray,
    times_s: np.ndarray,
    candidates: torch.Tensor,
    shape: tuple[int, ...],
    spacing_mm: np.ndarray,
) -> torch.Tensor:
    """Candidates at which all but one of the views within some window of time see more than noise."""
    smooth = F.avg_pool2d(projections[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    level = torch.full_like(projections, noise) if weights is None else noise / weights.clamp(min=1e-6).sqrt()
    floor = _FAINTEST * float(smooth.flatten()[:: max(1, smooth.numel() // 1_000_000)].quantile(0.995))
    margin = smooth - (0.6 * level).clamp(min=floor)
    if weights is not None:
        margin = torch.where(weights > 0, margin, torch.full_like(margin, 1.0))  # not measured: nothing speaks against
    count = int(np.clip(round(_WINDOW * len(times_s)), 2, len(times_s)))
    missed = 2 if count >= 5 else 1  # the lowest but one counts where there are enough
    height, width = margin.shape[1:]
    kept = []
    for voxels in candidates.split(max(1, (1 << 24) // len(margin))):
        points = SupportOperator(shape, spacing_mm, (height, width), voxels).positions()  # [P, 3]
        seen = margin.new_empty(len(points), len(margin))
        for k, vector in enumerate(vectors):
            grid = (2 * panel_positions(points, vector, (height, width)) + 1) / torch.tensor([width, height]).to(
                margin
            ) - 1
            outside = (grid.abs() > 1).any(1)
            found = F.grid_sample(margin[k][None, None], grid[None, None], padding_mode="border", align_corners=False)
            seen[:, k] = torch.where(outside, torch.ones_like(found[0, 0, 0]), found[0, 0, 0])
        windows = seen.unfold(1, count, 1)  # [P, windows, count]
        lowest = windows.kthvalue(missed, dim=2).values.amax(1)
        kept.append(voxels[lowest > 0])
    return torch.cat(kept)


def _first_curves(
    projections: torch.Tensor,
    weights: torch.Tensor | None,
    noise: float,
    vectors: np.ndarray,
    times_s: np.ndarray,
    voxels: torch.Tensor,
    shape: tuple[int, ...],
    spacing_mm: np.ndarray,
    atoms: int = 10,
    steps: int = 25,
) -> tuple[torch.Tensor, float]:
    """Curves [M, N] of a non-negative sum of boluses after a few steps of accelerated proximal gradient, and their
    misfit."""
    operator = SupportOperator(shape, spacing_mm, tuple(projections.shape[1:]), voxels)
    time = torch.as_tensor(times_s, dtype=torch.float32).to(projections.device)
    duration = float(times_s[-1])
    arrivals = torch.linspace(-0.2 * duration, 0.9 * duration, atoms, device=time.device)
    curves = bolus_curves(time, arrivals, 0.33 * duration, 0.05 * duration).T.contiguous()  # [K, N]
    w = torch.ones_like(projections) if weights is None else weights

    def back(pictures: torch.Tensor) -> torch.Tensor:
        return operator.adjoint(w * pictures, vectors).T @ curves.T  # [M, K]

    def seen(coefficients: torch.Tensor) -> torch.Tensor:
        return operator.forward((coefficients @ curves).T.contiguous(), vectors)  # [N, H, W]

    solution = projections.new_zeros(len(voxels), atoms)
    curvature = back(seen(torch.ones_like(solution))).clamp(min=1e-9)
    random = torch.randn(projections.shape, generator=torch.Generator().manual_seed(0)).to(projections)
    price = _PRICE * noise * back(random / w.clamp(min=1e-6).sqrt()).std(dim=0)  # [K]
    point, momentum = solution.clone(), 1.0
    for _ in range(steps):
        gradient = back(seen(point) - projections) + price
        found = (point - gradient / curvature).clamp(min=0)
        if float(((point - found) * (found - solution)).sum()) > 0:
            momentum, point = 1.0, found
        else:
            after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            point, momentum = found + (momentum - 1) / after * (found - solution), after
        solution = found
    rest = seen(solution) - projections
    misfit = float(((w * rest.square()).sum() / (w * projections.square()).sum().clamp(min=1e-30)).sqrt())
    return solution @ curves, misfit
