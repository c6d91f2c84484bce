"""A page read back without a browser, and tiny results to make pages of."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_nets.checkpoints import save_checkpoint
from custom_nets.networks import AnySizeTransMRSR, ResidualArSSR

__all__ = ["Page", "tiny_arssr", "tiny_transmrsr"]


def tiny_arssr(folder: Path, size: int = 8) -> Path:
    """Weights of a tiny network that adds something of its own."""
    arch = {"feature_dim": size, "num_features": size, "growth": size, "num_blocks": 1, "decoder_width": 2 * size}
    torch.manual_seed(0)
    network = ResidualArSSR(**arch)
    torch.nn.init.normal_(network.decoder[-1].weight, std=0.02)
    save_checkpoint(folder / "tiny.pt", network, {"name": "ResidualArSSR", **arch})
    return folder / "tiny.pt"


def tiny_transmrsr(folder: Path) -> Path:
    """The same of the bundle for thick slices."""
    arch = {"slices": 3, "widths": [8, 16], "style_dim": 16, "head_width": 4, "num_centroids": 0}
    torch.manual_seed(0)
    network = AnySizeTransMRSR(**arch)
    torch.nn.init.normal_(network.last.weight, std=0.02)
    save_checkpoint(folder / "thick.pt", network, {"name": "AnySizeTransMRSR", **arch})
    return folder / "thick.pt"


class Page:
    """What a page holds.

    Attributes:
        text: the whole file.
        data: what its scripts read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.text = self.path.read_text(encoding="utf-8")
        self.data: dict[str, Any] = json.loads(re.search(r"id='page-data'>(.*?)</script>", self.text)[1])

    def array(self, name: str) -> np.ndarray:
        text = re.search(rf"id='array-{name}'>(.*?)</script>", self.text)[1]
        return self.unpacked(self.data["arrays"][name], text)

    @staticmethod
    def unpacked(header: Mapping[str, Any], text: str) -> np.ndarray:
        """As ``page.unpack`` does it, written plainly."""
        *_, rows, columns = header["shape"]
        data = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(-1, 2, rows, columns)
        folded = data[:, 0].astype(int) + 256 * data[:, 1].astype(int)
        rest = (folded >> 1) ^ -(folded & 1)
        q = np.zeros_like(rest)
        for r in range(rows):
            for c in range(columns):
                left = q[:, r, c - 1] if c else 0
                up = q[:, r - 1, c] if r else 0
                q[:, r, c] = ((left + up) // 2 if r and c else left + up) + rest[:, r, c] & 0xFFFF
        return (header["offset"] + header["step"] * q).reshape(header["shape"])
