"""Planes as the published TransMRSR takes them: padding, units, flips."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom_nets.networks.layers.imagenet import from_imagenet_units, to_imagenet_units
from custom_nets.transforms.published_transmrsr import PublishedPlaned, RandPublishedFlipsd, pad_or_crop


@pytest.mark.parametrize(
    ("n", "first"),
    [(181, 38), (182, 37), (217, 20), (218, 19), (100, 78), (253, 2), (254, 1), (256, 0), (1, 128)],
)
def test_a_smaller_image_lies_in_the_middle(n: int, first: int):
    """Half a pixel to the far side, where the difference is odd."""
    image = torch.arange(1, n + 1).expand(3, 256, n)
    out, (top, left) = pad_or_crop(image)
    assert out.shape == (3, 256, 256)
    assert torch.equal(out[..., first : first + n], image)
    assert int(out[..., :first].abs().sum()) == int(out[..., first + n :].abs().sum()) == 0
    assert (top, left) == (0, 2 * ((256 - n) // 2) - first)  # twice as many zeros as needed were put around it
    turned, (top, left) = pad_or_crop(image.mT)
    assert torch.equal(turned, out.mT) and left == 0


def test_one_pixel_less_is_left_alone():
    for other, length in ((200, 256), (255, 255), (256, 256), (300, 256)):
        image = torch.rand(255, other)
        out, _ = pad_or_crop(image)
        assert out.shape == (255, length)
    assert torch.equal(pad_or_crop(torch.ones(2, 15, 15), 16)[0], torch.ones(2, 15, 15))


@pytest.mark.parametrize(("n", "first"), [(257, 0), (258, 1), (300, 22), (513, 128)])
def test_of_a_larger_image_the_middle_is_taken(n: int, first: int):
    image = torch.arange(n).expand(256, n)
    out, place = pad_or_crop(image)
    assert torch.equal(out, image[:, first : first + 256]) and place == (0, first)


def test_both_at_once():
    image = torch.arange(24.0).view(4, 6) + 1
    out, (top, left) = pad_or_crop(image, 5)  # 4 of 5 rows: left alone; 5 of 6 columns
    assert torch.equal(out, image[:, :5]) and (top, left) == (0, 0)
    out, (top, left) = pad_or_crop(image[:2], 4)
    assert out.shape == (4, 4) and torch.equal(out[1:3], image[:2, 1:5]) and (top, left) == (1, 1)


def test_imagenet_units():
    image = torch.rand(2, 3, 4, 5)
    units = to_imagenet_units(image)
    torch.testing.assert_close(from_imagenet_units(units), image)
    torch.testing.assert_close(units[:, 1], (image[:, 1] - 0.456) / 0.224)
    grey = to_imagenet_units(image[:, :1])
    assert grey.shape == (2, 3, 4, 5)
    torch.testing.assert_close(grey, to_imagenet_units(image[:, :1].expand(-1, 3, -1, -1)))


def test_planes_are_padded_before_their_units_change():
    plane = MetaTensor(torch.full((1, 10, 12), 0.5), affine=torch.eye(4))
    made = PublishedPlaned(["image", "label"], size=16, allow_missing_keys=True)({"image": plane, "id": 3})
    image = made["image"]
    assert image.shape == (3, 16, 16) and type(image) is torch.Tensor and made["id"] == 3
    black, grey = to_imagenet_units(torch.zeros(1, 1, 1)), to_imagenet_units(torch.full((1, 1, 1), 0.5))
    torch.testing.assert_close(image[:, :1, :1], black)
    torch.testing.assert_close(image[:, 3:13, 2:14], grey.expand(3, 10, 12))
    torch.testing.assert_close(image[:, :3], black.expand(3, 3, 16))
    three = PublishedPlaned("image", 16)({"image": torch.full((3, 10, 12), 0.5).numpy()})
    torch.testing.assert_close(three["image"], image)


def test_flips_are_the_same_for_all_keys():
    image = torch.arange(9.0).view(1, 3, 3)
    flips = RandPublishedFlipsd(["a", "b"], allow_missing_keys=True).set_random_state(0)
    seen = set()
    for _ in range(100):
        made = flips({"a": image, "b": image + 1, "c": image})
        assert torch.equal(made["a"] + 1, made["b"]) and torch.equal(made["c"], image)
        seen.add(tuple(made["a"].flatten().tolist()))
    assert len(seen) == 8
    again = RandPublishedFlipsd("a").set_random_state(4)({"a": image})["a"]
    assert torch.equal(again, RandPublishedFlipsd("a").set_random_state(4)({"a": image})["a"])
    with pytest.raises(KeyError):
        RandPublishedFlipsd(["a", "b"])({"a": image})
