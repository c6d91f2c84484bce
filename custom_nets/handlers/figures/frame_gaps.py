"""A validation sample of frame interpolation to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from custom_nets.metrics.gaps import linear_blend
from custom_nets.visualize.figure import can_draw, save_figure

__all__ = ["GapPicture"]


class GapPicture:
    """After each validation draw some samples: the frames, the network, the truth, and the errors of blend and network.

    Attach it to the evaluator.

    Args:
        path: PNG, replaced each time.
        network: to draw.
        dataset: validation samples (``FixedFrameGapd``).
        predict: ``predict(network, batch) -> [B, T, C, H, W]``.
        samples: how many of them, spread over the dataset.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        dataset: Any,
        predict: Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor],
        samples: int = 4,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.dataset = dataset
        self.predict = predict
        self.samples = samples

    def attach(self, engine: Engine) -> None:
        if can_draw():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        from matplotlib.figure import Figure

        count = min(self.samples, len(self.dataset))
        device = next(self.network.parameters()).device
        figure = Figure(figsize=(12, 2.1 * count), dpi=80, layout="constrained")
        axes = figure.subplots(count, 6, squeeze=False)
        for row in range(count):
            item = self.dataset[row * len(self.dataset) // count]
            batch = {k: v[None].to(device) for k, v in item.items() if isinstance(v, torch.Tensor)}
            pred = self.predict(self.network, batch)[0, 0].float().mean(0).cpu()
            truth = item["label"][0, 0]
            blend = linear_blend(item["frame0"][None], item["frame1"][None], item["timesteps"][None])[0, 0, 0]
            scale = max(float((blend - truth).abs().max()) / 2, 1e-3)
            panels = {
                "frame 0": item["frame0"][0],
                "frame 1": item["frame1"][0],
                f"network, t = {float(item['timesteps'][0]):.2f}": pred,
                "truth": truth,
                "blend - truth": (blend - truth) / scale,
                "network - truth": (pred - truth) / scale,
            }
            for ax, (name, values) in zip(axes[row], panels.items(), strict=True):
                error = name.endswith("- truth")
                limits = (-1, 1) if error else (float(truth.min()), float(truth.max()))
                ax.imshow(values.numpy(), cmap="RdBu_r" if error else "gray", vmin=limits[0], vmax=limits[1])
                ax.set_axis_off()
                ax.set_title(name, fontsize=8)
        save_figure(figure, self.path)
