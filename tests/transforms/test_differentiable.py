"""Augmentation that a gradient passes through."""

from __future__ import annotations

import torch

from custom_nets.transforms import DifferentiableAugment

NOTHING = {"brightness": 0.0, "contrast": 0.0, "translation": 0.0, "cutout": 0.0, "flip": 0.0}


def images(batch: int = 64) -> torch.Tensor:
    return 0.5 + torch.rand(batch, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_nothing_is_nothing():
    assert torch.equal(DifferentiableAugment(**NOTHING)(images()), images())


def test_brightness_and_contrast():
    torch.manual_seed(0)
    x = images()
    brighter = DifferentiableAugment(**{**NOTHING, "brightness": 0.2})(x) - x
    torch.testing.assert_close(brighter, brighter[:, :, :1, :1].expand_as(x), atol=1e-5, rtol=0)
    assert 0.15 < float(brighter.abs().max()) <= 0.2
    made = DifferentiableAugment(**{**NOTHING, "contrast": 0.5})(x)
    torch.testing.assert_close(made.mean((1, 2, 3)), x.mean((1, 2, 3)))
    ratio = made.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.5 <= float(ratio.min()) < 0.6 and 1.4 < float(ratio.max()) <= 1.5


def test_flips_are_mirror_images():
    torch.manual_seed(0)
    x = images()
    made = DifferentiableAugment(**{**NOTHING, "flip": 0.5})(x)
    same = [torch.equal(a, b) for a, b in zip(made, x, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(made, x, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 16 < sum(same) < 48


def test_shifts_move_the_image_and_bring_in_zeros():
    torch.manual_seed(0)
    x = images()
    made = DifferentiableAugment(**{**NOTHING, "translation": 0.25})(x)
    moves = set()
    for after, before in zip(made[:, 0], x[:, 0], strict=True):
        found = [
            (down, right)
            for down in range(-4, 5)
            for right in range(-4, 5)
            if torch.equal(after, _shifted(before, down, right))
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 30 and max(abs(m) for move in moves for m in move) == 4


def _shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """``out[y, x] = image[y + down, x + right]``, zero outside."""
    out = torch.zeros_like(image)
    n = len(image)
    rows, columns = slice(max(-down, 0), n - max(down, 0)), slice(max(-right, 0), n - max(right, 0))
    from_rows, from_columns = slice(max(down, 0), n - max(-down, 0)), slice(max(right, 0), n - max(-right, 0))
    out[rows, columns] = image[from_rows, from_columns]
    return out


def test_a_square_is_cut_out():
    torch.manual_seed(0)
    made = DifferentiableAugment(**{**NOTHING, "cutout": 0.5})(images())
    holes = (made == 0).sum((1, 2, 3))
    assert int(holes.max()) == 64 and int(holes.min()) >= 16  # never less than a quarter of the square is inside


def test_a_gradient_passes():
    torch.manual_seed(0)
    x = images(4).requires_grad_()
    DifferentiableAugment(cutout=0.25)(x).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and float(x.grad.abs().max()) > 0
