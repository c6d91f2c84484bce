"""Losses at several sizes: known answers."""

from __future__ import annotations

import math

import pytest
import torch

from custom_nets.losses import MultiscaleCharbonnierLoss, MultiscalePSNRLoss


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


def test_one_size_is_the_mean_psnr():
    image, error = torch.rand(3, 2, 1, 16, 16), torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1, 1, 1)
    loss = MultiscalePSNRLoss(1, epsilon=1e-6)(image + error, image)
    psnr_db = -20 * torch.log10(error).mean()
    assert -20 / math.log(10) * float(loss) == pytest.approx(float(psnr_db), rel=1e-4)


def test_a_shift_of_brightness_counts_for_psnr_at_every_size():
    image, shift, epsilon = torch.rand(1, 1, 16, 16), 0.01, 0.002
    expected = sum(0.5 * math.log(shift**2 + (epsilon / 2**k) ** 2) for k in range(3)) / 3
    assert float(MultiscalePSNRLoss(3, epsilon)(image + shift, image)) == pytest.approx(expected, rel=1e-4)


def test_inside_a_picture_the_best_answer_is_the_mean():
    """Of what may have been: three times nothing, once 1. The median would be 0."""
    truth = torch.tensor([0.0, 0, 0, 1]).view(1, 1, 2, 2)
    guess = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([guess], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        MultiscalePSNRLoss(1)(guess.expand(1, 1, 2, 2), truth).backward()
        optimizer.step()
    assert float(guess.detach()) == pytest.approx(0.25, abs=1e-3)


def test_quiet_pictures_have_as_much_say_as_busy_ones():
    truth = torch.zeros(2, 1, 8, 8)
    scale = torch.ones(2, requires_grad=True)
    picture = scale.view(2, 1, 1, 1) * torch.tensor([0.01, 1.0]).view(2, 1, 1, 1)
    MultiscalePSNRLoss(1, epsilon=1e-6)(picture.expand(2, 1, 8, 8), truth).backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, torch.tensor([0.5, 0.5]))


def test_equal_pictures_have_a_gradient():
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    MultiscalePSNRLoss()(image, image.detach()).backward()
    assert image.grad is not None and torch.equal(image.grad, torch.zeros_like(image))


@pytest.mark.parametrize("loss", [MultiscaleCharbonnierLoss, MultiscalePSNRLoss])
def test_what_does_not_fit_is_refused(loss):
    with pytest.raises(ValueError, match="multiples of 8"):
        loss(4)(torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 12, 16))
    with pytest.raises(ValueError, match="one shape"):
        loss(1)(torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 12, 8))
    with pytest.raises(ValueError, match="epsilon above 0"):
        loss(epsilon=0)
