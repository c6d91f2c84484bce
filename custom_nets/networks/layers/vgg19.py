"""VGG19 as a fixed observer: the features that perceptual and style losses compare.

Network: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
https://arxiv.org/abs/1409.1556. As in MoSt-DSA's training (:mod:`custom_nets.losses.most_dsa`) and FILM before it, the
convolutions have no padding and the pools average, so that borders leave no trace in the features.
:class:`VGG19Layers` is the network as it was trained, which TransMRSR's losses look through.

Weights are not shipped. They come from torchvision's ``vgg19-dcbb9e9d.pth``, or from the VGG group's MatConvNet file;
the two were trained on images of different scaling, hence ``convention``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from custom_nets.utils.weights import read_checkpoint

__all__ = ["VGG19Features", "VGG19Layers", "load_vgg19_features", "load_vgg19_layers"]

# place in the published list of layers: (in, out) channels of a convolution; a ReLU follows each
_CONVS = {
    **{0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128)},
    **{10: (128, 256), 12: (256, 256), 14: (256, 256), 16: (256, 256)},
    **{19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512)},
    **{28: (512, 512), 30: (512, 512)},
}
_POOLS = (4, 9, 18, 27)
_ALL_CONVS = {**_CONVS, 32: (512, 512), 34: (512, 512)}
_ALL_POOLS = (*_POOLS, 36)
_SEEN = (2, 7, 12, 21, 30)  # conv1_2, conv2_2, conv3_2, conv4_2, conv5_2

# (value - mean) / deviation of channels 0, 1, 2 for values 0 to 1
_SCALING = {
    "matconvnet": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
# features in the unit of an image 0 to 255, for which the losses' constants were chosen: the features of a ReLU
# network grow with its input
_UNIT = {"matconvnet": 1.0, "torchvision": 255 * 0.226}


class VGG19Features(nn.Module):
    """Features after the ReLU of conv1_2, conv2_2, conv3_2, conv4_2 and conv5_2; weights never change.

    Args:
        convention: what the weights were trained on: "matconvnet" (0 to 255 minus a mean; the published choice) or
            "torchvision" (0 to 1, divided by a standard deviation too).

    Shapes: [B, 3 or 1, H, W] with values 0 to 1 -> five maps [B, 64 .. 512, ., .]; H and W at least 188. A grey image
    counts as three equal channels. Features are in the unit of an image from 0 to 255.
    """

    min_size = 188

    def __init__(self, convention: str = "matconvnet") -> None:
        super().__init__()
        if convention not in _SCALING:
            raise ValueError(f"convention must be one of {', '.join(_SCALING)}, got {convention!r}.")
        self.convention = convention
        self.features = nn.ModuleDict({str(place): nn.Conv2d(*channels, 3) for place, channels in _CONVS.items()})
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        if image.ndim != 4 or image.shape[1] not in (1, 3) or min(image.shape[2:]) < self.min_size:
            raise ValueError(
                f"expected [B, 3 or 1, H, W] with H and W at least {self.min_size}, got {tuple(image.shape)}."
            )
        mean, deviation = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in _SCALING[self.convention])
        x = (image - mean) / deviation
        seen = []
        for place in range(_SEEN[-1] + 1):
            if place in _POOLS:
                x = F.avg_pool2d(x, 2)
            elif place in _CONVS:
                x = F.relu(self.features[str(place)](x))
                if place in _SEEN:
                    seen.append(x * _UNIT[self.convention])
        return seen


class VGG19Layers(nn.Module):
    """What layers of VGG19 give, as it was trained: padded convolutions, pools that take the maximum.

    Args:
        places: in the published list of layers: convolutions 0, 2, 5, 7, 10, 12, ..., the ReLU of each one later,
            pools 4, 9, 18, 27. Only the layers up to the last one are built.

    Shapes: [B, 3, H, W] in ImageNet's units (minus the mean, over the deviation) -> {place: [B, 64 .. 512, ., .]}.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        last = 36
        if not places or not all(0 <= place <= last for place in places):
            raise ValueError(f"places must be some of 0 to {last}, got {list(places)}.")
        self.places = tuple(sorted(set(places)))
        convs = {place: channels for place, channels in _ALL_CONVS.items() if place <= self.places[-1]}
        self.features = nn.ModuleDict(
            {str(place): nn.Conv2d(*channels, 3, padding=1) for place, channels in convs.items()}
        )
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"expected [B, 3, H, W], got {tuple(image.shape)}.")
        x, seen = image, {}
        for place in range(self.places[-1] + 1):
            if place in _ALL_POOLS:
                x = F.max_pool2d(x, 2)
            elif place in _ALL_CONVS:
                x = self.features[str(place)](x)
            else:
                x = F.relu(x)
            if place in self.places:
                seen[place] = x
        return seen


def load_vgg19_layers(source: str | os.PathLike | Mapping[str, torch.Tensor], places: Sequence[int]) -> VGG19Layers:
    """:class:`VGG19Layers` with torchvision's weights, in eval mode; see :func:`load_vgg19_features`."""
    network = VGG19Layers(places)
    _load(network, source)
    return network.eval()


def load_vgg19_features(
    source: str | os.PathLike | Mapping[str, torch.Tensor], convention: str = "torchvision"
) -> VGG19Features:
    """The observer with its weights, in eval mode.

    Args:
        source: torchvision's file (``features.N.weight`` and ``.bias``; what is deeper or a classifier is not used) or
            a state dict with such names, also after ``vgg19.``.
        convention: see :class:`VGG19Features`; "torchvision" fits torchvision's own file.

    Raises:
        FileNotFoundError, ValueError: no such file, or not the weights of a VGG19; missing keys and wrong shapes are
            named.
    """
    network = VGG19Features(convention)
    _load(network, source)
    return network.eval()


def _load(network: nn.Module, source: str | os.PathLike | Mapping[str, torch.Tensor]) -> None:
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    state = {str(key).removeprefix("module.").removeprefix("vgg19."): value for key, value in content.items()}
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state]
    if missing:
        raise ValueError(f"not the weights of a VGG19: {len(missing)} keys missing ({', '.join(missing[:4])}).")
    weights = {key: torch.as_tensor(state[key]) for key in wanted}
    wrong = [
        f"{key}: {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
        for key, value in weights.items()
        if value.shape != wanted[key].shape
    ]
    if wrong:
        raise ValueError(f"not the weights of a VGG19: {'; '.join(wrong[:4])}.")
    network.load_state_dict(weights)
