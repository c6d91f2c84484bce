"""How much memory there is, asked before it is taken."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory", "check_memory"]

_GIB = 2**30
_SHARE = 0.9  # of what is free; the rest is for what nobody counted


def available_memory() -> int | None:
    """Bytes that this process can still take, of the machine and its container; None where the system says nothing."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        pass
    return min(found) if found else None


def check_memory(need: float, what: str, budget_gb: float | None = None) -> None:
    """Refuse what is larger than the memory, from what its header says, before any of it is read.

    Args:
        need: bytes.
        what: names the file.
        budget_gb: what may be used, in GiB; None: what the machine has left.

    Raises:
        ValueError: more is needed.
    """
    if budget_gb is not None and need > budget_gb * _GIB:
        raise ValueError(
            f"{what} needs {need / _GIB:.1f} GiB to be read, and the memory budget is {budget_gb:g} GiB: give a larger "
            "--memory_gb, or a smaller scan."
        )
    left = available_memory()
    if left is not None and need > _SHARE * left:
        raise ValueError(f"{what} needs {need / _GIB:.1f} GiB of memory to be read; {left / _GIB:.1f} GiB are free.")
