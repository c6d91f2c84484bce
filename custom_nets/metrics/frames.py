"""How near frames are to the measured ones: the PSNR and SSIM that the frame interpolation literature reports.

MoSt-DSA (https://arxiv.org/abs/2407.07078) evaluates with :func:`frame_psnr` and :func:`ssim_matlab` over the whole
frame, so constant collimated borders count, which raises both. All functions take [..., C, H, W] and give float64: one
number for each frame, :func:`ssim_map` one for each pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from custom_nets.metrics.mean import psnr_db

__all__ = ["frame_psnr", "frame_ssim", "ssim_map", "ssim_matlab"]

_PADDING = 5  # half of the Gaussian window of 11 pixels (sigma 1.5)


def frame_psnr(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """PSNR over all channels and pixels.

    Args:
        image, truth: [..., C, H, W], one unit.
        data_range: in that unit.

    Returns:
        [...], dB; infinite for equal frames.
    """
    image, truth = _pair(image, truth)
    return psnr_db((image - truth).square().mean((-3, -2, -1)), data_range)


def frame_ssim(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """SSIM of each channel by itself (Wang et al. 2004: Gaussian window of 11, sigma 1.5), border repeated; their mean.

    Args:
        image, truth: [..., C, H, W], one unit.
        data_range: in that unit.

    Returns:
        [...].
    """
    return ssim_map(image, truth, data_range).mean((-3, -2, -1))


def ssim_map(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """What :func:`frame_ssim` is the mean of; a part of it can be averaged, such as the active area.

    Args:
        image, truth: [..., C, H, W], one unit.
        data_range: in that unit.

    Returns:
        [..., C, H, W].
    """
    image, truth = _pair(image, truth)
    return _ssim(image.unsqueeze(-3), truth.unsqueeze(-3), torch.tensor(data_range).double()).squeeze(-3)


def ssim_matlab(image: torch.Tensor, truth: torch.Tensor, data_range: float | None = None) -> torch.Tensor:
    """SSIM as video interpolation papers have it: the channels are the depth of a volume with a window of 11^3.

    Equal channels give what :func:`frame_ssim` gives. Frames with a side below 11 get a window of that side and, as
    published, the padding of the large one.

    Args:
        image, truth: [..., C, H, W], one unit.
        data_range: in that unit. None for the published guess from ``image``: 255 if it exceeds 128, else 1; and one
            more if it goes below -0.5.

    Returns:
        [...].
    """
    image, truth = _pair(image, truth)
    if data_range is None:
        data_range = (255.0 if image.max() > 128 else 1.0) - (-1.0 if image.min() < -0.5 else 0.0)
    return _ssim(image, truth, torch.tensor(data_range).double()).mean((-3, -2, -1))


def _pair(image: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if image.shape != truth.shape or image.ndim < 3:
        raise ValueError(
            f"expected two [..., C, H, W] of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}."
        )
    return image.double(), truth.double()


def _ssim(image: torch.Tensor, truth: torch.Tensor, data_range: torch.Tensor) -> torch.Tensor:
    """SSIM of volumes at each place, [..., D, H, W]."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean0, mean1 = _local_mean(image), _local_mean(truth)
    variance0 = _local_mean(image * image) - mean0 * mean0
    variance1 = _local_mean(truth * truth) - mean1 * mean1
    covariance = _local_mean(image * truth) - mean0 * mean1
    ssim = (2 * mean0 * mean1 + c1) * (2 * covariance + c2)
    return ssim / ((mean0 * mean0 + mean1 * mean1 + c1) * (variance0 + variance1 + c2))


def _local_mean(x: torch.Tensor) -> torch.Tensor:
    """Gaussian mean along all three axes of [..., D, H, W], which is continued by its border."""
    size = min(2 * _PADDING + 1, x.shape[-2], x.shape[-1])
    offsets = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    if x.shape[-3] == 1 and size == 2 * _PADDING + 1:
        return _flat_mean(x, window)  # a single slice, repeated along the depth: its mean along it is itself
    volume = F.pad(x.reshape(-1, 1, *x.shape[-3:]), (_PADDING,) * 6, mode="replicate")
    for shape in ((size, 1, 1), (1, size, 1), (1, 1, size)):
        volume = F.conv3d(volume, window.view(1, 1, *shape))
    return volume.view(*x.shape[:-3], *volume.shape[-3:])


def _flat_mean(x: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Weighted mean along the last two axes as a sum of shifted pictures: many times faster than a convolution here."""
    height, width = x.shape[-2:]
    padded = F.pad(x.reshape(-1, 1, height, width), (_PADDING,) * 4, mode="replicate")
    rows = padded.new_zeros(len(padded), 1, height, width + 2 * _PADDING)
    mean = padded.new_zeros(len(padded), 1, height, width)
    for shift, weight in enumerate(window.tolist()):
        rows.add_(padded[..., shift : shift + height, :], alpha=weight)
    for shift, weight in enumerate(window.tolist()):
        mean.add_(rows[..., shift : shift + width], alpha=weight)
    return mean.view(x.shape)
