"""When in a gap the frames of an interpolation network lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["on_host", "pair_timesteps"]


def on_host(x: torch.Tensor) -> bool:
    """Tell whether the values can be looked at for nothing.

    To read one back from a GPU, all that it was given to do has to be done first; a tensor that is traced, compiled or
    on the meta device has no values yet.
    """
    return x.device.type == "cpu" and not torch.jit.is_tracing() and not torch.compiler.is_compiling()


def pair_timesteps(
    timesteps: float | Sequence[float] | torch.Tensor, batch: int, device: torch.device | str
) -> torch.Tensor:
    """Give timesteps of pairs one form, and check them as long as they are on the host.

    Args:
        timesteps: between frame 0 (0) and frame 1 (1): a number, T of them, or [B, T].
        batch: B pairs.
        device: where they are needed.

    Returns:
        [B, T], float32, on ``device``.

    Raises:
        ValueError: another shape, or a time outside of the gap. Whoever makes a tensor on a device answers for that.
    """
    times = torch.as_tensor(timesteps, dtype=torch.float32)
    shape = tuple(times.shape)
    if times.ndim < 2:
        times = times.reshape(1, -1).expand(batch, -1)
    if times.ndim != 2 or times.shape[0] != batch or times.shape[1] == 0:
        raise ValueError(f"timesteps must be a number, [T] or [B, T] with B = {batch}, got shape {shape}.")
    if on_host(times) and not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(
            f"timesteps must lie from 0 (frame 0) to 1 (frame 1), got {times.flatten().tolist()[:8]}: nothing is "
            "extrapolated."
        )
    return times.to(device)
