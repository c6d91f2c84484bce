"""ArSSR: super-resolution of 3D MR at any scale through an implicit voxel function.

Paper: Wu et al., "An Arbitrary Scale Super-Resolution Approach for 3D MR Images via Implicit Neural Representation",
IEEE JBHI 27(2), 2023, https://arxiv.org/abs/2110.14476.

Two networks share one interface, which the inferer builds on:

- :class:`ArSSR` is the published one, key for key, so that the authors' weights load and give the authors' output.
- :class:`ResidualArSSR` is the one that we train and ship. It differs in what made the published one fragile: it adds
  a correction to cubic B-spline interpolation instead of inventing the intensity (no dead output unit, intensities
  kept), it knows a point by its place inside the voxel and not by its place in the volume (any volume size, tiles give
  the same result as the whole), and it is told the scale of each axis (thick slices as well as isotropic voxels).

Shapes: B batch, F feature channels, (D, H, W) the array axes of the low-resolution (LR) volume, K points.
A *position* counts LR voxels: 0 is the centre of the first voxel of an axis, -0.5 its outer edge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F

from custom_nets.networks.layers import PointwiseConv3d, RowLinear, winograd
from custom_nets.networks.layers.channels import Axis, ChannelMap, Space, scaled
from custom_nets.networks.layers.mtf_code import mtf_code
from custom_nets.operators.data_consistency import LARGEST_OVERREACH
from custom_nets.operators.interpolation import bspline_coefficients, mirror_pad, sample_bspline, sample_trilinear
from custom_nets.utils.weights import PublishedWeights, StateDict

__all__ = ["RDN", "ResCNN", "SRResNet", "ImplicitDecoder", "ArSSR", "ResidualArSSR", "grid_positions"]


def _conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv3d:
    if kernel_size == 1:
        return PointwiseConv3d(in_channels, out_channels)
    return winograd.SameConv3d(in_channels, out_channels)


# ---- encoders: [B, 1, D, H, W] -> [B, F, D, H, W], norm-free: tiles that keep the receptive field are exact ----


class _DenseLayer(nn.Module):
    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, F.relu(self.conv(x), inplace=True)], 1)


class _ResidualDenseBlock(nn.Module):
    def __init__(self, channels: int, growth: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[_DenseLayer(channels + j * growth, growth) for j in range(num_layers)])
        self.lff = _conv(channels + num_layers * growth, channels, 1)  # local feature fusion

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            convs: list[nn.Conv3d] = [layer.conv for layer in self.layers]  # type: ignore[misc]
            if winograd.suits(x, convs):
                return x + self.lff(winograd.dense_relu(x, convs))
        return x + self.lff(self.layers(x))


class RDN(nn.Module):
    """Residual dense network (Zhang et al., CVPR 2018) in 3D without its up-sampling part.

    Args:
        feature_dim: F, channels that it gives.
        num_features: channels inside.
        growth: channels that each dense layer adds.
        num_blocks: residual dense blocks.
        num_layers: 3x3x3 convolutions in a block.
        in_channels: channels that it takes.
    """

    def __init__(
        self,
        feature_dim: int = 128,
        num_features: int = 64,
        growth: int = 64,
        num_blocks: int = 8,
        num_layers: int = 3,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.sfe1 = _conv(in_channels, num_features)
        self.sfe2 = _conv(num_features, num_features)
        self.rdbs = nn.ModuleList([_ResidualDenseBlock(num_features, growth, num_layers) for _ in range(num_blocks)])
        self.gff = nn.Sequential(_conv(num_blocks * num_features, num_features, 1), _conv(num_features, num_features))
        self.output = _conv(num_features, feature_dim)

    def add_channels(self, found: ChannelMap, name: str, output: Space) -> None:
        """Say which channels are the same, see :class:`custom_nets.networks.layers.channels.ChannelMap`."""
        wide = Space("features", self.sfe1.out_channels, cuttable=True)
        found.layer(f"{name}.sfe1", [self.sfe1.in_channels], [wide])
        found.layer(f"{name}.sfe2", [wide], [wide])
        for i, block in enumerate(cast("Sequence[_ResidualDenseBlock]", self.rdbs)):
            seen: list[Space | int] = [wide]
            for j, layer in enumerate(cast("Sequence[_DenseLayer]", block.layers)):
                grown = Space(f"growth {i} {j}", layer.conv.out_channels, cuttable=True)
                found.layer(f"{name}.rdbs.{i}.layers.{j}.conv", list(seen), [grown])
                seen.append(grown)
            found.layer(f"{name}.rdbs.{i}.lff", seen, [wide])
        found.layer(f"{name}.gff.0", [wide] * len(self.rdbs), [fused := Space("fused", wide.units, cuttable=True)])
        found.layer(f"{name}.gff.1", [fused], [wide])
        found.layer(f"{name}.output", [wide], [output])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.sfe1(x)
        x = self.sfe2(shallow)
        blocks = []
        for block in self.rdbs:
            x = block(x)
            blocks.append(x)
        return self.output(self.gff(torch.cat(blocks, 1)) + shallow)


class ResCNN(nn.Module):
    """Three residual stages of six convolutions; as published, the image itself is added to every feature channel.

    Args:
        feature_dim: F, channels that it gives.
        num_features: channels inside.
    """

    def __init__(self, feature_dim: int = 128, num_features: int = 64) -> None:
        super().__init__()

        def stage() -> nn.Sequential:
            layers = [[_conv(num_features, num_features), nn.ReLU(inplace=True)] for _ in range(6)]
            return nn.Sequential(*[layer for pair in layers for layer in pair])

        self.conv_start = nn.Sequential(_conv(1, num_features), nn.ReLU(inplace=True))
        self.block1 = stage()
        self.block2 = stage()
        self.block3 = stage()
        self.conv_end = nn.Sequential(_conv(num_features, feature_dim))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv_start(image)
        x = self.block1(x) + x
        x = self.block2(x) + x
        x = self.block3(x) + x
        return self.conv_end(x) + image


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.m = nn.Sequential(
            nn.Sequential(_conv(channels, channels), nn.ReLU(inplace=True)), nn.Sequential(_conv(channels, channels))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.m(x)


class SRResNet(nn.Module):
    """Eighteen residual blocks between plain convolutions, no normalisation, no global skip.

    Args:
        feature_dim: F, channels that it gives.
        num_features: channels inside.
        num_blocks: residual blocks.
    """

    def __init__(self, feature_dim: int = 128, num_features: int = 64, num_blocks: int = 18) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(_conv(1, num_features)),
            *[_ResidualBlock(num_features) for _ in range(num_blocks)],
            nn.Sequential(_conv(num_features, num_features)),
            nn.Sequential(_conv(num_features, feature_dim)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features(image)


ENCODERS: dict[str, type[nn.Module]] = {"RDN": RDN, "ResCNN": ResCNN, "SRResNet": SRResNet}


def _encoder(name: str, **kwargs) -> nn.Module:
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder '{name}', allowed: {', '.join(ENCODERS)}.")
    return ENCODERS[name](**kwargs)


# ---- decoder ----


class ImplicitDecoder(nn.Module):
    """The published voxel function: (feature, coordinate) -> intensity, in two stages with a skip between them.

    Args:
        in_dim: F + 3.
        depth: two stages of ``depth // 2`` linear layers each; at least 4.
        width: hidden channels.
    """

    def __init__(self, in_dim: int = 131, depth: int = 8, width: int = 256) -> None:
        super().__init__()
        layers = depth // 2
        if layers < 2:
            raise ValueError(f"decoder_depth must be at least 4 (two linear layers in each stage), got {depth}.")

        def stage(out_dim: int) -> nn.Sequential:
            dims = [in_dim] + [width] * (layers - 1) + [out_dim]
            pairs = [[RowLinear(a, b), nn.ReLU(inplace=True)] for a, b in zip(dims[:-1], dims[1:], strict=True)]
            return nn.Sequential(*[layer for pair in pairs for layer in pair])

        self.stage_one = stage(in_dim)
        self.stage_two = stage(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage_two(x + self.stage_one(x))


# ---- networks ----


def _arssr_arch(state: StateDict) -> dict[str, Any]:
    """Read encoder and sizes of a published ArSSR off its keys."""
    marks = {
        "RDN": "encoder.output.weight",
        "ResCNN": "encoder.conv_end.0.weight",
        "SRResNet": "encoder.features.20.0.weight",
    }
    found = [name for name, key in marks.items() if key in state]
    if len(found) != 1 or "decoder.stage_one.0.weight" not in state:
        wanted = ", ".join(f"{key} ({name})" for name, key in marks.items())
        raise ValueError(
            f"not an ArSSR state dict: expected decoder.stage_one.0.weight and one of {wanted}; "
            f"found {len(state)} keys (first: {', '.join(list(state)[:4]) or 'none'})."
        )
    linears = sum(bool(re.fullmatch(r"decoder\.stage_one\.\d+\.weight", key)) for key in state)
    return {
        "name": "ArSSR",
        "encoder": found[0],
        "feature_dim": int(state[marks[found[0]]].shape[0]),
        "decoder_depth": 2 * linears,
        "decoder_width": int(state["decoder.stage_one.0.weight"].shape[0]),
    }


class ArSSR(nn.Module):
    """The published network (parity class).

    Its array axes are (z, y, x): ``axis_order`` tells the inferer to turn MONAI's (x, y, z) volumes. The coordinates
    are global, [-1, 1] over the whole volume given to the encoder, and features fade to zero outside of it. Intensities
    of about [0, 1] in; never below zero out.

    Args:
        encoder: "RDN", "ResCNN" or "SRResNet".
        feature_dim: F.
        decoder_depth, decoder_width: see :class:`ImplicitDecoder`.
    """

    published = PublishedWeights("arssr", _arssr_arch)

    sampling_padding = "zeros"
    adds_interpolation = False
    border = 0

    def __init__(
        self, encoder: str = "RDN", feature_dim: int = 128, decoder_depth: int = 8, decoder_width: int = 256
    ) -> None:
        super().__init__()
        self.encoder = _encoder(encoder, feature_dim=feature_dim)
        self.decoder = ImplicitDecoder(feature_dim + 3, decoder_depth, decoder_width)

    @staticmethod
    def axis_order(scale: Sequence[float]) -> tuple[int, int, int]:
        """Order in which a (x, y, z) volume goes in: always (z, y, x)."""
        return (2, 1, 0)

    def encoder_input(self, image: torch.Tensor, scale: torch.Tensor, mtf: torch.Tensor | None = None) -> torch.Tensor:
        """What :attr:`encoder` takes: the image [B, 1, D, H, W] itself."""
        return image

    @staticmethod
    def position_code(positions: torch.Tensor, size: int) -> torch.Tensor:
        """Columns that tell the decoder where along one axis of ``size`` voxels a point lies: [N] -> [N, 1]."""
        return (((2 * positions + 1) / size) - 1)[..., None]

    def scale_code(self, scale: torch.Tensor, mtf: torch.Tensor | None = None) -> torch.Tensor:
        """Columns that tell the decoder the scale: none, [B, 3] -> [B, 0]."""
        return scale[:, :0]

    def forward(self, image: torch.Tensor, coords: torch.Tensor | None = None, scale: float = 2.0) -> torch.Tensor:
        """Intensities at ``coords``, or on the ``scale`` times finer grid when no coordinates are given.

        Args:
            image: [B, 1, D, H, W].
            coords: [B, K, 3] in [-1, 1] along D, H, W (-1 and 1 are the outer edges), or None.
            scale: used without ``coords``.

        Returns:
            [B, K, 1], or [B, 1, int(D scale), int(H scale), int(W scale)].
        """
        if coords is None:
            size = [int(n * scale) for n in image.shape[2:]]
            axes = [(2 * torch.arange(n, device=image.device, dtype=image.dtype) + 1) / n - 1 for n in size]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
            return self(image, grid.expand(image.shape[0], -1, 3)).reshape(-1, 1, *size)
        features = self.encoder(image)
        # grid_sample wants (W, H, D)
        points = coords.flip(-1)[:, None, None]
        sampled = F.grid_sample(features, points, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self.decoder(torch.cat([sampled[:, :, 0, 0].transpose(1, 2), coords], -1))


class ResidualArSSR(nn.Module):
    """ArSSR as a correction of cubic B-spline interpolation (ours).

    ``y(p) = B-spline(image)(p) + MLP(features(p), sin 2 pi p, cos 2 pi p, log2 scale, mtf)``

    with features interpolated trilinearly and p in LR voxels, so the function is continuous everywhere and does not
    know how large the volume is. Axes go in sorted by scale (thick slices last): a stack is treated alike whatever
    its orientation. With ``takes_mtf`` it is told how the scan was blurred, or that this is not known.

    Args:
        feature_dim: F.
        num_features, growth, num_blocks, num_layers: of the :class:`RDN` encoder.
        decoder_width: hidden channels of the MLP.
        decoder_depth: its linear layers, at least 2.
        max_scale: largest scale of an axis in training; larger ones are decoded as if they were this one.
        takes_mtf: take the blur of each axis (``mtf``) into account; without it, ``mtf`` is not looked at.
        largest_overreach: of a correction of what these weights made to what was measured, before it is left out
            (:func:`custom_nets.operators.data_consistency.overreach`); set on heads of their training by
            :mod:`custom_nets.evaluation.volumes.overreach`.
    """

    sampling_padding = "border"
    adds_interpolation = True
    token_layers = ("encoder.sfe1", "encoder.gff")  # what was measured, and what the encoder makes of it

    def __init__(
        self,
        feature_dim: int = 48,
        num_features: int = 32,
        growth: int = 32,
        num_blocks: int = 4,
        num_layers: int = 3,
        decoder_width: int = 96,
        decoder_depth: int = 4,
        max_scale: float = 6.0,
        takes_mtf: bool = False,
        largest_overreach: float = LARGEST_OVERREACH,
    ) -> None:
        super().__init__()
        if decoder_depth < 2:
            raise ValueError(f"decoder_depth must be at least 2, got {decoder_depth}.")
        self.max_scale = max_scale
        # voxels mirrored around the volume in eval mode: no point nearer to the edge than those of the training
        self.border = 2
        self.takes_mtf = takes_mtf
        self.largest_overreach = largest_overreach
        told = 3 + (7 if takes_mtf else 0)  # scales; transfer at two frequencies per axis, and whether it is known
        self.encoder = RDN(feature_dim, num_features, growth, num_blocks, num_layers, in_channels=1 + told)
        dims = [feature_dim + 6 + told] + [decoder_width] * (decoder_depth - 1)
        layers: list[nn.Module] = []
        for a, b in zip(dims[:-1], dims[1:], strict=True):
            layers += [RowLinear(a, b), nn.ReLU(inplace=True)]
        last = RowLinear(dims[-1], 1)
        nn.init.zeros_(last.weight)  # start as the interpolation itself
        nn.init.zeros_(last.bias)
        self.decoder = nn.Sequential(*layers, last)

    def shrunk(self, share: float) -> dict[str, Any]:
        """Arguments of a network with about ``share`` of the weights.

        The dense layers grow less, where nearly all of the work is. What is handed from block to block, and the
        decoder, stay as wide: units of these cost far more when they are missed.
        """
        dense = cast(_DenseLayer, self.encoder.get_submodule("rdbs.0.layers.0"))
        # other weights, another bound
        return {"growth": scaled(dense.conv.out_channels, share, 4), "largest_overreach": LARGEST_OVERREACH}

    def channels(self) -> ChannelMap:
        """Which channels of which weights are the same, for students."""
        found = ChannelMap()
        given = Space("given", self.encoder.output.out_channels, cuttable=True)
        self.encoder.add_channels(found, "encoder", given)
        linears = [(i, layer) for i, layer in enumerate(self.decoder) if isinstance(layer, nn.Linear)]
        seen: Axis = [given, linears[0][1].in_features - given.units]
        for i, layer in linears[:-1]:
            hidden = Space(f"hidden {i}", layer.out_features, cuttable=True)
            found.layer(f"decoder.{i}", seen, [hidden])
            seen = [hidden]
        found.layer(f"decoder.{linears[-1][0]}", seen, [1])
        return found

    @staticmethod
    def axis_order(scale: Sequence[float]) -> tuple[int, int, int]:
        """Order in which a (x, y, z) volume goes in: by scale, the thick slices last (equal ones stay in order)."""
        a, b, c = sorted(range(3), key=lambda axis: round(float(scale[axis]), 3))
        return (a, b, c)

    def scale_code(self, scale: torch.Tensor, mtf: torch.Tensor | None = None) -> torch.Tensor:
        """log2 of the scale [B, 3], which stays inside of the trained range; with ``takes_mtf``, ``mtf`` [B, 3, 2]
        between -1 and 1 (0 where it is not known) and 1 or 0 for known or not: [B, 3] or [B, 10]."""
        code = scale.clamp(1.0, self.max_scale).log2()
        return torch.cat([code, mtf_code(mtf, scale.shape[0], 6, code)], 1) if self.takes_mtf else code

    def encoder_input(self, image: torch.Tensor, scale: torch.Tensor, mtf: torch.Tensor | None = None) -> torch.Tensor:
        """What :attr:`encoder` takes: image [B, 1, D, H, W] and :meth:`scale_code` as constant channels."""
        b, _, d, h, w = image.shape
        code = self.scale_code(scale, mtf).to(image.dtype)
        return torch.cat([image, code[:, :, None, None, None].expand(b, code.shape[1], d, h, w)], 1)

    @staticmethod
    def position_code(positions: torch.Tensor, size: int) -> torch.Tensor:
        """Columns that tell the decoder where inside its voxel a point lies: [N] -> [N, 2]."""
        angle = 2 * math.pi * positions
        return torch.stack([angle.sin(), angle.cos()], -1)

    def forward(
        self,
        image: torch.Tensor,
        positions: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        mtf: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Intensities at ``positions``, or on the whole two times finer grid when none are given.

        Args:
            image: [B, 1, D, H, W], intensities of about [0, 1]; axes sorted by scale.
            positions: [B, K, 3] along D, H, W in LR voxels, or None.
            scale: [B, 3] LR spacing / wanted spacing; 2 when not given.
            mtf: [B, 3, 2] what is left of the wanted voxels' contrast at half and at the whole Nyquist frequency of
                the LR voxels, axes as in ``scale``
                (:meth:`custom_nets.operators.slice_profile.PointSpread.transfer`); not a number, or None: not known.

        Returns:
            [B, K, 1], or [B, 1, 2 D, 2 H, 2 W] without positions.
        """
        b = image.shape[0]
        if scale is None:
            scale = torch.full((b, 3), 2.0, device=image.device)
        size = [2 * image.shape[2], 2 * image.shape[3], 2 * image.shape[4]]
        whole = positions is None
        if positions is None:
            positions = grid_positions(size, 0.5, image.device).expand(b, -1, 3)
        border = 0 if self.training else self.border
        features = self.encoder(self.encoder_input(mirror_pad(image, border), scale, mtf))
        codes = self.position_code(positions, 0)  # [B, K, 3, 2]
        rows = torch.cat(
            [
                sample_trilinear(features, positions + border),
                codes.flatten(2).to(features.dtype),
                self.scale_code(scale, mtf).to(features.dtype)[:, None].expand(-1, positions.shape[1], -1),
            ],
            -1,
        )
        base = sample_bspline(bspline_coefficients(image.float()), positions.float())
        values = base[..., None] + self.decoder(rows).float()
        return values.reshape(b, 1, size[0], size[1], size[2]) if whole else values


def grid_positions(size: list[int], step: float, device: torch.device | None = None) -> torch.Tensor:
    """Positions [1, prod(size), 3] in LR voxels of an edge-aligned grid with ``step`` LR voxels between points."""
    axes = [(torch.arange(n, device=device) + 0.5) * step - 0.5 for n in size]
    return torch.stack(torch.meshgrid(axes[0], axes[1], axes[2], indexing="ij"), -1).reshape(1, -1, 3)
