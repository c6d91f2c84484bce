"""Shares of processes: everything once, evenly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from custom_nets.utils import default_device, leave_processes, processes
from custom_nets.utils.processes import StoreGroup, share


@pytest.mark.parametrize("items, count", [(0, 3), (1, 2), (7, 3), (40, 2), (40, 64)])
def test_every_item_belongs_to_exactly_one_process(items, count):
    sizes = np.random.default_rng(items).integers(0, 100, items).tolist()
    shares = [share(range(items), lambda i: sizes[i], count, rank) for rank in range(count)]
    assert sorted(item for mine in shares for item in mine) == list(range(items))
    assert all(mine == sorted(mine) for mine in shares)
    loads = [sum(sizes[item] for item in mine) for mine in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_shares_are_balanced_by_size_not_by_number():
    sizes = [1, 1, 1, 1, 1, 5]
    assert share(range(6), lambda i: sizes[i], 2, 0) == [5]
    assert share(range(6), lambda i: sizes[i], 2, 1) == [0, 1, 2, 3, 4]
    assert [len(share(range(9), lambda i: 0, 3, rank)) for rank in range(3)] == [3, 3, 3], "sizes are not known"


def test_a_single_process_meets_itself():
    assert StoreGroup().all_gather({"a": 1}) == [{"a": 1}]


def test_processes_tell_each_other(monkeypatch):
    """Three threads in the place of three processes, with the store that torchrun keeps."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(processes, "rendezvous", lambda *_, **__: iter([(store, 0, 3)]))
    monkeypatch.setenv("WORLD_SIZE", "3")
    for meeting in range(2):  # a second one in the same processes does not hear the first
        monkeypatch.setattr(processes, "_meetings", iter([meeting] * 3))
        members = []
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            members.append(StoreGroup())
        with ThreadPoolExecutor(3) as pool:
            told = list(pool.map(lambda m, n: [m.all_gather(), m.all_gather([n, m.rank])], members, [meeting] * 3))
        assert told == [[[None] * 3, [[meeting, rank] for rank in range(3)]]] * 3


@pytest.mark.parametrize(
    "devices, local_rank, expected",
    [(0, 0, "cpu"), (0, 3, "cpu"), (2, 0, "cuda:0"), (2, 1, "cuda:1"), (2, 2, "cuda:0"), (1, 5, "cuda:0")],
)
def test_each_process_takes_a_device(devices, local_rank, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert default_device() == torch.device(expected)


def threads() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux: names of threads")
def test_no_thread_of_a_process_group_is_left():
    """One that is left can abort the process when Python shuts down."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
        network(torch.ones(2, 3)).sum().backward()
        torch.distributed.all_reduce(torch.ones(1))
        assert any("gloo" in name for name in threads())
    finally:
        leave_processes(network)
    assert not torch.distributed.is_initialized()
    assert not any("gloo" in name for name in threads())
    leave_processes()  # there are none to leave
