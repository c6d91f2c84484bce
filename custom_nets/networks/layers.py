"""Layers that more than one network uses."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["RowLinear"]


class RowLinear(nn.Linear):
    """``nn.Linear`` for very many rows [..., K, in] -> [..., K, out]; same parameters, same result.

    Without gradients on a CPU the product runs as a 1x1 convolution, which PyTorch hands to oneDNN. Its float32
    matrix product goes to another library, which some processors run at less than half of the speed.
    """

    _SPLIT = 16  # oneDNN takes a 1x1 convolution on any number of threads only from this batch size on

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // x.shape[-1]
        if (
            torch.is_grad_enabled()
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or rows < 1024
            or rows % (4 * self._SPLIT) != 0
            or not x.is_contiguous()
        ):
            return F.linear(x, self.weight, self.bias)
        pixels = x.view(self._SPLIT, rows // (4 * self._SPLIT), 4, self.in_features).permute(0, 3, 1, 2)
        out = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(x.shape[:-1] + (self.out_features,))
