"""The C-arm's projector: an exact pair, known answers, and the plain reconstructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from custom_nets.geometry.cone_beam import circular_trajectory, positioner_trajectory
from custom_nets.operators.cone_beam import ConeBeamOperator, SupportOperator, cgls, fdk, parker_weights, sart

GRID = (20, 22, 18)
SPACING = (2.0, 1.8, 2.2)
PANEL = (26, 30)


def vectors(geometry) -> np.ndarray:
    return np.concatenate(
        [geometry.source_mm, geometry.panel_mm, geometry.column_step_mm, geometry.row_step_mm], axis=1
    )


def turn(angles_deg, shape=PANEL, pixel_mm=2.6, offset_mm=(0.0, 0.0)) -> np.ndarray:
    return vectors(
        circular_trajectory(np.deg2rad(angles_deg), 765, 1200, shape, (pixel_mm, pixel_mm), offset_mm=offset_mm)
    )


OBLIQUE = vectors(positioner_trajectory([10, 80, -35], [25, -20, 60], 765, 1200, PANEL, (2.6, 2.4), (3.0, -2.0)))
UNEVEN = turn([3, 11, 50, 51, 137, 200], offset_mm=(4.0, -3.0))


def sphere(operator: ConeBeamOperator, centre_mm, radius_mm: float, value: float, parts: int = 4) -> torch.Tensor:
    """[nx, ny, nz] with the share of each voxel that a ball covers."""
    total = torch.zeros(operator.volume_shape)
    offsets = [((np.arange(parts) + 0.5) / parts - 0.5) * s for s in operator.spacing_mm]
    axes = [
        (torch.arange(n) - (n - 1) / 2) * s for n, s in zip(operator.volume_shape, operator.spacing_mm, strict=True)
    ]
    for dx in offsets[0]:
        for dy in offsets[1]:
            for dz in offsets[2]:
                x, y, z = torch.meshgrid(axes[0] + dx, axes[1] + dy, axes[2] + dz, indexing="ij")
                inside = (x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2 < radius_mm**2
                total += inside.float()
    return total * (value / parts**3)


def exact_sphere(vector: np.ndarray, panel, centre_mm, radius_mm: float, value: float) -> np.ndarray:
    """[H, W] line integrals through a ball."""
    columns, rows = np.arange(panel[1]) - (panel[1] - 1) / 2, np.arange(panel[0]) - (panel[0] - 1) / 2
    pixels = vector[3:6] + columns[None, :, None] * vector[6:9] + rows[:, None, None] * vector[9:12]
    ray = pixels - vector[:3]
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    to_centre = np.asarray(centre_mm) - vector[:3]
    nearest = (to_centre**2).sum() - (ray @ to_centre) ** 2
    return 2 * value * np.sqrt(np.maximum(radius_mm**2 - nearest, 0))


def test_gradients_are_the_adjoint():
    operator = ConeBeamOperator(UNEVEN[:2], PANEL, GRID, SPACING)
    volume = torch.rand(GRID, dtype=torch.float64, requires_grad=True)
    pictures = torch.rand(2, *PANEL, dtype=torch.float64, requires_grad=True)
    (operator.forward(volume) * pictures.detach()).sum().backward()
    torch.testing.assert_close(volume.grad, operator.adjoint(pictures).detach())
    (operator.adjoint(pictures) * volume.detach()).sum().backward()
    torch.testing.assert_close(pictures.grad, operator.forward(volume).detach())


@pytest.mark.parametrize("angle", [0, 45, 130])
def test_a_sphere_keeps_mass_and_peak(angle):
    operator = ConeBeamOperator(turn([angle], (64, 64), 1.3, (2.0, -1.5)), (64, 64), (48, 48, 48), (1.0, 1.0, 1.0))
    centre, radius = (4.0, -3.0, 2.0), 9.0
    seen = operator.forward(sphere(operator, centre, radius, 0.03))[0].numpy()
    exact = exact_sphere(operator.vectors[0], (64, 64), centre, radius, 0.03)
    assert abs(seen.sum() / exact.sum() - 1) < 0.01
    assert abs(seen.max() / exact.max() - 1) < 0.02


def test_a_voxel_is_seen_where_the_layout_says():
    """The example of the folder layout: the brightest pixel of a point at (30, -20, 25)."""
    view = turn([np.rad2deg(0.5)], (160, 192), 1.3, (1.5, -0.8))
    operator = ConeBeamOperator(view, (160, 192), (73, 73, 73), (1.0, 1.0, 1.0))
    volume = torch.zeros(73, 73, 73)
    volume[36 + 30, 36 - 20, 36 + 25] = 1
    picture = operator.forward(volume)[0]
    assert divmod(int(picture.argmax()), 192) == (49, 55)
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(192.0), indexing="ij")
    centre = [float((picture * place).sum() / picture.sum()) for place in (columns, rows)]
    np.testing.assert_allclose(centre, (54.9509, 49.2746), atol=0.15)


@pytest.mark.parametrize("views", [OBLIQUE, UNEVEN], ids=["oblique", "uneven"])
def test_a_support_sees_what_the_whole_volume_sees(views):
    operator = ConeBeamOperator(views, PANEL, GRID, SPACING)
    voxels = torch.randperm(int(np.prod(GRID)), generator=torch.Generator().manual_seed(1))[:300].sort().values
    values = torch.rand(len(views), 300, requires_grad=True)
    support = SupportOperator(GRID, SPACING, PANEL, voxels, memory_gb=1e-4)  # some views are kept, others made anew
    seen = support.forward(values, views)
    volumes = torch.zeros(len(views), int(np.prod(GRID))).index_add(1, voxels, values).unflatten(1, GRID)
    dense = torch.stack([operator.forward(volume, [k])[0] for k, volume in enumerate(volumes)])
    torch.testing.assert_close(seen, dense, rtol=1e-4, atol=1e-4)

    pictures = torch.rand_like(seen)
    (seen * pictures).sum().backward()
    torch.testing.assert_close(values.grad, support.adjoint(pictures, views), rtol=1e-4, atol=1e-4)
    meta = support.forward(values.to("meta"), views)
    assert meta.shape == seen.shape


def test_filtered_back_projection_gives_a_ball_back():
    for angles in (np.linspace(0, 210, 71), np.linspace(190, -15, 71), np.linspace(0, 360, 120, endpoint=False)):
        view = turn(angles, (48, 56), 1.6, (1.0, 0.5))
        operator = ConeBeamOperator(view, (48, 56), (28, 28, 28), (1.4, 1.4, 1.4))
        centre, radius = (2.0, -3.0, 1.0), 8.0
        pictures = torch.stack(
            [torch.tensor(exact_sphere(v, (48, 56), centre, radius, 0.02), dtype=torch.float32) for v in view]
        )
        volume = fdk(operator, pictures)
        inside = sphere(operator, centre, radius - 3, 1.0, 1) > 0
        outside = sphere(operator, centre, radius + 2, 1.0, 1) == 0
        assert abs(float(volume[inside].mean()) / 0.02 - 1) < 0.015
        assert float(volume[outside].abs().mean()) < 0.0005


def test_parker_weights_count_each_line_once():
    """Weights over all views of a ray and of its mirror image add up; here in sum over the panel's columns."""
    angles = np.linspace(0, 200, 101)
    weights = parker_weights(turn(angles, (3, 40), 4.0), (3, 40))
    assert weights.min() >= 0 and weights[0].max() < 0.1 * weights[50].max()
    np.testing.assert_allclose(weights.sum(0).mean(), np.pi, rtol=0.01)


@pytest.mark.parametrize("method", [sart, cgls])
def test_iterative_reconstructions_explain_the_pictures(method):
    view = turn(np.linspace(0, 200, 15), (40, 44), 1.8)
    operator = ConeBeamOperator(view, (40, 44), (24, 24, 24), (1.5, 1.5, 1.5))
    truth = sphere(operator, (2, -3, 1), 7, 0.02)
    pictures = operator.forward(truth)
    volume = method(operator, pictures)
    assert float((operator.forward(volume) - pictures).norm() / pictures.norm()) < 0.05
    assert float((volume - truth).norm() / truth.norm()) < 0.2


def test_fdk_says_what_it_needs():
    with pytest.raises(ValueError, match="at least 3 views"):
        parker_weights(turn([0, 90]), PANEL)
    with pytest.raises(ValueError, match="order of their angles"):
        parker_weights(turn([0, 90, 45, 180]), PANEL)
    with pytest.raises(ValueError, match=r"\[N, 12\]"):
        ConeBeamOperator(np.zeros((3, 9)), PANEL, GRID, SPACING)


def test_fdk_agrees_with_rtk():
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "RTK"):
        pytest.skip("itk-rtk is optional")
    from itk import RTK as rtk

    angles = np.linspace(0, 200, 40)
    view = turn(angles, (48, 56), 1.6)
    operator = ConeBeamOperator(view, (48, 56), (28, 28, 28), (1.4, 1.4, 1.4))
    pictures = operator.forward(sphere(operator, (2, -3, 1), 8, 0.02))
    ours = fdk(operator, pictures).numpy()

    # (X, Y, Z) of RTK = (y, z, x) of ours, its rows run upwards
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in angles:
        geometry.AddProjection(765.0, 1200.0, float(angle))
    stack = itk.image_from_array(np.ascontiguousarray(pictures.numpy()[:, ::-1]))
    stack.SetSpacing([1.6, 1.6, 1.0])
    stack.SetOrigin([-27.5 * 1.6, -23.5 * 1.6, 0.0])
    kind = itk.Image[itk.F, 3]
    empty = rtk.ConstantImageSource[kind].New(Origin=[-13.5 * 1.4] * 3, Spacing=[1.4] * 3, Size=[28] * 3)
    parker = rtk.ParkerShortScanImageFilter[kind].New(Input=stack, Geometry=geometry)
    parker.InPlaceOff()
    method = rtk.FDKConeBeamReconstructionFilter[kind].New(Geometry=geometry)
    method.SetInput(0, empty.GetOutput())
    method.SetInput(1, parker.GetOutput())
    method.Update()
    theirs = itk.array_from_image(method.GetOutput()).transpose(0, 2, 1)  # [Z, Y, X] = [x, z, y] -> [x, y, z]
    assert np.linalg.norm(ours - theirs) < 0.005 * np.linalg.norm(theirs)
