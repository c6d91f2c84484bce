"""Valid small files, bent at random: one element removed, emptied, a word, zero, huge, repeated; bytes cut or changed.

``python -m tests.tools.mutations 500`` bends 500 NIfTI and 500 DICOM files and prints what became of them.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.field_files import frames, head, mr_series, xa_file

_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD")
_MR_MEANS = (  # elements that say what the values are and where they lie
    *((0x0002, 0x0010), (0x0008, 0x0016), (0x0020, 0x000E), (0x0020, 0x0032), (0x0020, 0x0037), (0x0028, 0x0030)),
    *((0x0028, n) for n in (0x0002, 0x0004, 0x0008, 0x0010, 0x0011, 0x0100, 0x0101, 0x0102, 0x0103, 0x1052, 0x1053)),
    *((0x0028, 0x0120), (0x7FE0, 0x0010), (0x0018, 0x1063), (0x0028, 0x0009), (0x0020, 0x0013)),
)


def elements(raw: bytes) -> list[tuple[int, int, int]]:
    """(start, start of the value, end) of each element of an explicit little endian file."""
    found, place = [], 132
    while place + 8 <= len(raw):
        long = raw[place + 4 : place + 6] in _LONG
        value = place + (12 if long else 8)
        length = int.from_bytes(raw[place + 8 : value] if long else raw[place + 6 : value], "little")
        found.append((place, value, value + length))
        place = value + length
    return found


def bend_dicom(path: Path, rng: np.random.Generator) -> tuple[str, tuple[int, int] | None]:
    """Change one thing of a DICOM file. Returns what was done, and to which element (None: to the bytes)."""
    raw = path.read_bytes()
    how = str(rng.choice(["remove", "empty", "word", "zero", "huge", "repeat", "bytes", "cut", "negative", "many"]))
    if how == "cut":
        path.write_bytes(raw[: int(rng.integers(0, len(raw)))])
        return how, None
    found = elements(raw)
    start, value, end = found[int(rng.integers(0, len(found)))]
    tag = (int.from_bytes(raw[start : start + 2], "little"), int.from_bytes(raw[start + 2 : start + 4], "little"))
    old, kind = raw[value:end], raw[start + 4 : start + 6]
    number = kind in (b"US", b"SS", b"UL", b"FD")
    size = len(old)
    new = {
        "empty": b"", "word": b"REMOVED ", "repeat": old + (b"\\" + old[:-1] if size and not number else old),
        "zero": bytes(size) if number else b"0 ", "huge": b"\xff" * size if number else b"99999999999999999999",
        "negative": b"\xff" * size if number else b"-1", "many": b"1\\2\\3\\4\\5 ", "remove": b"",
        "bytes": rng.bytes(size if size < 64 else 64) + old[64:],
    }[how]  # fmt: skip
    new += b" " * (len(new) % 2)
    if how == "remove":
        path.write_bytes(raw[:start] + raw[end:])
        return how, tag
    width = value - start
    length = len(new).to_bytes(4, "little") if width == 12 else (len(new) % 65536).to_bytes(2, "little")
    path.write_bytes(raw[:start] + raw[start : value - len(length)] + length + new + raw[end:])
    return how, tag


def bend_nifti(path: Path, rng: np.random.Generator) -> str:
    """Change one field of a NIfTI-1 header, or bytes of the file. Returns which."""
    import nibabel as nib

    raw = bytearray(path.read_bytes())
    fields = nib.Nifti1Header.template_dtype.fields
    name = str(rng.choice([*fields, "cut", "bytes"]))
    if name == "cut":
        path.write_bytes(raw[: int(rng.integers(0, len(raw)))])
        return name
    if name == "bytes":
        for place in rng.integers(0, 352, 3):
            raw[int(place)] = int(rng.integers(0, 256))
    else:
        dtype, offset = fields[name][:2]
        base = dtype.base
        if base.kind in "iuf":
            limits = np.iinfo(base) if base.kind in "iu" else None
            values = [0, 1, 2, -1, 3] if limits is None or limits.min < 0 else [0, 1, 2, 3]
            values += [limits.max, limits.min] if limits is not None else [1e30, np.nan, np.inf, 1e-30, -7.5]
            content = np.frombuffer(bytes(raw[offset : offset + dtype.itemsize]), base).copy()
            content[int(rng.integers(0, content.size))] = rng.choice(np.array(values, dtype=base))
            raw[offset : offset + dtype.itemsize] = content.tobytes()
        else:
            raw[offset : offset + dtype.itemsize] = rng.bytes(dtype.itemsize)
    path.write_bytes(raw)
    return name


def outcome(work: Callable[[], Any], seconds: int = 60) -> tuple[str, Any]:
    """("read", result) or ("refused", message): anything else, a page of text or a hang raises."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return "read", work()
    except (ValueError, FileNotFoundError, OSError) as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < 900, message
        return "refused", message
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_nifti(folder: Path, number: int) -> str:
    """Bend, read and write a NIfTI volume; "read" means: the right values, or a header that means something else."""
    import nibabel as nib

    from custom_nets.transforms import SaveVolumed, load_volume

    rng = np.random.default_rng([1, number])
    path = folder / "scan.nii"
    volume = head((8, 9, 6))
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1, 3, 1])), path)
    name = bend_nifti(path, rng)
    out = folder / "out"

    def work() -> None:
        image = load_volume(path)
        if name not in (
            "bytes",
            "dim",
            "datatype",
            "bitpix",
            "vox_offset",
            "scl_slope",
            "scl_inter",
            "sizeof_hdr",
            "magic",
        ):
            np.testing.assert_array_equal(image[0].numpy(), volume)
        save = SaveVolumed("image", out, "x")
        again = load_volume(save({"image": image, "case": "a"})["image"].meta["saved_to"])
        np.testing.assert_allclose(again.affine, image.affine, rtol=1e-4, atol=1e-3)

    return _checked(outcome(work), out)


def try_mr(folder: Path, number: int) -> str:
    """Bend one slice, or all, of an MR series, read it and derive a series from it."""
    from custom_nets.transforms import SaveVolumed, load_volume

    rng = np.random.default_rng([2, number])
    volume = head((8, 9, 5))
    files = mr_series(folder / "mr", volume)
    bent = files if rng.random() < 0.3 else [files[int(rng.integers(len(files)))]]
    state = rng.bit_generator.state
    for file in bent:
        rng.bit_generator.state = state
        how, tag = bend_dicom(file, rng)
    out = folder / "out"

    def work() -> None:
        image = load_volume(folder / "mr")
        if tag is not None and tag not in _MR_MEANS and tag[1] != 0:
            np.testing.assert_array_equal(image[0].numpy(), volume, err_msg=f"{how} {tag}")
        save = SaveVolumed("pred", out, "x", output_format="dicom")
        load_volume(save({"image": image, "pred": image.clone(), "case": "a"})["pred"].meta["saved_to"])

    return _checked(outcome(work), out)


def try_xa(folder: Path, number: int) -> str:
    """Bend an XA run, read it and derive one from it."""
    from custom_nets.data.angiography import read_angiography, write_run

    rng = np.random.default_rng([3, number])
    values = frames(4, (10, 12))
    path = xa_file(folder / "run.dcm", values)
    how, tag = bend_dicom(path, rng)
    out = folder / "out"

    def work() -> None:
        run = read_angiography(path)
        if tag is not None and tag not in _MR_MEANS and tag[1] != 0:
            np.testing.assert_array_equal(run.frames, values, err_msg=f"{how} {tag}")
        out.mkdir()
        again = read_angiography(write_run(run, out / "b.dcm"))
        np.testing.assert_array_equal(again.frames, run.frames)

    return _checked(outcome(work), out)


def _checked(found: tuple[str, Any], out: Path) -> str:
    status, _ = found
    left = [p.name for p in out.rglob("*") if p.is_file()] if out.is_dir() else []
    assert not [name for name in left if name.startswith(".")], left
    assert status == "read" or not left, (found, left)
    return status


def many(kind: Callable[[Path, int], str], count: int, first: int = 0) -> Counter[str]:
    """How many were read, and how many refused."""
    counted: Counter[str] = Counter()
    for number in range(first, first + count):
        folder = Path(tempfile.mkdtemp())
        try:
            counted[kind(folder, number)] += 1
        except BaseException as error:
            reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")
            raise AssertionError(f"{kind.__name__} {number}: {reason[:500]}") from error
        finally:
            shutil.rmtree(folder)
    return counted


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for kind, number in ((try_nifti, count), (try_mr, count - count // 2), (try_xa, count // 2)):
        counted: Counter[str] = Counter()
        for seed in range(1000, 1000 + number):
            try:
                counted += many(kind, 1, seed)
            except AssertionError as error:
                counted["WRONG"] += 1
                print(error)
        print(kind.__name__, dict(counted))
