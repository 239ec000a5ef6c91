"""Fourteen ways in which a picture gets worse without an adversary, each in five severities."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
