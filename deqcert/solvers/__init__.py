"""Batched fixed-point solvers with a status, a residual and an exact count per row.

:func:`solve` takes states of any structure and is differentiable; solver objects work on rows of
one flat tensor.
"""

from __future__ import annotations

import lazy_loader

# What there is stands in the stub beside this file; it is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
