"""Bit errors, cuts and torn files: each is refused, or gives the data that were written, bit for bit.

A format without checksums (plain NIfTI, DICOM, NPY, plain TIFF) cannot show that a bit of a pixel has changed; of these
all cuts and all contradictions between header and length are refused.
"""

from __future__ import annotations

import bz2
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.volumes.nifti import read_nifti
from custom_nets.transforms import load_volume
from tests.tools.field_files import head, mr_series

COUNT = 200
ARRAY = np.random.default_rng(5).integers(0, 900, (7, 6, 5)).astype(np.int16)


def nifti(path: Path) -> None:
    image = nib.Nifti1Image(ARRAY, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    nib.save(image, path)


def mgh(path: Path) -> None:
    nib.save(nib.MGHImage(ARRAY.astype(np.float32), np.diag([1.0, 2.0, 3.0, 1.0])), path)


def npz(path: Path) -> None:
    np.savez_compressed(path, frames=ARRAY, times_s=np.arange(7) / 4)


def png(path: Path) -> None:
    import cv2

    path.mkdir()
    for number in (1, 2, 3):
        cv2.imwrite(str(path / f"{number}.png"), np.tile(ARRAY[number].astype(np.uint16), (4, 4)))


def tiff(path: Path) -> None:
    from PIL import Image

    pages = [Image.fromarray(np.tile(page.astype(np.uint16), (3, 3))) for page in ARRAY]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_deflate")


def plain_tiff(path: Path) -> None:
    from PIL import Image

    pages = [Image.fromarray(page.astype(np.uint16)) for page in ARRAY]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def dicom(path: Path) -> None:
    from tests.tools.xa_writer import write_xa

    write_xa(path, np.abs(ARRAY).astype(np.uint16))


def series(path: Path) -> None:
    from tests.tools.dicom_writer import write_dicom_series

    write_dicom_series(path, ARRAY.astype(np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))


def series_values(path: Path) -> list[Any]:
    volume = load_volume(path)
    return [volume.numpy(), volume.affine.numpy()]


def volume_values(path: Path) -> list[Any]:
    array, affine, _ = read_nifti(path)
    return [array, affine]


def run_values(path: Path) -> list[Any]:
    run = read_angiography(path, fps=4)
    return [run.frames, run.times_s]


# name -> (writer, reader, does it have checksums)
FORMATS: dict[str, tuple[Callable, Callable, bool]] = {
    "a.nii.gz": (nifti, volume_values, True),
    "a.nii.bz2": (nifti, volume_values, True),
    "a.mgz": (mgh, volume_values, True),
    "a.npz": (npz, run_values, True),
    "pictures": (png, run_values, True),
    "a.nii": (nifti, volume_values, False),
    "b.nii": (nifti, run_values, False),
    "a.npy": (lambda path: np.save(path, ARRAY), run_values, False),
    "a.tiff": (tiff, run_values, False),
    "b.tiff": (plain_tiff, run_values, False),
    "a.dcm": (dicom, run_values, False),
    "series": (series, series_values, False),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_the_same(name, tmp_path):
    write, read, sums = FORMATS[name]
    path = tmp_path / name
    write(path)
    wanted = read(path)
    part = sorted(path.iterdir())[1] if path.is_dir() else path
    content, rng = part.read_bytes(), np.random.default_rng(1)
    other, refused = [], 0
    for number in range(COUNT):
        damaged = bytearray(content)
        if number % 4 == 0 or not sums:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        part.write_bytes(damaged)
        try:
            found = read(path)
        except ValueError as error:
            assert "\n" not in str(error) and path.name in str(error)
            refused += 1
            continue
        if not all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
            other.append(number)
    assert not other
    assert refused > COUNT // 4


def test_what_follows_the_last_voxel_contradicts_the_header(tmp_path):
    """One bit of the matrix size: a smaller volume, whose rows are torn apart."""
    for name, opener in (("a.nii", open), ("a.nii.gz", gzip.open), ("a.nii.bz2", bz2.open)):
        path = tmp_path / name
        nifti(path)
        content = opener(path, "rb").read()
        with opener(path, "wb") as file:
            file.write(content + bytes(100))
        np.testing.assert_array_equal(read_nifti(path)[0], ARRAY)
        with opener(path, "wb") as file:
            file.write(content[:42] + (ARRAY.shape[0] - 1).to_bytes(2, "little") + content[44:])
        with pytest.raises(ValueError, match="more in the file than the .* bytes that its header says"):
            read_nifti(path)


@pytest.mark.parametrize(
    "name, read", [("a.nii", load_volume), ("a.nii", read_angiography), ("a.npy", read_angiography)]
)
def test_a_file_that_is_rewritten_later_changes_nothing(name, read, tmp_path):
    path = tmp_path / name
    array = ARRAY.astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path) if name == "a.nii" else np.save(path, array)
    found = read(path)
    values = np.array(found.frames if hasattr(found, "frames") else found)
    with open(path, "r+b") as file:
        file.seek(400)
        file.write(b"\xff" * 300)
        file.truncate(500)  # of a mapped file, the next look would end the process
    np.testing.assert_array_equal(found.frames if hasattr(found, "frames") else found, values)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    nifti(path)
    real = np.array

    def slow(*args, **kwargs):
        if kwargs.get("order") == "K":
            shutil.copy(path, tmp_path / "b")
            (tmp_path / "b").replace(path)
        return real(*args, **kwargs)

    monkeypatch.setattr("custom_nets.data.whole_files.np.array", slow)
    with pytest.raises(ValueError, match="changed while it was read"):
        read_nifti(path)


def small_but_large(path: Path, side: int) -> None:
    """A file of some KB that says it holds side^3 voxels of 4 bytes."""
    header = nib.Nifti1Header()
    header.set_data_shape((side, side, side))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4 + 200_000))


def test_the_budget_is_asked_before_a_voxel_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    small_but_large(path, 740)  # 1.5 GiB of voxels
    monkeypatch.setattr("custom_nets.data.whole_files._check_stream", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"it needs 9.1 GiB to be read, and the memory budget is 4 GiB"):
        load_volume(path, memory_gb=4)
    small_but_large(path, 30_000)
    for read in (load_volume, read_angiography):
        with pytest.raises(ValueError, match=r"GiB of memory to be read; .* GiB are free"):
            read(path)


def test_a_deflated_file_is_compared_with_the_memory_before_it_is_unpacked(tmp_path, monkeypatch):
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    volume = head()
    for size in (0, 100 << 20):
        file = mr_series(tmp_path, volume)[0]
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        if size:
            dataset.add_new(0x00091010, "OB", bytes(size))
        dataset.save_as(file)
        if not size:
            np.testing.assert_array_equal(load_volume(tmp_path)[0].numpy(), volume)
    assert file.stat().st_size < 1 << 20
    monkeypatch.setattr("custom_nets.utils.memory.available_memory", lambda: 128 << 20)
    with pytest.raises(ValueError, match="im000.dcm needs 0.1 GiB of memory"):
        load_volume(tmp_path)
