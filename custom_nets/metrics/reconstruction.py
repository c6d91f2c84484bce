"""How near a 4D reconstruction is to the truth: over space and time, as a shape, in arrival, and as pictures.

Pictures alone do not measure a volume (a still model may predict left-out views well), so all of them are told.
Functions take numpy arrays; volumes are [x, y, z], over time [T, x, y, z], pictures [n, H, W].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.metrics.frames import frame_psnr, frame_ssim

__all__ = [
    "arrival_error",
    "best_threshold",
    "centreline_dice",
    "dice",
    "error_4d",
    "surface_distances",
    "vessel_scores",
    "view_scores",
]

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
_LEVELS = 64  # thresholds that are tried for the best Dice


def error_4d(volumes: Iterable[Array], truth: Iterable[Array]) -> float:
    """Measure ``||volumes - truth|| / ||truth||`` over all voxels and times: 0 is perfect, 1 that of an empty answer.

    Args:
        volumes, truth: [T, ...] arrays, or one volume after another.

    Raises:
        ValueError: shapes or numbers of volumes differ, or the truth is empty.
    """
    total = miss = 0.0
    for made, true in zip(volumes, truth, strict=True):  # a time at a time: float64 of all of it is large
        if made.shape != true.shape:
            raise ValueError(f"volumes and truth must have one shape, got {made.shape} and {true.shape}.")
        total += float(np.square(true, dtype=np.float64).sum())
        miss += float(np.square(np.subtract(made, true, dtype=np.float64)).sum())
    if total == 0:
        raise ValueError("the truth is empty at all times.")
    return float(np.sqrt(miss / total))


def dice(mask: Mask, truth: Mask) -> float:
    """Measure the overlap of two masks, 0 to 1; 1 for two empty ones."""
    both = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / both if both else 1.0


def best_threshold(volume: Array, truth: Mask) -> tuple[float, float]:
    """Find the threshold above which a volume overlaps best with a mask; no method is punished for its scale.

    Returns:
        Threshold (above 0) and its Dice.

    Raises:
        ValueError: the truth is empty.
    """
    if not truth.any():
        raise ValueError("the true mask is empty: there is no vessel to find.")
    high = float(volume.max())
    if not high > 0:
        return 0.0, 0.0
    inside, everywhere = np.sort(volume[truth]), np.sort(volume[volume > 0])
    levels = high * np.arange(1, _LEVELS) / _LEVELS
    # voxels at or above each level, within the truth and at all
    hits = len(inside) - np.searchsorted(inside, levels)
    found = len(everywhere) - np.searchsorted(everywhere, levels)
    scores = 2 * hits / (found + int(truth.sum()))
    best = int(np.median(np.flatnonzero(scores == scores.max())))  # in the middle of equals
    return float(levels[best]), float(scores[best])


def centreline_dice(mask: Mask, truth: Mask) -> float:
    """Measure whether centrelines lie in each other's vessels, 0 to 1 (clDice): broken vessels cost, width does not.

    Reference: Shit S et al., clDice - a novel topology-preserving loss function for tubular structure segmentation,
    CVPR 2021.
    """
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    made, true = _centreline(mask), _centreline(truth)
    precision = float(truth[made].mean()) if made.any() else 0.0
    sensitivity = float(mask[true].mean()) if true.any() else 0.0
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _centreline(mask: Mask) -> Mask:
    """Voxels of the skeleton.

    scikit-image's loses vessels that are an even number of voxels wide and lie along an axis: those one voxel wider
    are asked, too.
    """
    from scipy.ndimage import binary_dilation
    from skimage.morphology import skeletonize

    wider = binary_dilation(mask, np.ones((2, 2, 2)))
    return (skeletonize(mask) > 0) | ((skeletonize(wider) > 0) & mask)


def surface_distances(vertices_mm: Array, truth_mm: Array) -> tuple[float, float]:
    """Measure Chamfer and Hausdorff distance of two surfaces in mm, as the 4DRGS code defines them.

    Args:
        vertices_mm, truth_mm: [V, 3] vertices, not moved to fit.

    Returns:
        Chamfer: sum of the two mean distances to the nearest vertex of the other; HD95: the larger of the two 95th
        percentiles. Infinite where a surface has no vertex.
    """
    from scipy.spatial import cKDTree

    if not len(vertices_mm) or not len(truth_mm):
        return float("inf"), float("inf")
    there, _ = cKDTree(truth_mm).query(vertices_mm)
    back, _ = cKDTree(vertices_mm).query(truth_mm)
    return float(there.mean() + back.mean()), float(max(np.percentile(there, 95), np.percentile(back, 95)))


def arrival_error(arrival_s: Array, truth_s: Array, where: Mask) -> tuple[float, float]:
    """Measure the mean absolute error of arrival times, in s.

    Args:
        arrival_s, truth_s: NaN where there is no vessel.
        where: voxels to measure in, such as those that are at least half vessel.

    Returns:
        Mean absolute error where both have a time, and the share of ``where`` for which the reconstruction has one.
        NaN and 0 where it has none.
    """
    where = where & np.isfinite(truth_s)
    found = where & np.isfinite(arrival_s)
    if not where.any():
        raise ValueError("there is no voxel with a true arrival time to measure in.")
    share = float(found.sum() / where.sum())
    return (float(np.abs(arrival_s[found] - truth_s[found]).mean()) if share else float("nan")), share


def view_scores(pictures: Array, truth: Array) -> dict[str, float]:
    """Measure rendered views against left-out ones, in the range of the truth and in the published definition.

    Args:
        pictures, truth: [n, H, W] line integrals.

    Returns:
        ``psnr``, ``ssim``: means over views, the data range being that of all true views; ``nrmse``: relative error of
        all together; ``published_psnr``, ``published_ssim``: both pictures stretched to 0..1 each on its own, as the
        VPAL code does, which hides errors of scale and offset. Views without any content are left out of these two.

    Raises:
        ValueError: shapes differ.
    """
    if pictures.shape != truth.shape:
        raise ValueError(f"pictures and truth must have one shape, got {pictures.shape} and {truth.shape}.")
    made, true = (torch.as_tensor(np.asarray(a, dtype=np.float64)) for a in (pictures, truth))
    data_range = float(true.max() - true.min())
    scores = {
        "psnr": float(frame_psnr(made[:, None], true[:, None], data_range).mean()),
        "ssim": float(frame_ssim(made[:, None], true[:, None], data_range).mean()),
        "nrmse": float((made - true).norm() / true.norm()),
    }
    spans = [a.flatten(1).amax(1) - a.flatten(1).amin(1) for a in (made, true)]
    seen = (spans[0] > 0) & (spans[1] > 0)
    if seen.any():
        low = [a.flatten(1).amin(1)[:, None, None] for a in (made, true)]
        one, other = (((a - b) / s[:, None, None])[seen] for a, b, s in zip((made, true), low, spans, strict=True))
        scores["published_psnr"] = float(frame_psnr(one[:, None], other[:, None], 1.0).mean())
        scores["published_ssim"] = float(frame_ssim(one[:, None], other[:, None], 1.0).mean())
    return scores


def vessel_scores(volume: Array, truth: Array, level: float, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Measure a volume as a shape: at the threshold with the best Dice against the voxels that truly reach a level.

    Args:
        volume: [x, y, z], such as the mean over time.
        truth: [x, y, z], such as the true maximum over time.
        level: of the truth, in its unit: what reaches it is vessel.
        spacing_mm: x, y, z.

    Returns:
        ``dice``, ``centreline_dice``, ``chamfer_mm``, ``hd95_mm``, ``threshold``.
    """
    from custom_nets.data.reconstructions import extract_surface

    vessel = truth >= level
    threshold, overlap = best_threshold(volume, vessel)
    mask = volume >= threshold if threshold > 0 else np.zeros(volume.shape, dtype=bool)
    chamfer = hd95 = float("inf")
    if threshold > 0:
        made, _ = extract_surface(volume, threshold, spacing_mm)
        true, _ = extract_surface(truth, level, spacing_mm)
        chamfer, hd95 = surface_distances(made, true)
    return {
        "dice": overlap,
        "centreline_dice": centreline_dice(mask, vessel),
        "chamfer_mm": chamfer,
        "hd95_mm": hd95,
        "threshold": threshold,
    }
