"""4D volumes and surfaces as files: other programs find the same places, times and sizes."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from custom_nets.data.angiography.views import volume_affine_ras
from custom_nets.data.reconstructions import extract_surface, write_4d, write_surface

SHAPE, SPACING = (12, 14, 16), (2.0, 1.5, 1.0)


def ball(centre_mm, radius_mm: float) -> np.ndarray:
    """A ball with a soft edge; its surface is where it is 0.5."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return np.clip((radius_mm - np.linalg.norm(points - centre_mm, axis=-1)) / 5 + 0.5, 0, 1)


def test_4d_has_its_affine_and_even_times(tmp_path):
    volumes = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    affine = volume_affine_ras(SHAPE, SPACING)
    path, side = write_4d(tmp_path / "case_4d.nii.gz", volumes, affine, [0.5, 1.0, 1.5])
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.moveaxis(volumes, 0, -1))
    np.testing.assert_allclose(image.affine, affine)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert image.header["pixdim"][4] == 0.5 and image.header["toffset"] == 0.5
    assert json.loads(side.read_text()) == {"times_s": [0.5, 1.0, 1.5]}
    # the voxel in the middle of a corner is where ITK (LPS) has it, too
    itk = pytest.importorskip("itk")
    point = itk.imread(str(path)).TransformIndexToPhysicalPoint([3, 4, 5, 0])
    np.testing.assert_allclose(list(point)[:3], [(3 - 5.5) * 2, (4 - 6.5) * 1.5, (5 - 7.5)], atol=1e-4)


def test_uneven_times_are_in_the_json_only(tmp_path):
    generator = (np.full(SHAPE, k, np.float32) for k in range(3))
    path, side = write_4d(tmp_path / "x.nii", generator, np.eye(4), [0, 1, 4])
    assert nib.load(path).header.get_xyzt_units() == ("mm", "unknown")
    assert json.loads(side.read_text())["times_s"] == [0, 1, 4]
    with pytest.raises(ValueError, match="3 volumes need as many times, got 2"):
        write_4d(tmp_path / "y.nii", np.zeros((3, *SHAPE)), np.eye(4), [0, 1])
    assert not (tmp_path / "y.nii").exists()


def test_the_surface_of_a_ball(tmp_path):
    centre, radius = np.array([2.0, -3.0, 1.0]), 4.0
    vertices, faces = extract_surface(ball(centre, radius), 0.5, SPACING)
    np.testing.assert_allclose(np.linalg.norm(vertices - centre, axis=1), radius, atol=0.25)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volume = (a * np.cross(b, c)).sum() / 6  # above zero: triangles turn outwards
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.12)  # triangles cut the corners of 2 mm voxels
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed


def test_vessels_that_leave_the_volume_are_closed():
    vertices, faces = extract_surface(ball((0.0, 0.0, 8.0), 4.0), 0.5, SPACING)
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_stl_and_ply_hold_the_surface(tmp_path):
    vertices, faces = extract_surface(ball((0.0, 0.0, 0.0), 4.0), 0.5, SPACING)
    stl = write_surface(tmp_path / "v.stl", vertices, faces).read_bytes()
    assert stl.startswith(b"SPACE=LPS") and len(stl) == 84 + 50 * len(faces)
    records = np.frombuffer(stl[84:], dtype=[("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
    np.testing.assert_allclose(records["c"], vertices[faces], atol=1e-5)
    assert ((records["n"] * records["c"].mean(1)).sum(1) > 0).all()  # outwards
    ply = write_surface(tmp_path / "v.ply", vertices, faces, np.arange(len(vertices))).read_bytes()
    header, body = ply.split(b"end_header\n")
    assert b"property float arrival_s" in header and f"element face {len(faces)}".encode() in header
    points = np.frombuffer(body[: 16 * len(vertices)], "<f4").reshape(-1, 4)
    np.testing.assert_allclose(points[:, :3], vertices, atol=1e-5)
    assert points[5, 3] == 5
    assert len(body) == 16 * len(vertices) + 13 * len(faces)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="no surface at 2: the volume goes from 0 to 1"):
        extract_surface(ball((0.0, 0.0, 0.0), 4.0), 2.0, SPACING)
    with pytest.raises(ValueError, match=".stl or .ply"):
        write_surface(tmp_path / "v.obj", np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="no values at vertices"):
        write_surface(tmp_path / "v.stl", np.zeros((3, 3)), np.array([[0, 1, 2]]), np.zeros(3))
