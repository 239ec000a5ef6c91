"""Certified accuracy against radius as a small picture inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deqcert.report.picture import curve
from deqcert.report.tables import radii_until
from deqcert.safety_case.kinds.certified import sound_results
from deqcert.safety_case.run_folder import RunFolder

LEFT, RIGHT, TOP, BOTTOM = 44.0, 350.0, 12.0, 160.0
"""Edges of the plot in the picture's units; the page scales it."""


@dataclass(frozen=True)
class Curve:
    """A step curve.

    Args:
        run: Name of the run.
        title: What is certified.
        points: Its corners, as SVG takes them.
        across: Places and texts below the axis of radii.
        up: Places and texts beside the axis of accuracy.
        norm: Norm of the radii.
    """

    run: str
    title: str
    points: str
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    norm: str


def curves(runs: Sequence[RunFolder]) -> list[Curve]:
    """Draw the curve of every run of certificates that have a theorem behind them."""
    made = []
    for run, results in sound_results(runs):
        radii, shares = curve(results)
        ticks = radii_until(float(radii[-1]), results.norm)
        reach = max(float(radii[-1]), ticks[-1]) or 1.0

        def across(radius: float, reach: float = reach) -> float:
            return round(LEFT + (RIGHT - LEFT) * radius / reach, 2)

        corners, before = [], float(shares[0])
        for radius, share in zip(radii.tolist(), shares.tolist(), strict=True):
            corners += [(across(radius), _up(before)), (across(radius), _up(share))]
            before = share
        made.append(
            Curve(
                run=run.name,
                title=results.about or "the model",
                points=" ".join(f"{x:g},{y:g}" for x, y in corners),
                across=tuple((across(r), f"{r:g}") for r in ticks[:: 1 + len(ticks) // 8]),
                up=tuple((_up(share), f"{100 * share:g}%") for share in (0.0, 0.5, 1.0)),
                norm=results.norm,
            )
        )
    return made


def _up(share: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * share, 2)
