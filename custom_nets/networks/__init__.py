"""One method a file, the whole network in it; device-free, any size."""

from __future__ import annotations

import importlib
from pkgutil import iter_modules
from typing import Any

from torch import nn

from .any_size_transmrsr import AnySizeTransMRSR, BrainPrior
from .arssr import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet
from .blur_estimator import BlurEstimator
from .bolus_atoms import BolusAtoms
from .most_dsa import MoStDSA
from .style_swin import StyleSwinDiscriminator, StyleSwinGenerator
from .swin_regressor import SwinRegressor
from .symmetric_most_dsa import SymmetricMoStDSA
from .tiavox import TiAVox
from .togs import TOGS
from .transmrsr import TransMRSR
from .vpal import VPAL, HashEncoding

__all__ = [
    "AnySizeTransMRSR",
    "ArSSR",
    "BlurEstimator",
    "BolusAtoms",
    "BrainPrior",
    "HashEncoding",
    "ImplicitDecoder",
    "MoStDSA",
    "RDN",
    "ResCNN",
    "ResidualArSSR",
    "SRResNet",
    "StyleSwinDiscriminator",
    "StyleSwinGenerator",
    "SwinRegressor",
    "SymmetricMoStDSA",
    "TOGS",
    "TiAVox",
    "TransMRSR",
    "VPAL",
    "network_classes",
]


def network_classes() -> dict[str, type[nn.Module]]:
    """Every network by its name: the classes that a module of this package lists in its ``__all__``.

    A file that is put here is found by itself: checkpoints, configs and exports know its networks by their names.
    """
    found: dict[str, type[nn.Module]] = {}
    for module in (importlib.import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if not m.ispkg):
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if isinstance(thing, type) and issubclass(thing, nn.Module):
                found[name] = thing
    return found


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name in (networks := network_classes()):
        return networks[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
