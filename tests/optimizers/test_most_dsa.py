"""Learning rates: known answers, and the scheduler made of them."""

from __future__ import annotations

import pytest
import torch

from custom_nets.optimizers import most_dsa_schedule, published_rate


def test_warm_up_and_cosine():
    rate = [published_rate(step, steps_per_epoch=100) for step in (0, 1000, 2000, 16000, 30000, 40000)]
    assert rate == pytest.approx([0, 1e-4, 2e-4, 1.1e-4, 2e-5, 2e-5])
    # the cosine tied to the epochs that are run
    assert published_rate(5000, steps_per_epoch=100, max_epochs=50) == pytest.approx(2e-5)
    continued = {"strategy": "ori-for-continue", "milestones": [10], "continue_lr": 1e-5, "steps_per_epoch": 100}
    assert [published_rate(s, **continued) for s in (0, 5, 10)] == pytest.approx([1e-5, 1.05e-4, 2e-4])


def test_stages():
    rates = [published_rate(s, "3-stage-decay", milestones=[5, 8], gamma=0.5, base_lr=8.0) for s in (0, 4, 5, 7, 8, 99)]
    assert rates == [8, 8, 4, 4, 2, 2]


def test_scheduler_sets_the_rate_of_each_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=123.0)
    schedule = most_dsa_schedule(optimizer, steps_per_epoch=100, base_lr=1e-3)
    for step in range(5):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * step / 2000)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strategy": "cosine"}, "unknown strategy 'cosine', allowed: ori, ori-custom"),
        ({"milestones": [3]}, r"'ori' takes 0 milestones, got \[3\]"),
        ({"strategy": "2-stage-decay"}, r"takes 1 milestones, got \[\]"),
    ],
)
def test_what_is_refused(arguments, message: str):
    with pytest.raises(ValueError, match=message):
        published_rate(0, **arguments)
    with pytest.raises(ValueError, match=message):
        most_dsa_schedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), **arguments)
