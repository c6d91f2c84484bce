"""Trainings that follow the clock, with a clock that the test holds."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events

from custom_nets.handlers import TimeBudget, time_budget
from custom_nets.handlers.time_budget import timed_rate


class Clock:
    """Time passes where the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time_budget, "monotonic", made)
    return made


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


class Training:
    """An engine whose iterations and validations take as long as they are told to; it remembers what happened."""

    def __init__(self, clock: Clock, minutes: float, step: float = 1.0, validation: float = 0.0, **options) -> None:
        self.clock, self.step, self.validation = clock, step, validation
        self.optimizer = optimizer(0.1, 0.02)
        self.budget = TimeBudget(minutes, self.optimizer, **options)
        self.rates: list[float] = []
        self.validated: list[tuple[float, float]] = []  # when they began, and the learning rate then
        self.engine = Engine(self.iteration)
        self.budget.attach(self.engine)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def iteration(self, engine: Engine, batch: int) -> None:
        first, second = (group["lr"] for group in self.optimizer.param_groups)
        assert second == pytest.approx(0.2 * first)
        self.rates.append(first)
        self.clock.now += self.step

    def validate(self, engine: Engine) -> None:
        self.validated.append((self.budget.seconds(), self.optimizer.param_groups[0]["lr"]))
        self.clock.now += self.validation

    def run(self, **options):
        return self.engine.run(range(100000), max_epochs=3, **options)


def test_rate_rises_and_falls_to_zero():
    assert [timed_rate(p, 0.1) for p in (0, 0.05, 0.1, 0.55, 1, 1.2)] == pytest.approx([0, 0.5, 1, 0.5, 0, 0], abs=1e-9)


def test_iterations_fill_the_minutes(clock):
    training = Training(clock, 10)
    clock.now += 30  # the data are read
    state = training.run()
    assert clock.now - 1000 == 600
    assert state.iteration == len(training.rates) == 570
    assert state.epoch == state.max_epochs == 20 - 1  # the first part of the time was the reading's
    assert training.rates[0] == 0 and max(training.rates) == pytest.approx(0.1, rel=0.01)
    assert training.rates.index(max(training.rates)) == pytest.approx(0.05 * 570, abs=2)
    assert training.rates[-1] < 1e-5 and training.validated[-1][1] == 0
    assert training.rates[28 + 271] == pytest.approx(0.05, rel=0.02)  # the middle of the cosine


@pytest.mark.parametrize("validation", [2.0, 25.0])
def test_validation_is_counted_in(clock, validation):
    training = Training(clock, 10, step=2.0, validation=validation)
    training.run()
    assert 600 - 0.25 * validation - 4 <= clock.now - 1000 <= 600
    assert training.validated[-1][1] == 0, "the last weights are validated, too"
    spent = validation * len(training.validated)
    assert spent <= 0.1 * 600 + validation, "and the training still gets nine tenths"
    assert len(training.validated) == (20 if validation == 2 else 3)


def test_a_validation_longer_than_the_budget_is_told(clock, caplog):
    training = Training(clock, 1, validation=90.0)
    training.run()
    assert len(training.validated) == 2
    assert "s longer than max_minutes: a validation takes 90 s here" in caplog.text


def test_resumed_training_uses_the_rest(clock):
    class Killed(Exception):
        pass

    first = Training(clock, 10)

    @first.engine.on(Events.EPOCH_COMPLETED(once=8))
    def kill(engine):
        raise Killed

    with pytest.raises(Killed):
        first.run()
    state = first.budget.state_dict()
    assert state["seconds"] == 240
    clock.now += 5000  # nobody trained meanwhile
    second = Training(clock, 10)
    second.budget.load_state_dict(state)
    clock.now += 15  # reading the data again
    second.run()
    state = second.budget.state_dict()
    assert state["seconds"] == 600 and len(second.rates) == 600 - 240 - 15
    whole = Training(clock, 10)
    whole.run()
    assert first.rates == pytest.approx(whole.rates[:240]) and second.rates == pytest.approx(whole.rates[255:])

    longer = Training(clock, 20)
    longer.budget.load_state_dict(state)
    longer.run()
    assert longer.budget.seconds() == 1200 and longer.rates[0] > 0.05 and longer.validated[-1][1] == 0
    with pytest.raises(ValueError, match=r"10\.0 of 10\.0 minutes were used already.* give more --max_minutes"):
        Training(clock, 10).budget.load_state_dict(state)


def test_what_is_no_number_of_minutes_is_refused():
    for wrong in (0, -1, "8", True, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="max_minutes must be a number above 0"):
            TimeBudget(wrong, optimizer(0.1))
    engine = Engine(lambda engine, batch: None)
    TimeBudget(None, optimizer(0.1)).attach(engine)
    assert engine.run(range(3), max_epochs=2).epoch == 2
