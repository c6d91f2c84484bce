"""NIfTI headers that are right in all but a rounding or a zero, read as they were meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_image", "units_of"]

_LONGER = 1e-4  # how far above 1 the length of a quaternion still is rounding


def load_image(path: str | Path, **options: Any) -> Any:
    """``nibabel.load``, which also takes a quaternion that rounding made longer than 1, and a fourth dimension of 0.

    Args:
        options: of ``nibabel.load``.

    Returns:
        The image, its voxels not read yet; ``image.extra["note"]`` says what of the header was taken otherwise than it
        stands there.

    Raises:
        ValueError, nibabel's own: no image.
    """
    import nibabel as nib

    path = os.path.abspath(path)  # nibabel takes "~" for a home folder, also where a folder is called so
    try:
        image: Any = nib.load(path, **options)
        if 0 not in getattr(image, "shape", (1,))[3:]:
            return image
    except ValueError as error:
        if "w2 should be positive" not in str(error):
            raise
    return _repaired(Path(path))


def units_of(header: Any) -> tuple[str, str]:
    """Units of length and time as nibabel names them; "unknown" also for a code that does not exist."""
    try:
        length, time = header.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"
    return length, time


def _repaired(path: Path) -> Any:
    import nibabel as nib
    from nibabel.arrayproxy import ArrayProxy

    kind = next(k for k in nib.all_image_classes if issubclass(k, nib.Nifti1Pair) and k.path_maybe_image(path)[0])
    files = kind.filespec_to_file_map(path)
    with files.get("header", files["image"]).get_prepare_fileobj("rb") as stream:
        header = kind.header_class.from_fileobj(stream, check=False)
    notes = []
    count = int(header["dim"][0])
    if count > 3 and (empty := header["dim"][4 : count + 1] == 0).any():
        header["dim"][4 : count + 1][empty] = 1
        notes.append("the header has 0 voxels along a dimension beyond the third: taken as 1")
    quaternion = np.array([header[f"quatern_{name}"] for name in "bcd"], dtype=np.float64)
    length = float(np.linalg.norm(quaternion))
    if length > 1:
        if not length < 1 + _LONGER:
            raise ValueError(f"the quaternion of its orientation is {length:g} long, 1 is the most: repair the header")
        for name, value in zip("bcd", quaternion / length, strict=True):
            header[f"quatern_{name}"] = value * (1 - np.finfo(np.float32).eps)
        notes.append(f"the quaternion of the orientation is {length - 1:.1e} longer than 1: taken as rounding")
    slope, inter = header.get_slope_inter()
    scaling = (1.0 if slope is None else slope, 0.0 if inter is None else inter)
    spec = (header.get_data_shape(), header.get_data_dtype(), header.get_data_offset(), *scaling)
    proxy = ArrayProxy(files["image"].filename, spec, mmap=False)
    return kind(proxy, header.get_best_affine(), header, extra={"note": "; ".join(notes)}, file_map=files)
