"""Attacks on models and on what was certified: balls around images, pixels in [0, 1]."""

from __future__ import annotations

import lazy_loader

# What there is stands in the stub beside this file; it is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
