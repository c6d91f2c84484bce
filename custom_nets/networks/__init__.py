from __future__ import annotations

from .any_size_transmrsr import AnySizeTransMRSR, BrainPrior
from .arssr import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet
from .most_dsa import MoStDSA
from .style_swin import StyleSwinDiscriminator, StyleSwinGenerator
from .swin_regressor import SwinRegressor
from .symmetric_most_dsa import SymmetricMoStDSA
from .transmrsr import TransMRSR

__all__ = [
    "AnySizeTransMRSR",
    "ArSSR",
    "BrainPrior",
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
    "TransMRSR",
]
