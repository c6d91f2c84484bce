"""The transmrsr bundle as a person runs it: a stack of thick slices in, isotropic volume or one clear message out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from custom_nets.checkpoints import save_checkpoint
from custom_nets.networks import AnySizeTransMRSR
from custom_nets.operators.slice_profile import slice_profile_matrix
from tests.bundles import runner
from tests.bundles.runner import BAD_SCANS, REPOSITORY, expect, outer_corner, same_as_nifti, volumes
from tests.conftest import blobs, random_affine, world_points

BUNDLE = REPOSITORY / "bundles" / "transmrsr"
CONFIG = str(BUNDLE / "configs" / "inference.json")
ARCH = {"slices": 3, "widths": [8, 16], "style_dim": 16, "head_width": 4, "num_centroids": 0}
infer = partial(runner.infer, BUNDLE)
message_of = partial(runner.message_of, BUNDLE)


def save_weights(folder: Path, std: float) -> Path:
    torch.manual_seed(0)
    network = AnySizeTransMRSR(**ARCH)
    torch.nn.init.normal_(network.last.weight, std=std)
    save_checkpoint(folder / "tiny.pt", network, {"name": "AnySizeTransMRSR", **ARCH})
    return folder / "tiny.pt"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A tiny network that adds nothing: the result is the interpolation, made consistent."""
    return save_weights(tmp_path_factory.mktemp("weights"), 0.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny network that adds something of its own."""
    return save_weights(tmp_path_factory.mktemp("weights"), 0.02)


def stack(save_nifti, axis: int = 2, factor: float = 4.0, shape=(20, 22), slices: int = 6, affine=None, **name) -> Path:
    """Thick slices of the field along an axis of the array, around the origin."""
    spacing, size = [1.0, 1.0], list(shape)
    spacing.insert(axis, factor)
    size.insert(axis, slices)
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return save_nifti(blobs(world_points(tuple(size), affine)).astype(np.float32), affine, **name)


@pytest.fixture
def scan(save_nifti) -> Path:
    return stack(save_nifti)


# ---- geometry ----


@pytest.mark.parametrize("factor", [2.0, 3.3, 5.0, 8.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_isotropic_in_the_right_place(axis, factor, save_nifti, untrained, tmp_path):
    """Sagittal, coronal and axial stacks, oblique, axes in any order and direction."""
    spacing = [1.0, 1.0]
    spacing.insert(axis, factor)
    affine = random_affine(np.random.default_rng(axis), tuple(spacing))
    scan = stack(save_nifti, axis, factor, affine=affine)
    source = nib.load(scan)
    # the field is sampled here, not averaged over slices, so that there is nothing to be consistent with
    out = infer(scan, tmp_path / "out", checkpoint=untrained, data_consistency=False)
    result = nib.load(out / "scan_transmrsr.nii.gz")
    np.testing.assert_allclose(result.header.get_zooms(), (1, 1, 1), rtol=1e-5)
    size = list(source.shape)
    size[axis] = round(6 * factor)
    assert result.shape == tuple(size)
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(source.affine), atol=1e-3)
    for form, code in (result.get_qform(coded=True), result.get_sform(coded=True)):
        assert code > 0
        np.testing.assert_allclose(form, result.affine, atol=1e-3)
    truth = blobs(world_points(result.shape, result.affine))
    inner = [slice(None)] * 3
    inner[axis] = slice(int(1.5 * factor), -int(1.5 * factor))
    error = np.abs(result.get_fdata() - truth)[tuple(inner)].max() / np.ptp(truth)
    assert error < (0.02 if factor < 6 else 0.06)


def test_dicom_series(write_dicom_series, weights, tmp_path):
    affine = random_affine(np.random.default_rng(2), spacing=(1.0, 1.0, 5.0))
    affine[:3, 3] = -affine[:3, :3] @ [8, 9, 3]
    values = np.round(blobs(world_points((17, 19, 7), affine)))
    write_dicom_series(tmp_path / "t2_axial", values.astype(np.int16), affine, SliceThickness="4.0")
    out = infer(tmp_path / "t2_axial", tmp_path / "out", checkpoint=weights)
    result = nib.load(out / "t2_axial_transmrsr.nii.gz")
    assert result.shape == (17, 19, 35)
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(affine), atol=1e-3)
    record = json.loads((out / "t2_axial_transmrsr.json").read_text())
    assert record["input"]["slice_thickness_mm"] == 4.0 and record["input"]["slice_gap_mm"] == pytest.approx(
        1, abs=1e-4
    )
    found = record["inference"]["data_consistency"]
    assert found["thickness_over_spacing"] == pytest.approx(0.8, abs=1e-3) and found["applied"]
    # and it is so: 4 mm slices of the result are those of the series
    centres = (np.arange(7) + 0.5) * 5 - 0.5
    again = result.get_fdata() @ slice_profile_matrix(35, centres, 5.0, found["profile"], 0.8).numpy().T
    measured = values if np.linalg.det(affine[:3, :3]) * np.linalg.det(result.affine[:3, :3]) > 0 else values[..., ::-1]
    assert np.abs(again - measured).max() < 1e-3 * np.ptp(values)


@pytest.mark.parametrize("oblique", [False, True])
def test_dicom_in_dicom_out(oblique, write_dicom_series, weights, tmp_path, capfd):
    """The same volume as in the NIfTI file, and its uncertainty, as two series derived from that of the input."""
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    if oblique:
        affine = random_affine(np.random.default_rng(4), spacing=(1.0, 1.0, 5.0))
    affine[:3, 3] = -affine[:3, :3] @ [8, 9, 3]
    values = np.round(blobs(world_points((17, 19, 7), affine))).astype(np.int16)
    folder = tmp_path / "scans"
    files = write_dicom_series(folder / "t2", values, affine, SliceThickness="4.0", SeriesNumber=3)
    options = {"checkpoint": weights, "flips": True, "uncertainty": True}
    other = infer(folder, tmp_path / "nifti", **options)
    out = infer(folder, folder, output_format="dicom", preview=True, **options)  # beside the input

    names = ["t2", "t2_transmrsr", "t2_transmrsr.json", "t2_transmrsr.png", "t2_transmrsr_uncertainty"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / names[2]).read_text())
    assert record["options"]["output_format"] == "dicom" and record["output"]["file"] == names[1]
    assert record["output"]["shape"] == [17, 19, 35] and len(record["output"]["sha256"]) == 64
    first = pydicom.dcmread(files[0])
    sources = {pydicom.dcmread(file).SOPInstanceUID for file in files}
    for name, number, words in ((names[1], 1003, "transmrsr"), (names[4], 1004, "standard deviation")):
        headers = same_as_nifti(out / name, other / f"{name}.nii.gz")
        for header in headers:
            assert header.FrameOfReferenceUID == first.FrameOfReferenceUID
            assert header.StudyInstanceUID == first.StudyInstanceUID
            assert header.SeriesInstanceUID != first.SeriesInstanceUID and header.SeriesNumber == number
            assert header.SOPInstanceUID not in sources and words in header.SeriesDescription
            assert {item.ReferencedSOPInstanceUID for item in header.SourceImageSequence} <= sources
    assert (
        len({pydicom.dcmread(next((out / name).iterdir())).SeriesInstanceUID for name in names[::4] + names[1:2]}) == 3
    )

    capfd.readouterr()
    infer(folder, folder, output_format="dicom", **options)
    assert "[1/1] t2: already there" in capfd.readouterr().out
    assert "made with output_format dicom (now None)" in message_of(folder, folder, **options)
    infer(folder, folder, overwrite=True, **options)
    assert (out / "t2_transmrsr.nii.gz").is_file() and not (out / "t2_transmrsr").exists()


@pytest.mark.parametrize("shape", [(255, 31), (30, 512), (33, 47)])
def test_any_size_within_the_slices(shape, save_nifti, weights, tmp_path):
    scan = stack(save_nifti, factor=3.3, shape=shape, slices=4)
    out = infer(scan, tmp_path / "out", checkpoint=weights)
    assert nib.load(out / "scan_transmrsr.nii.gz").shape == (*shape, 13)
    record = json.loads((out / "scan_transmrsr.json").read_text())
    assert record["inference"]["data_consistency"]["largest_deviation_after"] < 1e-3


def test_like_and_spacing(scan, save_nifti, untrained, tmp_path):
    result = nib.load(infer(scan, tmp_path / "a", spacing=[1, 1, 0.8], checkpoint=untrained) / "scan_transmrsr.nii.gz")
    assert result.shape == (20, 22, 30)
    grid = nib.load(infer(scan, tmp_path / "b", checkpoint=untrained) / "scan_transmrsr.nii.gz")
    reference = save_nifti(np.zeros(grid.shape, np.uint8), grid.affine, name="reference.nii.gz")
    result = nib.load(infer(scan, tmp_path / "c", like=reference, checkpoint=untrained) / "scan_transmrsr.nii.gz")
    np.testing.assert_allclose(result.affine, grid.affine, atol=1e-6)
    np.testing.assert_allclose(result.get_fdata(), grid.get_fdata(), atol=1e-3)


# ---- what is written ----


def test_consistent_in_the_units_of_the_file(scan, weights, tmp_path):
    source = nib.load(scan).get_fdata()
    centres = (np.arange(6) + 0.5) * 4 - 0.5
    deviations = {}
    for consistent in (True, False):
        out = infer(scan, tmp_path / str(consistent), checkpoint=weights, data_consistency=consistent, profile="box")
        result = nib.load(out / "scan_transmrsr.nii.gz").get_fdata()
        again = result @ slice_profile_matrix(24, centres, 4.0, "box").numpy().T
        deviations[consistent] = np.abs(again - source).max() / np.ptp(source)
    assert deviations[True] < 1e-4 < 1e-3 < deviations[False]


def test_record_preview_and_uncertainty(scan, weights, tmp_path):
    options = {"directions": "both", "flips": True, "uncertainty": True, "preview": True}
    out = infer(scan, tmp_path / "out", checkpoint=weights, **options)
    names = ["scan_transmrsr.json", "scan_transmrsr.nii.gz", "scan_transmrsr.png", "scan_transmrsr_uncertainty.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / names[0]).read_text())
    assert record["options"]["directions"] == "both" and record["options"]["flips"] is True
    assert record["inference"]["thick_axis"] == "z" and record["inference"]["factor"] == 4.0
    assert record["inference"]["data_consistency"]["tolerance"] == 1e-3
    assert record["output"]["spacing_mm"] == [1, 1, 1] and record["output"]["volumes"] == 1
    assert (out / names[2]).read_bytes().startswith(b"\x89PNG")
    result, deviation = nib.load(out / names[1]), nib.load(out / names[3])
    np.testing.assert_allclose(deviation.affine, result.affine)
    assert deviation.shape == result.shape and (deviation.get_fdata() >= 0).all()
    # in the units of the file: some part of its range of about 1000
    assert 0.1 < deviation.get_fdata().mean() < 200
    plain = nib.load(infer(scan, tmp_path / "plain", checkpoint=weights, directions="both", flips=True) / names[1])
    np.testing.assert_allclose(result.get_fdata(), plain.get_fdata(), atol=1e-2)


def test_a_folder_goes_on_where_it_stopped(scan, weights, tmp_path, capfd):
    folder = scan.parent / "folder"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(scan.read_bytes())
    (folder / "b.nii.gz").write_text("this is no image")
    (folder / "c.nii.gz").write_bytes(scan.read_bytes())
    options = {"checkpoint": weights, "flips": True, "uncertainty": True}
    message = message_of(folder, folder, **options)  # results beside the inputs
    assert "1 of 3 cases failed" in message and "b.nii.gz cannot be read" in message
    written = (folder / "a_transmrsr.nii.gz").stat().st_mtime_ns
    (folder / "b.nii.gz").unlink()
    (folder / "c_transmrsr.json").unlink()  # as if the run had ended before
    capfd.readouterr()
    infer(folder, folder, **options)
    said = capfd.readouterr().out
    assert "[1/2] a: already there" in said and "[2/2] c:" in said and "c: already there" not in said
    assert (folder / "a_transmrsr.nii.gz").stat().st_mtime_ns == written
    assert (folder / "c_transmrsr.json").is_file()
    assert "made with flips True (now False)" in message_of(folder, folder, checkpoint=weights)


def test_as_a_command(scan, weights, tmp_path):
    out = tmp_path / "out"
    done = runner.command(CONFIG, "--input", scan, "--output_dir", out, "--checkpoint", weights, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(out / "scan_transmrsr.nii.gz") in done.stdout
    assert "sharpening" in done.stderr and "100%" in done.stderr
    for noise in ("Traceback", "Engine run", "invalid value"):
        assert noise not in done.stdout + done.stderr


# ---- mistakes ----


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scan(kind, save_nifti, weights, tmp_path):
    make, expected = BAD_SCANS[kind]
    expect(expected, message_of(make(save_nifti), tmp_path / "out", checkpoint=weights))
    assert volumes(tmp_path / "out") == []


def _random(shape, spacing):
    def make(save_nifti) -> Path:
        values = np.random.default_rng(0).random(shape, dtype=np.float32)
        return save_nifti(values, np.diag([*spacing, 1.0]))

    return make


BAD_STACKS = {
    "isotropic": (
        _random((12, 12, 12), (1, 1, 1)),
        "no thick slices: voxels of 1 x 1 x 1 mm.*Other bundles.*any spacing",
    ),
    "two thick axes": (_random((12, 12, 12), (1, 4, 4)), "no unique thick axis: voxels of 1 x 4 x 4 mm.*--thick_axis"),
    "three slices": (_random((12, 12, 3), (1, 1, 5)), "only 3 slices along z .*at least 4"),
}


@pytest.mark.parametrize("kind", BAD_STACKS)
def test_bad_stack(kind, save_nifti, weights, tmp_path):
    make, expected = BAD_STACKS[kind]
    expect(expected, message_of(make(save_nifti), tmp_path / "out", checkpoint=weights))
    assert volumes(tmp_path / "out") == []


BAD_OPTIONS = {
    "two targets": ({"spacing": 1, "like": "x.nii.gz"}, "give spacing .* or like .*, not both"),
    "zero spacing": ({"spacing": [0, 1, 1]}, r"spacing must be above zero on every axis, got \[0, 1, 1\]"),
    "coarse spacing": ({"spacing": 4}, "no finer than the slices' 4 mm along z"),
    "like nothing": ({"like": "/nowhere/ref.nii.gz"}, "reference image .* does not exist: /nowhere/ref.nii.gz"),
    "huge": ({"spacing": 0.01}, "memory budget of 4 GiB is too small: .* output voxels"),
    "no budget": ({"memory_gb": 0}, "memory_gb must be above zero"),
    "directions": ({"directions": "all"}, "directions must be 'one' or 'both', got 'all'"),
    "profile": ({"profile": "sinc"}, "profile must be auto or one of gaussian, box, .*, got 'sinc'"),
    "thickness": ({"thickness": -1}, "thickness .* must be above zero, got -1"),
    "axis": ({"thick_axis": "s"}, "thick_axis must be 'x', 'y' or 'z'"),
    "uncertainty of one": ({"uncertainty": True}, "spread of several estimates: give it with --directions both"),
    "precision": ({"precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
    "intensity": ({"intensity_mode": "std"}, "mode must be 'percentile' or 'minmax', got 'std'"),
    "device": ({"device": "gpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    "mistyped": ({"direction": "both"}, "'direction' is not an id of this config; did you mean 'directions'"),
    "string boolean": ({"data_consistency": "false"}, "data_consistency is the text 'false', which counts as true"),
    "format": ({"output_format": "dcm"}, "output_format must be nifti or dicom, got 'dcm'"),
    "DICOM of NIfTI": ({"output_format": "dicom"}, "scan.nii.gz is not a DICOM series.* give --output_format nifti"),
    "no checkpoint": ({"checkpoint": "/nowhere/m.pt"}, "no checkpoint at /nowhere/m.pt"),
}


@pytest.mark.filterwarnings("ignore:factor .* along the thick axis")
@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_option(kind, scan, weights, tmp_path):
    options, expected = BAD_OPTIONS[kind]
    expect(expected, message_of(scan, tmp_path / "out", **{"checkpoint": weights, **options}))
    assert volumes(tmp_path / "out") == []


def test_centroids_that_were_never_fitted(scan, weights, tmp_path):
    arch = {**ARCH, "num_centroids": 4}
    network = AnySizeTransMRSR(**arch)
    save_checkpoint(tmp_path / "unfitted.pt", network, {"name": "AnySizeTransMRSR", **arch})
    expect("unfitted.pt .*centroids", message_of(scan, tmp_path / "out", checkpoint=tmp_path / "unfitted.pt"))
    state = torch.load(weights, weights_only=True)["model"]
    state.pop("centroids")
    torch.save({"model": state, "arch": {"name": "AnySizeTransMRSR", **arch}}, tmp_path / "absent.pt")
    expect("missing keys .first: centroids", message_of(scan, tmp_path / "out", checkpoint=tmp_path / "absent.pt"))
