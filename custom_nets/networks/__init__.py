from __future__ import annotations

from .arssr import RDN, ArSSR, ImplicitDecoder, ResCNN, ResidualArSSR, SRResNet

__all__ = ["ArSSR", "ImplicitDecoder", "RDN", "ResCNN", "ResidualArSSR", "SRResNet"]
