"""Signal to noise of two images at several sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

__all__ = ["MultiscalePSNRLoss"]


class MultiscalePSNRLoss(_Loss):
    """Mean over pictures and sizes (full, half, quarter, ...) of ``log(sqrt(mean(d^2) + e^2))`` of the difference d.

    At full size this is PSNR in the mean over pictures, but for sign, unit (20 / ln 10 dB) and ``e``. Inside a picture
    the square wants the mean of what may have been between two frames: a loss that grows with the size of a difference,
    as Charbonnier's, wants the median, which is too bright where contrast has perhaps arrived. The logarithm gives
    quiet pictures as much say as busy ones. The small sizes are there for the brightness of whole regions.

    Args:
        levels: number of sizes; H and W must be multiples of ``2 ** (levels - 1)``.
        epsilon: ``e`` at full size, half of it at half of the size, and so on: below it pictures are good enough.

    Shapes: both images [..., H, W] -> a number.
    """

    def __init__(self, levels: int = 4, epsilon: float = 0.002) -> None:
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
            if level:
                difference = F.avg_pool2d(difference, 2)
            error = difference.square().mean((1, 2, 3)) + (self.epsilon / 2**level) ** 2
            loss = loss + 0.5 * error.log().mean()
        return loss / self.levels


def picture_difference(input: torch.Tensor, target: torch.Tensor, levels: int) -> torch.Tensor:
    """[..., H, W] twice -> [pictures, 1, H, W] float32, which can be halved ``levels - 1`` times.

    Raises:
        ValueError: different shapes, or sides that cannot be halved often enough.
    """
    divisor = 2 ** (levels - 1)
    if input.shape != target.shape or input.ndim < 2 or any(side % divisor for side in input.shape[-2:]):
        raise ValueError(
            f"both images must have one shape with H and W multiples of {divisor}, got {tuple(input.shape)} and "
            f"{tuple(target.shape)}."
        )
    return (input.float() - target.float()).reshape(-1, 1, *input.shape[-2:])
