"""Latent Gaussian mixtures: how far a latent is from another class, and what a mixture predicts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
