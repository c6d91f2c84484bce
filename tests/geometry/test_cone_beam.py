"""The C-arm against worked examples, other ways to say the same geometry, and what is no C-arm."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.geometry.cone_beam import CArm, ConeBeam, circular_trajectory, positioner_trajectory

# the worked examples of the public folder layout: angle (rad), point (mm), column, row
EXAMPLES = [
    (0.5, (30, -20, 25), 54.9509, 49.2746),
    (0.0, (0, 10, 0), 106.4125, 80.1154),
    (0.0, (0, 0, 10), 94.3462, 68.0490),
    (np.pi / 2, (10, 0, 0), 82.2798, 80.1154),
]
PANEL = {"sad_mm": 765.0, "sid_mm": 1200.0, "shape": (160, 192), "spacing_mm": (1.3, 1.3), "offset_mm": (1.5, -0.8)}


@pytest.mark.parametrize(("angle", "point", "column", "row"), EXAMPLES)
def test_worked_examples_of_the_folder_layout(angle, point, column, row):
    geometry = circular_trajectory([angle], **PANEL)
    pixel, _ = geometry.project([point])
    np.testing.assert_allclose(pixel[0], [column, row], atol=1e-4)


def test_places_of_the_worked_example():
    geometry = circular_trajectory([0.5], **PANEL)
    np.testing.assert_allclose(geometry.source_mm[0], [671.3507, 366.7605, 0], atol=1e-4)
    np.testing.assert_allclose(geometry.panel_mm[0], [-382.4676, -207.2337, 0.8], atol=1e-4)
    assert geometry.source_panel_mm[0] == pytest.approx(1200)
    assert geometry.source_isocentre_mm[0] == pytest.approx(765)
    assert geometry.magnification[0] == pytest.approx(1200 / 765)


def test_a_pixel_is_seen_where_it_is():
    geometry = positioner_trajectory(
        [12.0, -100.0], [20.0, -5.0], 750.0, 1195.0, (7, 9), (0.5, 0.8), offset_mm=(3.0, -2.0)
    )
    for frame in range(2):
        rows, columns = np.indices((7, 9))
        pixels, magnification = geometry.project(geometry.pixels_mm(frame), frame)
        np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-9)
        np.testing.assert_allclose(magnification, 1)


def test_steps_need_not_be_at_right_angles():
    rng = np.random.default_rng(0)
    geometry = ConeBeam(
        rng.normal(0, 30, (1, 3)) + [700, 0, 0], rng.normal(0, 5, (1, 3)) - [400, 0, 0],
        rng.normal(0, 0.1, (1, 3)) + [0, 0.7, 0], rng.normal(0, 0.1, (1, 3)) - [0, 0.2, 0.7], (8, 6),
    )  # fmt: skip
    pixels, _ = geometry.project(geometry.pixels_mm(0))
    np.testing.assert_allclose(pixels[3, 4], [4, 3], atol=1e-9)


def test_positioner_angles_are_those_of_dicom():
    def panel(primary, secondary):
        return positioner_trajectory([primary], [secondary], 750, 1200, (64, 64), (1, 1)).panel_mm[0] / 450

    np.testing.assert_allclose(panel(0, 0), [0, -1, 0], atol=1e-12)  # in front of the patient
    np.testing.assert_allclose(panel(90, 0), [1, 0, 0], atol=1e-12)  # LAO: on the patient's left
    np.testing.assert_allclose(panel(0, 90), [0, 0, 1], atol=1e-12)  # CRA: at the head


def test_positioner_and_folder_angles_differ_by_a_quarter_turn():
    primary = np.linspace(-100, 95, 7)
    at_source = positioner_trajectory(primary, 0, **PANEL, seen_from="source")
    folder = circular_trajectory(np.deg2rad(primary + 90), **PANEL)
    for name in ("source_mm", "panel_mm", "column_step_mm", "row_step_mm"):
        np.testing.assert_allclose(getattr(at_source, name), getattr(folder, name), atol=1e-9)


def test_seen_from_the_panel_is_the_mirror_image():
    point = [[20.0, -30.0, 15.0]]
    at_panel = positioner_trajectory([35.0], [10.0], 765, 1200, (160, 192), (1.3, 1.3))
    at_source = positioner_trajectory([35.0], [10.0], 765, 1200, (160, 192), (1.3, 1.3), seen_from="source")
    (left,), (right,) = (g.project(point)[0] for g in (at_panel, at_source))
    assert left[0] == pytest.approx(191 - right[0])
    assert left[1] == pytest.approx(right[1])
    # a radiologist looks at the patient's face: the left side is on the right, the head on top
    frontal = positioner_trajectory([0.0], [0.0], 765, 1200, (160, 192), (1.3, 1.3))
    assert frontal.project([[10.0, 0, 0]])[0][0, 0] > 95.5
    assert frontal.project([[0, 0, 10.0]])[0][0, 1] < 79.5


def test_the_simulators_arm_is_the_same_arm():
    carm = CArm(shape=(101, 81), pixel_mm=0.5, centre_mm=(2.0, -3.0))
    points = np.random.default_rng(1).normal(0, 40, (20, 3))
    for angle in (0.0, 37.0, 90.0):
        a = np.deg2rad(angle)
        x, y, z = points.T
        enlarged = 765 / (765 - (-x * np.sin(a) + y * np.cos(a)))
        column = ((x * np.cos(a) + y * np.sin(a)) * enlarged - 2) / 0.5 + 40
        row = -(z * enlarged + 3) / 0.5 + 50
        pixels, magnification = carm.project(points, angle)
        np.testing.assert_allclose(pixels, np.stack([column, row], -1), atol=1e-9)
        np.testing.assert_allclose(magnification, enlarged, rtol=1e-12)


def test_behind_the_source_nothing_is_seen():
    pixels, magnification = circular_trajectory([0.0], **PANEL).project([[800.0, 0, 0], [0.0, 0, 0]])
    assert np.isnan(pixels[0]).all() and np.isnan(magnification[0])
    assert np.isfinite(pixels[1]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sid_mm": 700.0}, "behind the isocentre"),
        ({"sad_mm": 0.0}, "above zero"),
        ({"spacing_mm": (0.0, 1.0)}, "size above zero"),
        ({"shape": (0, 5)}, "at least one pixel"),
        ({"angles_rad": [np.nan]}, "NaN"),
    ],
)
def test_what_is_no_c_arm_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        circular_trajectory(**{"angles_rad": [0.0], **PANEL, **change})


def test_a_source_in_the_panel_is_refused():
    with pytest.raises(ValueError, match="frame 2: the source must lie outside"):
        ConeBeam([[9, 0, 0], [0, 0, 0]], [[-9, 0, 0], [0, 0, 0]], [[0, 1, 0]] * 2, [[0, 0, 1]] * 2, (4, 4))
    with pytest.raises(ValueError, match="one row per frame"):
        ConeBeam([[9, 0, 0]], [[-9, 0, 0]] * 2, [[0, 1, 0]] * 2, [[0, 0, 1]] * 2, (4, 4))
    with pytest.raises(ValueError, match="seen_from"):
        positioner_trajectory([0], 0, 765, 1200, (4, 4), (1, 1), seen_from="left")  # type: ignore[arg-type]
