"""TransMRSR and StyleSwin against the published code, number by number.

Errors are relative to the largest value. The reference itself, in float32, lies within 3e-6 of its float64 run; the
bounds are 2e-5 for images and features and 1e-4 for logits and losses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from custom_nets.checkpoints.centroids import cluster_latents
from custom_nets.checkpoints.published import load_published
from custom_nets.losses import TransMRSRLoss
from custom_nets.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from custom_nets.losses.transmrsr import CONTENT_LAYERS, STYLE_LAYERS, layer_style_distance
from custom_nets.metrics.published_transmrsr import mean_plane_scores, plane_scores, published_levels
from custom_nets.networks import style_swin, transmrsr
from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.networks.layers.vgg19 import load_vgg19_layers
from custom_nets.networks.style_swin import StyleSwinDiscriminator, StyleSwinGenerator, as_map
from custom_nets.networks.transmrsr import TransMRSR
from custom_nets.operators.interpolation import apply_separable, bspline_matrix
from custom_nets.operators.slice_profile import sampled_profile_matrix
from custom_nets.transforms.published_transmrsr import PublishedPlaned, RandPublishedFlipsd, pad_or_crop
from tests.tools.golden import Golden, _normal, golden_sets, name_of, transmrsr_weights

pytestmark = [
    # the complete set has all of the compact one, see below
    pytest.mark.parametrize("golden", golden_sets("transmrsr")[-1:], ids=name_of, scope="module"),
    pytest.mark.usefixtures("one_thread"),
]

IMAGE, LOSS, GRADIENT = 2e-5, 1e-4, 1e-3


def error(found: Any, wanted: np.ndarray) -> float:
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def normal(key: str, *shape: int) -> torch.Tensor:
    return torch.as_tensor(_normal(key, list(shape)))


def centroids() -> torch.Tensor:
    return 0.5 * normal("centers", 8, 512)


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in arrays.items()}


def weights(golden: Golden, model: str, tag: str = "") -> dict[str, torch.Tensor]:
    return tensors(transmrsr_weights(golden.rows(model), tag))


@lru_cache(maxsize=1)
def small_weights(golden: Golden, tag: str) -> dict[str, torch.Tensor]:
    """Drawing a hundred million numbers takes seconds: the training step has those of the test before it."""
    return weights(golden, f"sr_{tag}", f"{tag}/")


def loaded(make: Callable[[], nn.Module], state: dict[str, torch.Tensor]) -> nn.Module:
    """The network with the weights; none are drawn in vain."""
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval()


def test_the_compact_set_is_part_of_the_complete_one(golden: Golden):
    """So what holds for the one holds for the other, and large networks need not run twice."""
    if name_of(golden) == "compact":
        pytest.skip("the complete set is not at hand")
    compact = golden_sets("transmrsr")[0]
    files = sorted(path.name for path in compact.folder.iterdir())
    assert len(files) >= 20
    for file in files:
        if file.endswith(".json"):
            rows = [json.loads((part.folder / file).read_text()) for part in (compact, golden)]
            assert rows[0] == rows[1], file
        else:
            name = file.removesuffix(".npz")
            arrays = golden.load(name)
            for key, value in compact.load(name).items():
                assert value.dtype == arrays[key].dtype and np.array_equal(value, arrays[key]), f"{file}: {key}"


# ---- whole networks ----


@pytest.mark.parametrize(("size", "batch", "half"), [(64, 1, 1), (16, 1, 0), (16, 2, 1)])
@torch.no_grad()
def test_small_planes(golden: Golden, size: int, batch: int, half: int):
    data = golden.load("sr_small")
    tag = f"s{size}_b{batch}_half{half}"
    net = load_published("transmrsr", {f"module.{k}": v for k, v in small_weights(golden, tag).items()}, centroids())
    assert isinstance(net, TransMRSR) and net.size == size and net.centroid_rule == "farthest"
    image = normal(f"{tag}/x", batch, 3, size, size)
    for rule in transmrsr.CENTROID_RULES:
        if f"{tag}/y_trunc_{rule}" in data:
            net.centroid_rule = rule
            assert error(net(image), data[f"{tag}/y_trunc_{rule}"]) < IMAGE
    if f"{tag}/y_notrunc" in data:
        del net._buffers["centroids"]
        seen, remove = watched(net, {k.split("/mid/")[1] for k in data if k.startswith(f"{tag}/mid/")})
        assert error(net(image), data[f"{tag}/y_notrunc"]) < IMAGE
        remove()
        for name, value in seen.items():
            assert error(sampled(value, 1024), data[f"{tag}/mid/{name}"]) < IMAGE, name


def watched(net: nn.Module, names: set[str]) -> tuple[dict[str, torch.Tensor], Callable[[], None]]:
    """Copies of what modules give, in the published layouts."""
    seen: dict[str, torch.Tensor] = {}
    last = f"generator.layers.{len(net.generator.layers) - 1}"  # type: ignore[union-attr, arg-type]

    def keep(name: str, output: torch.Tensor) -> None:
        channels_first = name.startswith("generator.layers.") and name != last
        seen[name] = (as_map(output) if channels_first else output).clone()

    handles = [
        net.get_submodule(name).register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
        for name in sorted(names)
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return seen, remove


@pytest.fixture(scope="module")
def loss(golden: Golden) -> TransMRSRLoss:
    places = sorted({*CONTENT_LAYERS, *STYLE_LAYERS})
    return TransMRSRLoss(load_vgg19_layers(weights(golden, "vgg19_upto13"), places))


def test_training_step(golden: Golden, loss: TransMRSRLoss):
    data = golden.load("sr_losses")
    tag = "s16_b2_half1"
    net = load_published("transmrsr", small_weights(golden, tag), centroids()).train()
    small_weights.cache_clear()
    truth = normal(f"{tag}/gt", 2, 3, 16, 16)
    pred = net(normal(f"{tag}/x", 2, 3, 16, 16))
    for name, value in loss.parts(pred, truth).items():
        assert float(value.detach()) == pytest.approx(float(data[f"step16/{name}"]), rel=LOSS), name
    total = loss(pred, truth)
    assert float(total.detach()) == pytest.approx(float(data["step16/total"]), rel=LOSS)
    total.backward()
    for key in (key for key in data if key.startswith("step16/grad/")):
        name = key.removeprefix("step16/grad/")
        gradient = net.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(data[f"step16/gradnorm/{name}"]), rel=GRADIENT), name
        assert error(sampled(gradient, 128), data[key]) < GRADIENT, name


def sampled(x: torch.Tensor, count: int) -> torch.Tensor:
    flat = x.contiguous().flatten()
    return flat[:: max(1, len(flat) // count)][:count]


def plane(levels: np.ndarray) -> torch.Tensor:
    """Grey bytes [H, W] -> [1, 3, 256, 256] as published."""
    grey = torch.as_tensor(levels.astype(np.float32) / 255).expand(3, *levels.shape)
    return to_imagenet_units(pad_or_crop(grey)[0])[None]


@pytest.fixture(scope="module")
def full() -> Iterator[Callable[[Golden], TransMRSR]]:
    """The network of full size, made once."""

    @lru_cache(maxsize=1)
    def make(rows: str) -> TransMRSR:
        net = load_published("transmrsr", {"net_G_I": tensors(transmrsr_weights(json.loads(rows)))}, centroids())
        assert isinstance(net, TransMRSR)
        return net

    yield lambda golden: make(json.dumps(golden.rows("")))
    make.cache_clear()


@torch.no_grad()
def test_full_size(golden: Golden, full: Callable[[Golden], TransMRSR]):
    data = golden.load("sr_full_256")
    net = full(golden)
    image = plane(data["lr_u8"])
    assert error(sampled(image, 2048), data["x_sub"]) < IMAGE
    assert error(net(image)[0, :, ::2, ::2], data["y_trunc_s2"]) < IMAGE


@torch.no_grad()
def test_full_size_inside(golden: Golden, full: Callable[[Golden], TransMRSR]):
    """Without truncation, and what is seen on the way."""
    data = golden.load("sr_full_256")
    if "y_notrunc" not in data:
        pytest.skip("not in the compact set")
    net = full(golden)
    kept = net._buffers.pop("centroids")
    seen, remove = watched(net, {key.removeprefix("mid/") for key in data if key.startswith("mid/")})
    y = net(plane(data["lr_u8"]))[0]
    remove()
    net._buffers["centroids"] = kept
    assert error(y, data["y_notrunc"]) < IMAGE
    for name, value in seen.items():
        assert value.numel() == np.prod(data[f"midshape/{name}"])
        assert error(sampled(value, 2048), data[f"mid/{name}"]) < IMAGE, name
        stats = np.array([float(value.mean()), float(value.std()), float(value.abs().max())])
        assert error(stats, data[f"midstat/{name}"]) < IMAGE, name
    assert error(sampled(published_levels(y), 2048), data["rec255_sub"]) < IMAGE
    assert error(sampled(published_levels(plane(data["hr_u8"])), 2048), data["gt255_sub"]) < IMAGE


def test_keys_are_the_published_ones(golden: Golden):
    """All of them but constants and what is never used."""
    with torch.device("meta"):
        cases: dict[str, nn.Module] = {
            "": TransMRSR(256),
            "styleswin_g": StyleSwinGenerator(256),
            "styleswin_d_sn": StyleSwinDiscriminator(256, spectral_norm=True),
            "styleswin_d_eq": StyleSwinDiscriminator(256),
        }
    for model, net in cases.items():
        wanted = {key: shape for key, shape, _, kind in golden.rows(model) if kind not in ("const", "unused")}
        assert {key: list(value.shape) for key, value in net.state_dict().items()} == wanted
    assert sum(p.numel() for p in cases[""].parameters()) == pytest.approx(160.85e6, rel=1e-3)


# ---- parts ----


@torch.no_grad()
def test_parts(golden: Golden):
    data = golden.load("submodules")
    found = dict(parts(golden))
    checked = 0
    for key, value in data.items():
        if key.startswith("trunc/"):
            continue
        name = {"spe/grid_5x7_dim8": "spe"}.get(key, key.split("/")[0] if key.endswith("/y") else key)
        result = found[name]
        if name == "swin_shift/mask":
            assert np.array_equal(result, value)
        else:
            assert error(result.reshape(value.shape), value) < IMAGE, key
        checked += 1
    assert checked >= 20


def parts(golden: Golden) -> Iterator[tuple[str, Any]]:
    """(name in the file, result) of every part."""
    rows = golden.rows("submodules")

    def filled(net: nn.Module, name: str) -> nn.Module:
        return loaded(lambda: net, tensors(transmrsr_weights(rows[name], f"{name}/")))

    yield "shallow", filled(transmrsr.ConvTrunk(3, 8), "shallow")(normal("shallow/x", 1, 3, 10, 12))
    for name, key, b, h, w, shift in (
        ("swin_noshift", "swin/x", 2, 16, 16, 0),
        ("swin_shift", "swin2/x", 1, 16, 24, 4),
        ("swin_full8", "swin3/x", 1, 8, 8, 0),
    ):
        yield name, filled(transmrsr.SwinBlock(32, 4, shift), name)(normal(key, b, h * w, 32).view(b, h, w, 32))
    masks = torch.from_numpy(style_swin.edge_masks(8, 4))
    grid = torch.stack([masks[int(y == 1), int(x == 2)] for y in range(2) for x in range(3)])
    yield "swin_shift/mask", (grid != 0).numpy().astype(np.uint8)
    attention = filled(transmrsr.WindowAttention(32, 4), "window_attn_unscaled")
    yield "window_attn_unscaled", attention.attention(normal("wa/x", 2, 64, 32), attention())
    merging = filled(transmrsr.PatchMerging(12, 20), "patch_merging")
    yield "patch_merging", merging(normal("pm/x", 2, 48, 12).view(2, 6, 8, 12))
    level = filled(transmrsr.SwinLevel(16, 32, 48, 4), "rstb")
    yield "rstb", level(normal("rstb/x", 1, 256, 32).view(1, 16, 16, 32))
    rows_in = normal("eql/x", 3, 48)
    yield "eq_linear_lr", filled(style_swin.EqualLinear(48, 40, 0.01, activation=True), "eq_linear_lr")(rows_in)
    yield "eq_linear", filled(style_swin.EqualLinear(48, 40), "eq_linear")(rows_in)
    yield "condition_head", filled(transmrsr.condition_head(12, 6), "condition_head")(normal("cond/x", 2, 12, 5, 6))
    x = normal("ada/x", 2, 12, 30).transpose(1, 2)[:, None]
    y = filled(style_swin.AdaIN(12, 16), "adain")(x, normal("ada/s", 2, 16))
    yield "adain", y[:, 0].transpose(1, 2)
    for name, key, n in (("styleswin_block", "ssb", 16), ("styleswin_block8", "ssb8", 8)):
        block = filled(style_swin.StyleSwinBlock(32, 4, 24, 8), name)
        yield name, block(normal(f"{key}/x", 2, n * n, 32).view(2, n, n, 32), normal(f"{key}/s", 2, 24))
    upsampler = filled(style_swin.Upsampler(16, 12), "upsampler")
    yield "upsampler", as_map(upsampler(normal("up/x", 2, 30, 16).view(2, 6, 5, 16)))
    x = normal("lay/x", 2, 32, 8, 8).permute(0, 2, 3, 1).contiguous()
    styles = normal("lay/s1", 2, 24), normal("lay/s2", 2, 24)
    for name, kind, channels in (("layer_plain", "", 0), ("layer_cwss_half", "h", 16), ("layer_cwss_full", "f", 32)):
        level = filled(style_swin.StyleLevel(8, 32, 16, 24), name)
        tokens = x
        if kind:
            scale, shift = (normal(f"lay/{part}_{kind}", 2, channels, 8, 8) for part in ("scale", "shift"))
            tokens = transmrsr.modulated(x, scale, shift)
        yield name, as_map(level(tokens, *styles))
    code = torch.cat(
        [
            style_swin.position_code(7, 8, x.device)[None].expand(5, -1, -1),
            style_swin.position_code(5, 8, x.device)[:, None].expand(-1, 7, -1),
        ],
        -1,
    )
    yield "spe", code.permute(2, 0, 1)
    x = normal("rgb/x", 2, 12, 8, 10)
    yield "to_rgb", filled(style_swin.ToRGB(12, 3, True), "to_rgb")(x, normal("rgb/skip", 2, 3, 4, 5))
    yield "to_rgb_last", filled(style_swin.ToRGB(12, 3, False), "to_rgb_last")(x, normal("rgb/skip2", 2, 3, 8, 10))
    yield "haar", style_swin.haar(normal("haar/x", 1, 3, 8, 12))
    yield "ihaar", style_swin.inverse_haar(normal("ihaar/x", 1, 12, 4, 6))
    branch = filled(style_swin.FromRGB(12, 10, True, False), "from_rgb")
    bands, features = branch(normal("frgb/x", 1, 12, 8, 8), normal("frgb/skip", 1, 10, 4, 4))
    yield "from_rgb/input", bands
    yield "from_rgb/out", features
    for name, spectral in (("conv_block", False), ("conv_block_sn", True)):
        yield name, filled(style_swin.ConvBlock(6, 9, spectral), name)(normal("cb/x", 1, 6, 9, 8))
    yield "pixelnorm", style_swin.PixelNorm()(normal("pn/x", 3, 16))


def test_truncation(golden: Golden):
    data = golden.load("submodules")
    latent, centres = normal("trunc/latent", 3, 5, 512), normal("trunc/centers", 8, 512)
    out, farthest = transmrsr.drawn_to_centroids(latent, centres, "farthest", 0.9)
    _, nearest = transmrsr.drawn_to_centroids(latent, centres, "nearest", 0.9)
    assert np.array_equal(farthest, data["trunc/farthest_idx"]) and np.array_equal(nearest, data["trunc/nearest_idx"])
    assert error(out.flatten()[::15][:512], data["trunc/farthest_out_sub"]) < IMAGE


# ---- stage 1 ----


@torch.no_grad()
def test_generator(golden: Golden):
    data = golden.load("stage1")
    net = load_published("styleswin", {"g_ema": weights(golden, "g32", "g32/")})
    assert isinstance(net, StyleSwinGenerator)
    z = normal("g32/z", 2, 512)
    assert error(net.map(z), data["g32/w"]) < IMAGE
    assert error(net(z), data["g32/img"]) < IMAGE
    mean = 0.3 * normal("g32/mean_latent", 1, 512)
    assert error(net(z, 0.7, mean), data["g32/img_trunc_raw"]) < IMAGE

    wanted = data["kmeans/centers"]
    latents = net.map(normal("kmeans/z", 1500, 512))
    centres = cluster_latents(latents, len(wanted), seed=0)
    deviation, average = latents.std(0, correction=0), latents.mean(0)
    scaled, centres = (latents - average) / deviation, (centres - average) / deviation
    inertia = float(torch.cdist(scaled.double(), centres.double()).min(1).values.square().sum())
    assert inertia == pytest.approx(float(data["kmeans/inertia_scaled"]), rel=0.01)


@torch.no_grad()
def test_generator_of_full_size(golden: Golden):
    data = golden.load("stage1")
    if "g256/img_s2" not in data:
        pytest.skip("not in the compact set")
    net = load_published("styleswin", weights(golden, "styleswin_g"))
    z = normal("g256/z", 1, 512)
    assert error(net.map(z), data["g256/w"]) < IMAGE
    assert error(net(z)[:, :, ::2, ::2], data["g256/img_s2"]) < IMAGE
    net = loaded(lambda: StyleSwinDiscriminator(256, spectral_norm=True), weights(golden, "styleswin_d_sn"))
    assert error(net(0.5 * normal("d256/x", 2, 3, 256, 256)), data["d256_sn/logit"]) < LOSS


@torch.no_grad()
def test_discriminator(golden: Golden):
    data = golden.load("stage1")
    image = normal("d32/x", 4, 3, 32, 32)
    for spectral in (0, 1):
        name = f"d32_sn{spectral}"
        net = loaded(
            partial(StyleSwinDiscriminator, 32, spectral_norm=bool(spectral)), weights(golden, name, f"{name}/")
        )
        assert error(net(image), data[f"{name}/logit_b4"]) < LOSS
        assert error(net(image[:1]), data[f"{name}/logit_b1"]) < LOSS
    net.train()
    assert error(net(image), data["d32_sn1/train_forward1_logit_b4"]) < LOSS
    assert error(net.final_linear[0].weight_u, data["d32_sn1/train_forward1_u_final_linear.0"]) < LOSS


def test_adversarial_steps(golden: Golden):
    data = golden.load("stage1")
    generator = loaded(lambda: StyleSwinGenerator(16), weights(golden, "gan16_g", "gan16/g/")).train()
    critic = loaded(lambda: StyleSwinDiscriminator(16), weights(golden, "gan16_d", "gan16/d/")).train()
    real = normal("gan16/real", 4, 3, 16, 16)

    with torch.no_grad():
        made = generator(normal("gan16/z", 4, 512))
    fake_logits, real_logits = critic(made), critic(real)
    assert error(fake_logits, data["gan16/fake_pred"]) < LOSS
    assert error(real_logits, data["gan16/real_pred"]) < LOSS
    loss = discriminator_loss(real_logits, fake_logits)
    assert float(loss.detach()) == pytest.approx(float(data["gan16/d_loss"]), rel=LOSS)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in critic.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(data["gan16/d_grad_total_norm_before_clip"]), rel=GRADIENT)

    critic.zero_grad()
    real.requires_grad_()
    penalty = r1_penalty(critic(real), real)
    assert float(penalty.detach()) == pytest.approx(float(data["gan16/r1"]), rel=GRADIENT)
    (10 / 2 * 16 * penalty).backward()
    gradient = critic.get_parameter("final_linear.1.weight").grad
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(float(data["gan16/r1_gradnorm_final_linear.1.weight"]), rel=GRADIENT)

    loss = generator_loss(critic(generator(normal("gan16/z2", 4, 512))))
    assert float(loss.detach()) == pytest.approx(float(data["gan16/g_loss"]), rel=LOSS)
    loss.backward()
    for key in (key for key in data if key.startswith("gan16/g_gradnorm/")):
        gradient = generator.get_parameter(key.removeprefix("gan16/g_gradnorm/")).grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(data[key]), rel=GRADIENT), key


# ---- stage 2 ----


@torch.no_grad()
def test_losses(golden: Golden, loss: TransMRSRLoss):
    data = golden.load("sr_losses")
    pred, truth = normal("loss/pred", 2, 3, 32, 32), normal("loss/gt", 2, 3, 32, 32)
    for name, value in loss.parts(pred, truth).items():
        assert float(value) == pytest.approx(float(data[name]), rel=LOSS), name
    assert float(loss(pred, truth)) == pytest.approx(float(data["total"]), rel=LOSS)
    assert loss.network is not None
    a, b = loss.network(pred), loss.network(truth)
    for layer in STYLE_LAYERS:
        wanted = float(data[f"style_layer_{layer}"])
        assert float(layer_style_distance(a[layer], b[layer])) == pytest.approx(wanted, rel=LOSS)
    for layer in CONTENT_LAYERS:
        wanted = float(data[f"content_layer_{layer}"])
        assert float((a[layer] - b[layer]).square().mean()) == pytest.approx(wanted, rel=LOSS)


# ---- planes, scores, degradation ----


def test_planes(golden: Golden):
    data = golden.load("transforms")
    names = [key.removesuffix("_shape") for key in data if key.endswith("_shape")]
    assert len(names) == 8
    for name in names:
        h, w = map(int, name.removeprefix("crop_").split("x"))
        image = torch.arange(h * w).remainder(251).view(h, w)
        out, (top, left) = pad_or_crop(image)
        assert list(out.shape) == data[f"{name}_shape"].tolist()
        assert [left, top, out.shape[1], out.shape[0]] == data[f"{name}_bbox_x_y_w_h"].tolist()
        assert out.sum(1).tolist() == data[f"{name}_rowsum"].tolist()
        assert out.sum(0).tolist() == data[f"{name}_colsum"].tolist()
    grey = torch.as_tensor(data["flip_in"][None, ..., 0]).float() / 255
    assert error(PublishedPlaned("image", 16)({"image": grey})["image"], data["normalized"]) < IMAGE


def test_flips(golden: Golden):
    """All eight come up, and the three published ones are among them."""
    data = golden.load("transforms")
    image = torch.as_tensor(data["flip_in"]).permute(2, 0, 1)
    flips = RandPublishedFlipsd(["image"]).set_random_state(0)
    seen = {flips({"image": image})["image"].permute(1, 2, 0).numpy().tobytes() for _ in range(100)}
    assert len(seen) == 8
    for key in ("flip_h", "flip_v", "transpose"):
        assert data[key].tobytes() in seen


def test_scores(golden: Golden):
    data = golden.load("metrics")
    cases = sorted({key.split("/")[0] for key in data})
    for case in cases:
        pred = torch.as_tensor(data[f"{case}/pred_norm"])
        levels = torch.as_tensor(data[f"{case}/gt_u8"]).float() / 255
        truth = to_imagenet_units(pad_or_crop(levels.expand(3, *levels.shape), pred.shape[-1])[0])
        scores = plane_scores(pred, truth)
        assert scores["psnr"] == pytest.approx(float(data[f"{case}/psnr"]), abs=1e-3)
        assert scores["ssim"] == pytest.approx(float(data[f"{case}/ssim"]), abs=1e-5)
        assert scores["rmse"] == pytest.approx(float(data[f"{case}/rmse"]), rel=1e-5)
    same = plane_scores(truth, truth)
    assert same["psnr"] == float("inf") and same["ssim"] == pytest.approx(1) and same["rmse"] == 0
    means = mean_plane_scores([scores, same])
    assert means["psnr"] == scores["psnr"] and means["ssim"] == pytest.approx((scores["ssim"] + 1) / 2)


def test_degradation(golden: Golden):
    data = golden.load("degrade_proposed")
    volume = torch.as_tensor(data["v"]).double()
    names = [key.removeprefix("lr_") for key in data if key.startswith("lr_")]
    assert names
    for name in names:
        axis, factor, profile = name.split("_")
        scale, place = float(factor[1:]), int(axis[2:])
        n = volume.shape[place]
        down = sampled_profile_matrix(n, scale, profile)
        matrices: list[torch.Tensor | None] = [down if i == place else None for i in range(3)]
        coarse = apply_separable(volume, matrices)
        assert error(coarse, data[f"lr_{name}"]) < IMAGE, name
        # beyond the outer centres SciPy repeats the last coefficient, where we mirror them: give it two more; and along
        # the other axes the stored volumes are smoothed, as samples were taken for coefficients
        for i, m in enumerate(coarse.shape):
            places = torch.arange(m, dtype=torch.float64)
            rows = torch.eye(m, dtype=torch.float64)
            if i == place:
                places = (torch.arange(n, dtype=torch.float64) - (scale - 1) / 2) / scale
                rows = torch.as_tensor(ndimage.spline_filter1d(rows.numpy(), 3, axis=0, mode="nearest"))
            repeated = rows[torch.arange(-2, m + 2).clamp(0, m - 1)]
            matrices[i] = bspline_matrix(m + 4, places + 2, prefilter=False) @ repeated
        assert error(apply_separable(coarse, matrices), data[f"up_{name}"]) < IMAGE, name
