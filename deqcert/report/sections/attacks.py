"""The section on attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deqcert.report.figures import curves
from deqcert.report.page import FigureBlock, Section, TableBlock, percent
from deqcert.report.sections.base import DASH, Found, images, runs_of, shaded, the


def attacks_section(found: Found) -> Section:
    """What the certified classifiers get right when somebody tries."""
    runs = runs_of(found)
    broken = sum(len(run["alarms"]) for _, run in runs)
    name, run = runs[0]
    all_of = _row(run, "all attacks")
    at = min(len(run["radii"]) - 1, 2)
    says = (
        f"All attacks together leave {percent(all_of['accuracy'][at])}% right at a size of "
        f"{run['radii'][at]:g} for {the(found, name)}, and "
        + (
            "break no certificate: the truth lies between the two curves."
            if not broken
            else f"BREAK certificates ({broken}), which must not happen: see the alarms."
        )
    )
    lines = []
    for i, (called, one) in enumerate(runs):
        at_radii = one["curves"]["radii"]
        for j, what in enumerate(("certified", "attacked")):
            heights = [100 * share for share in one["curves"][what]]
            lines.append((f"{called}, {what}", at_radii, heights, i, j))
    figure = curves(
        "accuracy under attack by size", "size of the change", "right (%)", lines, steps=True
    )
    caption = "Right (%) by size of the change: proven, and left by all attacks"
    figures = [FigureBlock(caption, figure)]
    tables = []
    for called, one in runs:
        head = ["", *(f"r = {r:g}" for r in one["radii"]), "breaks"]
        rows = [
            [
                row["name"],
                *shaded(row["accuracy"]),
                str(row.get("breaks", DASH)),
            ]
            for row in one["rows"]
        ]
        tables.append(TableBlock(f"{called}: right (%) of {images(one['images'])}", head, rows))
    notes = [
        f"{called}: {', '.join(one['attacks'])}"
        + (
            f"; a verdict on a smoothed classifier is wrong with probability at most "
            f"{one['alpha']:g} in all."
            if one["smoothed"]
            else "; a class counts as another only where that is proven."
        )
        for called, one in runs
    ]
    missing = [
        f"ALARM: {called}, image {image}, by {', '.join(names)}."
        for called, one in runs
        for image, names in one["alarms"].items()
    ]
    return Section("attacks", "Attacks", says, figures, tables, notes, missing)


def _row(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in run["rows"] if row["name"] == name)
    return found
