"""SymmetricMoStDSA: any moment between two DSA frames, the same picture whichever way time runs.

After MoSt-DSA (Xu et al., ECAI 2024, https://arxiv.org/abs/2407.07078), whose published network is
:class:`custom_nets.networks.MoStDSA`. What is kept: two frames are encoded together, each looking at the other; a
motion between them warps both; a refiner corrects. What differs, and why:

- one grey channel and one set of weights for any number of frames at any time;
- *symmetric by construction*: both frames pass the same layers, so swapping them and ``t -> 1-t`` gives the same
  picture;
- ``t = 0`` and ``t = 1`` are the measured frames, exactly;
- nearly all work is done once per pair: a further moment costs about a fifth of the pair;
- the measured frames before and after the pair may be given. They show what is noise (of the frame), what is fixed (the
  mask's noise, subtracted from all frames), and how contrast comes and goes;
- plain corrections are at hand (less noise by a small blur or by the frames beyond the pair, a curve in time instead of
  a line): the network weighs them for each place, which is learned much faster than to compute them;
- static and moving content are kept apart: a gate chooses for each pixel between frames that follow the motion and
  frames that stand still. Contrast that arrives without motion, and the mask's noise, must not be warped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["SymmetricMoStDSA"]


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (or halves it), and its activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2), nn.LeakyReLU(0.1, inplace=True)
    )


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


def warp(image: torch.Tensor, flow_px: torch.Tensor) -> torch.Tensor:
    """Sample ``image`` [N, C, H, W] at ``x + flow_px`` [N, 2, H, W] (x, y in pixels), bilinear, borders repeated."""
    height, width = image.shape[-2:]
    flow = flow_px.float()  # positions need more digits than half precision has
    x = torch.arange(width, device=image.device, dtype=torch.float32) + flow[:, 0]
    y = torch.arange(height, device=image.device, dtype=torch.float32)[:, None] + flow[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False).to(image.dtype)


def swap(sides: torch.Tensor) -> torch.Tensor:
    """[2B, ...], rows of frame 0 then rows of frame 1: what the other side has."""
    own, other = sides.chunk(2)
    return torch.cat([other, own])


def antisymmetric(sides: torch.Tensor) -> torch.Tensor:
    """The part of [2B, ...] that changes its sign when the sides are swapped."""
    return (sides - swap(sides)) / 2


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
        self, features: torch.Tensor, coarse: torch.Tensor, flow_px: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        flow_px = 2 * F.interpolate(flow_px, scale_factor=2.0, mode="bilinear", align_corners=False)
        own = warp(features, -flow_px / 2)
        x = self.join(torch.cat([coarse, own, swap(own)], dim=1))
        x = x + self.refine(x)
        return x, flow_px + antisymmetric(self.motion(x))


class SymmetricMoStDSA(nn.Module):
    """Frames between two measured DSA frames.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the frames' size.
        pair_width: channels of what is known of a pair, at 1/2 of the size.
        time_width: channels of the refiner that runs for every moment.

    Example::

        >>> net = SymmetricMoStDSA().eval()
        >>> net(torch.rand(1, 1, 64, 48), torch.rand(1, 1, 64, 48), [0.25, 0.5, 0.75]).shape
        torch.Size([1, 3, 1, 64, 48])
    """

    in_channels = 1
    takes_context = True  # the frames before and after the pair

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64), pair_width: int = 24, time_width: int = 16) -> None:
        super().__init__()
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

    # ---- once per pair ----

    def pair(
        self, frames: torch.Tensor, beyond: torch.Tensor, nearness: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is known of a pair at every moment.

        Args:
            frames: [2B, 1, H, W], rows of frame 0 then of frame 1; H and W multiples of 16.
            beyond: [2B, 1, H, W], the frame before frame 0, the frame after frame 1.
            nearness: [2B], length of the gap over the distance to the frame beyond; 0 where there is none.

        Returns:
            features [2B, pair_width, H/2, W/2], motion [2B, 2, H/2, W/2] of own towards other, in half-size pixels.
        """
        x = self.unshuffle(torch.cat([frames, swap(frames), beyond, swap(beyond)], dim=1))
        near = torch.stack([nearness, swap(nearness)], dim=1).to(x.dtype)[:, :, None, None]
        x = torch.cat([4 * (x - 0.7), near.expand(-1, -1, x.shape[-2], x.shape[-1])], dim=1)
        pyramid: list[torch.Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            pyramid.append(x)
        x = self.bottom(torch.cat([x, swap(x)], dim=1))
        flow_px = antisymmetric(self.bottom_motion(x))
        for number, level in enumerate(self.levels):
            x, flow_px = level(pyramid[2 - number], x, flow_px)
        return x, flow_px

    # ---- once per moment ----

    def moments(
        self,
        frames: torch.Tensor,
        beyond: torch.Tensor,
        features: torch.Tensor,
        flow_px: torch.Tensor,
        t: torch.Tensor,
    ) -> torch.Tensor:
        """All moments of all pairs, in one batch where that is faster.

        Args:
            frames, beyond: [2B, 1, H, W].
            features, flow_px: from :meth:`pair`.
            t: [B, T] in [0, 1].

        Returns:
            [BT, 1, H, W], the moments of a pair one after another.
        """
        full_flow = 2 * F.interpolate(flow_px, scale_factor=2.0, mode="bilinear", align_corners=False)
        still_bent, moved_bent = antisymmetric(self.preference(features)).chunk(2)[0].chunk(2, dim=1)
        still_seen = self.side_still(4 * (self.unshuffle(frames) - 0.7))
        corrections = _corrections(frames, beyond)

        once = (frames, full_flow, flow_px.chunk(2)[0], features, still_seen, corrections)
        bent = (self.shuffle(still_bent), self.shuffle(moved_bent))
        count = t.shape[1]
        if count == 1 or torch.is_grad_enabled() or frames.device.type != "cpu":
            return self._moments(once, bent, t)
        # one after another: on a CPU, maps that are copied for every moment cost more than they save
        made = [self._moments(once, bent, t[:, k : k + 1]) for k in range(count)]
        return torch.stack(made, dim=1).flatten(0, 1)

    def _moments(
        self,
        once: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        bent: tuple[torch.Tensor, torch.Tensor],
        t: torch.Tensor,
    ) -> torch.Tensor:
        """:meth:`moments` from what is the same for all of them."""
        frames, full_flow, flow_px, features, still_seen, corrections = once
        still_bent, moved_bent = bent
        count = t.shape[1]
        corrections = _repeated(corrections, count)
        frames, full_flow = _repeated(frames, count), _repeated(full_flow, count)
        still_seen, features = _repeated(still_seen, count), _repeated(features, count)
        flow_px = _repeated(flow_px, count)
        still_bent, moved_bent = _repeated(still_bent, count), _repeated(moved_bent, count)
        t = t.reshape(-1, 1, 1, 1).to(frames.dtype)
        since = torch.cat([t, 1 - t])  # time from each side's own frame

        moved = warp(frames, -since * full_flow)
        passed = since.expand(-1, 1, still_seen.shape[-2], still_seen.shape[-1])
        seen = torch.cat([4 * (self.unshuffle(moved) - 0.7), passed], dim=1)
        seen = F.leaky_relu(still_seen + self.side_moved(seen), 0.1, inplace=True)
        seen0, seen1 = seen.chunk(2)
        # what is known of the pair lies in the middle of its motion
        known = warp(_between(features, t), (0.5 - t) * flow_px)
        x = self.refiner(torch.cat([known, seen0 + seen1], dim=1))
        # both heads in one convolution: to read x is most of what either costs
        weights = torch.cat([self.output.weight, self.correction.weight])
        offset, share_offset = self.output.bias, self.correction.bias
        assert offset is not None and share_offset is not None
        x = F.conv2d(x, weights, torch.cat([offset, share_offset]), padding=1)
        x, share = x.split([8, 4], dim=1)
        share = F.interpolate(share, scale_factor=2.0, mode="bilinear", align_corners=False)
        gate, residual = self.shuffle(x.reshape(-1, 2, 4, x.shape[-2], x.shape[-1])).unbind(1)
        residual = residual + (share * _between(corrections, t)).sum(1, keepdim=True)
        still = _between(frames, _bent(t, still_bent))
        follows = _between(moved, _bent(t, moved_bent))
        gate = torch.sigmoid(gate).to(still.dtype)  # frames keep their digits when layers run in half precision
        return torch.lerp(still, follows, gate) + t * (1 - t) * residual

    # ---- all of it ----

    def forward(
        self,
        frame0: torch.Tensor,
        frame1: torch.Tensor | None = None,
        timesteps: float | Sequence[float] | torch.Tensor = 0.5,
        before: torch.Tensor | None = None,
        after: torch.Tensor | None = None,
        nearness: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pictures at ``timesteps`` of the gap.

        Args:
            frame0, frame1: [B, 1, H, W], dark vessels on a bright ground, about [0, 1]; any size. Without ``frame1``
                the two frames are the channels of ``frame0`` [B, 2, H, W].
            timesteps: in [0, 1]; one number, [T], or [B, T].
            before, after: [B, 1, H, W], the measured frames on either side of the pair, where there are any.
            nearness: [B, 2], length of the gap over the distance from frame 0 to ``before`` and from frame 1 to
                ``after`` (1 in an even run; 0 for a row that has none). 1 where not given.

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
        b, _, height, width = frame0.shape
        t = torch.as_tensor(timesteps, dtype=torch.float32, device=frame0.device)
        t = t.expand(b, -1) if t.ndim == 2 else t.reshape(1, -1).expand(b, -1)
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"timesteps must lie between 0 and 1 (nothing is extrapolated), got {t[0].tolist()}.")
        if nearness is None:
            nearness = frame0.new_ones(b, 2)
        near = [0 * n if x is None else n for n, x in zip(nearness.unbind(1), (before, after), strict=True)]
        frames = self._padded(torch.cat([frame0, frame1]))
        outer = [f if x is None else x for f, x in zip((frame0, frame1), (before, after), strict=True)]
        beyond = self._padded(torch.cat(outer))
        features, flow_px = self.pair(frames, beyond, torch.cat(near))
        pred = self.moments(frames, beyond, features, flow_px, t)[:, :, :height, :width]
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
        twin = copy.copy(self)  # the same weights
        twin.__class__ = _FramesAsChannels
        return twin


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
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError("timesteps must lie between 0 and 1 (nothing is extrapolated).")
        frame0, frame1 = image.chunk(2, dim=1)
        frames = self._padded(torch.cat([frame0, frame1]))
        # no frames beyond the pair: its own stand in, with nearness 0
        features, flow_px = self.pair(frames, frames, torch.zeros(2 * b, dtype=image.dtype, device=image.device))
        pred = self.moments(frames, frames, features, flow_px, t.reshape(1, -1).expand(b, -1))
        return pred[:, :, :height, :width].reshape(b, -1, height, width)

    def __prepare_scriptable__(self) -> nn.Module:
        return self


def _repeated(x: torch.Tensor, count: int) -> torch.Tensor:
    """[N, ...] -> [N count, ...], each row ``count`` times."""
    return x if count == 1 else x.repeat_interleave(count, dim=0)


def _corrections(frames: torch.Tensor, beyond: torch.Tensor) -> torch.Tensor:
    """[2B, 4, H, W] to add to a side's frame: two blurs, and what the frame beyond has in detail and at large."""
    other = beyond - frames
    at_large = _mean(other, 7)
    return torch.cat([_mean(frames, 3) - frames, _mean(frames, 7) - frames, other - at_large, at_large], dim=1)


def _mean(x: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over a square of ``size`` pixels around each."""
    return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False)


def _between(sides: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[2N, ...], rows of side 0 then of side 1 -> [N, ...], ``weight`` of the way from side 0 to side 1."""
    start, end = sides.chunk(2)
    return torch.lerp(start, end, weight.to(start.dtype))


def _bent(t: torch.Tensor, preference: torch.Tensor) -> torch.Tensor:
    """Weight of frame 1: t, bent away from the preferred frame 0, and still 0 at t = 0 and 1 at t = 1."""
    e = torch.exp(-preference.clamp(-4, 4))
    return t * e / (t * e + (1 - t) / e)
