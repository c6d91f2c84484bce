"""The published loss of TransMRSR: terms, weights, and the layers it looks through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.losses import TransMRSRLoss
from custom_nets.losses.transmrsr import CONTENT_LAYERS, STYLE_LAYERS, layer_style_distance
from custom_nets.networks.layers.vgg19 import VGG19Layers, load_vgg19_layers

pytestmark = pytest.mark.usefixtures("one_thread")

PLACES = sorted({*CONTENT_LAYERS, *STYLE_LAYERS})


@pytest.fixture(scope="module")
def network() -> VGG19Layers:
    torch.manual_seed(0)
    return VGG19Layers(PLACES)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 12, requires_grad=True), torch.randn(2, 3, 16, 12)


def test_without_vgg_it_is_the_absolute_difference():
    pred, truth = images()
    loss = TransMRSRLoss(l1=2)
    assert list(loss.parts(pred, truth)) == ["l1"] and not list(loss.parameters())
    torch.testing.assert_close(loss(pred, truth), 2 * (pred - truth).abs().mean())
    assert float(loss(truth, truth)) == 0
    half = loss(pred.bfloat16(), truth.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(pred, truth), atol=0.02, rtol=0)


def by_hand(network: VGG19Layers, image: torch.Tensor) -> dict[int, torch.Tensor]:
    """The list of layers, run one by one."""
    layers: list[nn.Module] = []
    for i in range(14):
        if str(i) in network.features:
            layers.append(network.features[str(i)])
        else:
            layers.append(nn.MaxPool2d(2) if i in (4, 9) else nn.ReLU())
    seen = {}
    for place, layer in enumerate(layers):
        image = layer(image)
        seen[place] = image
    return seen


def test_content_and_style(network):
    pred, truth = images()
    loss = TransMRSRLoss(network)
    a, b = by_hand(network, pred), by_hand(network, truth)
    parts = loss.parts(pred, truth)
    torch.testing.assert_close(parts["content"], sum(((a[i] - b[i]) ** 2).mean() for i in (2, 4, 7)))

    def gram(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,bdhw->bcd", x, x) / (x.shape[1] * x.shape[2] * x.shape[3])

    wanted = sum(((gram(a[i]) - gram(b[i])) ** 2).mean() for i in (1, 3, 5, 9, 13))
    torch.testing.assert_close(parts["style"], wanted)
    torch.testing.assert_close(
        loss(pred, truth), (pred - truth).abs().mean() + 0.5 * parts["content"] + 0.5 * parts["style"]
    )
    weighed = TransMRSRLoss(network, l1=0, content=3, style=0)
    torch.testing.assert_close(weighed(pred, truth), 3 * parts["content"])
    assert float(loss(truth, truth)) == 0


def test_style_does_not_see_places():
    x = torch.randn(2, 4, 6, 5)
    moved = x.flatten(2)[..., torch.randperm(30)].view_as(x)
    assert float(layer_style_distance(x, moved)) == pytest.approx(0, abs=1e-12)
    assert float(F.mse_loss(x, moved)) > 0.1


def test_gradients_reach_the_image_and_nothing_else(network):
    pred, truth = images()
    truth.requires_grad_()
    TransMRSRLoss(network, l1=0)(pred, truth).backward()
    assert pred.grad is not None and float(pred.grad.abs().max()) > 0
    assert truth.grad is not None and not truth.grad.any()  # of the absolute difference, which counts nothing here
    assert all(p.grad is None for p in network.parameters())


def test_what_does_not_fit_is_refused(network):
    pred, truth = images()
    with pytest.raises(ValueError, match=r"both images must have one shape, got \(2, 3, 16, 12\) and \(1, 3, 16, 12\)"):
        TransMRSRLoss()(pred, truth[:1])
    with pytest.raises(ValueError, match=r"the network must give the layers \[1, 3, 4, 5, 9, 13\] too"):
        TransMRSRLoss(VGG19Layers([2, 7]))
    with pytest.raises(ValueError, match=r"the layers \[10\] too"):
        TransMRSRLoss(network, content_layers=(2, 10))
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\], got \(2, 1, 16, 12\)"):
        network(truth[:, :1])
    for places in ([], [-1], [37]):
        with pytest.raises(ValueError, match="places must be some of 0 to 36"):
            VGG19Layers(places)


def test_weights_of_vgg(tmp_path, network):
    """torchvision's names, also of a whole network; what is deeper is not used."""
    state = network.state_dict()
    assert sorted(state) == sorted(f"features.{i}.{kind}" for i in (0, 2, 5, 7, 10, 12) for kind in ("weight", "bias"))
    whole = {**state, "features.34.weight": torch.zeros(2), "classifier.0.weight": torch.zeros(2)}
    torch.save(whole, tmp_path / "vgg19.pth")
    for source in (state, tmp_path / "vgg19.pth", {f"vgg19.{key}": value for key, value in state.items()}):
        loaded = load_vgg19_layers(source, PLACES)
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match=r"not the weights of a VGG19: 1 keys missing \(features.12.bias\)"):
        load_vgg19_layers({key: value for key, value in state.items() if key != "features.12.bias"}, PLACES)
    with pytest.raises(ValueError, match=r"features.0.bias: \(3,\), expected \(64,\)"):
        load_vgg19_layers({**state, "features.0.bias": torch.zeros(3)}, PLACES)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_vgg19_layers(tmp_path / "no.pth", PLACES)
