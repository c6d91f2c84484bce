"""Run a convolutional encoder over a volume a few planes at a time, exactly.

A 3x3x3 convolution needs one plane more on each side than it gives. Instead of computing such planes again for every
slab (tiles with halos), each convolution here remembers the last two planes that it saw, so every plane is computed
once, in memory that does not depend on the length of the volume. The encoder itself is written plainly; its graph is
read with ``torch.fx``, so any chain of 3D convolutions (kernel 1 or 3, stride 1, zero padding), pointwise functions,
sums and concatenations works, and its ordinary ``forward`` is the oracle of the test.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["PlaneStreamer"]

_POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Identity)
_POINTWISE_FUNCTIONS = (F.relu, F.silu, F.gelu, torch.relu)
_JOINS = (operator.add, torch.add, torch.cat)


class _ConvTracer(torch.fx.Tracer):
    """Takes convolutions whole, those of this package too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv3d) or super().is_leaf_module(m, module_qualified_name)


class PlaneStreamer:
    """Streaming execution of ``encoder`` along one spatial axis.

    Args:
        encoder: [1, C, D, H, W] -> [1, F, D, H, W].
        axis: 0, 1 or 2: the spatial axis to walk along.

    Raises:
        ValueError: the encoder has a part that cannot be streamed (named).
    """

    def __init__(self, encoder: nn.Module, axis: int) -> None:
        self.dim = 2 + axis
        self.padding = tuple(0 if a == axis else 1 for a in range(3))
        graph = _ConvTracer().trace(encoder)
        self.modules = dict(encoder.named_modules())
        self.nodes = list(graph.nodes)
        self.last_use = {source: node for node in self.nodes for source in node.all_input_nodes}
        for node in self.nodes:
            self._check(node)

    def _check(self, node: torch.fx.Node) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        conv_ok = isinstance(module, nn.Conv3d) and (
            module.kernel_size in ((1, 1, 1), (3, 3, 3))
            and module.stride == (1, 1, 1)
            and module.dilation == (1, 1, 1)
            and module.padding == tuple(k // 2 for k in module.kernel_size)
            and module.padding_mode == "zeros"
        )
        ok = (
            node.op in ("placeholder", "output")
            or (node.op == "call_module" and (conv_ok or isinstance(module, _POINTWISE)))
            or (node.op == "call_function" and node.target in _POINTWISE_FUNCTIONS)
            or (node.op == "call_function" and node.target in _JOINS and self._joins_channels(node))
        )
        if not ok:
            raise ValueError(
                f"cannot stream '{node.name}' ({module or node.target}): only 3D convolutions of size 1 "
                "or 3, pointwise functions, sums and concatenations are local to a few planes."
            )

    @staticmethod
    def _joins_channels(node: torch.fx.Node) -> bool:
        """A plain sum of two tensors, or a concatenation of tensors along the channels."""
        if node.target is not torch.cat:
            return not node.kwargs and all(isinstance(part, torch.fx.Node) for part in node.args)
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        parts = node.args[0] if node.args else None
        return dim in (1, -4) and isinstance(parts, list | tuple) and all(isinstance(p, torch.fx.Node) for p in parts)

    def planes(self, x: torch.Tensor | None) -> int:
        return 0 if x is None else x.shape[self.dim]

    def _cat(self, parts: list[torch.Tensor | None]) -> torch.Tensor | None:
        parts = [p for p in parts if p is not None and p.shape[self.dim] > 0]
        if len(parts) < 2:
            return parts[0] if parts else None
        return torch.cat(parts, self.dim)  # type: ignore[arg-type]

    def _conv(
        self, conv: nn.Conv3d, x: torch.Tensor | None, state: dict[str, Any], name: str, last: bool
    ) -> torch.Tensor | None:
        if conv.kernel_size == (1, 1, 1):
            return None if x is None else conv(x)
        if x is None and not last:
            return None
        tail = state.get(name)
        known = x if x is not None else tail
        if known is None:
            return None
        zeros = torch.zeros_like(known.narrow(self.dim, 0, 1))
        first = tail is None
        x = self._cat([zeros if first else tail, x, zeros if last else None])
        assert x is not None
        n = self.planes(x)
        keep = min(2, n)
        # a copy, so that the rest of the slab is freed
        state[name] = None if last else x.narrow(self.dim, n - keep, keep).clone()
        if n < 3:
            return None
        return F.conv3d(x, conv.weight, conv.bias, padding=self.padding, groups=conv.groups)

    def _join(self, parts: list[torch.Tensor | None], state: dict[str, Any], name: str) -> list[torch.Tensor] | None:
        """Inputs that lag behind each other by some planes wait here; gives what all of them have."""
        waiting = state.get(name, [None] * len(parts))
        joined = [self._cat([w, p]) for w, p in zip(waiting, parts, strict=True)]
        ready = min(self.planes(p) for p in joined)
        state[name] = [
            None if p is None or self.planes(p) == ready else p.narrow(self.dim, ready, self.planes(p) - ready).clone()
            for p in joined
        ]
        return [p.narrow(self.dim, 0, ready) for p in joined] if ready else None  # type: ignore[union-attr]

    def _step(self, x: torch.Tensor, state: dict[str, Any], last: bool, watch: list[int] | None) -> torch.Tensor | None:
        values: dict[torch.fx.Node, torch.Tensor | None] = {}
        for node in self.nodes:
            if node.op == "output":
                return values[node.args[0]]  # type: ignore[index]
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module" and isinstance(self.modules[str(node.target)], nn.Conv3d):
                conv = self.modules[str(node.target)]
                values[node] = self._conv(conv, values[node.args[0]], state, node.name, last)  # type: ignore[index,arg-type]
            elif node.op == "call_module" or node.target in _POINTWISE_FUNCTIONS:
                module = self.modules.get(str(node.target))
                function = module or partial(node.target, **node.kwargs)  # type: ignore[arg-type]
                value = values[node.args[0]]  # type: ignore[index]
                values[node] = None if value is None else function(value)
            else:
                sources = node.args[0] if node.target is torch.cat else node.args
                parts = self._join([values[s] for s in sources], state, node.name)  # type: ignore[union-attr,index]
                if parts is None:
                    values[node] = None
                elif node.target is torch.cat:
                    values[node] = torch.cat(parts, 1)
                else:
                    values[node] = parts[0] + parts[1]
            if watch is not None:
                held = [v for v in values.values() if v is not None]
                for kept in state.values():
                    held += [k for k in (kept if isinstance(kept, list) else [kept]) if k is not None]
                unique = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in held}
                watch[0] = max(watch[0], sum(unique.values()))
            for source in node.all_input_nodes:
                if self.last_use[source] is node:
                    values[source] = None
        raise AssertionError("a traced graph ends in an output node")

    def __call__(self, x: torch.Tensor, slab: int, watch: list[int] | None = None) -> Iterator[torch.Tensor]:
        """Features in order, a slab at a time.

        Args:
            x: [1, C, D, H, W].
            slab: planes to feed at once.
            watch: for :meth:`bytes_per_voxel`.

        Yields:
            [1, F, ...] with as many planes along the axis as are ready; their concatenation is ``encoder(x)``.
        """
        state: dict[str, Any] = {}
        n = x.shape[self.dim]
        for start in range(0, n, slab):
            stop = min(start + slab, n)
            out = self._step(x.narrow(self.dim, start, stop - start), state, stop == n, watch)
            if out is not None:
                yield out

    def bytes_per_voxel(self, channels: int, slab: int, length: int) -> int:
        """Peak bytes that the stream holds per voxel of a plane, counted on planes of a single voxel."""
        parameter = next(p for m in self.modules.values() for p in m.parameters())
        shape = [1, channels, 1, 1, 1]
        shape[self.dim] = length
        watch = [0]
        with torch.inference_mode():
            for _ in self(parameter.new_zeros(shape), slab, watch):
                pass
        return watch[0]
