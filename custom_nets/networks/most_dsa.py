"""MoSt-DSA: frames of a DSA series between two measured ones, at any time in between.

Paper: Xu et al., "MoSt-DSA: Modeling Motion and Structural Interactions for Direct Multi-Frame Interpolation in DSA
Images", ECAI 2024, https://arxiv.org/abs/2407.07078. GenDSA (same authors) has the same network, so its weights load
too; both are Apache-2.0, https://github.com/ZyoungXu/MoSt-DSA.

:class:`MoStDSA` is the published network, key for key: an encoder looks at both frames (:class:`Encoder`), a head makes
flow and a merging mask for a time t (:class:`FlowHead`), and a U-Net corrects the two merged, warped frames
(:class:`Refiner`). The published code runs all of it again for every t; here the encoder runs once for a pair, and all
times go through head and refiner together, with the same result.

Shapes: B pairs, C channels of a frame, T times, (H, W) rows and columns of a frame padded to multiples of 16, F = 32,
(h, w) = (H/8, W/8) the deepest level. The encoder's batch holds frame 0 of all pairs, then frame 1 of all pairs: 2B.
A flow is in pixels of its own level, channels (x, y), and says where to look: ``out(p) = image(p + flow(p))``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn as nn
import torch.nn.functional as F

from custom_nets.networks.layers.timesteps import pair_timesteps
from custom_nets.utils.weights import PublishedWeights, StateDict

__all__ = ["Interpolation", "MoStDSA", "centred_padding", "half_size", "warp"]


# most convolutions are up to 1.6 times faster in it on a CPU; half precision on CUDA wants it too
_MEMORY_FORMAT = torch.channels_last


# ---- small pieces ----


def _conv_prelu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.PReLU(out_channels))


def _normed(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Layer norm over the channels of maps [N, C, h, w]."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Channels of all parts; in one memory format, as a mixture is copied twice."""
    return torch.cat([part.contiguous(memory_format=_MEMORY_FORMAT) for part in parts], 1)


def half_size(x: torch.Tensor) -> torch.Tensor:
    """Bilinear, [N, C, H, W] -> [N, C, H/2, W/2]: the mean of 2x2 pixels."""
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """``image(p + flow(p))``, bilinear; outside lies the border.

    The sampling grid is float32 whatever the image is: in half precision its steps would be whole pixels.

    Args:
        image: [N, C, H, W].
        flow: [N, 2, H, W], pixels along x (W) and y (H).

    Returns:
        [N, C, H, W] of the image's type.
    """
    h, w = image.shape[-2:]
    x = torch.linspace(-1, 1, w, device=flow.device) + flow[:, 0].float() / ((w - 1) / 2)
    y = torch.linspace(-1, 1, h, device=flow.device)[:, None] + flow[:, 1].float() / ((h - 1) / 2)
    grid = torch.stack([x, y], -1)
    return F.grid_sample(image.float(), grid, "bilinear", "border", align_corners=True).to(image.dtype)


def centred_padding(height: int, width: int, divisor: int) -> list[int]:
    """[left, right, top, bottom] pixels up to multiples of ``divisor``; left and top get the smaller half."""
    x, y = -width % divisor, -height % divisor
    return [x // 2, x - x // 2, y // 2, y - y // 2]


# ---- encoder ----


class _TwoConvs(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_conv_prelu(in_channels, out_channels), *_conv_prelu(out_channels, out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _CrossScaleEmbedding(nn.Module):
    """Levels 0 to 2 brought to level 3: [2B, 4F, H/4, W/4], [2B, 2F, H/2, W/2], [2B, F, H, W] -> [2B, 8F, h, w]."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        f = num_features
        # (level, dilations): the stride leads from that level to level 3
        self.plan = [(level, 2 ** (3 - level), d) for level, n in ((2, 1), (1, 2), (0, 4)) for d in range(1, n + 1)]
        self.layers = nn.ModuleList(
            [nn.Conv2d(f * 2**level, f, 3, stride, dilation, dilation) for level, stride, dilation in self.plan]
        )
        self.proj = nn.Conv2d(7 * f, 8 * f, 1)
        self.norm = nn.LayerNorm(8 * f)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        parts = [layer(levels[level]) for layer, (level, _, _) in zip(self.layers, self.plan, strict=True)]
        return _normed(self.norm, self.proj(torch.cat(parts, 1)))


class _LambdaInteraction(nn.Module):
    """Each frame asks (q) what the other one knows (k, v): a lambda layer (Bello, ICLR 2021) across the pair.

    A lambda is a linear map from K query channels to V values. That of the content is the same at all places, that of
    the position comes from a window around each place.
    """

    def __init__(self, channels: int, num_heads: int, key_dim: int, window: int, motion_dim: int) -> None:
        super().__init__()
        self.num_heads, self.key_dim = num_heads, key_dim
        query_dim, value_dim = num_heads * key_dim, channels // num_heads
        self.to_q = nn.Conv2d(channels, query_dim, 1, bias=False)
        self.to_k = nn.Conv2d(channels, key_dim, 1, bias=False)
        self.to_v = nn.Conv2d(channels, value_dim, 1, bias=False)
        self.cor_embed = nn.Conv2d(2, query_dim, 1)
        self.motion_proj = nn.Conv2d(query_dim, motion_dim, 1)
        self.channel_compress = nn.Conv2d(channels, query_dim, 1, bias=False)
        self.norm_q = nn.BatchNorm2d(query_dim)
        self.norm_v = nn.BatchNorm2d(value_dim)
        # published as a 3D convolution over (value, row, column) with one input channel
        self.pos_conv = nn.Conv3d(1, key_dim, (1, window, window), padding=(0, window // 2, window // 2))

    def forward(self, x: torch.Tensor, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [2B, 8F, h, w], coordinates [1, 2, h, w] -> appearance [2B, 8F, h, w], motion [2B, motion_dim, h, w]."""
        n, _, h, w = x.shape
        v = self.norm_v(self.to_v(x)).roll(n // 2, 0)  # [2B, V, h, w] of the other frame
        k = self.to_k(x).flatten(2).softmax(-1).roll(n // 2, 0)  # [2B, K, h * w]
        content = k @ v.flatten(2).transpose(1, 2)  # [2B, K, V]: the content's lambda
        position = self._position_lambdas(v)  # [2B * h * w, K, V]

        def seen(queries: torch.Tensor) -> torch.Tensor:
            """What queries [2B, heads * K, h, w] find: [2B, heads * V, h, w]."""
            q = queries.permute(0, 2, 3, 1).reshape(n, h * w * self.num_heads, self.key_dim)
            found = q @ content + torch.bmm(q.reshape(n * h * w, self.num_heads, -1), position).view(n, q.shape[1], -1)
            return found.view(n, h, w, -1).permute(0, 3, 1, 2)

        place = self.cor_embed(coordinates).expand(n, -1, h, w)  # a query that knows the place only
        motion = self.motion_proj(self.channel_compress(seen(place)) - place)
        return seen(self.norm_q(self.to_q(x))), motion

    def _position_lambdas(self, v: torch.Tensor) -> torch.Tensor:
        """``pos_conv`` of v [2B, V, h, w] -> [2B * h * w, K, V].

        Each value channel is an image of its own, whose neighbours along x become the channels of a 2D convolution
        along y: three times faster on a CPU than one with a single input channel, or than the 3D one.
        """
        n, channels, h, w = v.shape
        weight = self.pos_conv.weight[:, 0, 0]  # [K, y, x]
        reach = weight.shape[-1] // 2
        images = F.pad(v.transpose(0, 1).reshape(channels * n, h, w), (reach, reach))
        neighbours = images.unfold(2, weight.shape[-1], 1).contiguous().permute(0, 3, 1, 2)  # [V * 2B, x, h, w]
        out = F.conv2d(neighbours, weight.transpose(1, 2)[..., None], self.pos_conv.bias, padding=(reach, 0))
        return out.permute(0, 2, 3, 1).reshape(channels, n * h * w, -1).permute(1, 2, 0)


class _Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=depthwise))
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = F.gelu(self.dwconv(x))
        return self.fc2(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _InteractionBlock(nn.Module):
    def __init__(
        self, channels: int, num_heads: int, key_dim: int, window: int, motion_dim: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.Lambda = _LambdaInteraction(channels, num_heads, key_dim, window, motion_dim)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels, mlp_ratio * channels)

    def forward(self, x: torch.Tensor, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = _normed(self.norm1, x)
        appearance, motion = self.Lambda(x, coordinates)
        x = x + appearance  # as published: the residual is that of the normalised features
        return x + self.mlp(_normed(self.norm2, x)), motion


class Encoder(nn.Module):
    """Appearance of each frame on four levels, and motion between the frames on the deepest one."""

    def __init__(
        self,
        in_channels: int,
        num_features: int,
        num_blocks: int,
        num_heads: int,
        key_dim: int,
        window: int,
        motion_dim: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        f = num_features
        self.block1 = _TwoConvs(in_channels, f)
        self.patch_embed2 = _conv_prelu(f, 2 * f, stride=2)
        self.block2 = _TwoConvs(2 * f, 2 * f)
        self.patch_embed3 = _conv_prelu(2 * f, 4 * f, stride=2)
        self.block3 = _TwoConvs(4 * f, 4 * f)
        self.norm4 = nn.LayerNorm(8 * f, eps=1e-6)
        self.patch_embed4 = _CrossScaleEmbedding(f)
        self.block4 = nn.ModuleList(
            [_InteractionBlock(8 * f, num_heads, key_dim, window, motion_dim, mlp_ratio) for _ in range(num_blocks)]
        )

    def forward(self, frames: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Args:
            frames: [2B, C, H, W], frame 0 of all pairs, then frame 1 of all pairs.

        Returns:
            Appearance [2B, F 2^l, H/2^l, W/2^l] of levels l = 0..3, and motion [2B, blocks * motion_dim, h, w].
        """
        levels = [self.block1(frames)]
        levels.append(self.block2(self.patch_embed2(levels[0])))
        levels.append(self.block3(self.patch_embed3(levels[1])))
        x = self.patch_embed4(levels)
        h, w = x.shape[-2:]
        axes = torch.meshgrid(
            torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype),
            torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype),
            indexing="ij",
        )
        coordinates = torch.stack(axes[::-1])[None]  # [1, (x, y), h, w]
        motions = []
        for block in self.block4:
            x, motion = block(x, coordinates)
            motions.append(motion)
        return [*levels, _normed(self.norm4, x)], torch.cat(motions, 1)


# ---- decoder ----


class FlowHead(nn.Module):
    """Flow to both frames and the logit of the merging mask, from the features of level 3 and the frames."""

    def __init__(self, in_channels: int, motion_channels: int, feature_channels: int, hidden: int) -> None:
        super().__init__()
        self.motion_channels = motion_channels // 16  # after the shuffles
        after = 2 * (motion_channels + feature_channels) // 16
        self.conv = nn.Sequential(
            _conv_prelu(after + 2 * in_channels, hidden),
            _conv_prelu(hidden, hidden),
            # as published with a PReLU after it: negative flows have a slope of their own
            _conv_prelu(hidden, 5),
        )

    def forward(
        self, frames: torch.Tensor, motion: torch.Tensor, deepest: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            frames: [2B, C, H, W].
            motion: [2B, M, h, w].
            deepest: [2B, 8F, h, w], appearance of level 3.
            times: [B, T].

        Returns:
            [B * T, 5, H, W]: flow of frame 0 (x, y), flow of frame 1 (x, y), mask logit.
        """
        b, t = times.shape
        first = cast(nn.Conv2d, self.conv.get_submodule("0.0"))
        pair = half_size(torch.cat(frames.chunk(2), 1))  # [B, 2C, H/2, W/2]
        motion, deepest = _unfolded(motion), _unfolded(deepest)  # [2B, ., H/2, W/2]
        motion0, motion1 = motion.chunk(2)
        still = _joined([*deepest.chunk(2), pair])
        t0 = times.reshape(-1, 1, 1, 1).to(motion.dtype)
        t1 = (1 - times).reshape(-1, 1, 1, 1).to(motion.dtype)
        if t == 1:
            x = first(_joined([t0 * motion0, t1 * motion1, still]))
        else:
            # the first convolution is linear in t: its parts once for all times
            m = self.motion_channels
            w0, w1, rest = first.weight.split([m, m, first.weight.shape[1] - 2 * m], 1)
            parts = [F.conv2d(motion0, w0, None, padding=1), F.conv2d(motion1, w1, None, padding=1)]
            constant = F.conv2d(still, rest, first.bias, padding=1)
            part0, part1, constant = (x.repeat_interleave(t, 0) for x in (*parts, constant))
            x = torch.addcmul(torch.addcmul(constant, t0, part0), t1, part1)
        x = self.conv[1](self.conv.get_submodule("0.1")(x))
        with torch.autocast(x.device.type, enabled=False):  # a flow of 16 pixels in bfloat16 has steps of 1/16
            x = F.interpolate(self.conv[2](x.float()), scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.cat([x[:, :4] * 2, x[:, 4:]], 1)


def _unfolded(x: torch.Tensor) -> torch.Tensor:
    """[N, 16c, h, w] -> [N, c, 4h, 4w] by two pixel shuffles of 2 (which are not one of 4)."""
    return F.pixel_shuffle(F.pixel_shuffle(x, 2), 2)


class _Conv2(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv_prelu(in_channels, out_channels, stride=2)
        self.conv2 = _conv_prelu(out_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


def _deconv_prelu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1), nn.PReLU(out_channels))


class Refiner(nn.Module):
    """U-Net that sees frames, warped frames and warped features, and gives the correction as a logit."""

    def __init__(self, in_channels: int, num_features: int, width: int) -> None:
        super().__init__()
        f, c = num_features, width
        self.down0 = _Conv2(4 * in_channels + 5 + 2 * f, 2 * c)
        self.down1 = _Conv2(2 * c + 4 * f, 4 * c)
        self.down2 = _Conv2(4 * c + 8 * f, 8 * c)
        self.down3 = _Conv2(8 * c + 16 * f, 16 * c)
        self.up0 = _deconv_prelu(32 * c, 8 * c)
        self.supple = _Conv2(8 * f, 8 * c)
        self.up1 = _deconv_prelu(16 * c, 4 * c)
        self.up2 = _deconv_prelu(8 * c, 2 * c)
        self.up3 = _deconv_prelu(4 * c, c)
        self.conv = nn.Conv2d(c, in_channels, 3, padding=1)

    def forward(self, images: list[torch.Tensor], warped: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """
        Args:
            images: what level 0 sees besides the features, [N, ., H, W] each.
            warped: features of levels 0..3 of both frames, [N, F 2^l, H/2^l, W/2^l].

        Returns:
            [N, C, H, W].
        """
        s0 = self.down0(_joined([*images, *warped[0]]))
        s1 = self.down1(_joined([s0, *warped[1]]))
        s2 = self.down2(_joined([s1, *warped[2]]))
        s3 = self.down3(_joined([s2, *warped[3]]))
        x = self.up0(_joined([s3, self.supple(warped[3][0]), self.supple(warped[3][1])]))
        x = self.up1(_joined([x, s2]))
        x = self.up2(_joined([x, s1]))
        x = self.up3(_joined([x, s0]))
        return self.conv(x)


class Interpolation(NamedTuple):
    """All that the network says about T times between the frames of B pairs.

    Attributes:
        pred: [B, T, C, H, W], the frames, in [0, 1].
        merged: [B, T, C, H, W], the warped frames merged, before their correction; training supervises it too.
        flow: [B, T, 4, H, W], pixels (x, y) towards frame 0, then towards frame 1.
        mask: [B, T, 1, H, W], the share of frame 0 in ``merged``, 0 to 1.
        logits: [B, T, C, H, W], the correction is ``2 sigmoid(logits) - 1``.
    """

    pred: torch.Tensor
    merged: torch.Tensor
    flow: torch.Tensor
    mask: torch.Tensor
    logits: torch.Tensor


def _most_dsa_arch(state: StateDict) -> dict[str, Any]:
    """Read the sizes of a published MoSt-DSA or GenDSA off its keys."""
    block = "feature_bone.block4.0."
    marks = {
        "features": ("feature_bone.block1.conv.0.weight", 4),
        "queries": (block + "Lambda.to_q.weight", 4),
        "keys": (block + "Lambda.to_k.weight", 4),
        "window": (block + "Lambda.pos_conv.weight", 5),
        "motion": (block + "Lambda.motion_proj.weight", 4),
        "mlp": (block + "mlp.fc1.weight", 2),
        "head": ("block.0.conv.0.0.weight", 4),
        "refiner": ("unet.conv.weight", 4),
    }
    missing = [key for key, ndim in marks.values() if key not in state or state[key].ndim != ndim]
    if missing:
        raise ValueError(
            f"not a MoSt-DSA or GenDSA state dict: {', '.join(missing)} missing or of another kind; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    shape = {name: state[key].shape for name, (key, _) in marks.items()}
    return {
        "name": "MoStDSA",
        "in_channels": int(shape["features"][1]),
        "num_features": int(shape["features"][0]),
        "num_blocks": len({key.split(".")[2] for key in state if key.startswith("feature_bone.block4.")}),
        "num_heads": int(shape["queries"][0] // shape["keys"][0]),
        "key_dim": int(shape["keys"][0]),
        "window": int(shape["window"][-1]),
        "motion_dim": int(shape["motion"][0]),
        "mlp_ratio": int(shape["mlp"][0] // shape["mlp"][1]),
        "head_width": int(shape["head"][0]),
        "refiner_width": int(shape["refiner"][1]),
    }


class MoStDSA(nn.Module):
    """The published MoSt-DSA (and GenDSA), key for key; the defaults are the published sizes.

    The authors trained one set of weights for each number of missing frames, at t = i / (k + 1). Other times work;
    what they are worth has to be tested.

    A softmax over the whole frame and coordinates from -1 to 1 are inside: a tile, a crop or another padding gives
    another result. Sizes that are multiples of 16 go in as they are (the published evaluation), others are continued
    by their border to multiples of 32 (the published command line) and cut back.

    Args:
        in_channels: C. The published code repeats a grey frame three times.
        num_features: F, channels of the finest level.
        num_blocks: interaction blocks of the deepest level.
        num_heads, key_dim, window: of the lambda interaction; the window is odd, in pixels of the deepest level.
        motion_dim: motion channels that a block gives.
        mlp_ratio: hidden channels of a block's MLP, in units of 8F.
        head_width: hidden channels of the flow head.
        refiner_width: channels of the refiner's finest level.

    Attributes:
        pad_to: None for the rule above, or the number that sizes are padded to multiples of; 32 to do as the published
            command line does with all sizes.
        pixels_at_once: bound of memory: as many times go through the decoder together as have so many pixels (at
            least one). About 2.4 kB a pixel in float32. It does not change the result.

    Example::

        >>> net = MoStDSA()
        >>> net(torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96), [0.25, 0.5, 0.75]).shape
        torch.Size([1, 3, 3, 64, 96])
    """

    published = PublishedWeights("most_dsa", _most_dsa_arch, leftovers=("attn_mask", "HW"))

    def __init__(
        self,
        in_channels: int = 3,
        num_features: int = 32,
        num_blocks: int = 4,
        num_heads: int = 4,
        key_dim: int = 16,
        window: int = 15,
        motion_dim: int = 64,
        mlp_ratio: int = 4,
        head_width: int = 128,
        refiner_width: int = 64,
    ) -> None:
        super().__init__()
        deepest, motion = 8 * num_features, num_blocks * motion_dim
        if deepest % num_heads or deepest % 16 or motion % 16 or not window % 2:
            raise ValueError(
                f"8 * num_features ({deepest}) must be a multiple of 16 and of num_heads ({num_heads}), num_blocks * "
                f"motion_dim ({motion}) a multiple of 16, and window ({window}) odd."
            )
        self.in_channels = in_channels
        self.pad_to: int | None = None
        self.pixels_at_once = 2**20
        self.feature_bone = Encoder(
            in_channels, num_features, num_blocks, num_heads, key_dim, window, motion_dim, mlp_ratio
        )
        self.block = nn.ModuleList([FlowHead(in_channels, motion, deepest, head_width)])
        self.unet = Refiner(in_channels, num_features, refiner_width)
        for part in (self.feature_bone, self.unet):
            part.apply(_initialise)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.data = module.weight.data.contiguous(memory_format=_MEMORY_FORMAT)

    def forward(
        self,
        frame0: torch.Tensor,
        frame1: torch.Tensor | None = None,
        timesteps: float | Sequence[float] | torch.Tensor = 0.5,
        tta: bool = False,
        details: bool = False,
        flow_scale: float = 1.0,
    ) -> torch.Tensor | Interpolation:
        """The frames at ``timesteps``.

        Args:
            frame0: [B, C, H, W], intensities 0 to 1; or both frames, [B, 2C, H, W], without ``frame1``.
            frame1: [B, C, H, W].
            timesteps: between frame 0 (0) and frame 1 (1): a number, T of them, or [B, T].
            tta: average with the result of the frames rotated by 180 degrees; twice the work. The published command
                line does it, the published evaluation does not.
            details: give all of :class:`Interpolation`, not only the frames.
            flow_scale: find the flow in frames of so many times the size (published for large frames). The size times
                this must be a multiple of 16 too.

        Returns:
            [B, T, C, H, W] in [0, 1], or :class:`Interpolation`; [B, T * C, H, W] without ``frame1``.

        Raises:
            ValueError: shapes, times or options that do not fit.
        """
        joined = frame1 is None
        if frame1 is None:
            self._check_frame(frame0, 2)
            frame0, frame1 = frame0.chunk(2, 1)
        for frame in (frame0, frame1):
            self._check_frame(frame, 1)
        if frame0.shape != frame1.shape:
            raise ValueError(f"both frames must have one shape, got {_shape(frame0)} and {_shape(frame1)}.")
        if tta and details:
            raise ValueError("tta averages two results, details are those of one: use one of them.")
        b, _, h, w = frame0.shape
        times = pair_timesteps(timesteps, b, frame0.device)

        divisor = self.pad_to or (1 if h % 16 == w % 16 == 0 else 32)
        left, right, top, bottom = padding = centred_padding(h, w, divisor)
        frames = torch.cat([frame0, frame1]).float()
        if any(padding):
            frames = F.pad(frames, padding, mode="replicate")
        frames = frames.contiguous(memory_format=_MEMORY_FORMAT)
        if tta:  # [frames 0, rotated frames 0, frames 1, rotated frames 1]
            frames = torch.stack([frames, frames.flip(-2, -1)], 1).unflatten(0, (2, b)).transpose(1, 2).flatten(0, 2)
            result = self._interpolate(frames, times.repeat(2, 1), flow_scale)
            upright, rotated = result.pred.chunk(2)
            result = result._replace(pred=(upright + rotated.flip(-2, -1)) / 2)
        else:
            result = self._interpolate(frames, times, flow_scale)
        if any(padding):
            result = Interpolation(*(x[..., top : top + h, left : left + w] for x in result))
        if details:
            return result
        return result.pred.flatten(1, 2) if joined else result.pred

    def _interpolate(self, frames: torch.Tensor, times: torch.Tensor, flow_scale: float) -> Interpolation:
        """frames [2B, C, H, W] of a size that fits, times [B, T]."""
        b, t = times.shape
        h, w = frames.shape[-2:]
        appearance, motion = self.feature_bone(frames)
        deepest, small = appearance[3], frames
        if flow_scale != 1:
            small = F.interpolate(frames, scale_factor=flow_scale, mode="bilinear", align_corners=False)
            if small.shape[-2] % 16 or small.shape[-1] % 16:
                raise ValueError(
                    f"flow_scale {flow_scale} makes {_shape(small)[2:]} of {(h, w)}, which must be multiples of 16."
                )
            small_appearance, motion = self.feature_bone(small)
            deepest = small_appearance[3]

        at_once = max(1, self.pixels_at_once // (h * w))
        pairs_at_once, times_at_once = max(1, at_once // t), min(at_once, t)
        rows = []
        for first in range(0, b, pairs_at_once):
            last = min(b, first + pairs_at_once)
            few = [_pairs(x, first, last) for x in (small, motion, deepest)]
            levels = [_pairs(x, first, last) for x in (frames, *appearance)]
            columns = []
            for some in times[first:last].split(times_at_once, 1):
                out = self.block[0](*few, some)  # [pairs * times, 5, h, w]
                if flow_scale != 1:
                    out = F.interpolate(out, size=(h, w), mode="bilinear", align_corners=False)
                    out = torch.cat([out[:, :4] / flow_scale, out[:, 4:]], 1)
                decoded = self._refine(levels[0], levels[1:], out, some.shape[1])
                columns.append([x.unflatten(0, (-1, some.shape[1])) for x in decoded])
            rows.append([torch.cat(parts, 1) for parts in zip(*columns, strict=True)])
        return Interpolation(*(torch.cat(parts) for parts in zip(*rows, strict=True)))

    def _refine(
        self, frames: torch.Tensor, appearance: list[torch.Tensor], out: torch.Tensor, repeats: int
    ) -> Interpolation:
        """frames [2B, C, H, W], appearance of four levels, out [N, 5, H, W] with N = B * repeats -> N rows of all."""
        flow, mask = out.split([4, 1], 1)
        level_flow, warped = flow, []
        for features in appearance:
            warped.append(_warp_both(features, level_flow, repeats))
            level_flow = half_size(level_flow) * 0.5
        warped0, warped1 = _warp_both(frames, flow, repeats)
        originals = torch.cat(frames.chunk(2), 1).repeat_interleave(repeats, 0)
        logits = self.unet([originals, warped0, warped1, out[:, [4, 0, 1, 2, 3]]], warped).float()
        share = mask.sigmoid()
        merged = warped0 * share + warped1 * (1 - share)
        pred = (merged + 2 * logits.sigmoid() - 1).clamp(0, 1)
        return Interpolation(pred, merged, flow, share, logits)

    def _check_frame(self, frame: torch.Tensor, count: int) -> None:
        channels = count * self.in_channels
        if frame.ndim != 4 or frame.shape[1] != channels or not frame.numel():
            what = f"[B, {channels}, H, W]" + (" (both frames, as frame1 is not given)" if count == 2 else "")
            raise ValueError(f"expected {what}, got {_shape(frame)}.")
        if not frame.is_floating_point():
            raise ValueError(f"expected frames of floating point numbers 0 to 1, got {frame.dtype}.")


def _pairs(x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Some pairs of x [2B, ...], which holds frame 0 of all pairs, then frame 1."""
    half = x.shape[0] // 2
    return x if last - first == half else torch.cat([x[first:last], x[half + first : half + last]])


def _warp_both(x: torch.Tensor, flow: torch.Tensor, repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [2B, c, H, W] of both frames, each ``repeats`` times, by flow [B * repeats, 4, H, W]."""
    x0, x1 = (half.repeat_interleave(repeats, 0) if repeats > 1 else half for half in x.chunk(2))
    return warp(x0, flow[:, :2]), warp(x1, flow[:, 2:])


def _shape(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _initialise(module: nn.Module) -> None:
    """The published start of encoder and refiner; all that is not named keeps PyTorch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
