"""Stage 1 of TransMRSR: the generative prior against a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines.trainer import Trainer
from torch import nn

from custom_nets.losses.adversarial import discriminator_loss, generator_loss, r1_penalty

__all__ = ["AdversarialTrainer"]

Augment = Callable[[torch.Tensor], torch.Tensor]


class AdversarialTrainer(Trainer):
    """StyleSwin's training: non-saturating loss, lazy R1, optional augmentation of all that the discriminator sees,
    optional balanced consistency (bCR). Each iteration is a step of the discriminator and a step of the generator.

    ``state.output`` holds ``loss`` (the generator's), ``d_loss``, ``r1`` (of the last iteration that had one),
    ``real_logit`` and ``fake_logit``: tensors where the networks are, so that no iteration waits for its numbers.

    In a distributed run the processes' gradients are averaged here, after each backward pass: wrapped in
    ``DistributedDataParallel``, a discriminator could not be asked for the gradient of its gradient.

    Args:
        device: to train on.
        max_epochs: number of epochs.
        train_data_loader: gives ``image`` [B, C, H, W].
        generator: z [B, style_dim] -> images; has ``style_dim``.
        discriminator: images -> logits [B, 1].
        g_optimizer, d_optimizer: of the two.
        augment: of real and made images before the discriminator (DiffAug), or None.
        r1_weight: of the penalty; 0 for none.
        r1_interval: iterations between two penalties, whose weight is multiplied by it.
        consistency: weight of bCR (10 in the paper); 0 for none.
        consistency_augment: what the discriminator must not see; needed by bCR.
        clip: largest norm of the discriminator's gradient in its main step.
        amp: bfloat16 where torch finds it safe, but not in the penalty; it needs no gradient scaler.
        kwargs: of ``monai.engines.Trainer``.

    Raises:
        ValueError: bCR without its augmentation.
    """

    logged_outputs = ("loss", "d_loss", "r1", "real_logit", "fake_logit")  # what can be reported of an iteration

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Any,
        generator: nn.Module,
        discriminator: nn.Module,
        g_optimizer: torch.optim.Optimizer,
        d_optimizer: torch.optim.Optimizer,
        augment: Augment | None = None,
        r1_weight: float = 10.0,
        r1_interval: int = 16,
        consistency: float = 0.0,
        consistency_augment: Augment | None = None,
        clip: float = 5.0,
        amp: bool = False,
        train_handlers: Any = None,
        **kwargs: Any,
    ) -> None:
        if consistency and consistency_augment is None:
            raise ValueError("consistency (bCR) needs consistency_augment: what the discriminator must not see.")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            handlers=train_handlers,
            decollate=False,
            **kwargs,
        )
        self.generator = generator
        self.discriminator = discriminator
        self.g_optimizer = g_optimizer
        self.d_optimizer = d_optimizer
        self.network = generator  # whose parameters and learning rate are reported
        self.optimizer = g_optimizer
        self.augment = augment or nn.Identity()
        self.r1_weight = r1_weight
        self.r1_interval = r1_interval
        self.consistency = consistency
        self.consistency_augment = consistency_augment
        self.clip = clip
        self.bfloat16 = amp  # (MONAI makes a gradient scaler where there is an attribute amp)
        self.r1: float | torch.Tensor = 0.0
        self.add_event_handler(Events.STARTED, self._same_start)

    def _same_start(self, engine: Engine) -> None:
        """All processes go on from the weights of the first."""
        if _processes() > 1:
            for network in (self.generator, self.discriminator):
                for value in (*network.parameters(), *network.buffers()):
                    if value.numel():
                        dist.broadcast(value.detach(), 0)

    def _latents(self, batch: int) -> torch.Tensor:
        return torch.randn(batch, int(self.generator.style_dim), device=self.state.device)  # type: ignore[arg-type]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.state.device).type, torch.bfloat16, enabled=self.bfloat16)

    def _discriminate(self, images: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self.discriminator(images).float()

    def _generate(self, batch: int) -> torch.Tensor:
        with self._autocast():
            return self.generator(self._latents(batch)).float()

    def _iteration(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        real = batchdata["image"].to(self.state.device, torch.float32)
        self.generator.train()
        self.discriminator.train()
        d_loss, real_logit, fake_logit = self._discriminator_step(real)
        if self.r1_weight and (self.state.iteration - 1) % self.r1_interval == 0:
            self._penalty_step(real)
        g_loss = self._generator_step(len(real))
        self.state.output = {
            "loss": g_loss,
            "d_loss": d_loss,
            "r1": self.r1,
            "real_logit": real_logit,
            "fake_logit": fake_logit,
        }
        return self.state.output

    def _discriminator_step(self, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.generator.requires_grad_(False)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self._generate(len(real))
        real_logit, fake_logit = self._discriminate(self.augment(real)), self._discriminate(self.augment(fake))
        loss = discriminator_loss(real_logit, fake_logit)
        if self.consistency:
            assert self.consistency_augment is not None
            for images, logits in ((real, real_logit), (fake, fake_logit)):
                changed = self._discriminate(self.consistency_augment(images))
                loss = loss + self.consistency * (changed - logits).square().mean()
        self.d_optimizer.zero_grad()
        loss.backward()
        _average_gradients(self.discriminator)
        nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.clip)
        self.d_optimizer.step()
        return loss.detach(), real_logit.detach().mean(), fake_logit.detach().mean()

    def _penalty_step(self, real: torch.Tensor) -> None:
        real = real.detach().requires_grad_(True)
        penalty = r1_penalty(self.discriminator(self.augment(real)), real)
        self.d_optimizer.zero_grad()
        (self.r1_weight / 2 * self.r1_interval * penalty).backward()
        _average_gradients(self.discriminator)
        self.d_optimizer.step()
        self.r1 = penalty.detach()

    def _generator_step(self, batch: int) -> torch.Tensor:
        self.generator.requires_grad_(True)
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self._discriminate(self.augment(self._generate(batch))))
        self.g_optimizer.zero_grad()
        loss.backward()
        _average_gradients(self.generator)
        self.g_optimizer.step()
        return loss.detach()


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _average_gradients(network: nn.Module) -> None:
    """Over all processes; their networks are equal, and so are the parameters that have a gradient."""
    if _processes() > 1:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= _processes()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
