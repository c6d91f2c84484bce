"""TinyCLIP's two ideas on their own ground: pictures and words, a student of half the weights, fewer steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from custom_nets.checkpoints import inherit
from custom_nets.engines import GatedNetwork
from custom_nets.inferers import TeacherInferer
from custom_nets.losses import DistillationLoss
from tests.engines.two_encoders import CAPTIONS, TwoEncoders, contrast, pictures, recall_at_1

LossOf = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def train(
    network: nn.Module, loss: LossOf, trees: torch.Tensor, seen: list[torch.Tensor], goal: float, steps: int, every: int
) -> tuple[int, float]:
    """Until ``goal`` is reached; steps that it took, and recall at 1 on trees that nothing was trained on."""
    torch.manual_seed(1)
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


def hard(network: nn.Module, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return contrast(network(image, CAPTIONS), target)


@pytest.mark.slow
def test_half_the_weights_reach_the_teacher_in_fewer_steps_than_from_scratch():
    trees = torch.stack([pictures(seed) for seed in range(60)])
    trees, seen = trees[:48], list(trees[48:])
    torch.manual_seed(0)
    teacher = TwoEncoders()
    _, best = train(teacher, hard, trees, seen, 1.0, steps=450, every=450)
    assert best > 0.5  # by chance it is 1 in 36

    mimicry = DistillationLoss(contrast, task=0.0, affinity=1.0)
    inferer = TeacherInferer(teacher)

    def affinities(network: nn.Module, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return mimicry(inferer(image, network, CAPTIONS), target)

    half = {"heads": 2, "hidden": 56}
    taken = {}
    for name, loss in (("from scratch", hard), ("inherited, affinities", affinities)):
        torch.manual_seed(1)
        student = TwoEncoders(**half)
        if "inherited" in name:
            inherit(student, teacher)
        taken[name] = train(student, loss, trees, seen, 0.95 * best, steps=400, every=10)
        print(f"{name}: {taken[name][0]} steps, recall at 1 {taken[name][1]:.3f} (teacher {best:.3f})")
    assert sum(p.numel() for p in student.parameters()) <= 0.505 * sum(p.numel() for p in teacher.parameters())
    assert taken["inherited, affinities"][1] >= 0.95 * best
    assert 1.4 * taken["inherited, affinities"][0] <= taken["from scratch"][0]


def test_gates_of_heads_and_units_of_both_encoders_cut_to_a_plain_model():
    torch.manual_seed(0)
    teacher, image = TwoEncoders(depth=2), torch.rand(3, 1, 32, 32)
    gated = GatedNetwork(teacher, TwoEncoders(depth=1, heads=2, hidden=40))
    assert set(gated.kept) == {f"{a} {b} {i}" for a in ("pictures", "words") for b in ("heads", "hidden") for i in (0,)}
    gated = GatedNetwork(teacher, TwoEncoders(depth=2, heads=2, hidden=40))
    with torch.no_grad():
        for gate in gated.gates:
            gate.copy_(torch.randn_like(gate) / 10)
        gated.eval()
        torch.testing.assert_close(gated.cut()(image, CAPTIONS[:3]), gated(image, CAPTIONS[:3]), atol=1e-4, rtol=1e-4)
