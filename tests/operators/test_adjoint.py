"""Every operator has ``forward`` and ``adjoint``, and they are a pair: <A x, y> = <x, A^T y>."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from custom_nets import operators
from custom_nets.geometry.cone_beam import circular_trajectory, positioner_trajectory
from custom_nets.operators.cone_beam import ConeBeamOperator, SupportOperator
from custom_nets.operators.data_consistency import SliceMeasurement, VolumeMeasurement
from custom_nets.operators.interpolation import SeparableOperator, bspline_matrix, linear_matrix
from custom_nets.operators.slice_profile import Degradation, PointSpread, published_zoom_matrix, sampled_profile_matrix

FINE, COARSE = (12, 10, 15), (12, 5, 4)
PANEL, GRID, SPACING = (18, 20), (9, 10, 8), (2.5, 2.0, 3.0)


def vectors(geometry: Any) -> np.ndarray:
    return np.concatenate([geometry.source_mm, geometry.panel_mm, geometry.column_step_mm, geometry.row_step_mm], 1)


TURN = vectors(circular_trajectory(np.deg2rad([3, 50, 137, 200]), 765, 1200, PANEL, (2.6, 2.6), offset_mm=(4, -3)))
OBLIQUE = vectors(positioner_trajectory([10, 80, -35], [25, -20, 60], 765, 1200, PANEL, (2.6, 2.4), (3.0, -2.0)))
SPREADS = [PointSpread("gaussian", 1.2), PointSpread("box", 0.7), PointSpread("trapezoid"), PointSpread("kspace_hann")]
PLACES = [np.linspace(-0.4, m - 0.6, n) for n, m in zip(FINE, COARSE, strict=True)]


class Views:
    """An operator with more arguments, for some views or along one axis."""

    def __init__(self, operator: Any, *more: Any) -> None:
        self.operator, self.more = operator, more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.operator.forward(x, *self.more)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.operator.adjoint(y, *self.more)


OPERATORS: dict[str, tuple[Any, tuple[int, ...]]] = {  # operator, shape of what it takes
    **{f"degradation-{s}": (Degradation(FINE, COARSE, s), (2, *FINE)) for s in SPREADS},
    "sampled-profile": (SeparableOperator([sampled_profile_matrix(12, 3.0), None, None]), FINE),
    "published-zoom": (
        SeparableOperator(list(map(published_zoom_matrix, FINE, COARSE))),
        FINE,
    ),
    "bspline": (SeparableOperator([None, bspline_matrix(5, PLACES[1]), bspline_matrix(4, PLACES[2])]), COARSE),
    "linear": (SeparableOperator([None, linear_matrix(5, PLACES[1], "zeros"), linear_matrix(4, PLACES[2])]), COARSE),
    "slices": (Views(SliceMeasurement(15, [2.0, 6.0, 11.5], 4.5, "gaussian"), 2), FINE),
    "volume": (VolumeMeasurement([np.arange(12.0), *PLACES[1:]], COARSE, (1, 2, 3.75), [None, *SPREADS[:2]]), FINE),
    "cone-beam": (ConeBeamOperator(TURN, PANEL, GRID, SPACING), GRID),
    "cone-beam-oblique-in-chunks": (ConeBeamOperator(OBLIQUE, PANEL, GRID, SPACING, memory_gb=1e-5), GRID),
    "cone-beam-some-views": (Views(ConeBeamOperator(TURN, PANEL, GRID, SPACING), [2, 0]), GRID),
    "support": (Views(SupportOperator(GRID, SPACING, PANEL, torch.arange(5, 720, 9)), OBLIQUE), (3, 80)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_and_adjoint_are_a_pair(name):
    operator, shape = OPERATORS[name]
    # these keep matrices in float32
    single = isinstance(operator, VolumeMeasurement) or isinstance(getattr(operator, "operator", None), SupportOperator)
    dtype, digits = (torch.float32, 1e-5) if single else (torch.float64, 1e-10)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    seen = operator.forward(x)
    y = torch.rand(seen.shape, generator=generator, dtype=dtype)
    back = operator.adjoint(y)
    assert back.shape == x.shape and float(seen.abs().sum()) > 0
    assert float((seen * y).sum()) == pytest.approx(float((x * back).sum()), rel=digits)


def test_no_operator_is_left_out():
    """A class of this package that acts on arrays has both names, and stands above."""
    tested = {type(getattr(operator, "operator", operator)) for operator, _ in OPERATORS.values()}
    for module in pkgutil.iter_modules(operators.__path__, f"{operators.__name__}."):
        for name, made in inspect.getmembers(import_module(module.name), inspect.isclass):
            if made.__module__ == module.name and not name.startswith("_") and made is not PointSpread:
                assert {"forward", "adjoint"} <= set(dir(made)) and made in tested, f"{module.name}.{name}"
