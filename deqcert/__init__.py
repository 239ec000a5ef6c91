"""Certify deep equilibrium models: fixed-point solvers and randomized smoothing that is sound.

>>> import deqcert
>>> smooth = deqcert.SmoothedClassifier("digits", sigma=0.25)
>>> smooth.certify(deqcert.load_dataset("digits").image(0))         # doctest: +SKIP
Certificate(prediction=7, radius=0.612, ...)
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

# What there is stands in the stub beside this file; it is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
