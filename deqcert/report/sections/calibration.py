"""The section on confidence."""

from __future__ import annotations

from deqcert.report.figures import reliability_diagram
from deqcert.report.page import FigureBlock, Section, TableBlock, percent
from deqcert.report.sections.base import Found, the


def calibration_section(found: Found) -> Section:
    """Whether the models are right as often as they are sure."""
    name = next(iter(found))
    first = found[name]["sources"][0]
    gap = first["confidence"] - first["accuracy"]
    verdict = "too sure of itself" if gap > 0.02 else "not sure enough"
    if abs(gap) <= 0.02:
        verdict = "well calibrated"
    says = (
        f"{the(found, name).capitalize()} is sure of {percent(first['confidence'])}% and right on "
        f"{percent(first['accuracy'])}%: it is "
        f"{verdict}, on average."
    )
    names = {"softmax": "softmax of one solve", "votes": "share of votes"}
    sources = [
        (name, source, i)
        for i, (name, part) in enumerate(found.items())
        for source in part["sources"]
    ]
    figures = [
        FigureBlock(
            f"Reliability of the {names[kind]}: honest is on the dotted line, large dots are many "
            "images",
            reliability_diagram(f"reliability of the {names[kind]}", chosen),
        )
        for kind in names
        if (chosen := [(n, s, i) for n, s, i in sources if s["name"] == kind])
    ]
    head = ["", "images", "right (%)", "mean confidence (%)", "ECE", "Brier", "log loss"]
    rows = [
        [
            names[source["name"]] if len(found) == 1 else f"{called}, {names[source['name']]}",
            str(source["images"]),
            percent(source["accuracy"]),
            percent(source["confidence"]),
            f"{source['error']:.4f}",
            f"{source['brier']:.4f}",
            f"{source['log_loss']:.4f}",
        ]
        for called, source, _ in sources
    ]
    caption = "Calibration: 0 is best in the last three columns"
    votes = {part["votes"] for part in found.values()}
    notes = [
        "ECE is the mean distance between confidence and accuracy over 15 bins; Brier is summed "
        f"over classes (0 to 2). Shares are of {'/'.join(map(str, sorted(votes)))} noisy copies, "
        "half a vote added to each class."
    ]
    missing = [f"{name}: {part['missing']}" for name, part in found.items() if part["missing"]]
    return Section(
        "calibration", "Confidence", says, figures, [TableBlock(caption, head, rows)],
        notes, missing,
    )  # fmt: skip
