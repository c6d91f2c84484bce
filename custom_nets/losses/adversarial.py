"""Losses of StyleSwin's adversarial training (Zhang et al., CVPR 2022), on the discriminator's logits."""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["discriminator_loss", "generator_loss", "r1_penalty"]


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logits [B, 1] of real and of made images -> mean softplus(-real) + mean softplus(fake)."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Logits [B, 1] of made images -> mean softplus(-fake), the non-saturating loss."""
    return F.softplus(-fake.float()).mean()


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of the squared norm of the logits' gradient with respect to real ``images`` (R1).

    Args:
        logits: [B, 1], of ``images``, which must require a gradient.
        images: [B, C, H, W].
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
