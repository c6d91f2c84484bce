"""Volumes from files to ``MetaTensor`` and back, checked on the way in and never half written on the way out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from custom_nets.data.cases import case_name
from custom_nets.data.dicom.files import holds_dicom, is_dicom_file
from custom_nets.data.volumes.dicom_series import load_series
from custom_nets.data.volumes.dicom_writer import check_mr_series, is_mr_result, write_mr_series
from custom_nets.data.volumes.nifti import check_no_labels, is_our_nifti, read_nifti, write_nifti
from custom_nets.data.volumes.padding import find_padding, padding_on
from custom_nets.geometry import Grid
from custom_nets.utils.files import check_name, check_writable

__all__ = ["LoadVolumed", "SaveVolumed", "check_writable", "load_volume"]

logger = logging.getLogger(__name__)

_FAR = 1e5  # times the range of nearly all values: no scanner measures what lies farther out


def load_volume(
    path: str | Path,
    series_uid: str | None = None,
    allow_irregular: bool = False,
    check_values: bool = True,
    memory_gb: float | None = None,
) -> MetaTensor:
    """Read a NIfTI or MGH file, or a DICOM series (its folder, or one file of it).

    The voxel order is the file's: nothing is flipped or resampled.

    Args:
        path: what to read.
        series_uid: SeriesInstanceUID to take from a DICOM folder with several series.
        allow_irregular: accept a DICOM series with slices off a regular grid by more than 10 % of their distance.
        check_values: refuse NaN, infinite and constant volumes (False for label maps and masks).
        memory_gb: what reading it and a working copy may take, in GiB; None: what the machine has left.

    Returns:
        [C, x, y, z] float32 in the file's units (slope and intercept applied), C = time points (1 for 3D); ``affine``
        (4, 4) float64, index -> mm, RAS. ``meta`` has plain values: ``filename_or_obj``, ``original_dtype``,
        and, where they exist, ``qform_code``, ``sform_code``, ``time_step_s``, ``series_uid``,
        ``series_description``, ``slice_thickness_mm``, ``slice_gap_mm``, ``geometry_note``, ``notes``. Where voxels are
        padding (see :func:`custom_nets.data.volumes.padding.find_padding`) they get the lowest measured value,
        ``meta["padding"]`` (uint8 [C, x, y, z]) says where and ``meta["padding_value"]`` what stood there.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: not an image or damaged, 2D, colour, NaN or infinite values or one that is no intensity, constant,
            affine not invertible, a DICOM series that is no single regular volume.
    """
    path = Path(path)
    if path.is_dir() and not holds_dicom(path):
        raise ValueError(f"{path} is a folder without DICOM files: give an image file or the folder of a series.")
    named: NDArray[np.bool_] | None = None
    if path.is_dir() or is_dicom_file(path):
        volume = load_series(path, series_uid, allow_irregular)
        array, affine, meta, named = volume.array, volume.affine, volume.meta, volume.padding
    else:
        array, affine, meta = read_nifti(path, memory_gb)
        if check_values:
            check_no_labels(path, meta)
    _check_shape(array.shape, path)
    _check_affine(affine, path)
    channels = array[None] if array.ndim == 3 else np.moveaxis(array, 3, 0)
    if check_values:
        channels, padding = _without_padding(channels, named, path)
        meta = {**meta, **padding}
        _check_values(channels, path)
    image = torch.from_numpy(np.ascontiguousarray(channels))
    return MetaTensor(image, affine=torch.from_numpy(affine), meta={"filename_or_obj": str(path), **meta})


def _without_padding(
    channels: NDArray[np.float32], named: NDArray[np.bool_] | None, path: Path
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """[C, x, y, z] with padding filled, and what ``meta`` says about it."""
    found = [find_padding(channel, named) for channel in channels]
    if not (notes := sorted({padding.note for padding in found if padding})):
        return channels, {}
    channels = channels.copy()
    mask = np.zeros(channels.shape, dtype=bool)
    for channel, where, padding in zip(channels, mask, found, strict=True):
        if padding is not None:
            where[:] = padding.mask
            channel[where] = channel[~where].min()
    logger.warning("%s: %s", path, "; ".join(notes))
    value = next(padding.value for padding in found if padding)
    meta = {
        "padding": torch.from_numpy(mask.astype(np.uint8)),
        "padding_value": value,
        "padding_note": "; ".join(notes),
    }
    return channels, meta


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
    for channel, least, most in zip(channels, lowest, highest, strict=True):
        low, high = np.percentile(channel[::2, ::2, ::2], (1, 99))
        beyond = max(float(most) - high, low - float(least))
        if beyond > _FAR * (high - low) > 0:
            index = np.unravel_index(int(np.abs(channel).argmax()), channel.shape)
            raise ValueError(
                f"{path} has {channel[index]:.3g} at voxel {tuple(int(i) for i in index)}, and nearly all other values "
                f"lie between {low:.3g} and {high:.3g}: that is no intensity. Replace it first."
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
        memory_gb: see :func:`load_volume`.
        allow_missing_keys: leave out keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        series_uid: str | None = None,
        allow_irregular: bool = False,
        check_values: bool = True,
        memory_gb: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.series_uid = series_uid
        self.allow_irregular = allow_irregular
        self.check_values = check_values
        self.memory_gb = memory_gb

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = load_volume(item[key], self.series_uid, self.allow_irregular, self.check_values, self.memory_gb)
        return item


class SaveVolumed(MapTransform):
    """Write volumes ``<output_dir>/<case>_<postfix>`` on the grid that they have, whole or not at all.

    ``nifti``: float32 ``.nii.gz``. The affine is that of the volume itself and goes into qform and sform (sform only
    where no quaternion can hold it, see :func:`custom_nets.data.volumes.nifti.write_nifti`); the codes and the time
    step come from the source image. What was padding there is padding again. ``dicom``: a folder with a series
    derived from the source image's, see
    :func:`custom_nets.data.volumes.dicom_writer.write_mr_series`. The path is put into the volume's
    ``meta["saved_to"]``.

    Args:
        keys: entries with a ``MetaTensor`` [C, x, y, z] each; C > 1 is written as 4D (NIfTI only).
        output_dir: made if it does not exist.
        output_postfix: end of the file name; with several keys the key is added.
        ref_key: entry with the source image, for what the header needs and the name; may be missing.
        case_key: entry with the name of the case; where missing, the name comes from the source file (the folder's
            name for a DICOM series).
        output_format: "nifti" or "dicom"; None: NIfTI.
        made_by: name and version of the method, for DICOM headers.
        content: what the values are where they are not the scan's signal, for DICOM headers.
        allow_missing_keys: leave out keys that an item lacks.
    """

    suffixes = {"nifti": ".nii.gz", "dicom": ""}

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "trans",
        ref_key: str = "image",
        case_key: str = "case",
        output_format: str | None = None,
        made_by: str = "custom_nets",
        content: str = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if output_format is not None and output_format not in tuple(self.suffixes):
            raise ValueError(f"output_format must be {' or '.join(self.suffixes)}, got {output_format!r}.")
        self.output_dir = Path(output_dir)
        self.output_postfix = check_name(output_postfix, "output_postfix")
        self.ref_key = ref_key
        self.case_key = case_key
        self.output_format = output_format or "nifti"
        self.made_by = made_by
        self.content = content

    def paths_for(self, case: str, key: Hashable | None = None) -> dict[str, Path]:
        """The file (for DICOM: the folder) that a case is written to, for each format."""
        parts = [case, self.output_postfix] + ([str(key)] if key is not None and len(self.keys) > 1 else [])
        stem = "_".join(part for part in parts if part)
        return {name: self.output_dir / f"{stem}{suffix}" for name, suffix in self.suffixes.items()}

    def foreign_outputs(self, case: str) -> list[Path]:
        """What lies where this case goes and was not written by this program."""
        path = self.paths_for(case)["nifti"]
        return [path] if path.exists() and not is_our_nifti(path) else []

    def path_for(self, case: str, key: Hashable | None = None) -> Path:
        """The file that a case is written to, or the folder."""
        return self.paths_for(case, key)[self.output_format]

    def check(self, case: str, image: MetaTensor, grid: Grid) -> None:
        """Refuse a case that the format cannot hold before it is computed.

        Args:
            image: the source [C, x, y, z].
            grid: of the result.

        Raises:
            ValueError: the message says why and what to do.
            OSError: something else lies where the result goes.
        """
        if self.output_format == "dicom":
            check_mr_series(image.meta, grid, len(image))
            folder = self.path_for(case)
            if folder.exists() and not is_mr_result(folder):
                raise OSError(
                    f"{folder} is there already and was not written by this program: give another --output_dir or "
                    "--output_postfix."
                )

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
            case = str(item.get(self.case_key) or case_name(source.get("filename_or_obj", "volume")))
            array = image.as_tensor().detach().float().cpu().numpy()
            affine = image.affine.cpu().numpy().astype(np.float64)
            padding = None if self.content else _padding_of(item.get(self.ref_key), Grid(array.shape[1:], affine))
            write = self._write_dicom if self.output_format == "dicom" else self._write_nifti
            image.meta["saved_to"] = str(write(self.path_for(case, key), array, affine, source, padding))
            self._remove_earlier(case, key)
        return item

    @staticmethod
    def _write_nifti(
        path: Path, array: NDArray, affine: NDArray[np.float64], source: dict[str, Any], padding: NDArray | None
    ) -> Path:
        if padding is not None:
            array = np.where(padding, np.float32(_plain(source["padding_value"])), array)
        header = {name: _plain(source[name]) for name in ("qform_code", "sform_code", "time_step_s") if name in source}
        return write_nifti(path, np.moveaxis(array, 0, 3) if len(array) > 1 else array[0], affine, **header)

    def _write_dicom(
        self, path: Path, array: NDArray, affine: NDArray[np.float64], source: dict[str, Any], padding: NDArray | None
    ) -> Path:
        check_mr_series(source, Grid(array.shape[1:], affine), len(array))
        check_writable(path.parent)
        return write_mr_series(
            array[0], affine, path, source, made_by=self.made_by, content=self.content,
            padding=None if padding is None else padding[0],
        )  # fmt: skip

    def _remove_earlier(self, case: str, key: Hashable) -> None:
        """The result of an earlier, overwritten call in the other format: its record would be wrong now."""
        (other,) = (path for name, path in self.paths_for(case, key).items() if name != self.output_format)
        record = self.paths_for(case, key)["dicom"]
        if not record.with_name(record.name + ".json").is_file():
            return
        if other.is_file():
            other.unlink()
        elif other.is_dir() and is_mr_result(other):
            shutil.rmtree(other)


def _padding_of(source: Any, target: Grid) -> NDArray[np.bool_] | None:
    """The padding of the source image on another grid, [C, x, y, z]; None where there is none."""
    mask = getattr(source, "meta", {}).get("padding")
    if mask is None:
        return None
    grid = Grid.of(source)
    return np.stack([padding_on(target, grid, channel) for channel in np.asarray(mask, dtype=bool)])


def _plain(value: Any) -> Any:
    """A number that went through a batch comes back as a tensor."""
    return value.item() if isinstance(value, torch.Tensor) else value
