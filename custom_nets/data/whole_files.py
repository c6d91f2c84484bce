"""Files read to their last byte: with their checksums, at the length that their header says, into memory of our own.

A library that stops at the last voxel never meets the checksum behind it, and one that maps the file into memory shows
what somebody else writes there later.
"""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.nifti_header import load_image
from custom_nets.utils.files import check_zip
from custom_nets.utils.memory import check_memory

__all__ = ["DAMAGED", "check_picture", "file_state", "image_array", "load_arrays", "open_image", "unchanged"]

DAMAGED = (
    *(OSError, EOFError, ValueError, TypeError, ArithmeticError, LookupError, NotImplementedError),
    *(zlib.error, zipfile.BadZipFile, struct.error),
)
_PIECE = 1 << 20
_PADDING = 4096  # zeros behind the last voxel that some writers leave
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".mgz": gzip.open, ".bz2": bz2.open}


def file_state(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """What changes whenever one of the files is written or replaced."""
    found = [path.stat() for path in paths]
    return [(state.st_mtime_ns, state.st_size, state.st_ino) for state in found]


@contextmanager
def unchanged(*paths: str | os.PathLike) -> Iterator[None]:
    """Refuse what was read when one of the files changed meanwhile: half of it may be the old one's.

    Raises:
        ValueError: names the file.
    """
    files = [Path(path) for path in paths]
    before = file_state(files)
    yield
    for path, old, new in zip(files, before, file_state(files), strict=True):
        if old != new:
            raise ValueError(f"{path} changed while it was read: wait until it is written, and start again.")


def open_image(path: str | os.PathLike) -> Any:
    """Header of what nibabel reads, after a look whether it is an image of grey values.

    Raises:
        ValueError: it is none.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, SpatialImage
    from nibabel.wrapstruct import WrapStructError

    try:
        image = load_image(os.fspath(path), mmap=False)
    except TypeError:  # a format that is never mapped takes no such option
        image = load_image(os.fspath(path))
    except (ImageFileError, HeaderDataError, WrapStructError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(image, SpatialImage):
        raise ValueError(f"it is a {type(image).__name__}")
    dtype = image.get_data_dtype()
    if dtype.names is not None or dtype.kind not in "iufb":
        raise ValueError(f"it has several components per voxel ({dtype}), one grey value is needed")
    if not image.shape or min(image.shape) < 1:
        raise ValueError(f"it has no voxels (shape {image.shape})")
    return image


def image_array(image: Any, dtype: Any, path: str | os.PathLike, budget_gb: float | None = None) -> NDArray[Any]:
    """Values of an image of :func:`open_image`, slope and intercept applied.

    Args:
        dtype: of the array.
        budget_gb: memory that reading and one working copy may take.

    Raises:
        OSError, ValueError, EOFError, zlib.error: the file is damaged, cut, longer than its header says, changes
            meanwhile, or needs more memory than there is.
    """
    voxels = int(np.prod(image.shape, dtype=object))
    work = int(np.prod(image.shape[:3], dtype=object))
    stored = image.get_data_dtype().itemsize
    # as the inferers count: the volume, its normalised copy, and what is computed of it
    check_memory((stored + 4) * voxels + (16 * work if budget_gb else 0), "it", budget_gb)
    files = {Path(holder.filename) for holder in image.file_map.values() if holder.filename}
    files = {file for file in files if file.is_file()}  # a format may have files that need not be there
    with unchanged(*files):
        main = image.file_map["image"].filename
        end = _end(image)
        for file in files:
            _check_stream(file, end if main is not None and file == Path(main) else None)
        return np.array(image.dataobj, dtype=dtype, order="K")


def _end(image: Any) -> int | None:
    """Bytes up to the last voxel, for formats with nothing behind it; None for others."""
    import nibabel as nib

    if not isinstance(image, nib.AnalyzeImage | nib.Nifti1Image | nib.Nifti1Pair):
        return None
    return int(image.dataobj.offset) + int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize  # type: ignore[attr-defined]


def _check_stream(path: Path, end: int | None) -> None:
    """Read a compressed file through, which compares its checksums; and compare its length with that of the header."""
    opener = next((opener for suffix, opener in _OPENERS.items() if path.name.lower().endswith(suffix)), None)
    if opener is None and (end is None or path.stat().st_size == end):
        return
    length, most = 0, None if end is None else end + _PADDING
    with (opener or open)(path, "rb") as stream:
        if opener is None and end is not None:
            stream.seek(min(end, path.stat().st_size))
            length = stream.tell()
        while piece := stream.read(_PIECE):
            behind = piece if end is None else piece[max(0, end - length) :]
            length += len(piece)
            if end is not None and (length > most or any(behind)):  # type: ignore[operator]
                raise ValueError(f"there is more in the file than the {end} bytes that its header says")
    if end is not None and length < end:
        raise EOFError(f"the file ends early: {length} bytes, and its header says {end}")


def load_arrays(path: str | os.PathLike) -> dict[str, NDArray[Any]]:
    """Arrays of an NPZ file by name; of an NPY file the one, as "frames".

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: damaged, cut, pickled, or larger than the memory.
    """
    with unchanged(path):
        if not zipfile.is_zipfile(path):
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(mapped, np.memmap) or mapped.offset + mapped.nbytes != os.path.getsize(path):
                raise ValueError("its length is not that which its header says")
            check_memory(mapped.nbytes, "it")
            return {"frames": np.array(mapped)}
        with zipfile.ZipFile(path) as archive:
            check_memory(sum(entry.file_size for entry in archive.infolist()), "it")
        check_zip(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def check_picture(path: str | os.PathLike) -> None:
    """Look at a picture's size and checksums: a decoder fills what it cannot read with zeros.

    Raises:
        ValueError: damaged, or larger than the memory.
    """
    from PIL import Image, UnidentifiedImageError

    with open(path, "rb") as file:
        if file.read(4) == b"MM\0+":
            raise ValueError(f"{path} is a BigTIFF file with its most significant byte first: save it as PNG or TIFF.")
    try:
        _check_tiff(Path(path))
        with Image.open(path) as picture:
            width, height = picture.size
            check_memory(8 * width * height * getattr(picture, "n_frames", 1), "it")
            if picture.format == "PNG":
                picture.verify()
            else:
                for page in range(getattr(picture, "n_frames", 1)):
                    picture.seek(page)
                    picture.load()
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError, *DAMAGED) as error:
        raise ValueError(f"{path} is damaged or no picture: {' '.join(str(error).split())}.") from error


def _check_tiff(path: Path) -> None:
    """Follow a TIFF file's chain of pages to its end: a decoder that meets a broken link takes it for the last page."""
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return
        order, big, size = "<" if head[:2] == b"II" else ">", b"+" in head[2:4], path.stat().st_size
        count_form, offset_form, entry_bytes = (order + "Q", order + "Q", 20) if big else (order + "H", order + "I", 12)
        (place,) = struct.unpack_from(offset_form, head, 8 if big else 4)
        seen: set[int] = set()
        while place:
            if place in seen or place >= size:
                raise ValueError("a link to its next page is broken")
            seen.add(place)
            file.seek(place)
            (entries,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
            file.seek(entries * entry_bytes, os.SEEK_CUR)
            (place,) = struct.unpack(offset_form, file.read(struct.calcsize(offset_form)))
