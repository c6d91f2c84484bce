"""What a bundle is on disk: a folder of configs, docs and weights that runs as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["QUALITIES", "WEIGHTS", "check_bundle", "copy_bundle", "find_bundles", "quality_of", "shipped_weights"]

WEIGHTS = "models/model.pt"
QUALITIES = {"best": WEIGHTS, "light": "models/model_light.pt"}  # the weights that a bundle may ship
_PARTS = ("configs", "docs", "LICENSE")  # nothing else: beside them may lie scans, results and other weights
_REQUIRED = ("configs/metadata.json", "configs/inference.json")


def find_bundles() -> list[Path]:
    """Folders of the bundles beside this package, by name: those with a ``configs/metadata.json``."""
    checkout = Path(__file__).resolve().parents[2]
    return sorted(path.parents[1] for path in checkout.glob("bundles/*/configs/metadata.json"))


def shipped_weights(bundle_root: str | os.PathLike, quality: str) -> str:
    """The file of the weights that a bundle ships for a quality.

    Args:
        bundle_root: the bundle.
        quality: "best", or "light" (a smaller, faster network).

    Raises:
        ValueError: another word, or a bundle without such weights.
    """
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}.")
    path = Path(bundle_root) / QUALITIES[quality]
    if quality != "best" and not path.is_file():
        raise ValueError(f"this bundle has no {quality} weights ({path} is missing): leave --quality out.")
    return str(path)


def quality_of(checkpoint: str | os.PathLike, bundle_root: str | os.PathLike) -> str | None:
    """Which quality of a bundle's shipped weights a file is; None for other weights."""
    found = (quality for quality, name in QUALITIES.items() if Path(checkpoint) == Path(bundle_root) / name)
    return next(found, None)


def copy_bundle(bundle_root: str | os.PathLike, weights: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Copy configs, docs and licence of a bundle into a new folder, with ``weights`` as its model.

    Args:
        bundle_root: the bundle.
        weights: a bundle checkpoint of any name.
        target: folder to make.

    Returns:
        ``target``.

    Raises:
        ValueError: ``bundle_root`` is no bundle.
    """
    root, target = Path(bundle_root), Path(target)
    _check_parts(root)
    for part in _PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, target / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (root / part).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / part, target / part)
    (target / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, target / WEIGHTS)
    return target


def check_bundle(folder: str | os.PathLike) -> None:
    """Refuse a folder that could not be run as a bundle.

    Raises:
        ValueError: a file is missing, the weights are not of plain tensors (``weights_only=True``) or do not fit the
            network that they name.
    """
    from custom_nets.checkpoints import load_network

    folder = Path(folder)
    _check_parts(folder)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no weights ({WEIGHTS} is missing).")
    load_network(folder / WEIGHTS)


def _check_parts(folder: Path) -> None:
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is not a bundle: {', '.join(missing)} missing.")
