"""StyleSwin: images from noise by a transformer, the generative prior of TransMRSR; and its wavelet discriminator.

Paper: Zhang et al., "StyleSwin: Transformer-based GAN for High-resolution Image Generation", CVPR 2022,
https://arxiv.org/abs/2112.10762; published code https://github.com/microsoft/StyleSwin (MIT). Both networks have the
published keys and give the published numbers.

:class:`StyleSwinGenerator` maps noise z to a style w, and draws from a learned 4x4 constant: at each resolution two
:class:`StyleSwinBlock` (half of the heads attend in plain windows, half in shifted ones; w sets mean and deviation of
each channel) and an :class:`Upsampler`; small images of all resolutions are added up. Its levels are the decoder of
:class:`custom_nets.networks.TransMRSR`.

Shapes: B images, C channels, (H, W) rows and columns, w the side of a window and N = w² its tokens, S the length of a
style. Tokens are [B, H, W, C], which is the memory of channels-last maps: between the two is no copy.

Without gradients on a CPU, window attention and MLPs work on strips of tokens that stay in the processor's cache, and
write where their input was. Results are those of the whole map, up to rounding, and no tensor of many windows' logits
or of an MLP's hidden channels is made.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from numpy.typing import NDArray

from custom_nets.utils.weights import PublishedWeights, StateDict

__all__ = ["StyleSwinDiscriminator", "StyleSwinGenerator", "channels_at"]

# what is worked on together without gradients on a CPU: values of tokens, and tokens of an MLP, whose hidden channels
# are many; neither changes the result
VALUES_AT_ONCE = 2**18
TOKENS_AT_ONCE = 2048


def channels_at(resolution: int, multiplier: int = 1) -> int:
    """Published width of a level: 512 up to 32x32, then halved with every doubling, times ``multiplier``."""
    return 512 if resolution <= 32 else 16384 * multiplier // resolution


def check_size(size: int, least: int) -> int:
    """log2 of a side.

    Raises:
        ValueError: not a power of two, or smaller than ``least``.
    """
    power = int(size).bit_length() - 1
    if size != 2**power or size < least:
        raise ValueError(f"size must be a power of two from {least} on, got {size}.")
    return power


# ---- tokens and maps ----


def as_map(tokens: torch.Tensor) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W] in channels-last memory; no copy."""
    return tokens.permute(0, 3, 1, 2)


def as_tokens(image: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, H, W, C]; no copy from channels-last memory."""
    return image.permute(0, 2, 3, 1).contiguous()


# ---- equalised layers: weights of deviation one, scaled where they are used ----


class EqualLinear(nn.Module):
    """Linear layer [..., in] -> [..., out] whose weight counts ``lr_mul / sqrt(in)``, its bias ``lr_mul``.

    Args:
        in_features, out_features: channels.
        lr_mul: how slowly it learns.
        activation: leaky ReLU (0.2) times sqrt(2) afterwards.
    """

    def __init__(self, in_features: int, out_features: int, lr_mul: float = 1.0, activation: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.lr_mul = lr_mul
        self.scale = lr_mul / math.sqrt(in_features)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # the input is scaled, not the weight, which is far larger
        out = F.linear(x * self.scale, self.weight, self.bias * self.lr_mul)
        return F.leaky_relu(out, 0.2) * math.sqrt(2) if self.activation else out


class EqualConv2d(nn.Module):
    """Convolution [B, in, H, W] -> [B, out, H', W'] whose weight counts ``1 / sqrt(in * kernel²)``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight
        if x.numel() < weight.numel():  # scale what is smaller
            x = x * self.scale
        else:
            weight = weight * self.scale
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ScaledLeakyReLU(nn.Module):
    """leaky_relu(x, 0.2) * sqrt(2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


class BiasLeakyReLU(nn.Module):
    """leaky_relu(x + bias, 0.2) * sqrt(2) of maps [B, C, H, W] or rows [B, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias.view(1, -1, *[1] * (x.ndim - 2))
        return F.leaky_relu(x + bias, 0.2) * math.sqrt(2)


class PixelNorm(nn.Module):
    """Rows [B, C] of mean square one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


# ---- attention in windows ----


# NumPy arrays are kept, not tensors: those made while a network is traced or exported are no use afterwards


@lru_cache(maxsize=16)
def position_index(window: int) -> NDArray[np.int64]:
    """[N * N]: row of the position table for a query (slow) and a key (fast), N = window² tokens row by row."""
    y, x = np.indices((window, window)).reshape(2, -1)
    dy, dx = y[:, None] - y, x[:, None] - x
    return ((dy + window - 1) * (2 * window - 1) + dx + window - 1).flatten()


@lru_cache(maxsize=16)
def edge_masks(window: int, shift: int) -> NDArray[np.float32]:
    """[2, 2, N, N]: what is added to the logits of shifted windows, by (in the last row, in the last column).

    Such a window holds tokens of opposite edges of the map, which must not see each other: -100, else 0. All other
    windows see everything, so four masks are enough for a map of any size.
    """
    y, x = np.indices((window, window)).reshape(2, -1) >= window - shift
    apart_y, apart_x = y[:, None] != y, x[:, None] != x
    nowhere = np.zeros_like(apart_y)
    masks = [[a | b for b in (nowhere, apart_x)] for a in (nowhere, apart_y)]
    return np.array(masks, dtype=np.float32) * np.float32(-100)


class PositionBias(nn.Module):
    """Learned bias of the logits by relative position; () -> [heads, N, N]."""

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self) -> torch.Tensor:
        table, n = self.relative_position_bias_table, self.window**2
        return table[torch.from_numpy(position_index(self.window)).to(table.device)].t().reshape(-1, n, n)


def attend(
    qkv: torch.Tensor, bias: torch.Tensor, scale: float, shift: int = 0, last_row: bool = False, last_column: int = 0
) -> torch.Tensor:
    """Attention of the tokens of each window, by heads.

    Args:
        qkv: [n, N, 3 * C], channels (query, key, value), each by heads; n windows.
        bias: [heads, N, N], added to the logits.
        scale: of the logits before the bias.
        shift: of the windows; 0 for plain ones.
        last_row: the windows are those at the lower edge of the map.
        last_column: so many windows, the last ones, are those at the right edge of the map.

    Returns:
        [n, N, C].
    """
    n, tokens, channels = qkv.shape
    heads = bias.shape[0]
    qkv = qkv.view(n, tokens, 3, heads, channels // 3 // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # [n, heads, N, d] each
    bias = bias.to(qkv.dtype)
    if shift:
        masks = torch.from_numpy(edge_masks(round(math.sqrt(tokens)), shift)[int(last_row)]).to(bias)
        groups = [(slice(0, n - last_column), bias + masks[0]), (slice(n - last_column, n), bias + masks[1])]
    else:
        groups = [(slice(0, n), bias)]
    parts = [
        F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=mask[None], scale=scale).transpose(1, 2)
        for some, mask in groups
        if some.stop > some.start
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(n, tokens, channels // 3)


def uses_inplace_cpu_path(x: torch.Tensor) -> bool:
    """Whether work on tokens [..., C] is done in strips and in place."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled()


def _at_once(x: torch.Tensor) -> int | None:
    """Tokens [..., C] to work on together, None for all."""
    return max(1, VALUES_AT_ONCE // x.shape[-1]) if uses_inplace_cpu_path(x) else None


def map_windows(
    x: torch.Tensor,
    window: int,
    shift: int,
    function: Callable[[torch.Tensor, bool, int], torch.Tensor],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Apply ``function`` to the windows of a map, which is rolled by ``-shift`` on both axes before, and back after.

    Args:
        x: [B, H, W, C]; H and W multiples of ``window``.
        window: side.
        shift: of the windows.
        function: (windows [n, N, C], whether they are the last row's, how many at the end are the last column's) ->
            [n, N, C'].
        out: [B, H, W, C'] to write to, where no gradient is wanted.

    Returns:
        [B, H, W, C'].
    """
    b, height, width, _ = x.shape
    rows, columns = height // window, width // window  # of windows
    at_once = _at_once(x)
    step = rows if at_once is None else max(1, at_once // (b * width * window))
    strips = []
    for first, stop in _strips(rows, step, bool(shift)):
        strip = _rolled_rows(x, first * window + shift, stop * window + shift)  # [B, k * w, W, C]
        last_column = b * (stop - first)  # the last column's windows are the last ones
        windows = window_partition(strip, window, shift).reshape(columns * last_column, window**2, -1)
        y = function(windows, stop == rows, last_column).view(columns, b, stop - first, window, window, -1)
        if at_once is None:
            strips.append(_as_strip(y, shift))
        else:
            if out is None:
                out = y.new_empty(b, height, width, y.shape[-1])
            _write_rolled_rows(y, shift, out, first * window + shift)
    if out is not None:
        return out
    joined = strips[0] if len(strips) == 1 else torch.cat(strips, 1)
    return joined.roll(shift, 1) if shift else joined


def _strips(rows: int, step: int, last_alone: bool) -> list[tuple[int, int]]:
    """First and end of strips of at most ``step`` rows of windows; the last row by itself where it is masked."""
    stops = [
        *range(step, rows - 1 if last_alone else rows, step),
        *([rows - 1] if last_alone and rows > 1 else []),
        rows,
    ]
    return list(zip([0, *stops], stops, strict=False))


def _rolled_rows(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Rows of tokens of [B, H, W, C]; below the last one comes the first."""
    height = x.shape[1]
    return x[:, start:end] if end <= height else torch.cat([x[:, start:], x[:, : end - height]], 1)


def _write_rolled_rows(windows: torch.Tensor, shift: int, out: torch.Tensor, start: int) -> None:
    """Undo :func:`_rolled_rows` and :func:`window_partition` into ``out`` [B, H, W, C']."""
    height, end = out.shape[1], start + windows.shape[2] * windows.shape[3]
    if end <= height:
        _write_strip(windows, shift, out[:, start:end])
    else:
        strip = _as_strip(windows, shift)
        out[:, start:] = strip[:, : height - start]
        out[:, : end - height] = strip[:, height - start :]


def _split(strip: torch.Tensor, window: int) -> torch.Tensor:
    """[B, k * w, columns * w, C] -> view [columns, B, k, w, w, C]."""
    return strip.unflatten(1, (-1, window)).unflatten(3, (-1, window)).permute(3, 0, 1, 2, 4, 5)


def window_partition(strip: torch.Tensor, window: int, shift: int) -> torch.Tensor:
    """[B, k * w, W, C], rolled by ``-shift`` along the columns -> [columns, B, k, w, w, C]."""
    if not shift:
        return _split(strip, window)
    edge = strip.shape[2] - window + shift
    last = torch.cat([strip[:, :, edge:], strip[:, :, :shift]], 2)
    return torch.cat([_split(strip[:, :, shift:edge], window), _split(last, window)])


def _as_strip(windows: torch.Tensor, shift: int) -> torch.Tensor:
    """Undo :func:`window_partition`."""
    columns, b, k, window, _, channels = windows.shape
    rows = windows.permute(1, 2, 3, 0, 4, 5).reshape(b, k * window, columns * window, channels)
    return rows.roll(shift, 2) if shift else rows


def _write_strip(windows: torch.Tensor, shift: int, out: torch.Tensor) -> None:
    """:func:`_as_strip` into a part of a map, without a copy between."""
    window = windows.shape[3]
    if not shift:
        _split(out, window).copy_(windows)
        return
    edge = out.shape[2] - window + shift
    _split(out[:, :, shift:edge], window).copy_(windows[:-1])
    last = windows[-1].flatten(1, 2)
    out[:, :, edge:] = last[:, :, : window - shift]
    out[:, :, :shift] = last[:, :, window - shift :]


class MLP(nn.Module):
    """Linear, GELU (exact), Linear; [..., C] -> [..., C]."""

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def add_to(self, rows: torch.Tensor, norm: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """``rows += mlp(norm(rows))`` where they are, without gradients; rows [n, C]."""
        hidden = rows.new_empty(min(len(rows), TOKENS_AT_ONCE), self.fc1.out_features)
        for part in rows.split(TOKENS_AT_ONCE):
            h = torch.addmm(self.fc1.bias, norm(part), self.fc1.weight.t(), out=hidden[: len(part)])
            torch.addmm(part, torch.ops.aten.gelu_(h), self.fc2.weight.t(), out=part).add_(self.fc2.bias)


# ---- generator ----


class AdaIN(nn.Module):
    """Mean and deviation of each channel over the map are replaced by what a style says.

    Shapes: tokens [B, H, W, C], style [B, S] -> [B, H, W, C].
    """

    def __init__(self, dim: int, style_dim: int) -> None:
        super().__init__()
        self.style = EqualLinear(style_dim, 2 * dim)

    def gain_and_offset(self, x: torch.Tensor, style: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each channel is multiplied by, and what is added then; [B, 1, 1, C] float32 each."""
        gamma, beta = self.style(style).float()[:, None, None].chunk(2, -1)
        x = x.float()
        mean = x.mean((1, 2), keepdim=True)
        # in parts that stay in the cache: many times faster than torch.var_mean along these axes
        parts = x.flatten(1, 2).split(TOKENS_AT_ONCE if uses_inplace_cpu_path(x) else x.shape[1] * x.shape[2], 1)
        squares = torch.stack([(part - mean[:, 0]).square().sum(1) for part in parts]).sum(0)[:, None, None]
        gain = gamma * torch.rsqrt(squares / (x.shape[1] * x.shape[2]) + 1e-5)
        return gain, beta - mean * gain

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        gain, offset = self.gain_and_offset(x, style)
        return torch.addcmul(offset, x.float(), gain)


class StyleSwinBlock(nn.Module):
    """Attention, half of it in shifted windows, and an MLP, both behind an :class:`AdaIN` and residual.

    Args:
        dim: C.
        heads: of both halves together.
        style_dim: S.
        window: side; maps of this size are one window and nothing is shifted.
    """

    def __init__(self, dim: int, heads: int, style_dim: int, window: int) -> None:
        super().__init__()
        if dim % heads or heads % 2:
            raise ValueError(f"heads ({heads}) must be even and divide the channels ({dim}).")
        self.window = window
        self.scale = (dim // heads) ** -0.5
        self.norm1 = AdaIN(dim, style_dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attn = nn.ModuleList([PositionBias(heads // 2, window) for _ in range(2)])
        self.norm2 = AdaIN(dim, style_dim)
        self.mlp = MLP(dim)

    def _attention(
        self,
        x: torch.Tensor,
        norm: Callable[[torch.Tensor], torch.Tensor] | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens [B, H, W, C] -> [B, H, W, C] before the projection, written to ``out`` where that is given.

        ``norm`` acts on the tokens of a strip.
        """
        shifts = (0, self.window // 2 if x.shape[1] > self.window or x.shape[2] > self.window else 0)
        parts = (None, None) if out is None else out.chunk(2, -1)
        halves = [
            map_windows(x, self.window, shift, self._half(number, shift, norm), part)
            for number, (shift, part) in enumerate(zip(shifts, parts, strict=True))
        ]
        return torch.cat(halves, -1) if out is None else out

    def _half(
        self, number: int, shift: int, norm: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> Callable[[torch.Tensor, bool, int], torch.Tensor]:
        """Attention of one half of the heads, as :func:`map_windows` takes it: [n, N, C] -> [n, N, C / 2]."""
        c = self.qkv.in_features
        weight = self.qkv.weight.view(3, 2, c // 2, c)[:, number].reshape(-1, c)  # [3 * C / 2, C]
        bias = self.qkv.bias.view(3, 2, c // 2)[:, number].reshape(-1)
        position = self.attn[number]()  # [heads / 2, N, N]

        def attention(windows: torch.Tensor, last_row: bool, last_column: int) -> torch.Tensor:
            qkv = F.linear(windows if norm is None else norm(windows), weight, bias)  # [n, N, 3 * C / 2]
            return attend(qkv, position, self.scale, shift, last_row, last_column)

        return attention

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """tokens [B, H, W, C], style [B, S] -> [B, H, W, C]."""
        x = x.contiguous()
        if not uses_inplace_cpu_path(x):
            x = x + self.proj(self._attention(self.norm1(x, style)))
            return x + self.mlp(self.norm2(x, style))
        out = torch.empty_like(x)
        for image in zip(x.split(1), style.split(1), out.split(1), strict=True):
            self._write(*image)
        return out

    def _write(self, x: torch.Tensor, style: torch.Tensor, out: torch.Tensor) -> None:
        """The same for one image [1, H, W, C] without gradients, in the one map ``out``."""

        def norm(layer: AdaIN, tokens: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            gain, offset = (y.flatten() for y in layer.gain_and_offset(tokens, style))
            return lambda part: torch.addcmul(offset, part, gain)

        self._attention(x, norm(self.norm1, x), out)
        rows = out.view(-1, x.shape[-1])
        for part, new in zip(x.view_as(rows).split(TOKENS_AT_ONCE), rows.split(TOKENS_AT_ONCE), strict=True):
            torch.add(part, self.proj(new), out=new)
        self.mlp.add_to(rows, norm(self.norm2, out))


def position_code(count: int, channels: int, device: torch.device) -> torch.Tensor:
    """[count, channels]: sines, then cosines of the place (from 1 on) at frequencies from 1 down to 1/10000."""
    frequencies = channels // 2
    steps = torch.arange(frequencies, dtype=torch.float32, device=device)
    rates = torch.exp(-steps * math.log(10000) / max(1, frequencies - 1))
    angle = torch.arange(1, count + 1, dtype=torch.float32, device=device)[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)


class Upsampler(nn.Module):
    """Twice the size (bilinear), normalised, mixed, plus ``alpha`` times a sinusoidal code of column and row.

    Shapes: tokens [B, H, W, C] -> [B, 2H, 2W, C'].
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        if out % 4:
            raise ValueError(f"the position code needs a multiple of 4 channels, got {out}.")
        self.norm = nn.LayerNorm(dim)
        self.reduction = nn.Linear(dim, out, bias=False)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, height, width, _ = x.shape
        half = self.reduction.out_features // 2
        column = self.alpha * position_code(2 * width, half, x.device)
        row = self.alpha * position_code(2 * height, half, x.device)[:, None]
        at_once = _at_once(x)
        step = height if at_once is None else max(1, at_once // (4 * b * width))
        out = x.new_empty(b, 2 * height, 2 * width, 2 * half) if uses_inplace_cpu_path(x) else None
        strips = []
        for first in range(0, height, step):
            last = min(first + step, height)
            # one row more on both sides, for what interpolation sees there
            before, after = min(first, 1), min(height - last, 1)
            seen = as_map(x[:, first - before : last + after])
            large = as_tokens(F.interpolate(seen, scale_factor=2.0, mode="bilinear", align_corners=False))
            strip = self.reduction(self.norm(large[:, 2 * before : 2 * (before + last - first)]))
            code = torch.cat(torch.broadcast_tensors(column, row[2 * first : 2 * last]), -1)
            if out is None:
                strips.append(strip + code)
            else:
                torch.add(strip, code, out=out[:, 2 * first : 2 * last])
        return torch.cat(strips, 1) if out is None else out


class StyleLevel(nn.Module):
    """Two blocks at one resolution and, but for the last level, the upsampler to the next.

    Args:
        resolution: side of the map.
        dim, out: channels, and those of the next level (None: this is the last).
        style_dim: S.
    """

    def __init__(self, resolution: int, dim: int, out: int | None, style_dim: int) -> None:
        super().__init__()
        heads, window = max(dim // 32, 4), min(8, resolution)
        self.blocks = nn.ModuleList([StyleSwinBlock(dim, heads, style_dim, window) for _ in range(2)])
        self.upsample = None if out is None else Upsampler(dim, out)

    def forward(self, x: torch.Tensor, style0: torch.Tensor, style1: torch.Tensor) -> torch.Tensor:
        """tokens [B, r, r, C], a style [B, S] for each block -> [B, 2r, 2r, C'], or [B, r, r, C] at last."""
        x = self.blocks[1](self.blocks[0](x, style0), style1)
        return x if self.upsample is None else self.upsample(x)


class ConstantInput(nn.Module):
    """The learned 4x4 map that every image starts from; batch -> tokens [B, 4, 4, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> torch.Tensor:
        return as_tokens(self.input).expand(batch, -1, -1, -1).contiguous()


class StyleSynthesis(nn.Module):
    """Constant and levels from 4x4 to ``size``: what generator and TransMRSR's decoder have in common.

    Args:
        size: side of the image, a power of two.
        style_dim: S.
        channels: of each level, from 4x4 on.
    """

    def __init__(self, size: int, style_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        levels = check_size(size, 8) - 1
        if len(channels) != levels:
            raise ValueError(f"size {size} has {levels} levels, got {len(channels)} channels.")
        self.size, self.style_dim = size, style_dim
        self.input = ConstantInput(channels[0])
        self.layers = nn.ModuleList(
            StyleLevel(4 * 2**i, dim, channels[i + 1] if i + 1 < levels else None, style_dim)
            for i, dim in enumerate(channels)
        )
        self.layers.apply(_initialise)


class ToRGB(nn.Module):
    """A level's image, added to the smaller one before it.

    Args:
        in_channels: of the map.
        image_channels: of the image.
        upsample: the image before is half as large.
    """

    def __init__(self, in_channels: int, image_channels: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv = nn.Conv2d(in_channels, image_channels, 1)
        self.bias = nn.Parameter(torch.zeros(1, image_channels, 1, 1))
        nn.init.xavier_normal_(self.conv.weight, gain=0.02)

    def forward(self, x: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """map [B, C, H, W], image before [B, 3, H/2, W/2] (or [B, 3, H, W] without ``upsample``) -> [B, 3, H, W]."""
        image = self.conv(x) + self.bias
        if before is None:
            return image
        return image + (enlarge(before) if self.upsample else before)


def _smoothing_kernel(x: torch.Tensor) -> torch.Tensor:
    """[C, 1, 4, 4]: (1, 3, 3, 1) on both axes, sum 1, for each channel of a map [B, C, H, W]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def enlarge(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]: zeros in between, smoothed by (1, 3, 3, 1)."""
    return F.conv_transpose2d(x, 4 * _smoothing_kernel(x), stride=2, padding=1, groups=x.shape[1])


def reduce(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, C, H/2, W/2]: smoothed by (1, 3, 3, 1), every second pixel."""
    return F.conv2d(x, _smoothing_kernel(x), stride=2, padding=1, groups=x.shape[1])


# parts of keys that are not loaded: buffers that are known
CONSTANT_KEYS = ("attn_mask", "relative_position_index", "_float_tensor", "upsample.kernel")


def level_widths(state: StateDict, prefix: str = "") -> list[int]:
    """Channels of a StyleSwin's levels from 4x4 on, by their key ``layers.N.blocks.0.proj.bias``."""
    found: dict[int, int] = {}
    for key, value in state.items():
        match = re.fullmatch(re.escape(prefix) + r"layers\.(\d+)\.blocks\.0\.proj\.bias", key)
        if match:
            found[int(match[1])] = len(value)
    return [found[level] for level in sorted(found)]


def _styleswin_arch(state: StateDict) -> dict[str, Any]:
    """Read the sizes of a published StyleSwin generator off its keys."""
    widths = level_widths(state)
    if len(widths) < 2 or "style.1.weight" not in state or "to_rgbs.0.conv.weight" not in state:
        raise ValueError(
            "not a StyleSwin generator: layers.N.blocks.0.proj.bias, style.1.weight or to_rgbs.0.conv.weight missing; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    arch: dict[str, Any] = {
        "name": "StyleSwinGenerator",
        "size": 2 ** (len(widths) + 1),
        "style_dim": int(state["style.1.weight"].shape[0]),
        "mapping_layers": sum(bool(re.fullmatch(r"style\.\d+\.weight", key)) for key in state),
        "image_channels": int(state["to_rgbs.0.conv.weight"].shape[0]),
    }
    multipliers = [m for m in (1, 2) if widths == [channels_at(4 * 2**i, m) for i in range(len(widths))]]
    if multipliers:
        arch["channel_multiplier"] = multipliers[0]
    else:
        arch["channels"] = widths
    return arch


class StyleSwinGenerator(StyleSynthesis):
    """Noise [B, S] -> images [B, image_channels, size, size], in the units of the training images.

    Args:
        size: side, a power of two from 8 on.
        style_dim: S, length of noise and style.
        mapping_layers: from z to w.
        channel_multiplier: of the widths above 32x32 (the published photographs have 2, TransMRSR's brains 1).
        image_channels: 3 as published, 1 for grey images.
        channels: widths of the levels from 4x4 on, instead of the published ones; multiples of 8.
        lr_mlp: how slowly the mapping learns.

    Example::

        >>> net = StyleSwinGenerator(32, style_dim=16, channels=(32, 32, 16, 8), image_channels=1)
        >>> net(torch.randn(2, 16)).shape
        torch.Size([2, 1, 32, 32])
    """

    # the published files hold the command line's options too
    published = PublishedWeights(
        "styleswin", _styleswin_arch, entry="g_ema", leftovers=CONSTANT_KEYS, also_holds=(Namespace,)
    )

    def __init__(
        self,
        size: int,
        style_dim: int = 512,
        mapping_layers: int = 8,
        channel_multiplier: int = 1,
        image_channels: int = 3,
        channels: Sequence[int] | None = None,
        lr_mlp: float = 0.01,
    ) -> None:
        levels = check_size(size, 8) - 1
        if channels is None:
            channels = [channels_at(4 * 2**i, channel_multiplier) for i in range(levels)]
        super().__init__(size, style_dim, channels)
        mapping = [EqualLinear(style_dim, style_dim, lr_mlp, activation=True) for _ in range(mapping_layers)]
        self.style = nn.Sequential(PixelNorm(), *mapping)
        widths = [*channels[1:], channels[-1]]  # a level's output has the next one's
        self.to_rgbs = nn.ModuleList(ToRGB(dim, image_channels, i + 1 < levels) for i, dim in enumerate(widths))

    def map(self, z: torch.Tensor) -> torch.Tensor:
        """Noise [B, S] -> style w [B, S]."""
        if z.ndim != 2 or z.shape[1] != self.style_dim:
            raise ValueError(f"expected noise [B, {self.style_dim}], got {tuple(z.shape)}.")
        return self.style(z)

    def synthesise(self, w: torch.Tensor) -> torch.Tensor:
        """Style w, [B, S] for all blocks or [B, 2 * levels, S] -> image [B, image_channels, size, size]."""
        count = 2 * len(self.layers)
        if w.ndim == 2:
            w = w[:, None].expand(-1, count, -1)
        if w.ndim != 3 or tuple(w.shape[1:]) != (count, self.style_dim):
            raise ValueError(f"expected styles [B, {self.style_dim}] or [B, {count}, {self.style_dim}].")
        x, image = self.input(w.shape[0]), None
        for i, (level, to_rgb) in enumerate(zip(self.layers, self.to_rgbs, strict=True)):
            x = level(x, w[:, 2 * i], w[:, 2 * i + 1])
            image = to_rgb(as_map(x), image)
        assert image is not None
        return image

    def forward(
        self, z: torch.Tensor, truncation: float = 1.0, truncation_latent: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            z: noise [B, S].
            truncation: share of w's distance from ``truncation_latent`` that is kept.
            truncation_latent: mean style [1, S].
        """
        w = self.map(z)
        if truncation != 1:
            if truncation_latent is None:
                raise ValueError("truncation needs truncation_latent, the mean style [1, S].")
            w = truncation_latent + truncation * (w - truncation_latent)
        return self.synthesise(w)


# ---- discriminator ----


def haar(x: torch.Tensor) -> torch.Tensor:
    """Wavelet bands: [B, C, H, W] -> [B, 4C, H/2, W/2]; low, rows high, columns high, both high."""
    a, b = x[..., ::2, :], x[..., 1::2, :]
    low, high = a + b, a - b
    low0, low1, high0, high1 = low[..., ::2], low[..., 1::2], high[..., ::2], high[..., 1::2]
    return torch.cat([low0 + low1, high0 + high1, low0 - low1, high0 - high1], 1) / 2


def inverse_haar(x: torch.Tensor) -> torch.Tensor:
    """[B, 4C, H, W] -> [B, C, 2H, 2W]; undoes :func:`haar`."""
    ll, lh, hl, hh = x.chunk(4, 1)
    upper = torch.stack([ll + lh + hl + hh, ll + lh - hl - hh], -1).flatten(-2)
    lower = torch.stack([ll - lh + hl - hh, ll - lh - hl + hh], -1).flatten(-2)
    return torch.stack([upper, lower], -2).flatten(-3, -2) / 2


class _SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, which one power iteration per training step follows."""

    weight_u: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        weight = torch.empty(shape)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.weight_orig = nn.Parameter(weight)
        self.register_buffer("weight_u", F.normalize(torch.randn(shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(weight[0].numel()), dim=0))

    def weight(self) -> torch.Tensor:
        matrix = self.weight_orig.flatten(1)
        with torch.autocast(matrix.device.type, enabled=False):  # singular values need all their digits
            if self.training:
                with torch.no_grad():
                    self.weight_v.copy_(F.normalize(matrix.t() @ self.weight_u, dim=0, eps=1e-12))
                    self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=1e-12))
            # copies: the buffers change before the gradient of an earlier pass is taken
            u, v = self.weight_u.clone(), self.weight_v.clone()
            return self.weight_orig / torch.dot(u, matrix @ v)


class SpectralConv2d(_SpectralNorm):
    """Convolution without bias under spectral norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(out_channels, in_channels, kernel, kernel)
        self.stride, self.padding = stride, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight(), None, self.stride, self.padding)


class SpectralLinear(_SpectralNorm):
    """Linear layer under spectral norm."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight(), self.bias)


class Blur(nn.Module):
    """Smoothed by (1, 3, 3, 1), one pixel larger: [B, C, H, W] -> [B, C, H + 1, W + 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, _smoothing_kernel(x), padding=2, groups=x.shape[1])


def conv_layer(in_channels: int, out_channels: int, kernel: int, down: bool, spectral: bool) -> nn.Sequential:
    """Convolution, bias and leaky ReLU; ``down``: smoothed before, with stride 2."""
    stride, padding = (2, 0) if down else (1, kernel // 2)
    conv = (
        SpectralConv2d(in_channels, out_channels, kernel, stride, padding)
        if spectral
        else EqualConv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    )
    return nn.Sequential(*([Blur()] if down else []), conv, BiasLeakyReLU(out_channels))


class ConvBlock(nn.Module):
    """[B, C, H, W] -> [B, C', H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int, spectral: bool) -> None:
        super().__init__()
        self.conv1 = conv_layer(in_channels, in_channels, 3, False, spectral)
        self.conv2 = conv_layer(in_channels, out_channels, 3, True, spectral)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class FromRGB(nn.Module):
    """Wavelet bands, halved but for the first branch, to features.

    Shapes: bands [B, 4c, H, W], features before [B, C, H/2, W/2] or None -> bands, features; both [., ., H/2, W/2]
    (H, W with ``halve`` False).
    """

    def __init__(self, bands: int, out_channels: int, halve: bool, spectral: bool) -> None:
        super().__init__()
        self.halve = halve
        self.conv = conv_layer(bands, out_channels, 1, False, spectral)

    def forward(self, x: torch.Tensor, before: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        if self.halve:
            x = haar(reduce(inverse_haar(x)))
        out = self.conv(x)
        return x, out if before is None else out + before


def with_group_deviation(x: torch.Tensor, largest: int = 4) -> torch.Tensor:
    """One more channel: how different the images of a group are, so that a lack of variety is seen.

    Args:
        x: [B, C, H, W].
        largest: images of a group; all of them if there are fewer.

    Raises:
        ValueError: B is no multiple of a group.
    """
    b, _, height, width = x.shape
    group = min(b, largest)
    if b % group:
        raise ValueError(f"the batch must be a multiple of {group} (or smaller than that), got {b}.")
    parts = x.unflatten(0, (group, -1))
    deviation = (parts.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.repeat(group).view(b, 1, 1, 1).expand(-1, 1, height, width)], 1)


class StyleSwinDiscriminator(nn.Module):
    """Images [B, image_channels, size, size] -> logits [B, 1], positive for real ones.

    It sees Haar wavelet bands, so that the blocks that windows leave are not missed. A batch larger than 4 must be a
    multiple of 4.

    Args:
        size: side, a power of two from 16 on.
        channel_multiplier: of the published widths above 32x32.
        spectral_norm: weights under spectral norm instead of equalised ones.
        image_channels: 3 as published, 1 for grey images.
        channels: widths of the log2(size) - 2 branches from the finest (at half of the size) to 4x4, instead of the
            published ones.

    Example::

        >>> net = StyleSwinDiscriminator(64, image_channels=1, channels=(32, 64, 96, 96))
        >>> net(torch.randn(2, 1, 64, 64)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        size: int,
        channel_multiplier: int = 2,
        spectral_norm: bool = False,
        image_channels: int = 3,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        branches = check_size(size, 16) - 2
        if channels is None:
            coarser = [channels_at(size // 2 ** (i + 1), channel_multiplier) for i in range(1, branches)]
            channels = [channels_at(size, channel_multiplier), *coarser]
        if len(channels) != branches:
            raise ValueError(f"size {size} has {branches} branches, got {len(channels)} channels.")
        self.size, self.image_channels = size, image_channels
        self.from_rgbs = nn.ModuleList(
            FromRGB(4 * image_channels, width, i > 0, spectral_norm) for i, width in enumerate(channels)
        )
        self.convs = nn.ModuleList(
            ConvBlock(a, b, spectral_norm) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        last = channels[-1]
        self.final_conv = conv_layer(last + 1, last, 3, False, spectral_norm)
        self.final_linear = (
            nn.Sequential(SpectralLinear(16 * last, last), BiasLeakyReLU(last), SpectralLinear(last, 1))
            if spectral_norm
            else nn.Sequential(EqualLinear(16 * last, last, activation=True), EqualLinear(last, 1))
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wanted = (self.image_channels, self.size, self.size)
        if image.ndim != 4 or tuple(image.shape[1:]) != wanted:
            raise ValueError(f"expected images [B, {', '.join(map(str, wanted))}], got {tuple(image.shape)}.")
        bands, features = haar(image), None
        for i, from_rgb in enumerate(self.from_rgbs):
            bands, features = from_rgb(bands, features)
            if i < len(self.convs):
                features = self.convs[i](features)
        assert features is not None
        return self.final_linear(self.final_conv(with_group_deviation(features)).flatten(1))


def _initialise(module: nn.Module) -> None:
    """The published start of levels: linear layers N(0, 0.02) cut at two units, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
