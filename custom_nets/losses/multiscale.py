"""Differences of two images at several sizes, brightness included.

The counterpart of the published Laplacian pyramid loss with the brightness anchored: its levels are what is left of an
image at a size, not what was lost on the way to it, so a shift of the brightness counts at every one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

__all__ = ["MultiscaleCharbonnierLoss", "MultiscalePSNRLoss"]


class _MultiscaleLoss(_Loss):
    """Sum over sizes (full, half, quarter, ...) of a penalty on the difference.

    Args:
        levels: number of sizes; H and W must be multiples of ``2 ** (levels - 1)``.
        epsilon: a difference at full size. Noise is halved with the size, so this is, too.
    """

    def __init__(self, levels: int, epsilon: float) -> None:
        super().__init__()
        if levels < 1 or epsilon <= 0:
            raise ValueError(f"levels must be at least 1 and epsilon above 0, got {levels} and {epsilon}.")
        self.levels = levels
        self.epsilon = epsilon

    def penalty(self, difference: torch.Tensor, epsilon: float) -> torch.Tensor:
        """[pictures, 1, h, w] -> a number."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Raises:
            ValueError: different shapes, or sides that cannot be halved often enough.
        """
        divisor = 2 ** (self.levels - 1)
        if input.shape != target.shape or input.ndim < 2 or any(side % divisor for side in input.shape[-2:]):
            raise ValueError(
                f"both images must have one shape with H and W multiples of {divisor}, got {tuple(input.shape)} and "
                f"{tuple(target.shape)}."
            )
        difference = (input.float() - target.float()).reshape(-1, 1, *input.shape[-2:])
        loss = difference.new_zeros(())
        for level in range(self.levels):
            if level:
                difference = F.avg_pool2d(difference, 2)
            loss = loss + self.penalty(difference, self.epsilon / 2**level)
        return loss


class MultiscaleCharbonnierLoss(_MultiscaleLoss):
    """Sum over sizes (full, half, quarter, ...) of the mean ``sqrt(d^2 + e^2) - e`` of the difference d.

    Small differences (noise) count by their square, large ones (a vessel in the wrong place) by their size: at the
    small sizes a slight shift of the brightness already counts in full.

    Args:
        levels: number of sizes; H and W must be multiples of ``2 ** (levels - 1)``.
        epsilon: ``e`` at full size, where the square turns into the absolute value; half of it at half of the size, and
            so on.

    Shapes: both images [..., H, W] -> a number.
    """

    def __init__(self, levels: int = 4, epsilon: float = 0.02) -> None:
        super().__init__(levels, epsilon)

    def penalty(self, difference: torch.Tensor, epsilon: float) -> torch.Tensor:
        return (difference.square() + epsilon**2).sqrt().mean() - epsilon


class MultiscalePSNRLoss(_MultiscaleLoss):
    """Mean over pictures and sizes (full, half, quarter, ...) of ``log(sqrt(mean(d^2) + e^2))`` of the difference d.

    At full size this is PSNR in the mean over pictures, but for sign, unit (20 / ln 10 dB) and ``e``. Inside a picture
    the square wants the mean of what may have been between two frames; a loss that grows with the size of a difference,
    as Charbonnier's, wants the median, which is too bright where contrast has perhaps arrived. The logarithm gives
    quiet pictures as much say as busy ones. The small sizes are there for the brightness of whole regions.

    Args:
        levels: number of sizes; H and W must be multiples of ``2 ** (levels - 1)``.
        epsilon: ``e`` at full size, half of it at half of the size, and so on: below it pictures are good enough.

    Shapes: both images [..., H, W] -> a number.
    """

    def __init__(self, levels: int = 4, epsilon: float = 0.002) -> None:
        super().__init__(levels, epsilon)

    def penalty(self, difference: torch.Tensor, epsilon: float) -> torch.Tensor:
        error = difference.square().mean((1, 2, 3)) + epsilon**2
        return 0.5 * error.log().mean() / self.levels
