"""Ask a teacher the same as its student."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from custom_nets.losses.distillation import Lesson

__all__ = ["TeacherInferer"]


class TeacherInferer(Inferer):
    """Call a network and its teacher with one input; :class:`custom_nets.losses.DistillationLoss` takes the result.

    Args:
        teacher: a network with ``token_layers``: names of the two layers whose outputs are its two kinds of tokens.
        inferer: that calls either.

    Raises:
        ValueError: a teacher without ``token_layers``.
    """

    def __init__(self, teacher: nn.Module, inferer: Inferer | None = None) -> None:
        super().__init__()
        if not hasattr(teacher, "token_layers"):
            raise ValueError(f"{type(teacher).__name__} has no token_layers: it cannot be a teacher.")
        self.teacher = teacher.requires_grad_(False)
        self.inferer = inferer or SimpleInferer()

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Lesson:
        # in the mode of the student: a border that is mirrored in eval mode would make other tokens
        self.teacher.train(network.training)
        with torch.no_grad(), _tokens(self.teacher) as wanted_tokens:
            wanted = self.inferer(inputs, self.teacher, *args, **kwargs)
        with _tokens(network) as tokens:
            pred = self.inferer(inputs, network, *args, **kwargs)
        return Lesson(pred, wanted, (tokens[0], tokens[1]), (wanted_tokens[0], wanted_tokens[1]))


@contextmanager
def _tokens(network: nn.Module) -> Iterator[dict[int, torch.Tensor]]:
    """The last outputs of the two layers, while the network is called."""
    inner: Any = getattr(network, "module", network)  # inside of DistributedDataParallel
    found: dict[int, torch.Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            found[number] = output

        return hook

    handles = [
        inner.get_submodule(name).register_forward_hook(keep(number)) for number, name in enumerate(inner.token_layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
