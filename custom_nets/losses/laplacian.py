"""Difference of two images by scale: the Laplacian pyramid loss of MoSt-DSA (from RIFE)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

__all__ = ["LaplacianPyramidLoss"]


class LaplacianPyramidLoss(_Loss):
    """Sum over the levels of the mean absolute difference of two Laplacian pyramids.

    As published, the last low-pass image is not compared, so the loss does not see a shift of the brightness (the
    published training leaves that to the perceptual loss). ``anchor`` compares it too.

    Args:
        levels: of the pyramid; H and W must be multiples of 2 ** levels, at least twice that.
        anchor: weight of the low-pass image's mean absolute difference; 0 is the published loss.

    Shapes: both images [..., C, H, W] -> a number.
    """

    def __init__(self, levels: int = 5, anchor: float = 0.0) -> None:
        super().__init__()
        if levels < 1 or anchor < 0:
            raise ValueError(f"levels must be at least 1 and anchor at least 0, got {levels} and {anchor}.")
        self.levels = levels
        self.anchor = anchor

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input, target: [..., C, H, W].

        Raises:
            ValueError: different shapes, or sides that the pyramid does not fit.
        """
        if input.shape != target.shape or input.ndim < 3:
            raise ValueError(
                f"both images must be [..., C, H, W] of one shape, got {tuple(input.shape)} and {tuple(target.shape)}."
            )
        divisor = 2**self.levels
        if any(side % divisor or side < 2 * divisor for side in input.shape[-2:]):
            raise ValueError(
                f"{self.levels} levels need H and W to be multiples of {divisor}, at least {2 * divisor}, got "
                f"{tuple(input.shape[-2:])}."
            )
        # every step of the pyramid is linear, so the pyramid of the difference is the difference of the pyramids
        x = (input.float() - target.float()).flatten(0, -3)[:, None]  # [N, 1, H, W]
        loss = x.new_zeros(())
        for _ in range(self.levels):
            low = _blur(x)[..., ::2, ::2]
            loss = loss + (x - _expand(low)).abs().mean()
            x = low
        return loss + self.anchor * x.abs().mean() if self.anchor else loss


def _blur(x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """Binomial filter of 5x5 pixels, mirrored at the border: [N, 1, H, W] -> the same shape."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), (gain / 256) * torch.outer(row, row)[None, None])


def _expand(x: torch.Tensor) -> torch.Tensor:
    """[N, 1, h, w] -> [N, 1, 2h, 2w]: zeros in between, then the filter."""
    n, _, h, w = x.shape
    zeros = x.new_zeros(n, 1, h, 2, w, 2)
    zeros[:, :, :, 0, :, 0] = x
    return _blur(zeros.view(n, 1, 2 * h, 2 * w), gain=4.0)
