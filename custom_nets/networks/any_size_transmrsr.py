"""AnySizeTransMRSR: thick slices to thin ones on planes of any size and for any factor, light enough for a CPU.

After TransMRSR (Huang et al., 2023, https://arxiv.org/abs/2306.06669), whose published network is
:class:`custom_nets.networks.TransMRSR`. What is kept: shallow convolutions, a Swin encoder whose features at several
resolutions modulate a StyleSwin decoder, a generative prior (the decoder is trained first, adversarially, to draw
brains), latents drawn towards the nearest centroid of that prior (truncation), and skips from the shallow features and
from the input. What differs, and why:

- *any size*: AdaIN normalises each token, not the plane, and the constant that the decoder starts from is one window
  large and repeats, so that every window sees what it saw when the prior was trained. Only the latents know the whole
  plane: a weighted mean of its tokens, in which the network can leave the background out;
- *any factor*: the network is told the factor, and where each row lies between the measured slices;
- grey, and neighbouring planes are channels: the third dimension is seen at no cost;
- all layers work at half of the plane's size and below (pixels are put into channels and back), attention is scaled,
  the latent head takes a mean of the tokens: a fraction of the published operations and weights;
- the centroids are part of the weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from custom_nets._moved import moved_name
from custom_nets.networks.layers.channels import ChannelMap, Space, scaled
from custom_nets.networks.layers.mtf_code import mtf_code
from custom_nets.operators.data_consistency import LARGEST_OVERREACH

__all__ = ["AnySizeTransMRSR", "BrainPrior"]


# ---- windows of tokens [B, H, W, C] ----


@lru_cache(maxsize=64)
def _position_index(window: int) -> NDArray[np.int64]:
    """[N, N], N = window²: which entry of the table belongs to a query (row) and a key (column)."""
    place = np.indices((window, window)).reshape(2, -1)
    step = place[:, :, None] - place[:, None, :] + window - 1
    return step[0] * (2 * window - 1) + step[1]


def compute_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """[nW, 1, N, N], -100 where query and key of a rolled plane met only by wrapping around, else 0."""

    def regions(n: int) -> torch.Tensor:
        place = torch.arange(n)
        return (place >= n - window).long() + (place >= n - shift)

    label = 3 * regions(height)[:, None] + regions(width)
    label = label.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    return -100.0 * (label[:, None, :] != label[:, :, None]).float()[:, None]


_cached_mask = lru_cache(maxsize=64)(compute_mask)


class WindowAttention(nn.Module):
    """Self-attention inside windows; each group of channels has its own shift of the windows.

    Args:
        dim: channels.
        head_width: channels of a head.
        window: side of a window in tokens.
        shifts: one shift per group of channels.
    """

    def __init__(self, dim: int, head_width: int, window: int, shifts: Sequence[int]) -> None:
        super().__init__()
        self.window = window
        self.shifts = tuple(shifts)
        self.heads = dim // head_width // len(self.shifts)  # of a group
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.position = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads * len(self.shifts)))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [B, H, W, C] -> [B, H, W, C]; H and W multiples of the window."""
        b, height, width, dim = x.shape
        groups, n = len(self.shifts), self.window**2
        index = torch.from_numpy(_position_index(self.window)).to(x.device)  # [N, N]
        bias = self.position[index.flatten()].view(n, n, groups, self.heads).permute(2, 3, 0, 1)  # [G, heads, N, N]
        qkv = self.qkv(x).view(b, height, width, 3, groups, dim // groups)  # [B, H, W, 3, G, C / G]
        out = [self._attend(qkv[:, :, :, :, group], bias[group], shift) for group, shift in enumerate(self.shifts)]
        return self.proj(out[0] if groups == 1 else torch.cat(out, -1))

    def _attend(self, qkv: torch.Tensor, bias: torch.Tensor, shift: int) -> torch.Tensor:
        """Attention of one group of D channels.

        Args:
            qkv: [B, H, W, 3, D] queries, keys and values, each by heads.
            bias: [heads, N, N].
            shift: of the windows.

        Returns:
            [B, H, W, D].
        """
        b, height, width, _, channels = qkv.shape
        w, n, heads = self.window, self.window**2, self.heads
        rows, columns = height // w, width // w  # of windows
        if shift:
            qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
        qkv = qkv.reshape(b, rows, w, columns, w, 3, heads, channels // heads)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)  # [3, B, rows, columns, heads, w, w, d]
        qkv = qkv.reshape(3, b, rows * columns * heads, n, channels // heads)
        mask = bias.repeat(rows * columns, 1, 1)  # [rows * columns * heads, N, N]
        if shift:
            # what is made while the network is traced or exported is no use afterwards
            traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
            wrapped = (compute_mask if traced else _cached_mask)(height, width, w, shift).to(mask)  # [windows, 1, N, N]
            mask = (mask.view(-1, heads, n, n) + wrapped).flatten(0, 1)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask[None])
        y = y.view(b, rows, columns, heads, w, w, channels // heads)
        y = y.permute(0, 1, 4, 2, 5, 3, 6)  # [B, rows, w, columns, w, heads, d]
        y = y.reshape(b, height, width, channels)
        return torch.roll(y, (shift, shift), (1, 2)) if shift else y

    def add_channels(self, found: ChannelMap, name: str, stream: Sequence[Space]) -> None:
        """See :meth:`AnySizeTransMRSR.channels`."""
        width = self.proj.in_features // (self.heads * len(self.shifts))
        heads = [Space(f"{name} heads {group}", self.heads, width, cuttable=True) for group in range(len(self.shifts))]
        found.layer(f"{name}.qkv", stream, 3 * heads)
        found.layer(f"{name}.proj", heads, stream)
        found.tensor(f"{name}.position", {1: [replace(space, width=1) for space in heads]})


def mlp(dim: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


def conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def as_tokens(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, H, W, C]; no copy in channels-last memory."""
    return x.permute(0, 2, 3, 1)


def as_planes(x: torch.Tensor) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W] in channels-last memory."""
    return x.permute(0, 3, 1, 2)


class ResidualConvs(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = conv3(dim, dim)
        self.conv2 = conv3(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def encode_input(
    image: torch.Tensor,
    slices: int,
    divisor: int,
    scale: float | torch.Tensor,
    position: float | torch.Tensor | None,
    told: torch.Tensor | None = None,
) -> torch.Tensor:
    """What both networks see: 2x2 pixels as channels, where the two rows of each lie between measured slices (sine
    and cosine), and the factor.

    Args:
        image: [B, slices, H, W].
        slices: planes that there must be.
        divisor: of the height and width; the last row and column are repeated up to the next multiple.
        scale, position: see :meth:`AnySizeTransMRSR.forward`.
        told: [B, n] numbers that become constant channels.

    Returns:
        [B, 4 slices + 5 + n, H / 2, W / 2], in channels-last memory; the last channel before those of ``told`` is the
        factor, log2(scale) / 2 - 1.

    Raises:
        ValueError: another number of planes.
    """
    if image.ndim != 4 or image.shape[1] != slices:
        raise ValueError(f"image must be [B, {slices}, H, W] (neighbouring planes), got {tuple(image.shape)}.")
    b, _, height, width = image.shape
    right, below = -width % divisor, -height % divisor
    if right or below:
        image = F.pad(image, [0, right, 0, below], mode="replicate")
        height, width = height + below, width + right
    scale = torch.as_tensor(scale, dtype=torch.float32, device=image.device).expand(b)
    if position is None:
        position = 0.5 / scale - 0.5
    position = torch.as_tensor(position, dtype=torch.float32, device=image.device).expand(b)
    rows = torch.arange(height, dtype=torch.float32, device=image.device)
    angle = 2 * math.pi * (position[:, None] + rows / scale[:, None]).view(b, height // 2, 2).transpose(1, 2)
    factor = (0.5 * scale.log2() - 1)[:, None, None].expand(-1, 1, height // 2)
    places = torch.cat([angle.sin(), angle.cos(), factor], dim=1)[..., None].expand(-1, -1, -1, width // 2)
    x = torch.cat([4 * (F.pixel_unshuffle(image, 2) - 0.4), places.to(image.dtype)], dim=1)
    if told is not None:
        constant = told.to(image.dtype)[:, :, None, None].expand(-1, -1, height // 2, width // 2)
        x = torch.cat([x, constant], dim=1)
    return x.contiguous(memory_format=torch.channels_last)


# ---- encoder ----


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); tokens [B, H, W, C]."""

    def __init__(self, dim: int, head_width: int, window: int, shift: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, head_width, window, [shift])
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, ratio)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SwinLevel(nn.Module):
    """Swin blocks (plain and shifted windows by turns) and a convolution, residual over all."""

    def __init__(self, dim: int, head_width: int, window: int, ratio: int, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(SwinBlock(dim, head_width, window, i % 2 * (window // 2), ratio) for i in range(blocks))
        )
        self.conv = conv3(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + as_tokens(self.conv(as_planes(self.blocks(x))))


class PatchMerging(nn.Module):
    """Half the size: the channels of 2x2 tokens together, normalised and mixed."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, height, width, dim = x.shape
        x = x.view(b, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 2, 4, 5)
        return self.reduction(self.norm(x.reshape(b, height // 2, width // 2, 4 * dim)))


# ---- generative prior ----


class AdaptiveNorm(nn.Module):
    """Each token normalised, then scaled and shifted by a style [B, S]."""

    def __init__(self, dim: int, style_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.style = nn.Linear(style_dim, 2 * dim)
        nn.init.normal_(self.style.weight, std=0.3 / math.sqrt(style_dim))
        nn.init.zeros_(self.style.bias)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        gain, shift = self.style(style)[:, None, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + gain)


class StyleBlock(nn.Module):
    """StyleSwin block: half of the heads in plain windows, half in shifted ones; each norm takes the style."""

    def __init__(self, dim: int, style_dim: int, head_width: int, window: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(dim, style_dim)
        self.attn = WindowAttention(dim, head_width, window, [0, window // 2])
        self.norm2 = AdaptiveNorm(dim, style_dim)
        self.mlp = mlp(dim, ratio)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x, style))
        return x + self.mlp(self.norm2(x, style))


class Upsampler(nn.Module):
    """Twice the size, bilinear, then normalised and mixed."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.reduction = nn.Linear(dim, out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # mixed before it is enlarged: both are linear along the tokens, so this is a quarter of the work
        x = self.reduction(self.norm(x))
        return as_tokens(F.interpolate(as_planes(x), scale_factor=2.0, mode="bilinear", align_corners=False))


class Synthesis(nn.Module):
    """StyleSwin's synthesis: a constant, then levels of style blocks, each twice as large as the last.

    Args:
        widths: channels from the finest level (half of the plane's size) to the coarsest.
        style_dim, head_width, window, ratio, blocks: see :class:`AnySizeTransMRSR`.
    """

    def __init__(
        self, widths: Sequence[int], style_dim: int, head_width: int, window: int, ratio: int, blocks: int = 2
    ) -> None:
        super().__init__()
        widths = list(widths)[::-1]
        self.constant = nn.Parameter(torch.randn(1, window, window, widths[0]))
        self.levels = nn.ModuleList(
            nn.ModuleList(StyleBlock(width, style_dim, head_width, window, ratio) for _ in range(blocks))
            for width in widths
        )
        self.blocks = blocks
        self.upsamplers = nn.ModuleList(Upsampler(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def start(self, batch: int, height: int, width: int) -> torch.Tensor:
        """The constant, repeated over [batch, height, width, C]."""
        window = self.constant.shape[1]
        return self.constant.repeat(batch, height // window, width // window, 1)

    def level(self, number: int, x: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        """Blocks of one level on tokens ``x``, each with one of the ``styles`` [B, n, S]."""
        for i, block in enumerate(cast(nn.ModuleList, self.levels[number])):
            x = block(x, styles[:, self.blocks * number + i])
        return x


class BrainPrior(nn.Module):
    """Stage 1: a StyleSwin generator that draws small pieces of brain planes from noise.

    Its ``synthesis`` is the decoder of :class:`AnySizeTransMRSR`, its mapping network spans the space that the latents
    of the encoder are drawn to.

    Args:
        widths, style_dim, head_width, window, ratio: as in :class:`AnySizeTransMRSR`.
        mapping_layers: layers from z to w.
        num_centroids: clusters of w; they are fitted after the training (``fit_centroids.json``).

    Example::

        >>> BrainPrior(widths=(8, 16), style_dim=16, head_width=4)(torch.randn(2, 16)).shape
        torch.Size([2, 1, 32, 32])
    """

    centroids: torch.Tensor

    def __init__(
        self,
        widths: Sequence[int] = (64, 96, 128),
        style_dim: int = 128,
        head_width: int = 16,
        window: int = 8,
        ratio: int = 2,
        mapping_layers: int = 4,
        num_centroids: int = 8,
    ) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.mapping = nn.Sequential(
            *(layer for _ in range(mapping_layers) for layer in (nn.Linear(style_dim, style_dim), nn.LeakyReLU(0.2)))
        )
        for layer in self.mapping:
            if isinstance(layer, nn.Linear):  # PyTorch's own start would shrink z, layer by layer, to nothing
                nn.init.kaiming_normal_(layer.weight, a=0.2)
                nn.init.zeros_(layer.bias)
        self.synthesis = Synthesis(widths, style_dim, head_width, window, ratio)
        self.to_grey = nn.ModuleList(nn.Linear(width, 4) for width in list(widths)[::-1])
        self.register_buffer("centroids", torch.full((num_centroids, style_dim), torch.nan))  # not fitted yet
        self.size = 2 * window * 2 ** (len(widths) - 1)  # pixels of a side

    def latent(self, z: torch.Tensor) -> torch.Tensor:
        """z [B, S] of a normal distribution -> w [B, S]."""
        return self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z [B, S] -> planes [B, 1, size, size], brains between about 0 and 1."""
        w = self.latent(z)
        styles = w[:, None].expand(-1, 2 * len(self.synthesis.levels), -1)
        x = self.synthesis.start(len(z), *self.synthesis.constant.shape[1:3])
        image: torch.Tensor | None = None
        for number, to_grey in enumerate(self.to_grey):
            if number:
                x = self.synthesis.upsamplers[number - 1](x)
            x = self.synthesis.level(number, x, styles)
            own = F.pixel_shuffle(as_planes(to_grey(x)), 2)
            if image is not None:
                own = own + F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
            image = own
        assert image is not None
        return image


# ---- the network ----


class AnySizeTransMRSR(nn.Module):
    """Planes that contain the thick axis, sharpened along it.

    Args:
        slices: neighbouring planes that are seen, an odd number; the middle one is the result's.
        widths: channels at 1/2, 1/4, 1/8, ... of the plane's size.
        style_dim: length of a latent.
        head_width: channels of an attention head.
        window: side of an attention window in tokens.
        ratio: hidden width of an MLP over its width.
        num_centroids: of the prior; 0 for no truncation.
        truncation: share of a latent's distance to its nearest centroid that is kept.
        multi_resolution: modulate the decoder by the encoder's features (the paper's MREF).
        skip: add shallow features and input (the paper's SC).
        takes_mtf: take the blur along the thick axis (``mtf``) into account; without it, ``mtf`` is not looked at.
        blocks: of attention and MLP in each level of the encoder, and of the decoder.
        largest_overreach: of a correction of what these weights made to what was measured, before it is left out
            (:func:`custom_nets.operators.data_consistency.overreach`); set on heads of their training by
            :mod:`custom_nets.evaluation.volumes.overreach`.

    Example::

        >>> net = AnySizeTransMRSR(slices=3, widths=(8, 16), style_dim=16, head_width=4).eval()
        >>> net(torch.rand(1, 3, 50, 40), scale=5.0).shape
        torch.Size([1, 1, 50, 40])
    """

    centroids: torch.Tensor
    token_layers = ("shallow", "deep")  # what was measured, and what the decoder makes of it

    def __init__(
        self,
        slices: int = 5,
        widths: Sequence[int] = (64, 96, 128),
        style_dim: int = 128,
        head_width: int = 16,
        window: int = 8,
        ratio: int = 2,
        num_centroids: int = 8,
        truncation: float = 0.9,
        multi_resolution: bool = True,
        skip: bool = True,
        takes_mtf: bool = False,
        blocks: int = 2,
        largest_overreach: float = LARGEST_OVERREACH,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}.")
        if slices % 2 == 0:
            raise ValueError(f"slices must be odd (the middle one is the result's), got {slices}.")
        for width in widths:
            if width % (2 * head_width):
                raise ValueError(f"widths must be multiples of 2 head_width = {2 * head_width}, got {width}.")
        if len(widths) < 2:
            raise ValueError(f"widths must name at least 2 levels (1/2 and 1/4 of the plane's size), got {widths}.")
        widths = list(widths)
        self.slices = slices
        self.divisor = 2 * window * 2 ** (len(widths) - 1)
        self.truncation = truncation
        self.skip = skip
        self.takes_mtf = takes_mtf
        self.largest_overreach = largest_overreach
        told = 3 if takes_mtf else 0  # transfer at two frequencies, and whether it is known
        self.shallow = nn.Sequential(conv3(4 * slices + 5 + told, widths[0]), nn.ReLU(), ResidualConvs(widths[0]))
        self.encoder = nn.ModuleList(SwinLevel(width, head_width, window, ratio, blocks) for width in widths)
        self.merging = nn.ModuleList(PatchMerging(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.condition = nn.ModuleList(conv3(width, width) for width in widths[1:] if multi_resolution)
        self.norm = nn.LayerNorm(widths[-1])
        self.attention = nn.Linear(widths[-1], 1)  # which tokens the latents are made of
        self.latents = nn.Sequential(
            nn.Linear(widths[-1] + 1 + told, style_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(style_dim, blocks * len(widths) * style_dim),
        )
        self.generator = Synthesis(widths, style_dim, head_width, window, ratio, blocks)
        self.register_buffer("centroids", torch.full((num_centroids, style_dim), torch.nan))  # not fitted yet
        self.deep = ResidualConvs(widths[0])
        self.last = conv3(widths[0], 4)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(cast(nn.Parameter, self.last.bias))

    def shrunk(self, share: float) -> dict[str, Any]:
        """Arguments of a network with about ``share`` of the weights.

        Blocks are residual, and a level loses little with fewer of them; the finest level, where the detail is made,
        stays as wide as it was.
        """
        finest, *coarser = cast("Sequence[SwinLevel]", self.encoder)
        blocks = max(1, int(share * self.generator.blocks))
        rest = min(1.0, share / math.sqrt(blocks / self.generator.blocks))  # what the coarser levels have to give
        attention = cast(SwinBlock, finest.blocks[0]).attn
        head_width = attention.proj.in_features // attention.heads
        return {
            "blocks": blocks,
            "widths": [finest.conv.in_channels, *(scaled(x.conv.in_channels, rest, 2 * head_width) for x in coarser)],
            "style_dim": scaled(cast(nn.Linear, self.latents[0]).out_features, rest, 16),
            "largest_overreach": LARGEST_OVERREACH,  # other weights, another bound
        }

    @property
    def depths(self) -> list[str]:
        """Lists of equal layers, of which a student may have fewer."""
        levels = range(len(self.encoder))
        return [*(f"encoder.{i}.blocks" for i in levels), *(f"generator.levels.{i}" for i in levels)]

    def channels(self) -> ChannelMap:
        """Which channels of which weights are the same, for students.

        The tokens of a level are one space from its first layer to its last, as all blocks add to them; those of the
        finest level are the decoder's and the shallow features', too, which are added. Further decoder levels have two
        halves, one of which is modulated.
        """
        found = ChannelMap()

        def mlp_of(name: str, layers: nn.Sequential, stream: Sequence[Space]) -> None:
            hidden = Space(f"{name} hidden", cast(nn.Linear, layers[0]).out_features, cuttable=True)
            found.layer(f"{name}.0", stream, [hidden])
            found.layer(f"{name}.2", [hidden], stream)

        def residual_convs(name: str, stream: Sequence[Space]) -> None:
            hidden = Space(f"{name} hidden", stream[0].units, cuttable=True)
            found.layer(f"{name}.conv1", stream, [hidden])
            found.layer(f"{name}.conv2", [hidden], stream)

        levels = cast("Sequence[SwinLevel]", self.encoder)
        widths = [level.conv.in_channels for level in levels]
        streams = [[Space(f"level {i}", width)] for i, width in enumerate(widths)]
        decoded = [streams[0]] + [
            [Space(f"modulated {i}", width // 2), Space(f"free {i}", width // 2)] for i, width in enumerate(widths) if i
        ]
        head = cast(nn.Linear, self.latents[0])
        latent, style = (Space(name, head.out_features) for name in ("latent", "style"))
        found.layer("shallow.0", [cast(nn.Conv2d, self.shallow[0]).in_channels], streams[0])
        residual_convs("shallow.2", streams[0])
        for i, (level, stream) in enumerate(zip(levels, streams, strict=True)):
            for j, block in enumerate(cast("Sequence[SwinBlock]", level.blocks)):
                name = f"encoder.{i}.blocks.{j}"
                found.norm(f"{name}.norm1", stream)
                block.attn.add_channels(found, f"{name}.attn", stream)
                found.norm(f"{name}.norm2", stream)
                mlp_of(f"{name}.mlp", block.mlp, stream)
            found.layer(f"encoder.{i}.conv", stream, stream)
            if i:
                found.norm(f"merging.{i - 1}.norm", 4 * streams[i - 1])
                found.layer(f"merging.{i - 1}.reduction", 4 * streams[i - 1], stream)
                if len(self.condition):
                    found.layer(f"condition.{i - 1}", stream, 2 * decoded[i][:1])
        found.norm("norm", streams[-1])
        found.layer("attention", streams[-1], [1])
        found.layer("latents.0", [*streams[-1], head.in_features - widths[-1]], [latent])
        names = (f"generator.levels.{i}.{j}" for i in range(len(widths)) for j in range(self.generator.blocks))
        found.layer("latents.2", [latent], [replace(style, layer=name) for name in names])
        found.tensor("centroids", {1: [style]})
        found.tensor("generator.constant", {3: decoded[-1]})
        for i, blocks in enumerate(self.generator.levels):
            stream = decoded[-1 - i]
            for j, styled in enumerate(cast("Sequence[StyleBlock]", blocks)):
                name = f"generator.levels.{i}.{j}"
                styled.attn.add_channels(found, f"{name}.attn", stream)
                mlp_of(f"{name}.mlp", styled.mlp, stream)
                for norm in ("norm1", "norm2"):
                    found.layer(f"{name}.{norm}.style", [style], 2 * stream)
            if i:
                found.norm(f"generator.upsamplers.{i - 1}.norm", decoded[-i])
                found.layer(f"generator.upsamplers.{i - 1}.reduction", decoded[-i], stream)
        residual_convs("deep", streams[0])
        found.layer("last", streams[0], [4])
        return found

    def with_prior(self, path: str | os.PathLike | None, freeze: bool = False) -> AnySizeTransMRSR:
        """Old name of :func:`custom_nets.checkpoints.priors.with_prior`, for configs that were registered with 0.1."""
        network: AnySizeTransMRSR = moved_name(f"{__name__}.AnySizeTransMRSR", "with_prior")(self, path, freeze)
        return network

    def take_prior(self, prior: nn.Module) -> None:
        """Take decoder and centroids over from a trained :class:`BrainPrior`.

        Raises:
            ValueError: another network or other sizes, or its centroids were never fitted.
        """
        if not isinstance(prior, BrainPrior):
            raise ValueError(f"it is a {type(prior).__name__}, not a BrainPrior (pretrain_prior.json makes one).")
        if len(self.centroids) and not bool(torch.isfinite(prior.centroids).all()):
            raise ValueError("it has no centroids yet: run fit_centroids.json on it, or num_centroids 0.")
        try:
            self.generator.load_state_dict(prior.synthesis.state_dict())
        except RuntimeError as error:
            raise ValueError(f"it has other sizes than this network: {error}") from error
        if len(self.centroids):
            if prior.centroids.shape != self.centroids.shape:
                raise ValueError(f"it has {len(prior.centroids)} centroids, this network takes {len(self.centroids)}.")
            self.centroids.copy_(prior.centroids)

    def check_weights(self) -> None:
        """Called when weights were loaded.

        Raises:
            ValueError: the centroids were never fitted: latents cannot be drawn to them.
        """
        if not bool(torch.isfinite(self.centroids).all()):
            raise ValueError(
                "its centroids were never fitted (they are not finite): take a prior whose centroids are fitted "
                "(fit_centroids.json) into the training, or train with num_centroids 0."
            )

    def truncated(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, n, S], each drawn towards its nearest centroid."""
        if not len(self.centroids):
            return latents
        nearest = self.centroids[torch.cdist(latents.float(), self.centroids.float()).argmin(-1)].to(latents)
        return nearest + self.truncation * (latents - nearest)

    def forward(
        self,
        image: torch.Tensor,
        scale: float | torch.Tensor = 4.0,
        position: float | torch.Tensor | None = None,
        mtf: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sharpen planes.

        Args:
            image: [B, slices, H, W], interpolated along the rows' axis H (the thick one) to thin rows; about [0, 1].
            scale: slice spacing over row spacing, one number or [B].
            position: of the centre of row 0, counted in slice spacings from the centre of a measured slice, one number
                or [B]. Where not given, the outer edges of the first row and of the first slice coincide.
            mtf: [B, 2] what is left of the thin rows' contrast at half and at the whole Nyquist frequency of the
                slices (:meth:`custom_nets.operators.slice_profile.PointSpread.transfer`); not a number, or None: not
                known.

        Returns:
            [B, 1, H, W], the middle plane.

        Raises:
            ValueError: another number of planes.
        """
        b, _, height, width = image.shape
        told = mtf_code(mtf, b, 2, image) if self.takes_mtf else None
        x = encode_input(image, self.slices, self.divisor, scale, position, told)
        factor = x[:, 4 * self.slices + 4 :, 0, 0]  # and what is told

        shallow = self.shallow(x)
        x = as_tokens(shallow)
        features = []
        for number, level in enumerate(self.encoder):
            if number:
                x = self.merging[number - 1](x)
                features.append(x)
            x = level(x)
        features[-1] = x  # the coarsest level has passed its blocks
        x = self.norm(x)
        share = self.attention(x).flatten(1).softmax(dim=1)[..., None]
        latents = self.latents(torch.cat([(share * x.flatten(1, 2)).sum(1), factor], dim=1))
        styles = self.truncated(latents.view(b, self.generator.blocks * len(self.encoder), -1))

        x = self.generator.start(b, x.shape[1], x.shape[2])
        for number in range(len(self.encoder)):
            if number:
                x = self.generator.upsamplers[number - 1](x)
            if number < len(self.condition):
                x = self._modulated(x, features[-1 - number], len(self.condition) - 1 - number)
            x = self.generator.level(number, x, styles)
        x = as_planes(x)
        if self.skip:
            x = x + shallow
        x = F.pixel_shuffle(self.last(self.deep(x)), 2)[:, :, :height, :width]
        return image[:, self.slices // 2 : self.slices // 2 + 1] + x if self.skip else x

    def _modulated(self, x: torch.Tensor, feature: torch.Tensor, number: int) -> torch.Tensor:
        """Half of the channels scaled and shifted by the encoder's features (CWSS)."""
        own, free = x.chunk(2, dim=-1)
        gain, shift = as_tokens(self.condition[number](as_planes(feature))).chunk(2, dim=-1)
        return torch.cat([own * (1 + gain) + shift, free], dim=-1)
