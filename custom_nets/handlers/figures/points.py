"""A validation case to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from custom_nets.operators.interpolation import bspline_coefficients, sample_bspline
from custom_nets.visualize.figure import can_draw, save_figure

__all__ = ["ValidationPicture"]


class ValidationPicture:
    """After each validation draw one case: input, B-spline, network and truth in three planes through its middle.

    Only the voxels of the planes are computed. Attach it to the evaluator.

    Args:
        path: PNG, replaced each time.
        network: ``net(image, positions, scale)``.
        dataset: validation cases, made by :class:`custom_nets.transforms.validation.FixedPointsd`.
        index: which of them.
    """

    def __init__(self, path: str | Path, network: nn.Module, dataset: Any, index: int = -1) -> None:
        self.path = Path(path)
        self.network = network
        self.dataset = dataset
        self.index = index

    def attach(self, engine: Engine) -> None:
        if can_draw():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.draw(self.path, self.dataset[self.index % len(self.dataset)])

    @torch.no_grad()
    def draw(self, path: Path, item: Mapping[str, Any]) -> None:
        """Write the picture of one validation case."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        device = next(self.network.parameters()).device
        image, truth, scale = item["image"][None].to(device), item["truth"][0], item["scale"][None].to(device)
        coefficients = bspline_coefficients(image)
        figure = Figure(figsize=(12, 9.4), dpi=80)
        FigureCanvasAgg(figure)
        axes = figure.subplots(3, 4)
        planes = [_plane(truth.shape, item["scale"], across, item["image"].shape[1:]) for across in range(3)]
        points = torch.cat([positions for positions, _, _ in planes])[None].to(device)  # one call: it encodes once
        sizes = [len(positions) for positions, _, _ in planes]
        network = self.network(image, points, scale)[0, :, 0].float().cpu().split(sizes)
        bspline = sample_bspline(coefficients, points)[0].cpu().split(sizes)
        for across, (_, nearest, plane) in enumerate(planes):
            panels = {
                f"input (scale {' x '.join(f'{s:.3g}' for s in item['scale'].tolist())})": item["image"][0][nearest],
                "B-spline": bspline[across],
                "network": network[across],
                "truth": truth.select(across, truth.shape[across] // 2).flatten(),
            }
            for ax, (name, values) in zip(axes[across], panels.items(), strict=True):
                ax.imshow(values.reshape(plane).numpy(), cmap="gray", vmin=0, vmax=float(truth.max()))
                ax.set_axis_off()
                if across == 0:
                    ax.set_title(name)
        figure.tight_layout()
        save_figure(figure, path)


def _plane(
    shape: torch.Size, scale: torch.Tensor, across: int, coarse_shape: torch.Size
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[int, ...]]:
    """The middle plane across one axis: positions [K, 3] in LR voxels, their nearest LR voxels, and its shape."""
    steps = [torch.arange(n) if axis != across else torch.tensor([n // 2]) for axis, n in enumerate(shape)]
    index = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    positions = ((index + 0.5) / scale - 0.5).float()
    nearest = tuple(positions[:, axis].round().long().clamp(0, n - 1) for axis, n in enumerate(coarse_shape))
    return positions, nearest, tuple(n for axis, n in enumerate(shape) if axis != across)
