"""How near an image is to the truth: PSNR, SSIM and errors of 3D volumes, whole or inside a mask.

Two families, never mixed:

* ``published_psnr``, ``published_ssim``: the definitions of the ArSSR code (Wu et al., arXiv 2110.14476), over the
  whole volume. A background of zeros counts, which raises both.
* ``masked_psnr``, ``masked_ssim``, ``nrmse``, ``mae``: the usual ones, inside a mask if one is given. Their data range
  is ``robust_range``: a percentile range of the truth, which one bright vessel cannot stretch.

All functions take numpy arrays or tensors [X, Y, Z] in any unit and compute sums in float64. The classes below them are
MONAI metrics, to be used in a config as ``monai.handlers.IgniteMetricHandler(metric_fn=...)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.metrics.regression import RegressionMetric
from monai.metrics.utils import do_metric_reduction
from numpy.typing import NDArray

from custom_nets.metrics.mean import psnr_db

__all__ = [
    "MaskedPSNR",
    "MaskedSSIM",
    "PublishedPSNR",
    "PublishedSSIM",
    "brain_mask",
    "mae",
    "masked_psnr",
    "masked_ssim",
    "nrmse",
    "published_min_max",
    "published_psnr",
    "published_ssim",
    "robust_range",
]

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

SSIM_RADIUS = 5  # half of the Gaussian window of 11 voxels (sigma 1.5)


def _volume(array: Any, name: str) -> NDArray:
    """[X, Y, Z] as a plain numpy array."""
    volume = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if volume.ndim != 3:
        raise ValueError(f"{name} must be a volume [X, Y, Z], got shape {tuple(volume.shape)}.")
    return volume


def _pair(image: Any, truth: Any, mask: Any = None) -> tuple[NDArray, NDArray, Mask | None]:
    """Image, truth and mask as numpy arrays of one shape."""
    image, truth = _volume(image, "the image"), _volume(truth, "the truth")
    if image.shape != truth.shape:
        raise ValueError(f"image and truth must have one shape, got {image.shape} and {truth.shape}.")
    if mask is None:
        return image, truth, None
    mask = _volume(mask, "the mask") > 0
    if mask.shape != truth.shape:
        raise ValueError(f"the mask must have the shape of the truth {truth.shape}, got {mask.shape}.")
    if not mask.any():
        raise ValueError("the mask is empty: no voxel to measure in.")
    return image, truth, mask


def _difference(image: NDArray, truth: NDArray, mask: Mask | None) -> NDArray[np.float64]:
    if mask is not None:
        image, truth = image[mask], truth[mask]
    return np.subtract(image, truth, dtype=np.float64).ravel()


def _decibel(data_range: float, mse: float) -> float:
    """PSNR; infinite for equal images, even constant ones."""
    if mse == 0:
        return float("inf")
    if data_range <= 0:
        raise ValueError("the truth is constant here, so PSNR and SSIM are not defined.")
    return float(psnr_db(mse, data_range))


def robust_range(truth: Any, mask: Any = None, percentiles: tuple[float, float] = (0.1, 99.9)) -> float:
    """The data range of ``masked_psnr`` and ``masked_ssim``: distance of two percentiles of the truth in the mask.

    Args:
        truth: [X, Y, Z], any unit.
        mask: [X, Y, Z], above zero inside; None for the whole volume.
        percentiles: lower and upper one, 0 to 100.

    Returns:
        The range in the truth's unit.
    """
    truth, _, mask = _pair(truth, truth, mask)
    low, high = np.percentile(truth if mask is None else truth[mask], percentiles)
    return float(high - low)


def published_psnr(image: Any, truth: Any) -> float:
    """PSNR in dB as the ArSSR code has it: ``20 log10(max(truth) - min(truth)) - 10 log10(mse)``, whole volume.

    Args:
        image, truth: [X, Y, Z], one unit.

    Returns:
        dB; infinite if both are equal.
    """
    image, truth, _ = _pair(image, truth)
    error = _difference(image, truth, None)
    return _decibel(float(truth.max()) - float(truth.min()), float(error @ error) / error.size)


def published_min_max(image: Any) -> Array:
    """``(x - min) / (max - min)``: the only intensity scaling that the ArSSR code has, [X, Y, Z] -> [0, 1]."""
    image = _volume(image, "the image")
    low, high = image.min(), image.max()
    if not high > low:
        raise ValueError("the volume is constant: it cannot be scaled to [0, 1].")
    return (image - low) / (high - low)


def published_ssim(image: Any, truth: Any) -> float:
    """SSIM as the ArSSR code has it: scikit-image's defaults in 3D.

    Uniform window of 7x7x7, sample covariance, K1 = 0.01, K2 = 0.03, data range ``max(truth) - min(truth)``, mean over
    the voxels at least 3 from the border.

    Raises:
        ValueError: an axis shorter than 7 voxels.
    """
    from skimage.metrics import structural_similarity

    image, truth, _ = _pair(image, truth)
    if min(truth.shape) < 7:
        raise ValueError(f"the published SSIM needs at least 7 voxels along each axis, got shape {truth.shape}.")
    data_range = float(truth.max()) - float(truth.min())
    return float(structural_similarity(truth, image.astype(truth.dtype, copy=False), data_range=data_range))


def masked_psnr(image: Any, truth: Any, mask: Any = None, data_range: float | None = None) -> float:
    """PSNR in dB inside a mask; the data range is ``robust_range(truth, mask)`` unless it is given.

    Args:
        image, truth: [X, Y, Z], one unit.
        mask: [X, Y, Z], above zero inside; None for the whole volume.
        data_range: in the truth's unit.

    Returns:
        dB; infinite if both are equal inside the mask.
    """
    image, truth, mask = _pair(image, truth, mask)
    error = _difference(image, truth, mask)
    return _decibel(robust_range(truth, mask) if data_range is None else data_range, float(error @ error) / error.size)


def masked_ssim(image: Any, truth: Any, mask: Any = None, data_range: float | None = None) -> float:
    """SSIM with the Gaussian window of Wang et al. 2004 (11 voxels, sigma 1.5), averaged inside a mask.

    The map is that of the volume, so voxels just outside the mask are seen through the window. Without a mask it is
    the mean over the voxels at least 5 from the border, equal to ``monai.metrics.SSIMMetric(spatial_dims=3)``.

    Args:
        image, truth: [X, Y, Z], one unit, at least 11 voxels along each axis.
        mask: [X, Y, Z], above zero inside; None for the whole volume.
        data_range: in the truth's unit; default ``robust_range(truth, mask)``.
    """
    image, truth, mask = _pair(image, truth, mask)
    data_range = robust_range(truth, mask) if data_range is None else data_range
    ssim, where = _ssim_map(image, truth, mask, data_range)
    return float(ssim[mask[where]].mean(dtype=np.float64)) if mask is not None else _interior_mean(ssim)


def _interior_mean(ssim: Array) -> float:
    inside = (slice(SSIM_RADIUS, -SSIM_RADIUS),) * 3
    return float(ssim[inside].mean(dtype=np.float64))


def _ssim_map(image: NDArray, truth: NDArray, mask: Mask | None, data_range: float) -> tuple[Array, tuple[slice, ...]]:
    """The SSIM map of the smallest box that holds the mask and its windows, and where that box lies."""
    from skimage.metrics import structural_similarity

    window = 2 * SSIM_RADIUS + 1
    if min(truth.shape) < window:
        raise ValueError(f"SSIM needs at least {window} voxels along each axis, got shape {truth.shape}.")
    if data_range <= 0:
        raise ValueError("the truth is constant here, so PSNR and SSIM are not defined.")
    where = _box(mask, SSIM_RADIUS, window) if mask is not None else (slice(None),) * 3
    _, ssim = structural_similarity(
        truth[where].astype(np.float32, copy=False),
        image[where].astype(np.float32, copy=False),
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return ssim, where


def _box(mask: Mask, margin: int, least: int) -> tuple[slice, ...]:
    """Bounding box of a mask, widened by ``margin`` and to at least ``least`` voxels, inside the volume."""
    slices = []
    for axis, n in enumerate(mask.shape):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        start = max(0, min(int(inside[0]) - margin, n - least))
        slices.append(slice(start, min(n, max(int(inside[-1]) + 1 + margin, start + least))))
    return tuple(slices)


def nrmse(image: Any, truth: Any, mask: Any = None) -> float:
    """Root of the summed squared error over the root of the summed squared truth, inside a mask if one is given."""
    image, truth, mask = _pair(image, truth, mask)
    energy = np.asarray(truth if mask is None else truth[mask], dtype=np.float64).ravel()
    norm = float(np.sqrt(energy @ energy))
    if norm == 0:
        raise ValueError("the truth is zero here, so the NRMSE is not defined.")
    error = _difference(image, truth, mask)
    return float(np.sqrt(error @ error)) / norm


def mae(image: Any, truth: Any, mask: Any = None) -> float:
    """Mean absolute error in the truth's unit, inside a mask if one is given."""
    return float(np.abs(_difference(*_pair(image, truth, mask))).mean())


def brain_mask(truth: Any, fraction: float = 0.05) -> Mask:
    """The foreground of a volume: a brain mask if the skull was stripped, otherwise a mask of the head.

    The rule: voxels more than ``fraction`` of the way from the minimum to the 99.9th percentile, of those the largest
    connected piece (6 neighbours), holes filled. It does not strip a skull: to measure in the brain of a scan with
    skull, give a mask file.

    Args:
        truth: [X, Y, Z], any unit.
        fraction: 0 to 1.

    Raises:
        ValueError: a constant volume.
    """
    from scipy import ndimage

    volume = _volume(truth, "the truth")
    low, high = float(volume.min()), float(np.percentile(volume, 99.9))
    if not high > low:
        raise ValueError("the volume is constant (or nearly), so it has no foreground to measure in.")
    pieces, count = ndimage.label(volume > low + fraction * (high - low))
    if count == 0:
        raise ValueError(f"no voxel lies above {fraction} of the intensity range.")
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(pieces == sizes.argmax())


class _VolumeMetric(RegressionMetric):
    """A function (image, truth) -> number as a MONAI metric on [B, C, X, Y, Z]; each channel is a volume.

    Infinite values (PSNR of equal images) stay in the buffer but are left out of the mean; ``infinite`` counts them.
    """

    infinite: int = 0

    def measure(self, image: NDArray, truth: NDArray) -> float:
        raise NotImplementedError

    def _compute_metric(self, y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        images, truths = (t.detach().cpu().numpy() for t in (y_pred, y))
        rows = [[self.measure(i, t) for i, t in zip(*pair, strict=True)] for pair in zip(images, truths, strict=True)]
        return torch.tensor(rows, dtype=torch.float32)

    def aggregate(self, reduction: Any = None) -> Any:
        """The reduced finite values (infinite if there is none); with ``get_not_nans`` also how many they are."""
        values = torch.as_tensor(self.get_buffer()).clone()
        infinite = torch.isinf(values)
        self.infinite = int(infinite.sum())
        values[infinite] = torch.nan
        result, count = do_metric_reduction(values, reduction or self.reduction)
        if self.infinite and not count.any():
            result = torch.full_like(result, torch.inf)
        return (result, count) if self.get_not_nans else result


class PublishedPSNR(_VolumeMetric):
    """``published_psnr`` as a MONAI metric."""

    def measure(self, image: NDArray, truth: NDArray) -> float:
        return published_psnr(image, truth)


class PublishedSSIM(_VolumeMetric):
    """``published_ssim`` as a MONAI metric."""

    def measure(self, image: NDArray, truth: NDArray) -> float:
        return published_ssim(image, truth)


class MaskedPSNR(_VolumeMetric):
    """``masked_psnr`` inside ``brain_mask`` of the truth, as a MONAI metric."""

    def measure(self, image: NDArray, truth: NDArray) -> float:
        return masked_psnr(image, truth, brain_mask(truth))


class MaskedSSIM(_VolumeMetric):
    """``masked_ssim`` inside ``brain_mask`` of the truth, as a MONAI metric."""

    def measure(self, image: NDArray, truth: NDArray) -> float:
        return masked_ssim(image, truth, brain_mask(truth))
