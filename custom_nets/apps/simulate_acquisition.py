"""Write a simulated rotational DSA whose 4D truth is known: the public folder layout, and a pair of XA runs.

    python -m custom_nets.apps.simulate_acquisition FOLDER --seed 1 --noise moderate
    python -m custom_nets.apps.simulate_acquisition FOLDER --pathologies aneurysm stenosis --xa LIN

The folder gets ``transforms.json`` and ``proj.nii.gz`` (with noise also ``mask_run.nii.gz`` and ``fill_run.nii.gz``);
in ``truth/`` lie the volume over time, its mean over all frames, the coverage of voxels by vessel, the arrival map, and
``truth.json`` with times and settings. ``--xa`` adds ``xa/mask.dcm`` and ``xa/fill.dcm`` of the same exposures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from custom_nets.data.angiography.acquisition_folders import line_integrals
from custom_nets.data.angiography.acquisition_writer import (
    as_logarithms,
    from_logarithms,
    write_vpal_files,
    write_xa_run,
)
from custom_nets.data.angiography.views import volume_affine_ras
from custom_nets.data.volumes.nifti import write_nifti
from custom_nets.simulation.phantom import NOISE, PATHOLOGIES, VESSELS, PhantomSettings, VesselFlowPhantom
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import new_folder, write_json

__all__ = ["write_phantom"]

_TRUTH_TIMES = 12


def write_phantom(phantom: VesselFlowPhantom, folder: str | Path, xa: str | None = None) -> Path:
    """Write a phantom; the folder appears whole or not at all.

    Args:
        phantom: to write.
        folder: must not be there yet, or be one that this function wrote.
        xa: ``"LIN"`` or ``"LOG"``: write the two runs as XA DICOM, too. The projections are then those of the digitised
            runs also where there is no noise.

    Returns:
        The folder.

    Raises:
        OSError: the folder is there and holds something else, or cannot be written.
    """
    folder, s = Path(folder), phantom.settings
    if folder.exists() and any(folder.iterdir()) and not (folder / "truth" / "truth.json").is_file():
        raise OSError(f"{folder} is there already and was not written by this program: choose another folder.")
    turn: dict[str, Any] = {"sad_mm": s.sad_mm, "sid_mm": s.sid_mm, "spacing_mm": (s.pixel_mm,) * 2}
    with new_folder(folder) as part:
        if np.isfinite(s.counts) or xa:
            mask, fill = phantom.exposures()
            linear = [from_logarithms(as_logarithms(run)) for run in (mask, fill)] if xa == "LOG" else [mask, fill]
            stacks = {"proj": line_integrals(*linear)[0], "mask_run": linear[0], "fill_run": linear[1]}
        else:
            stacks = {"proj": phantom.projections}
        write_vpal_files(
            part, stacks, angles_rad=phantom.angles_rad, times_s=phantom.times_s, **turn, offset_mm=s.offset_mm,
            volume_shape=s.volume_shape, volume_spacing_mm=(s.voxel_mm,) * 3,
        )  # fmt: skip
        if xa:
            (part / "xa").mkdir()
            for number, (name, frames) in enumerate((("mask", mask), ("fill", fill)), 1):
                write_xa_run(
                    part / "xa" / f"{name}.dcm", frames[:, :, ::-1], primary_deg=np.rad2deg(phantom.angles_rad) - 90,
                    times_s=phantom.times_s, **turn, relationship=xa, series_number=number,
                    description=f"{name} run, seed {phantom.seed}",
                )  # fmt: skip
        _write_truth(phantom, part / "truth")
    return folder


def _write_truth(phantom: VesselFlowPhantom, folder: Path) -> None:
    s = phantom.settings
    affine = volume_affine_ras(s.volume_shape, (s.voxel_mm,) * 3)
    times = np.linspace(0, s.duration_s, _TRUTH_TIMES)
    folder.mkdir()
    volumes = {
        "4d": np.moveaxis(phantom.volumes(times), 0, -1),
        "volume": phantom.mean_volume,
        "coverage": phantom.coverage,
        "arrival": phantom.arrival_s,
    }
    for name, array in volumes.items():
        write_nifti(folder / f"{name}.nii.gz", array, affine, time_step_s=float(times[1]))
    write_json(folder / "truth.json", {"seed": phantom.seed, "times_s": times, "settings": asdict(s)})


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.apps.simulate_acquisition FOLDER``"""
    standard = PhantomSettings()
    parser = CommandParser(prog="python -m custom_nets.apps.simulate_acquisition", description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0, help="of vessels, bolus, turn and noise")
    parser.add_argument("--noise", choices=tuple(NOISE), default="moderate", help="of two exposures")
    parser.add_argument("--pathologies", nargs="*", default=[], choices=PATHOLOGIES)
    parser.add_argument("--vessels", choices=VESSELS, default=standard.vessels, help="how trees grow and blood flows")
    parser.add_argument("--frames", type=int, default=standard.frames)
    parser.add_argument("--duration_s", type=float, default=standard.duration_s)
    parser.add_argument("--arc_deg", type=float, default=standard.arc_deg)
    parser.add_argument("--size", type=int, nargs=2, default=standard.size, metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--pixel_mm", type=float, default=standard.pixel_mm, help="at the panel")
    parser.add_argument("--sad_mm", type=float, default=standard.sad_mm, help="source to isocentre")
    parser.add_argument("--sid_mm", type=float, default=standard.sid_mm, help="source to panel")
    parser.add_argument("--voxels", type=int, default=standard.volume_shape[0], help="along each edge of the volume")
    parser.add_argument("--voxel_mm", type=float, default=standard.voxel_mm)
    parser.add_argument("--no_veins", action="store_true")
    parser.add_argument("--xa", choices=("LIN", "LOG"), help="write mask and fill run as XA DICOM, too")
    options = parser.parse_args(arguments)
    try:
        settings = PhantomSettings(
            frames=options.frames, duration_s=options.duration_s, arc_deg=options.arc_deg, size=tuple(options.size),
            pixel_mm=options.pixel_mm, sad_mm=options.sad_mm, sid_mm=options.sid_mm,
            volume_shape=(options.voxels,) * 3, voxel_mm=options.voxel_mm, vessels=options.vessels,
            veins=not options.no_veins, pathologies=tuple(options.pathologies), counts=NOISE[options.noise],
        )  # fmt: skip
        folder = write_phantom(VesselFlowPhantom(options.seed, settings), options.folder, options.xa)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{folder}: {settings.frames} frames of {settings.size[0]} x {settings.size[1]}, noise {options.noise}")


if __name__ == "__main__":
    main()
