"""Any output grid: the same whatever the way through the volume, in the right place, within a stated memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from torch import nn

from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, PlaneStreamer, PublishedProcedureInferer, resolve_grid
from custom_nets.inferers.implicit import _VolumeDecoder
from custom_nets.networks import ArSSR, ResidualArSSR
from custom_nets.transforms import LoadVolumed, SaveVolumed
from tests.conftest import random_affine, world_points

NETWORKS = ("residual", "RDN", "ResCNN", "SRResNet")


def network(name: str) -> nn.Module:
    """Random weights that give a lively output."""
    torch.manual_seed(0)
    if name == "residual":
        net: nn.Module = ResidualArSSR(feature_dim=8, num_features=6, growth=5, num_blocks=2, num_layers=2)
        nn.init.normal_(net.decoder[-1].weight, std=0.3)
    else:
        net = ArSSR(name, feature_dim=8, decoder_depth=4, decoder_width=16)
        nn.init.constant_(net.decoder.stage_two[-2].bias, 0.5)
    return net.eval()


def interpolation() -> ResidualArSSR:
    """Ours as it starts: the cubic B-spline itself."""
    return ResidualArSSR(feature_dim=4, num_features=4, growth=4, num_blocks=1, num_layers=1, decoder_width=8)


def image(shape=(13, 9, 11), affine=None, channels: int = 1) -> MetaTensor:
    affine = np.diag([1.0, 1.2, 2.5, 1.0]) if affine is None else affine
    values = torch.rand(1, channels, *shape, generator=torch.Generator().manual_seed(1))
    return MetaTensor(values, affine=torch.as_tensor(affine, dtype=torch.float64))


def oblique(source: Grid, shape=(10, 12, 8), angle: float = 0.3) -> Grid:
    """A grid through the middle of ``source``, turned about all of its axes."""
    rotation, _ = np.linalg.qr(np.eye(3) + angle * np.random.default_rng(3).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * 0.8
    middle = source.affine @ [*(np.array(source.shape) - 1) / 2, 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.as_subclass(torch.Tensor) - wanted).abs().max() / wanted.abs().max())


def targets(source: Grid) -> dict[str, Grid]:
    fine = source.rescaled((2, 1.7, 3))
    return {
        "regular": fine,
        "flipped": Grid(fine.shape, fine.affine @ np.array([[-1, 0, 0, fine.shape[0] - 1], *np.eye(4)[1:]])),
        "permuted": Grid((fine.shape[2], *fine.shape[:2]), fine.affine[:, [2, 0, 1, 3]]),
        "oblique": oblique(source),
    }


@torch.no_grad()
def forward_at(net: nn.Module, volume: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """The network's own ``forward``, point by point at the world positions of ``target``."""
    index = world_points(target.shape, source.index_map(target)).reshape(-1, 3)
    scale = np.maximum(source.scale_to(target), 1)
    order = list(net.axis_order(scale))
    positions = torch.as_tensor(index[:, order])
    lr = volume.permute(*order)[None, None]
    if isinstance(net, ArSSR):
        out = net(lr, ((2 * positions + 1) / torch.tensor(lr.shape[2:]) - 1).float()[None])
    else:
        out = net(lr, positions.float()[None], torch.as_tensor(scale[order], dtype=torch.float32)[None])
    inside = ((index >= -0.5 - 1e-6) & (index <= np.array(source.shape) - 0.5 + 1e-6)).all(1)
    out = torch.where(torch.as_tensor(inside), out[0, :, 0], volume.min())
    return out.reshape(target.shape)


# ---- one result, many ways ----


@pytest.mark.parametrize("kind", ["regular", "flipped", "permuted", "oblique"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_inferer_is_the_network(name: str, kind: str):
    net, lr = network(name), image()
    source = Grid.of(lr[0])
    target = targets(source)[kind]
    out = ImplicitVolumeInferer(like=target, data_consistency=False)(lr, net)
    assert out.shape == (1, 1, *target.shape)
    np.testing.assert_allclose(out.affine[0], target.affine)
    assert relative(out[0, 0], forward_at(net, lr[0, 0].as_tensor(), source, target)) < 2e-5


@pytest.mark.parametrize("kind", ["regular", "permuted", "oblique"])
@pytest.mark.parametrize("name", ["residual", "RDN"])
def test_result_does_not_depend_on_the_way(name: str, kind: str):
    net, lr = network(name), image((13, 5, 6))
    target = targets(Grid.of(lr[0]))[kind]
    wanted = ImplicitVolumeInferer(like=target)(lr, net).as_tensor()
    for options in (
        {"slab": 1},
        {"slab": 4},
        {"tile": 1},
        {"tile": 4, "slab": 3},
        {"rows": 30},
        {"rows": 100000, "slab": 13},
    ):
        assert relative(ImplicitVolumeInferer(like=target, **options)(lr, net), wanted) < 2e-5, options


@pytest.mark.parametrize("kind", ["regular", "flipped", "permuted", "oblique"])
def test_flips_are_the_mean_of_what_is_made_of_mirror_images(kind: str):
    net, lr = network("residual"), image()
    source = Grid.of(lr[0])
    target = targets(source)[kind]
    found = ImplicitVolumeInferer(like=target, data_consistency=False, flips=True)(lr, net)
    np.testing.assert_allclose(found.affine[0], target.affine)
    mirrored = []
    for axes in (axes for count in range(4) for axes in combinations(range(3), count)):
        grid = source.turned((0, 1, 2), [axis in axes for axis in range(3)])  # the same voxels, counted backwards
        volume = MetaTensor(lr.as_tensor().flip([2 + axis for axis in axes]), affine=torch.as_tensor(grid.affine))
        mirrored.append(ImplicitVolumeInferer(like=target, data_consistency=False)(volume, net).as_tensor())
    assert relative(found, torch.stack(mirrored).mean(0)) < 2e-5
    assert relative(found, mirrored[0]) > 1e-3


def test_what_is_made_with_flips_is_mirrored_with_its_input():
    net, lr = network("residual"), image()
    made = [ImplicitVolumeInferer(scale=(2, 1, 3), flips=True)(x, net) for x in (lr, lr.flip([2, 4]))]
    assert relative(made[1].flip([2, 4]), made[0].as_tensor()) < 2e-5


def test_result_does_not_depend_on_threads():
    net, lr = network("residual"), image()
    threads, found = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(ImplicitVolumeInferer(scale=2)(lr, net).as_tensor())
    torch.set_num_threads(threads)
    assert relative(found[1], found[0]) < 2e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_streamed_along_the_longest_axis(axis: int):
    shape = [4, 5, 6]
    shape[axis] = 40
    net, lr = network("residual"), image(tuple(shape))
    wanted = ImplicitVolumeInferer(scale=1.5)(lr, net).as_tensor()
    assert relative(ImplicitVolumeInferer(scale=1.5, slab=3)(lr, net), wanted) < 2e-5


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 7, 3), (31, 2, 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_small_and_thin_volumes(name: str, shape):
    net, lr = network(name), image(shape)
    source = Grid.of(lr[0])
    for scale in (1.0, (2, 1, 3.3)):
        out = ImplicitVolumeInferer(scale=scale, slab=1)(lr, net)
        assert relative(out[0, 0], forward_at(net, lr[0, 0].as_tensor(), source, source.rescaled(scale))) < 2e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_is_treated_alike_along_any_axis(axis: int):
    """Ours: a permuted volume gives the permuted result, bit for bit the same work."""
    net, lr = network("residual"), image()
    wanted = ImplicitVolumeInferer(scale=(1, 1, 4))(lr, net)[0, 0].as_tensor()
    order = [0, 1]
    order.insert(axis, 2)
    scale = [1, 1, 1]
    scale[axis] = 4
    turned = MetaTensor(lr.as_tensor().permute(0, 1, *(2 + a for a in order)), affine=lr.affine[:, [*order, 3]])
    out = ImplicitVolumeInferer(scale=scale)(turned, net)[0, 0].as_tensor()
    assert relative(out, wanted.permute(*order)) < 2e-5


def test_channels_and_batch_items_one_by_one():
    net = network("residual")
    lr = image(channels=3)
    out = ImplicitVolumeInferer(scale=2)(lr, net)
    assert out.shape == (1, 3, 26, 18, 22)
    for channel in range(3):
        alone = MetaTensor(lr.as_tensor()[:, channel : channel + 1], affine=lr.affine)
        assert relative(ImplicitVolumeInferer(scale=2)(alone, net)[0, 0], out[0, channel].as_tensor()) < 1e-6

    two = list_data_collate([image()[0], image(affine=np.diag([3.0, 1, 1, 1]))[0]])
    out = ImplicitVolumeInferer(scale=2)(two, net)
    assert out.shape == (2, 1, 26, 18, 22)
    np.testing.assert_allclose(out[0].affine, Grid.of(image()[0]).rescaled(2).affine)
    np.testing.assert_allclose(out[1].affine, Grid((13, 9, 11), np.diag([3.0, 1, 1, 1])).rescaled(2).affine)


def test_half_precision_is_close():
    net, lr = network("residual"), image()
    wanted = ImplicitVolumeInferer(scale=2)(lr, net).as_tensor()
    found = ImplicitVolumeInferer(scale=2, precision="bfloat16")(lr, net)
    assert found.dtype == torch.float32 and 0 < relative(found, wanted) < 0.05


@pytest.mark.parametrize("options", [{}, {"slab": 3}])
def test_every_voxel_is_encoded_once(monkeypatch, options):
    net, lr = network("RDN"), image((5, 6, 7))
    first = net.encoder.sfe1.weight.shape
    encoded = []
    conv3d = F.conv3d

    def counted(x, weight, *args, **kwargs):
        out = conv3d(x, weight, *args, **kwargs)
        if weight.shape == first and out.shape[3] > 1:  # planes of one voxel count bytes for the memory plan
            encoded.append(out.shape[2] * out.shape[3] * out.shape[4])
        return out

    monkeypatch.setattr(F, "conv3d", counted)
    ImplicitVolumeInferer(scale=3, rows=50, **options)(lr, net)
    assert sum(encoded) == lr[0, 0].numel()
    encoded.clear()
    PublishedProcedureInferer(scale=3)(lr.as_tensor(), net)
    assert sum(encoded) == 3 * 5 * lr[0, 0].numel()  # once for every plane of the result


def test_published_procedure_is_ours():
    net, lr = network("ResCNN"), image((5, 6, 7), np.eye(4))
    out = ImplicitVolumeInferer(scale=2)(lr, net)[0, 0].as_tensor()
    published = PublishedProcedureInferer(scale=2)(lr.as_tensor().permute(0, 1, 4, 3, 2), net)
    assert relative(out, published[0, 0].permute(2, 1, 0)) < 2e-5


# ---- the right place in the world ----


def places(grid: Grid) -> torch.Tensor:
    """A volume that holds at each voxel where it is, in mm: [3, X, Y, Z]. Interpolated, it tells what was read."""
    return torch.as_tensor(np.moveaxis(world_points(grid.shape, grid.affine), -1, 0), dtype=torch.float32)


def interior(source: Grid, target: Grid, margin: float = 8.0) -> np.ndarray:
    """Voxels of ``target`` so far from the faces of ``source`` that its symmetric border does not bend a line."""
    index = world_points(target.shape, source.index_map(target))
    inside = ((index > margin) & (index < np.array(source.shape) - 1 - margin)).all(-1)
    assert inside.sum() > 20
    return inside


def place_error(found: np.ndarray, source: Grid, target: Grid) -> float:
    """Largest distance in mm between where a voxel's value was read and where the voxel is."""
    wanted = np.moveaxis(world_points(target.shape, target.affine), -1, 0)
    distance = np.linalg.norm(found - wanted, axis=0)
    return float(distance[interior(source, target)].max())


@pytest.mark.filterwarnings("ignore:scale .* is beyond")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["scale", "spacing", "like"])
def test_world_alignment(kind: str, seed: int):
    rng = np.random.default_rng(seed)
    source = Grid(tuple(int(n) for n in rng.integers(20, 25, 3)), random_affine(rng))
    options = {
        "scale": {"scale": tuple(rng.uniform(1, 3, 3))},
        "spacing": {"spacing": tuple(source.spacing_mm / rng.uniform(1, 3, 3))},
        "like": {"like": oblique(source, (33, 31, 30))},
    }[kind]
    lr = MetaTensor(places(source)[None], affine=torch.as_tensor(source.affine))
    out = ImplicitVolumeInferer(**options)(lr, interpolation())
    assert place_error(out[0].numpy(), source, Grid.of(out[0])) < 1e-3


@pytest.mark.filterwarnings("ignore:the wanted spacing is coarser")
def test_world_alignment_of_a_smooth_field(blob_volume, blob_field):
    """Not a line: the field itself, finely sampled, at the output's places; also where an axis becomes coarser."""
    affine = random_affine(np.random.default_rng(1), (1.5, 1.5, 1.5))
    affine[:3, 3] = -affine[:3, :3] @ (12, 12, 12)
    lr = blob_volume((25, 24, 26), affine)[None]
    # of about 1000; a shift by a tenth of a voxel would be 4, and averaging over a coarser voxel flattens by 1
    for options, tolerance in (
        ({"scale": (2, 1.3, 3)}, 0.1),
        ({"spacing": (0.7, 1.0, 0.9)}, 0.1),
        ({"spacing": (0.7, 1.0, 2.0)}, 1.5),
    ):
        out = ImplicitVolumeInferer(**options)(lr, interpolation())
        target = Grid.of(out[0])
        wanted = blob_field(world_points(target.shape, target.affine))
        error = np.abs(out[0, 0].numpy() - wanted)[interior(Grid.of(lr[0]), target, 4)]
        assert error.max() < tolerance


@pytest.mark.parametrize("seed", range(3))
def test_world_alignment_through_nifti(seed: int, tmp_path):
    rng = np.random.default_rng(seed)
    source = Grid((21, 23, 22), random_affine(rng))
    nib.save(nib.Nifti1Image(np.moveaxis(places(source).numpy(), 0, -1), source.affine), tmp_path / "in.nii.gz")
    item = LoadVolumed("image")({"image": tmp_path / "in.nii.gz"})
    item["pred"] = ImplicitVolumeInferer(scale=(1, 2.2, 1.6))(item["image"][None], interpolation())[0]
    saved = nib.load(SaveVolumed("pred", tmp_path)(item)["pred"].meta["saved_to"])
    found = np.moveaxis(saved.get_fdata(), -1, 0)
    for affine in (saved.affine, saved.header.get_qform(), saved.header.get_sform()):
        assert place_error(found, source, Grid(saved.shape[:3], affine)) < 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_world_alignment_through_dicom(seed: int, tmp_path, write_dicom_series):
    pytest.importorskip("pydicom")
    rng = np.random.default_rng(seed)
    affine = random_affine(rng, (0.9, 1.1, 1.3))
    shape = np.array([20, 21, 22])
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)  # about the origin: 16 bits shall do for mm
    source = Grid(tuple(shape), affine)
    step = 30 / 32767
    found, target = [], source
    for axis, field in enumerate(places(source).numpy()):
        folder = tmp_path / "xyz"[axis]
        write_dicom_series(folder, np.round(field / step).astype(np.int16), affine, slope=step)
        lr = LoadVolumed("image")({"image": folder})["image"][None]
        out = ImplicitVolumeInferer(scale=(1.5, 1, 2))(lr, interpolation())[0]
        found.append(out[0].numpy())
        target = Grid.of(out)
        read = Grid.of(lr[0])
    assert place_error(np.stack(found), read, target) < 1e-3


def test_align_corners_changes_the_affine_alone():
    net, lr = network("RDN"), image()
    centre, corners = (ImplicitVolumeInferer(scale=2, geometry=g)(lr, net) for g in ("centre", "align_corners"))
    assert torch.equal(centre.as_tensor(), corners.as_tensor())
    source, affine = Grid.of(lr[0]), corners.affine[0].numpy()
    for end in (0, 1):  # first and last centres coincide
        last = [end * (n - 1) for n in corners.shape[2:]]
        np.testing.assert_allclose(affine @ [*last, 1], source.affine @ [*(end * (n - 1) for n in source.shape), 1])
    with pytest.raises(ValueError, match="for scale only"):
        ImplicitVolumeInferer(spacing=1, geometry="align_corners")(lr, net)


# ---- what is asked for ----


def test_coarser_is_said_and_averaged():
    lr = image()
    with pytest.warns(UserWarning, match="coarser than the input's.*along x"):
        out = ImplicitVolumeInferer(spacing=(4, 1.2, 2.5))(lr, interpolation())
    assert out.shape[2:] == (3, 9, 11)
    # what four voxels average to, not what the spline says in their middle
    mean = lr.as_tensor()[0, 0, 4:8].mean(0)
    assert float((out[0, 0, 1] - mean).abs().mean()) < 0.5 * float((lr[0, 0, 5] - mean).abs().mean())


def test_a_scale_beyond_the_training_is_said():
    net = interpolation()
    with pytest.warns(UserWarning, match="beyond the 6 of the training"):
        ImplicitVolumeInferer(scale=(1, 1, 8))(image((4, 4, 4)), net)


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_outside_of_the_field_of_view_is_background(turn: float):
    lr = image((9, 9, 9), np.eye(4))
    source = Grid.of(lr[0])
    target = oblique(source, (24, 22, 26), turn)
    out = ImplicitVolumeInferer(like=target)(lr + 5, network("residual"))
    index = world_points(target.shape, source.index_map(target))
    outside = ((index < -0.51) | (index > 8.51)).any(-1)
    assert outside.sum() > 5000
    assert (out[0, 0].numpy()[outside] == float((lr + 5).min())).all()


@pytest.mark.filterwarnings("ignore:the wanted spacing is coarser")
def test_outside_of_the_field_of_view_is_background_on_a_coarser_axis_too():
    lr = image((9, 9, 9), np.eye(4))
    target = Grid((12, 9, 9), np.diag([2.0, 1, 1, 1]))  # reaches from 0 to 22 mm, the image ends at 8.5
    out = ImplicitVolumeInferer(like=target)(lr + 5, interpolation())
    assert (out[0, 0, 6:].numpy() == float((lr + 5).min())).all()


@pytest.mark.parametrize(
    "given", [{}, {"spacing": 1, "scale": 2}, {"scale": 2, "like": "x"}, {"spacing": 1, "scale": 2, "like": "x"}]
)
def test_exactly_one_way_to_name_the_grid(given):
    with pytest.raises(ValueError, match="exactly one of spacing .* got"):
        resolve_grid(Grid((4, 4, 4), np.eye(4)), **given)


def test_like_is_a_file_an_image_or_a_grid(save_nifti, tmp_path):
    source, wanted = Grid((4, 4, 4), np.eye(4)), Grid((5, 6, 7), np.diag([0.5, 0.5, 2, 1]))
    values = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    path = save_nifti(values, wanted.affine)
    for like in (path, str(path), wanted, MetaTensor(torch.zeros(1, 5, 6, 7), affine=torch.as_tensor(wanted.affine))):
        found = resolve_grid(source, like=like)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.affine, wanted.affine)
    with pytest.raises(FileNotFoundError, match="'like' does not exist: .*missing.nii"):
        resolve_grid(source, like=tmp_path / "missing.nii")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "float16"}, "precision must be"),
        ({"geometry": "corner"}, "geometry must be"),
        ({"memory_gb": 0}, "memory_gb must be above zero"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"slab": -1}, "slab must be at least 1"),
        ({"tile": 0}, "tile must be at least 1"),
        ({"spacing": 0}, "spacing must be above zero"),
        ({"spacing": (1, -1, 1)}, "spacing must be above zero"),
        ({"scale": (1, 2)}, "one number or three"),
    ],
)
def test_bad_options(options, message: str):
    with pytest.raises(ValueError, match=message):
        ImplicitVolumeInferer(**options)


# ---- memory ----


@pytest.mark.filterwarnings("ignore:scale .* is beyond")
def test_a_budget_that_is_too_small_is_refused():
    net, lr = network("residual"), image()
    with pytest.raises(ValueError, match="budget of 0.5 GiB is too small.*for the volumes alone.*memory_gb"):
        ImplicitVolumeInferer(scale=2, memory_gb=0.5)(lr, net)
    with pytest.raises(ValueError, match="budget of 4 GiB is too small"):
        ImplicitVolumeInferer(spacing=0.01)(lr, net)


@pytest.mark.parametrize(
    "shape, target, budget",
    [
        ((256, 256, 36), (256, 256, 180), 4.0),
        ((256, 256, 180), (512, 512, 360), 4.0),
        ((256, 256, 36), (256, 256, 180), 2.0),
    ],
)
def test_the_plan_stays_below_the_budget(shape, target, budget: float):
    """The published RDN on real sizes, by its own count of bytes; nothing is computed."""
    torch.manual_seed(0)
    run = _VolumeDecoder(
        ImplicitVolumeInferer(scale=1, memory_gb=budget), ArSSR("RDN"), torch.zeros(shape), torch.ones(3)
    )
    voxels = int(np.prod(target))
    plan = run.plan(voxels)
    streamed = PlaneStreamer(run.encoder, plan.axis).bytes_per_voxel(1, plan.slab, 100)
    other = 3 - plan.axis - plan.tile_axis
    width = min(plan.tile + 2 * plan.halo, shape[plan.tile_axis])
    held = streamed * width * shape[other] + 4 * (int(np.prod(shape)) + voxels)
    assert held < (budget - 0.5) * 2**30  # half a GiB for Python and torch


@pytest.mark.slow
def test_peak_memory_of_a_real_run():
    """In a process of its own, on a volume whose activations would not fit at once."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    # ru_maxrss would do, but a process inherits it from the one that started it
    script = """
import re, torch
from monai.data import MetaTensor
from custom_nets.inferers import ImplicitVolumeInferer
from custom_nets.networks import ResidualArSSR
torch.set_num_threads(1)
net = ResidualArSSR(feature_dim=8, growth=16, num_blocks=3, num_layers=1, decoder_width=8, decoder_depth=2)
image = MetaTensor(torch.rand(1, 1, 128, 128, 32), affine=torch.diag(torch.tensor([1.0, 1, 3, 1])))
out = ImplicitVolumeInferer(scale=1, memory_gb=1.6)(image, net)
assert out.shape == image.shape
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    # what Python and its libraries take themselves differs between versions by a few hundred MiB
    assert float(result.stdout.split()[-1]) < 2.0
