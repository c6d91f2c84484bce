"""TinyCLIP's two ideas on their own ground: pictures and words, a student of half the weights, fewer steps."""

from __future__ import annotations

import pytest
import torch

from custom_nets.checkpoints import inherit
from custom_nets.engines import GatedNetwork
from tests.engines.two_encoders import CAPTIONS, HALF, TwoEncoders, hard, imitating, train, trained_teacher


@pytest.mark.slow
def test_half_the_weights_reach_the_teacher_in_fewer_steps_than_from_scratch():
    teacher, best, trees, seen = trained_teacher()
    assert best > 0.5  # by chance it is 1 in 36
    taken = {}
    mimicry = imitating(teacher, task=0.0, affinity=1.0)
    for name, loss in (("from scratch", hard), ("inherited, affinities", mimicry)):
        torch.manual_seed(1)
        student = TwoEncoders(**HALF)
        if "inherited" in name:
            inherit(student, teacher)
        taken[name] = train(student, loss, trees, seen, 0.95 * best, steps=400)
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
