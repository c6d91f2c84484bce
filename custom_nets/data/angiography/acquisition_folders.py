"""Rotational acquisitions from the folders of published methods: VPAL and 4DRGS (``transforms.json``), TOGS.

VPAL and 4DRGS hold projections, or mask and fill runs, as NIfTI [column, row, frame] with angles in radians; TOGS holds
8-bit pictures with camera matrices. What these folders say and mean stands in ``docs/4d_dsa.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.views import Acquisition, default_volume
from custom_nets.data.whole_files import DAMAGED, image_array, open_image
from custom_nets.geometry.cone_beam import ConeBeam, circular_trajectory

__all__ = [
    "is_published_folder",
    "is_togs_folder",
    "is_vpal_folder",
    "line_integrals",
    "read_togs_folder",
    "read_vpal_folder",
]

_SAME = 0.01  # two statements of one length may differ by a per cent, as rounded numbers do
_SAY_TIMES = 'say how long the run took by --duration_s 5.5, or all times by --input_times_s "[0, 0.04, ...]"'


def is_vpal_folder(path: Path) -> bool:
    """Whether a folder has the geometry file of VPAL and 4DRGS."""
    return (path / "transforms.json").is_file()


def is_togs_folder(path: Path) -> bool:
    """Whether a folder has the camera file of TOGS."""
    return (path / "transforms_train.json").is_file()


def is_published_folder(path: Path) -> bool:
    """Whether a folder is the acquisition of one of the published methods."""
    return is_vpal_folder(path) or is_togs_folder(path)


def read_vpal_folder(
    folder: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
) -> Acquisition:
    """Read a folder of VPAL or 4DRGS: ``transforms.json`` and ``proj.nii.gz``, or mask and fill runs.

    Args:
        folder: with the files.
        times_s: [N], instead of the times in the file.
        duration_s: of the run from its first to its last frame, where the file has no times; frames are then evenly
            spaced.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: what the file says makes no acquisition; the message says what to do.
    """
    folder = Path(folder)
    path = folder / "transforms.json"
    content, notes = _read_json(path), list[str]()
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path}: 'frames' must be a list with one entry per frame, got {type(frames).__name__}.")
    count = len(frames)
    if "N_views" in content and int(content["N_views"]) != count:
        raise ValueError(f"{path}: N_views is {content['N_views']}, but 'frames' has {count} entries: correct the one.")
    columns, rows = (int(n) for n in _numbers(content, "proj_resolution", 2, path))
    spacing = _numbers(content, "proj_spacing", 2, path)
    shape = tuple(int(n) for n in _numbers(content, "volume_resolution", 3, path))
    volume_spacing = _numbers(content, "volume_spacing", 3, path)
    _same_length(content, "proj_phy", np.array([columns, rows]) * spacing, path)
    _same_length(content, "volume_phy", np.array(shape) * volume_spacing, path)
    sad, sid = (float(_numbers(content, name, 1, path)[0]) for name in ("sad", "sid"))
    offset = _numbers(content, "detector_offset_mm", 2, path) if "detector_offset_mm" in content else np.zeros(2)
    angles = _angles(frames, path)
    projections, weights = _projections(folder, (columns, rows, count))
    try:
        geometry = circular_trajectory(angles, sad, sid, (rows, columns), spacing, offset)
        return Acquisition(
            projections=projections,
            times_s=_times(frames, count, times_s, duration_s, path, notes),
            source_mm=geometry.source_mm,
            panel_mm=geometry.panel_mm,
            column_step_mm=geometry.column_step_mm,
            row_step_mm=geometry.row_step_mm,
            weights=weights,
            volume_shape=shape,  # type: ignore[arg-type]
            volume_spacing_mm=tuple(volume_spacing),
            notes=notes,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def read_togs_folder(
    folder: str | Path,
    times_s: Sequence[float] | NDArray | None = None,
    duration_s: float | None = None,
    mm_per_unit: float = 1000.0,
    voxels: int = 96,
) -> Acquisition:
    """Read a folder of TOGS: ``transforms_train.json``, ``transforms_test.json`` and the 8-bit pictures they name.

    The pictures are grey values on white, which have lost their unit: a pixel becomes its share of darkness, 0 (white)
    to 1 (black), and the acquisition is not quantitative. The camera matrices are those of NeRF: camera to world, the
    camera looks along its -z with y up.

    Args:
        folder: with the files; both lists are joined and put in the order of their times.
        times_s: [N], instead of the times in the file.
        duration_s: the file's times are shares of the run: of how many seconds?
        mm_per_unit: length of the scene's unit. It is said nowhere; metres make a head of plausible size.
        voxels: of the volume along its longest side, which the folder does not say either.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: what the files say makes no acquisition; the message says what to do.
    """
    folder = Path(folder)
    path = folder / "transforms_train.json"
    lists = [_read_json(file) for name in ("train", "test") if (file := folder / f"transforms_{name}.json").is_file()]
    if not lists:
        raise FileNotFoundError(f"{path} does not exist.")
    frames = [frame for content in lists for frame in content.get("frames") or []]
    for key in ("file_path", "transform_matrix", "time"):
        if missing := [k + 1 for k, frame in enumerate(frames) if key not in frame]:
            raise ValueError(f"{path}: frame {missing[0]} has no '{key}'.")
    if duplicates := len(frames) - len({float(frame["time"]) for frame in frames}):
        raise ValueError(f"{path}: {duplicates} frames share their time with another one: each needs its own.")
    frames.sort(key=lambda frame: float(frame["time"]))
    pictures = np.stack([_picture(folder, str(frame["file_path"])) for frame in frames])
    height, width = pictures.shape[1:]
    field = float(_numbers(lists[0], "camera_angle_x", 1, path)[0])
    if field >= np.pi:
        raise ValueError(f"{path}: camera_angle_x must be in radians, below pi, got {field:g}.")
    matrices = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)
    if matrices.shape[1:] != (4, 4) or not np.isfinite(matrices).all():
        raise ValueError(f"{path}: every transform_matrix must be 4 x 4 finite numbers, got {matrices.shape[1:]}.")
    geometry = _camera_geometry(matrices, field, (height, width), mm_per_unit, path)
    shape, spacing = default_volume(geometry, voxels)
    notes = [
        "pictures of 8 bits on white: their darkness has no unit, so that attenuation has none either",
        f"one unit of the scene is taken as {mm_per_unit:g} mm, which no file says",
    ]
    seen = _not_blanked(pictures)
    if not seen.all():
        notes.append(f"rows that are white in all frames do not count ({100 * (1 - seen.mean()):.0f} % of the pixels)")
    shares = np.array([float(frame["time"]) for frame in frames])
    if times_s is None:
        even_times(len(frames), duration_s, path, [])
        times_s = shares * float(duration_s or 1) / (np.ptp(shares) or 1)
        notes.append(f"times are shares of a run of {duration_s:g} s, as given")
    try:
        return Acquisition(
            projections=(1 - pictures / 255).astype(np.float32),
            times_s=np.asarray(times_s) - np.min(times_s),
            source_mm=geometry.source_mm,
            panel_mm=geometry.panel_mm,
            column_step_mm=geometry.column_step_mm,
            row_step_mm=geometry.row_step_mm,
            weights=None if seen.all() else np.broadcast_to(seen, pictures.shape).astype(np.float32),
            volume_shape=shape,
            volume_spacing_mm=spacing,
            quantitative=False,
            notes=notes,
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _camera_geometry(
    matrices: NDArray[np.float64], field_rad: float, shape: tuple[int, int], mm_per_unit: float, path: Path
) -> ConeBeam:
    """Pinhole cameras [N, 4, 4] as source and panel; the panel stands as far behind the isocentre as the source before.

    Only rays count, so where the panel stands on them is free.
    """
    if not 0 < mm_per_unit < np.inf:
        raise ValueError(f"mm_per_unit must be above zero, got {mm_per_unit!r}.")
    source = matrices[:, :3, 3] * mm_per_unit
    right, up, back = (matrices[:, :3, k] for k in range(3))
    reach = 2 * (source * back).sum(1)  # source to panel
    if (reach <= 0).any():
        frame = int(np.flatnonzero(reach <= 0)[0])
        raise ValueError(f"{path}: the camera of frame {frame + 1} looks away from the origin of the scene.")
    pixel = reach * 2 * np.tan(field_rad / 2) / shape[1]
    return ConeBeam(source, source - reach[:, None] * back, pixel[:, None] * right, -pixel[:, None] * up, shape)


def _not_blanked(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[H, W]: all but the white rows at the top and bottom, which the authors' scripts have painted over."""
    rows = np.flatnonzero((pictures < 255).any((0, 2)))
    seen = np.zeros(pictures.shape[1:], dtype=bool)
    seen[rows[0] if rows.size else 0 : rows[-1] + 1 if rows.size else None] = True
    return seen


def _picture(folder: Path, name: str) -> NDArray[np.uint8]:
    """[H, W] of an 8-bit picture with one grey value per pixel; ``name`` may lack its suffix."""
    import cv2

    inside = folder / name
    files = [p for p in (inside, inside.with_name(f"{inside.name}.png")) if p.is_file()]
    if not files:
        raise FileNotFoundError(f"{inside}.png does not exist, but the list of frames in {folder} names it.")
    image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8:
        raise ValueError(f"{files[0]} is damaged or no picture of 8 bits.")
    if image.ndim == 3:
        image = image[..., :3]
        if not (image == image[..., :1]).all():
            raise ValueError(f"{files[0]} is a colour picture with different channels: grey ones are needed.")
        image = image[..., 0]
    return np.ascontiguousarray(image)


def line_integrals(
    mask: NDArray[np.number], fill: NDArray[np.number]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """ln mask - ln fill of linear intensities, and the inverse of its variance 1 / mask + 1 / fill.

    Where an intensity is zero or below (dead pixels, shutters) there is no logarithm: the line integral is 0 and so is
    its weight. Weights are absolute where the intensities are counts, otherwise up to a factor.

    Raises:
        ValueError: more than half of the pixels have no logarithm.
    """
    integrals = np.empty(mask.shape, np.float32)
    weights = np.empty(mask.shape, np.float32)
    for k, (before, after) in enumerate(zip(mask, fill, strict=True)):  # a frame at a time: float64 of all is large
        usable = (before > 0) & (after > 0)
        safe = [np.where(usable, run, 1).astype(np.float64) for run in (before, after)]  # [H, W] each
        integrals[k] = np.log(safe[0]) - np.log(safe[1])
        weights[k] = usable / (1 / safe[0] + 1 / safe[1])
    if (share := float((weights > 0).mean())) < 0.5:
        raise ValueError(
            f"{100 * (1 - share):.0f} % of the pixels of mask and fill run are zero or below: linear intensities are "
            "needed, before the logarithm."
        )
    return integrals, weights


def _projections(folder: Path, shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """[N, H, W] line integrals, of the file or of the two runs; weights where there are runs."""
    found = {name: _nifti_named(folder, name) for name in ("proj", "mask_run", "fill_run")}
    runs = [path for name, path in found.items() if name != "proj" and path is not None]
    if found["proj"] is None and len(runs) < 2:
        raise FileNotFoundError(
            f"{folder}: proj.nii.gz, or mask_run.nii.gz and fill_run.nii.gz, is needed beside transforms.json; "
            f"there is {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}."
        )
    weights = None
    if len(runs) == 2:
        mask, fill = (_read_stack(path, shape) for path in runs)
        try:
            integrals, weights = line_integrals(mask, fill)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
    if found["proj"] is not None:
        integrals = _read_stack(found["proj"], shape)
    return integrals, weights


def _nifti_named(folder: Path, name: str) -> Path | None:
    return next((p for end in (".nii.gz", ".nii") if (p := folder / f"{name}{end}").is_file()), None)


def _read_stack(path: Path, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """NIfTI [column, row, frame] as [N, H, W]; affine and spacing of the file mean nothing."""
    try:
        array = image_array(open_image(path), np.float32, path)
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.shape != shape:
        turned = " (rows and columns are exchanged)" if array.shape == (shape[1], shape[0], shape[2]) else ""
        raise ValueError(
            f"{path} is {array.shape}, but transforms.json says {shape} [column, row, frame]{turned}: correct "
            "proj_resolution or 'frames', or store the file in this order."
        )
    if bad := int(array.size - np.isfinite(array).sum()):
        raise ValueError(f"{path}: {bad} of {array.size} values are NaN or infinite: replace them first.")
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def _angles(frames: Sequence[Mapping[str, Any]], path: Path) -> NDArray[np.float64]:
    """[N] radians."""
    missing = [k + 1 for k, frame in enumerate(frames) if not isinstance(frame.get("PrimaryAngle"), int | float)]
    if missing:
        matrices = " The 'extrinsics' matrices alone are not read." if "extrinsics" in frames[missing[0] - 1] else ""
        raise ValueError(f"{path}: frame {missing[0]} has no PrimaryAngle (a number, radians).{matrices}")
    angles = np.array([float(frame["PrimaryAngle"]) for frame in frames])
    if not np.isfinite(angles).all():
        raise ValueError(f"{path}: PrimaryAngle has NaN or infinite values.")
    if np.ptp(angles) > 2 * np.pi + 0.1:
        raise ValueError(
            f"{path}: PrimaryAngle spans {np.ptp(angles):g} radians, more than a turn: the layout has radians. If "
            "these are degrees, multiply them by pi / 180."
        )
    tilted = [k + 1 for k, frame in enumerate(frames) if float(frame.get("SecondaryAngle") or 0) != 0]
    if tilted:
        raise ValueError(
            f"{path}: frame {tilted[0]} has SecondaryAngle {frames[tilted[0] - 1]['SecondaryAngle']}: its sign is "
            "nowhere defined and the published loaders ignore it. Set it to 0 if the arm turned in one plane, or give "
            "the DICOM runs."
        )
    return angles


def _times(
    frames: Sequence[Mapping[str, Any]],
    count: int,
    times_s: Sequence[float] | NDArray | None,
    duration_s: float | None,
    path: Path,
    notes: list[str],
) -> NDArray[np.float64]:
    """[N] seconds: as given, of the file, or evenly spaced over a given duration."""
    if times_s is not None:
        return np.asarray(times_s, dtype=np.float64)
    stated = [frame.get("time_s") for frame in frames]
    if all(isinstance(t, int | float) for t in stated):
        return np.array(stated, dtype=np.float64)
    if any(t is not None for t in stated):
        first = next(k for k, t in enumerate(stated) if not isinstance(t, int | float))
        raise ValueError(f"{path}: frame {first + 1} has no time_s although others have: {_SAY_TIMES}.")
    return even_times(count, duration_s, path, notes)


def even_times(count: int, duration_s: float | None, path: Path, notes: list[str]) -> NDArray[np.float64]:
    """[count] seconds from 0 to the duration; refused where nobody knows it: an invented clock is worse than none."""
    if duration_s is None:
        raise ValueError(f"{path} says nothing about time: {_SAY_TIMES}.")
    if not 0 < float(duration_s) < np.inf:
        raise ValueError(f"duration_s must be above zero, got {duration_s!r}.")
    notes.append(f"frames are taken as evenly spaced over {float(duration_s):g} s, as given: the files have no times")
    return np.linspace(0, float(duration_s), count)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object with 'frames' is needed, got a {type(content).__name__}.")
    return content


def _numbers(content: Mapping[str, Any], key: str, count: int, path: Path) -> NDArray[np.float64]:
    """``count`` finite numbers; sizes, distances and spacings above zero."""
    try:
        values = np.atleast_1d(np.asarray(content[key], dtype=np.float64))
    except KeyError:
        raise ValueError(f"{path} has no '{key}': the geometry cannot be told without it.") from None
    except (TypeError, ValueError):
        values = np.full(0, np.nan)
    if (
        values.shape != (count,)
        or not np.isfinite(values).all()
        or (key != "detector_offset_mm" and (values <= 0).any())
    ):
        kind = "finite" if key == "detector_offset_mm" else "above zero"
        raise ValueError(f"{path}: '{key}' must be {count} number(s) {kind}, got {content[key]!r}.")
    if key.endswith("_resolution") and (values % 1).any():
        raise ValueError(f"{path}: '{key}' must be whole numbers, got {content[key]!r}.")
    return values


def _same_length(content: Mapping[str, Any], key: str, expected_mm: NDArray[np.float64], path: Path) -> None:
    """Refuse two statements of a length that contradict each other: nobody can say which one is true."""
    if key not in content:
        return
    stated = _numbers(content, key, len(expected_mm), path)
    if (np.abs(stated - expected_mm) > _SAME * expected_mm).any():
        raise ValueError(
            f"{path}: '{key}' is {stated.tolist()} mm, but resolution x spacing is {expected_mm.tolist()} mm: correct "
            "the wrong one."
        )
