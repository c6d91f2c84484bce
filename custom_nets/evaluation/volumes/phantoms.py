"""What a network makes of phantoms of which all is known: overshoot at edges, and what it finds in noise.

A sphere and an oblique edge, uniform on either side, are measured in each way, made fine again by each network and by
B-spline, and compared with what they were.

- *overshoot*: the largest value beyond the two that there are, as a share of the step, without noise;
- *noise*: where nothing but noise is (10 voxels and more from the sphere's surface), the standard deviation, and the
  largest deviation; both in standard deviations of the measured noise. Of 100,000 voxels of white noise, the largest is
  near 4.4 by itself.

    python -m custom_nets.evaluation.volumes.phantoms REPORT --checkpoint bundles/arssr/models/model.pt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.checkpoints import load_network
from custom_nets.evaluation.report import write_measured
from custom_nets.evaluation.tables import markdown_rows
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, ThickSliceInferer
from custom_nets.inferers.measured_blur import BlurOptions, MeasuredBlur
from custom_nets.operators.scipy_resampling import BASELINES
from custom_nets.operators.slice_profile import PointSpread, degrade
from custom_nets.utils.commands import CommandParser

__all__ = ["main", "measure", "oblique_edge", "sphere"]

LOW, HIGH = 0.2, 0.8
PROFILES = ("gaussian:1.0", "box:1.0", "trapezoid:1.0", "kspace:1.0", "kspace_hann:1.0")
SCALES = {"iso2": (2, 2, 2), "1x1x4": (1, 1, 4)}
NOISE = 0.02  # standard deviation, as measured
_BORDER = 8  # voxels at the outer faces that do not count
_FAR = 10  # voxels from the surface
Row = dict[str, Any]


def sphere(side: int = 64, radius: float = 20.0) -> NDArray[np.float32]:
    """[side, side, side]: a sphere of :data:`HIGH` in :data:`LOW`, voxels of its surface partly filled."""
    places = _places(side)
    return _filled(np.sqrt(((places - (side - 1) / 2) ** 2).sum(0)) < radius)


def oblique_edge(side: int = 64) -> NDArray[np.float32]:
    """[side, side, side]: an edge through the middle, at an angle to all axes."""
    places = _places(side) - (side - 1) / 2
    return _filled(np.tensordot([0.9, 0.3, 0.6], places, 1) > 0)


def _places(side: int) -> NDArray[np.float64]:
    """[3, 2 side, 2 side, 2 side]: eight in each voxel."""
    return np.stack(np.meshgrid(*[np.arange(2 * side) / 2 - 0.25] * 3, indexing="ij"))


def _filled(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    side = len(inside) // 2
    share = inside.reshape(side, 2, side, 2, side, 2).mean((1, 3, 5))
    return (LOW + (HIGH - LOW) * share).astype(np.float32)


def measure(networks: dict[str, Any], told: bool = True, side: int = 64) -> list[Row]:
    """Rows of scale, profile, method, overshoot at sphere and edge, and what is made of noise.

    Args:
        networks: name -> network; those of thick slices are asked for 1x1x4 only.
        told: what the blur is; otherwise it is found in the image.
        side: of the phantoms, in voxels.
    """
    phantoms = {"sphere": sphere(side, side / 3.2), "edge": oblique_edge(side)}
    distance = np.abs(np.sqrt(((_places(side)[:, ::2, ::2, ::2] + 0.25 - (side - 1) / 2) ** 2).sum(0)) - side / 3.2)
    rows: list[Row] = []
    for scale_name, scale in SCALES.items():
        for profile in PROFILES:
            found: dict[str, Row] = {}
            for phantom, noise in (("sphere", 0.0), ("edge", 0.0), ("sphere", NOISE)):
                truth, fine = torch.from_numpy(phantoms[phantom]), Grid((side,) * 3, np.eye(4))
                source = fine.rescaled([1 / s for s in scale])
                image = degrade(truth, source.shape, PointSpread.of(profile))
                image = image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
                results = _results(networks, image, source, fine, scale, profile if told else None)
                for method, result in results.items():
                    row = found.setdefault(method, {"scale": scale_name, "measured by": profile, "method": method})
                    if noise:
                        error = (result - truth)[torch.from_numpy(distance > _FAR)] / NOISE
                        row["noise, sd"] = float(error.std())
                        row["noise, largest"] = float(error.abs().max())
                    else:
                        middle = result[(slice(_BORDER, -_BORDER),) * 3]
                        over = max(float(middle.max()) - HIGH, LOW - float(middle.min())) / (HIGH - LOW)
                        row[f"overshoot, {phantom} (%)"] = 100 * over
            rows += found.values()
    return rows


def _results(
    networks: dict[str, Any],
    image: torch.Tensor,
    source: Grid,
    fine: Grid,
    scale: Sequence[int],
    profile: str | None,
) -> dict[str, torch.Tensor]:
    """Method -> volume on ``fine``."""
    results = {"bspline": torch.from_numpy(BASELINES["bspline"](image.numpy(), source, fine))}
    for name, network in networks.items():
        thick = hasattr(network, "slices")
        if thick and scale[0] != 1:
            continue
        if profile is None:
            blur = BlurOptions().resolve(image, source, {}, 2 if thick else None, find_interpolated=not thick)
        else:
            blur = MeasuredBlur((PointSpread.of(profile),) * 3, (1.0, 1.0, 1.0), "told")
        if thick:
            results[name] = ThickSliceInferer().sample(network, image, source, fine, 2, blur)[0]
        else:
            results[name] = ImplicitVolumeInferer(scale=scale).sample(network, image, source, fine, blur)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.evaluation.volumes.phantoms REPORT``"""
    parser = CommandParser(prog="python -m custom_nets.evaluation.volumes.phantoms", description=__doc__.split("\n")[0])
    parser.add_argument("report", help="folder for table.md, rows.csv and record.json")
    parser.add_argument("--checkpoint", nargs="+", required=True, help="of networks; several are compared")
    parser.add_argument("--auto", action="store_true", help="the blur is not told")
    options = parser.parse_args(arguments)
    networks = {type(network).__name__: network for network in map(load_network, options.checkpoint)}
    if len(networks) < len(options.checkpoint):
        parser.error("one checkpoint of each kind of network: the columns are named after them.")
    rows = measure({name: network.eval() for name, network in networks.items()}, told=not options.auto)
    shown = [{key: f"{x:.1f}" if isinstance(x, float) else x for key, x in row.items()} for row in rows]
    table = "\n".join(markdown_rows(list(rows[0]), [list(row.values()) for row in shown])) + "\n"
    write_measured(options.report, rows, table, vars(options), options.checkpoint)


if __name__ == "__main__":
    main()
