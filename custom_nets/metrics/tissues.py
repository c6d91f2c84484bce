"""Tissue maps of a brain: white matter, grey matter and fluid on a truth and on what was made of it.

The segmenter is a hidden Markov random field fitted by expectation maximisation (Zhang et al., 2001, the model of FSL
FAST) in dipy's implementation (BSD licence). It sees intensities alone, knows no atlas, and always runs with the same
settings and the same number of iterations, so that two volumes of one brain can be compared. It is no gold standard:
what is measured is how much a volume's tissue map differs from that of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.metrics.image_quality import _box, _pair

__all__ = ["LARGEST_BRAIN_ML", "TISSUES", "segment_tissues", "tissue_dice", "tissue_volumes_ml"]

TISSUES = {"csf": 1, "gm": 2, "wm": 3}  # from dark to bright on T1
LARGEST_BRAIN_ML = 2600.0  # a mask above it holds more than a brain

_BETA = 0.1  # weight of the neighbours; dipy's example
_ITERATIONS = 8


def segment_tissues(volume: Any, mask: Any, contrast: str = "T1") -> NDArray[np.uint8]:
    """Three tissues of a brain without skull, told apart by their intensity and that of their neighbours.

    Deterministic. Intensities are scaled by their 99.9th percentile in the mask; no bias field is removed.

    Args:
        volume: [X, Y, Z], any unit, voxels about isotropic.
        mask: [X, Y, Z], above zero inside the brain. Compare volumes with one mask, the truth's.
        contrast: "T1"; on any other the order of the intensities is another, and the classes would be misnamed.

    Returns:
        [X, Y, Z]: 0 outside of the mask, 1 fluid, 2 grey matter, 3 white matter.

    Raises:
        ValueError: a contrast other than T1, an empty mask, a volume that is constant or negative in the mask.
        ImportError: dipy is not installed.
    """
    if contrast.upper() not in ("T1", "T1W"):
        raise ValueError(f"tissues are told apart on T1-weighted scans only, got contrast {contrast!r}.")
    volume, _, mask = _pair(volume, volume, mask)
    assert mask is not None
    low, high = (float(q) for q in np.percentile(volume[mask], (0.1, 99.9)))
    if not (np.isfinite(volume[mask]).all() and high > max(low, 0.0)):
        raise ValueError(f"no tissues to tell apart: the intensities in the mask go from {low:g} to {high:g}.")
    try:
        from dipy.segment.tissue import TissueClassifierHMRF
    except ImportError as error:
        raise ImportError("tissue maps need dipy: pip install dipy (or leave the tissues out of metrics).") from error

    box = _box(mask, 1, 1)
    inside = mask[box]
    # The classifier puts noise of a new seed where a voxel is exactly zero, so the background gets its own.
    noise = 0.001 + 1e-4 * np.random.default_rng(0).standard_normal(inside.shape)
    scaled = np.where(inside, np.clip(volume[box] / high, 0.002, 1.0), noise)
    classify = TissueClassifierHMRF(verbose=False).classify
    _, found, _ = classify(np.ascontiguousarray(scaled), 3, _BETA, tolerance=0, max_iter=_ITERATIONS)
    labels = np.zeros(volume.shape, dtype=np.uint8)
    # A voxel of the mask that is as dark as the background is fluid.
    labels[box] = np.where(inside, np.maximum(found, 1), 0)
    return labels


def tissue_dice(labels: NDArray, truth: NDArray) -> dict[str, float]:
    """Dice of each tissue between two maps of :func:`segment_tissues`, and their "mean".

    A tissue that neither map has counts as 1 (they agree).
    """
    if labels.shape != truth.shape:
        raise ValueError(f"the tissue maps must have one shape, got {labels.shape} and {truth.shape}.")
    dice = {}
    for name, label in TISSUES.items():
        a, b = labels == label, truth == label
        total = int(a.sum()) + int(b.sum())
        dice[name] = 2 * int((a & b).sum()) / total if total else 1.0
    return {**dice, "mean": sum(dice.values()) / len(dice)}


def tissue_volumes_ml(labels: NDArray, voxel_mm: Sequence[float] | NDArray) -> dict[str, float]:
    """Volume of each tissue of a map, in millilitres.

    Args:
        labels: of :func:`segment_tissues`.
        voxel_mm: size of a voxel along the three axes.
    """
    ml = float(np.prod(np.asarray(voxel_mm, dtype=np.float64))) / 1000
    return {name: int((labels == label).sum()) * ml for name, label in TISSUES.items()}
