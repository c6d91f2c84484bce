"""The 4D fields: known answers, gradients, growing, files, and no value read where there is none (meta device)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from custom_nets.geometry.cone_beam import circular_trajectory
from custom_nets.networks import TOGS, VPAL, BolusAtoms, HashEncoding, TiAVox
from custom_nets.networks.bolus_atoms import bolus_curves
from custom_nets.networks.layers.attenuation_field import (
    ScanGrid,
    blob_map,
    interpolation_map,
    neighbour_pairs,
)
from custom_nets.networks.togs import gaussian_line_integrals, precision_matrices
from custom_nets.operators.cone_beam import view_vectors

GRID = ScanGrid((12, 10, 11), (2.0, 2.0, 2.0), (20, 22), 5.0, 0.03)
SMALL = {"levels": 3, "log2_table": 9, "base": 3, "dynamic_levels": 2, "width": 8}
FIELDS = {
    "atoms": lambda: BolusAtoms(num_atoms=4, injection_s=2.0),
    "tiavox": lambda: TiAVox(num_knots=4, coarsest=2),
    "vpal": lambda: VPAL(**SMALL),
    "togs": lambda: TOGS(num_gaussians=40, table_size=6),
}


class _Turn:
    def __init__(self, angles_deg):
        beam = circular_trajectory(np.deg2rad(angles_deg), 765, 1200, GRID.panel_shape, (2.2, 2.2))
        self.__dict__.update({n: getattr(beam, n) for n in ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")})


VECTORS = torch.as_tensor(view_vectors(_Turn([0, 40, 120])))
TIMES = torch.tensor([0.5, 2.0, 4.4])
VOXELS = torch.arange(12 * 10 * 11)[200:900:3]
INNER = torch.arange(12 * 10 * 11).reshape(12, 10, 11)[5:8, 4:6, 4:7].flatten()


def bound(name: str, device: str = "cpu") -> nn.Module:
    field = FIELDS[name]()
    field.bind(GRID, VOXELS, torch.full((len(VOXELS),), 0.01), seed=1)
    if name == "atoms":
        drawn = torch.rand(field.coefficients.shape, generator=torch.Generator().manual_seed(2))
        field.coefficients.data = drawn * 0.02
    return field


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_gives_views_volumes_and_gradients(name):
    field = bound(name)
    seen = field(VECTORS, TIMES)
    assert seen.shape == (3, 1, 20, 22) and torch.isfinite(seen).all() and float(seen.min()) >= 0
    loss = (seen - 0.1).square().sum() + field.regularization()
    loss.backward()
    for parameter_name, parameter in field.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
        assert float(parameter.grad.abs().max()) > 0 or "quaternion" in parameter_name, parameter_name
    voxels, curves = field.voxel_curves([0.0, 1.0, 2.0])
    assert curves.shape == (3, len(voxels)) and float(curves.min()) >= 0
    assert field.volume(1.0).shape == GRID.volume_shape
    torch.testing.assert_close(field.volume(1.0).flatten()[voxels], curves[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", FIELDS)
def test_a_batch_is_its_views(name):
    field = bound(name)
    with torch.no_grad():
        together = field(VECTORS, TIMES)
        alone = torch.cat([field(VECTORS[k : k + 1], TIMES[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_a_saved_field_is_the_same(name, tmp_path):
    field = bound(name)
    if name == "tiavox":
        assert field.grow() and not field.grow()
    if name == "togs":
        field.split(torch.arange(40) % 3 == 0, torch.Generator().manual_seed(0))
    torch.save(field.saved(), tmp_path / "field.pt")
    again = type(field).from_saved(torch.load(tmp_path / "field.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(again(VECTORS, TIMES), field(VECTORS, TIMES))


def test_fifty_thousand_gaussians_are_four_megabytes(tmp_path):
    field = TOGS(num_gaussians=50_000)
    field.bind(ScanGrid((96, 96, 96), (1.3, 1.3, 1.3), (160, 192), 5.5), torch.arange(25_000))
    torch.save(field.saved(), tmp_path / "fit.pt")
    assert (tmp_path / "fit.pt").stat().st_size < 4e6


@pytest.mark.parametrize("name", FIELDS)
def test_nothing_is_read_back_on_the_way_to_a_picture(name):
    """On the meta device there are no values: whoever reads one fails, as he would make a GPU wait."""
    field = bound(name).to("meta")
    seen = field(VECTORS, TIMES.to("meta"))
    assert seen.is_meta and seen.shape == (3, 1, 20, 22)


def test_an_unbound_field_says_so():
    with pytest.raises(RuntimeError, match="belongs to no scan"):
        TiAVox()(VECTORS, TIMES)


@pytest.mark.parametrize(
    "make", [lambda: TiAVox(num_knots=1), lambda: TOGS(table_size=1), lambda: BolusAtoms(num_atoms=0)]
)
def test_impossible_fields_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_bolus_curves_rise_to_one_and_keep_their_area():
    time = torch.linspace(-2, 20, 4401)
    curves = bolus_curves(time, torch.tensor([0.0, 2.0]), 3.0, 0.3)
    assert float(curves[time < 0, 0].max()) == 0 and float(curves[time < 2, 1].max()) == 0
    assert abs(float(curves.max()) - 1) < 0.01
    np.testing.assert_allclose(torch.trapezoid(curves, time, dim=0), 3.0, rtol=1e-3)


def test_tiavox_is_linear_between_knots_and_keeps_its_values_when_it_grows():
    field = TiAVox(num_knots=3, coarsest=4)
    field.bind(GRID, VOXELS)
    field.values.data = torch.randn(field.values.shape, generator=torch.Generator().manual_seed(0))
    before = field.at_voxels()
    assert field.grow() and int(field.spacing) == 2
    torch.testing.assert_close(field.at_voxels(), before, atol=1e-5, rtol=1e-5)
    assert field.grow() and int(field.spacing) == 1
    torch.testing.assert_close(field.at_voxels(), before, atol=1e-5, rtol=1e-5)
    middle = field.attenuation(torch.tensor([1.25]))
    expected = GRID.attenuation * nn.functional.softplus((field.values[:, 0] + field.values[:, 1]) / 2)
    torch.testing.assert_close(middle[0], expected)


def test_hash_encoding_interpolates_between_its_corners():
    encoding = HashEncoding(3, 1, 2, 14, 4, 1.0)
    values = torch.arange(5.0)
    x, y, z = torch.meshgrid(values, values, values, indexing="ij")
    flat = (x + 10 * y + 100 * z).permute(2, 1, 0).flatten()  # x runs fastest
    encoding.tables[0].data = torch.stack([flat, -flat], 1)
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    expected = 4 * (points[:, 0] + 10 * points[:, 1] + 100 * points[:, 2])
    torch.testing.assert_close(
        encoding(encoding.corner_map(points)), torch.stack([expected, -expected], 1), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("log2_table", [6, 16])
def test_time_is_a_coordinate_as_the_others_are(log2_table):
    encoding = HashEncoding(4, 3, 2, log2_table, 2, 1.6)
    encoding.start(torch.Generator().manual_seed(0))
    points, time = torch.rand(20, 3), torch.tensor(0.37)
    whole = torch.cat([points, time.expand(20, 1)], 1)
    apart, together = encoding.corner_map(points), encoding.corner_map(whole)
    torch.testing.assert_close(encoding(apart, time[None])[0], encoding(together))


def test_hash_encoding_is_plain_indexing_with_its_gradients():
    encoding = HashEncoding(3, 2, 3, 5, 3, 1.5)
    points = torch.rand(15, 3, generator=torch.Generator().manual_seed(0))
    for table in encoding.tables:
        table.data = torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    corners = [encoding.corners(points, level) for level in range(2)]
    plain = torch.cat(
        [(t[entry] * w[..., None]).sum(1) for t, (entry, w) in zip(encoding.tables, corners, strict=True)], 1
    )
    found = encoding(encoding.corner_map(points))
    torch.testing.assert_close(found, plain)
    for one, other in zip(
        *(torch.autograd.grad(e.square().sum(), list(encoding.tables)) for e in (found, plain)), strict=True
    ):
        torch.testing.assert_close(one, other)
    encoding.active = 1
    assert not encoding(encoding.corner_map(points))[:, 3:].any()


def test_a_gaussian_adds_its_exact_line_integral():
    vector = VECTORS[1].numpy()
    mean = torch.tensor([[3.0, -4.0, 2.0]], dtype=torch.float64)
    scale = torch.tensor([[1.5, 3.0, 5.0]], dtype=torch.float64).log()
    turned = torch.tensor([[0.3, -0.5, 0.7, 0.2]], dtype=torch.float64)
    precision = precision_matrices(scale, turned)
    seen = gaussian_line_integrals(mean, precision, torch.tensor([0.03], dtype=torch.float64), vector, (20, 22))

    columns, rows = np.arange(22) - 10.5, np.arange(20) - 9.5
    pixels = vector[3:6] + columns[None, :, None] * vector[6:9] + rows[:, None, None] * vector[9:12]
    ray = pixels - vector[:3]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    total = np.zeros((20, 22))
    for length in np.arange(720, 810, 0.2):
        away = vector[:3] + length * ray - mean.numpy()
        total += 0.2 * 0.03 * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", away, precision[0].numpy(), away))
    assert abs(seen.numpy() - total).max() < 0.012 * total.max()  # drawn to three standard deviations


def test_voxels_of_gaussians_hold_their_mass():
    field = TOGS(num_gaussians=30)
    field.bind(GRID, INNER, torch.full((len(INNER),), 0.02), seed=3)
    _, curves = field.voxel_curves([1.0])
    widths = field.scales().exp().prod(1)
    mass = float((field.amplitudes(torch.tensor([1.0]))[0] * widths).sum() * (2 * np.pi) ** 1.5)
    np.testing.assert_allclose(float(curves.sum()) * 8, mass, rtol=0.05)


def test_a_split_keeps_mass_and_place():
    field = TOGS(num_gaussians=30)
    field.bind(GRID, INNER, torch.full((len(INNER),), 0.02), seed=3)
    before = float(field.voxel_curves([1.0])[1].sum())
    field.split(torch.arange(30) < 10, torch.Generator().manual_seed(0))
    assert len(field.mean) == 40
    np.testing.assert_allclose(float(field.voxel_curves([1.0])[1].sum()), before, rtol=0.1)


def test_maps_between_voxels():
    voxels = torch.arange(12 * 10 * 11)
    nodes, _, interpolation = interpolation_map(voxels, GRID.volume_shape, 4)
    torch.testing.assert_close(interpolation(torch.ones(len(nodes), 1)), torch.ones(len(voxels), 1))
    blobs = blob_map(voxels, GRID.volume_shape, 0.6)(torch.ones(len(voxels), 1)).reshape(GRID.volume_shape)
    torch.testing.assert_close(blobs[1:-1, 1:-1, 1:-1], torch.ones(10, 8, 9))
    assert neighbour_pairs(voxels, GRID.volume_shape).shape[1] == 11 * 10 * 11 + 12 * 9 * 11 + 12 * 10 * 10
