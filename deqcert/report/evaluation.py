"""The page and the short table of an evaluation, or of runs alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deqcert.report.aligned import aligned
from deqcert.report.certified import accuracy_at, describe_results
from deqcert.report.page import Cell, Section, TableBlock, percent, write_page
from deqcert.report.reader import Results
from deqcert.report.sections.attacks import attacks_section
from deqcert.report.sections.base import DASH, images
from deqcert.report.sections.brier import brier_section
from deqcert.report.sections.calibration import calibration_section
from deqcert.report.sections.certified import certified_section
from deqcert.report.sections.clean import clean_section
from deqcert.report.sections.corruptions import corruptions_section
from deqcert.report.sections.cost import cost_section
from deqcert.report.sections.ood import ood_section

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
"""What the section of each part is called."""

SECTIONS: dict[str, Callable[[Mapping[str, Mapping[str, Any]]], Section]] = {
    "clean": clean_section,
    "certified": certified_section,
    "attacks": attacks_section,
    "corruptions": corruptions_section,
    "calibration": calibration_section,
    "ood": ood_section,
}
"""The sections that need nothing but what their own part found."""


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
    for part, title in TITLES.items():
        found, sentences = parts_found(evaluation, part), missing(evaluation, part)
        command = evaluation["commands"].get(part, "")
        if not found:
            if sentences:
                made.append(Section(part, title, "", missing=sentences, command=command))
            continue
        if part == "cost":
            one = cost_section(found, parts_found(evaluation, "certified"))
        else:
            one = SECTIONS[part](found)
        made.append(replace(one, missing=[*sentences, *one.missing], command=command))
        if part == "certified" and (brier := brier_section(found)) is not None:
            made.append(replace(brier, command=command))
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
            row["radius"] = radius = _told(run)
            row["smoothed"], row["certified"] = accuracy_at(run, [0.0, radius])
        if "attacks" in parts:
            run = parts["attacks"]["runs"][0]
            row["radius"] = _told(run) if row["radius"] is None else row["radius"]
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
    """Return the short table: a question in each row that some model answers, a model a column."""
    rows = summary_rows(evaluation)
    radii = {row["radius"] for row in rows if row["radius"] is not None}
    at = f" at r = {radii.pop():g}" if len(radii) == 1 else ""
    scores = {row["score"] for row in rows if row["score"] is not None}
    score = f" by {scores.pop()}" if len(scores) == 1 else ""
    questions = {
        "clean": "right without noise (%)",
        "smoothed": f"right, certified at any radius (%{_images(evaluation, 'certified')})",
        "certified": f"right, certified{at} (%{_images(evaluation, 'certified')})",
        "attacked": f"right, left by attacks{at} (%{_images(evaluation, 'attacks')})",
        "corrupted": "right on bad pictures (%)",
        "ece": "calibration error (%)",
        "auroc": f"foreign images noticed{score} (AUROC, %)",
        "nfe": "evaluations an answer",
        "milliseconds": "milliseconds an answer",
    }
    body = [
        [question, *(_figure(key, row[key]) for row in rows)]
        for key, question in questions.items()
        if any(row[key] is not None for row in rows)
    ]
    unsound = {
        name
        for name, found in parts_found(evaluation, "certified").items()
        if not found["runs"][0]["sound"]
    }
    names = [f"{row['name']} UNSOUND" if row["name"] in unsound else row["name"] for row in rows]
    return TableBlock("", ["", *names], body)


def _told(run: Mapping[str, Any]) -> float:
    """Return the radius of a run that a short table tells of."""
    radii: Sequence[float] = run["radii"]
    return radii[min(len(radii) - 1, 1 if run["norm"] == "l2" else 2)]


def _images(evaluation: Mapping[str, Any], part: str) -> str:
    """Say how many images a part looked at, where that is one number."""
    found = parts_found(evaluation, part).values()
    counts = {run["images"] for one in found for run in one["runs"][:1]}
    if len(counts) != 1:
        return ""
    return f" of {images(counts.pop())}"


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return DASH
    return f"{value:.3g}" if key in ("nfe", "milliseconds") else percent(value)


def summary_section(evaluation: Mapping[str, Any]) -> Section:
    """Return the first section."""
    says = (
        "From top to bottom: what the model can do, what it is proven to keep, what people and "
        "weather take from it, whether it knows its limits, and what it costs."
    )
    if evaluation["data"] is None:
        says = "Finished runs of certificates, read as they are; nothing was computed anew."
    command = evaluation["commands"]["all"]
    return Section("short", "In short", says, tables=[summary_table(evaluation)], command=command)


def text(evaluation: Mapping[str, Any]) -> str:
    """Format the short table for a terminal, with what is missing."""
    table = summary_table(evaluation)
    shown = aligned(list(table.head), [[_said(cell) for cell in row] for row in table.rows])
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
            f"{images(data['images'])} ({data['split']}, {data['shape']}). Each section says first "
            "what it shows; the grey box below is the command that makes its figures again."
        )
    facts = {name: str(value) for name, value in evaluation["environment"].items()}
    write_page(path, title, lead, sections(evaluation), facts)


def evaluation_of_runs(
    runs: Sequence[tuple[Results, Sequence[str]]],
    words: Sequence[str],
    asked: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return finished runs as an evaluation that has no other part.

    Args:
        runs: Certificates, and the folders or files of each.
        words: The command that was given.
        asked: Radii that a table must have; None for the usual ones.
    """
    models = [
        {
            "name": results.name,
            "parts": {
                "certified": {
                    "state": "done",
                    "found": {"runs": [describe_results(results, paths, asked)]},
                }
            },
        }
        for results, paths in runs
    ]
    command = shlex.join(words)
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
