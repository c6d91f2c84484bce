"""How near frames are to the measured ones: the PSNR and SSIM that the frame interpolation literature reports.

MoSt-DSA (https://arxiv.org/abs/2407.07078) evaluates with :func:`frame_psnr` and :func:`ssim_matlab` over the whole
frame, so constant collimated borders count, which raises both. All functions take [..., C, H, W] and give one number
for each frame, in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["frame_psnr", "frame_ssim", "ssim_matlab"]

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
    return 20 * torch.log10(torch.tensor(data_range)) - 10 * (image - truth).square().mean((-3, -2, -1)).log10()


def frame_ssim(image: torch.Tensor, truth: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """SSIM of each channel by itself (Wang et al. 2004: Gaussian window of 11, sigma 1.5), border repeated; their mean.

    Args:
        image, truth: [..., C, H, W], one unit.
        data_range: in that unit.

    Returns:
        [...].
    """
    image, truth = _pair(image, truth)
    return _ssim(image.unsqueeze(-3), truth.unsqueeze(-3), torch.tensor(data_range).double()).mean(-1)


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
    return _ssim(image, truth, torch.tensor(data_range).double())


def _pair(image: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if image.shape != truth.shape or image.ndim < 3:
        raise ValueError(
            f"expected two [..., C, H, W] of one shape, got {tuple(image.shape)} and {tuple(truth.shape)}."
        )
    return image.double(), truth.double()


def _ssim(image: torch.Tensor, truth: torch.Tensor, data_range: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of volumes [..., D, H, W] -> [...]."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean0, mean1 = _local_mean(image), _local_mean(truth)
    variance0 = _local_mean(image * image) - mean0 * mean0
    variance1 = _local_mean(truth * truth) - mean1 * mean1
    covariance = _local_mean(image * truth) - mean0 * mean1
    ssim = (2 * mean0 * mean1 + c1) * (2 * covariance + c2)
    ssim = ssim / ((mean0 * mean0 + mean1 * mean1 + c1) * (variance0 + variance1 + c2))
    return ssim.mean((-3, -2, -1))


def _local_mean(x: torch.Tensor) -> torch.Tensor:
    """Gaussian mean along all three axes of [..., D, H, W], which is continued by its border."""
    size = min(2 * _PADDING + 1, x.shape[-2], x.shape[-1])
    offsets = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    volume = F.pad(x.reshape(-1, 1, *x.shape[-3:]), (_PADDING,) * 6, mode="replicate")
    for shape in ((size, 1, 1), (1, size, 1), (1, 1, size)):
        volume = F.conv3d(volume, window.view(1, 1, *shape))
    return volume.view(*x.shape[:-3], *volume.shape[-3:])
