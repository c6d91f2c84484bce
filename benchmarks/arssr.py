"""Speed of ArSSR with the same weights and the same output: as published, encoding once, and ours.

    python -m benchmarks.arssr                       # RDN, 24^3 -> 48^3, all cores, prints a table
    python -m benchmarks.arssr --json benchmarks/arssr.json

Each way runs in a process of its own, one after another in one run, so peak memory is its own and the machine the
same. Ratios of CPU time are what to compare: seconds on a shared machine lie. The matrix-product rate of the machine is
measured in each process, right before and after.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import matmul_rate, run_ways, timed
from custom_nets.geometry import Grid
from custom_nets.inferers import ImplicitVolumeInferer, PublishedProcedureInferer
from custom_nets.networks import ArSSR
from custom_nets.networks.layers import rows, winograd
from custom_nets.utils.files import write_json
from custom_nets.utils.record import environment, peak_memory_gib

WAYS = ("published", "encode_once", "ours", "ours_bfloat16")


def operations(network: ArSSR, lr_voxels: int, hr_voxels: int, encoder_passes: int) -> float:
    """Floating point operations (2 per multiply-add) of convolutions and linear layers."""
    encoder = sum(p.numel() for n, p in network.encoder.named_parameters() if n.endswith("weight"))
    decoder = sum(p.numel() for n, p in network.decoder.named_parameters() if n.endswith("weight"))
    return 2.0 * (encoder * lr_voxels * encoder_passes + decoder * hr_voxels)


def run_way(way: str, encoder: str, size: int, scale: float, threads: int, device: str, repeats: int) -> dict[str, Any]:
    """Time one way; its output is saved to the path in BENCHMARK_OUTPUT for the comparison."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if not way.startswith("ours"):
        # PyTorch's plain layers, as the published code has them
        rows._rows_fast = lambda x: False
        winograd.suits = lambda x, convs: False
    network = ArSSR(encoder).eval().to(device)
    network.state_dict()["decoder.stage_two.6.bias"].fill_(0.5)  # no dead output unit
    volume = torch.rand(size, size, size)
    image = volume[None, None].to(device)
    out_size = int(size * scale)
    # network axes are (z, y, x)
    source = Grid((size,) * 3, np.eye(4))
    target = source.rescaled(out_size / size)
    inferer = ImplicitVolumeInferer(
        scale=out_size / size, memory_gb=16, precision="bfloat16" if way.endswith("bfloat16") else "float32"
    )
    coords = (2 * torch.arange(out_size, dtype=torch.float32) + 1) / out_size - 1
    grid = torch.stack(torch.meshgrid(coords, coords, coords, indexing="ij"), -1).reshape(1, -1, 3)

    def encode_once() -> torch.Tensor:
        with torch.no_grad():
            return network(image, grid.to(device)).reshape((out_size,) * 3)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "published": lambda: PublishedProcedureInferer(scale)(image, network)[0, 0],
        "encode_once": encode_once,
        "ours": lambda: inferer.sample(network, volume.permute(2, 1, 0), source, target).permute(2, 1, 0),
    }
    function = ways["ours" if way.startswith("ours") else way]
    if way != "published":  # one warm-up; the published procedure repeats itself 48 times anyway
        function()
    dtype = torch.bfloat16 if way.endswith("bfloat16") else torch.float32
    rate = matmul_rate(device, dtype)
    runs = [timed(function, device) for _ in range(1 if way == "published" else repeats)]
    rate = max(rate, matmul_rate(device, dtype))
    output, wall, cpu = min(runs, key=lambda run: run[2])
    np.save(os.environ["BENCHMARK_OUTPUT"], output.float().cpu().numpy())
    flop = operations(network, size**3, out_size**3, out_size if way == "published" else 1)
    seconds = wall if device == "cuda" else cpu
    return {
        "way": way,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_memory_gib(),
        "gflop": flop / 1e9,
        "gflop_per_second": flop / seconds / 1e9,
        "matmul_gflop_per_second": rate,
        "fraction_of_matmul_rate": flop / seconds / 1e9 / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arssr", description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="RDN", choices=["RDN", "ResCNN", "SRResNet"])
    parser.add_argument("--size", type=int, default=24, help="voxels per axis of the input")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores, as PyTorch does")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device here; use --device cpu.")
    if args.way:
        result = run_way(args.way, args.encoder, args.size, args.scale, args.threads, args.device, args.repeats)
        print(json.dumps(result))
        return

    options = {name: getattr(args, name) for name in ("encoder", "size", "scale", "repeats", "device")}
    results, outputs = run_ways("benchmarks.arssr", args.ways, args.threads, **options)
    reference = outputs[args.ways[0]]
    key = "wall_seconds" if args.device == "cuda" else "cpu_seconds"
    sizes = f"{args.size}^3 -> {int(args.size * args.scale)}^3"
    print(f"{args.encoder}, {sizes}, {args.threads} thread(s), {args.device}\n")
    print("| way | wall s | CPU s | times less | peak GiB | GFLOP | of matmul rate | max difference |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        result["times_less"] = results[0][key] / result[key]
        result["max_difference"] = float(np.abs(outputs[result["way"]] - reference).max() / np.abs(reference).max())
        print(
            f"| {result['way']} | {result['wall_seconds']:.2f} | {result['cpu_seconds']:.2f} "
            f"| {result['times_less']:.1f} | {result['peak_memory_gib']:.2f} | {result['gflop']:.0f} "
            f"| {result['fraction_of_matmul_rate']:.2f} | {result['max_difference']:.1e} |"
        )
    if args.json:
        options = {k: v for k, v in vars(args).items() if k not in ("json", "way")}
        write_json(args.json, {"options": options, "results": results, "environment": environment()})


if __name__ == "__main__":
    main()
