"""A validation volume of thick slices to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from custom_nets.visualize.figure import can_draw, save_figure

__all__ = ["ThickSlicePicture"]


class ThickSlicePicture:
    """At each validation draw one case in two planes that contain the thick axis: slices, B-spline, network, truth.

    What the evaluator computes is drawn, nothing is computed again. Attach it to the evaluator.

    Args:
        path: PNG, replaced each time.
        index: which of the cases of :class:`custom_nets.transforms.validation.FixedThickSlicesd`, from 0.
    """

    def __init__(self, path: str | Path, index: int = 0) -> None:
        self.path = Path(path)
        self.index = index

    def attach(self, engine: Engine) -> None:
        if can_draw():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        if state.iteration == min(self.index, state.epoch_length - 1) + 1:
            parts = (state.batch["image"], state.batch["bspline"], state.output["pred"], state.batch["label"])
            self.draw(*(convert_to_tensor(part, track_meta=False)[0, 0].float().cpu() for part in parts))

    def draw(self, stack: torch.Tensor, bspline: torch.Tensor, pred: torch.Tensor, truth: torch.Tensor) -> None:
        """Write the picture of a stack [X, Y, m] and of three volumes [X, Y, Z]."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = truth.shape[2]
        slices = stack[..., ((torch.arange(rows) + 0.5) * stack.shape[2] / rows).long()]  # as thick as they are
        panels = {
            f"thick slices (factor {rows / stack.shape[2]:.3g})": slices,
            "B-spline": bspline,
            "network": pred,
            "truth": truth,
        }
        figure = Figure(figsize=(12, 6.6), dpi=80)
        FigureCanvasAgg(figure)
        for across, axes in enumerate(figure.subplots(2, 4)):
            for ax, (name, volume) in zip(axes, panels.items(), strict=True):
                plane = volume.select(across, volume.shape[across] // 2)
                ax.imshow(plane.T.flip(0).numpy(), cmap="gray", vmin=0, vmax=float(truth.max()))
                ax.set_axis_off()
                if across == 0:
                    ax.set_title(name)
        figure.tight_layout()
        save_figure(figure, self.path)
