"""Laplacian pyramid loss: known answers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from custom_nets.losses import LaplacianPyramidLoss


def pyramid(x: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """As the publication has it, one channel at a time: the levels, then the low-pass image that is left."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = (torch.outer(row, row) / 256).expand(x.shape[1], 1, 5, 5)

    def blur(image: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), gain * kernel, groups=x.shape[1])

    parts = []
    for _ in range(levels):
        low = blur(x)[:, :, ::2, ::2]
        zeros = torch.zeros_like(x)
        zeros[:, :, ::2, ::2] = low
        parts.append(x - blur(zeros, 4.0))
        x = low
    return [*parts, x]


@pytest.mark.parametrize("levels, anchor", [(5, 0.0), (3, 0.0), (5, 2.0)])
def test_it_is_the_difference_of_two_pyramids(levels: int, anchor: float):
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 3, 96, 128)
    differences = [(x - y).abs().mean() for x, y in zip(pyramid(a, levels), pyramid(b, levels), strict=True)]
    expected = sum(differences[:-1]) + anchor * differences[-1]
    torch.testing.assert_close(LaplacianPyramidLoss(levels, anchor)(a, b), expected)


def test_brightness_counts_only_with_an_anchor():
    a = torch.rand(1, 1, 64, 64)
    assert LaplacianPyramidLoss()(a, a) == 0
    assert LaplacianPyramidLoss()(a, a + 0.1) < 1e-6
    torch.testing.assert_close(LaplacianPyramidLoss(anchor=3.0)(a, a + 0.1), torch.tensor(0.3), atol=1e-5, rtol=0)


def test_more_dimensions_are_more_images():
    a, b = torch.rand(2, 2, 3, 1, 64, 64)
    loss = LaplacianPyramidLoss()
    torch.testing.assert_close(loss(a, b), loss(a.flatten(0, 1), b.flatten(0, 1)))
    assert loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 3, 48, 64), (1, 3, 48, 64)), r"multiples of 32, at least 64, got \(48, 64\)"),
        (((1, 3, 32, 64), (1, 3, 32, 64)), r"at least 64, got \(32, 64\)"),
        (((1, 3, 64, 64), (1, 1, 64, 64)), r"of one shape, got \(1, 3, 64, 64\) and \(1, 1, 64, 64\)"),
        (((64, 64), (64, 64)), r"must be \[..., C, H, W\]"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message: str):
    with pytest.raises(ValueError, match=message):
        LaplacianPyramidLoss()(*(torch.rand(shape) for shape in shapes))


@pytest.mark.parametrize("options", [{"levels": 0}, {"anchor": -1.0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match="levels must be at least 1 and anchor at least 0"):
        LaplacianPyramidLoss(**options)
