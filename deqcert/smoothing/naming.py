"""What a table calls a classifier: a few words that need no glossary, without torch.

The numbers are those of a predictor as a manifest holds them, so that a run can be named from its
files alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONVERGED = 1e-3
"""Largest relative residual at which a solve is called converged."""

EXACT = "the exact equilibrium"
"""What a proof is about that no solve enters."""


def converged(stop: Mapping[str, Any]) -> bool:
    """Say whether solves that vote have all come to a relative residual of at most 1e-3.

    Args:
        stop: Fields of a :class:`deqcert.solvers.StopRule`: tol, mode, max_nfe.
    """
    near = stop["mode"] == "rel" and stop["tol"] <= CONVERGED
    return bool(near and not fixed_depth(stop))


def fixed_depth(stop: Mapping[str, Any]) -> bool:
    """Say whether every solve makes the same number of evaluations; see `converged`."""
    return bool(stop["tol"] == 0.0 or stop["max_nfe"] == 1)


def classifier(start: str, stop: Mapping[str, Any], early: Mapping[str, Any] | None = None) -> str:
    """Name what a start, a stop rule and the readout make of a model.

    Args:
        start: Name of the start policy; cold goes without saying.
        stop: Fields of a :class:`deqcert.solvers.StopRule`: tol, mode, max_nfe.
        early: Fields of an early stop, where there is one.

    Returns:
        Such as "the converged model (to 0.001)", "the 1-evaluation classifier (learned start)" or
        "the stop-rule classifier (margin 2, at most 8 evaluations, learned start)".
    """
    most, more = f"at most {stop['max_nfe']} evaluations", []
    if early is not None:
        rules = [f"{key} {early[key]:g}" for key in ("margin", "residual") if key in early]
        if "depths" in early:
            rules.append(f"checks after {', '.join(map(str, early['depths']))}")
        what, more = "stop-rule classifier", [*rules, most]
    elif fixed_depth(stop):
        what = f"{stop['max_nfe']}-evaluation classifier"
    elif converged(stop):
        what, more = "converged model", [f"to {stop['tol']:g}"]
    else:
        size = "residual" if stop["mode"] == "rel" else "absolute residual"
        what, more = "stop-rule classifier", [f"{size} {stop['tol']:g}", most]
    if start != "cold":
        more.append(f"{start} start")
    return f"the {what} ({', '.join(more)})" if more else f"the {what}"
