"""Learning from a teacher: its affinities between two kinds of tokens, its output, or its features.

Affinity mimicking is TinyCLIP's (Wu et al., ICCV 2023), where the tokens are pictures and texts. Our networks have two
kinds of tokens, too: what was measured, and what is made of it. Only their similarities are compared, N x N numbers, so
the student may be as narrow as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

__all__ = ["DistillationLoss", "Lesson", "affinity_loss", "as_tokens", "feature_loss"]

MAX_TOKENS = 1024


class Lesson(NamedTuple):
    """What student and teacher say of the same batch.

    Attributes:
        pred, wanted: the student's output and the teacher's.
        tokens, wanted_tokens: of each, its two kinds of tokens [B, C, ...] (their layers are the network's
            ``token_layers``).
    """

    pred: torch.Tensor
    wanted: torch.Tensor
    tokens: tuple[torch.Tensor, torch.Tensor]
    wanted_tokens: tuple[torch.Tensor, torch.Tensor]


def affinity_loss(
    rows: torch.Tensor,
    columns: torch.Tensor,
    teacher_rows: torch.Tensor,
    teacher_columns: torch.Tensor,
    scale: float = 50.0,
) -> torch.Tensor:
    """How much a student's similarities between two sets of tokens differ from its teacher's.

    Tokens are normalised; with ``S = scale * rows @ columns.T`` the affinities are the softmax of S along its rows, and
    along its columns. The loss is the mean of both cross entropies, less what the teacher's own entropy adds (so it
    is 0 where student and teacher agree; the gradient is TinyCLIP's).

    Args:
        rows: [N, C] of the student.
        columns: [M, C] of the student.
        teacher_rows, teacher_columns: [N, C'] and [M, C'] of the same tokens.
        scale: one over the temperature, fixed (50 in TinyCLIP).

    Returns:
        A number, nats per token.
    """
    own, wanted = (
        scale * _normalised(a) @ _normalised(b).T for a, b in ((rows, columns), (teacher_rows, teacher_columns))
    )  # [N, M] each
    along = [
        F.kl_div(own.log_softmax(dim), wanted.log_softmax(dim), reduction="sum", log_target=True) / own.shape[1 - dim]
        for dim in (1, 0)
    ]
    return (along[0] + along[1]) / 2


def _normalised(tokens: torch.Tensor) -> torch.Tensor:
    """[N, C] of length 1, in float32 at least."""
    return F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=1)


def feature_loss(tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of tokens [N, C], in units of the teacher's mean square.

    Raises:
        ValueError: a student that is narrower there than its teacher.
    """
    if tokens.shape != wanted.shape:
        raise ValueError(
            f"features can be compared only where student and teacher are equally wide, got {tokens.shape[1]} and "
            f"{wanted.shape[1]} channels: affinities have no such limit."
        )
    wanted = wanted.float()
    return F.mse_loss(tokens.float(), wanted) / wanted.square().mean().clamp(min=1e-12)


def as_tokens(features: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """[B, C, ...] -> [N, C]: those at ``places`` [N] (shares of the way through all of them, in [0, 1)); None: all."""
    tokens = features.movedim(1, -1)
    count = tokens[..., 0].numel()
    if places is None:
        return tokens.reshape(count, -1)
    index = torch.unravel_index((places * count).long().to(tokens.device), tokens.shape[:-1])
    return tokens[index]


class DistillationLoss(_Loss):
    """The task's loss, and what the teacher adds.

    ``task * loss(pred, target) + output * loss(pred, teacher's pred) + affinity * A + feature * F``

    Args:
        loss: of the task.
        task, output, affinity, feature: weights; a part of weight 0 is not computed.
        scale: of :func:`affinity_loss`.
        max_tokens: of each kind that are compared, drawn anew each time; at most 1024 (similarities are the square).
        penalty: a number to add, such as the price of gates that are still open.

    Raises:
        ValueError: negative weights, none at all, or too many tokens.
    """

    def __init__(
        self,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        task: float = 1.0,
        output: float = 0.0,
        affinity: float = 0.0,
        feature: float = 0.0,
        scale: float = 50.0,
        max_tokens: int = MAX_TOKENS,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        weights = (task, output, affinity, feature)
        if min(weights) < 0 or not any(weights):
            raise ValueError(
                f"weights of task, output, affinity, feature must not be negative nor all 0, got {weights}."
            )
        if not 2 <= max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens must be 2 to {MAX_TOKENS}, got {max_tokens}.")
        self.loss = loss
        self.task, self.output, self.affinity, self.feature = weights
        self.scale = scale
        self.max_tokens = max_tokens
        self.penalty = penalty

    def forward(self, input: Lesson, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: from :class:`custom_nets.inferers.TeacherInferer`.
            target: of the task.
        """
        total = target.new_zeros((), dtype=torch.float32)
        if self.task:
            total = total + self.task * self.loss(input.pred, target)
        if self.output:
            total = total + self.output * self.loss(input.pred, input.wanted)
        if self.affinity or self.feature:
            smallest = min(x[:, 0].numel() for x in input.tokens)
            places = torch.rand(self.max_tokens) if smallest > self.max_tokens else None
            own, wanted = (
                [as_tokens(features, places) for features in both] for both in (input.tokens, input.wanted_tokens)
            )
            if self.affinity:
                total = total + self.affinity * affinity_loss(*own, *wanted, scale=self.scale)  # type: ignore[misc, arg-type]
            if self.feature:
                parts = [feature_loss(a, b) for a, b in zip(own, wanted, strict=True)]
                total = total + self.feature * (parts[0] + parts[1]) / 2
        return total if self.penalty is None else total + self.penalty()
