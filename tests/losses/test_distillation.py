"""Learning from a teacher: affinities by hand and by finite differences, and what adds up to the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from custom_nets.losses import DistillationLoss, affinity_loss, feature_loss
from custom_nets.losses.distillation import Lesson, as_tokens


def test_affinities_computed_by_hand():
    east, north = [1.0, 0.0], [0.0, 1.0]
    # student: each row is like its own column; teacher: both rows are like column 0
    rows, columns = torch.tensor([east, north]), torch.tensor([east, north])
    teacher_rows = torch.tensor([[2.0, 0.0], [5.0, 0.0]])  # lengths do not count
    p = math.e / (math.e + 1)  # softmax of (1, 0)
    # along rows: row 0 agrees, row 1 is (1 - p, p) for (p, 1 - p), log-ratio 1
    along_rows = (0 + (2 * p - 1)) / 2
    # along columns: the teacher's are (1/2, 1/2), the student's (p, 1 - p) and (1 - p, p)
    along_columns = -math.log(2) - 0.5 * math.log(p * (1 - p))
    found = affinity_loss(rows, columns, teacher_rows, columns, scale=1.0)
    assert float(found) == pytest.approx((along_rows + along_columns) / 2, abs=1e-6)


def test_affinity_gradient_by_finite_differences():
    torch.manual_seed(0)
    rows, columns = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    wide = [torch.randn(n, 7, dtype=torch.float64) for n in (4, 5)]
    assert torch.autograd.gradcheck(lambda a, b: affinity_loss(a, b, *wide, scale=3.0), (rows, columns))


def test_affinity_is_zero_where_both_agree_and_its_gradient_is_that_of_the_cross_entropy():
    torch.manual_seed(1)
    rows, columns = torch.randn(6, 4), torch.randn(8, 4)
    turned, _ = torch.linalg.qr(torch.randn(9, 4))  # the same angles in nine channels
    assert float(affinity_loss(rows, columns, rows @ turned.T, columns @ turned.T)) == pytest.approx(0, abs=1e-5)

    own = torch.randn(6, 4, requires_grad=True)
    (found,) = torch.autograd.grad(affinity_loss(own, columns, rows, columns, scale=5.0), own)
    unit = torch.nn.functional.normalize
    s, t = (5 * unit(x, dim=1) @ unit(columns, dim=1).T for x in (own, rows))
    cross = -(t.softmax(1) * s.log_softmax(1)).sum() / 6 - (t.softmax(0) * s.log_softmax(0)).sum() / 8
    (wanted,) = torch.autograd.grad(cross / 2, own)
    torch.testing.assert_close(found, wanted)


def test_feature_loss_wants_equal_widths():
    tokens = torch.randn(5, 3)
    assert float(feature_loss(2 * tokens, tokens)) == pytest.approx(1)
    with pytest.raises(ValueError, match="equally wide, got 3 and 4 channels"):
        feature_loss(tokens, torch.randn(5, 4))


def test_tokens_are_taken_at_the_same_places_whatever_the_width():
    place = torch.arange(2 * 5 * 6).reshape(2, 1, 5, 6).float()
    narrow, wide = place.expand(2, 3, 5, 6), place.expand(2, 8, 5, 6)
    places = torch.rand(7)
    assert torch.equal(as_tokens(narrow, places)[:, 0], as_tokens(wide, places)[:, 0])
    assert as_tokens(wide, None).shape == (60, 8)


def lesson(wide: int = 4) -> Lesson:
    torch.manual_seed(2)
    tokens = (torch.randn(2, 4, 40, 30), torch.randn(2, 4, 40, 30))
    others = (torch.randn(2, wide, 40, 30), torch.randn(2, wide, 40, 30))
    return Lesson(torch.randn(2, 1, 8), torch.randn(2, 1, 8), tokens, others)


def test_the_loss_is_the_sum_of_its_parts():
    target, given = torch.randn(2, 1, 8), lesson()

    def loss(**weights: float) -> float:
        torch.manual_seed(3)
        return float(DistillationLoss(nn.L1Loss(), **weights)(given, target))

    task, output, affinity, feature = (
        loss(**{"task": 0.0, name: 1.0}) for name in ("task", "output", "affinity", "feature")
    )
    assert task == pytest.approx(float((given.pred - target).abs().mean()))
    assert output == pytest.approx(float((given.pred - given.wanted).abs().mean()))
    assert affinity > 0 and feature > 0
    both = loss(task=1.0, output=2.0, affinity=3.0, feature=4.0)
    assert both == pytest.approx(task + 2 * output + 3 * affinity + 4 * feature, rel=1e-5)
    priced = DistillationLoss(nn.L1Loss(), penalty=lambda: torch.tensor(7.0))(given, target)
    assert float(priced) == pytest.approx(task + 7)


def test_at_most_1024_tokens_and_any_width(monkeypatch):
    seen = []
    real = affinity_loss
    monkeypatch.setattr(
        "custom_nets.losses.distillation.affinity_loss",
        lambda *tokens, **kwargs: seen.append([len(x) for x in tokens]) or real(*tokens, **kwargs),
    )
    DistillationLoss(nn.L1Loss(), affinity=1.0)(lesson(wide=9), torch.randn(2, 1, 8))
    assert seen == [[1024] * 4]
    for wrong in ({"max_tokens": 1025}, {"output": -1.0}, {"task": 0.0}):
        with pytest.raises(ValueError, match="must"):
            DistillationLoss(nn.L1Loss(), **wrong)
