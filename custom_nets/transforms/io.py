"""Volumes from files to ``MetaTensor`` and back, checked on the way in and never half written on the way out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from custom_nets.data.dicom_series import holds_dicom, is_dicom_file, load_series
from custom_nets.data.nifti import check_writable, read_nifti, write_nifti
from custom_nets.data.volumes import case_name

__all__ = ["LoadVolumed", "SaveVolumed", "check_writable", "load_volume"]


def load_volume(
    path: str | Path, series_uid: str | None = None, allow_irregular: bool = False, check_values: bool = True
) -> MetaTensor:
    """Read a NIfTI or MGH file, or a DICOM series (its folder, or one file of it).

    The voxel order is the file's: nothing is flipped or resampled.

    Args:
        path: what to read.
        series_uid: SeriesInstanceUID to take from a DICOM folder with several series.
        allow_irregular: accept a DICOM series with slices off a regular grid by more than 10 % of their distance.
        check_values: refuse NaN, infinite and constant volumes (False for label maps and masks).

    Returns:
        [C, x, y, z] float32 in the file's units (slope and intercept applied), C = time points (1 for 3D); ``affine``
        (4, 4) float64, index -> mm, RAS. ``meta`` has plain values only: ``filename_or_obj``, ``original_dtype``,
        and, where they exist, ``qform_code``, ``sform_code``, ``time_step_s``, ``series_uid``,
        ``series_description``, ``slice_thickness_mm``, ``slice_gap_mm``, ``geometry_note``.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: not an image or damaged, 2D, colour, NaN or infinite values, constant, affine not invertible, a
            DICOM series that is no single regular volume.
    """
    path = Path(path)
    if path.is_dir() and not holds_dicom(path):
        raise ValueError(f"{path} is a folder without DICOM files: give an image file or the folder of a series.")
    if path.is_dir() or is_dicom_file(path):
        volume = load_series(path, series_uid, allow_irregular)
        array, affine, meta = volume.array, volume.affine, volume.meta
    else:
        array, affine, meta = read_nifti(path)
    _check_shape(array.shape, path)
    _check_affine(affine, path)
    channels = array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)
    if check_values:
        _check_values(channels, path)
    image = torch.from_numpy(np.ascontiguousarray(channels))
    return MetaTensor(image, affine=torch.from_numpy(affine), meta={"filename_or_obj": str(path), **meta})


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise ValueError(f"{path} is 2D (shape {shape}): a volume of at least 2 voxels along x, y and z is needed.")


def _check_affine(affine: NDArray[np.float64], path: Path) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # relative to the voxel volume: thin and large voxels are judged alike
    if not np.isfinite(affine).all() or (spacing <= 0).any() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise ValueError(
            f"{path} has an affine that is not invertible (zero spacing or parallel axes): {affine[:3].tolist()}. "
            "Repair the header first."
        )


def _check_values(channels: NDArray[np.float32], path: Path) -> None:
    lowest, highest = channels.min(axis=(1, 2, 3)), channels.max(axis=(1, 2, 3))
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        nan, infinite = int(np.isnan(channels).sum()), int(np.isinf(channels).sum())
        raise ValueError(
            f"{path} has {nan} NaN and {infinite} infinite values among {channels.size}: replace them first (by the "
            "background value, for example)."
        )
    for number in np.flatnonzero(lowest == highest):
        what = "is constant" if len(channels) == 1 else f"has a constant volume (number {number + 1} in time)"
        raise ValueError(f"{path} {what}, every voxel is {lowest[number]:g}: there is nothing to see in it.")


class LoadVolumed(MapTransform):
    """Read volumes into ``MetaTensor`` [C, x, y, z] float32 with their affine: see :func:`load_volume`.

    Example::

        >>> load = LoadVolumed(keys="image")
        >>> load({"image": "scan.nii.gz"})["image"].shape  # doctest: +SKIP
        torch.Size([1, 256, 256, 36])

    Args:
        keys: entries with a path each.
        series_uid: SeriesInstanceUID to take from a DICOM folder with several series.
        allow_irregular: accept irregular DICOM slice positions (the slices are then spread evenly).
        check_values: refuse NaN, infinite and constant volumes (False for label maps and masks).
        allow_missing_keys: leave out keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        series_uid: str | None = None,
        allow_irregular: bool = False,
        check_values: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.series_uid = series_uid
        self.allow_irregular = allow_irregular
        self.check_values = check_values

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = load_volume(item[key], self.series_uid, self.allow_irregular, self.check_values)
        return item


class SaveVolumed(MapTransform):
    """Write volumes as float32 NIfTI ``<output_dir>/<case>_<postfix>.nii.gz``, on the grid that they have.

    The affine is that of the volume itself and goes into qform and sform (sform only where no quaternion can hold it,
    see :func:`custom_nets.data.nifti.write_nifti`); the codes and the time step come from the source image. The file
    appears at once and whole, or not at all; its path is put into the volume's ``meta["saved_to"]``.

    Args:
        keys: entries with a ``MetaTensor`` [C, x, y, z] each; C > 1 is written as 4D.
        output_dir: made if it does not exist.
        output_postfix: end of the file name; with several keys the key is added.
        ref_key: entry with the source image, for what the header needs and the name; may be missing.
        case_key: entry with the name of the case; where missing, the name comes from the source file (the folder's
            name for a DICOM series).
        allow_missing_keys: leave out keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "arssr",
        ref_key: str = "image",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.ref_key = ref_key
        self.case_key = case_key

    def path_for(self, case: str, key: Hashable | None = None) -> Path:
        """The file that a case is written to."""
        parts = [case, self.output_postfix] + ([str(key)] if key is not None and len(self.keys) > 1 else [])
        return self.output_dir / f"{'_'.join(part for part in parts if part)}.nii.gz"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            if not isinstance(image, MetaTensor) or image.ndim != 4:
                raise ValueError(
                    f"'{key}' must be a MetaTensor [C, x, y, z], got {type(image).__name__} of shape "
                    f"{tuple(getattr(image, 'shape', ()))}."
                )
            source = {**getattr(item.get(self.ref_key), "meta", {}), **image.meta}
            case = item.get(self.case_key) or case_name(source.get("filename_or_obj", "volume"))
            header = {name: source[name] for name in ("qform_code", "sform_code", "time_step_s") if name in source}
            array = image.as_tensor().detach().float().cpu().numpy()
            array = np.moveaxis(array, 0, 3) if len(array) > 1 else array[0]
            affine = image.affine.cpu().numpy().astype(np.float64)
            path = write_nifti(
                self.path_for(str(case), key), array, affine, **{name: _plain(v) for name, v in header.items()}
            )
            image.meta["saved_to"] = str(path)
        return item


def _plain(value: Any) -> Any:
    """A number that went through a batch comes back as a tensor."""
    return value.item() if isinstance(value, torch.Tensor) else value
