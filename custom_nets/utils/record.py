"""What was run, on what, with what: the JSON beside each result."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["environment", "file_sha256", "peak_memory_gib", "write_json"]


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def environment() -> dict[str, str]:
    """Versions of what computes, and the machine's kind."""
    packages = ("custom_nets", "torch", "monai", "pytorch-ignite", "numpy", "nibabel", "pydicom")
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON beside and rename it: a reader never sees half of it. What JSON does not know becomes text."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2, default=_plain) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
