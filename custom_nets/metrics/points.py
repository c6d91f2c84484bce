"""PSNR against the truth and against B-spline, during training: at points, or of whole volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.utils import convert_to_tensor

from custom_nets.metrics.mean import MeanMetric, psnr_db

__all__ = ["ForegroundPSNR", "PointPSNR", "gains_by_scale", "scale_name"]


def scale_name(scale: Sequence[float]) -> str:
    """(1, 1, 4) -> "1x1x4"."""
    return "x".join(f"{float(s):.3g}" for s in scale)


class PointPSNR(MeanMetric):
    """Mean over cases of the PSNR in dB at the points of :class:`custom_nets.transforms.validation.FixedPointsd`.

    The data range is 1, to which training volumes are scaled. All processes of a distributed run share the mean.

    Args:
        gain: give the PSNR minus that of cubic B-spline at the same points.
        scale: count only the cases of this scale [3].
        profile: count only the cases that were blurred by this profile.
    """

    def __init__(self, gain: bool = False, scale: Sequence[float] | None = None, profile: str | None = None) -> None:
        self.gain = gain
        self.profile = profile
        self.scale = None if scale is None else scale_name(sorted(scale))
        super().__init__()

    def iteration_completed(self, engine: Engine) -> None:
        """Take what is needed from batch and output: ignite hands over the output alone."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        kept: Any = slice(None)
        if self.profile is not None:
            kept = [i for i, name in enumerate(batch["profile"]) if name == self.profile]
        cases = (output["pred"], output["label"], batch["bspline"].to(output["pred"]), batch["scale"])
        self.update(tuple(convert_to_tensor(part, track_meta=False)[kept] for part in cases))  # type: ignore[arg-type]

    def update(self, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        """Add a batch: prediction, truth, B-spline [B, K, 1] and scale [B, 3]."""
        for pred, label, bspline, scale in zip(*output, strict=True):
            if self.scale in (None, scale_name(scale.tolist())):
                self.add([_psnr(pred, label) - (_psnr(bspline, label) if self.gain else 0.0)])


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    # the floor keeps two equal images from an infinite mean
    return float(psnr_db((image.double() - truth.double()).square().mean().clamp(min=1e-12)))


class ForegroundPSNR(PointPSNR):
    """:class:`PointPSNR` of whole volumes, in the voxels where the truth is above 2 % of its maximum.

    For :class:`custom_nets.transforms.validation.FixedThickSlicesd`.
    """

    def update(self, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        """Add a batch: prediction, truth, B-spline [B, 1, X, Y, Z] and scale [B, 3]."""
        parts = [convert_to_tensor(part, track_meta=False).cpu() for part in output]
        for pred, label, bspline, scale in zip(*parts, strict=True):
            inside = label > 0.02 * label.max()
            super().update((pred[inside][None], label[inside][None], bspline[inside][None], scale[None]))


def gains_by_scale(
    scales: Sequence[Sequence[float]], metric: type[PointPSNR] = PointPSNR, profiles: Sequence[str] = ()
) -> dict[str, PointPSNR]:
    """``gain_db`` over all cases, one ``gain_1x1x4_db`` for each scale, and one ``gain_1x1x4_box_db`` for each scale
    and profile."""
    found = {"gain_db": metric(gain=True)}
    for scale in scales:
        name = scale_name(sorted(scale))
        found[f"gain_{name}_db"] = metric(gain=True, scale=scale)
        for profile in profiles:
            found[f"gain_{name}_{profile}_db"] = metric(gain=True, scale=scale, profile=profile)
    return found
