"""Speed and memory of TransMRSR with the same weights: in the published order of operations, and ours.

    python -m benchmarks.transmrsr                       # 256 x 256, all cores, prints a table
    python -m benchmarks.transmrsr --threads 1 --volume --json benchmarks/transmrsr.json

The ways:

* ``published``: :class:`PlainTransMRSR`, weights scaled and position biases gathered at every call, explicit softmax
  over all windows at once, masks for every window.
* ``ours``: :class:`custom_nets.networks.TransMRSR` as it is.

Each runs in a process of its own, one after another in one run, so peak memory is its own and the machine the same.
Ratios of CPU time are what to compare: seconds on a shared machine lie. The rate of a matrix product is measured in
each process, right before and after.

``--volume`` times, besides, the whole inference command with the shipped light weights on all cores: the MNI152
template as 36 slices of 5 mm, 256 x 256, made 180 of 1 mm (nilearn is needed).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import matmul_rate, peak_memory_gib, run_ways, timed
from custom_nets.networks import TransMRSR

WAYS = ("published", "ours")


# ---- the published order of operations ----


def _windows(x: torch.Tensor, w: int) -> torch.Tensor:
    """[B, H, W, C] -> [B * windows, w * w, C]."""
    b, h, width, c = x.shape
    return x.view(b, h // w, w, width // w, w, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, w * w, c)


def _joined(x: torch.Tensor, w: int, h: int, width: int) -> torch.Tensor:
    """[B * windows, w * w, C] -> [B, H, W, C]."""
    c = x.shape[-1]
    x = x.view(-1, h // w, width // w, w, w, c).permute(0, 1, 3, 2, 4, 5).contiguous()
    return x.view(-1, h, width, c)


def _position_index(w: int) -> torch.Tensor:
    place = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
    step = (place[:, :, None] - place[:, None, :] + w - 1).permute(1, 2, 0)
    return (step[..., 0] * (2 * w - 1) + step[..., 1]).flatten()


def _shift_masks(h: int, width: int, w: int, shift: int) -> torch.Tensor:
    """[windows, N, N]: one mask for each window of the map."""
    label = torch.zeros(1, h, width, 1)
    parts = (slice(0, -w), slice(-w, -shift), slice(-shift, None))
    for i, rows in enumerate(parts):
        for j, columns in enumerate(parts):
            label[:, rows, columns] = 3 * i + j
    label = _windows(label, w).squeeze(-1)
    return torch.zeros(()).where(label[:, None] == label[:, :, None], torch.tensor(-100.0))


class PlainTransMRSR(nn.Module):
    """What the published code computes, step by step as it does; to compare with, not to use.

    Args:
        state: weights with the published keys, and ``centroids`` [K, 512] for truncation.
        size: side of the planes.
        centroid_rule: as in :class:`custom_nets.networks.TransMRSR`.
    """

    def __init__(self, state: Mapping[str, torch.Tensor], size: int, centroid_rule: str = "farthest") -> None:
        super().__init__()
        self.state, self.size, self.centroid_rule = dict(state), size, centroid_rule
        # the published buffers
        self.masks = {n: _shift_masks(n, n, 8, 4) for n in (2**i for i in range(4, size.bit_length()))}
        self.index = {w: _position_index(w) for w in (4, 8)}

    def _linear(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"))

    def _conv(self, key: str, x: torch.Tensor) -> torch.Tensor:
        weight = self.state[f"{key}.weight"]
        return F.conv2d(x, weight, self.state[f"{key}.bias"], padding=weight.shape[-1] // 2)

    def _equal_conv(self, key: str, x: torch.Tensor) -> torch.Tensor:
        weight = self.state[f"{key}.weight"]
        return F.conv2d(x, weight * (1 / math.sqrt(weight[0].numel())), self.state[f"{key}.bias"], padding=1)

    def _equal_linear(self, key: str, x: torch.Tensor, rate: float = 1.0) -> torch.Tensor:
        weight = self.state[f"{key}.weight"]
        return F.linear(x, weight * (rate / math.sqrt(weight.shape[1])), self.state[f"{key}.bias"] * rate)

    def _norm(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{key}.weight"], self.state[f"{key}.bias"])

    def _mlp(self, key: str, x: torch.Tensor) -> torch.Tensor:
        return self._linear(f"{key}.fc2", F.gelu(self._linear(f"{key}.fc1", x)))

    def _trunk(self, key: str, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self._conv(f"{key}.conv_L1", x))
        for i in range(2):
            block = f"{key}.blk_L1.{i}"
            x = x + self._conv(f"{block}.conv2", F.relu(self._conv(f"{block}.conv1", x)))
        return x

    def _attention(
        self, qkv: torch.Tensor, table: torch.Tensor, scale: float, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """qkv [3, windows, N, C] -> [windows, N, C]."""
        _, n, tokens, c = qkv.shape
        heads = table.shape[1]
        q, k, v = qkv.view(3, n, tokens, heads, c // heads).permute(0, 1, 3, 2, 4)
        logits = (q * scale) @ k.transpose(-2, -1)
        bias = table[self.index[math.isqrt(tokens)]].view(tokens, tokens, heads).permute(2, 0, 1).contiguous()
        logits = logits + bias[None]
        if mask is not None:
            count = len(mask)
            logits = logits.view(-1, count, heads, tokens, tokens) + mask[None, :, None]
            logits = logits.view(-1, heads, tokens, tokens)
        return (logits.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, c)

    def _swin_block(self, key: str, x: torch.Tensor, n: int, shift: int) -> torch.Tensor:
        b, length, c = x.shape
        y = self._norm(f"{key}.norm1", x).view(b, n, n, c)
        if shift:
            y = torch.roll(y, (-shift, -shift), (1, 2))
        y = _windows(y, 8)
        qkv = self._linear(f"{key}.attn.qkv", y).view(*y.shape[:2], 3, c).permute(2, 0, 1, 3).contiguous()
        table = self.state[f"{key}.attn.relative_position_bias_table"]
        y = self._attention(qkv, table, 1.0, self.masks[n] if shift else None)
        y = _joined(self._linear(f"{key}.attn.proj", y), 8, n, n)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        x = x + y.view(b, length, c)
        return x + self._mlp(f"{key}.mlp", self._norm(f"{key}.norm2", x))

    def _encoder_level(self, key: str, x: torch.Tensor, n: int) -> torch.Tensor:
        b, length, c = x.shape
        y = x
        for i in range(2):
            y = self._swin_block(f"{key}.residual_group.blocks.{i}", y, n, 4 * i if n > 8 else 0)
        y = self._conv(f"{key}.conv", y.transpose(1, 2).view(b, c, n, n))
        x = (y.flatten(2).transpose(1, 2) + x).view(b, n, n, c)
        parts = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        merged = torch.cat(parts, -1).view(b, length // 4, 4 * c)
        return self._linear(f"{key}.downsample.reduction", self._norm(f"{key}.downsample.norm", merged))

    def _adain(self, key: str, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        gamma, beta = self._equal_linear(f"{key}.style", style).unsqueeze(-1).chunk(2, 1)
        return (F.instance_norm(x.transpose(1, 2)) * gamma + beta).transpose(1, 2)

    def _style_block(self, key: str, x: torch.Tensor, style: torch.Tensor, n: int) -> torch.Tensor:
        b, length, c = x.shape
        w, shift = min(8, n), 4 if n > 8 else 0
        y = self._adain(f"{key}.norm1", x, style)
        qkv = self._linear(f"{key}.qkv", y).view(b, n, n, 3, c).permute(3, 0, 1, 2, 4).reshape(3 * b, n, n, c)
        plain, moved = qkv[..., : c // 2], qkv[..., c // 2 :]
        if shift:
            moved = torch.roll(moved, (-shift, -shift), (1, 2))
        halves = []
        for i, half in enumerate((plain.contiguous(), moved.contiguous())):
            table = self.state[f"{key}.attn.{i}.relative_position_bias_table"]
            windows = _windows(half, w).view(3, -1, w * w, c // 2)
            scale = (c // 2 // table.shape[1]) ** -0.5
            z = _joined(self._attention(windows, table, scale, self.masks[n] if shift and i else None), w, n, n)
            halves.append(torch.roll(z, (shift, shift), (1, 2)) if shift and i else z)
        x = x + self._linear(f"{key}.proj", torch.cat([z.view(b, length, c // 2) for z in halves], -1))
        return x + self._mlp(f"{key}.mlp", self._adain(f"{key}.norm2", x, style))

    def _upsample(self, key: str, x: torch.Tensor, n: int) -> torch.Tensor:
        """tokens [B, n * n, C] -> map [B, C', 2n, 2n]."""
        b, _, c = x.shape
        large = F.interpolate(x.transpose(1, 2).view(b, c, n, n), scale_factor=2.0, mode="bilinear")
        y = self._norm(f"{key}.norm", large.flatten(2).transpose(1, 2))
        y = self._linear(f"{key}.reduction", y).transpose(1, 2).view(b, -1, 2 * n, 2 * n)
        half = y.shape[1] // 2
        rates = torch.exp(torch.arange(half // 2) * -(math.log(10000) / (half // 2 - 1)))
        angle = torch.arange(1.0, 2 * n + 1)[:, None] * rates
        code = torch.cat([angle.sin(), angle.cos()], 1)
        column = code[None].expand(2 * n, -1, -1)
        row = code[:, None].expand(-1, 2 * n, -1)
        return y + torch.cat([column, row], -1).permute(2, 0, 1)[None].repeat(b, 1, 1, 1) * self.state[f"{key}.alpha"]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] -> [B, 3, S, S]."""
        b, power = len(image), int(math.log2(self.size))
        shallow = self._trunk("conv2d", image)
        x = self._norm("patch_embed.norm", shallow.flatten(2).transpose(1, 2))
        scales: list[torch.Tensor] = []
        shifts: list[torch.Tensor] = []
        for i in range(power - 2):
            x = self._encoder_level(f"layers.{i}", x, self.size >> i)
            seen = x.transpose(1, 2).reshape(b, -1, self.size >> i + 1, self.size >> i + 1)
            for name, kept in (("condition_shift", shifts), ("condition_scale", scales)):
                y = F.leaky_relu(self._equal_conv(f"{name}.{i}.0", seen), 0.2) * math.sqrt(2)
                kept.append(self._equal_conv(f"{name}.{i}.2", y))
        x = self._norm("norm", x).flatten(1)
        styles = F.leaky_relu(self._equal_linear("final_layers", x, 0.01), 0.2) * math.sqrt(2)
        styles = styles.view(b, 2 * (power - 1), -1)
        if "centroids" in self.state:
            centroids = self.state["centroids"]
            distance = (styles[:, :, None] - centroids).square().sum(-1)
            index = distance.argmax(-1) if self.centroid_rule == "farthest" else distance.argmin(-1)
            styles = centroids[index] + 0.9 * (styles - centroids[index])

        y = self.state["generator.input.input"].repeat(b, 1, 1, 1)
        for i in range(power - 1):
            n, key = 4 << i, f"generator.layers.{i}"
            if scales:
                scale, shift = scales.pop(), shifts.pop()
                count = scale.shape[1]
                y = torch.cat([y[:, :count] * scale + shift, y[:, count:]], 1)
            x = y.flatten(2).transpose(1, 2)
            for j in range(2):
                x = self._style_block(f"{key}.blocks.{j}", x, styles[:, 2 * i + j], n)
            if i < power - 2:
                y = self._upsample(f"{key}.upsample", x, n)
        deep = x.transpose(1, 2).reshape(b, -1, self.size, self.size)
        return self._conv("conv_last", self._trunk("conv_deep", deep + shallow)) + image


# ---- the benchmark ----


def filled(network: nn.Module) -> nn.Module:
    """The network with random weights that keep signals alive, as training does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in network.named_parameters():
            plain = not any(part in key for part in ("condition", "final_layers", "style", "input"))
            if key.endswith("bias_table"):
                value.normal_(0, 0.5, generator=generator)
            elif value.ndim > 1 and plain:
                value.normal_(0, 0.7 / math.sqrt(value[0].numel()), generator=generator)
            elif key.endswith("alpha"):
                value.fill_(0.5)
            elif key.endswith("bias"):
                value.normal_(0, 0.1, generator=generator)
    return network.eval()


def make_way(way: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    network = filled(TransMRSR(size, num_centroids=8, centroid_rule="farthest"))
    network.get_buffer("centroids").copy_(0.5 * torch.randn(8, 512))
    if way == "ours":
        return network
    return PlainTransMRSR(network.state_dict(), size)


def run_way(way: str, size: int, threads: int, repeats: int) -> dict[str, Any]:
    """Time one way; its output is saved to the path in BENCHMARK_OUTPUT for the comparison."""
    torch.set_num_threads(threads)
    network = make_way(way, size)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))

    def run() -> torch.Tensor:
        with torch.no_grad():
            return network(image)

    run()
    peak = peak_memory_gib()
    before = matmul_rate("cpu")
    runs = [timed(run, "cpu") for _ in range(repeats)]
    rate = max(before, matmul_rate("cpu"))
    output, wall, cpu = min(runs, key=lambda r: r[2])
    np.save(os.environ["BENCHMARK_OUTPUT"], output.numpy())
    with FlopCounterMode(display=False) as counter:
        run()
    flop = counter.get_total_flops()
    return {
        "way": way,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_memory_gib": peak,
        "gflop": flop / 1e9,
        "matmul_gflop_per_second": rate,
        "fraction_of_matmul_rate": flop / cpu / 1e9 / rate,
    }


def run_volume() -> dict[str, Any]:
    """Time the inference command on a head: seconds of the command and of its work (from its record), and memory."""
    import nibabel as nib
    from nilearn.datasets import load_mni152_template

    from custom_nets import bundle_root

    head = load_mni152_template(resolution=1).get_fdata(dtype=np.float32)[:, :, :180]
    before = [(256 - n) // 2 for n in head.shape[:2]]
    head = np.pad(head, [*((b, 256 - n - b) for b, n in zip(before, head.shape[:2], strict=True)), (0, 0)])
    slices = head.reshape(256, 256, 36, 5).mean(-1)
    config = Path(bundle_root("transmrsr")) / "configs" / "inference.json"
    with tempfile.TemporaryDirectory() as folder:
        nib.save(nib.Nifti1Image(slices, np.diag([1.0, 1, 5, 1])), Path(folder) / "head.nii.gz")
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--spacing", "1"]
        command += ["--input", f"{folder}/head.nii.gz", "--output_dir", f"{folder}/out", "--device", "cpu"]
        start, cpu = time.perf_counter(), _child_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall, cpu = time.perf_counter() - start, _child_seconds() - cpu
        record = json.loads((Path(folder) / "out" / "head_transmrsr.json").read_text())
        result: Any = nib.load(Path(folder) / "out" / "head_transmrsr.nii.gz")
        shape = result.shape
    return {
        "cores": os.cpu_count(),
        "slices": list(slices.shape),
        "output": list(shape),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "seconds_of_the_record": record["seconds"],
        "peak_memory_gib": record["peak_memory_gib"],
    }


def _child_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transmrsr", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels of a side, a power of two")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores, as PyTorch does")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--volume", action="store_true", help="also time the inference of a whole head, light weights")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run_way(args.way, args.size, args.threads, args.repeats)))
        return

    options = {"size": args.size, "repeats": args.repeats}
    results, outputs = run_ways("benchmarks.transmrsr", args.ways, args.threads, **options)
    first = results[0]
    reference = outputs[first["way"]]
    print(f"\n{args.size} x {args.size}, one plane at a time, {args.threads} thread(s)\n")
    print("| way | wall s | CPU s | times less | peak GiB | of the first | GFLOP | of matmul rate | max difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        r["times_less"] = first["cpu_seconds"] / r["cpu_seconds"]
        r["of_memory"] = r["peak_memory_gib"] / first["peak_memory_gib"]
        r["max_difference"] = float(np.abs(outputs[r["way"]] - reference).max() / np.abs(reference).max())
        print(
            f"| {r['way']} | {r['wall_seconds']:.2f} | {r['cpu_seconds']:.2f} | {r['times_less']:.2f} "
            f"| {r['peak_memory_gib']:.2f} | {r['of_memory']:.2f} | {r['gflop']:.0f} "
            f"| {r['fraction_of_matmul_rate']:.2f} | {r['max_difference']:.1e} |"
        )
    volume = run_volume() if args.volume else None
    if volume:
        print(
            f"\nlight weights on {volume['cores']} cores, {volume['slices']} -> {volume['output']}: "
            f"{volume['wall_seconds']:.0f} s for the command ({volume['cpu_seconds']:.0f} s of CPU time), "
            f"{volume['peak_memory_gib']:.2f} GiB"
        )
    if args.json:
        options = {k: v for k, v in vars(args).items() if k not in ("json", "way")}
        from custom_nets.utils.files import write_json
        from custom_nets.utils.record import environment

        write_json(args.json, {"options": options, "results": results, "volume": volume, "environment": environment()})


if __name__ == "__main__":
    main()
