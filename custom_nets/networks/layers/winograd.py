"""3x3x3 convolutions with a third fewer multiplications, for inference on a CPU.

Winograd's minimal filtering F(2, 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016)
along the first spatial axis only: two output planes need four 2D convolutions instead of six. It is exact but for the
order of rounding (2e-6 of the maximum for one layer in float32). All layers of a dense block write into one buffer, so
its concatenations cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["SameConv3d", "dense_relu", "suits"]

_MIN_VOXELS, _MAX_VOXELS = 4096, 2**18  # below it does not pay, above the buffers grow too large
_transformed: WeakKeyDictionary[nn.Conv3d, tuple[tuple[int, int], list[torch.Tensor]]] = WeakKeyDictionary()


def suits(x: torch.Tensor, convs: Sequence[nn.Conv3d]) -> bool:
    """Whether :func:`dense_relu` is the better way: one large item, wide layers, float32 on a CPU, no gradients."""
    return (
        type(x) is torch.Tensor
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] == 1
        and _MIN_VOXELS <= x.shape[2] * x.shape[3] * x.shape[4] <= _MAX_VOXELS
        and min(conv.out_channels for conv in convs) >= 64
        and not any(conv.weight.is_inference() for conv in convs)
    )


def _filters(conv: nn.Conv3d) -> list[torch.Tensor]:
    """The four 2D filters [out, in, 3, 3] of a 3D one, kept as long as the weights do not change."""
    state = (conv.weight.data_ptr(), conv.weight._version)
    known = _transformed.get(conv)
    if known is None or known[0] != state:
        a, b, c = conv.weight.detach().unbind(2)
        filters = [a, (a + b + c) / 2, (a - b + c) / 2, c]
        known = (state, [f.contiguous(memory_format=torch.channels_last) for f in filters])
        _transformed[conv] = known
    return known[1]


def dense_relu(x: torch.Tensor, convs: Sequence[nn.Conv3d]) -> torch.Tensor:
    """``for conv in convs: x = cat([x, relu(conv(x))], 1)`` for x [1, C, D, H, W], kernel 3, zero padding 1."""
    channels, d = x.shape[1], x.shape[2]
    planes = _padded_planes(x, channels + sum(conv.out_channels for conv in convs))
    for conv in convs:
        first, second = _output_pairs(planes[..., :channels], conv)
        after = channels + conv.out_channels
        # output planes 2 i and 2 i + 1 lie at planes 2 i + 1 and 2 i + 2
        torch.clamp(first, min=0, out=planes[1::2][:-1, ..., channels:after])
        torch.clamp(second, min=0, out=planes[0::2][1:, ..., channels:after])
        planes[d + 1 :, ..., channels:after] = 0  # where the last pair has one plane too many, it is padding again
        channels = after
    return planes[1 : d + 1].permute(3, 0, 1, 2)[None]


class SameConv3d(nn.Conv3d):
    """``nn.Conv3d`` with kernel size 3 and zero padding 1; same parameters, same result."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if self.in_channels >= 64 and suits(x, [self]):
                pairs = torch.stack(_output_pairs(_padded_planes(x, self.in_channels), self), 1)
                return pairs.flatten(0, 1)[: x.shape[2]].permute(3, 0, 1, 2)[None]
        return F.conv3d(x, self.weight, self.bias, padding=1)


def _padded_planes(x: torch.Tensor, width: int) -> torch.Tensor:
    """[1, C, D, H, W] -> [2 P + 2, H, W, width], channels last: one plane of zeros before, one or two after."""
    _, channels, d, h, w = x.shape
    planes = x.new_empty(2 * (-(-d // 2)) + 2, h, w, width)
    planes[0] = 0
    planes[d + 1 :] = 0
    planes[1 : d + 1, ..., :channels] = x[0].permute(1, 2, 3, 0)
    return planes


def _output_pairs(planes: torch.Tensor, conv: nn.Conv3d) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded planes [2 P + 2, H, W, C] -> the even and the odd output planes, [P, H, W, C'] each."""
    f0, f1, f2, f3 = _filters(conv)
    p0, p2 = planes[0:-2:2], planes[2::2]
    p1, p3 = planes[1:-1:2], planes[3::2]
    m0 = _conv2d(p0 - p2, f0, conv.bias)
    m1 = _conv2d(p1 + p2, f1)
    m2 = _conv2d(p2 - p1, f2)
    m3 = _conv2d(p3 - p1, f3, conv.bias)
    return m0.add_(m1).add_(m2), m1.sub_(m2).add_(m3)


def _conv2d(planes: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[N, H, W, C] -> [N, H, W, C']"""
    return F.conv2d(planes.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1)
