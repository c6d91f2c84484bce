"""MoSt-DSA against the published code, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.optim import AdamW

from custom_nets.checkpoints.published import load_published
from custom_nets.losses import LaplacianPyramidLoss, MoStDSALoss, VGGLosses
from custom_nets.metrics.frames import frame_psnr, frame_ssim, ssim_matlab
from custom_nets.networks.layers.vgg19 import VGG19Features, load_vgg19_features
from custom_nets.networks.most_dsa import Interpolation, MoStDSA, centred_padding, warp
from custom_nets.optimizers import most_dsa_schedule
from tests.tools.golden import Golden, golden_sets, most_dsa_weight, name_of

pytestmark = [
    pytest.mark.parametrize("golden", golden_sets("most_dsa"), ids=name_of, scope="module"),
    pytest.mark.usefixtures("one_thread"),
]

IMAGE = {"atol": 1e-4, "rtol": 0}
FEATURE = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def net(golden: Golden) -> MoStDSA:
    network = load_published("most_dsa", {f"module.{k}": v for k, v in golden.weights("most_dsa").items()})
    assert isinstance(network, MoStDSA)
    return network


def frames(*arrays: np.ndarray) -> list[torch.Tensor]:
    """[..., H, W] of bytes -> [B, 3, H, W] from 0 to 1; grey ones in three equal channels."""
    tensors = [torch.as_tensor(array.copy()).float() / 255 for array in arrays]
    return [x if x.ndim == 4 else x.expand(3, *x.shape[-2:])[None] for x in tensors]


def close(found: torch.Tensor, wanted: np.ndarray, atol: float, rtol: float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=atol, rtol=rtol)


# ---- weights ----


def test_keys_and_shapes_are_the_published_ones(golden: Golden, net: MoStDSA):
    rows = golden.manifest["most_dsa"]
    state = net.state_dict()
    assert list(state) == [row[0] for row in rows]
    assert [list(value.shape) for value in state.values()] == [row[1] for row in rows]
    assert sum(p.numel() for p in net.parameters()) == 54_117_133
    assert sum(b.numel() for b in net.buffers()) == 1_032


# ---- forward ----


@torch.no_grad()
def test_forward(golden: Golden, net: MoStDSA):
    data = golden.load("forward_A")
    out = net(*frames(data["img0"], data["img1"]), float(data["timestep"]), details=True)
    assert isinstance(out, Interpolation)
    for key, value, tolerance in (
        ("pred", out.pred, IMAGE),
        ("merged", out.merged, IMAGE),
        ("mask_sigmoid", out.mask, IMAGE),
        ("flow", out.flow, FEATURE),
        ("unet_logits", out.logits, FEATURE),
    ):
        if key in data:
            close(value[:, 0], data[key], **tolerance)


@torch.no_grad()
def test_inner_features(golden: Golden, net: MoStDSA):
    pair = golden.load("forward_A")
    data = golden.load("inter_A")
    seen: dict[str, list] = {}
    names = ["feature_bone", "feature_bone.patch_embed4", "feature_bone.block4.0", "feature_bone.block4.0.Lambda"]
    names += ["unet.down0", "unet.down3", "unet.supple", "unet.up0"]
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.setdefault(name, []).append(output)
        )
        for name in names
    ]
    handles.append(net.unet.register_forward_pre_hook(lambda _, inputs: seen.update(warped=inputs[1])))
    net(*frames(pair["img0"][:1], pair["img1"][:1]), float(pair["timestep"]))
    for handle in handles:
        handle.remove()

    levels, motion = seen["feature_bone"][0]
    tokens, last = (
        x.flatten(2).transpose(1, 2)
        for x in (seen["feature_bone.patch_embed4"][0], seen["feature_bone.block4.0"][0][0])
    )
    appearance, first_motion = (x.permute(0, 2, 3, 1) for x in seen["feature_bone.block4.0.Lambda"][0])
    found = {
        "af0_s4": levels[0][..., ::4, ::4],
        "af1_s2": levels[1][..., ::2, ::2],
        "af2_s2": levels[2][..., ::2, ::2],
        "af3": levels[3],
        "mf3": motion,
        "patch_embed4": tokens,
        "lambda0_appearance": appearance,
        "lambda0_motion": first_motion,
        "block0_out": last,
        "warped_c0_3": seen["warped"][3][0],
        "warped_c1_0_s4": seen["warped"][0][1][..., ::4, ::4],
        "unet_s0_s4": seen["unet.down0"][0][..., ::4, ::4],
        "unet_s3": seen["unet.down3"][0],
        "supple_c0": seen["unet.supple"][0],
        "unet_up0_s2": seen["unet.up0"][0][..., ::2, ::2],
    }
    assert data.keys() <= found.keys()
    for key, value in data.items():
        close(found[key], value, **FEATURE)


@torch.no_grad()
def test_two_times_and_flow_of_a_smaller_frame(golden: Golden, net: MoStDSA):
    if "forward_C" not in golden.names():
        pytest.skip("not in the compact set")
    data = golden.load("forward_C")
    pair = frames(data["img0"], data["img1"])
    close(net(*pair, data["time_list"].tolist())[0], data["pred_t"], **IMAGE)
    close(net.feature_bone(torch.cat(pair))[1][..., ::2, ::2], data["mf3_s2"], **FEATURE)
    close(net(*pair, 0.5, flow_scale=0.5)[0, 0, :, ::2, ::2], data["hr_pred_s2"], **IMAGE)


@torch.no_grad()
def test_command_line(golden: Golden, net: MoStDSA):
    """Grey frames of an odd size: padding, averaging with the rotated run, and the bytes that were written."""
    data = golden.load("cli_B")
    pair = frames(data["frame0"], data["frame1"])
    times = data["time_list"].tolist()
    assert centred_padding(53, 70, 32) == data["pad"].tolist()
    padded = torch.nn.functional.pad(pair[0], data["pad"].tolist(), mode="replicate")
    assert list(padded.shape) == data["padded_shape"].tolist()
    close(padded[0, 0, 0], data["padded0_row0"], **IMAGE)
    close(padded[0, 0, :, 0], data["padded0_col0"], **IMAGE)

    close(net(*pair, times)[0], data["plain"], **IMAGE)
    both = net(*pair, times, tta=True)[0]
    for key in ("tta", "fast_tta"):
        if key in data:
            close(both, data[key], **IMAGE)
    # cut to bytes, not rounded, and the channels turned around
    written = (both * 255).to(torch.uint8).permute(0, 2, 3, 1).flip(-1).numpy()
    off = np.abs(written.astype(int) - data["png_uint8_hwc"])
    assert off.max() <= 1 and (off > 0).mean() <= 0.005


def test_operations(golden: Golden):
    data = golden.load("ops")
    out = warp(torch.as_tensor(data["warp_input"]), torch.as_tensor(data["warp_flow"]))
    close(out, data["warp_output"], atol=1e-5, rtol=0)
    paddings = [name for name in data if name.startswith("pad_")]
    assert len(paddings) == 12
    for name in paddings:
        _, size, divisor = name.split("_")
        h, w = map(int, size.split("x"))
        assert centred_padding(h, w, int(divisor.removeprefix("div"))) == data[name].tolist()


# ---- metrics ----


def test_metrics(golden: Golden):
    data = golden.load("metrics")
    a, b = (torch.as_tensor(data[key].copy()).float() / 255 for key in "ab")
    grey_a, grey_b = (x[:1].expand(3, -1, -1) for x in (a, b))
    assert float(frame_psnr(a, b)) == pytest.approx(float(data["psnr_rgb"]), abs=1e-3)
    assert float(frame_psnr(grey_a, grey_b)) == pytest.approx(float(data["psnr_gray"]), abs=1e-3)
    for found, key in (
        (ssim_matlab(a, b), "ssim_matlab_rgb"),
        (ssim_matlab(grey_a, grey_b), "ssim_matlab_gray"),
        (ssim_matlab(255 * grey_a, 255 * grey_b), "ssim_matlab_255"),
        (frame_ssim(a, b), "ssim2d_rgb"),
        (frame_ssim(grey_a, grey_b), "ssim2d_gray"),
    ):
        assert float(found) == pytest.approx(float(data[key]), abs=1e-4), key


# ---- training ----


def test_schedule(golden: Golden):
    data = golden.load("schedule")
    cases = {
        "ori": {},
        "ori_custom_m500": {"strategy": "ori-custom", "base_lr": 1e-4, "milestones": [500]},
        "ori_continue_m500_c1e5": {
            "strategy": "ori-for-continue",
            "base_lr": 1e-4,
            "milestones": [500],
            "continue_lr": 1e-5,
        },
        "stage3_500_2500": {"strategy": "3-stage-decay", "milestones": [500, 2500]},
        "stage2_500": {"strategy": "2-stage-decay", "milestones": [500]},
    }
    assert cases.keys() | {"steps", "step_per_epoch"} == data.keys()
    for name, options in cases.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = most_dsa_schedule(optimizer, steps_per_epoch=int(data["step_per_epoch"]), **options)
        factor = schedule.lr_lambdas[0]
        rates = [schedule.base_lrs[0] * factor(int(step)) for step in data["steps"]]
        np.testing.assert_allclose(rates, data[name], rtol=1e-9, atol=1e-15)


@pytest.fixture(scope="module")
def observer() -> VGGLosses:
    shapes = {f"vgg19.{key}": list(value.shape) for key, value in VGG19Features().state_dict().items()}
    kinds = {key: "bias" if key.endswith("bias") else "weight" for key in shapes}
    weights = {key: torch.as_tensor(most_dsa_weight(key, shape, kinds[key])) for key, shape in shapes.items()}
    return VGGLosses(load_vgg19_features(weights, "matconvnet"))


@torch.no_grad()
def test_losses(golden: Golden, observer: VGGLosses):
    data = golden.load("losses")
    frame, truth = frames(data["frame0"], data["gt"])
    lap = LaplacianPyramidLoss()
    assert float(lap(frame, truth)) == pytest.approx(float(data["lap"]), rel=1e-4)
    assert float(lap(frame, frame + 0.1)) == pytest.approx(float(data["lap_of_constant_shift_0p1"]), abs=1e-6)
    perceptual, style = observer(frame, truth)
    assert float(perceptual) == pytest.approx(float(data["perceptual"]), rel=1e-4)
    assert float(style) == pytest.approx(float(data["style"]), rel=1e-4)
    layers = ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")
    for layer, features in zip(layers, observer.network(frame), strict=True):
        assert float(features.mean()) == pytest.approx(float(data[f"vgg_mean_{layer}"]), rel=1e-4)


def test_training_step(golden: Golden, observer: VGGLosses):
    """Both totals, then gradients, batch statistics and the weights after one step of AdamW in epoch 2."""
    data = golden.load("losses")
    frame0, frame1, truth = frames(data["frame0"], data["frame1"], data["gt"])
    net = load_published("most_dsa", golden.weights("most_dsa")).train()
    out = net(frame0, frame1, [0.5], details=True)
    assert isinstance(out, Interpolation)
    close(out.pred[0, 0, :, ::4, ::4], data["train_pred_s4"], **IMAGE)

    loss = MoStDSALoss(observer)
    with torch.no_grad():
        assert float(loss(out, truth[:, None])) == pytest.approx(float(data["epoch1_total"]), rel=1e-4)
    loss.epoch = 2
    total = loss(out, truth[:, None])
    assert float(total.detach()) == pytest.approx(float(data["epoch2_total"]), rel=1e-4)

    optimizer = AdamW(net.parameters(), lr=2e-4, weight_decay=1e-4)
    total.backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None] and not len(data["no_grad_params"])
    norm = torch.stack([p.grad.norm() for p in net.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(data["grad_norm_total"]), rel=0.02)
    for key in (key for key in data if key.startswith("grad/")):
        gradient = net.get_parameter(key.removeprefix("grad/")).grad
        assert gradient is not None
        close(gradient, data[key], atol=0.02 * float(np.abs(data[key]).max()), rtol=0)
    optimizer.step()
    state = net.state_dict()
    for key in (key for key in data if key.startswith(("bn/", "after_step/"))):
        close(state[key.split("/")[1]], data[key], **FEATURE)
