"""SwinRegressor: a plain network of Swin blocks that sharpens planes, the competitor of AnySizeTransMRSR.

After SwinIR (Liang et al., 2021, https://arxiv.org/abs/2108.10257) in the size that TransMRSR was compared with
(60 channels, 4 groups of 6 blocks, 1.3 M parameters): no scales, no prior, no styles. Input, output, knowledge of
factor and position, and the work at half of the plane's size are those of
:class:`custom_nets.networks.AnySizeTransMRSR`, so that the two differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from .any_size_transmrsr import SwinLevel, as_planes, as_tokens, conv3, encode_input

__all__ = ["SwinRegressor"]


class SwinRegressor(nn.Module):
    """Planes that contain the thick axis, sharpened along it.

    Args:
        slices: neighbouring planes that are seen, an odd number; the middle one is the result's.
        dim: channels.
        depths: Swin blocks of each group.
        head_width: channels of an attention head.
        window: side of an attention window in tokens.
        ratio: hidden width of an MLP over its width.
    """

    def __init__(
        self,
        slices: int = 5,
        dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        head_width: int = 10,
        window: int = 8,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        self.slices = slices
        self.divisor = 2 * window
        self.shallow = conv3(4 * slices + 5, dim)
        self.groups = nn.Sequential(*(SwinLevel(dim, head_width, window, ratio, depth) for depth in depths))
        self.norm = nn.LayerNorm(dim)
        self.deep = conv3(dim, dim)
        self.last = conv3(dim, 4)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(cast(nn.Parameter, self.last.bias))

    def forward(
        self,
        image: torch.Tensor,
        scale: float | torch.Tensor = 4.0,
        position: float | torch.Tensor | None = None,
        mtf: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See :meth:`custom_nets.networks.AnySizeTransMRSR.forward`."""
        height, width = image.shape[-2:]
        shallow = self.shallow(encode_input(image, self.slices, self.divisor, scale, position))
        x = self.norm(self.groups(as_tokens(shallow)))
        x = shallow + self.deep(as_planes(x))
        x = F.pixel_shuffle(self.last(x), 2)[:, :, :height, :width]
        return image[:, self.slices // 2 : self.slices // 2 + 1] + x
