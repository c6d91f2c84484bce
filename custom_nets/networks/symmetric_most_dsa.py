"""SymmetricMoStDSA: any time between two DSA frames, the same picture whichever way time runs.

After MoSt-DSA (Xu et al., ECAI 2024, https://arxiv.org/abs/2407.07078), whose published network is
:class:`custom_nets.networks.MoStDSA`. What is kept: two frames are encoded together, each looking at the other; a
motion between them warps both; a refiner corrects. What differs, and why:

- one grey channel and one set of weights for any number of frames at any time;
- *symmetric by construction*: both frames pass the same layers, so swapping them and ``t -> 1-t`` gives the same
  picture;
- ``t = 0`` and ``t = 1`` are the measured frames, exactly;
- nearly all work is done once per pair: a further time costs about a fifth of the pair;
- the measured frames before and after the pair may be given. They show what is noise (of the frame), what is fixed (the
  mask's noise, subtracted from all frames), and how contrast comes and goes;
- plain corrections are at hand (less noise by a small blur or by the frames beyond the pair, a curve in time instead of
  a line): the network weighs them for each place, which is learned much faster than to compute them;
- static and moving content are kept apart: a gate chooses for each pixel between frames that follow the motion and
  frames that stand still. Contrast that arrives without motion, and the mask's noise, must not be warped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from .layers.channels import ChannelMap, Space, scaled
from .layers.timesteps import pair_timesteps

__all__ = ["SymmetricMoStDSA"]


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (or halves it), and its activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2), nn.LeakyReLU(0.1, inplace=True)
    )


def width_of(layers: nn.Module) -> int:
    """Channels that come out of a :func:`conv`."""
    return cast(nn.Conv2d, layers.get_submodule("0")).out_channels


def head(in_channels: int, out_channels: int, kernel_size: int = 3, std: float = 0.0, bias: bool = True) -> nn.Conv2d:
    """Convolution that starts at (or near) zero."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    if std:
        nn.init.normal_(layer.weight, std=std)
    else:
        nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def places(flow_px: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
    """[N, H, W, 2], ``x + share * flow_px`` as ``grid_sample`` counts: from -1 to 1 over the picture.

    Args:
        flow_px: [N, 2, H, W], x and y in pixels.
        share: [N, 1, 1, 1] of the flow; all of it if not given.
    """
    height, width = flow_px.shape[-2:]
    flow = flow_px.float()  # positions need more digits than half precision has
    # x and y in planes, which grid_sample reads fastest
    x = (2 * torch.arange(width, device=flow.device, dtype=torch.float32) + 1) / width - 1
    y = (2 * torch.arange(height, device=flow.device, dtype=torch.float32) + 1) / height - 1
    here = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    unit = torch.stack([flow.new_full([], 2 / width), flow.new_full([], 2 / height)]).reshape(1, 2, 1, 1)
    return torch.addcmul(here, flow, unit if share is None else share * unit).permute(0, 2, 3, 1)


def sample(image: torch.Tensor, at: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """``image`` [N, C, H, W] at :func:`places`, "bilinear" or "bicubic", borders repeated."""
    return F.grid_sample(image.float(), at, mode, padding_mode="border", align_corners=False).to(image.dtype)


def warp(image: torch.Tensor, flow_px: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
    """Sample ``image`` [N, C, H, W] at ``x + share * flow_px``, bilinear; arguments as in :func:`places`."""
    return sample(image, places(flow_px, share))


def swap(sides: torch.Tensor) -> torch.Tensor:
    """[2B, ...], rows of frame 0 then rows of frame 1: what the other side has."""
    own, other = sides.chunk(2)
    return torch.cat([other, own])


def difference(sides: torch.Tensor) -> torch.Tensor:
    """[B, ...] of [2B, ...]: side 0's part that changes its sign when the sides are swapped."""
    side0, side1 = sides.chunk(2)
    return (side0 - side1) / 2


def signed(side0: torch.Tensor) -> torch.Tensor:
    """[2B, ...]: what side 0 has, and side 1 with the other sign."""
    return torch.cat([side0, -side0])


def antisymmetric(sides: torch.Tensor) -> torch.Tensor:
    """The part of [2B, ...] that changes its sign when the sides are swapped.

    Of a layer without a bias it is ``signed(layer(difference(sides)))``, at half of the work.
    """
    return signed(difference(sides))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, ordered as convolutions of few channels are fastest on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """A convolution with ``weight`` [out, in, 1, 1] of ``x`` [N, in, H, W], in the order of its channels last."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class Level(nn.Module):
    """Bring both sides' features to the middle of the motion, join them with what coarser levels know, refine it.

    Args:
        coarse: channels that come from the coarser level.
        width: channels of the encoder at this level.
        out: channels of the result.
    """

    def __init__(self, coarse: int, width: int, out: int) -> None:
        super().__init__()
        self.join = conv(coarse + 2 * width, out, kernel_size=1)
        self.refine = conv(out, out)
        self.motion = head(out, 2, std=1e-3, bias=False)  # a bias has no antisymmetric part

    def forward(
        self,
        features: torch.Tensor,
        coarse: torch.Tensor,
        flow_px: torch.Tensor,
        start_px: torch.Tensor | None = None,
        told: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [2B, out, h, w] and motion beyond ``start_px`` [2B, 2, h, w], in pixels of this size.

        ``told`` [2B, out, 1, 1] is added to what is joined.
        """
        flow_px = 2 * F.interpolate(flow_px, scale_factor=2.0, mode="bilinear", align_corners=False)
        whole = flow_px if start_px is None else flow_px + start_px
        own = channels_last(warp(features, -whole / 2))
        x = self._joined(coarse, own, told)
        x = x + self.refine(x)
        return x, flow_px + signed(self.motion(difference(x)))

    def _joined(self, coarse: torch.Tensor, own: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
        """``self.join`` of coarser features [2B, coarse, h/2, w/2], enlarged, with both sides' [2B, width, h, w]."""
        layer = self.join[0]
        # a convolution of single pixels may as well come before enlarging, where there are fewer
        from_coarse, from_sides = layer.weight.split([coarse.shape[1], 2 * own.shape[1]], dim=1)  # type: ignore[operator]
        x = pointwise(coarse, from_coarse, layer.bias)  # type: ignore[arg-type]
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = x + pointwise(torch.cat([own, swap(own)], dim=1), from_sides)
        if told is not None:
            x = x + told
        return F.leaky_relu(x, 0.1, inplace=True)


class _PairMaps(NamedTuple):
    """What is the same at all times between N pairs of frames; [2N, ...] are rows of frame 0, then of frame 1."""

    frames: torch.Tensor  # [2N, 1 + 4, H, W], and what may be added to them, see _corrections
    full_px: torch.Tensor  # [2N, 2, H, W], motion
    middle_px: torch.Tensor  # [N, 2, H/2, W/2], motion of what is in the middle
    features: torch.Tensor  # [2N, pair_width, H/2, W/2]
    still_seen: torch.Tensor  # [2N, time_width, H/2, W/2]
    passed_seen: torch.Tensor  # [1, time_width, H/2, W/2], what a unit of time adds to it
    further_px: torch.Tensor  # [2N, 2 (motions - 1), H, W], the further motions
    bend_px: torch.Tensor  # [2N, 2, H, W], half of the acceleration of what moves; no channels: none
    background: torch.Tensor  # [N, 1, H, W], see _background
    still_bent: torch.Tensor  # [N, 1, H, W], which frame is preferred where nothing moves
    moved_bent: torch.Tensor  # [N, 1, H, W], and where something does


class SymmetricMoStDSA(nn.Module):
    """Frames between two measured DSA frames.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the frames' size.
        pair_width: channels of what is known of a pair, at 1/2 of the size.
        time_width: channels of the refiner that runs for every time.
        flow: start from a motion that is given, and let what is known beside the frames move with it.
        motions: how many motions a place may have, 1 to 3: a subtracted X-ray picture is a sum of layers.
        curved: let what moves along a given flow be accelerated, as the frames beyond the pair say.
        angles: take the C-arm's turn: it says how what lies at which depth moves.
        cubic: sample moved frames by cubic interpolation, which leaves vessels as sharp as they were measured.

    Example::

        >>> net = SymmetricMoStDSA().eval()
        >>> net(torch.rand(1, 1, 64, 48), torch.rand(1, 1, 64, 48), [0.25, 0.5, 0.75]).shape
        torch.Size([1, 3, 1, 64, 48])
    """

    __constants__ = ("several",)  # motions: TorchScript leaves out what one motion does not have
    in_channels = 1
    takes_context = True  # the frames before and after the pair
    token_layers = ("levels.2.refine", "refiner.0")  # of the measured frames, and of the one that is made
    optional_parts = (
        "trust",
        "layer_motion",
        "layer_seen",
        "layer_share",
        "layer_own",
        "turn_bottom",
        "turn_level",
        "turn_depth",
    )  # which weights of another kind do not have

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 48, 64),
        pair_width: int = 24,
        time_width: int = 16,
        flow: bool = False,
        motions: int = 1,
        curved: bool = False,
        angles: bool = False,
        cubic: bool = False,
    ) -> None:
        super().__init__()
        if motions not in (1, 2, 3):
            raise ValueError(f"motions must be 1, 2 or 3, got {motions!r}.")
        self.takes_flow = bool(flow)
        self.motions = int(motions)
        self.curved = bool(curved)
        self.takes_angles = bool(angles)
        self.cubic = bool(cubic)
        self.several = self.motions > 1
        w1, w2, w3, w4 = widths
        self.unshuffle = nn.PixelUnshuffle(2)
        self.shuffle = nn.PixelShuffle(2)
        # own frame, other frame, the frame beyond each (4 pixels each); how far these two are
        self.encoders = nn.ModuleList(
            [
                nn.Sequential(conv(16 + 2, w1), conv(w1, w1)),
                nn.Sequential(conv(w1, w2, stride=2), conv(w2, w2)),
                nn.Sequential(conv(w2, w3, stride=2), conv(w3, w3)),
                nn.Sequential(conv(w3, w4, stride=2), conv(w4, w4)),
            ]
        )
        self.bottom = conv(2 * w4, w4)
        self.bottom_motion = head(w4, 2, std=1e-3, bias=False)
        self.levels = nn.ModuleList([Level(w4, w3, w3), Level(w3, w2, w2), Level(w2, w1, pair_width)])
        self.preference = head(pair_width, 8, kernel_size=1, bias=False)
        self.side_still = nn.Conv2d(4, time_width, 3, padding=1)
        self.side_moved = nn.Conv2d(5, time_width, 3, padding=1)
        self.refiner = conv(pair_width + time_width, pair_width)
        self.output = head(pair_width, 8)
        self.correction = head(pair_width, 4)
        # how much a given motion is believed: where it brings the frames nearer, is the same both ways, and goes on
        self.trust: nn.Module = nn.Identity()
        if flow:
            self.trust = trust = nn.Conv2d(3, 1, 1)
            with torch.no_grad():
                trust.weight.copy_(torch.tensor([30.0, -4.0, -8.0]).reshape(1, 3, 1, 1))
                trust.bias.fill_(-0.5)  # type: ignore[union-attr]
        # further motions: smooth ones, found at 1/8 of the size; how they show; what is taken of them
        self.layer_motion = head(w3, 4, std=1e-3, bias=False) if self.several else nn.Identity()
        self.layer_seen = head(time_width, pair_width) if self.several else nn.Identity()
        self.layer_share = head(pair_width, 3) if self.several else nn.Identity()
        self.layer_own = head(time_width, 2, bias=False) if self.several else nn.Identity()
        # the C-arm's turn: told where motion is found, and the depth of the further motions; 0 where it is unknown
        self.turn_bottom = head(3, w4, kernel_size=1, bias=False) if angles else nn.Identity()
        self.turn_level = head(3, w3, kernel_size=1, bias=False) if angles else nn.Identity()
        self.turn_depth = head(w3, 2, bias=False) if angles and self.several else nn.Identity()

    # ---- smaller ones ----

    def shrunk(self, share: float) -> dict[str, Any]:
        """Arguments of a network with about ``share`` of the weights: all widths go by its square root."""
        side = math.sqrt(share)
        return {
            "widths": [scaled(width_of(encoder.get_submodule("0")), side, 4) for encoder in self.encoders],
            "pair_width": scaled(width_of(self.refiner), side, 4),
            "time_width": scaled(self.side_still.out_channels, side, 4),
        }

    def channels(self) -> ChannelMap:
        """Which channels of which weights are the same, for students."""
        found = ChannelMap()
        seen: list[Space | int] = [self.encoders[0][0][0].in_channels]  # type: ignore[index, list-item]
        sides = []
        for i, encoder in enumerate(self.encoders):
            first, second = (
                Space(f"encoder {i} {j}", width_of(layers), cuttable=True)
                for j, layers in enumerate(encoder.children())
            )
            found.layer(f"encoders.{i}.0.0", seen, [first])
            found.layer(f"encoders.{i}.1.0", [first], [second])
            seen = [second]
            sides.append(second)
        coarse = Space("bottom", width_of(self.bottom), cuttable=True)
        found.layer("bottom.0", 2 * [sides[3]], [coarse])
        found.layer("bottom_motion", [coarse], [2])
        levels = []
        for i, level in enumerate(cast("Sequence[Level]", self.levels)):
            joined = Space(f"joined {i}", width_of(level.join), cuttable=True)
            found.layer(f"levels.{i}.join.0", [coarse, sides[2 - i], sides[2 - i]], [joined])
            found.layer(f"levels.{i}.refine.0", [joined], [joined])
            found.layer(f"levels.{i}.motion", [joined], [2])
            coarse = joined
            levels.append(joined)
        seen_at = Space("moment", self.side_still.out_channels, cuttable=True)
        refined = Space("refined", width_of(self.refiner), cuttable=True)
        found.layer("preference", [levels[2]], [8])
        found.layer("side_still", [4], [seen_at])
        found.layer("side_moved", [5], [seen_at])
        found.layer("refiner.0", [levels[2], seen_at], [refined])
        found.layer("output", [refined], [8])
        found.layer("correction", [refined], [4])
        if self.motions > 1:
            found.layer("layer_motion", [levels[0]], [4])
            found.layer("layer_seen", [seen_at], [refined])
            found.layer("layer_share", [refined], [3])
            found.layer("layer_own", [seen_at], [2])
        if self.takes_angles:
            found.layer("turn_bottom", [3], [Space("bottom", width_of(self.bottom), cuttable=True)])
            found.layer("turn_level", [3], [levels[0]])
            found.layer("turn_depth", [levels[0]], [2])
        return found

    # ---- once per pair ----

    def pair(
        self,
        frames: torch.Tensor,
        beyond: torch.Tensor,
        nearness: torch.Tensor,
        flow_px: torch.Tensor | None = None,
        turn: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is known of a pair at every time.

        Args:
            frames: [2B, 1, H, W], rows of frame 0 then of frame 1; H and W multiples of 16.
            beyond: [2B, 1, H, W], the frame before frame 0, the frame after frame 1, each moved onto its neighbour.
            nearness: [2B], length of the gap over the distance to the frame beyond; 0 where there is none.
            flow_px: [2B, 2, H, W], the motion to start from, from each frame towards the other; none for no motion.
            turn: [2B, 3], what the C-arm's turn from each frame towards the other does; none where it is unknown.

        Returns:
            features [2B, pair_width, H/2, W/2]; motion [2B, 2, H, W] of own towards other, in pixels, as the middle of
            the gap sees it; the same at half of the size [2B, 2, H/2, W/2], in pixels of that size; further motions
            [2B, 2 (motions - 1), H/8, W/8], in pixels of that size.
        """
        other = swap(torch.cat([frames, beyond], dim=1))
        if flow_px is not None:
            other = warp(other, flow_px)
        x = torch.cat([frames, other[:, :1], beyond, other[:, 1:]], dim=1)
        x = self.unshuffle(x)
        near = torch.stack([nearness, swap(nearness)], dim=1).to(x.dtype)[:, :, None, None]
        near = near.expand(-1, -1, x.shape[-2], x.shape[-1])
        x = torch.cat([channels_last(4 * (x - 0.7)), channels_last(near)], dim=1)
        pyramid: list[torch.Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            pyramid.append(x)
        # a place in the middle of the motion is where the other frame's flow towards this one leads to
        starts: list[torch.Tensor] = []  # at 1/2, 1/4, 1/8 and 1/16
        start = None if flow_px is None else -swap(flow_px)
        if start is not None:
            starts.append(_smaller(start, 2))
            for number in range(3):
                starts.append(_smaller(starts[number], 2))
            x = channels_last(warp(x, -starts[3] / 2))
        x = torch.cat([x, swap(x)], dim=1)
        told: torch.Tensor | None = None
        if turn is None:
            x = self.bottom(x)
        else:
            turned = torch.cat([turn[:, :2] / 16, turn[:, 2:]], dim=1)[:, :, None, None]  # pixels of this size
            x = F.leaky_relu(self.bottom[0](x) + self.turn_bottom(turned), 0.1, inplace=True)
            told = self.turn_level(turned)
        rest_px = signed(self.bottom_motion(difference(x)))
        wide = x
        for number, level in enumerate(self.levels):
            start_px = None if start is None else starts[2 - number]
            x, rest_px = level(pyramid[2 - number], x, rest_px, start_px, told if number == 0 else None)
            if number == 0:
                wide = x
        full_px = 2 * F.interpolate(rest_px, scale_factor=2.0, mode="bilinear", align_corners=False)
        half_px = rest_px
        if start is not None:
            full_px, half_px = full_px + start, half_px + starts[0]
        return x, full_px, half_px, self._further_motions(wide, half_px, turn)

    def _trusted(self, frames: torch.Tensor, towards: torch.Tensor, nearness: torch.Tensor) -> torch.Tensor:
        """Share [2B, 1, H, W] of the given flow that is used: noise and contrast that comes have one without a motion.

        Args:
            frames: [2B, 1, H, W].
            towards: [2B, 4, H, W], flow to the other frame and to the frame beyond.
            nearness: [2B].
        """
        flow, back = towards.split(2, dim=1)
        seen = warp(torch.cat([swap(frames), swap(flow)], dim=1), flow)
        still, moved = _around(swap(frames) - frames), _around(seen[:, :1] - frames)
        nearer = ((still - moved) / (still + moved + 1e-3)).clamp(max=0.3)
        near = nearness.to(flow.dtype)[:, None, None, None]
        size, back_size = _around(_length(flow)), _around(_length(back))
        both_ways = _around(_length(flow + seen[:, 1:])) / (size + swap(size) + 0.3)
        goes_on = _around(_length(flow + near * back)) / (size + near * back_size + 0.3)
        goes_on = torch.where(near > 0, goes_on, torch.full_like(goes_on, 0.3))
        share = torch.sigmoid(self.trust(torch.cat([nearer, both_ways, goes_on], dim=1)))
        return F.interpolate(share, scale_factor=4.0, mode="bilinear", align_corners=False)

    def _further_motions(
        self, features: torch.Tensor, flow_px: torch.Tensor, turn: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[2B, 2 (motions - 1), H/8, W/8]: what moves otherwise nearby may pass here, and what is learned of it."""
        if self.motions == 1:
            return flow_px[:, :0, ::4, ::4]
        here = antisymmetric(_smaller(flow_px, 4).float())
        most, least = _most(here, 7), -_most(-here, 7)
        near = F.avg_pool2d(torch.cat([most, least], dim=1), 3, 1, 1, count_include_pad=False)
        near = near + self.layer_motion(features).float()
        if turn is not None:  # at which depths something else may lie, and how the turn moves it
            depths = self.turn_depth(features).float().chunk(2, dim=1)
            near = near + torch.cat([depth * turn[:, :2, None, None] / 8 for depth in depths], dim=1)
        # what is the most for one side is the least for the other, and is one motion
        forth = antisymmetric(torch.cat([near[: len(near) // 2, :2], near[len(near) // 2 :, 2:]]))
        back = antisymmetric(torch.cat([near[: len(near) // 2, 2:], near[len(near) // 2 :, :2]]))
        if self.motions == 3:
            return torch.cat([forth, back], dim=1)
        return torch.where((forth - here).abs() > (back - here).abs(), forth, back)

    def _enlarged(self, further_px: torch.Tensor) -> torch.Tensor:
        """Further motions [2B, 2 (motions - 1), H, W], in pixels of that size."""
        if self.motions == 1:
            return further_px
        return 8 * F.interpolate(further_px, scale_factor=8.0, mode="bilinear", align_corners=False)

    # ---- once per time ----

    def at(
        self,
        frames: torch.Tensor,
        beyond: torch.Tensor,
        features: torch.Tensor,
        full_px: torch.Tensor,
        half_px: torch.Tensor,
        further_px: torch.Tensor,
        timesteps: torch.Tensor,
        bend_px: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pictures of all pairs at all times, in one batch where that is faster.

        Args:
            frames, beyond: [2B, 1, H, W].
            features, full_px, half_px, further_px: from :meth:`pair`.
            timesteps: [B, T] in [0, 1].
            bend_px: [2B, 2, H, W], from :func:`bend`; none for motion that is even.

        Returns:
            [BT, 1, H, W], the times of a pair one after another.
        """
        still_bent, moved_bent = self.preference(difference(features)).chunk(2, dim=1)
        maps = _PairMaps(
            frames=torch.cat([frames, _corrections(frames, beyond)], dim=1),
            full_px=full_px,
            middle_px=difference(half_px),
            features=features,
            still_seen=self._still_seen(frames),
            passed_seen=F.conv2d(torch.ones_like(half_px[:1, :1]), self.side_moved.weight[:, 4:], padding=1),
            further_px=self._enlarged(further_px),
            bend_px=full_px[:, :0] if bend_px is None else bend_px,
            background=_background(frames) if self.motions > 1 else frames[:0],
            still_bent=self.shuffle(still_bent),
            moved_bent=self.shuffle(moved_bent),
        )
        count = timesteps.shape[1]
        if count == 1 or torch.is_grad_enabled() or frames.device.type != "cpu":
            return self._at(_repeated_maps(maps, count), timesteps)
        # one after another: on a CPU, maps that are copied for every time cost more than they save
        made = [self._at(maps, timesteps[:, k : k + 1]) for k in range(count)]
        return torch.stack(made, dim=1).flatten(0, 1)

    def _at(self, maps: _PairMaps, t: torch.Tensor) -> torch.Tensor:
        """[N, 1, H, W] at times ``t``, of which there are N, one for each row of ``maps``."""
        frames, corrections = maps.frames.split([1, 4], dim=1)
        t = t.reshape(-1, 1, 1, 1).to(frames.dtype)  # [N, 1, 1, 1]
        since = torch.cat([t, 1 - t])  # [2N, 1, 1, 1], time from each side's own frame
        # what corrects a frame moves with it, where the motion is known beforehand
        bent_px = (1 - since) * maps.bend_px
        at = places(_bent_path(maps.full_px, bent_px), -since)
        if self.cubic:
            moved = sample(frames, at, "bicubic")
            moved_corrections = sample(corrections, at) if self.takes_flow else corrections
        else:
            moved = sample(maps.frames if self.takes_flow else frames, at)
            moved, moved_corrections = moved[:, :1], moved[:, 1:]
        # what is known of the pair lies in the middle of its motion
        known = warp(_between(maps.features, t), maps.middle_px, 0.5 - t)  # [N, pair_width, H/2, W/2]
        seen_at_t = torch.addcmul(maps.still_seen, maps.passed_seen, since.to(maps.still_seen.dtype))
        x = self.refiner[0](torch.cat([channels_last(known), self._seen(moved, seen_at_t)], dim=1))
        others: list[torch.Tensor] = []
        for number in range(self.motions - 1):
            further = maps.further_px[:, 2 * number : 2 * number + 2]
            others.append(warp(frames, _bent_path(further, bent_px), -since))
        seen = [self._seen(other, seen_at_t) for other in others]
        if self.motions > 1:
            x = x + self.layer_seen(seen[0] if self.motions == 2 else seen[0] + seen[1])
        x = F.leaky_relu(x, 0.1, inplace=True)
        picture, share = self._heads(x, seen)

        gate, residual = self.shuffle(picture.reshape(-1, 2, 4, x.shape[-2], x.shape[-1])).unbind(1)  # [N, 1, H, W]
        still = _between(frames, _bent(t, maps.still_bent))
        follows = _between(moved, _bent(t, maps.moved_bent))
        gate = torch.sigmoid(gate).to(still.dtype)  # frames keep their digits when layers run in half precision
        offered = _between(corrections, t)  # [N, 4, H, W]
        if self.takes_flow:
            offered = torch.lerp(offered, _between(moved_corrections, t), gate)
        if self.motions > 1:
            offered = torch.cat([offered, _layers(moved, others, maps.background, t)], dim=1)
        residual = residual + (share * offered).sum(1, keepdim=True)
        return torch.lerp(still, follows, gate) + t * (1 - t) * residual

    def _still_seen(self, frames: torch.Tensor) -> torch.Tensor:
        """[2N, time_width, H/2, W/2]: what of both convolutions does not depend on the time."""
        still = self.side_still(channels_last(4 * (self.unshuffle(frames) - 0.7)))
        offset = self.side_moved.bias
        assert offset is not None
        return still + offset[:, None, None]

    def _seen(self, moved: torch.Tensor, seen_at_t: torch.Tensor) -> torch.Tensor:
        """[N, time_width, H/2, W/2]: both sides together, after one motion."""
        # the weights' order is the one that the convolution works in
        weight = channels_last(self.side_moved.weight[:, :4])
        seen = seen_at_t + F.conv2d(self.unshuffle(4 * (moved - 0.7)), weight, padding=1)
        seen0, seen1 = F.leaky_relu(seen, 0.1, inplace=True).chunk(2)
        return seen0 + seen1

    def _heads(self, x: torch.Tensor, seen: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gate and residual [N, 8, H/2, W/2], and the shares [N, 4 or more, H, W] of what may be added."""
        # all heads in one convolution: to read x is most of what each costs
        offset, share_offset = self.output.bias, self.correction.bias
        assert offset is not None and share_offset is not None
        weights, offsets = [self.output.weight, self.correction.weight], [offset, share_offset]
        if self.several:
            weights.append(self.layer_share.weight)  # type: ignore[arg-type]
            layer_offset = self.layer_share.bias
            assert layer_offset is not None
            offsets.append(layer_offset)  # type: ignore[arg-type]
        heads = F.conv2d(x, torch.cat(weights), torch.cat(offsets), padding=1).contiguous()
        picture, share = heads[:, :8], heads[:, 8:13]
        if self.several:
            shares = [share]
            for one in seen:
                shares.append(heads[:, 13:] + self.layer_own(one))
            share = torch.cat(shares, dim=1)
        return picture, F.interpolate(share, scale_factor=2.0, mode="bilinear", align_corners=False)

    # ---- all of it ----

    def forward(
        self,
        frame0: torch.Tensor,
        frame1: torch.Tensor | None = None,
        timesteps: float | Sequence[float] | torch.Tensor = 0.5,
        before: torch.Tensor | None = None,
        after: torch.Tensor | None = None,
        nearness: torch.Tensor | None = None,
        flow_px: torch.Tensor | None = None,
        turn: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pictures at ``timesteps`` of the gap.

        Args:
            frame0, frame1: [B, 1, H, W], dark vessels on a bright ground, about [0, 1]; any size. Without ``frame1``
                the two frames are the channels of ``frame0`` [B, 2, H, W].
            timesteps: in [0, 1]; one number, [T], or [B, T].
            before, after: [B, 1, H, W], the measured frames on either side of the pair, where there are any.
            nearness: [B, 2], length of the gap over the distance from frame 0 to ``before`` and from frame 1 to
                ``after`` (1 in an even run; 0 for a row that has none). 1 where not given.
            flow_px: [B, 8, H, W], for a network with ``flow``: where a pixel of frame 0 goes in frame 1, one of frame 1
                in frame 0, one of frame 0 in ``before``, one of frame 1 in ``after`` (x, y each, in pixels; 0 where
                there is no frame). None: no motion to start from, all of it is learned.
            turn: [B, 3], for a network with ``angles``: how a point 50 mm nearer to the source than the isocentre moves
                from frame 0 to frame 1 by the C-arm's turn alone (x, y, in pixels), and 1
                (``custom_nets.data.angiography.parts.RunGeometry.turn``); zeros where it is unknown. None: unknown.

        Returns:
            [B, T, 1, H, W]; [B, T, H, W] when the frames came as channels.

        Raises:
            ValueError: shapes that do not fit, or a time outside the gap.
        """
        as_channels = frame1 is None
        if as_channels:
            if frame0.ndim != 4 or frame0.shape[1] != 2:
                raise ValueError(f"two frames as channels are needed, [B, 2, H, W], got {tuple(frame0.shape)}.")
            frame0, frame1 = frame0.chunk(2, dim=1)
        assert frame1 is not None
        self._check(frame0, frame1, before, after)
        if flow_px is not None and (
            flow_px.ndim != 4 or flow_px.shape[1] != 8 or flow_px.shape[2:] != frame0.shape[2:]
        ):
            raise ValueError(f"flow_px must be [B, 8, H, W] like the frames, got {tuple(flow_px.shape)}.")
        if turn is not None and turn.shape != (len(frame0), 3):
            raise ValueError(f"turn must be [B, 3] with a row per pair, got {tuple(turn.shape)}.")
        b, _, height, width = frame0.shape
        t = pair_timesteps(timesteps, b, frame0.device)
        if nearness is None:
            nearness = frame0.new_ones(b, 2)
        near = [0 * n if x is None else n for n, x in zip(nearness.unbind(1), (before, after), strict=True)]
        frames = self._padded(torch.cat([frame0, frame1]))
        outer = [f if x is None else x for f, x in zip((frame0, frame1), (before, after), strict=True)]
        beyond = self._padded(torch.cat(outer))
        towards: torch.Tensor | None = None
        bend_px: torch.Tensor | None = None
        if self.takes_flow and flow_px is not None:
            sides = self._padded(flow_px).split(2, dim=1)
            given = torch.cat([torch.cat([sides[0], sides[2]], dim=1), torch.cat([sides[1], sides[3]], dim=1)])
            given = given * self._trusted(frames, given, torch.cat(near))
            towards = given[:, :2]
            if self.curved:
                bend_px = bend(given, torch.cat(near))
            beyond = warp(beyond, given[:, 2:])
        turns: torch.Tensor | None = None
        if self.takes_angles and turn is not None:
            turn = turn.to(frames.dtype)
            turns = torch.cat([turn, torch.cat([-turn[:, :2], turn[:, 2:]], dim=1)])
        known = self.pair(frames, beyond, torch.cat(near), towards, turns)
        pred = self.at(frames, beyond, *known, t, bend_px)[:, :, :height, :width]
        pred = pred.reshape(b, t.shape[1], 1, height, width)
        return pred[:, :, 0] if as_channels else pred

    @staticmethod
    def _check(frame0: torch.Tensor, *others: torch.Tensor | None) -> None:
        if frame0.ndim != 4 or frame0.shape[1] != 1:
            raise ValueError(f"frames must be [B, 1, H, W], got {tuple(frame0.shape)}.")
        for other in others:
            if other is not None and other.shape != frame0.shape:
                raise ValueError(f"frames differ in shape: {tuple(frame0.shape)} and {tuple(other.shape)}.")

    @staticmethod
    def _padded(frames: torch.Tensor, divisor: int = 16) -> torch.Tensor:
        height, width = frames.shape[-2:]
        right, below = (divisor - width % divisor) % divisor, (divisor - height % divisor) % divisor
        return F.pad(frames, [0, right, 0, below], mode="replicate")

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles: TorchScript has no arguments of several types."""
        twin = _FramesAsChannels(
            [encoder[1][0].out_channels for encoder in self.encoders],  # type: ignore[index, misc, union-attr]
            self.refiner[0].out_channels,  # type: ignore[arg-type]
            self.side_still.out_channels,
            self.takes_flow,
            self.motions,
            self.curved,
            self.takes_angles,
            self.cubic,
        )
        twin.load_state_dict(self.state_dict(), assign=True)
        return twin.train(self.training)


class _FramesAsChannels(SymmetricMoStDSA):
    """:class:`SymmetricMoStDSA` with the one kind of call that is exported."""

    def forward(  # type: ignore[override]
        self, image: torch.Tensor, timesteps: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[B, T, H, W] at ``timesteps`` [T] (0.5 where not given) between the channels of ``image`` [B, 2, H, W]."""
        b, channels, height, width = image.shape
        if channels != 2:
            raise ValueError("two frames as channels are needed, [B, 2, H, W].")
        t = torch.full([1], 0.5, device=image.device) if timesteps is None else timesteps.float()
        if t.device.type == "cpu" and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError("timesteps must lie between 0 and 1 (nothing is extrapolated).")
        frame0, frame1 = image.chunk(2, dim=1)
        frames = self._padded(torch.cat([frame0, frame1]))
        # no frames beyond the pair: its own stand in, with nearness 0
        near = torch.zeros(2 * b, dtype=image.dtype, device=image.device)
        known = self.pair(frames, frames, near)
        pred = self.at(frames, frames, *known, t.reshape(1, -1).expand(b, -1))
        return pred[:, :, :height, :width].reshape(b, -1, height, width)

    def __prepare_scriptable__(self) -> nn.Module:
        return self


def bend(towards_px: torch.Tensor, nearness: torch.Tensor) -> torch.Tensor:
    """Half of the acceleration [2B, 2, H, W], in pixels over the square of the gap, of what moves on an arc.

    A place of frame 0 that is at ``-1 / nearness`` in the frame before, at 0 in its own and at 1 in the other is, on a
    parabola, at ``s towards - s (1 - s) bend`` at ``s``. Run backwards, frame 1 says the same. What both say is taken
    (the smaller where they agree in sign, nothing elsewhere): of noise and pulsation the sides say different things.

    Args:
        towards_px: [2B, 4, H, W], flow to the other frame and to the frame beyond.
        nearness: [2B], length of the gap over the distance to the frame beyond; 0 where there is none.
    """
    flow, back = towards_px.split(2, dim=1)
    near = nearness.to(flow.dtype)[:, None, None, None]
    own = near * (flow + near * back) / (1 + near)
    other = swap(own)
    return torch.where(own * other > 0, torch.where(own.abs() < other.abs(), own, other), torch.zeros_like(own))


def _bent_path(flow_px: torch.Tensor, bend_px: torch.Tensor) -> torch.Tensor:
    """Flow that leads, after a share of the gap, to where a bent motion is by then."""
    return flow_px - bend_px if bend_px.shape[1] else flow_px


def _repeated_maps(maps: _PairMaps, count: int) -> _PairMaps:
    """Each row ``count`` times."""
    return _PairMaps(
        frames=_repeated(maps.frames, count),
        full_px=_repeated(maps.full_px, count),
        middle_px=_repeated(maps.middle_px, count),
        features=_repeated(maps.features, count),
        still_seen=_repeated(maps.still_seen, count),
        passed_seen=maps.passed_seen,
        further_px=_repeated(maps.further_px, count),
        bend_px=_repeated(maps.bend_px, count),
        background=_repeated(maps.background, count),
        still_bent=_repeated(maps.still_bent, count),
        moved_bent=_repeated(maps.moved_bent, count),
    )


def _repeated(x: torch.Tensor, count: int) -> torch.Tensor:
    """[N, ...] -> [N count, ...], each row ``count`` times."""
    return x if count == 1 else x.repeat_interleave(count, dim=0)


def _corrections(frames: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
    """[2B, 4, H, W] to add to a side's frame: two blurs, and what the frame beyond has in detail and at large."""
    other = beyond - frames
    at_large = _mean(other, 7)
    return torch.cat([_mean(frames, 3) - frames, _mean(frames, 7) - frames, other - at_large, at_large], dim=1)


def _around(values: torch.Tensor) -> torch.Tensor:
    """[N, 1, H/4, W/4]: mean size of values within 14 pixels."""
    return _mean(F.avg_pool2d(values.abs(), 4), 7)


def _length(flow_px: torch.Tensor) -> torch.Tensor:
    """[N, 1, H, W] of vectors [N, 2, H, W]."""
    return (flow_px.square().sum(1, keepdim=True) + 1e-6).sqrt()


def _smaller(flow_px: torch.Tensor, factor: int) -> torch.Tensor:
    """A flow at ``1 / factor`` of the size, in pixels of that size."""
    return F.avg_pool2d(flow_px, factor) / factor


def _background(frames: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W]: the brightness around, without what is darker than it; the same for both sides."""
    small = F.avg_pool2d(frames, 8)
    small = F.max_pool2d(small, 5, 1, 2)
    small = F.avg_pool2d(small, 5, 1, 2, count_include_pad=False)
    start, end = F.interpolate(small, scale_factor=8.0, mode="bilinear", align_corners=False).chunk(2)
    return (start + end) / 2


def _layers(moved: torch.Tensor, others: list[torch.Tensor], background: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """[N, 2 K - 1, H, W] that may be added to the frame of the first motion.

    What both frames have along a motion is that motion's layer; frames are sums of layers, so it can be added. What
    only one of them has is another layer's, and can be taken away from the first.
    """
    first = _between(moved, t)
    side0, side1 = moved.chunk(2)
    found = [torch.maximum(side0, side1) - first]
    for other in others:
        side0, side1 = other.chunk(2)
        found.append(torch.minimum(torch.maximum(side0, side1) - background, torch.zeros_like(background)))
        found.append(_between(other, t) - first)
    return 4 * torch.cat(found, dim=1)


def _mean(x: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over a square of ``size`` pixels around each, of those that there are: ten times as fast as avg_pool2d."""
    for dim in (2, 3):
        length, half = x.shape[dim], size // 2
        padded = F.pad(x, [0, 0, half, half] if dim == 2 else [half, half])
        place = torch.arange(length, device=x.device)
        count = (place + half).clamp(max=length - 1) - (place - half).clamp(min=0) + 1
        total = padded.narrow(dim, 0, length)
        for k in range(1, size):
            total = total + padded.narrow(dim, k, length)
        x = total / (count[:, None] if dim == 2 else count)
    return x


def _most(x: torch.Tensor, size: int) -> torch.Tensor:
    """The largest within a square of ``size`` pixels around each."""
    half = size // 2
    return F.max_pool2d(F.max_pool2d(x, [size, 1], 1, [half, 0]), [1, size], 1, [0, half])


def _between(sides: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[2N, ...], rows of side 0 then of side 1 -> [N, ...], ``weight`` of the way from side 0 to side 1."""
    start, end = sides.chunk(2)
    return torch.lerp(start, end, weight.to(start.dtype))


def _bent(t: torch.Tensor, preference: torch.Tensor) -> torch.Tensor:
    """Weight of frame 1: t, bent away from the preferred frame 0, and still 0 at t = 0 and 1 at t = 1."""
    e = torch.exp(-preference.clamp(-4, 4))
    return t * e / (t * e + (1 - t) / e)
