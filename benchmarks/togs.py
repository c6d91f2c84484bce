"""How many frames a second a fitted TOGS renders, and how large it is on disk.

    python -m benchmarks.togs                                          # clouds of 6,000 and 50,000 Gaussians
    python -m benchmarks.togs --fit OUT/CASE_fit.pt --json togs.json   # a fit of the bundle
    python -m benchmarks.togs --device cuda

A frame is a view of the whole panel from a new angle at a new time: nothing is kept from one to the next.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import matmul_rate, timed
from custom_nets.geometry.cone_beam import circular_trajectory
from custom_nets.networks import TOGS
from custom_nets.networks.layers.attenuation_field import ScanGrid
from custom_nets.operators.cone_beam import view_vectors
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment

_PANEL_MM = 250.0


def cloud(count: int) -> TOGS:
    """Gaussians as wide as those of a fit at 1.3 mm voxels, in a head of 80 mm."""
    field = TOGS(num_gaussians=count)
    grid = ScanGrid((96, 96, 96), (1.3, 1.3, 1.3), (160, 192), 5.5)
    places = torch.randint(20, 76, (25_000, 3), generator=torch.Generator().manual_seed(0))
    voxels = torch.unique(places[:, 0] * 96 * 96 + places[:, 1] * 96 + places[:, 2])
    field.bind(grid, voxels, torch.full((len(voxels),), 0.01))
    return field


def measure(field: TOGS, size: int, frames: int, device: str) -> dict[str, Any]:
    """Frames a second of ``size`` x ``size`` pixels, and megabytes of the saved field."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(field.saved(), Path(folder) / "fit.pt")
        megabytes = (Path(folder) / "fit.pt").stat().st_size / 1e6
    field = TOGS.from_saved(field.saved(), device)  # type: ignore[assignment]
    field.grid = replace(field.bound()[1], panel_shape=(size, size))
    angles = np.linspace(0, np.pi, frames)
    turn = circular_trajectory(angles, 765, 1200, (size, size), (_PANEL_MM / size,) * 2)
    vectors = torch.as_tensor(view_vectors(turn))
    times = torch.linspace(0, field.grid.duration_s, frames, device=device)

    def render() -> None:
        for k in range(frames):
            field(vectors[k : k + 1], times[k : k + 1])

    with torch.no_grad():
        field(vectors[:1], times[:1])
        _, wall, cpu = timed(render, device)
    return {
        "gaussians": len(field.mean),
        "size": size,
        "frames_per_s": round(frames / wall, 2),
        "frames_per_cpu_s": round(frames / max(cpu, 1e-9), 2),
        "megabytes": round(megabytes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.togs", description=__doc__.splitlines()[0])
    parser.add_argument("--fit", type=Path, help="a CASE_fit.pt that the bundle wrote")
    parser.add_argument("--gaussians", type=int, nargs="+", default=[6_000, 50_000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.fit:
        fields = [TOGS.from_saved(torch.load(args.fit, weights_only=True)["network"])]
    else:
        fields = [cloud(count) for count in args.gaussians]
    rows = [measure(field, args.size, args.frames, args.device) for field in fields]  # type: ignore[arg-type]
    for row in rows:
        print(row)
    if args.json:
        device = "CPU" if args.device == "cpu" else torch.cuda.get_device_name()
        rate = round(matmul_rate(args.device))
        speed = {"device": device, "threads": torch.get_num_threads(), "matmul_gflop_s": rate}
        write_json(args.json, {**speed, "rows": rows, "versions": environment()})


if __name__ == "__main__":
    main()
