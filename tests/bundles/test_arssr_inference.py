"""The arssr bundle as a person runs it: a scan in, a volume on the wanted grid out, or one clear message."""

from __future__ import annotations

import json
import os
import warnings
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from custom_nets.checkpoints import save_checkpoint
from custom_nets.inferers import ImplicitVolumeInferer
from custom_nets.networks import ResidualArSSR
from custom_nets.utils.record import file_record
from tests.bundles import runner
from tests.bundles.runner import BAD_SCANS, REPOSITORY, expect, outer_corner, same_as_nifti, volumes
from tests.conftest import blobs, random_affine, world_points
from tests.tools.pages import tiny_arssr

BUNDLE = REPOSITORY / "bundles" / "arssr"
CONFIG = str(BUNDLE / "configs" / "inference.json")
ARCH = {"feature_dim": 8, "num_features": 8, "growth": 8, "num_blocks": 1, "decoder_width": 16}
infer = partial(runner.infer, BUNDLE)
message_of = partial(runner.message_of, BUNDLE)
command = partial(runner.command, CONFIG)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A tiny network that still is the interpolation that it starts from: its output is known."""
    path = tmp_path_factory.mktemp("weights") / "untrained.pt"
    save_checkpoint(path, ResidualArSSR(**ARCH), {"name": "ResidualArSSR", **ARCH})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_arssr(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def scan(save_nifti) -> Path:
    """A thick-slice scan, 1 x 1 x 4 mm, scanner values of 0 to about 1100."""
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = (-10, -11, -14)
    return save_nifti(blobs(world_points((20, 22, 8), affine)).astype(np.int16), affine)


# ---- as a command ----


@pytest.mark.parametrize(
    "place, option, shape, spacing",
    [
        ("repository", ("--spacing", "[1,1,1]"), (20, 22, 32), (1, 1, 1)),
        ("bundle", ("--scale", "2.5"), (50, 55, 20), (0.4, 0.4, 1.6)),
        ("elsewhere", ("--scale", "[1,1,4]"), (20, 22, 32), (1, 1, 1)),
    ],
)
def test_shipped_weights_run_from_anywhere(place, option, shape, spacing, scan, tmp_path):
    if not (BUNDLE / "models" / "model.pt").is_file():
        pytest.skip("no weights in models/")
    cwd = {"repository": REPOSITORY, "bundle": BUNDLE, "elsewhere": tmp_path}[place]
    config = CONFIG if place == "elsewhere" else os.path.relpath(CONFIG, cwd)
    out = tmp_path / "new" / "out"
    done = runner.command(config, "--input", scan, "--output_dir", out, *option, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert str(out / "scan_arssr.nii.gz") in done.stdout
    assert sorted(p.name for p in out.iterdir()) == ["scan_arssr.json", "scan_arssr.nii.gz", "scan_arssr.png"]
    result = nib.load(out / "scan_arssr.nii.gz")
    assert result.shape == shape
    np.testing.assert_allclose(result.header.get_zooms(), spacing, rtol=1e-6)
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(nib.load(scan).affine), atol=1e-4)
    # progress, and nothing that only its makers understand
    assert "sampling" in done.stderr and "100%" in done.stderr
    for noise in ("Engine run", "Traceback", "invalid value", "Epoch[1]"):
        assert noise not in done.stdout + done.stderr


def test_one_bad_file_does_not_stop_a_folder(scan, weights, tmp_path):
    folder = scan.parent / "folder"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(scan.read_bytes())
    (folder / "b.nii.gz").write_text("this is no image")
    (folder / "c.nii.gz").write_bytes(scan.read_bytes())
    out = tmp_path / "out"
    options = ("--input", folder, "--output_dir", out, "--scale", 2, "--checkpoint", weights, "--preview", "False")
    done = command(*options)
    assert done.returncode == 1
    assert volumes(out) == ["a_arssr.nii.gz", "c_arssr.nii.gz"]
    assert done.stderr.count("100%") == 2, "each scan is sampled once"
    assert "error: 1 of 3 cases failed:" in done.stderr
    assert f"b: {folder / 'b.nii.gz'} cannot be read as an image volume" in done.stderr
    for noise in ("Traceback", "terminating due to exception"):
        assert noise not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        (("--scal", 2), "error: 'scal' is not an id of this config; did you mean 'scale'?"),
        (("--scale", 2, "--checkpoint", "none.pt"), "error: no checkpoint at none.pt."),
    ],
)
def test_a_mistake_is_one_line(options, message, scan, tmp_path):
    done = command("--input", scan, "--output_dir", tmp_path / "out", *options)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == message
    assert "Traceback" not in done.stdout + done.stderr
    assert volumes(tmp_path / "out") == []


# ---- geometry ----


@pytest.mark.parametrize("seed", range(4))
def test_scale_keeps_the_place_in_the_world(seed, save_nifti, untrained, tmp_path):
    """Oblique, flipped, permuted affines, odd sizes, another scale on each axis."""
    rng = np.random.default_rng(seed)
    affine = random_affine(rng, spacing=(1.1, 1.3, 1.7))
    shape = (17, 15, 13)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)  # around the origin, where the field is
    scan = save_nifti(blobs(world_points(shape, affine)).astype(np.float32), affine)
    scale = rng.uniform(1, 3, 3).round(2)
    result = nib.load(infer(scan, tmp_path / "out", scale=scale.tolist(), checkpoint=untrained) / "scan_arssr.nii.gz")

    size = np.round(np.array(shape) * scale).astype(int)
    assert result.shape == tuple(size)
    # the same box: column k is shorter by n / N, and the outer corner stays
    np.testing.assert_allclose(result.affine[:3, :3], affine[:3, :3] * (shape / size), atol=1e-6)
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(affine), atol=1e-4)
    for form, code in (result.get_qform(coded=True), result.get_sform(coded=True)):
        assert code > 0
        np.testing.assert_allclose(form, result.affine, atol=1e-3)
    # and the values lie where the header says: the field at the voxels' own places, edges aside
    truth = blobs(world_points(result.shape, result.affine))
    inner = tuple(slice(int(2 * s) + 1, -int(2 * s) - 1) for s in scale)
    assert np.abs(result.get_fdata() - truth)[inner].max() < 0.01 * np.ptp(truth)


def test_spacing_is_exact(scan, untrained, tmp_path):
    result = nib.load(infer(scan, tmp_path, spacing=[0.9, 1, 1.5], checkpoint=untrained) / "scan_arssr.nii.gz")
    np.testing.assert_allclose(result.header.get_zooms(), (0.9, 1, 1.5), rtol=1e-6)
    assert result.shape == (22, 22, 21)  # 20 / 0.9 = 22.2, 32 / 1.5 = 21.3
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(nib.load(scan).affine), atol=1e-4)


def test_like_an_oblique_image(scan, save_nifti, untrained, tmp_path):
    affine = random_affine(np.random.default_rng(5), spacing=(1.2, 0.9, 1.4))
    affine[:3, 3] = -affine[:3, :3] @ [6, 7, 5]
    reference = save_nifti(np.zeros((13, 15, 11), np.uint8), affine, name="reference.nii.gz")  # only its grid counts
    result = nib.load(infer(scan, tmp_path / "out", like=reference, checkpoint=untrained) / "scan_arssr.nii.gz")
    assert result.shape == (13, 15, 11)
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)
    places = world_points(result.shape, affine)
    position = (places - [-10, -11, -14]) / [1, 1, 4]
    inside = ((position > 1) & (position < np.array([20, 22, 8]) - 2)).all(-1)
    assert inside.sum() > 500
    truth = blobs(places)
    assert np.abs(result.get_fdata() - truth)[inside].max() < 0.02 * np.ptp(truth)


def test_dicom_series(write_dicom_series, untrained, tmp_path):
    affine = random_affine(np.random.default_rng(2), spacing=(1.0, 1.0, 3.0))
    affine[:3, 3] = -affine[:3, :3] @ [8, 9, 4]
    values = np.round(blobs(world_points((17, 19, 9), affine)))
    write_dicom_series(tmp_path / "t2_axial", (values / 0.5 - 40).astype(np.int16), affine, slope=0.5, intercept=20)
    out = infer(tmp_path / "t2_axial", tmp_path / "out", scale=[1, 1, 3], checkpoint=untrained)
    result = nib.load(out / "t2_axial_arssr.nii.gz")
    assert result.shape == (17, 19, 27)
    np.testing.assert_allclose(outer_corner(result.affine), outer_corner(affine), atol=1e-3)
    truth = blobs(world_points(result.shape, result.affine))
    assert np.abs(result.get_fdata() - truth)[2:-2, 2:-2, 6:-6].max() < 0.02 * np.ptp(truth)
    record = json.loads((out / "t2_axial_arssr.json").read_text())
    assert record["input"]["slice_thickness_mm"] == 3.0


@pytest.mark.parametrize("kind", ["scale", "like"])
def test_dicom_in_dicom_out(kind, write_dicom_series, save_nifti, weights, tmp_path, capfd):
    affine = np.diag([-1.0, -1.2, 3.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ [8, 9, 4]
    values = np.round(blobs(world_points((17, 19, 9), affine))).astype(np.int16)
    files = write_dicom_series(tmp_path / "t2", values, affine)
    reference = random_affine(np.random.default_rng(8), spacing=(1.2, 0.9, 1.4))  # left-handed
    reference[:3, 3] = -reference[:3, :3] @ [6, 7, 5]
    like = save_nifti(np.zeros((13, 15, 11), np.uint8), reference, name="reference.nii.gz")
    options = {"checkpoint": weights, **({"scale": [1.5, 1, 3]} if kind == "scale" else {"like": like})}
    out = infer(tmp_path / "t2", tmp_path / "out", output_format="dicom", **options)
    assert sorted(path.name for path in out.iterdir()) == ["t2_arssr", "t2_arssr.json"]
    first = pydicom.dcmread(files[0])
    for header in same_as_nifti(out / "t2_arssr", infer(files[2], tmp_path / "nifti", **options) / "t2_arssr.nii.gz"):
        assert header.FrameOfReferenceUID == first.FrameOfReferenceUID
        assert header.SeriesInstanceUID != first.SeriesInstanceUID and "SourceImageSequence" in header
    before = {path: path.read_bytes() for path in (out / "t2_arssr").iterdir()}
    capfd.readouterr()
    infer(tmp_path / "t2", out, output_format="dicom", **options)
    assert "already there" in capfd.readouterr().out
    assert {path: path.read_bytes() for path in (out / "t2_arssr").iterdir()} == before


def test_dicom_out_is_refused_before_the_work(write_dicom_series, scan, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(ImplicitVolumeInferer, "sample", lambda *_: pytest.fail("something was computed"))
    options = {"checkpoint": weights, "scale": 2, "output_format": "dicom"}
    message = message_of(scan, tmp_path / "out", **options)
    expect("scan.nii.gz is not a DICOM series.* give --output_format nifti", message)
    tilted = np.diag([1.0, 1.0, 3.0, 1.0])
    tilted[1, 2] = 0.5
    values = np.random.default_rng(0).integers(0, 99, (9, 8, 7), np.int16)
    write_dicom_series(tmp_path / "tilted", values, tilted)
    expect("axes of the result are not perpendicular", message_of(tmp_path / "tilted", tmp_path / "out", **options))
    write_dicom_series(tmp_path / "series", values, np.diag([1.0, 1.0, 3.0, 1.0]))
    message = message_of(tmp_path / "series", tmp_path, output_postfix="", **options)  # where the input lies
    expect("series.* would be written onto .*which is read: give another --output_dir or --output_postfix", message)
    assert list((tmp_path / "out").iterdir()) == [] and len(list((tmp_path / "series").iterdir())) == 7


def test_each_volume_of_a_series_in_time_is_done_as_if_alone(scan, save_nifti, weights, tmp_path):
    volume = nib.load(scan).get_fdata()
    image = nib.Nifti1Image(np.stack([volume, 2 * volume + 5, volume[::-1]], -1), nib.load(scan).affine)
    image.header["pixdim"][4] = 2.5
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "bold.nii.gz")
    save_nifti(volume[::-1], nib.load(scan).affine, name="last.nii.gz")
    both = [str(tmp_path / "bold.nii.gz"), str(tmp_path / "last.nii.gz")]
    out = infer(both, tmp_path / "out", scale=[1.5, 1, 2], checkpoint=weights)
    series, alone = nib.load(out / "bold_arssr.nii.gz"), nib.load(out / "last_arssr.nii.gz")
    assert series.shape == (*alone.shape, 3)
    assert series.header["pixdim"][4] == 2.5
    values = series.get_fdata()
    np.testing.assert_allclose(values[..., 2], alone.get_fdata(), atol=1e-3)
    np.testing.assert_allclose(values[..., 1], 2 * values[..., 0] + 5, atol=1e-2)  # in the units of the file


def test_intensities_stay_in_the_units_of_the_file(save_nifti, untrained, tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -14
    values = 40 * blobs(world_points((15, 15, 15), affine)) - 30000
    scan = save_nifti(values.astype(np.float32), affine)
    result = nib.load(infer(scan, tmp_path / "out", scale=2, checkpoint=untrained) / "scan_arssr.nii.gz")
    assert result.get_data_dtype() == np.float32
    margin = 0.02 * np.ptp(values)
    assert values.min() - margin < result.get_fdata().min() < values.min() + margin
    assert values.max() - margin < result.get_fdata().max() < values.max() + margin


# ---- record, preview, resume ----


def test_record_and_preview(scan, weights, tmp_path):
    out = infer(scan, tmp_path / "out", spacing=[1, 1, 1], checkpoint=weights, preview=True)
    record = json.loads((out / "scan_arssr.json").read_text())
    assert {"python", "torch", "monai", "numpy", "custom_nets"} <= record["versions"].keys()
    assert record["device"] == "cpu" and record["threads"] >= 1 and record["seconds"] > 0
    assert record["options"]["spacing"] == [1, 1, 1] and record["options"]["scale"] is None
    assert record["input"]["sha256"] == file_record(scan)["sha256"] and record["input"]["shape"] == [20, 22, 8]
    assert record["input"]["spacing_mm"] == [1, 1, 4] and record["output"]["spacing_mm"] == [1, 1, 1]
    assert record["output"]["shape"] == [20, 22, 32] and record["output"]["file"] == "scan_arssr.nii.gz"
    np.testing.assert_allclose(record["output"]["affine"], nib.load(out / "scan_arssr.nii.gz").affine, atol=1e-5)
    assert len(record["checkpoint"]["sha256"]) == 64
    assert record["consistency"]["computed"] and 0 <= record["consistency"]["rms"] < 0.1
    assert "research" in record["note"].lower()
    picture = (out / "scan_arssr.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_same_command_same_voxels(scan, weights, tmp_path):
    first, second = (
        nib.load(infer(scan, tmp_path / name, scale=[1.7, 1, 3], checkpoint=weights) / "scan_arssr.nii.gz").get_fdata()
        for name in ("one", "two")
    )
    assert np.array_equal(first, second)


def test_done_cases_are_skipped(scan, weights, tmp_path, capfd):
    out = tmp_path / "out"
    target = infer(scan, out, scale=2, checkpoint=weights) / "scan_arssr.nii.gz"
    before = target.stat().st_mtime_ns, target.read_bytes()
    infer(scan, out, scale=2, checkpoint=weights, memory_gb=3)
    assert "already there" in capfd.readouterr().out
    assert (target.stat().st_mtime_ns, target.read_bytes()) == before

    infer(scan, out, scale=2, checkpoint=weights, overwrite=True)
    assert target.stat().st_mtime_ns > before[0]

    # a run that died before its record was written is not done
    (out / "scan_arssr.json").unlink()
    infer(scan, out, scale=2, checkpoint=weights)
    assert (out / "scan_arssr.json").is_file()


def test_a_result_of_other_options_or_weights_is_not_taken_for_this_one(scan, weights, untrained, tmp_path):
    target = infer(scan, tmp_path, scale=2, checkpoint=weights) / "scan_arssr.nii.gz"
    before = target.read_bytes()
    message = message_of(scan, tmp_path, scale=3, checkpoint=weights)
    assert "made with scale 2 (now 3): give --overwrite True" in message
    assert "made with weights" in message_of(scan, tmp_path, scale=2, checkpoint=untrained)
    assert target.read_bytes() == before


def test_results_in_the_input_folder_are_no_input(scan, weights, tmp_path, capfd):
    folder = scan.parent
    infer(folder, folder, scale=2, checkpoint=weights)
    infer(folder, folder, scale=2, checkpoint=weights)
    assert "[1/1] scan: already there" in capfd.readouterr().out
    assert volumes(folder) == ["scan.nii.gz", "scan_arssr.nii.gz"]


# ---- mistakes ----


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scan(kind, save_nifti, weights, tmp_path):
    make, expected = BAD_SCANS[kind]
    message = message_of(make(save_nifti), tmp_path / "out", scale=2, checkpoint=weights)
    expect(expected, message)
    assert volumes(tmp_path / "out") == []


BAD_OPTIONS = {
    "no target": ({}, "give exactly one of spacing .* got none"),
    "two targets": ({"scale": 2, "spacing": 1}, "give exactly one of spacing .* got spacing and scale"),
    "zero spacing": ({"spacing": [0, 1, 1]}, r"spacing must be above zero on every axis, got \[0, 1, 1\]"),
    "negative spacing": ({"spacing": -1}, "spacing must be above zero on every axis, got -1"),
    "two spacings": ({"spacing": [1, 1]}, r"spacing must be one number or three \(x, y, z\), got \[1, 1\]"),
    "four scales": ({"scale": [1, 1, 1, 2]}, "scale must be one number or three"),
    "no number": ({"scale": "large"}, "scale must be one number or three .* got 'large'"),
    "like nothing": ({"like": "/nowhere/ref.nii.gz"}, "reference image .* does not exist: /nowhere/ref.nii.gz"),
    "huge": ({"spacing": 0.02}, r"memory budget of 4 GiB is too small: .* output voxels"),
    "small budget": ({"spacing": 0.25, "memory_gb": 1.11}, "memory budget of 1.11 GiB is too small"),
    "no budget": ({"scale": 2, "memory_gb": 0}, "memory_gb must be above zero"),
    "precision": ({"scale": 2, "precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
    "geometry": ({"scale": 2, "geometry": "corner"}, "geometry must be 'centre' or 'align_corners'"),
    "intensity": ({"scale": 2, "intensity_mode": "std"}, "mode must be 'percentile' or 'minmax', got 'std'"),
    "device": ({"scale": 2, "device": "gpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
    "GPU that is not there": ({"scale": 2, "device": "cuda:63"}, "device 'cuda:63' is not there"),
    "mistyped": ({"scale": 2, "memory": 3}, "'memory' is not an id of this config; did you mean 'memory_gb'"),
    "string boolean": ({"scale": 2, "overwrite": "false"}, "overwrite is the text 'false', which counts as true"),
    "format": ({"scale": 2, "output_format": "dcm"}, "output_format must be nifti or dicom, got 'dcm'"),
    "no word": ({"scale": 2, "profile": None}, "profile must be auto or one of"),
    "no memory": ({"scale": 2, "memory_gb": None}, "memory_gb must be above zero, got None"),
    "no strength": ({"scale": 2, "strength": None}, "strength must lie between 0"),
    "no value": ({"scale": True}, "scale must be one number or three .* got True"),
    "two thicknesses": ({"scale": 2, "thickness_mm": [1, 2]}, "thickness_mm must be one number or three"),
    "list of formats": (
        {"scale": 2, "output_format": ["dicom"]},
        r"output_format must be nifti or dicom, got \['dicom",
    ),
    "no checkpoint": ({"scale": 2, "checkpoint": "/nowhere/m.pt"}, "no checkpoint at /nowhere/m.pt"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_option(kind, scan, weights, tmp_path):
    options, expected = BAD_OPTIONS[kind]
    message = message_of(scan, tmp_path / "out", **{"checkpoint": weights, **options})
    expect(expected, message)
    assert volumes(tmp_path / "out") == []


def test_wrong_checkpoints_name_the_mismatch(scan, weights, tmp_path):
    state = torch.load(weights, weights_only=True)["model"]
    arch = {"name": "ResidualArSSR", **ARCH}
    incomplete = {key: value for key, value in state.items() if key != "encoder.sfe1.bias"}
    files = {
        "sizes": (
            {"model": state, "arch": {**arch, "decoder_width": 32}},
            r"wrong shapes \(first: decoder.0.bias: \(16,\), expected \(32,\)",
        ),
        "missing": ({"model": incomplete, "arch": arch}, r"1 missing keys \(first: encoder.sfe1.bias\)"),
        "bare": (state, "is not a bundle checkpoint .* python -m custom_nets.checkpoints"),
        "network": ({"model": state, "arch": {"name": "UNet"}}, "unknown network 'UNet'"),
    }
    for name, (content, expected) in files.items():
        torch.save(content, tmp_path / f"{name}.pt")
        expect(expected, message_of(scan, tmp_path / "out", scale=2, checkpoint=tmp_path / f"{name}.pt"))
    (tmp_path / "text.pt").write_text("no weights")
    text = message_of(scan, tmp_path / "out", scale=2, checkpoint=tmp_path / "text.pt")
    expect("text.pt is not a checkpoint of plain tensors", text)
    assert volumes(tmp_path / "out") == []


def test_unwritable_output(scan, weights):
    message = message_of(scan, scan / "out", scale=2, checkpoint=weights)  # below a file: no user can write there
    expect("output folder .* cannot be written", message)


def test_coarser_spacing_is_done_and_said(scan, weights, tmp_path):
    with pytest.warns(UserWarning, match=r"coarser than the input's \[1.0, 1.0, 4.0\] mm along x, y"):
        out = infer(scan, tmp_path / "out", spacing=[2, 2, 1], checkpoint=weights)
    assert nib.load(out / "scan_arssr.nii.gz").shape == (10, 11, 32)


@pytest.mark.parametrize("spacing, said", [((1.0, 1.0, 4.0), False), ((1.0, 1.0, 1.0), False), ((2.0, 2.0, 2.0), True)])
def test_an_oblique_reference_is_called_coarser_only_if_it_is(spacing, said, scan, save_nifti, weights, tmp_path):
    affine = random_affine(np.random.default_rng(3), spacing=spacing)
    affine[:3, 3] = -affine[:3, :3] @ [4, 4, 4]
    reference = save_nifti(np.zeros((8, 8, 8), np.uint8), affine, name="reference.nii.gz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        infer(scan, tmp_path / "out", like=reference, checkpoint=weights)
    assert any("coarser" in str(entry.message) for entry in caught) == said
