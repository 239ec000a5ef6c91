"""The section on images of another kind."""

from __future__ import annotations

from deqcert.report.figures import roc_curves
from deqcert.report.page import Cell, FigureBlock, Section, TableBlock, percent
from deqcert.report.sections.base import Found, the


def ood_section(found: Found) -> Section:
    """Whether the models notice images of another kind."""
    name = next(iter(found))
    first = found[name]["sets"][0]
    says = "None of the scores could be computed."
    if first["rows"]:
        best = max(first["rows"], key=lambda row: row["auroc"])
        says = (
            f"Shown images of {first['name']}, {the(found, name)} notices best by "
            f"{best['score']}: a foreign image scores higher than an own one in "
            f"{percent(best['auroc'])}% of pairs, and {percent(best['fpr95'])}% of the foreign "
            "ones pass where 95% of its own do."
        )
    figures, tables, missing = [], [], []
    notes = ["AUROC is 50% for a score that knows nothing; of FPR95, smaller is better."]
    for name, part in found.items():
        for one in part["sets"]:
            called = one["name"] if len(found) == 1 else f"{name}, {one['name']}"
            if one["rows"]:
                figures.append(
                    FigureBlock(
                        f"{called}: own against foreign images that pass",
                        roc_curves(f"ROC of {name} against {one['name']}", one["rows"]),
                    )
                )
            rows = [
                [
                    row["score"],
                    Cell(percent(row["auroc"]), max(0.0, 2 * row["auroc"] - 1)),
                    percent(row["fpr95"]),
                    row["about"],
                ]
                for row in one["rows"]
            ]
            caption = f"{called}: {one['own']} own and {one['images']} foreign images"
            tables.append(
                TableBlock(caption, ["score", "AUROC (%)", "FPR95 (%)", "what it is"], rows, 1)
            )
            if one["changed"]:
                notes.append(f"{one['name']}: {one['changed']}.")
            missing += [f"{name}, {score}: {why}" for score, why in one["missing"].items()]
    return Section(
        "ood",
        "Images of another kind",
        says,
        figures,
        tables,
        list(dict.fromkeys(notes)),
        list(dict.fromkeys(missing)),
    )
