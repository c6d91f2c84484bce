from __future__ import annotations

from .arssr import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet
from .most_dsa import MoStDSA

__all__ = ["ArSSR", "ImplicitDecoder", "MoStDSA", "RDN", "ResCNN", "ResidualArSSR", "SRResNet"]
