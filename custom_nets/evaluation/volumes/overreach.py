"""How far a correction to what was measured goes, and whether it helps: where to set the bound of some weights.

A result is corrected until it is measured as the input was. Told a blur that is wider than it was, the correction asks
for detail that was never there; :func:`custom_nets.operators.data_consistency.overreach` tells. Heads of the training
(never those of a test) are measured in each way, made fine again with the blur told right and too wide, with the
correction and without it. The bound lies above what the right blur reaches, and below where the correction harms.

    python -m custom_nets.evaluation.volumes.overreach REPORT --checkpoint model.pt --heads A.nii.gz B.nii.gz

The bound is an argument of the network, ``largest_overreach``, and kept in its checkpoint.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from custom_nets.checkpoints import load_network
from custom_nets.evaluation.tables import csv_text, markdown_rows
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.operators.scipy_resampling import BASELINES
from custom_nets.operators.slice_profile import PointSpread, degrade
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.files import write_json, write_text
from custom_nets.utils.record import environment, file_record

__all__ = ["main", "measure"]

PROFILES = ("gaussian:0.7", "gaussian:1.0", "gaussian:1.2", "box:0.8", "box:1.0", "trapezoid:1.0", "kspace_hann:1.0")
SCALES = {"iso2": (2, 2, 2), "iso3": (3, 3, 3), "1x1x4": (1, 1, 4), "1x1x5": (1, 1, 5), "1x1x8": (1, 1, 8)}
Row = dict[str, Any]


def measure(
    network: Any,
    heads: Mapping[str, torch.Tensor],
    profiles: Sequence[str] = PROFILES,
    scales: Mapping[str, Sequence[int]] = SCALES,
    told: Sequence[float] = (1.0, 1.3),
) -> list[Row]:
    """Rows of head, scale, profile, how many times as wide it was told, overreach, and the gains over B-spline (dB).

    Args:
        network: for volumes, with ``largest_overreach``; one of thick slices is asked for thick slices only.
        heads: name -> truth [X, Y, Z], intensities of about [0, 1]; air is below 0.1.
        told: shares of the true thickness.
    """
    thick = hasattr(network, "slices")
    bound, rows = network.largest_overreach, []
    network.largest_overreach = float("inf")
    try:
        for head, truth in heads.items():
            for scale_name, scale in scales.items():
                if thick and scale[0] != 1:
                    continue
                nx, ny, nz = (n // k * k for n, k in zip(truth.shape, scale, strict=True))
                part, fine = truth[:nx, :ny, :nz], Grid((nx, ny, nz), np.eye(4))
                source = fine.rescaled([1 / k for k in scale])
                for profile in profiles:
                    true = PointSpread.of(profile)
                    image = degrade(part, source.shape, true)
                    plain = _psnr(torch.from_numpy(BASELINES["bspline"](image.numpy(), source, fine)), part)
                    for width in told:
                        row: Row = {"head": head, "scale": scale_name, "measured by": profile, "told": width}
                        for name, corrected in (("corrected", True), ("left", False)):
                            meta = {"point_spread": str(true.wider(width))}
                            options: dict[str, Any] = {"like": fine, "data_consistency": corrected}
                            inferer = ThickSliceInferer(**options) if thick else ImplicitVolumeInferer(**options)
                            item = MetaTensor(image[None, None], affine=torch.as_tensor(source.affine), meta=meta)
                            result = _quietly(inferer, item, network)
                            if corrected:
                                report = json.loads(result.meta["inference"][0])
                                row["overreach"] = report["data_consistency"]["overreach"]
                            row[name] = _psnr(convert_to_tensor(result[0, 0], track_meta=False), part) - plain
                        rows.append(row)
    finally:
        network.largest_overreach = bound
    return rows


def _quietly(inferer: Any, image: MetaTensor, network: Any) -> MetaTensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is told wrongly is warned about, as it should be
        return inferer(image, network)


def _psnr(volume: torch.Tensor, truth: torch.Tensor) -> float:
    return float(-10 * (volume - truth)[truth > 0.1].square().mean().log10())


def read_head(path: str | Path, side: int) -> torch.Tensor:
    """The middle of a volume, ``side`` voxels at most along each axis, the brightest tissue at about 1."""
    volume = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32)
    if volume.ndim != 3:
        raise ValueError(f"{path} must be one 3D volume, it has the shape {volume.shape}.")
    starts = [max(0, (n - side) // 2) for n in volume.shape]
    part = volume[tuple(slice(start, start + side) for start in starts)] / np.percentile(volume, 99.9)
    return torch.from_numpy(np.ascontiguousarray(part))


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.evaluation.volumes.overreach REPORT``"""
    from tqdm import tqdm

    parser = CommandParser(
        prog="python -m custom_nets.evaluation.volumes.overreach", description=__doc__.split("\n")[0]
    )
    parser.add_argument("report", help="folder for table.md, rows.csv and record.json")
    parser.add_argument("--checkpoint", required=True, help="of a network for volumes")
    parser.add_argument("--heads", nargs="+", required=True, help="volumes of the training, NIfTI")
    parser.add_argument("--side", type=int, default=80, help="voxels of each that are taken, along each axis")
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), help="such as box:1.0")
    parser.add_argument("--scales", nargs="+", choices=list(SCALES), default=list(SCALES))
    options = parser.parse_args(arguments)
    network = load_network(options.checkpoint).eval()
    scales = {name: SCALES[name] for name in options.scales}
    rows: list[Row] = []
    for path in tqdm(options.heads, desc="heads", unit="head"):
        head = {Path(path).name: read_head(path, options.side)}
        rows += measure(network, head, options.profiles, scales)
    shown = [[f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    table = "\n".join(markdown_rows(list(rows[0]), shown)) + "\n"
    folder = Path(options.report)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", table)
    write_text(folder / "rows.csv", csv_text(rows))
    record = {"options": vars(options), "checkpoints": [file_record(options.checkpoint)], **environment()}
    write_json(folder / "record.json", record)
    print(table)


if __name__ == "__main__":
    main()
