"""The section on confidence under attack."""

from __future__ import annotations

from deqcert.report.figures import curves
from deqcert.report.page import FigureBlock, Section, TableBlock
from deqcert.report.sections.base import Found, runs_of, the


def brier_section(found: Found) -> Section | None:
    """How wrong confidences can become; None where no run tells."""
    runs = [(name, run) for name, run in runs_of(found) if "brier" in run]
    if not runs:
        return None
    name, run = runs[0]
    at = run["brier"]["radii"]
    says = (
        f"With no change its confidence is off by at most {run['brier']['bounds'][0]:.3f} (Brier "
        f"score, 0 is perfect); within a radius of {at[2]:g} nobody can make that worse than "
        f"{run['brier']['bounds'][2]:.3f} for {the(found, name)}."
    )
    lines = [
        (name, run["brier"]["radii"], run["brier"]["bounds"], i, 0)
        for i, (name, run) in enumerate(runs)
    ]
    figure = curves(
        "certified Brier score by radius", "radius", "Brier score, at most", lines, top=None
    )
    rows = [
        [name, *(f"{bound:.3f}" for bound in run["brier"]["bounds"][::2])]
        for name, run in runs
        if run["brier"]["radii"] == at
    ]
    tables = [TableBlock("Brier score, at most", ["model", *(f"r = {r:g}" for r in at[::2])], rows)]
    notes = [
        "The score is (c \N{MINUS SIGN} right)\N{SUPERSCRIPT TWO} of the share c of noisy copies "
        "that vote for the class answered; in expectation it is at most this plus alpha."
    ]
    figures = [FigureBlock("Certified Brier score by radius", figure)]
    return Section("brier", "Confidence under attack", says, figures, tables, notes)
