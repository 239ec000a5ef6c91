"""The page and the short table of an evaluation, or of runs alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deqcert.report.certified import accuracy_at, describe_run
from deqcert.report.page import Cell, Section, TableBlock, percent, write_page
from deqcert.report.sections import (
    DASH,
    SECTIONS,
    brier_section,
    cost_section,
)

NAME, PAGE = "evaluation.json", "page.html"
FORMAT, FORMAT_VERSION = "deqcert-evaluation", 1

TITLES = {
    "clean": "Accuracy",
    "certified": "Certified accuracy",
    "attacks": "Attacks",
    "corruptions": "Bad pictures",
    "calibration": "Confidence",
    "ood": "Images of another kind",
    "cost": "Cost",
}


def parts_found(evaluation: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return what a part found, by model; models that lack it are left out."""
    return {
        model["name"]: model["parts"][part]["found"]
        for model in evaluation["models"]
        if model["parts"].get(part, {}).get("state") == "done"
    }


def missing(evaluation: Mapping[str, Any], part: str) -> list[str]:
    """Return a sentence per model for which a part could not be measured."""
    return [
        f"{model['name']}: not measured, because {_clause(model['parts'][part]['why'])}"
        for model in evaluation["models"]
        if model["parts"].get(part, {}).get("state") == "missing"
    ]


def sections(evaluation: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a page, in order; a part that nobody asked for has none."""
    made = [summary_section(evaluation)]
    commands = evaluation["commands"]
    for part, title in TITLES.items():
        found, sentences = parts_found(evaluation, part), missing(evaluation, part)
        if not found and not sentences:
            continue
        command = commands.get(part, "")
        if not found:
            made.append(Section(part, title, "", missing=sentences))
            continue
        if part == "cost":
            one = cost_section(found, command, parts_found(evaluation, "certified"))
        else:
            one = SECTIONS[part](found, command)
        more = [*sentences, *one.missing]
        made.append(Section(one.key, one.title, one.says, one.figures, one.tables, one.notes, more))
        if part == "certified" and (brier := brier_section(found, command)) is not None:
            made.append(brier)
    return made


def summary_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sum an evaluation up, one dictionary per model; a figure that is not there is None.

    Returns:
        name, clean, certified (at radius 0, and at half the noise), radius (that one), attacked (at
        that radius, or the next larger one), corrupted, ece, brier (of the softmax), auroc (of the
        best score on the first foreign set), nfe and milliseconds.
    """
    rows = []
    for model in evaluation["models"]:
        parts = {k: v["found"] for k, v in model["parts"].items() if v["state"] == "done"}
        row: dict[str, Any] = {"name": model["name"], "clean": None, "radius": None}
        row |= dict.fromkeys(("smoothed", "certified", "attacked", "corrupted", "ece"))
        row |= dict.fromkeys(("auroc", "score", "nfe", "milliseconds"))
        if "clean" in parts:
            row["clean"] = parts["clean"]["accuracy"]
        if "certified" in parts:
            run = parts["certified"]["runs"][0]
            radius = run["radii"][min(len(run["radii"]) - 1, 1 if run["norm"] == "l2" else 2)]
            row["radius"] = radius
            row["smoothed"], row["certified"] = accuracy_at(run, [0.0, radius])
        if "attacks" in parts:
            run = parts["attacks"]["runs"][0]
            left = next(one for one in run["rows"] if one["name"] == "all attacks")
            places = [
                i
                for i, r in enumerate(run["radii"])
                if row["radius"] and r >= row["radius"] - 1e-12
            ]
            row["attacked"] = left["accuracy"][places[0]] if places else None
        if "corruptions" in parts:
            row["corrupted"] = parts["corruptions"]["mean"]
        if "calibration" in parts:
            row["ece"] = parts["calibration"]["sources"][0]["error"]
        if "ood" in parts and parts["ood"]["sets"][0]["rows"]:
            best = max(parts["ood"]["sets"][0]["rows"], key=lambda one: one["auroc"])
            row["auroc"], row["score"] = best["auroc"], best["score"]
        if "cost" in parts:
            row["nfe"] = parts["cost"]["nfe"]["mean"]
            row["milliseconds"] = 1000 * parts["cost"]["seconds"]
        rows.append(row)
    return rows


def summary_table(evaluation: Mapping[str, Any]) -> TableBlock:
    """Return the short table, without the columns of parts that no model has."""
    rows = summary_rows(evaluation)
    radii = {row["radius"] for row in rows if row["radius"] is not None}
    at = f" at r = {radii.pop():g}" if len(radii) == 1 else ""
    columns = {
        "clean": ("right, clean (%)", percent),
        "smoothed": ("right, certified (%)", percent),
        "certified": (f"certified{at} (%)", percent),
        "attacked": (f"left by attacks{at} (%)", percent),
        "corrupted": ("bad pictures (%)", percent),
        "ece": ("ECE", lambda value: DASH if value is None else f"{value:.3f}"),
        "auroc": ("foreign found: AUROC (%)", percent),
        "nfe": ("evaluations", lambda value: DASH if value is None else f"{value:.1f}"),
        "milliseconds": ("ms", lambda value: DASH if value is None else f"{value:.3g}"),
    }
    shown = [key for key in columns if any(row[key] is not None for row in rows)]
    body: list[list[Cell | str]] = [
        [row["name"], *(columns[key][1](row[key]) for key in shown)] for row in rows
    ]
    return TableBlock("In short", ["model", *(columns[key][0] for key in shown)], body)


def summary_section(evaluation: Mapping[str, Any]) -> Section:
    """Return the first section."""
    says = (
        "Each column is one question, answered below: from left to right what the model can do, "
        "what it is proven to keep, what people and weather take from it, and what it costs."
    )
    if evaluation["data"] is None:
        says = "Each row is a run of certificates, read as it is; nothing was computed anew."
    return Section("short", "In short", says, tables=[summary_table(evaluation)])


def text(evaluation: Mapping[str, Any]) -> str:
    """Format the short table for a terminal, with what is missing."""
    table = summary_table(evaluation)
    lines = [list(table.head), *([_said(cell) for cell in row] for row in table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    shown.insert(1, "-" * max(map(len, shown)))
    for part in TITLES:
        shown += [f"{part}: {sentence}" for sentence in missing(evaluation, part)]
    return "\n".join(shown)


def write_evaluation_page(evaluation: Mapping[str, Any], path: Path) -> None:
    """Write the page of an evaluation.

    Raises:
        RunError: If it cannot be written.
    """
    names = [model["name"] for model in evaluation["models"]]
    data = evaluation["data"]
    if data is None:
        title = f"Certificates: {', '.join(names)}"
        lead = "Within which radius the answers cannot change, from finished runs."
    else:
        verb = "is" if len(names) == 1 else "are"
        title = f"What {_listed(names)} {verb} worth on {data['name']}"
        lead = (
            f"{data['images']} images ({data['split']}, {data['shape']}). Each section says first "
            "what it shows; grey boxes hold the commands that make the figures again."
        )
    facts = {"command": evaluation["commands"]["all"], **evaluation["environment"]}
    write_page(path, title, lead, sections(evaluation), {k: str(v) for k, v in facts.items()})


def evaluation_of_runs(runs: Sequence[tuple[str | None, str]], page: Path) -> dict[str, Any]:
    """Return finished runs as an evaluation that has no other part.

    Args:
        runs: Name (None for the run's own) and folder or file of each.
        page: Where the page goes.

    Raises:
        RunError: If a run cannot be read.
    """
    models = []
    for name, path in runs:
        described = describe_run(path, name)
        found = {"runs": [described]}
        models.append(
            {"name": described["name"], "parts": {"certified": {"state": "done", "found": found}}}
        )
    given = [path if name is None else f"{name}={path}" for name, path in runs]
    command = shlex.join(["deqcert", "report", *given, "--html", str(page)])
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "data": None,
        "models": models,
        "commands": {"all": command, "certified": command},
        "environment": {},
    }


def _said(cell: Cell | str) -> str:
    return cell if isinstance(cell, str) else cell.text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _clause(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."
