"""Accelerated proximal gradient for non-negative, sparse coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["NonnegativeFista"]


class NonnegativeFista(torch.optim.Optimizer):
    """Minimise ``loss(x) + sum(sparsity x)`` over ``x >= 0`` for a convex quadratic loss.

    FISTA with a step of its own for every coefficient (``1 / curvature``, which must bound the loss's Hessian from
    above as a diagonal does) and a restart where the momentum points uphill. Gradients are to be taken at the point
    that the parameters show, which between steps is the extrapolated one; :meth:`settle` puts the solution there.

    References: Beck A, Teboulle M, A fast iterative shrinkage-thresholding algorithm, SIAM J Imaging Sci 2(1), 2009;
    O'Donoghue B, Candes E, Adaptive restart for accelerated gradient schemes, Found Comput Math 15, 2015.

    Args:
        params: one tensor, or groups of one each.
        curvature: same shape as the parameter (or broadcast to it).
        sparsity: price of a unit of a coefficient; a number or a tensor that broadcasts.
    """

    def __init__(self, params: Any, curvature: torch.Tensor, sparsity: torch.Tensor | float = 0.0) -> None:
        super().__init__(params, {"lr": 1.0})
        self.curvature = curvature.clamp(min=1e-12)
        self.sparsity = sparsity

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for point in group["params"]:
                state = self.state[point]
                if not state:
                    state["solution"], state["momentum"] = point.clone(), torch.ones(())
                before, t = state["solution"], float(state["momentum"])
                found = (point - (point.grad + self.sparsity) / self.curvature).clamp_(min=0)
                if float(((point - found) * (found - before)).sum()) > 0:
                    t = 1.0
                    point.copy_(found)
                else:
                    after = (1 + (1 + 4 * t * t) ** 0.5) / 2
                    point.copy_(found + (t - 1) / after * (found - before))
                    t = after
                state["solution"], state["momentum"] = found, torch.tensor(t)
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Let the parameters show the solution."""
        for group in self.param_groups:
            for point in group["params"]:
                if self.state[point]:
                    point.copy_(self.state[point]["solution"])
