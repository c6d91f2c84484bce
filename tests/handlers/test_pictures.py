"""Pictures that trainings leave."""

from __future__ import annotations

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from custom_nets.handlers import SampleGrid, ThickSlicePicture
from custom_nets.networks import BrainPrior


def test_sample_grid_shows_the_same_noise_each_time(tmp_path):
    from PIL import Image

    torch.manual_seed(0)
    prior = BrainPrior(widths=(8, 16), style_dim=16, head_width=4).train()
    grid = SampleGrid(tmp_path / "pictures" / "samples.png", prior, rows=2, columns=3, interval=2)
    written = []
    engine = Engine(lambda engine, batch: None)
    grid.write, write = lambda e: (written.append(e.state.epoch), write(e)), grid.write
    grid.attach(engine)
    engine.run([0], max_epochs=5)
    assert written == [2, 4, 5]  # every second epoch, and at the end
    assert prior.training  # as it was
    image = np.asarray(Image.open(grid.path))
    assert image.shape == (2 * 32, 3 * 32) and image.dtype == np.uint8
    with torch.no_grad():
        wanted = (255 * prior.eval()(grid.z)[4, 0].clamp(0, 1)).round().numpy()  # second row, second column
    np.testing.assert_allclose(image[32:, 32:64], wanted, atol=1)
    assert torch.equal(SampleGrid(tmp_path / "b.png", prior, 2, 3).z, grid.z)
    assert [p.name for p in grid.path.parent.iterdir()] == ["samples.png"]


def test_thick_slice_picture_draws_the_case_that_it_is_asked_for(tmp_path):
    drawn = []

    class Picture(ThickSlicePicture):
        def draw(self, stack, *volumes):
            drawn.append((stack, *volumes))
            super().draw(stack, *volumes)

    def case(number: int):
        volume = torch.full((1, 1, 12, 10, 8), float(number))
        return {"image": MetaTensor(volume[..., ::4].clone()), "bspline": volume, "label": volume}

    def step(engine, batch):
        return {"pred": MetaTensor(batch["label"] + 0.5), "label": batch["label"]}

    for index, wanted in ((1, 1), (9, 2)):  # a number too high: the last
        engine = Engine(step)
        Picture(tmp_path / f"{index}.png", index).attach(engine)
        drawn.clear()
        engine.run([case(n) for n in range(3)], max_epochs=1)
        ((stack, bspline, pred, truth),) = drawn
        assert stack.shape == (12, 10, 2) and pred.shape == truth.shape == (12, 10, 8)
        assert float(truth[0, 0, 0]) == wanted and float(pred[0, 0, 0]) == wanted + 0.5
        assert (tmp_path / f"{index}.png").stat().st_size > 1000
