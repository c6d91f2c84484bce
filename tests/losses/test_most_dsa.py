"""The total loss of MoSt-DSA: schedule, terms, and VGG19 with and without its weights."""

from __future__ import annotations

import warnings

import pytest
import torch

from custom_nets.losses import LaplacianPyramidLoss, MoStDSALoss, VGGLosses
from custom_nets.networks.layers.vgg19 import VGG19Features, load_vgg19_features
from custom_nets.networks.most_dsa import Interpolation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def observer() -> VGGLosses:
    torch.manual_seed(0)
    return VGGLosses(VGG19Features())


def images(times: int = 1, size: int = 192) -> tuple[Interpolation, torch.Tensor]:
    torch.manual_seed(1)
    pred, merged, target = torch.rand(3, 1, times, 1, size, size)
    return Interpolation(pred.requires_grad_(), merged.requires_grad_(), pred, pred, pred), target


@pytest.mark.filterwarnings("ignore:no weights of VGG19")
def test_published_weights_by_epoch():
    loss = MoStDSALoss()
    by_epoch = []
    for loss.epoch in (1, 2, 3):
        by_epoch.append(tuple(loss.weights().values()))
    assert by_epoch == [(1, 0.25, 0), (1, 0.25, 40), (1, 0.25, 40)]
    with pytest.raises(
        ValueError, match=r"style must be \(boundary epoch, weight before, weight after\), got \(1, 2\)"
    ):
        MoStDSALoss(style=(1, 2))


@pytest.mark.filterwarnings("ignore:no weights of VGG19")
def test_times_and_both_predictions_are_summed():
    out, target = images(times=3, size=64)
    lap = LaplacianPyramidLoss()
    expected = sum(lap(x[:, t], target[:, t]) for t in range(3) for x in (out.pred, out.merged))
    torch.testing.assert_close(MoStDSALoss()(out, target), expected)


def test_terms_and_three_passes(observer: VGGLosses):
    out, target = images()
    passes = []
    handle = observer.network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    loss = MoStDSALoss(observer)
    loss.epoch = 2
    total = loss(out, target)
    handle.remove()
    assert passes == [False, True, True]  # the target's pass keeps no graph
    expected = torch.zeros(())
    for image in (out.pred[:, 0], out.merged[:, 0]):
        perceptual, style = observer(image, target[:, 0])
        expected = expected + LaplacianPyramidLoss()(image, target[:, 0]) + 0.25 * perceptual + 40 * style
    torch.testing.assert_close(total, expected)
    total.backward()
    assert out.pred.grad is not None and out.pred.grad.abs().max() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_equal_images_cost_nothing(observer: VGGLosses):
    out, target = images()
    same = out._replace(pred=target, merged=target)
    loss = MoStDSALoss(observer)
    loss.epoch = 2
    assert loss(same, target) == 0


def test_without_weights_of_vgg19_it_says_so():
    with pytest.warns(UserWarning, match="no weights of VGG19.*left out.*Brightness is not supervised"):
        MoStDSALoss()
    with pytest.warns(UserWarning, match="not the published training.$"):
        MoStDSALoss(anchor=1.0)
    with pytest.raises(ValueError, match="no weights of VGG19 were given: name the file"):
        MoStDSALoss(require_vgg=True)


def test_shapes_that_do_not_fit(observer: VGGLosses):
    out, target = images(size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = MoStDSALoss(observer)
    with pytest.raises(ValueError, match=r"must be \[B, T, C, H, W\] of one shape"):
        loss(out, target[0])
    with pytest.raises(ValueError, match=r"at least 188, got \(1, 1, 64, 64\)"):
        loss(out, target)


# ---- VGG19 ----


def test_grey_is_three_equal_channels_and_borders_leave_no_trace(observer: VGGLosses):
    grey = torch.rand(1, 1, 188, 190)
    for a, b in zip(observer.network(grey), observer.network(grey.expand(1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(a, b)
    constant = observer.network(torch.full((1, 3, 188, 190), 0.4))
    assert [x.shape[1] for x in constant] == [64, 128, 256, 512, 512]
    for features in constant:  # the same everywhere
        torch.testing.assert_close(features, features[..., :1, :1].expand_as(features), atol=1e-4, rtol=1e-4)


def test_weights_of_torchvision_and_their_convention(tmp_path):
    torch.manual_seed(0)
    state = VGG19Features().state_dict()
    file = {**state, "features.32.weight": torch.rand(2, 2), "classifier.0.bias": torch.rand(2)}
    torch.save(file, tmp_path / "vgg19-dcbb9e9d.pth")
    torchvision = load_vgg19_features(tmp_path / "vgg19-dcbb9e9d.pth")
    assert torchvision.convention == "torchvision" and not torchvision.training
    published = load_vgg19_features({f"vgg19.{key}": value for key, value in state.items()}, "matconvnet")
    assert all(torch.equal(a, b) for a, b in zip(torchvision.parameters(), published.parameters(), strict=True))
    # what the first convolution sees
    seen = []
    for network in (torchvision, published):
        network.features["0"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, :, 0, 0]))
        network(torch.full((1, 3, 188, 188), 0.5))
    torch.testing.assert_close(
        seen[0], (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    torch.testing.assert_close(seen[1], 127.5 - torch.tensor([123.68, 116.779, 103.939]))


def test_weights_that_are_none_of_vgg19(tmp_path):
    state = dict(VGG19Features().state_dict())
    state["features.0.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"features.0.bias: \(3,\), expected \(64,\)"):
        load_vgg19_features(state)
    with pytest.raises(ValueError, match="28 keys missing \\(features.0.weight"):
        load_vgg19_features({})
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_vgg19_features(tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match="convention must be one of matconvnet, torchvision, got 'caffe'"):
        VGG19Features("caffe")
