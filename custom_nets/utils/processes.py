"""The processes that ``torchrun`` started, on one machine or on many; a plain Python process is the only one of one."""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from monai.data import partition_dataset
from torch.distributed import PrefixStore, rendezvous

__all__ = [
    "StoreGroup",
    "join_processes",
    "leave_processes",
    "own_share",
    "process_count",
    "process_rank",
    "share",
]

T = TypeVar("T")
_meetings = itertools.count()  # all processes hold them in the same order


def process_rank(local: bool = False) -> int:
    """Number of this process among those that torchrun started, over all machines or on this one; 0 without it."""
    return int(os.environ.get("LOCAL_RANK" if local else "RANK", 0))


def process_count() -> int:
    """How many processes torchrun started, over all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


class StoreGroup:
    """Where the processes of one ``torchrun`` tell each other plain values, through the store that it keeps for them.

    No process group is made: Ignite's engines would take notice of one and wait for each other, although each process
    has its own work. A process waits as long as it takes; when one dies, torchrun ends all, so that none waits in vain.
    """

    def __init__(self) -> None:
        self.rank, self.count = process_rank(), process_count()
        self._steps = itertools.count()
        if self.count > 1:
            store, *_ = next(rendezvous("env://", timeout=timedelta(days=14)))
            self._store = PrefixStore(f"custom_nets/{next(_meetings)}", store)

    def all_gather(self, value: Any = None) -> list[Any]:
        """The values of all processes by their number; each one must call this equally often, and waits for the others.

        Args:
            value: what JSON can hold.
        """
        if self.count == 1:
            return [value]
        step = next(self._steps)
        self._store.set(f"{step}/{self.rank}", json.dumps(value))
        return [json.loads(self._store.get(f"{step}/{rank}")) for rank in range(self.count)]


def share(items: Sequence[T], size: Callable[[T], float], count: int, rank: int) -> list[T]:
    """The items that one of ``count`` processes works on: every item belongs to exactly one of them.

    The largest item goes first, each to the process that has least so far. The same list gives the same shares
    everywhere; a process may get none.

    Args:
        items: all that is to be done.
        size: what an item costs, in any unit.
        count, rank: number of processes, and of the one that asks.

    Returns:
        In the order of ``items``.
    """
    sizes = [float(size(item)) for item in items]
    load = [(0.0, 0, process) for process in range(count)]  # by size, then by number of items
    mine = []
    for index in sorted(range(len(items)), key=lambda i: -sizes[i]):
        total, number, process = min(load)
        load[process] = (total + sizes[index], number + 1, process)
        if process == rank:
            mine.append(index)
    return [items[index] for index in sorted(mine)]


def own_share(items: Sequence[T]) -> list[T]:
    """The items that this process of a ``torchrun`` measures: each item belongs to exactly one process."""
    count = process_count()
    if count > len(items):
        raise ValueError(f"{count} processes were started for {len(items)} things to measure: start at most as many.")
    shares = partition_dataset(list(items), num_partitions=count, shuffle=False, even_divisible=False)
    return list(shares[process_rank()])


def join_processes() -> None:
    """Let the processes that ``torchrun`` started know of each other; does nothing in a single process.

    What they exchange are scores, on the CPU, so gloo serves with and without CUDA. One may have to wait for another
    that has longer runs.
    """
    if process_count() > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=2))


def leave_processes(network: Any = None) -> None:
    """Part from the other processes, and wait for the threads that spoke to them; does nothing in a single process.

    Such a thread may hold the last tensor that went through it. If it gives that back while Python is shutting down, on
    a busy machine, the process aborts ("terminate called without an active exception") after all its work was done.
    The threads end with their process group, and that ends when nothing refers to it any more.

    Args:
        network: one in ``DistributedDataParallel``, which refers to the group; it cannot be trained any further.
    """
    if not torch.distributed.is_initialized():
        return
    for name in ("process_group", "reducer", "logger"):
        if hasattr(network, name):
            setattr(network, name, None)
    torch.distributed.destroy_process_group()
    gc.collect()
