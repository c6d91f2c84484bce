"""Pages without a browser: what they hold, what they must not hold, and that they are whole or not there."""

from __future__ import annotations

import base64
import errno
import json
import re
import zlib
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from custom_nets.data.angiography.reader import read_angiography
from custom_nets.utils.files import part_path
from custom_nets.visualize.page import document, evaluation_page, shown_names, volumes
from custom_nets.visualize.page.arrays import halve, pack, round_to_step
from custom_nets.visualize.page.reconstructions import turned_maxima
from custom_nets.visualize.page.words import number, without_names
from tests.bundles import most_dsa_runs, runner
from tests.bundles.runner import REPOSITORY
from tests.conftest import blobs, world_points
from tests.tools.pages import Page, tiny_arssr, tiny_transmrsr
from tests.tools.xa_writer import contrast_run, write_xa

infer = partial(runner.infer, REPOSITORY / "bundles" / "arssr")


@pytest.mark.parametrize("kind", ["noise", "whole numbers", "one value", "one row", "extremes"])
def test_an_array_comes_back_to_half_a_step(kind):
    rng = np.random.default_rng(0)
    values = {
        "noise": rng.normal(100, 20, (3, 17, 13)),
        "whole numbers": rng.integers(-30000, 30000, (2, 9, 8)).astype(float),
        "one value": np.full((2, 3, 4), 7.0),
        "one row": rng.random((4, 1, 6)),
        "extremes": np.where(rng.random((2, 20, 20)) < 0.01, 1e6, rng.random((2, 20, 20))),
    }[kind]
    step, offset = round_to_step(values, 4000)
    packed = pack(values, step, offset)
    back = Page.unpacked(packed.header(), packed.text)
    assert back.shape == values.shape
    np.testing.assert_allclose(back, values, atol=0.501 * step, rtol=0)
    if kind == "whole numbers":
        np.testing.assert_array_equal(back, values)


def test_an_array_is_stored_in_little():
    smooth = np.add.outer(np.arange(200.0), np.arange(300.0))[None]
    assert len(pack(smooth, 1.0, 0.0).text) < smooth.size / 50


def test_halving_takes_means_and_keeps_an_odd_end():
    np.testing.assert_allclose(halve(np.arange(10.0).reshape(2, 5), (1,)), [[0.5, 2.5, 4], [5.5, 7.5, 9]])
    np.testing.assert_allclose(halve(np.arange(4.0).reshape(2, 2), (0, 1)), [[1.5]])


@pytest.mark.parametrize("value, text", [(0.000012345, "0.000012"), (1234567, "1235000"), (1.5, "1.5"), (-0.0, "0")])
def test_numbers_are_plain(value, text):
    assert number(value) == text or float(number(value)) == pytest.approx(value, rel=1e-3, abs=1e-6)
    assert "e" not in number(value) and "," not in number(value)


# ---- through the bundles ----


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_arssr(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def scan(save_nifti) -> Path:
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])
    return save_nifti(blobs(world_points((20, 22, 8), affine)).astype(np.int16), affine)


def test_a_volume_with_its_page(scan, weights, tmp_path):
    out = infer(scan, tmp_path / "out", spacing=[1, 1, 1], checkpoint=weights, report=True)
    assert sorted(p.name for p in out.iterdir()) == ["scan_arssr.html", "scan_arssr.json", "scan_arssr.nii.gz"]
    page = Page(out / "scan_arssr.html")
    result = nib.load(out / "scan_arssr.nii.gz")
    after, before = page.array("after"), page.array("before")  # [z, y, x], x to the right
    np.testing.assert_allclose(
        after[:, :, ::-1].T, result.get_fdata(), atol=0.51 * page.data["arrays"]["after"]["step"]
    )
    np.testing.assert_array_equal(before[:, :, ::-1].T, nib.load(scan).get_fdata())
    # an index of the page is the same place in the world, in the file and in the input
    index = np.array([3, 5, 7, 1])
    world = np.array(page.data["affine"]) @ index
    np.testing.assert_allclose(result.affine @ np.array(page.data["to_file"]) @ index, world, atol=1e-4)
    upright = nib.load(scan).affine @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(upright @ np.array(page.data["to_input"]) @ index, world, atol=1e-4)
    for text in ("20 x 22 x 8 voxels of 1 x 1 x 4 mm", "20 x 22 x 32 voxels of 1 x 1 x 1 mm", "BSD-2-Clause"):
        assert text in page.text
    assert "residual" in page.data["arrays"] and len(page.text) < 4_000_000
    # from the network comes nothing
    assert "default-src 'none'" in page.text and not re.search(
        r"<(script|link|img|iframe)[^>]+(src|href)=.http", page.text
    )


def test_a_page_is_made_when_it_is_asked_for_later_and_goes_with_its_result(scan, weights, tmp_path):
    make = partial(infer, scan, tmp_path / "out", scale=2, checkpoint=weights)
    page = make() / "scan_arssr.html"
    assert not page.exists()
    make(report=True)
    assert page.is_file()
    first = page.stat().st_mtime_ns
    make(report=True)
    assert page.stat().st_mtime_ns == first, "nothing was to be done"
    make(overwrite=True)
    assert not page.exists(), "it showed an earlier result"


@pytest.fixture
def run_page(tmp_path) -> tuple[Page, Path]:
    times = np.arange(6) / 4
    frames = np.random.default_rng(0).integers(150, 200, (6, 32, 40)).astype(np.uint8)
    frames[2:5, 10:14] -= 90
    np.savez(tmp_path / "run.npz", frames=frames, times_s=times)
    checkpoint = most_dsa_runs.save_weights(tmp_path, 0, 0.05)
    out = most_dsa_runs.infer(
        tmp_path / "run.npz", tmp_path / "out", frames_between=1, checkpoint=checkpoint, report=True
    )
    return Page(out / "run_most_dsa.html"), out / "run_most_dsa.npz"


def test_a_run_with_its_page(run_page):
    page, file = run_page
    run = read_angiography(file)
    step = page.data["arrays"]["frames"]["step"]
    np.testing.assert_allclose(page.array("frames"), run.normalize(slice(None)), atol=0.51 * step)
    np.testing.assert_allclose(page.data["times"], run.times_s)
    assert page.data["made"] == run.synthetic.tolist() and sum(page.data["made"]) == 5
    assert "11 frames, 5 of them made" in page.text


PATIENT = {"PatientName": "Mustermann^Erika", "PatientID": "K4711-22", "PatientBirthDate": "19480321"}
STUDY = {"StudyDate": "20240517", "AccessionNumber": "ACC90817", "StudyDescription": "Kontrolle Mustermann"}


@pytest.mark.parametrize("identity", [False, True])
def test_a_page_of_a_dicom_scan_says_nothing_of_the_patient(identity, write_dicom_series, weights, tmp_path):
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    volume = blobs(world_points((16, 18, 6), affine)).astype(np.int16)
    folder = tmp_path / "Mustermann_Erika_19480321"
    files = write_dicom_series(folder, volume, affine, SeriesDescription="t1 Mustermann", **PATIENT, **STUDY)
    out = infer(folder, tmp_path / "out", scale=[1, 1, 2], checkpoint=weights, report=True, report_identity=identity)
    (file,) = out.glob("*.html")
    text = file.read_text().casefold()
    uid = json.loads(file.with_suffix(".json").read_text())["input"]["series_uid"]
    private = ["mustermann", "erika", "k4711", "19480321", "1948-03-21", "20240517", "acc90817", uid, str(tmp_path)]
    found = [word for word in private if word.casefold() in text]
    assert len(files) == 6
    if identity:
        assert set(found) >= {"mustermann", "k4711", "19480321", "20240517"}
    else:
        assert found == []


def test_a_page_of_a_dicom_run_says_nothing_of_the_patient(tmp_path):
    source = write_xa(
        tmp_path / "erika.dcm", contrast_run(), frame_time_vector_ms=most_dsa_runs.UNEVEN_MS,
        **most_dsa_runs.PLAIN, **PATIENT, **STUDY, PositionerPrimaryAngle=12.5, PositionerSecondaryAngle=-3,
    )  # fmt: skip
    checkpoint = most_dsa_runs.save_weights(tmp_path, 0, 0.05)
    make = partial(most_dsa_runs.infer, source, tmp_path / "out", frames_between=1, checkpoint=checkpoint, report=True)
    page = Page(make() / "erika_most_dsa.html")
    header = pydicom.dcmread(source, stop_before_pixels=True)
    uids = [header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID]
    private = ["mustermann", "erika", "k4711", "19480321", "20240517", "acc90817", str(tmp_path), *uids]
    assert [word for word in private if word.casefold() in page.text.casefold()] == []
    assert page.data["primary"] and page.data["secondary"], "where the arm stood is shown"
    named = make(report_identity=True, overwrite=True) / "erika_most_dsa.html"
    assert "Mustermann^Erika" in named.read_text()


def test_the_uncertainty_is_an_overlay(scan, tmp_path):
    checkpoint = tiny_transmrsr(tmp_path)
    options = {"directions": "both", "uncertainty": True, "report": True, "checkpoint": checkpoint}
    out = runner.infer(REPOSITORY / "bundles" / "transmrsr", scan, tmp_path / "out", **options)
    page = Page(out / "scan_transmrsr.html")
    found = page.array("uncertainty")[:, :, ::-1].T
    wanted = nib.load(out / "scan_transmrsr_uncertainty.nii.gz").get_fdata()
    np.testing.assert_allclose(found, wanted, atol=0.51 * page.data["arrays"]["uncertainty"]["step"])
    assert [overlay["name"] for overlay in page.data["overlays"]] == ["added", "residual", "uncertainty"]


def test_names_that_tell_who_are_not_shown(write_dicom_series, tmp_path):
    folder = tmp_path / "erika"
    write_dicom_series(folder, np.ones((4, 4, 3), np.int16), np.eye(4), **PATIENT)
    sources = {"sub-01": "x.nii.gz", "Erika_t1": folder, "a_2024-05-17": "y.nii.gz", "K4711-22": folder, "b": folder}
    shown = shown_names(sources)
    assert list(shown.values()) == ["sub-01", "case 2", "case 3", "case 4", "b"]
    assert list(shown_names(sources, identity=True).values()) == list(sources)
    said = without_names("/data/erika/1.dcm has 2 frames, erika too", ["/data/erika/1.dcm", "erika"])
    assert said == "the input has 2 frames, the input too"
    assert without_names("see /mnt/x/y.nii and C:\\a\\b.nii, at 3/4", []) == "see a file and a file, at 3/4"


# ---- 4D ----


def test_points_are_seen_from_several_sides():
    places = np.array([[2.0, 0, 1], [0, 3, 1], [0, -3, 1]])
    values = np.array([[1.0, 5, 2], [1, 3, 4]])  # two times
    pictures, nearest = turned_maxima(places, values, np.deg2rad([0, 90]), 1.0, (5, 9))
    front, left = pictures
    assert front[:, 1, 6].tolist() == [1, 1] and front[:, 1, 4].tolist() == [5, 4], "x to the right, z up, the largest"
    assert left[:, 1, 7].tolist() == [5, 3] and left[:, 1, 1].tolist() == [2, 4], "from the left y is to the right"
    assert nearest[0, 1, 4] == 1 and nearest[1, 1, 1] == 2 and (nearest[0] >= 0).sum() == 2
    cube = np.stack(np.meshgrid(*[np.arange(7.0) - 3] * 3, indexing="ij"), -1).reshape(-1, 3)
    turned, _ = turned_maxima(cube, np.ones((1, len(cube))), np.deg2rad([30]), 1.0, (7, 12))
    assert (turned[0, 0, :, 3:9] == 1).all(), "a turned grid has no holes"


# ---- evaluation ----


PAIRS = [
    {"case": case, "degradation": d, "region": "brain", "metric": "psnr", "baseline": b}
    | {"ours": 30 + k, "other": 30.5, "difference": k - 0.5, "win": int(k > 0.5)}
    for k, case in enumerate(("a", "b"))
    for d in ("box/iso2", "kspace/iso2", "box/1x1x4", "kspace/1x1x4")
    for b in ("bspline", "trilinear")
]
TABLE = "### Scores\n\n| case | PSNR |\n| --- | --- |\n| a | 30.10 ± 1 |\n| b | 9.20 |\n\n2 are left out.\n"


def evaluation(path: Path, **kwargs) -> Page:
    facts = [("asked", "nothing")]
    return Page(evaluation_page(path, TABLE, PAIRS, "degradation", ("nrmse",), facts, **kwargs))


def test_an_evaluation_page_has_the_tables_and_the_pictures(tmp_path):
    from PIL import Image

    pictures = []
    for case in ("a", "b"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(
            tmp_path / f"{case}.png"
        )
        pictures.append((case, "iso2", tmp_path / f"{case}.png"))
    page = evaluation(tmp_path / "r.html", pictures=pictures, names={"a": "a", "b": "case 2"}, warnings=["mind this"])
    assert "<td>30.10 ± 1</td>" in page.text and "<td>case 2</td>" in page.text and "<td>b</td>" not in page.text
    assert page.text.count("<img ") == 1 and "alt='Picture of a, iso2'" in page.text, "b's name stands in its picture"
    assert "1 pictures are not in this page" in page.text
    assert {row[0] for row in page.data["rows"]} == {"a", "case 2"}
    assert page.text.index("mind this") < page.text.index("Scores")


# ---- whole or not at all ----


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, scan, weights):
    def full(self, *args, **kwargs):
        if self.suffix == ".html":
            self.write_bytes(b"<html>half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **kwargs)

    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", full)
    message = runner.message_of(
        REPOSITORY / "bundles" / "arssr", scan, tmp_path / "out", scale=2, checkpoint=weights, report=True
    )
    assert message.count("\n") == 1 and "scan: no space is left on the disk" in message, message
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == ["scan_arssr.nii.gz"], "no page and no record: the case counts as not done"


def test_a_killed_process_leaves_no_page_under_its_name(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        document.write_page(tmp_path / "p.html", "t", "", {"kind": "x"}, ())
    assert list(tmp_path.iterdir()) == []
    assert part_path(tmp_path / "p.html").name.startswith("."), "what a harder kill leaves is hidden"


def test_a_page_stays_small_enough(tmp_path, monkeypatch, blob_volume, scan, weights):
    written = []
    monkeypatch.setattr(volumes, "write_page", lambda *a, **k: written.append(k | {"a": a}) or _too_large(written))

    def _too_large(calls):
        if len(calls) < 5:
            raise document.PageTooLarge("too large")
        return Path("p.html")

    infer(scan, tmp_path / "out", scale=2, checkpoint=weights, report=True)
    steps = [call["a"][5]["after"].step for call in written]
    assert steps[0] < steps[1] < steps[2] and written[-1]["a"][5]["after"].shape == (4, 11, 10)
    assert "voxels averaged 4 x 4 x 4" in written[-1]["a"][2]
    assert base64.b64decode(written[0]["a"][5]["after"].text) and zlib  # the arrays are there each time
