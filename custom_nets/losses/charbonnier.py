"""Difference of two images at several sizes, brightness included."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

from custom_nets.losses.multiscale_psnr import picture_difference

__all__ = ["MultiscaleCharbonnierLoss"]


class MultiscaleCharbonnierLoss(_Loss):
    """Sum over sizes (full, half, quarter, ...) of the mean ``sqrt(d^2 + e^2) - e`` of the difference d.

    The counterpart of the published Laplacian pyramid loss with the brightness anchored: its levels are what is left of
    an image at a size, not what was lost on the way to it, so a shift of the brightness counts at every one. Small
    differences (noise) count by their square, large ones (a vessel in the wrong place) by their size. Noise is halved
    with the size, so ``e`` is, too: at the small sizes a slight shift of the brightness already counts in full.

    Args:
        levels: number of sizes; H and W must be multiples of ``2 ** (levels - 1)``.
        epsilon: ``e`` at full size, where the square turns into the absolute value.

    Shapes: both images [..., H, W] -> a number.
    """

    def __init__(self, levels: int = 4, epsilon: float = 0.02) -> None:
        super().__init__()
        if levels < 1 or epsilon <= 0:
            raise ValueError(f"levels must be at least 1 and epsilon above 0, got {levels} and {epsilon}.")
        self.levels = levels
        self.epsilon = epsilon

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Raises:
            ValueError: different shapes, or sides that cannot be halved often enough.
        """
        difference = picture_difference(input, target, self.levels)
        loss = difference.new_zeros(())
        for level in range(self.levels):
            epsilon = self.epsilon / 2**level
            loss = loss + (difference.square() + epsilon**2).sqrt().mean() - epsilon
            if level < self.levels - 1:
                difference = F.avg_pool2d(difference, 2)
        return loss
