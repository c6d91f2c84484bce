"""The adversarial trainer, step by step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from custom_nets.engines import AdversarialTrainer
from custom_nets.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from custom_nets.networks import BrainPrior, StyleSwinDiscriminator
from custom_nets.transforms import DifferentiableAugment


def make(iterations: int = 4, **options) -> AdversarialTrainer:
    torch.manual_seed(0)
    generator = BrainPrior(widths=(8, 16), style_dim=16, head_width=4)
    discriminator = StyleSwinDiscriminator(32, image_channels=1, channels=(8, 8, 8), spectral_norm=True)
    batches = [{"image": torch.rand(4, 1, 32, 32)} for _ in range(iterations)]
    return AdversarialTrainer(
        device="cpu", max_epochs=1, train_data_loader=batches, generator=generator, discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.99)),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99)), **options,
    )  # fmt: skip


def test_losses_and_penalty_have_known_answers():
    zero = torch.zeros(4, 1)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(zero + 20, zero - 20)) == pytest.approx(0, abs=1e-6)
    images = torch.rand(3, 1, 4, 4, requires_grad=True)
    logits = (images * torch.arange(16.0).view(4, 4)).sum((1, 2, 3))[:, None]
    assert float(r1_penalty(logits, images)) == pytest.approx(sum(n * n for n in range(16)))


def test_the_penalty_is_lazy(monkeypatch):
    trainer = make(7, r1_interval=3)
    at = []
    step = trainer._penalty_step

    def counted(real):
        at.append(trainer.state.iteration)
        step(real)

    monkeypatch.setattr(trainer, "_penalty_step", counted)
    trainer.run()
    assert at == [1, 4, 7] and trainer.state.output["r1"] == trainer.r1 > 0
    without = make(2, r1_weight=0.0)
    monkeypatch.setattr(without, "_penalty_step", lambda real: 1 / 0)
    without.run()


def test_each_step_trains_one_network():
    trainer = make()
    trainer.state.device = torch.device("cpu")
    real = torch.rand(4, 1, 32, 32)
    trainer._discriminator_step(real)
    assert all(p.grad is None for p in trainer.generator.parameters())
    before = {name: p.detach().clone() for name, p in trainer.discriminator.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in trainer.discriminator.named_parameters()}
    trainer._generator_step(4)
    assert all(p.grad is not None for p in trainer.generator.parameters())
    for name, p in trainer.discriminator.named_parameters():
        assert torch.equal(p, before[name]) and torch.equal(p.grad, gradients[name])


@pytest.mark.parametrize("amp", [False, True])
def test_all_numbers_are_reported_and_finite(amp):
    augment = DifferentiableAugment()
    trainer = make(consistency=10.0, consistency_augment=DifferentiableAugment(cutout=0.5), augment=augment, amp=amp)
    weights = {name: p.detach().clone() for name, p in trainer.generator.named_parameters()}
    trainer.run()
    assert set(trainer.state.output) == set(AdversarialTrainer.logged_outputs)
    assert all(math.isfinite(value) for value in trainer.state.output.values())
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in trainer.generator.parameters())
    assert sum(not torch.equal(p, weights[name]) for name, p in trainer.generator.named_parameters()) > len(weights) / 2


def test_consistency_costs_what_changes_under_augmentation(monkeypatch):
    """With a discriminator that sees the mean: brightness by 0.1 changes logits by 0.1, twice, squared, ten times."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gain * x.mean((1, 2, 3))[:, None]

    losses = []
    for weight in (0.0, 10.0):
        trainer = make(consistency=weight, consistency_augment=lambda x: x + 0.1)
        trainer.discriminator = Mean()
        trainer.d_optimizer = torch.optim.SGD(trainer.discriminator.parameters(), 0.0)
        trainer.state.device = torch.device("cpu")
        torch.manual_seed(1)
        losses.append(trainer._discriminator_step(torch.full((4, 1, 32, 32), 0.5))[0])
    assert losses[1] - losses[0] == pytest.approx(2 * 10 * 0.01, rel=1e-3)


def test_consistency_needs_its_augmentation():
    with pytest.raises(ValueError, match="consistency_augment"):
        make(consistency=10.0)
