"""TransMRSR: planes of thick-slice brain MR sharpened along the slices, with a generative prior as decoder.

Paper: Huang et al., "TransMRSR: Transformer-based Self-Distilled Generative Prior for Brain MRI Super-Resolution", The
Visual Computer 2023, https://arxiv.org/abs/2306.06669; published code https://github.com/goddesshs/TransMRSR.

:class:`TransMRSR` is the published network, key for key, without its 22.7 million weights that are never used.
Convolutions (:class:`ConvTrunk`) and six levels of Swin blocks (:class:`SwinLevel`) look at the plane; what the levels
see modulates the levels of a StyleSwin decoder (:mod:`custom_nets.networks.style_swin`), and what is left at 4x4
becomes the decoder's styles. These are drawn towards centroids of the styles that the decoder was trained with.

The published network differs from its paper, and authors' weights need what was computed: logits of the encoder's
attention are not scaled, its heads are many where channels are few, and "the nearest" centroid is the farthest one
(``centroid_rule``). For planes of any size and new training see :class:`custom_nets.networks.AnySizeTransMRSR`.

Shapes: B planes, S their side, C channels, (H, W) rows and columns of a level. Tokens are [B, H, W, C].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from custom_nets.networks.layers.imagenet import from_imagenet_units, to_imagenet_units
from custom_nets.networks.layers.timesteps import on_host
from custom_nets.networks.style_swin import (
    CONSTANT_KEYS,
    MLP,
    EqualConv2d,
    EqualLinear,
    PositionBias,
    ScaledLeakyReLU,
    StyleSwinGenerator,
    StyleSynthesis,
    as_map,
    as_tokens,
    attend,
    channels_at,
    check_size,
    level_widths,
    map_windows,
    uses_inplace_cpu_path,
)
from custom_nets.utils.weights import PublishedWeights, StateDict

__all__ = ["CENTROID_RULES", "PublishedPlanes", "TransMRSR", "published_units"]

CENTROID_RULES = ("nearest", "farthest")
_WINDOW = 8
_HEADS = (16, 16, 16, 16, 8, 4, 4, 4, 4)  # of the encoder's levels, from the finest on, whatever their width


def added(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y; without gradients where x is, which must be nobody else's."""
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else x.add_(y)


# ---- convolutions ----


class _ResidualConvs(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return added(self.conv2(F.relu(self.conv1(x), inplace=True)), x)


class ConvTrunk(nn.Module):
    """A convolution and two residual pairs of them; [B, C, H, W] -> [B, C', H, W]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv_L1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blk_L1 = nn.Sequential(_ResidualConvs(channels), _ResidualConvs(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blk_L1(F.relu(self.conv_L1(x), inplace=True))


# ---- encoder ----


class _PatchEmbedding(nn.Module):
    """A map [B, C, H, W] as normalised tokens [B, H, W, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(as_tokens(x))


class WindowAttention(PositionBias):
    """Attention in windows, logits not scaled; windows [n, N, C] -> [n, N, C]."""

    def __init__(self, dim: int, heads: int, window: int = _WINDOW) -> None:
        super().__init__(heads, window)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def attention(
        self, x: torch.Tensor, bias: torch.Tensor, shift: int = 0, last_row: bool = False, last_column: int = 0
    ) -> torch.Tensor:
        """See :func:`custom_nets.networks.style_swin.attend`; ``bias`` is what :meth:`forward` gives."""
        return self.proj(attend(self.qkv(x), bias, 1.0, shift, last_row, last_column))


class SwinBlock(nn.Module):
    """Attention and an MLP, both behind a layer norm and residual.

    Args:
        dim: C.
        heads: they divide C.
        shift: of the windows; 0 for plain ones.
        window: side.

    Shapes: tokens [B, H, W, C] -> [B, H, W, C]; H and W multiples of the window.
    """

    def __init__(self, dim: int, heads: int, shift: int, window: int = _WINDOW) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} channels.")
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.attn()
        in_place = uses_inplace_cpu_path(x)

        def block(windows: torch.Tensor, last_row: bool, last_column: int) -> torch.Tensor:
            windows = windows + self.attn.attention(self.norm1(windows), bias, self.shift, last_row, last_column)
            if in_place:
                self.mlp.add_to(windows.view(-1, windows.shape[-1]), self.norm2)
                return windows
            return windows + self.mlp(self.norm2(windows))

        return map_windows(x, self.window, self.shift, block)


class PatchMerging(nn.Module):
    """2x2 tokens into one; [B, H, W, C] -> [B, H/2, W/2, C']."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, out, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, height, width, dim = x.shape
        # channels in the order (column, row, C): the token below comes before the one to the right
        x = x.view(b, height // 2, 2, width // 2, 2, dim)  # [B, H/2, row, W/2, column, C]
        x = x.permute(0, 1, 3, 4, 2, 5)  # [B, H/2, W/2, column, row, C]
        return self.reduction(self.norm(x.reshape(b, height // 2, width // 2, 4 * dim)))


class _ResidualGroup(nn.Module):
    def __init__(self, dim: int, heads: int, resolution: int) -> None:
        super().__init__()
        shifts = (0, _WINDOW // 2 if resolution > _WINDOW else 0)
        self.blocks = nn.Sequential(*(SwinBlock(dim, heads, shift) for shift in shifts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class SwinLevel(nn.Module):
    """Two Swin blocks (plain, then shifted windows) and a convolution, residual over all; then half the size.

    Args:
        resolution: side of the map, at least 8.
        dim, out: channels, and those of the next level.
        heads: of attention.

    Shapes: tokens [B, H, W, C] -> [B, H/2, W/2, C'].
    """

    def __init__(self, resolution: int, dim: int, out: int, heads: int) -> None:
        super().__init__()
        self.residual_group = _ResidualGroup(dim, heads, resolution)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.downsample = PatchMerging(dim, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.downsample(added(as_tokens(self.conv(as_map(self.residual_group(x)))), x))


def condition_head(channels: int, out: int) -> nn.Sequential:
    """What a level of the encoder says to one of the decoder; maps [B, C, H, W] -> [B, C', H, W]."""
    return nn.Sequential(
        EqualConv2d(channels, channels, 3, padding=1), ScaledLeakyReLU(), EqualConv2d(channels, out, 3, padding=1)
    )


def modulated(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Tokens [B, H, W, C] scaled and shifted by maps [B, C', H, W], in the first C' channels; the rest stays."""
    scale, shift = (y.permute(0, 2, 3, 1) for y in (scale, shift))
    count = scale.shape[-1]
    changed = torch.addcmul(shift.float(), x[..., :count], scale)
    return changed if count == x.shape[-1] else torch.cat([changed, x[..., count:]], -1)


def drawn_to_centroids(
    latents: torch.Tensor, centroids: torch.Tensor, rule: str, kept: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncation: each latent moves towards one of the centroids.

    Args:
        latents: [..., S].
        centroids: [K, S].
        rule: "nearest" centroid, or "farthest" one.
        kept: share of the distance that is kept.

    Returns:
        Latents [..., S] and which centroids they were drawn to, [...].
    """
    distance = (latents[..., None, :] - centroids).square().sum(-1)
    index = distance.argmin(-1) if rule == "nearest" else distance.argmax(-1)
    centres = centroids[index]
    return centres + kept * (latents - centres), index


# ---- the network ----


def _transmrsr_arch(state: StateDict) -> dict[str, Any]:
    """Read size and kind of modulation of a published TransMRSR off its keys."""
    levels = {key.split(".")[1] for key in state if re.fullmatch(r"layers\.\d+\.conv\.weight", key)}
    head, latents = state.get("condition_scale.0.2.weight"), state.get("final_layers.weight")
    if not levels or head is None or head.ndim != 4 or latents is None or "generator.input.input" not in state:
        raise ValueError(
            "not a TransMRSR state dict: layers.N.conv.weight, condition_scale.0.2.weight, final_layers.weight or "
            f"generator.input.input missing or of another kind; found {len(state)} keys (first: "
            f"{', '.join(list(state)[:4]) or 'none'})."
        )
    size = 2 ** (len(levels) + 2)
    arch: dict[str, Any] = {"name": "TransMRSR", "size": size, "half_modulation": 2 * head.shape[0] == head.shape[1]}
    if "centroids" in state:
        arch["num_centroids"] = len(state["centroids"])
    style_dim = latents.shape[0] // (2 * len(levels) + 2)
    if style_dim != 512:
        arch["style_dim"] = style_dim
    widths = level_widths(state, "generator.")
    if widths != [channels_at(4 * 2**i) for i in range(len(widths))]:
        arch["channels"] = widths
    return arch


class TransMRSR(nn.Module):
    """The published network: planes that contain the thick axis, interpolated to thin rows -> sharp planes.

    Args:
        size: S, a power of two from 16 on; 256 as published.
        half_modulation: the encoder modulates half of the decoder's channels (published runs), or all.
        num_centroids: rows of the buffer ``centroids``; 0 for no truncation (and no buffer).
        centroid_rule: "nearest" as in the paper, or "farthest" as in the code that made its numbers. It only matters
            with centroids.
        truncation: share of a latent's distance to its centroid that is kept.
        channels: widths from 4x4 to ``size`` instead of the published ones.
        style_dim: length of a latent.

    Attributes:
        centroids: [num_centroids, style_dim]; not a number until they are set.

    Example::

        >>> net = TransMRSR(16, channels=(16, 32, 16), style_dim=8).eval()
        >>> net(torch.randn(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    published = PublishedWeights(
        "transmrsr",
        _transmrsr_arch,
        entry="net_G_I",
        leftovers=(*CONSTANT_KEYS, "MAB.", "fusion_convs."),
        takes_centroids=True,
    )

    centroids: torch.Tensor

    def __init__(
        self,
        size: int = 256,
        half_modulation: bool = True,
        num_centroids: int = 0,
        centroid_rule: str = "nearest",
        truncation: float = 0.9,
        channels: Sequence[int] | None = None,
        style_dim: int = 512,
    ) -> None:
        super().__init__()
        power = check_size(size, 16)
        if centroid_rule not in CENTROID_RULES:
            raise ValueError(f"centroid_rule must be one of {', '.join(CENTROID_RULES)}, got {centroid_rule!r}.")
        if power - 2 > len(_HEADS):
            raise ValueError(f"size must be at most {2 ** (len(_HEADS) + 2)}, got {size}.")
        if channels is None:
            channels = [channels_at(2**i) for i in range(2, power + 1)]
        if len(channels) != power - 1:
            raise ValueError(f"size {size} has {power - 1} widths from 4x4 on, got {len(channels)}.")
        widths = list(channels)[::-1]  # from the finest on
        seen = widths[1:]
        self.size, self.centroid_rule, self.truncation = size, centroid_rule, truncation
        self.conv2d = ConvTrunk(3, widths[0])
        self.patch_embed = _PatchEmbedding(widths[0])
        self.layers = nn.ModuleList(
            SwinLevel(size // 2**i, a, b, _HEADS[i]) for i, (a, b) in enumerate(zip(widths[:-1], seen, strict=True))
        )
        self.layers.apply(_initialise)
        self.norm = nn.LayerNorm(widths[-1])
        self.latents = 2 * (power - 1)
        self.final_layers = EqualLinear(16 * widths[-1], style_dim * self.latents, 0.01, activation=True)
        share = 2 if half_modulation else 1
        self.condition_scale = nn.ModuleList(condition_head(dim, dim // share) for dim in seen)
        self.condition_shift = nn.ModuleList(condition_head(dim, dim // share) for dim in seen)
        self.generator = StyleSynthesis(size, style_dim, channels)
        self.conv_deep = ConvTrunk(widths[0], widths[0])
        self.conv_last = nn.Conv2d(widths[0], 3, 1)
        if num_centroids:
            self.register_buffer("centroids", torch.full((num_centroids, style_dim), torch.nan))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | EqualConv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    @property
    def needs_prior(self) -> bool:
        """Whether it has centroids, which only a prior's styles can give."""
        return "centroids" in self._buffers

    def take_prior(self, prior: nn.Module) -> None:
        """Take the decoder over from a trained :class:`custom_nets.networks.StyleSwinGenerator`.

        Nothing of the prior is drawn anew afterwards. (The published code did so with 73 % of it.)

        Raises:
            ValueError: another network or other sizes.
        """
        if not isinstance(prior, StyleSwinGenerator):
            raise ValueError(f"it is a {type(prior).__name__}, not a StyleSwinGenerator.")
        wanted = self.generator.state_dict()
        try:
            self.generator.load_state_dict({key: value for key, value in prior.state_dict().items() if key in wanted})
        except RuntimeError as error:
            raise ValueError(f"it has other sizes than this network: {error}") from error

    def as_plane_network(self) -> nn.Module:
        """The network as :class:`custom_nets.inferers.ThickSliceInferer` wants one: grey planes of up to S pixels."""
        return PublishedPlanes(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Sharpen planes.

        Args:
            image: [B, 3, S, S]; as published, three equal channels of a grey plane from 0 to 1, minus the mean (0.485,
                0.456, 0.406) and over the deviation (0.229, 0.224, 0.225) of ImageNet.

        Returns:
            [B, 3, S, S] in the same units.

        Raises:
            ValueError: another shape, or centroids that were never set.
        """
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, self.size, self.size):
            raise ValueError(f"expected planes [B, 3, {self.size}, {self.size}], got {tuple(image.shape)}.")
        if not image.is_floating_point():
            raise ValueError(f"expected planes of floating point numbers, got {image.dtype}.")
        image = image.contiguous(memory_format=torch.channels_last)
        shallow = self.conv2d(image)
        x = self.patch_embed(shallow)
        features = []
        for level in self.layers:
            x = level(x)
            features.append(x)
        styles = self._styles(x)

        x = self.generator.input(len(image))
        for i, level in enumerate(self.generator.layers):
            if features:
                x = self._modulated(x, as_map(features.pop()), len(features))
            x = level(x, styles[:, 2 * i], styles[:, 2 * i + 1])
        deep = added(as_map(x), shallow)
        del x, shallow  # large maps that are not needed any more
        return added(self.conv_last(self.conv_deep(deep)), image)

    def _modulated(self, x: torch.Tensor, seen: torch.Tensor, number: int) -> torch.Tensor:
        """Tokens [B, H, W, C] of the decoder, changed by what a level of the encoder saw, a map [B, C, H, W]."""
        return modulated(x, self.condition_scale[number](seen), self.condition_shift[number](seen))

    def check_weights(self) -> None:
        """Called when weights were loaded.

        Raises:
            ValueError: the centroids were never set.
        """
        if "centroids" in self._buffers and not bool(torch.isfinite(self.centroids).all()):
            raise ValueError("the centroids were never set: load them, or build the network with num_centroids 0.")

    def _styles(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 4, 4, C] -> styles [B, latents, style_dim]."""
        styles = self.final_layers(self.norm(x).flatten(1)).float().unflatten(1, (self.latents, -1))
        if "centroids" not in self._buffers:
            return styles
        if on_host(self.centroids):
            self.check_weights()
        return drawn_to_centroids(styles, self.centroids, self.centroid_rule, self.truncation)[0]


def _initialise(module: nn.Module) -> None:
    """The published start of the encoder's linear layers: N(0, 0.02) cut at two units, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---- grey planes, as published ----


def published_units(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Grey planes [B, 1, H, W], 0 to 1 -> [B, 3, size, size]: zeros around them, ImageNet's mean and deviation.

    Raises:
        ValueError: planes larger than ``size``.
    """
    height, width = planes.shape[-2:]
    if max(height, width) > size:
        raise ValueError(f"planes of {height} x {width} pixels do not fit into the network's {size} x {size}.")
    top, left = (size - height + 1) // 2, (size - width + 1) // 2
    return to_imagenet_units(F.pad(planes, [left, size - width - left, top, size - height - top]))


class PublishedPlanes(nn.Module):
    """The published network seen as :class:`custom_nets.inferers.ThickSliceInferer` wants networks.

    Args:
        network: [B, 3, S, S] -> [B, 3, S, S] in published units.

    Shapes: [B, 1, H, W] grey, up to S -> [B, 1, H, W].
    """

    slices = 1
    divisor = 1

    def __init__(self, network: TransMRSR) -> None:
        super().__init__()
        self.network = network
        self.largest = network.size

    def forward(self, image: torch.Tensor, scale: Any = None, position: Any = None) -> torch.Tensor:
        size = self.network.size
        grey = from_imagenet_units(self.network(published_units(image, size))).mean(1, keepdim=True)
        height, width = image.shape[-2:]
        top, left = (size - height + 1) // 2, (size - width + 1) // 2
        return grey[..., top : top + height, left : left + width]
