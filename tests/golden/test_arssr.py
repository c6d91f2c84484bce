"""ArSSR against the published code, number by number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from custom_nets.checkpoints.published import load_published
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, PublishedProcedureInferer
from custom_nets.metrics import image_quality as iq
from custom_nets.networks import ArSSR
from custom_nets.operators.interpolation import apply_separable
from custom_nets.operators.slice_profile import published_zoom_matrix
from custom_nets.transforms import PublishedDegraded, PublishedPaird
from tests.tools.golden import Golden, golden_sets, name_of

ENCODERS = ("RDN", "ResCNN", "SRResnet")
SMALL = "ResCNN_small(feature_dim=16,decoder_depth=5,decoder_width=32)"

pytestmark = [
    pytest.mark.parametrize("golden", golden_sets("arssr"), ids=name_of),
    pytest.mark.usefixtures("one_thread"),
]


def network(golden: Golden, model: str) -> ArSSR:
    return load_published("arssr", golden.weights(model))


def close(found, wanted, relative: float = 2e-5) -> float:
    """Largest difference in units of the reference's maximum, which must be below ``relative``."""
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found, dtype=np.float64)
    assert found.shape == wanted.shape
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert error <= relative, f"off by {error:.1e} of the maximum, allowed {relative:.0e}"
    return error


def volume_zyx(array: np.ndarray) -> MetaTensor:
    """A volume of the published order as MONAI has it: [1, 1, X, Y, Z]."""
    volume = torch.as_tensor(array.copy()).permute(2, 1, 0).contiguous()
    return MetaTensor(volume[None, None], affine=torch.eye(4, dtype=torch.float64))


def like(lr: np.ndarray, hr: np.ndarray | tuple[int, ...]) -> Grid:
    """The output grid of ``hr`` voxels (z, y, x) on the same field of view, whatever the scale."""
    n, m = np.array(lr.shape[::-1]), np.array(hr)[::-1]
    affine = np.diag([*(n / m), 1.0])
    affine[:3, 3] = (n / m - 1) / 2
    return Grid(tuple(int(v) for v in m), affine)


def infer(net: ArSSR, lr: np.ndarray, hr_shape, **options) -> torch.Tensor:
    """Our inferer, back in (z, y, x)."""
    out = ImplicitVolumeInferer(like=like(lr, hr_shape), **options)(volume_zyx(lr), net)
    return out.as_tensor()[0, 0].permute(2, 1, 0)


def published_coordinates(shape) -> torch.Tensor:
    axes = [torch.as_tensor((2 * np.arange(int(n)) + 1) / n - 1, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)


@contextmanager
def recorded(net: torch.nn.Module, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of sub-modules by name ("name/input": what goes in) while the block runs."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name in names:
        module = net.get_submodule(name.removesuffix("/input"))
        takes_input = name.endswith("/input")

        def hook(_, inputs, output, name=name, takes_input=takes_input):
            seen[name] = (inputs[0] if takes_input else output).detach().clone()

        handles.append(module.register_forward_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# ---- weights ----


@pytest.mark.parametrize("model", ENCODERS)
def test_keys_and_shapes_are_the_published_ones(golden: Golden, model: str):
    rows = golden.manifest[model]
    state = network(golden, model).state_dict()
    assert list(state) == [row[0] for row in rows]
    assert [list(value.shape) for value in state.values()] == [row[1] for row in rows]


@pytest.mark.parametrize("model", ENCODERS)
def test_a_published_file_gives_the_same_network(golden: Golden, model: str, tmp_path):
    weights = {key: torch.as_tensor(value) for key, value in golden.weights(model).items()}
    path = tmp_path / f"ArSSR_{model}.pkl"
    torch.save(weights, path)
    net = load_published("arssr", path)
    assert not net.training
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


# ---- forward ----


@pytest.mark.parametrize("factor", ["k2", "k2p6"])
@pytest.mark.parametrize("model", ENCODERS)
@torch.no_grad()
def test_grid(golden: Golden, model: str, factor: str):
    name = f"forward_{model}_{factor}"
    if name not in golden.names():
        pytest.skip("not in the compact set")
    data = golden.load(name)
    net = network(golden, model)
    lr = torch.as_tensor(data["lr"])[None, None]
    with recorded(net, ["encoder", "decoder/input", "decoder.stage_one"]) as seen:
        out = net(lr, published_coordinates(data["hr_shape"]))
    close(out.reshape(data["out"].shape), data["out"])
    if "features" in data:
        close(seen["encoder"][0], data["features"])
    for key, name in (("decoder_in", "decoder/input"), ("stage_one_out", "decoder.stage_one")):
        if key in data:
            close(seen[name].reshape(-1, 131)[torch.as_tensor(data["sub_index"])], data[key])
    # the same without coordinates, and through our inferer
    scale = {"k2": 2.0, "k2p6": 2.6}[factor]
    close(net(lr, scale=scale)[0, 0], data["out"])
    close(infer(net, data["lr"], data["hr_shape"]), data["out"])


@pytest.mark.parametrize("model", ENCODERS)
@torch.no_grad()
def test_free_coordinates(golden: Golden, model: str):
    data = golden.load(f"forward_{model}_free")
    net = network(golden, model)
    with recorded(net, ["decoder/input"]) as seen:
        out = net(torch.as_tensor(data["lr"])[:, None], torch.as_tensor(data["xyz"]))
    close(out, data["out"])
    if "decoder_in" in data:
        close(seen["decoder/input"], data["decoder_in"])


@pytest.mark.parametrize("model", ENCODERS)
@torch.no_grad()
def test_long_volume_streamed_and_tiled(golden: Golden, model: str):
    """Longer than the receptive field, in slabs, tiles and chunks of any size."""
    data = golden.load(f"forward_{model}_long")
    net = network(golden, model)
    lr = torch.as_tensor(data["lr"])[None, None]
    with recorded(net, ["encoder"]) as seen:
        out = net(lr, published_coordinates(data["hr_shape"]))
    close(out.reshape(data["out"].shape), data["out"])
    if "features_axis0_step9" in data:
        close(seen["encoder"][0, :, ::9], data["features_axis0_step9"])
    if name_of(golden) == "compact":  # the same volume in both sets, so once is enough
        for options in ({}, {"slab": 3, "rows": 64}, {"slab": 32, "tile": 3, "rows": 1000}):
            close(infer(net, data["lr"], data["hr_shape"], **options), data["out"])


@torch.no_grad()
def test_small_configuration(golden: Golden):
    data = golden.load("forward_ResCNN_small_config")
    net = network(golden, SMALL)
    out = net(torch.as_tensor(data["lr"])[None, None], published_coordinates(data["hr_shape"]))
    close(out.reshape(data["out"].shape), data["out"])
    close(infer(net, data["lr"], data["hr_shape"]), data["out"])


@pytest.mark.parametrize("model", ENCODERS)
@torch.no_grad()
def test_inner_features(golden: Golden, model: str):
    name = f"encoder_{model}_inner"
    if name not in golden.names():
        pytest.skip("not in the compact set")
    data = golden.load(name)
    places = {
        "RDN": {
            "sfe1": "sfe1",
            "sfe2": "sfe2",
            "rdb0_dense": "rdbs.0.layers",
            "rdb0": "rdbs.0",
            "rdb7": "rdbs.7",
            "gff": "gff",
            "features": "",
        },
        "ResCNN": {
            "conv_start": "conv_start",
            "block1": "block1",
            "block2": "block2",
            "block3": "block3",
            "conv_end": "conv_end",
            "features": "",
        },
        "SRResnet": {**{f"features_{i}": f"features.{i}" for i in (0, 1, 18, 19, 20)}, "features": ""},
    }[model]
    assert places.keys() | {"lr"} == data.keys()
    encoder = network(golden, model).encoder
    with recorded(encoder, list(places.values())) as seen:
        encoder(torch.as_tensor(data["lr"])[None, None])
    for key, place in places.items():
        close(seen[place][0], data[key])


def test_make_coord(golden: Golden):
    data = golden.load("make_coord")
    np.testing.assert_allclose(published_coordinates((3, 4, 5))[0], data["c_3_4_5"], atol=1e-6)
    np.testing.assert_allclose(published_coordinates((3, 4, 5)).view(3, 4, 5, 3), data["c_3_4_5_unflat"], atol=1e-6)
    # the inferer's own code for a position in voxels, on an LR axis of 7 and of 320
    for n in (7, 320):
        code = ArSSR.position_code(torch.arange(n, dtype=torch.float64), n)
        np.testing.assert_allclose(code, data[f"c_{n}"], atol=1e-6)


# ---- the whole command ----


@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_command_line(golden: Golden, scale: float):
    data = golden.load("cli_ResCNN")
    tag = f"{scale:.1f}".replace(".", "d")
    wanted = data[f"out_{tag}"]
    net = network(golden, "ResCNN")
    lr = torch.as_tensor(data["lr_zyx"])[None, None]
    close(PublishedProcedureInferer(scale=scale)(lr, net)[0, 0], wanted)
    close(infer(net, data["lr_zyx"], wanted.shape), wanted)

    # the published header copies the origin and forgets the half voxel; ours keeps the field of view
    n, m = np.array(data["lr_zyx"].shape[::-1]), np.array(wanted.shape[::-1])
    spacing, direction = data["spacing_in"], data["direction_in"].reshape(3, 3)
    np.testing.assert_allclose(data[f"spacing_{tag}"], spacing / scale, rtol=1e-6)
    np.testing.assert_allclose(data[f"origin_{tag}"], data["origin_in"], rtol=1e-6)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = lps_to_ras @ direction * spacing
    affine[:3, 3] = lps_to_ras @ data["origin_in"]
    source = Grid(tuple(n), affine)
    if scale == 2.0:
        target = source.rescaled(scale)
        assert target.shape == tuple(m)
        out = ImplicitVolumeInferer(scale=scale)(
            MetaTensor(lr[0].permute(0, 3, 2, 1)[None], affine=torch.as_tensor(affine)), net
        )
        close(out.as_tensor()[0, 0].permute(2, 1, 0), wanted)
        np.testing.assert_allclose(out.affine[0], target.affine, atol=1e-9)
        origin = data["origin_in"] + direction @ (spacing * (n / m - 1) / 2)
        np.testing.assert_allclose(lps_to_ras @ target.affine[:3, 3], origin, atol=1e-9)
        np.testing.assert_allclose(target.spacing_mm, spacing * n / m, atol=1e-9)


# ---- training ----


@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.slow
def test_three_training_steps(golden: Golden, model: str):
    data = golden.load(f"train_{model}")
    # in double precision: near the kinks of ReLU and L1 a gradient in single precision depends on the processor
    net = network(golden, model).train().double()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)
    lr, xyz, target = (torch.as_tensor(data[key]).double() for key in ("lr", "xyz", "target"))
    lr = lr[:, None]
    parameters = dict(net.named_parameters())
    for step in range(3):
        out = net(lr, xyz)
        loss = F.l1_loss(out, target)
        assert loss.item() == pytest.approx(data["losses"][step], rel=1e-5 if step == 0 else 1e-4)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            close(out, data["out_step0"])
            for key in data:
                if key.startswith("grad."):
                    close(parameters[key.removeprefix("grad.")].grad, data[key], 1e-4)
                elif key.startswith("grad_norm."):
                    norm = float(parameters[key.removeprefix("grad_norm.")].grad.norm())
                    assert norm == pytest.approx(float(data[key]), rel=1e-4)
            total = float(torch.stack([p.grad.norm() for p in parameters.values()]).norm())
            assert total == pytest.approx(float(data["grad_norm_total"]), rel=1e-4)
        optimizer.step()
    with torch.no_grad():
        close(net(lr, xyz), data["out_after3"], 2e-3)
    close(parameters["decoder.stage_two.6.weight"], data["stage_two6_weight_after3"], 2e-3)


def test_degradation_of_training_blocks(golden: Golden):
    data = golden.load("degrade_training")
    for key in [key for key in data if key.startswith("lr_")]:
        n = int(key.removeprefix("lr_"))
        block = torch.as_tensor(data["hr"])[None, :n, :n, :n]
        coarse = PublishedDegraded("image", scale=n / 10)({"image": block})["image"]
        np.testing.assert_allclose(coarse[0], data[key], atol=1e-5)


def test_degradation_of_volumes(golden: Golden):
    data = golden.load("degrade_volume")
    fine = torch.as_tensor(data["hr"])[None]
    for key in [key for key in data if key.startswith("lr_")]:
        coarse = PublishedDegraded("image", scale=int(key.removeprefix("lr_")) / 10)({"image": fine})["image"]
        np.testing.assert_allclose(coarse[0], data[key], atol=1e-5)
    # the same operator the other way is the published comparison with cubic interpolation
    coarse = torch.as_tensor(data["lr_25"], dtype=torch.float64)
    up = [published_zoom_matrix(m, n) for m, n in zip(coarse.shape, data["hr"].shape, strict=True)]
    np.testing.assert_allclose(apply_separable(coarse, up), data["up_from_25_cubic"], atol=1e-5)


def block_of(golden: Golden) -> dict[str, torch.Tensor]:
    """The 40^3 block of the training items, turned to MONAI's (x, y, z)."""
    return {"image": torch.as_tensor(golden.load("degrade_training")["hr"]).permute(2, 1, 0)[None]}


def test_training_item(golden: Golden):
    data = golden.load("train_item")
    sampler = PublishedPaird("image", num_points=len(data["xyz"])).set_random_state(int(data["seed"]))
    item = sampler(block_of(golden))
    assert item["scale"].tolist() == pytest.approx([float(data["scale"])] * 3)
    np.testing.assert_allclose(item["image"][0], data["lr"], atol=1e-5)
    np.testing.assert_allclose(item["positions"], data["xyz"], atol=1e-6)
    np.testing.assert_allclose(item["label"], data["value"], atol=1e-6)


def test_validation_item(golden: Golden):
    data = golden.load("val_item")
    item = PublishedPaird("image", num_points=None).set_random_state(int(data["seed"]))(block_of(golden))
    assert item["scale"].tolist() == pytest.approx([float(data["scale"])] * 3)
    assert len(item["label"]) == int(data["n_coord"])
    np.testing.assert_allclose(item["image"][0], data["lr"], atol=1e-5)
    np.testing.assert_allclose(item["positions"][:50], data["xyz_first"], atol=1e-6)


def test_scale_draws(golden: Golden):
    data = golden.load("scale_draws")
    sampler = PublishedPaird("image").set_random_state(int(data["seed"]))
    assert [sampler.draw_scale() for _ in data["scales"]] == pytest.approx(data["scales"].tolist())


# ---- metrics ----


def test_metrics(golden: Golden):
    data = golden.load("metrics")
    image, truth = data["image"], data["gt"]
    assert iq.published_psnr(image, truth) == pytest.approx(float(data["psnr"]), abs=1e-3)
    assert iq.published_ssim(image, truth) == pytest.approx(float(data["ssim"]), abs=1e-4)
    assert iq.published_psnr(truth, truth) == float(data["psnr_same"]) == float("inf")
    # the file does not say which of the two arrays was scaled
    assert min(np.abs(iq.published_min_max(a) - data["normal"]).max() for a in (image, truth)) < 1e-6
