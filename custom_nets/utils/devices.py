"""Where to compute."""

from __future__ import annotations

import torch

from custom_nets.utils.processes import process_rank

__all__ = ["checked_device", "default_device"]


def default_device() -> torch.device:
    """Where to compute when nobody said: a CUDA device if there is one, otherwise the CPU.

    Processes that torchrun started on one machine take a device each; where they are more than there are devices (or
    each is shown only its own, as some schedulers do), they take turns.
    """
    count = torch.cuda.device_count()
    return torch.device("cuda", process_rank(local=True) % count) if count else torch.device("cpu")


def checked_device(device: str | torch.device) -> torch.device:
    """The device that a person named, if it is there, under the one name that it has.

    "cuda" is the current CUDA device with its number, so that two names of a device are equal here, too.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ValueError: no device that computes, or none of this machine.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}.") from None
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            raise ValueError(f"device '{device}' is not there: PyTorch sees {count} CUDA devices. Use --device cpu.")
        return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)
    if found.type == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N' of this machine, got {str(device)!r}.")
