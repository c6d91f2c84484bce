"""The simulated acquisition on disk: folder and pair of XA runs are the same scan, and the truth lies beside."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from custom_nets.apps.simulate_acquisition import main, write_phantom
from custom_nets.data.angiography.acquisition_reader import read_acquisition
from custom_nets.data.angiography.acquisition_writer import write_xa_run
from custom_nets.operators.cone_beam import ConeBeamOperator, sart
from custom_nets.simulation.phantom import PhantomSettings, VesselFlowPhantom
from tests.tools.xa_writer import validator_errors

SMALL = PhantomSettings(
    frames=10, size=(26, 30), pixel_mm=4.0, volume_shape=(20, 20, 20), voxel_mm=3.0, smallest_radius_mm=0.9, counts=5e4
)
GEOMETRY = ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")


@pytest.mark.parametrize("relationship", ["LIN", "LOG"])
def test_the_pair_of_runs_is_the_folder(tmp_path, relationship):
    phantom = VesselFlowPhantom(2, SMALL)
    folder = write_phantom(phantom, tmp_path / "scan", xa=relationship)
    scan = read_acquisition(folder)
    pair = read_acquisition(folder / "xa", volume_shape=SMALL.volume_shape, voxel_mm=SMALL.voxel_mm)
    assert scan.weights is not None and pair.weights is not None
    np.testing.assert_allclose(pair.projections, scan.projections, atol=1e-6)
    np.testing.assert_allclose(pair.weights, scan.weights, rtol=1e-4)
    np.testing.assert_allclose(pair.times_s, scan.times_s, atol=1e-12)
    for name in GEOMETRY:
        np.testing.assert_allclose(getattr(pair, name), getattr(scan, name), atol=1e-9)
    np.testing.assert_array_equal(pair.affine_ras(), scan.affine_ras())
    for run in ("mask", "fill"):
        assert validator_errors(folder / "xa" / f"{run}.dcm") == []


def test_the_scan_is_that_of_the_phantom_and_its_truth_lies_beside(tmp_path):
    phantom = VesselFlowPhantom(2, replace(SMALL, counts=np.inf, offset_mm=(3.0, -5.0)))
    folder = write_phantom(phantom, tmp_path / "scan")
    scan, direct = read_acquisition(folder), phantom.acquisition()
    for name in ("projections", "times_s", *GEOMETRY):
        np.testing.assert_allclose(getattr(scan, name), getattr(direct, name), atol=1e-9)
    assert sorted(p.name for p in folder.iterdir()) == ["proj.nii.gz", "transforms.json", "truth"]
    times = json.loads((folder / "truth" / "truth.json").read_text())["times_s"]
    truth = nib.load(folder / "truth" / "4d.nii.gz")
    np.testing.assert_allclose(truth.affine, scan.affine_ras())
    np.testing.assert_allclose(truth.dataobj[..., 5], phantom.volume(times[5]), atol=1e-7)
    arrival = np.asarray(nib.load(folder / "truth" / "arrival.nii.gz").dataobj)
    np.testing.assert_array_equal(np.isnan(arrival), phantom.coverage == 0)


def test_mask_and_fill_with_different_first_angles(tmp_path):
    phantom = VesselFlowPhantom(2, replace(SMALL, counts=np.inf))
    s, angles = phantom.settings, phantom.angles_rad
    masks = np.linspace(angles.min() - 0.05, angles.max() + 0.1, 60)
    mask, fill = phantom.exposures(masks)
    turn = {"sad_mm": s.sad_mm, "sid_mm": s.sid_mm, "spacing_mm": (s.pixel_mm,) * 2}
    files = [
        write_xa_run(
            tmp_path / f"{name}.dcm", frames[:, :, ::-1], primary_deg=np.rad2deg(a) - 90, times_s=t, **turn
        )
        for name, frames, a, t in (
            ("mask", mask, masks, np.arange(60) / 30), ("fill", fill, angles, phantom.times_s)
        )
    ]  # fmt: skip
    scan = read_acquisition(files[1], files[0])
    np.testing.assert_allclose(scan.projections, phantom.projections, atol=2e-3)
    assert len(scan) == s.frames


def test_command(tmp_path, capsys):
    options = "--frames 8 --size 20 24 --pixel_mm 5 --voxels 16 --voxel_mm 4 --noise none --pathologies aneurysm"
    main([str(tmp_path / "scan"), *options.split(), "--seed", "3", "--no_veins"])
    assert "8 frames of 20 x 24" in capsys.readouterr().out
    main([str(tmp_path / "scan"), *options.split()])  # its own folder is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(SystemExit, match="not written by this program"):
        main([str(tmp_path / "mine"), *options.split()])
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(SystemExit, match="2 frames or more"):
        main([str(tmp_path / "other"), "--frames", "1"])
    assert not (tmp_path / "other").exists()


def test_folder_and_runs_make_the_same_volume(tmp_path):
    folder = write_phantom(VesselFlowPhantom(2, SMALL), tmp_path / "scan", xa="LOG")
    pair = read_acquisition(folder / "xa", volume_shape=SMALL.volume_shape, voxel_mm=SMALL.voxel_mm)
    volumes = [
        sart(ConeBeamOperator.of(scan), torch.from_numpy(scan.projections), sweeps=2)
        for scan in (read_acquisition(folder), pair)
    ]
    assert float(volumes[0].max()) > 0.005
    assert float((volumes[1] - volumes[0]).norm() / volumes[0].norm()) < 1e-4
