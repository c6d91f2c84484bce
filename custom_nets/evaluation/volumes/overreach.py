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
from copy import copy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Orientation
from monai.utils import convert_to_tensor

from custom_nets.checkpoints import load_network
from custom_nets.evaluation.report import write_measured
from custom_nets.evaluation.tables import markdown_rows
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.metrics.mean import psnr_db
from custom_nets.operators.scipy_resampling import BASELINES
from custom_nets.operators.slice_profile import PointSpread, degrade
from custom_nets.transforms import LoadSubjectd
from custom_nets.utils.commands import CommandParser

__all__ = ["main", "measure", "read_head"]

PROFILES = ("gaussian:0.7", "gaussian:1.0", "gaussian:1.2", "box:0.8", "box:1.0", "trapezoid:1.0", "kspace_hann:1.0")
SCALES = {"iso2": (2, 2, 2), "iso3": (3, 3, 3), "1x1x4": (1, 1, 4), "1x1x5": (1, 1, 5), "1x1x8": (1, 1, 8)}
_AIR = 0.1  # is below
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
        heads: name -> truth [X, Y, Z], intensities of about [0, 1].
        told: shares of the true thickness.
    """
    network = copy(network)
    network.largest_overreach = float("inf")  # what goes too far is to be seen
    rows: list[Row] = []
    for (head, truth), (name, scale), profile in product(heads.items(), scales.items(), profiles):
        if hasattr(network, "slices") and scale[0] != 1:
            continue
        nx, ny, nz = (n // k * k for n, k in zip(truth.shape, scale, strict=True))
        part, fine = truth[:nx, :ny, :nz], Grid((nx, ny, nz), np.eye(4))
        source, spread = fine.rescaled([1 / k for k in scale]), PointSpread.of(profile)
        image = degrade(part, source.shape, spread)
        plain = _psnr(torch.from_numpy(BASELINES["bspline"](image.numpy(), source, fine)), part)
        for width in told:
            meta = {"point_spread": str(spread.wider(width))}
            measured = MetaTensor(image[None, None], affine=torch.as_tensor(source.affine), meta=meta)
            corrected, left = (_made(network, measured, fine, consistent) for consistent in (True, False))
            report = json.loads(corrected.meta["inference"][0])
            rows.append(
                {
                    "head": head,
                    "scale": name,
                    "measured by": profile,
                    "told": width,
                    "overreach": report["data_consistency"]["overreach"],
                    "corrected": _psnr(corrected[0, 0], part) - plain,
                    "left": _psnr(left[0, 0], part) - plain,
                }
            )
    return rows


def _made(network: Any, image: MetaTensor, fine: Grid, data_consistency: bool) -> MetaTensor:
    kind: Any = ThickSliceInferer if hasattr(network, "slices") else ImplicitVolumeInferer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is told wrongly is warned about, as it should be
        return kind(like=fine, data_consistency=data_consistency)(image, network)


def _psnr(volume: torch.Tensor, truth: torch.Tensor) -> float:
    error = convert_to_tensor(volume, track_meta=False) - truth
    return float(psnr_db(float(error[truth > _AIR].square().mean())))


def read_head(path: str | Path, side: int) -> torch.Tensor:
    """The middle of a volume as training takes it, ``side`` voxels at most along each axis; the last one goes upwards.

    Raises:
        ValueError: not one 3D volume.
    """
    volume = LoadSubjectd("image")({"image": str(path)})["image"]
    if volume.ndim != 4 or len(volume) != 1:
        raise ValueError(f"{path} must be one 3D volume, it has {len(volume)}.")
    middle = CenterSpatialCrop(side)(Orientation("RAS", labels=None)(volume))
    return convert_to_tensor(middle[0], track_meta=False).contiguous()


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
    write_measured(options.report, rows, table, vars(options), [options.checkpoint])


if __name__ == "__main__":
    main()
