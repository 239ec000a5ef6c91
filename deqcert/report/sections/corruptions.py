"""The section on bad pictures."""

from __future__ import annotations

from deqcert.report.figures import curves
from deqcert.report.page import Cell, FigureBlock, Section, TableBlock, percent
from deqcert.report.sections.base import Found, shaded, the


def corruptions_section(found: Found) -> Section:
    """What weather, lenses, sensors and files leave."""
    best = max(found, key=lambda name: found[name]["mean"])
    part = found[best]
    worst = min(part["rows"], key=lambda row: row["mean"])
    says = (
        f"Without any adversary, bad pictures cost: {the(found, best)} is right on "
        f"{percent(part['clean'])}% of clean images, on {percent(part['mean'])}% of corrupted ones "
        f"on average, and worst on {worst['name']} ({percent(worst['mean'])}%)."
    )
    lines = [
        (
            name,
            [0, *one["severities"]],
            [100 * share for share in (one["clean"], *one["by_severity"])],
            i,
            0,
        )
        for i, (name, one) in enumerate(found.items())
    ]
    figure = curves(
        "accuracy by severity", "severity (0: as it is)", "right (%), mean of all", lines
    )
    figures = [FigureBlock("Mean over all corruptions, by severity", figure)]
    tables = []
    for name, one in found.items():
        head = [
            "corruption",
            *(str(severity) for severity in one["severities"]),
            "mean",
            "what it is",
        ]
        rows: list[list[Cell | str]] = [
            [
                row["name"],
                *shaded([*row["accuracy"], row["mean"]]),
                row["about"],
            ]
            for row in one["rows"]
        ]
        rows.append(["all", *shaded([*one["by_severity"], one["mean"]]), ""])
        tables.append(
            TableBlock(f"{name}: right (%) of {one['images']} images, by severity", head, rows, 1)
        )
    left = {name for one in found.values() for name in one["left_out"]}
    notes = [
        "Fourteen of the nineteen corruptions of Hendrycks and Dietterich (2019), written anew, at "
        "the strengths of their 32x32 set: our subset, not their benchmark. Each picture is "
        "classified by one solve without noise."
    ]
    if left:
        names = ", ".join(sorted(left))
        notes.append(f"Left out, because it means nothing for grey images: {names}.")
    return Section("corruptions", "Bad pictures", says, figures, tables, notes)
