"""Look for names in files, whatever they are packed in."""

from __future__ import annotations

import bz2
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["contents", "found_in"]


def contents(path: Path) -> Iterator[bytes]:
    """What is in a file: as it is, unpacked, and the texts of a picture."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield zlib.decompressobj(31).decompress(data)  # what a killed process left may be cut
    elif data[:3] == b"BZh":
        yield bz2.decompress(data)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        from PIL import Image

        with suppress(OSError, SyntaxError), Image.open(path) as picture:
            picture.load()
            yield repr(picture.info).encode()


def found_in(folder: Path, words: Sequence[str], but: Sequence[str] = ()) -> list[str]:
    """Which of the words stand in which files in a folder or in their names, in any case and coding.

    Args:
        but: suffixes of files that are not looked at.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        whole = [str(path.relative_to(folder)).encode("utf-8", "replace")]
        if path.is_file() and not path.name.endswith(tuple(but)):
            whole += contents(path)
        for word in words:
            codes = {word.lower().encode(coding) for coding in ("utf-8", "utf-16-le")}
            if any(code in content.lower() for content in whole for code in codes):
                found.append(f"{word} in {path.relative_to(folder)}")
    return found
