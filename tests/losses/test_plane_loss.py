"""The loss of TransMRSR's training, with and without VGG19."""

from __future__ import annotations

import logging

import pytest
import torch

from custom_nets.losses import PlaneLoss, TransMRSRLoss
from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.networks.layers.vgg19 import VGG19Layers

PLACES = (1, 2, 3, 4, 5, 7, 9, 13)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Random weights under torchvision's names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(VGG19Layers(PLACES).state_dict(), path)
    return str(path)


def planes() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 1, 32, 24, requires_grad=True), torch.rand(2, 1, 32, 24)


def test_without_vgg_it_is_l1_and_says_so(caplog):
    with caplog.at_level(logging.INFO):
        loss = PlaneLoss()
    assert "L1 alone" in caplog.text and "--vgg_weights" in caplog.text
    pred, target = planes()
    torch.testing.assert_close(loss(pred, target), (pred - target).abs().mean())


def test_with_vgg_it_is_the_published_loss_of_three_equal_channels(weights, caplog):
    with caplog.at_level(logging.INFO):
        loss = PlaneLoss(weights)
    assert "content" in caplog.text
    pred, target = planes()
    units = to_imagenet_units(pred), to_imagenet_units(target)
    assert loss.published is not None
    wanted = TransMRSRLoss(loss.published.network)(*units)
    torch.testing.assert_close(loss(pred, target), wanted)
    torch.testing.assert_close(loss(*units), wanted)
    assert float(wanted) > float((units[0] - units[1]).abs().mean())
    loss(pred, target).backward()
    assert float(pred.grad.abs().max()) > 0 and not any(p.requires_grad for p in loss.parameters())
    assert float(loss(target, target)) == 0
