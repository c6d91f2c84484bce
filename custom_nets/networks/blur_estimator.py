"""A few thousand weights that read a scan's blur off its spectra."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BlurEstimator"]


class BlurEstimator(nn.Module):
    """Modulation transfer along one axis, from how a scan's power falls along it (ours).

    A smooth head measured sharply and a sharp head measured softly can have the same spectra: the answer comes with its
    standard deviation, which is large where that is so.

    Args:
        features: length of the description, :data:`custom_nets.operators.blur_estimate.NUM_FEATURES`.
        width: hidden units.

    Example::

        >>> mean, std = BlurEstimator(features=38)(torch.zeros(5, 38)).unbind(1)
        >>> mean.shape, std.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, features: int = 38, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 4)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Estimate the transfer at half and at the whole Nyquist frequency of the measured voxels.

        Args:
            features: [B, F], see :func:`custom_nets.operators.blur_estimate.spectral_features`.

        Returns:
            [B, 2, 2]: the means, between 0 and 1, and their standard deviations.
        """
        known = ((features - self.centre) / self.spread).clamp(-4, 4)  # nothing far outside of what training saw
        out = self.layers(known)
        return torch.stack([out[:, :2].sigmoid(), 0.01 + nn.functional.softplus(out[:, 2:])], 1)
