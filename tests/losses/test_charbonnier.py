"""The multiscale Charbonnier loss: known answers."""

from __future__ import annotations

import pytest
import torch

from custom_nets.losses import MultiscaleCharbonnierLoss


def test_equal_images_cost_nothing():
    image = torch.rand(2, 3, 1, 16, 24)
    assert float(MultiscaleCharbonnierLoss()(image, image)) == pytest.approx(0, abs=1e-7)


def test_a_shift_of_brightness_counts_at_every_size():
    image, shift, epsilon = torch.rand(1, 1, 16, 16), 0.1, 0.02
    loss = MultiscaleCharbonnierLoss(3, epsilon)(image + shift, image)
    expected = sum((shift**2 + (epsilon / 2**k) ** 2) ** 0.5 - epsilon / 2**k for k in range(3))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_small_differences_count_by_their_square_and_large_ones_by_their_size():
    zero = torch.zeros(1, 1, 8, 8)
    loss = MultiscaleCharbonnierLoss(1, 0.02)
    assert float(loss(zero + 0.0002, zero)) == pytest.approx(0.0002**2 / 0.04, rel=1e-2)
    assert float(loss(zero + 2.0, zero)) == pytest.approx(2.0 - 0.02, rel=1e-3)


def test_a_checkerboard_is_seen_at_full_size_only():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    zero = torch.zeros_like(board)
    assert float(MultiscaleCharbonnierLoss(4)(board, zero)) == pytest.approx(
        float(MultiscaleCharbonnierLoss(1)(board, zero)), rel=1e-6
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        MultiscaleCharbonnierLoss(4)(torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 12, 16))
    with pytest.raises(ValueError, match="one shape"):
        MultiscaleCharbonnierLoss(1)(torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 12, 8))
    with pytest.raises(ValueError, match="epsilon above 0"):
        MultiscaleCharbonnierLoss(epsilon=0)
