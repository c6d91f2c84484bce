"""Augmentation of whole batches that a gradient passes through, for adversarial training on few images.

After DiffAugment (Zhao et al., NeurIPS 2020). Grey magnitude images: there is no saturation to change.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["DifferentiableAugment"]


class DifferentiableAugment:
    """Change brightness and contrast, shift, flip and cut a square out of each image of a batch [B, C, H, W].

    Args:
        brightness: largest value that is added, in units of the images' range of 1.
        contrast: largest relative change of the distance to the image's mean.
        translation: largest shift as a share of the size; what comes in is 0.
        cutout: side of the square that is set to 0 as a share of the size; 0 for none.
        flip: probability of a mirrored image.
    """

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.5,
        translation: float = 0.125,
        cutout: float = 0.0,
        flip: float = 0.5,
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.translation = translation
        self.cutout = cutout
        self.flip = flip

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        b, _, height, width = images.shape

        def draw(low: float, high: float) -> torch.Tensor:
            return torch.empty(b, 1, 1, 1, device=images.device).uniform_(low, high)

        if self.flip:
            images = torch.where(draw(0, 1) < self.flip, images.flip(-1), images)
        if self.brightness:
            images = images + draw(-self.brightness, self.brightness)
        if self.contrast:
            mean = images.mean((1, 2, 3), keepdim=True)
            images = mean + (images - mean) * draw(1 - self.contrast, 1 + self.contrast)
        rows = torch.arange(height, device=images.device)[None, :, None]
        columns = torch.arange(width, device=images.device)[None, None, :]
        if self.translation:
            down = draw(-self.translation * height, self.translation * height).round().long()[:, :, 0]
            right = draw(-self.translation * width, self.translation * width).round().long()[:, :, 0]
            padded = F.pad(images, [1, 1, 1, 1])  # a border of zeros to sample from
            y = (rows + down).clamp(-1, height) + 1
            x = (columns + right).clamp(-1, width) + 1
            images = padded[torch.arange(b, device=images.device)[:, None, None], :, y, x].permute(0, 3, 1, 2)
        if self.cutout:
            size = (round(self.cutout * height), round(self.cutout * width))
            top = (draw(0, 1) * (height + 1) - size[0] / 2).floor().long()[:, :, 0]
            left = (draw(0, 1) * (width + 1) - size[1] / 2).floor().long()[:, :, 0]
            hole = (rows >= top) & (rows < top + size[0]) & (columns >= left) & (columns < left + size[1])
            images = images.masked_fill(hole[:, None], 0)
        return images
