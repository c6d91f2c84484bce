"""The bar and the log say the loss, and do not wait for it at every iteration."""

from __future__ import annotations

import functools
import io
import logging

import pytest
import torch
from ignite.engine import Engine
from tqdm.auto import tqdm

from custom_nets.handlers import TrainingProgress, progress
from custom_nets.handlers.running_means import RunningMeans


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def reads(monkeypatch) -> list[float]:
    """What is read back from tensors."""
    found: list[float] = []
    usual = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda x: (found.append(usual(x)), usual(x))[1])
    return found


def train(iterations: int = 200) -> None:
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(float(batch), requires_grad=True)})
    engine.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    TrainingProgress().attach(engine)
    engine.run(range(iterations), max_epochs=2)


def test_without_a_terminal_the_loss_is_read_once_an_epoch(reads, caplog):
    caplog.set_level(logging.INFO)
    train()
    assert [record.getMessage().split(",")[0] for record in caplog.records if "mean" in record.getMessage()] == [
        "Epoch 1 of 2: mean loss 99.500000",
        "Epoch 2 of 2: mean loss 99.500000",
    ]
    assert len(reads) == 2


def test_the_bar_reads_the_loss_as_often_as_it_is_drawn(reads, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress, "tqdm", functools.partial(tqdm, file=terminal, mininterval=1000))
    train()
    assert len(reads) == 2 and "Epoch [2/2]" in terminal.getvalue() and "loss=" not in terminal.getvalue()
    monkeypatch.setattr(progress, "tqdm", functools.partial(tqdm, file=terminal, mininterval=0, miniters=1))
    train(3)
    assert reads[2:] == [0, 1, 2, 3, 0, 1, 2, 3] and "loss=2" in terminal.getvalue()  # and the sum at each end


def test_means_of_all_that_a_trainer_names_begin_anew():
    engine = Engine(lambda engine, batch: {"loss": batch, "r1": torch.tensor(2.0 * batch)})
    engine.logged_outputs = ("loss", "r1")
    means = RunningMeans()
    for batch in (1.0, 2.0):
        engine.state.output = engine._process_function(engine, batch)
        means.add(engine)
    assert means.latest() == {"loss": 2, "r1": 4}
    assert means.take() == {"loss": 1.5, "r1": 3} and means.take() == {}
