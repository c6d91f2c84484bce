"""Layers that more than one network uses: PyTorch's own, on the faster of two ways through a CPU."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["PointwiseConv3d", "RowLinear"]


def _rows_fast(x: torch.Tensor) -> bool:
    rows = x.numel() // x.shape[-1]
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and rows >= 1024
        and rows % 64 == 0
        and x.is_contiguous()
    )


def _rows_as_pixels(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``F.linear`` as a 1x1 convolution, which PyTorch hands to oneDNN; its float32 matrix product goes to another
    library, which some processors run at less than half of the speed. oneDNN takes a 1x1 convolution on any number of
    threads only from a batch of 16 on, hence the shape."""
    rows = x.numel() // x.shape[-1]
    pixels = x.view(16, rows // 64, 4, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(pixels, weight.view(weight.shape[0], -1, 1, 1), bias)
    return out.permute(0, 2, 3, 1).reshape(x.shape[:-1] + (weight.shape[0],))


class RowLinear(nn.Linear):
    """``nn.Linear`` for very many rows [..., K, in] -> [..., K, out]; same parameters, same result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _rows_fast(x):
            return _rows_as_pixels(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class PointwiseConv3d(nn.Conv3d):
    """``nn.Conv3d`` with kernel size 1: [B, in, D, H, W] -> [B, out, D, H, W]; same parameters, same result."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.permute(0, 2, 3, 4, 1)
        if _rows_fast(rows):
            return _rows_as_pixels(rows, self.weight, self.bias).permute(0, 4, 1, 2, 3)
        return F.conv3d(x, self.weight, self.bias)
