"""A bundle as one zip file that needs nothing but MONAI.

    python -m custom_nets.bundle.pack BUNDLE [--output FILE.zip]

The zip holds one folder of the bundle's name with LICENSE, configs, docs and weights, ``custom_nets`` inside of it, and
``manifest.json`` with the version, the git revision and the SHA-256 of every file. Whoever unpacks it runs it from that
folder, without an installation of this package::

    cd arssr && python -m monai.bundle run --config_file configs/inference.json --input X --output_dir Y

The same files give the same zip, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

from monai.bundle import ConfigParser

from custom_nets import bundle_root
from custom_nets.bundle.folder import WEIGHTS, find_bundles
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import as_typed, new_file
from custom_nets.utils.record import file_record, git_revision

__all__ = ["LARGEST_FILE", "PERSONAL_PATH", "bundle_files", "bundle_folder", "bundle_name", "pack"]

LARGEST_FILE = 25 * 2**20  # bytes; what the model zoo takes in a repository
# folders of a machine or a person: nobody else has them
PERSONAL_PATH = re.compile(r"(?<![\w.])/(home|root|work|Users|mnt|media|opt|tmp|workspace|scratch)/|[A-Z]:\\\\")
_TEXT = (".json", ".yml", ".yaml", ".conf", ".txt", ".md", ".py")
_PARTS = ("LICENSE", "large_files.yml", "configs", "docs", "models")  # what runs leave in other folders stays out
_NEEDED = ("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md")
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


def bundle_folder(bundle: str) -> Path:
    """The folder of a bundle that is named, or given as a path.

    Raises:
        FileNotFoundError: there is no such bundle.
        ValueError: a folder that is no bundle; the message says what it lacks.
    """
    folder = as_typed(bundle)
    if not folder.is_dir():
        if len(folder.parts) != 1:
            known = ", ".join(path.name for path in find_bundles()) or "none here"
            raise FileNotFoundError(f"{bundle} is no folder: give the name of a bundle ({known}) or its folder.")
        folder = Path(bundle_root(bundle))
    folder = folder.resolve()
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not (folder / WEIGHTS).is_file() and not (folder / "large_files.yml").is_file():
        missing.append(f"{WEIGHTS} (or large_files.yml, which says where it is)")
    if missing:
        raise ValueError(f"{folder} is no bundle that can be handed over: it lacks {', '.join(missing)}.")
    return folder


def bundle_files(folder: Path) -> dict[str, Path]:
    """Names in the zip, below the bundle's folder, and the files that go there; sorted.

    Raises:
        ValueError: a file that is too large, or one that names a path of a machine.
    """
    files: dict[str, Path] = {}
    for part in _PARTS:
        files.update(_below(folder / part, folder))
    package = Path(__file__).resolve().parents[1]
    files.update(_below(package, package.parent))
    for name in _large_files(folder):
        files.pop(name, None)  # comes from its URL: python -m monai.bundle download_large_files
    for name, path in files.items():
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(
                f"{path} has {path.stat().st_size / 2**20:.0f} MiB, and at most {LARGEST_FILE // 2**20} go into a "
                "bundle: put it where it can be downloaded and list it in large_files.yml (path, url)."
            )
        # of the code, this file alone has to write such paths down
        if path.suffix in _TEXT and path != Path(__file__).resolve():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if found := PERSONAL_PATH.search(line):
                    raise ValueError(
                        f"{name}, line {number}, names a folder of one machine ({found[0]}): write it relative to "
                        "@bundle_root, or as a placeholder such as FOLDER."
                    )
    return dict(sorted(files.items()))


def _below(place: Path, root: Path) -> dict[str, Path]:
    """Files of a folder (or the one file) by their names below ``root``, without caches and hidden ones."""
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    names = {path: path.relative_to(root) for path in found if path.is_file()}
    return {
        name.as_posix(): path
        for path, name in names.items()
        if path.suffix != ".pyc" and not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }


def _large_files(folder: Path) -> list[str]:
    listing = folder / "large_files.yml"
    if not listing.is_file():
        return []
    return [str(entry["path"]) for entry in ConfigParser.load_config_file(listing).get("large_files") or ()]


def pack(bundle: str, output: str | os.PathLike | None = None) -> Path:
    """Write the zip; it appears whole or not at all.

    Args:
        bundle: name, or path of its folder.
        output: default ``<name>-<version>.zip`` in the current folder.

    Returns:
        The file written.

    Raises:
        FileNotFoundError, ValueError: see :func:`bundle_folder` and :func:`bundle_files`.
        OSError: it cannot be written.
    """
    folder = bundle_folder(bundle)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    name = bundle_name(folder)
    files = bundle_files(folder)
    manifest = {
        "bundle": name,
        "version": metadata["version"],
        "git_revision": git_revision(),
        "files": {entry: file_record(path) for entry, path in files.items()},
    }
    target = Path(output) if output is not None else Path(f"{name}-{metadata['version']}.zip")
    with new_file(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, f"{name}/manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        for entry, path in files.items():
            _add(archive, f"{name}/{entry}", path.read_bytes())
    return target


def bundle_name(folder: Path) -> str:
    """What its configs call the bundle: the folder may have been renamed."""
    config = ConfigParser.load_config_file(folder / "configs" / "inference.json")
    # one that came from a registry names its folder, too
    found = re.search(r"bundle_root\(['\"](\w+)['\"]", str(config.get("bundle_root", "")))
    return found[1] if found else folder.name


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # the same on every system: Unix, readable by all
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def main(argv: list[str] | None = None) -> None:
    """``python -m custom_nets.bundle.pack BUNDLE [--output FILE.zip]``"""
    parser = CommandParser(prog="python -m custom_nets.bundle.pack", description="Pack a bundle into one zip file.")
    parser.add_argument("bundle", help="name of a bundle, or its folder")
    parser.add_argument("--output", help="zip file to write; default NAME-VERSION.zip in the current folder")
    args = parser.parse_args(argv)
    try:
        target = pack(args.bundle, args.output)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    with zipfile.ZipFile(target) as archive:
        count = len(archive.namelist())
    record = file_record(target)
    print(f"{target}: {count} files, {record['bytes'] / 2**20:.1f} MiB, SHA-256 {record['sha256']}")


if __name__ == "__main__":
    main()
