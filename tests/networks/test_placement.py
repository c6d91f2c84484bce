"""Every network, loss, inferer and step of a training on PyTorch's meta device: what is left on the CPU is an error.

A meta tensor has a shape and no values. What runs on it makes its tensors where its inputs are, and never asks for a
value, which would make a GPU wait. So this is what can be known of a GPU without one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import nn

from custom_nets import engines, losses, networks
from custom_nets.data.angiography.run import make_run
from custom_nets.engines import AdversarialTrainer
from custom_nets.inferers import FrameInterpolationInferer, ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.losses import adversarial
from custom_nets.transforms import DifferentiableAugment

META = torch.device("meta")
SMALL = {"widths": (8, 16), "style_dim": 16, "head_width": 4}


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device=META)


def on_meta(make: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    return make(**arguments).to(META)


@pytest.fixture(autouse=True)
def autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know the meta device."""
    usual = torch.autocast

    def known(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else usual(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", known)


RDN = {"encoder": "RDN", "feature_dim": 16, "decoder_depth": 4, "decoder_width": 32}
DISCRIMINATOR = {"size": 32, "image_channels": 1, "channels": (8, 8, 8)}
TINY_SYMMETRIC = {"widths": (4, 4, 4, 4), "pair_width": 4, "time_width": 4}
TINY_MOST = {"num_features": 8, "num_blocks": 1, "window": 5, "motion_dim": 16, "head_width": 8, "refiner_width": 8}
# name: (network, arguments, inputs as a function, shape of the result)
NETWORKS: dict[str, tuple[Any, dict[str, Any], Callable[[], tuple[Any, ...]], tuple[int, ...]]] = {
    "ArSSR-RDN": (networks.ArSSR, RDN, lambda: (meta(2, 1, 8, 9, 10), meta(2, 50, 3)), (2, 50, 1)),
    "ArSSR-ResCNN": (
        networks.ArSSR,
        {**RDN, "encoder": "ResCNN"},
        lambda: (meta(2, 1, 8, 9, 10), meta(2, 50, 3)),
        (2, 50, 1),
    ),
    "ArSSR-SRResNet": (
        networks.ArSSR,
        {**RDN, "encoder": "SRResNet"},
        lambda: (meta(2, 1, 8, 9, 10), meta(2, 50, 3)),
        (2, 50, 1),
    ),
    "ResidualArSSR": (
        networks.ResidualArSSR,
        {"feature_dim": 8, "num_features": 8, "growth": 8, "num_blocks": 1, "decoder_width": 16},
        lambda: (meta(2, 1, 8, 9, 10), meta(2, 50, 3), meta(2, 3)),
        (2, 50, 1),
    ),
    "MoStDSA": (networks.MoStDSA, TINY_MOST, lambda: (meta(2, 3, 64, 64), meta(2, 3, 64, 64), 0.5), (2, 1, 3, 64, 64)),
    "MoStDSA-times": (
        networks.MoStDSA,
        TINY_MOST,
        lambda: (meta(2, 3, 64, 64), meta(2, 3, 64, 64), meta(2, 3)),
        (2, 3, 3, 64, 64),
    ),
    "SymmetricMoStDSA": (
        networks.SymmetricMoStDSA,
        TINY_SYMMETRIC,
        lambda: (meta(2, 1, 40, 50), meta(2, 1, 40, 50), meta(2, 3), *(meta(2, 1, 40, 50),) * 2, meta(2, 2)),
        (2, 3, 1, 40, 50),
    ),
    "SymmetricMoStDSA-channels": (
        networks.SymmetricMoStDSA,
        TINY_SYMMETRIC,
        lambda: (meta(2, 2, 40, 50), None, [0.25, 0.5]),
        (2, 2, 40, 50),
    ),
    "AnySizeTransMRSR": (
        networks.AnySizeTransMRSR,
        {"slices": 3, "num_centroids": 3, **SMALL},
        lambda: (meta(2, 3, 50, 40), 5.0),
        (2, 1, 50, 40),
    ),
    "AnySizeTransMRSR-places": (
        networks.AnySizeTransMRSR,
        {"slices": 3, "num_centroids": 0, **SMALL},
        lambda: (meta(2, 3, 50, 40), meta(2), meta(2)),
        (2, 1, 50, 40),
    ),
    "SwinRegressor": (
        networks.SwinRegressor,
        {"slices": 3, "dim": 20, "depths": (2,)},
        lambda: (meta(2, 3, 50, 40), meta(2), meta(2)),
        (2, 1, 50, 40),
    ),
    "TransMRSR": (
        networks.TransMRSR,
        {"size": 16, "channels": (16, 32, 16), "style_dim": 8, "num_centroids": 3},
        lambda: (meta(1, 3, 16, 16),),
        (1, 3, 16, 16),
    ),
    "BlurEstimator": (networks.BlurEstimator, {}, lambda: (meta(5, 38),), (5, 2, 2)),
    "BrainPrior": (networks.BrainPrior, SMALL, lambda: (meta(2, 16),), (2, 1, 32, 32)),
    "StyleSwinGenerator": (
        networks.StyleSwinGenerator,
        {"size": 16, "style_dim": 16, "mapping_layers": 2, "channels": (16, 16, 16)},
        lambda: (meta(2, 16),),
        (2, 3, 16, 16),
    ),
    "StyleSwinDiscriminator": (
        networks.StyleSwinDiscriminator,
        DISCRIMINATOR,
        lambda: (meta(2, 1, 32, 32),),
        (2, 1),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    make, arguments, inputs, shape = NETWORKS[name]
    network = on_meta(make, **arguments)
    with torch.no_grad():
        out = network.eval()(*inputs())
    assert out.device == META and tuple(out.shape) == shape
    network.train()(*inputs()).mean().backward()
    assert {p.grad.device for p in network.parameters() if p.grad is not None} == {META}


def test_no_network_was_forgotten():
    parts = {"ImplicitDecoder", "RDN", "ResCNN", "SRResNet", "network_classes"}  # of ArSSR; the list itself
    parts |= {"BolusAtoms", "HashEncoding", "TOGS", "TiAVox", "VPAL"}  # fields: test_attenuation_fields.py
    assert set(networks.__all__) - parts == {make.__name__ for make, *_ in NETWORKS.values()}


# ---- losses ----


@pytest.mark.parametrize(
    "loss, shape",
    [
        (losses.MultiscaleCharbonnierLoss(), (2, 3, 1, 40, 48)),
        (losses.MultiscalePSNRLoss(), (2, 3, 1, 40, 48)),
        (losses.LaplacianPyramidLoss(), (2, 1, 64, 64)),
        (losses.PlaneLoss(), (2, 1, 40, 50)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_losses(loss, shape):
    pred = meta(*shape).requires_grad_()
    value = loss.to(META)(pred, meta(*shape))
    value.backward()
    assert value.device == META and value.ndim == 0 and pred.grad.device == META


def test_adversarial_losses_and_augmentation():
    images, discriminator = (
        meta(2, 1, 32, 32).requires_grad_(),
        on_meta(networks.StyleSwinDiscriminator, **DISCRIMINATOR),
    )
    seen = DifferentiableAugment(cutout=0.5)(images)
    assert seen.device == META and seen.shape == images.shape
    real = discriminator(seen)
    total = adversarial.discriminator_loss(real, real) + adversarial.generator_loss(real)
    assert (total + adversarial.r1_penalty(real, images)).device == META


# ---- steps of a training ----


@pytest.mark.parametrize(
    "name, prepare, batch, loss",
    [
        (
            "ResidualArSSR",
            engines.prepare_points,
            {"image": (2, 1, 8, 9, 10), "label": (2, 50, 1), "positions": (2, 50, 3), "scale": (2, 3)},
            nn.L1Loss(),
        ),
        (
            "AnySizeTransMRSR",
            engines.prepare_planes,
            {"image": (2, 3, 50, 40), "label": (2, 1, 50, 40), "scale": (2,), "position": (2,)},
            losses.PlaneLoss(),
        ),
        (
            "SymmetricMoStDSA",
            engines.prepare_gap,
            {**dict.fromkeys(("frame0", "frame1", "before", "after"), (2, 1, 40, 48)), "nearness": (2, 2),
             "timesteps": (2, 3), "label": (2, 3, 1, 40, 48)},
            losses.MultiscaleCharbonnierLoss(),
        ),
    ],
)  # fmt: skip
def test_training_steps(name, prepare, batch, loss):
    """An iteration as MONAI's trainer makes it, from a batch that the loader left on the CPU."""
    network = on_meta(NETWORKS[name][0], **NETWORKS[name][1])
    trainer = SupervisedTrainer(
        device=META,
        max_epochs=1,
        train_data_loader=[{key: torch.rand(shape) for key, shape in batch.items()}],
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=loss.to(META),
        prepare_batch=prepare,
        decollate=False,
    )
    trainer.run()
    assert trainer.state.output["loss"].device == META
    assert trainer.state.output["pred"].shape == trainer.state.output["label"].shape


def test_adversarial_steps(monkeypatch):
    """All of an iteration; what it reports stays where it is."""
    generator = on_meta(networks.BrainPrior, **SMALL)
    discriminator = on_meta(networks.StyleSwinDiscriminator, **DISCRIMINATOR, spectral_norm=True)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, norm: None)
    trainer = AdversarialTrainer(
        device=META,
        max_epochs=1,
        train_data_loader=[{"image": torch.rand(4, 1, 32, 32)}],
        generator=generator,
        discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters()),
        d_optimizer=torch.optim.Adam(discriminator.parameters()),
        augment=DifferentiableAugment(),
        consistency=10.0,
        consistency_augment=DifferentiableAugment(cutout=0.5),
    )
    trainer.run()
    assert set(trainer.state.output) == set(AdversarialTrainer.logged_outputs)
    assert all(value.device == META for value in trainer.state.output.values())


# ---- inferers: volumes and runs are on the CPU, the network is not ----


@pytest.fixture
def nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are brought back from the meta device are zeros."""
    usual = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.device == META else usual(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)


def volume(*shape: int) -> MetaTensor:
    return MetaTensor(torch.rand(1, 1, *shape), affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0]).double()))


@pytest.mark.parametrize("name", ["ArSSR-RDN", "ResidualArSSR"])
@pytest.mark.parametrize("way", ["whole", "slabs", "tiles", "oblique", "coarser"])
def test_implicit_inferer(name, way, nothing_comes_back):
    network = on_meta(NETWORKS[name][0], **NETWORKS[name][1]).eval()
    options: dict[str, Any] = {
        "whole": {"scale": 2},
        "slabs": {"scale": 2, "slab": 3},
        "tiles": {"scale": [1.5, 1, 2], "slab": 3, "tile": 8},
        "oblique": {"like": MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.as_tensor(_turned()))},
        "coarser": {"scale": [2, 2, 0.5]},
    }[way]
    with pytest.warns(UserWarning) if way in ("coarser", "oblique") else nullcontext():
        out = ImplicitVolumeInferer(**options)(volume(16, 14, 12), network)
    assert out.device.type == "cpu" and out.shape[2] in (32, 24, 9)


def _turned() -> np.ndarray:
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = 2 * turn
    return affine


@pytest.mark.parametrize("name", ["AnySizeTransMRSR", "SwinRegressor", "TransMRSR"])
@pytest.mark.parametrize("options", [{}, {"tile": 64, "directions": "both", "flips": True, "uncertainty": True}])
def test_thick_slice_inferer(name, options, nothing_comes_back):
    network = on_meta(NETWORKS[name][0], **NETWORKS[name][1]).eval()
    scan = volume(70, 20, 6)
    if name == "TransMRSR":  # its planes have one size
        scan, options = volume(14, 12, 4), {**options, "tile": None}
    out = ThickSliceInferer(**options)(scan, network)
    assert out.device.type == "cpu" and out.shape[-1] == 4 * scan.shape[-1]


@pytest.mark.parametrize("name", ["MoStDSA", "SymmetricMoStDSA"])
def test_frame_inferer(name, nothing_comes_back):
    network = on_meta(NETWORKS[name][0], **NETWORKS[name][1]).eval()
    frames = np.random.default_rng(0).integers(0, 900, (4, 64, 64)).astype(np.uint16)
    run = make_run(frames, np.array([0, 0.2, 0.5, 0.7]))
    longer = FrameInterpolationInferer(frames_between=2)(run, network, device=META)
    assert len(longer.frames) == 4 + 3 * 2
