"""The same random numbers in the same epoch."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

__all__ = ["EpochSeed"]


class EpochSeed:
    """Seed everything anew at the start of each epoch, from the seed of the run, the epoch and the process.

    With one seed at the start of the run, a resumed training would see the crops of the first epochs again, and
    differ from one that was never interrupted. This way both see the same.

    Args:
        seed: of the run.
        rank: number of this process, so that the processes of a distributed run draw different crops.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed = seed
        self.rank = rank

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        words = np.random.SeedSequence([self.seed, self.rank, engine.state.epoch]).generate_state(1)
        seed = int(words[0]) % 2**31
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        # with workers, their seeds come from torch's; without, the transforms have to be told
        set_rnd(engine.data_loader.dataset, seed)  # type: ignore[attr-defined]
