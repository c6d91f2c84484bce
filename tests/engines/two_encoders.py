"""A small model of two encoders, pictures and the words that describe them, as TinyCLIP has; for tests alone.

python -m tests.engines.two_encoders        # what inheritance and affinities save, three seeds, about a minute
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.checkpoints import inherit
from custom_nets.inferers import TeacherInferer
from custom_nets.losses import DistillationLoss
from custom_nets.networks.layers.channels import ChannelMap, Space
from custom_nets.simulation.splat import splat_discs
from custom_nets.simulation.vessel_tree import Bolus, grow_tree

# side (left, right), phase (early, full, late), angle (frontal, oblique, lateral), lesion (none, aneurysm)
CAPTIONS = torch.tensor(list(product(range(2), range(3), range(3), range(2))))  # [36, 4]
SIZE = 32


def pictures(seed: int) -> torch.Tensor:
    """One simulated vessel tree [36, 1, SIZE, SIZE], as each of :data:`CAPTIONS` says."""
    rng = np.random.default_rng(seed)
    tree = grow_tree(
        rng, [25.0, 0.0, -55.0], [0.0, 0.1, 1.0], 1.9, smallest_radius_mm=0.75, trunk_mm=25.0,
        bounds_mm=(38.0, 45.0, 60.0),
    )  # fmt: skip
    centre = np.array([22.0, 8.0, 0.0])  # of one half of the head
    where = tree.position_mm + centre
    bolus = Bolus(start_s=0.1, duration_s=0.7, sharpness=3.0, time_constant_s=0.1, dispersion=0.05)
    sac = where[rng.integers(len(where) // 3, len(where) // 2)] + rng.normal(0, 2, 3)
    last = np.quantile(tree.arrival_s, 0.9)
    found = []
    for side, phase, angle, lesion in CAPTIONS.tolist():
        time_s = (0.35, 0.75, 1.05)[phase] + (0.4, 0.8, 1.0)[phase] * last
        points, mass = where, bolus.concentration(time_s, tree.arrival_s) * tree.volume_mm3
        radius = tree.radius_mm
        if lesion:
            points, radius = np.vstack([points, sac]), np.append(radius, 7.0)
            mass = np.append(mass, 4 / 3 * np.pi * 7.0**3)
        turn = np.deg2rad((0, 35, 65)[angle])
        across = (1 - 2 * side) * (np.cos(turn) * points[:, 0] + np.sin(turn) * points[:, 1])
        shown = np.stack([across, -points[:, 2]], 1) / (130 / SIZE) + SIZE / 2 - 0.5
        found.append(splat_discs((SIZE, SIZE), shown, radius / (130 / SIZE), mass))
    image = np.log1p(np.stack(found)) + rng.normal(0, 0.1, (len(CAPTIONS), SIZE, SIZE))
    return torch.as_tensor(image, dtype=torch.float32)[:, None]


class Block(nn.Module):
    """Attention and an MLP, both behind a norm and residual; tokens [B, N, C]."""

    def __init__(self, width: int, heads: int, hidden: int, head_width: int = 16) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.proj = nn.Linear(heads * head_width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Tokens from pictures [B, 1, SIZE, SIZE] or from words [B, 4] -> [B, C]."""

    def __init__(self, first: nn.Module, tokens: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.first = first
        self.place = nn.Parameter(0.1 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        return self.norm(self.blocks(x + self.place).mean(1))


class TwoEncoders(nn.Module):
    """Similarities [B, B] of pictures (rows) and words (columns)."""

    token_layers = ("pictures", "words")
    depths = ("pictures.blocks", "words.blocks")

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        patches, words = nn.Conv2d(1, width, 8, 8), nn.Embedding(10, width)
        self.pictures = Encoder(patches, (SIZE // 8) ** 2, width, depth, heads, hidden)
        self.words = Encoder(words, 4, width, depth, heads, hidden)

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        a, b = self.pictures(image), self.words(words + torch.tensor([0, 2, 5, 8]))
        return 20 * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T

    def channels(self) -> ChannelMap:
        found = ChannelMap()
        for name, encoder in (("pictures", self.pictures), ("words", self.words)):
            for i, block in enumerate(encoder.blocks):
                stream = [block.proj.out_features]
                heads = Space(f"{name} heads {i}", block.heads, block.head_width, cuttable=True)
                hidden = Space(f"{name} hidden {i}", block.mlp[0].out_features, cuttable=True)
                found.layer(f"{name}.blocks.{i}.qkv", stream, 3 * [heads])
                found.layer(f"{name}.blocks.{i}.proj", [heads], stream)
                found.layer(f"{name}.blocks.{i}.mlp.0", stream, [hidden])
                found.layer(f"{name}.blocks.{i}.mlp.2", [hidden], stream)
        return found


def contrast(similarities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: each picture finds its words and the other way round."""
    return (F.cross_entropy(similarities, target) + F.cross_entropy(similarities.T, target)) / 2


@torch.no_grad()
def recall_at_1(network: nn.Module, trees: list[torch.Tensor]) -> float:
    """Share of the pictures whose words are the most similar ones of all captions."""
    network.eval()
    found = [network(tree, CAPTIONS).argmax(1) == torch.arange(len(CAPTIONS)) for tree in trees]
    return float(torch.cat(found).float().mean())


LossOf = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
HALF = {"heads": 2, "hidden": 56}


def hard(network: nn.Module, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The task's loss, without a teacher."""
    return contrast(network(image, CAPTIONS), target)


def imitating(teacher: nn.Module, **weights: float) -> LossOf:
    """A loss of :class:`DistillationLoss` with these weights."""
    loss, inferer = DistillationLoss(contrast, **weights), TeacherInferer(teacher)
    return lambda network, image, target: loss(inferer(image, network, CAPTIONS), target)


def train(
    network: nn.Module,
    loss: LossOf,
    trees: torch.Tensor,
    seen: list[torch.Tensor],
    goal: float,
    steps: int,
    every: int = 10,
    seed: int = 1,
) -> tuple[int, float]:
    """Until ``goal`` is reached; steps that it took, and recall at 1 on trees that nothing was trained on."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
    target = torch.arange(len(CAPTIONS))
    recall = 0.0
    for step in range(1, steps + 1):
        image = trees[torch.randint(len(trees), (len(CAPTIONS),)), target]  # each caption, of any tree
        network.train()
        optimizer.zero_grad()
        loss(network, image, target).backward()
        optimizer.step()
        if step % every == 0:
            recall = recall_at_1(network, seen)
            if recall >= goal:
                return step, recall
    return steps, recall


def trained_teacher() -> tuple[TwoEncoders, float, torch.Tensor, list[torch.Tensor]]:
    """A teacher, its recall at 1, the trees to train with and those to look at."""
    trees = torch.stack([pictures(seed) for seed in range(60)])
    trees, seen = trees[:48], list(trees[48:])
    torch.manual_seed(0)
    teacher = TwoEncoders()
    _, best = train(teacher, hard, trees, seen, 1.0, steps=450, every=450)
    return teacher, best, trees, seen


def ablation(seeds: tuple[int, ...] = (1, 2, 3), steps: int = 300) -> str:
    """Steps of students of half the weights to 95 % of the teacher's recall, as a table."""
    teacher, best, trees, seen = trained_teacher()
    ways = {
        "from scratch": (False, hard),
        "features alone": (False, imitating(teacher, task=0.0, feature=1.0)),
        "affinity alone": (False, imitating(teacher, task=0.0, affinity=1.0)),
        "inheritance alone": (True, hard),
        "inheritance and affinity": (True, imitating(teacher, task=0.0, affinity=1.0)),
    }
    lines = [f"| student | steps to a recall of {0.95 * best:.2f} (teacher {best:.2f}) |", "| --- | --- |"]
    for name, (inherits, loss) in ways.items():
        taken = []
        for seed in seeds:
            torch.manual_seed(seed)
            student = TwoEncoders(**HALF)
            if inherits:
                inherit(student, teacher)
            count, recall = train(student, loss, trees, seen, 0.95 * best, steps, seed=seed)
            taken.append(str(count) if recall >= 0.95 * best else f"not in {steps} ({recall:.2f})")
        lines.append(f"| {name} | {', '.join(taken)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(ablation())
