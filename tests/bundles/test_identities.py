"""Nobody's name, birth date, id or path stands in what is written to be shared, or is left behind."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom_nets.data.angiography.acquisition_writer import write_xa_run
from custom_nets.simulation.phantom import VesselFlowPhantom
from tests.bundles import runner
from tests.bundles.most_dsa_runs import BUNDLE as MOST_DSA
from tests.bundles.most_dsa_runs import PLAIN, save_weights
from tests.bundles.test_many_studies import ARSSR
from tests.bundles.test_reconstruction_bundles import SETTINGS, run
from tests.tools.identities import found_in
from tests.tools.pages import tiny_arssr
from tests.tools.xa_writer import contrast_run, write_xa

WHO = {
    "PatientName": "QDOEX^JANE",
    "PatientID": "K4711",
    "PatientBirthDate": "19480321",
    "StudyDate": "20240517",
    "SeriesDescription": "QDOEX control",
    "StudyDescription": "QDOEX head",
    "ReferringPhysicianName": "QDOEX^REFERRER",
    "InstitutionName": "Clinic WARDX",
    "OtherPatientIDs": "K4711",
}
WORDS = ("qdoex", "jane", "k4711", "19480321", "1948-03-21", "20240517", "wardx", "records of")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "records of QDOEX"
    path.mkdir()
    return path


def nobody_in(out: Path, *but: str) -> set[str]:
    """Suffixes of the files that were looked at."""
    assert found_in(out, (*WORDS, str(out.parent)), but) == []
    return {path.suffix for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_volumes(kind, folder, tmp_path, write_dicom_series, monkeypatch):
    tiny_arssr(tmp_path, 4)
    volume = np.random.default_rng(0).random((12, 11, 6)) * 900
    scan = folder / "series"
    if kind == "dicom":
        write_dicom_series(scan, volume, np.diag([1.0, 1.0, 3.0, 1.0]), **WHO)
    else:
        image = nib.Nifti1Image(volume.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
        image.header["descrip"], image.header["db_name"], image.header["aux_file"] = "QDOEX", "QDOEX", "K4711"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"QDOEX JANE 19480321"))
        scan = folder / "series.nii.gz"
        nib.save(image, scan)
    out = runner.infer(
        ARSSR, scan, tmp_path / "out", scale=2, checkpoint=tmp_path / "tiny.pt", preview=True, report=True
    )
    assert nobody_in(out) == {".gz", ".json", ".png", ".html"}


@pytest.mark.parametrize("output_format", ["npz", "mp4"])
def test_runs(output_format, folder, tmp_path):
    pytest.importorskip("cv2")
    run = write_xa(folder / "run.dcm", contrast_run(), **PLAIN, **WHO)
    weights = save_weights(tmp_path, 0, 0.02)
    options = {"checkpoint": weights, "frames_between": 1, "preview": True, "report": True}
    out = runner.infer(MOST_DSA, run, tmp_path / "out", output_format=output_format, **options)
    assert nobody_in(out) >= {".json", ".png", ".html"}


def test_rotational_scans(folder, tmp_path):
    import pydicom

    phantom, s = VesselFlowPhantom(1, SETTINGS), SETTINGS
    turn = {"primary_deg": np.rad2deg(phantom.angles_rad) - 90, "times_s": phantom.times_s}
    (folder / "scan").mkdir()
    for number, (name, frames) in enumerate(zip(("mask", "fill"), phantom.exposures(), strict=True)):
        path = folder / "scan" / f"{name}.dcm"
        size = {"sad_mm": s.sad_mm, "sid_mm": s.sid_mm, "spacing_mm": (s.pixel_mm,) * 2}
        write_xa_run(path, frames[:, :, ::-1], series_number=1 + number, **turn, **size)
        dataset = pydicom.dcmread(path)
        for keyword, value in WHO.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    run("togs", folder / "scan", tmp_path / "out", preview=True, mesh=True, views_out=3)
    assert nobody_in(tmp_path / "out") >= {".gz", ".json", ".png"}
