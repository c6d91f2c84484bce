"""NIfTI (and MGH) volumes in and NIfTI out, with the header's geometry exact."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.nifti_header import units_of
from custom_nets.data.whole_files import DAMAGED, image_array, open_image
from custom_nets.utils.files import check_writable, new_file

__all__ = ["check_no_labels", "is_our_nifti", "largest_distance", "read_nifti", "write_nifti"]

logger = logging.getLogger(__name__)

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
_WRITER = b"custom_nets"
_SECONDS_PER_UNIT = {"msec": 1e-3, "usec": 1e-6}
_LABELS = (1002, 1003, 2002)  # NIFTI_INTENT_LABEL, NEURONAME, NODE_INDEX
_COMPONENTS = (*range(1004, 1011), 2003, 2004)  # matrices, vectors, quaternions, colours
_SAME_SPACING = 0.01  # share by which voxel size and affine may differ
_SAME_PLACE_MM = 1e-3  # a qform and a sform that differ by more somewhere in the volume are two geometries
_ROUNDING_MM = 0.1  # a shear of no more over the whole volume is rounding, not a geometry


def read_nifti(
    path: str | Path, memory_gb: float | None = None, values: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float64], dict[str, Any]]:
    """Read what nibabel reads: NIfTI (.nii, .nii.gz, .nii.bz2, .hdr/.img), MGH (.mgz, .mgh), ...

    Compressed files are read to their checksum, and the length of all is compared with that of the header.

    Args:
        path: of the file.
        memory_gb: what reading it and a working copy may take, in GiB, asked before any voxel is read.
        values: False reads the header only; the array is then zero everywhere and takes no memory.

    Returns:
        The array [x, y, z] or [x, y, z, t], float32 with slope and intercept applied; the affine (4, 4), index -> mm,
        RAS (the sform, or the qform where there is no sform); plain values: ``original_dtype``, ``qform_code``,
        ``sform_code``, ``time_step_s`` (4D) and ``geometry_note`` if something about the header is unusual.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, damaged, colour or several components per voxel, voxels of zero size, more than the
            memory.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        image = open_image(path)
        dtype = image.get_data_dtype()
        zero = np.broadcast_to(np.float32(0), image.shape)
        array = image_array(image, np.float32, path, memory_gb) if values else zero
        if image.affine is None:
            raise ValueError("it has no affine")
    except DAMAGED as error:
        raise ValueError(
            f"{path} cannot be read as an image volume: {_one_line(error)}. A whole NIfTI or MGH file is needed, or a "
            "DICOM series."
        ) from error

    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    intent = _intent(image)
    if array.ndim > 4 or (array.ndim == 4 and intent in _COMPONENTS):
        raise ValueError(
            f"{path} has several components per voxel (shape {array.shape}); one grey value per voxel, or 4D with time "
            "as the fourth axis, is needed."
        )
    affine, meta = _geometry(path, image, array.shape)
    if note := "; ".join(filter(None, [image.extra.get("note"), _scaling_note(image)])):
        logger.warning("%s: %s", path, note)
        meta["notes"] = note
    if intent in _LABELS:
        meta["labels"] = True
    meta["original_dtype"] = str(np.dtype(dtype).newbyteorder("="))
    return array, affine, meta


def check_no_labels(path: str | Path, meta: dict[str, Any]) -> None:
    """Refuse what a header calls labels: there is nothing between two numbers of tissues.

    Args:
        meta: of :func:`read_nifti`.

    Raises:
        ValueError: names the file.
    """
    if meta.get("labels"):
        raise ValueError(
            f"{path} is a map of labels by its header (intent code), no intensities: give the scan itself, or set its "
            "intent code to 0 if it is one."
        )


def _intent(image: Any) -> int:
    """NIfTI's intent code; 0 (none) where there is none."""
    from nibabel.nifti1 import Nifti1Header

    return int(image.header["intent_code"]) if isinstance(image.header, Nifti1Header) else 0


def _scaling_note(image: Any) -> str:
    """What to say of a slope that is none (NaN and 0 say that there is no scaling)."""
    from nibabel.nifti1 import Nifti1Pair

    if not isinstance(image, Nifti1Pair):
        return ""
    slope = float(_stored_header(image)["scl_slope"])
    return f"the header's scl_slope is {slope:g}: values are taken as stored" if np.isinf(slope) else ""


def _stored_header(image: Any) -> Any:
    """A NIfTI header as it stands in the file; nibabel repairs its own."""
    with image.file_map.get("header", image.file_map["image"]).get_prepare_fileobj("rb") as file:
        return type(image.header).from_fileobj(file, check=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _geometry(path: str | Path, image: Any, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], dict[str, Any]]:
    header, affine = image.header, np.array(image.affine, dtype=np.float64)
    meta: dict[str, Any] = {}
    note = ""
    if hasattr(header, "get_xyzt_units"):
        length, time = units_of(header)
        meta["qform_code"], meta["sform_code"] = int(header["qform_code"]), int(header["sform_code"])
        if meta["sform_code"] == 0:
            _check_stored_spacing(path, image)
        if meta["qform_code"] == 0 and meta["sform_code"] == 0:
            note = "the header has no orientation (qform and sform code 0); axes taken as left-posterior-superior"
        elif meta["qform_code"] and meta["sform_code"]:
            try:
                apart = largest_distance(affine, header.get_qform(), shape[:3])
            except ValueError:  # an invalid quaternion or voxel size
                apart = float("inf")
            if apart > _SAME_PLACE_MM:
                # the output has one geometry, the sform's, so its code is the true one for both
                note = f"qform and sform differ by up to {apart:.3g} mm; the sform is used"
                meta["qform_code"] = meta["sform_code"]
        affine[:3] *= _MM_PER_UNIT.get(length, 1.0)
        if len(shape) == 4:
            meta["time_step_s"] = float(header["pixdim"][4]) * _SECONDS_PER_UNIT.get(time, 1.0)
    elif not hasattr(header, "get_vox2ras"):
        note = f"{type(image).__name__} may hold no orientation"
    if hasattr(header, "get_xyzt_units"):
        note = "; ".join(filter(None, [note, _spacing_note(image)]))
    if note:
        logger.warning("%s: %s", path, note)
        meta["geometry_note"] = note
    return affine, meta


def _spacing_note(image: Any) -> str:
    """What to say of stored voxel sizes that the affine does not have."""
    stored = np.asarray(_stored_header(image)["pixdim"][1:4], dtype=np.float64)
    counts = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    told, taken = (" x ".join(f"{v:.4g}" for v in sizes) for sizes in (stored, counts))
    if not image.header["sform_code"]:
        return f"voxel sizes are stored as {told}: their signs mean nothing" if (stored < 0).any() else ""
    # zeros, as some tools leave there, say nothing
    if stored.all() and (np.abs(np.abs(stored) - counts) > _SAME_SPACING * counts).any():
        return f"pixdim says voxels of {told}, and the sform {taken}: the sform counts"
    return ""


def _check_stored_spacing(path: str | Path, image: Any) -> None:
    """nibabel takes a stored voxel size of 0 for 1 mm: where the affine rests on it, look at the file itself."""
    stored = _stored_header(image)["pixdim"][1:4]
    if not (np.abs(stored) > 0).all():
        raise ValueError(f"{path} has voxels of {' x '.join(f'{v:g}' for v in stored)} mm: repair the header first.")


def largest_distance(a: NDArray[np.float64], b: NDArray[np.float64] | None, shape: tuple[int, ...]) -> float:
    """How far apart (mm) two affines put the same voxel, over a volume of this shape."""
    if b is None:
        return float("inf")
    corners = np.array([[*index, 1] for index in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in shape), 1]
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())


def write_nifti(
    path: str | Path,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    qform_code: int = 1,
    sform_code: int = 1,
    time_step_s: float | None = 1.0,
    first_time_s: float = 0.0,
) -> Path:
    """Write float32 NIfTI-1 under a temporary name beside ``path``, then rename: never a partial file.

    Both the qform and the sform hold ``affine``, units are mm and seconds. A quaternion cannot hold a sheared affine:
    where it would put a voxel more than 0.1 mm elsewhere, the qform code is 0 and the sform alone holds. (Below that,
    both are written: ITK refuses a file whose only geometry is sheared, be it by rounding.)

    Args:
        path: ends in .nii or .nii.gz.
        array: [x, y, z] or [x, y, z, t].
        affine: (4, 4) index -> mm, RAS.
        qform_code, sform_code: NIfTI codes; a 0 is replaced by the other one, or by 1 (scanner).
        time_step_s: of the fourth axis; None: it is uneven, and the header says no unit of time.
        first_time_s: of the fourth axis.

    Raises:
        OSError: the file cannot be written.
    """
    import nibabel as nib

    path = Path(path)
    sform_code, qform_code = sform_code or qform_code or 1, qform_code or sform_code or 1
    image = nib.Nifti1Image(np.asarray(array, dtype=np.float32), affine)
    image.set_qform(affine, qform_code)
    _refine_quaternion(image.header, affine)
    if largest_distance(affine, image.header.get_qform(), array.shape[:3]) > _ROUNDING_MM:
        image.set_qform(None, 0)
    image.set_sform(affine, sform_code)
    image.header.set_xyzt_units("mm", "unknown" if time_step_s is None else "sec")
    if array.ndim == 4:
        image.header["pixdim"][4] = 1.0 if time_step_s is None else time_step_s
        image.header["toffset"] = first_time_s
    image.header["descrip"] = _WRITER

    check_writable(path.parent)
    try:
        with new_file(path) as part:
            nib.save(image, part.absolute())  # nibabel takes "~" for a home folder
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}.") from error
    return path


def is_our_nifti(path: str | Path) -> bool:
    """Whether a file is one that :func:`write_nifti` wrote."""
    try:
        return open_image(path).header["descrip"].item().startswith(_WRITER)
    except DAMAGED:
        return False


def _refine_quaternion(header: Any, affine: NDArray[np.float64]) -> None:
    """Choose the float32 quaternion in the header that comes back closest.

    NIfTI stores b, c, d and readers take a = sqrt(1 - b^2 - c^2 - d^2), which loses all digits near a half turn, as
    an axial DICOM slice is in RAS: rounding moves voxels by some 0.02 mm. Among neighbours of the rounded values some
    give the right a.
    """
    from nibabel.quaternions import mat2quat

    rotation = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    rotation[:, 2] *= np.sign(np.linalg.det(rotation))
    a, *bcd = mat2quat(rotation)
    shifts = np.random.default_rng(0).uniform(-1e-6, 1e-6, (4096, 3))
    candidates = (np.vstack([np.zeros(3), shifts]) + bcd).astype(np.float32).astype(np.float64)
    squared = 1 - (candidates**2).sum(1)
    error = np.abs(candidates - bcd).max(1)
    for zero_below in (1e-7, 4e-7):  # readers differ in what they take for zero: nifti_clib, nibabel
        error = np.maximum(error, np.abs(np.sqrt(np.where(squared < zero_below, 0, squared)) - a))
    error[squared < -1e-7] = np.inf
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = candidates[error.argmin()]
