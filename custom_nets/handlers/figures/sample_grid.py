"""What a generator draws, as training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from custom_nets.utils.files import new_file
from custom_nets.visualize.figure import can_draw

__all__ = ["SampleGrid"]


class SampleGrid:
    """Write a picture of images drawn from always the same noise.

    Args:
        path: of the PNG; replaced each time.
        generator: z [B, style_dim] -> [B, 1, H, W], about 0 to 1; usually the moving average.
        rows, columns: of the grid.
        interval: epochs between two pictures; one is always written at the end.
        seed: of the noise.
    """

    def __init__(
        self, path: str | Path, generator: nn.Module, rows: int = 4, columns: int = 8, interval: int = 1, seed: int = 0
    ) -> None:
        self.path = Path(path)
        self.generator = generator
        self.rows, self.columns = rows, columns
        self.interval = interval
        self.z = torch.randn(
            rows * columns,
            int(generator.style_dim),  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(seed),
        )

    def attach(self, engine: Engine) -> None:
        if can_draw("PIL"):
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.write)
            engine.add_event_handler(Events.COMPLETED, self.write)

    @torch.no_grad()
    def write(self, engine: Engine) -> None:
        from PIL import Image

        training = self.generator.training
        images = self.generator.eval()(self.z.to(next(self.generator.parameters()).device))
        self.generator.train(training)
        n = images.shape[-1]
        grid = images.view(self.rows, self.columns, n, n).permute(0, 2, 1, 3).reshape(self.rows * n, self.columns * n)
        with new_file(self.path) as part:
            Image.fromarray((255 * grid.clamp(0, 1)).round().cpu().numpy().astype(np.uint8)).save(part, format="PNG")
