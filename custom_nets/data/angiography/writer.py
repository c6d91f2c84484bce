"""Writing runs: DICOM, NIfTI, NPZ, pictures, and films for looking; whole or not at all, with a list of the frames."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.file_readers import SIDE_FILE, side_file
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.utils.files import check_writable, new_file, new_folder, to_jsonable, write_json

__all__ = ["RUN_FORMATS", "check_format", "default_format", "run_path", "run_summary", "write_run"]

RUN_FORMATS = {"dicom": ".dcm", "nifti": ".nii.gz", "npz": ".npz", "png": "", "mp4": ".mp4", "gif": ".gif"}
_FILM_FPS = 30


def run_path(folder: str | Path, name: str, format: str) -> Path:
    """The file (for pictures: the folder) that a run called ``name`` is written to."""
    if format not in RUN_FORMATS:
        raise ValueError(f"output format must be one of {', '.join(RUN_FORMATS)}, got {format!r}.")
    return Path(folder) / f"{name}{RUN_FORMATS[format]}"


def default_format(run: AngiographyRun) -> str:
    """The format that a run came in; NPZ for one that was never a file."""
    return run.origin.format if run.origin.format in RUN_FORMATS else "npz"


def check_format(run: AngiographyRun, format: str) -> None:
    """Refuse a format that cannot hold a run without loss: better before hours of work than after.

    Raises:
        ValueError: the message names what can.
    """
    whole = np.issubdtype(run.frames.dtype, np.integer)
    if format == "dicom" and not run.has_times:
        raise ValueError(
            f"{run.origin.path}: the times of the frames are not known, but DICOM needs them: give --input_fps or "
            "--input_times_s, or another --output_format."
        )
    new = format == "png" or (format == "dicom" and run.origin.dataset is None)
    if new and whole and (lowest := int(run.frames.min())) < 0:
        raise ValueError(
            f"{run.origin.path} has values down to {lowest}, which {format} cannot hold without loss: give "
            "--output_format nifti or npz."
        )
    if format == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError("mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg, or choose gif.")
    if format in ("dicom", "png") and not whole:
        raise ValueError(
            f"{run.origin.path} has {run.frames.dtype} frames, which {format} cannot hold without loss: give "
            "--output_format nifti or npz."
        )


def write_run(
    run: AngiographyRun,
    path: str | Path,
    format: str | None = None,
    *,
    made_by: str = "custom_nets",
    description: str = "",
    mark_synthetic: bool = True,
) -> Path:
    """Write a run, and beside it (in a folder of pictures: within) ``frames.json`` with times and made frames.

    ``dicom``: derived XA, see :func:`custom_nets.data.angiography.xa_writer.derived_dataset`. ``nifti``: [x, y, 1,
    frame] in the stored type; uneven times are in the JSON only, the header then has no unit of time. ``npz``:
    ``frames``, ``times_s``, ``synthetic``. ``png``: a folder ``frame_0001.png``, ..., 8 or 16 bits as stored. ``mp4``,
    ``gif``: for looking only, 8 bits, in real time.

    Args:
        path: of the file or folder, as :func:`run_path` makes it; a missing suffix is added.
        format: None: the one that the run came in.
        made_by, description: for DICOM.
        mark_synthetic: films show a small square in the upper left corner of made frames.

    Returns:
        The path written.

    Raises:
        ValueError: the format cannot hold the run without loss (float or negative values as pictures or DICOM), or an
            unknown one.
        OSError: it cannot be written.
    """
    format = format or default_format(run)
    if format not in RUN_FORMATS:
        raise ValueError(f"output format must be one of {', '.join(RUN_FORMATS)}, got {format!r}.")
    path = Path(path)
    suffix = RUN_FORMATS[format]
    if suffix and not path.name.lower().endswith((suffix, ".nii") if format == "nifti" else suffix):
        path = path.with_name(path.name + suffix)
    check_writable(path.parent)
    if format == "png":
        _write_pictures(run, path)
    else:
        write: dict[str, Callable[[Path], None]] = {
            "dicom": lambda target: _write_dicom(run, target, made_by, description),
            "nifti": lambda target: _write_nifti(run, target),
            "npz": lambda target: _write_npz(run, target),
            "mp4": lambda target: _write_film(run, target, mark_synthetic),
            "gif": lambda target: _write_gif(run, target, mark_synthetic),
        }
        try:
            with new_file(path) as part:
                write[format](part)
                # first: a run without its list of frames is taken for the work of somebody else
                write_json(side_file(path), _shared_summary(run))
        except OSError as error:
            raise OSError(f"{path} could not be written: {error.strerror or error}.") from error
    return path


def run_summary(run: AngiographyRun) -> dict[str, Any]:
    """Plain facts about a run: what ``frames.json`` holds. Frame numbers count from 1."""
    return to_jsonable(
        {
            "frames": len(run),
            "has_times": run.has_times,
            "times_s": [round(float(time), 9) for time in run.times_s],
            "synthetic": run.synthetic.tolist(),
            "synthetic_frames": (np.flatnonzero(run.synthetic) + 1).tolist(),
            "source_frames": [int(index) + 1 if index >= 0 else None for index in run.source_index],
            "mask_frames": [index + 1 for index in run.mask_frames],
            "primary_angles_deg": None if run.geometry.primary_deg is None else run.geometry.primary_deg,
            "secondary_angles_deg": None if run.geometry.secondary_deg is None else run.geometry.secondary_deg,
            "size": list(run.size),
            "dtype": str(run.frames.dtype),
            "source": run.origin.path,
            "notes": list(run.origin.notes),
        }
    )


def _shared_summary(run: AngiographyRun) -> dict[str, Any]:
    """As it goes beside the result: the name of the source, but not its folder."""
    path, summary = run.origin.path, run_summary(run)
    notes = [note.replace(path, Path(path).name) if path else note for note in summary["notes"]]
    return {**summary, "source": Path(path).name if path else path, "notes": notes}


def _write_dicom(run: AngiographyRun, path: Path, made_by: str, description: str) -> None:
    from custom_nets.data.angiography.xa_writer import derived_dataset, save_dataset

    save_dataset(derived_dataset(run, made_by, description), path)


def _write_nifti(run: AngiographyRun, path: Path) -> None:
    import nibabel as nib

    frames = run.frames.transpose(2, 1, 0)[:, :, None, :]
    spacing = run.geometry.pixel_spacing_mm or (1.0, 1.0)
    affine = run.origin.meta.get("affine")
    image = nib.Nifti1Image(frames, np.diag([spacing[1], spacing[0], 1.0, 1.0]) if affine is None else affine)
    # one time step is all that NIfTI can say: of an uneven run it says nothing, which is better than something wrong
    steps = np.diff(run.times_s)
    even = run.has_times and bool(np.allclose(steps, steps[0], rtol=1e-3, atol=1e-6))
    image.header.set_xyzt_units("mm", "sec" if even else "unknown")
    image.header["pixdim"][4] = float(steps.mean()) if even else 1.0
    image.header["descrip"] = b"custom_nets"
    nib.save(image, Path(path).absolute())  # nibabel takes "~" for a home folder


def _write_npz(run: AngiographyRun, path: Path) -> None:
    arrays: dict[str, Any] = {"frames": run.frames, "synthetic": run.synthetic}
    if run.has_times:
        arrays["times_s"] = run.times_s
    with open(path, "wb") as file:  # NumPy would add a suffix to a path
        np.savez_compressed(file, **arrays)


def _write_pictures(run: AngiographyRun, folder: Path) -> None:
    import cv2

    frames = run.frames
    if frames.dtype not in (np.uint8, np.uint16):
        if frames.dtype == np.float32 or int(frames.min()) < 0:
            raise ValueError(
                f"{frames.dtype} frames with values from {frames.min():g} cannot be PNG without loss: choose nifti or "
                "npz as output format."
            )
        frames = frames.view(np.uint8 if frames.dtype == np.int8 else np.uint16)
    if folder.exists() and not ((folder / SIDE_FILE).is_file() or not any(folder.iterdir())):
        raise OSError(f"{folder} is there already and was not written by this program: choose another output folder.")
    with new_folder(folder) as part:
        digits = max(4, len(str(len(frames))))
        for number, frame in enumerate(frames, 1):
            if not cv2.imwrite(str(part / f"frame_{number:0{digits}d}.png"), frame):
                raise OSError(f"{folder} could not be written.")
        write_json(part / SIDE_FILE, _shared_summary(run))


def _shown(run: AngiographyRun, mark: bool) -> Iterator[NDArray[np.uint8]]:
    """Frames as 8-bit pictures of even size (video codecs want that)."""
    height, width = (n - n % 2 for n in run.size)
    side = max(4, height // 40)
    for index in range(len(run)):
        picture = np.rint(np.clip(run.normalize(index)[0, :height, :width], 0, 1) * 255).astype(np.uint8)
        if mark and run.synthetic[index]:
            picture[side : 2 * side, side : 2 * side] = 255
            picture[side + 1 : 2 * side - 1, side + 1 : 2 * side - 1] = 0
        yield picture


def _durations(run: AngiographyRun) -> NDArray[np.float64]:
    """Seconds that each frame is shown; a frame without a time is shown for a quarter of a second."""
    steps = np.diff(run.times_s) if run.has_times else np.full(len(run) - 1, 0.25)
    return np.append(steps, np.median(steps))


def _write_film(run: AngiographyRun, path: Path, mark: bool) -> None:
    """Frames are repeated at a fixed rate, so that uneven times play true to within 1/30 s."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise ValueError("mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg, or choose gif.") from error

    height, width = (n - n % 2 for n in run.size)
    ends = np.rint(np.cumsum(_durations(run)) * _FILM_FPS).astype(int)
    repeats = np.maximum(np.diff(ends, prepend=0), 1)
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), pix_fmt_in="gray", fps=_FILM_FPS, macro_block_size=2, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for picture, repeat in zip(_shown(run, mark), repeats, strict=True):
            for _ in range(int(repeat)):
                writer.send(picture.tobytes())
    finally:
        writer.close()


def _write_gif(run: AngiographyRun, path: Path, mark: bool) -> None:
    from PIL import Image

    first, *others = [Image.fromarray(picture) for picture in _shown(run, mark)]
    times = [max(20, int(10 * round(100 * seconds))) for seconds in _durations(run)]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=times, loop=0)
