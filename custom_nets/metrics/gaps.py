"""PSNR of frame interpolation during training."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine

from custom_nets.metrics.mean import MeanMetric, psnr_db

__all__ = ["GapPSNR", "linear_blend"]


def linear_blend(frame0: torch.Tensor, frame1: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """``(1 - t) frame0 + t frame1``: frames [B, C, H, W] and timesteps [B, T] -> [B, T, C, H, W]."""
    t = timesteps[:, :, None, None, None].to(frame0)
    return torch.lerp(frame0[:, None], frame1[:, None], t)


class GapPSNR(MeanMetric):
    """Mean over made frames of the PSNR in dB, data range 1; all processes of a distributed run share the mean.

    Args:
        gain: give the PSNR minus that of the linear blend of the same two frames.
    """

    def __init__(self, gain: bool = False) -> None:
        self.gain = gain
        super().__init__()

    def iteration_completed(self, engine: Engine) -> None:
        """Take what is needed from batch and output: ignite hands over the output alone."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        pred = output["pred"]
        blend = linear_blend(*(batch[key].to(pred.device) for key in ("frame0", "frame1", "timesteps")))
        self.update((pred, output["label"], blend.expand_as(pred)))

    def update(self, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        """Add a batch: prediction, truth and blend, [B, T, C, H, W]."""
        pred, label, blend = (x.flatten(0, 1).double() for x in output)
        decibel = _psnr(pred, label)
        if self.gain:
            decibel = decibel - _psnr(blend, label)
        self.add(decibel.tolist())


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    # the floor keeps two equal frames from an infinite mean
    return psnr_db((image - truth).square().flatten(1).mean(1).clamp(min=1e-12))
