"""The section on certified accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deqcert.certifiers.bounds import write_radius
from deqcert.report.certified import accuracy_at
from deqcert.report.figures import certified_curves, share_bars
from deqcert.report.page import FigureBlock, Section, TableBlock, percent
from deqcert.report.sections.base import Found, norm_name, runs_of, shaded, the
from deqcert.report.tables import radii_until


def certified_section(found: Found) -> Section:
    """What no perturbation within a radius can change."""
    runs = [{**run, "name": name} for name, run in runs_of(found)]
    norm = runs[0]["norm"]
    same = [run for run in runs if run["norm"] == norm]
    largest = max(max(run["curve"]["radii"]) for run in same)
    radii = same[0]["radii"] if same[0]["asked"] else list(radii_until(largest, norm))
    at = radii[min(len(radii) - 1, 1 if norm == "l2" else 2)]
    sound = [run for run in same if run["sound"]]
    says = "None of these runs has a theorem behind it: its radii are only for comparison."
    if sound:
        best = max(sound, key=lambda run: accuracy_at(run, [at])[0])
        share = accuracy_at(best, [at])[0]
        says = (
            f"For {percent(share)}% of the images, no change of {norm_name(norm)} size up to "
            f"{at:g} can make {the(found, best['name'])} answer wrongly"
        )
        alpha = best.get("alpha", 0)
        says += (
            f"; each such certificate errs with probability at most {alpha:g}."
            if is_number(alpha) and alpha > 0
            else "; that is proven."
        )
    figures = [
        FigureBlock(
            "Certified accuracy by radius"
            + ("; the band holds for all such images together (95%)" if sound else ""),
            certified_curves(same),
        )
    ]
    if voting := [run for run in same if "shares" in run]:
        figures.append(
            FigureBlock(
                "How many noisy copies of an image agree: far right is sure", share_bars(voting)
            )
        )
    head = ["model", "images", *(f"r \N{GREATER-THAN OR EQUAL TO} {r:g}" for r in radii)]
    rows = []
    for run in same:
        heights = accuracy_at(run, radii)
        rows.append(
            [
                run["name"] if run["sound"] else f"{run['name']} UNSOUND",
                str(run["images"]),
                *shaded(heights),
                f"{percent(run['abstained'])}",
                write_radius(run["acr"], 3),
            ]
        )
    caption = f"Certified accuracy (%) at {norm_name(norm)} radii, pixels in [0, 1]"
    tables = [TableBlock(caption, [*head, "abstains", "ACR"], rows)]
    notes = []
    if norm == "l2":
        notes.append(
            "The l2 size of a change is its length over all pixels, each from 0 (black) to 1 "
            "(white): one pixel from black to white is 1, as are a hundred pixels by a tenth each."
        )
    notes += [_terms(run) for run in same]
    width = ", ".join(
        f"+{percent(run['band']['above'])} and \N{MINUS SIGN}{percent(run['band']['below'])} points"
        for run in sound
    )
    if sound:
        notes.append(
            f"The band ({width}) is for images drawn as these were; it includes the certificates "
            "that may be wrong."
        )
    notes.append("ACR, the mean radius, rewards easy images without bound; read the curve first.")
    missing = [
        f"{run['name']}: no shares of votes, because {run['no_shares']}."
        for run in same
        if "no_shares" in run and run.get("sigma")
    ]
    missing += [
        f"{run['name']} is certified in {norm_name(run['norm'])} and stands in no common table."
        for run in runs
        if run["norm"] != norm
    ]
    for run in same:
        notes += [f"{run['name']}: {said}." for said in run.get("agreement", {}).get("said", ())]
    return Section("certified", "Certified accuracy", says, figures, tables, notes, missing)


def _terms(run: Mapping[str, Any]) -> str:
    """Say what the certificates of a run rest on."""
    words = [str(run.get("method", "unknown method"))]
    words += [f"{key} {run[key]:g}" for key in ("sigma", "n") if is_number(run.get(key))]
    text = f"{run['name']}: {', '.join(words)}"
    if "classifier" in run:
        text += f"; certified is {run['classifier']}"
    if is_number(run.get("alpha")) and run["alpha"] > 0:
        text += f"; each certificate is wrong with probability at most {run['alpha']:g}"
    if not run["sound"]:
        text += "; UNSOUND: no theorem supports these radii"
    if run["pending"]:
        text += f"; unfinished, {run['pending']} images are missing"
    return f"{text}. Again: {run['command']}"


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, not a text such as "mixed"."""
    return isinstance(value, int | float) and math.isfinite(value)
