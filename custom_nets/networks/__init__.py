from __future__ import annotations

from .arssr import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet
from .most_dsa import MoStDSA
from .symmetric_most_dsa import SymmetricMoStDSA

__all__ = [
    "ArSSR",
    "ImplicitDecoder",
    "MoStDSA",
    "RDN",
    "ResCNN",
    "ResidualArSSR",
    "SRResNet",
    "SymmetricMoStDSA",
]
