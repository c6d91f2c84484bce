"""How a scan was blurred, found in its own spectra: where its axes differ, and where the scanner interpolated.

Two things can be seen without knowing the anatomy:

- *The edge of what was measured.* Filling k-space with zeros leaves nothing beyond the measured band: the power
  spectrum of an axis falls off a cliff and stays down (:func:`measured_share`). Anatomy never falls that steeply.
- *A blur of one axis beside another.* Seen at the same resolution, a head looks alike along its axes. So an axis in the
  plane is measured again with the slices' distance, by every point spread that comes into question; the right one is
  that whose spectrum is like the one along the slices, aliasing included (:func:`compare_axes`).

What can only be guessed is the blur of a scan whose axes are all alike: a smooth brain measured sharply and a sharp
brain measured softly are the same picture. :func:`spectral_features` describes how its power falls, for an estimator
that has seen many heads (:class:`custom_nets.networks.BlurEstimator`) and says how unsure it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from custom_nets.operators.slice_profile import PointSpread, point_spread_matrix

__all__ = ["CANDIDATES", "NUM_FEATURES", "compare_axes", "measured_share", "power_spectrum", "spectral_features"]

CANDIDATES = (
    *(PointSpread("gaussian", round(0.5 + 0.1 * i, 1)) for i in range(10)),
    *(PointSpread("box", round(0.6 + 0.1 * i, 1)) for i in range(7)),
    PointSpread("kspace"),
    PointSpread("kspace_tukey", 1.0, 0.3),
    PointSpread("kspace_tukey", 1.0, 0.6),
    PointSpread("kspace_hamming"),
    PointSpread("kspace_hann"),
)
_BANDS = ((0.15, 0.35), (0.375, 0.625), (0.75, 1.0))  # shares of Nyquist; the first is the reference
_CLIFF = 8.0  # times that the power falls within _STEP where measuring ended
_STEP = 0.08
_LEAST_SHARE = 0.93  # of an axis' band: what is measured of more than this counts as all
_SPREAD = 0.35  # standard deviation of the log ratio of two axes' power that anatomy alone makes
_ENOUGH = 1.5  # how many times finer than the slices an axis must be to be compared
_ALONG = 12  # bands along the axis that is asked about
_ACROSS = (0.0, 0.3, 0.6, 1.01)  # rings of the other two axes' frequencies, shares of Nyquist
_BLOCK = 48  # voxels of a block along each axis
NUM_FEATURES = _ALONG * (len(_ACROSS) - 1) + 2


def power_spectrum(volume: torch.Tensor, axis: int) -> NDArray[np.float64]:
    """Mean power of the waves along one axis of a volume [X, Y, Z], from none to Nyquist: [n] float64.

    The volume is continued mirrored, so that its two ends make no edge.
    """
    waves = fft.dct(volume.numpy().astype(np.float32, copy=False), axis=axis, norm="ortho")
    others = tuple(a for a in range(3) if a != axis)
    return np.square(waves, out=waves).mean(axis=others, dtype=np.float64)


def measured_share(volume: torch.Tensor, axis: int) -> float:
    """Share of an axis' band that was measured: below 1 where the scanner filled k-space with zeros.

    Args:
        volume: [X, Y, Z].
        axis: 0, 1 or 2.

    Returns:
        1.0 where there is no edge, or too little to see one (fewer than 48 voxels).
    """
    n = volume.shape[axis]
    if n < 48:
        return 1.0
    power = power_spectrum(volume, axis)[1:]
    width = max(1, round(0.01 * n))
    smooth = np.convolve(np.pad(power, width, "edge"), np.ones(2 * width + 1) / (2 * width + 1), "valid")
    half = max(1, round(_STEP / 2 * n))
    log = np.log(np.maximum(smooth, 1e-12 * smooth.max()))
    fall = log[: -2 * half] - log[2 * half :]  # at position i + half
    place = np.arange(len(fall)) + half
    # nothing comes back beyond an edge, and it lies in the outer part: scanners double, and a band that ends farther in
    # is that of a thing without detail along this axis
    quiet = np.array([log[p + half :].max() < log[p - half] - 0.75 * np.log(_CLIFF) for p in place])
    found = np.flatnonzero((fall > np.log(_CLIFF)) & quiet & (place > 0.3 * n))
    if len(found) == 0:
        return 1.0
    steepest = found[int(np.argmax(fall[found]))]
    share = float((place[steepest] + 1) / n)
    return 1.0 if share > _LEAST_SHARE else share


def spectral_features(volume: torch.Tensor, axis: int, spacing_mm: Sequence[float]) -> NDArray[np.float32] | None:
    """Describe how the power of a volume falls along one axis, whatever its intensities and its size.

    Args:
        volume: [X, Y, Z].
        axis: the one that is asked about.
        spacing_mm: of its voxels along X, Y, Z.

    Returns:
        [NUM_FEATURES] float32: log power in 12 bands along the axis for three rings across it, over that of its large
        structures, and log2 of the other axes' spacing over its own. None for fewer than 24 voxels along an axis, and
        for a volume without structure.
    """
    if min(volume.shape) < 24:
        return None
    first, second = (a for a in range(3) if a != axis)
    turned = volume.permute(axis, first, second).numpy()
    size = [min(n, _BLOCK) for n in turned.shape]
    starts = []  # up to three blocks side by side along each axis, in its middle
    for n, s in zip(turned.shape, size, strict=True):
        count = min(n // s, 3)
        starts.append([(n - count * s) // 2 + i * s for i in range(count)])
    power = np.zeros(size)
    for corner in itertools.product(*starts):
        block = turned[tuple(slice(low, low + s) for low, s in zip(corner, size, strict=True))].astype(np.float32)
        power += np.square(fft.dctn(block - block.mean(), norm="ortho"))
    along, *others = ((np.arange(n) + 0.5) / n for n in size)
    across = np.sqrt((others[0][:, None] ** 2 + others[1] ** 2) / 2)
    bands = np.minimum((along * _ALONG).astype(int), _ALONG - 1)
    cells = np.empty((_ALONG, len(_ACROSS) - 1))
    for ring, (low, high) in enumerate(itertools.pairwise(_ACROSS)):
        line = power[:, (across >= low) & (across < high)].mean(1)
        cells[:, ring] = [line[bands == band].mean() for band in range(_ALONG)]
    reference = cells[1:3, 0].mean()
    if not reference > 0:
        return None
    ratios = sorted(np.log2(float(spacing_mm[a]) / float(spacing_mm[axis])) for a in (first, second))
    return np.concatenate([np.log(cells.ravel() / reference + 1e-9), ratios]).astype(np.float32)


def compare_axes(
    volume: torch.Tensor, spacing_mm: Sequence[float], axis: int, candidates: Sequence[PointSpread] = CANDIDATES
) -> tuple[PointSpread, float] | None:
    """The point spread along ``axis``, by comparison with the finer axes beside it.

    Args:
        volume: [X, Y, Z].
        spacing_mm: of its voxels along X, Y, Z.
        axis: the one that is asked about.
        candidates: point spreads that come into question.

    Returns:
        The candidate nearest to the mean of all, each weighted by how well it explains the spectra, and the standard
        deviation of its transfer at Nyquist. None where no axis is 1.5 times finer, or the stack has fewer than 8
        slices.
    """
    if volume.shape[axis] < 8:
        return None
    losses = []
    for other in range(3):
        scale = float(spacing_mm[axis] / spacing_mm[other])
        if other == axis or scale < _ENOUGH or volume.shape[other] < 8 * scale:
            continue
        third = 3 - axis - other
        # planes that hold both axes, [planes, other, axis]; every third one tells as much
        planes = volume.permute(third, other, axis)[:: max(1, volume.shape[third] // 64)].float()
        losses.append([_unlikeness(planes, scale, spread) for spread in candidates])
    if not losses:
        return None
    scale = float(spacing_mm[axis] / min(spacing_mm))
    loss = np.mean(losses, axis=0)
    weights = np.exp(-(loss - loss.min()) / (2 * _SPREAD**2))
    weights /= weights.sum()
    transfers = np.array([spread.transfer(scale) for spread in candidates])
    expected = weights @ transfers
    nearest = int(np.square(transfers - expected).sum(1).argmin())
    return candidates[nearest], float(np.sqrt(weights @ np.square(transfers[:, 1] - expected[1])))


def _unlikeness(planes: torch.Tensor, scale: float, spread: PointSpread) -> float:
    """How far the spectra along both axes of planes [P, fine, coarse] are apart when the fine one is measured so."""
    n = planes.shape[1]
    m = int(n / scale)
    centres = (n - m * scale) / 2 + (np.arange(m) + 0.5) * scale - 0.5
    matrix = point_spread_matrix(n, centres, scale, spread).float()  # type: ignore[arg-type]
    again = torch.matmul(matrix, planes)  # [P, m, coarse]
    fine, coarse = (_bands(power_spectrum(again, axis)) for axis in (1, 2))
    ratio = np.log(fine / coarse)
    return float(np.square(ratio[1:] - ratio[0]).sum())


def _bands(power: NDArray[np.float64]) -> NDArray[np.float64]:
    place = (np.arange(len(power)) + 0.5) / len(power)
    return np.array([power[(place >= low) & (place < high)].mean() for low, high in _BANDS]) + 1e-12 * power.sum()
