"""The section on accuracy."""

from __future__ import annotations

from deqcert.report.page import Section, TableBlock, percent
from deqcert.report.sections.base import DASH, Found, the


def clean_section(found: Found) -> Section:
    """How often the models are right when nothing is done to the images."""
    best = max(found, key=lambda name: found[name]["accuracy"])
    one = found[best]
    says = (
        f"Of {one['images']} images as they are, {the(found, best)} names the class of "
        f"{percent(one['accuracy'])}% rightly."
    )
    rows = [
        [
            name,
            str(part["images"]),
            percent(part["accuracy"]),
            f"{percent(part['interval'][0])}{DASH}{percent(part['interval'][1])}",
            str(part["unsolved"]),
        ]
        for name, part in found.items()
    ]
    head = ["model", "images", "right (%)", "95% interval", "unsolved"]
    tables = [TableBlock("Accuracy without noise and without an adversary", head, rows)]
    names = [str(one["class"]) for one in next(iter(found.values()))["by_class"]]
    if len(names) <= 20:
        by_class = [
            [name, *(percent(one["accuracy"], 0) for one in part["by_class"])]
            for name, part in found.items()
        ]
        if len({len(row) for row in by_class}) == 1:
            tables.append(TableBlock("Right (%), by true class", ["model", *names], by_class))
    solve = {part["solve"] for part in found.values()}
    notes = [f"One solve an image: {'; '.join(sorted(solve))}. Unsolved images count as wrong."]
    return Section("clean", "Accuracy", says, (), tables, notes)
