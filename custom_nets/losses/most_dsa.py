"""The loss that MoSt-DSA was trained with, and its schedule of weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import torch
from torch.nn.modules.loss import _Loss

from custom_nets.losses.laplacian import LaplacianPyramidLoss
from custom_nets.losses.vgg_losses import VGGLosses
from custom_nets.networks.layers.vgg19 import load_vgg19_features
from custom_nets.networks.most_dsa import Interpolation

__all__ = ["MoStDSALoss"]


class MoStDSALoss(_Loss):
    """Laplacian pyramid, perceptual and style loss of the frames and of the merged frames, summed over the times.

    ``sum over times, sum over (pred, merged): w_lap Lap + w_perceptual P + w_style S``

    Each weight is (boundary epoch, value before it, value from it on); epochs count from 1. The defaults are the
    published ones: the first epoch has no style term.

    VGG19's weights are not shipped. Without them the Laplacian loss is alone, which is said in a warning, and which is
    blind to the brightness unless ``anchor`` is set.

    Args:
        vgg: file of VGG19's weights (torchvision's ``vgg19-dcbb9e9d.pth``), or None to leave these terms out.
        convention: what these weights were trained on, see :class:`custom_nets.networks.layers.vgg19.VGG19Features`.
        require_vgg: refuse to go on without the weights.
        laplacian, perceptual, style: (boundary, before, after).
        anchor: weight of the brightness in the Laplacian loss, see :class:`LaplacianPyramidLoss`; 0 is published.

    Attributes:
        epoch: set it at the start of each epoch, from 1 on.
    """

    def __init__(
        self,
        vgg: str | os.PathLike | VGGLosses | None = None,
        convention: str = "torchvision",
        require_vgg: bool = False,
        laplacian: Sequence[float] = (0, 1.0, 1.0),
        perceptual: Sequence[float] = (0, 1.0, 0.25),
        style: Sequence[float] = (2, 0.0, 40.0),
        anchor: float = 0.0,
    ) -> None:
        super().__init__()
        self.schedule = {"laplacian": laplacian, "perceptual": perceptual, "style": style}
        for name, entry in self.schedule.items():
            if len(entry) != 3 or min(entry[1:]) < 0:
                raise ValueError(f"{name} must be (boundary epoch, weight before, weight after), got {tuple(entry)}.")
        self.epoch = 1
        self.pyramid = LaplacianPyramidLoss(anchor=anchor)
        self.observer: VGGLosses | None = None
        if isinstance(vgg, VGGLosses):
            self.observer = vgg
        elif vgg is not None:
            self.observer = VGGLosses(load_vgg19_features(vgg, convention))
        elif require_vgg:
            raise ValueError(
                "the perceptual and style losses were asked for, but no weights of VGG19 were given: name the file of "
                "torchvision (vgg19-dcbb9e9d.pth) as vgg, or set require_vgg to False to train without them."
            )
        else:
            warnings.warn(
                "no weights of VGG19 were given: the perceptual and style losses are left out, which is not the "
                "published training." + ("" if anchor else " Brightness is not supervised; set anchor to do so."),
                stacklevel=2,
            )

    def weights(self) -> dict[str, float]:
        """The weights of this epoch."""
        return {
            name: float(after if self.epoch >= boundary else before)
            for name, (boundary, before, after) in self.schedule.items()
        }

    def forward(self, input: Interpolation, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: what ``network(frame0, frame1, times, details=True)`` gives.
            target: the measured frames, [B, T, C, H, W], 0 to 1.

        Returns:
            A number.

        Raises:
            ValueError: shapes that differ, or are too small for VGG19.
        """
        if input.pred.shape != target.shape or target.ndim != 5:
            raise ValueError(
                f"prediction and target must be [B, T, C, H, W] of one shape, got {tuple(input.pred.shape)} and "
                f"{tuple(target.shape)}."
            )
        weights = self.weights()
        total = target.new_zeros((), dtype=torch.float32)
        for t in range(target.shape[1]):
            wanted = target[:, t]
            images = [input.pred[:, t], input.merged[:, t]]
            if weights["laplacian"]:
                total = total + weights["laplacian"] * sum(self.pyramid(image, wanted) for image in images)
            if self.observer is None or not (weights["perceptual"] or weights["style"]):
                continue
            features = self.observer.target_features(wanted)
            for image in images:
                perceptual, style = self.observer(image, features, style=weights["style"] > 0)
                total = total + weights["perceptual"] * perceptual + weights["style"] * style
        return total
