"""Certify deep equilibrium models: fixed-point solvers and randomized smoothing that is sound."""

from __future__ import annotations

__version__ = "0.1.0"
