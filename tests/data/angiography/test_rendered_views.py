"""Rendered views as files: the same line integrals and angles come back, and every frame says that it is made."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from custom_nets.data.angiography.acquisition_reader import read_acquisition
from custom_nets.data.angiography.rendered_views import positioner_angles_of, views_like, write_views
from custom_nets.data.angiography.views import Acquisition
from custom_nets.geometry.cone_beam import ConeBeam, circular_trajectory, positioner_trajectory
from tests.tools.xa_writer import validator_errors

COUNT = 9


def views(geometry: ConeBeam | None = None) -> Acquisition:
    if geometry is None:
        geometry = circular_trajectory(np.linspace(0.2, 3.1, COUNT), 765, 1200, (16, 20), (3.0, 4.0))
    rng = np.random.default_rng(0)
    return Acquisition(
        projections=rng.gamma(0.3, 0.4, (COUNT, *geometry.shape)),
        times_s=np.linspace(0, 2, COUNT) ** 1.3,
        source_mm=geometry.source_mm,
        panel_mm=geometry.panel_mm,
        column_step_mm=geometry.column_step_mm,
        row_step_mm=geometry.row_step_mm,
    )


@pytest.mark.parametrize("seen_from", ["panel", "source"])
def test_angles_are_those_that_made_the_geometry(seen_from):
    primary, secondary = np.linspace(-170, 20, 7), np.linspace(-20, 25, 7)
    geometry = positioner_trajectory(primary, secondary, 750, 1195, (4, 5), (1, 1), (3, 2), seen_from)
    found = positioner_angles_of(geometry)
    np.testing.assert_allclose(found[0], primary, atol=1e-9)
    np.testing.assert_allclose(found[1], secondary, atol=1e-9)
    assert found[2] == (seen_from == "source")


def test_dicom_holds_the_line_integrals_and_angles(tmp_path):
    scan = views()
    path = write_views(tmp_path, "case_views", scan, "dicom", made_by="tiavox")
    dataset = pydicom.dcmread(path)
    assert list(dataset.ImageType)[0] == "DERIVED" and "synthetic" in dataset.DerivationDescription
    assert validator_errors(path) == []
    again = read_acquisition(path, subtracted=True)
    assert again.quantitative
    step = np.ptp(scan.projections) / 65535
    np.testing.assert_allclose(again.projections, scan.projections, atol=0.6 * step)
    np.testing.assert_allclose(again.source_mm, scan.source_mm, atol=1e-3)
    np.testing.assert_allclose(again.column_step_mm, scan.column_step_mm, atol=1e-5)
    np.testing.assert_allclose(again.times_s, scan.times_s, atol=1e-6)


def test_dicom_keeps_patient_and_study(tmp_path):
    first = write_views(tmp_path, "a", views(), "dicom")
    measured = pydicom.dcmread(first)
    measured.PatientName, measured.PatientID = "Ada^L", "77"
    measured.save_as(tmp_path / "m.dcm")
    scan = read_acquisition(tmp_path / "m.dcm", subtracted=True)
    rendered = pydicom.dcmread(write_views(tmp_path, "b", views_like(scan, scan.projections), "dicom"))
    assert (rendered.PatientName, rendered.PatientID) == ("Ada^L", "77")
    assert rendered.StudyInstanceUID == measured.StudyInstanceUID
    assert rendered.SeriesInstanceUID != measured.SeriesInstanceUID
    assert rendered.SourceImageSequence[0].ReferencedSOPInstanceUID == measured.SOPInstanceUID


def test_npz_png_and_film(tmp_path):
    scan = views()
    again = read_acquisition(write_views(tmp_path, "v", scan))
    np.testing.assert_array_equal(again.projections, scan.projections)
    folder = write_views(tmp_path, "v", scan, "png")
    assert len(list(folder.glob("*.png"))) == COUNT
    assert '"synthetic_frames": [\n    1,' in (folder / "frames.json").read_text()
    assert write_views(tmp_path, "v", scan, "gif").stat().st_size > 0


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="must be one of dicom, npz, png, mp4, gif, got 'bmp'"):
        write_views(tmp_path, "v", views(), "bmp")
    g = circular_trajectory(np.linspace(0.2, 3.1, COUNT), 765, 1200, (16, 20), (3.0, 3.0))
    turned = ConeBeam(g.source_mm, g.panel_mm, g.row_step_mm, -g.column_step_mm, g.shape)
    with pytest.raises(ValueError, match="turned within their plane"):
        write_views(tmp_path, "v", views(turned), "dicom")
    assert not any(tmp_path.iterdir())
