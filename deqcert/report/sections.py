"""The sections of an evaluation's page, from its JSON values; each says in a sentence what it shows.

A function here gets the models of an evaluation by name, each with what one part found, and returns
a :class:`deqcert.report.page.Section`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from deqcert.certifiers.bounds import write_radius
from deqcert.report.certified import accuracy_at
from deqcert.report.figures import (
    certified_curves,
    curves,
    reliability_diagram,
    roc_curves,
    share_bars,
)
from deqcert.report.page import Cell, FigureBlock, Section, TableBlock, percent
from deqcert.report.tables import radii_until

Found = Mapping[str, Mapping[str, Any]]
"""What one part found, by model."""

DASH = "\N{EN DASH}"


def clean_section(found: Found, command: str) -> Section:
    """How often the models are right when nothing is done to the images."""
    best = max(found, key=lambda name: found[name]["accuracy"])
    one = found[best]
    says = (
        f"Of {one['images']} images as they are, {_of(found, best)} names the class of "
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
    tables = [TableBlock("Accuracy without noise and without an adversary", head, rows, command)]
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


def certified_section(found: Found, command: str) -> Section:
    """What no perturbation within a radius can change."""
    runs = [
        {**run, "name": name if len(part["runs"]) == 1 else f"{name}: {run['name']}"}
        for name, part in found.items()
        for run in part["runs"]
    ]
    norm = runs[0]["norm"]
    same = [run for run in runs if run["norm"] == norm]
    largest = max(max(run["curve"]["radii"]) for run in same)
    radii = list(radii_until(largest, norm))
    at = radii[min(len(radii) - 1, 1 if norm == "l2" else 2)]
    best = max(same, key=lambda run: accuracy_at(run, [at])[0])
    share = accuracy_at(best, [at])[0]
    says = (
        f"For {percent(share)}% of the images it is certain that no change of {_norm(norm)} size "
        f"up to {at:g} makes {_of(found, best['name'])} answer wrongly."
    )
    figures = [
        FigureBlock(
            "Certified accuracy by radius; the band holds for all such images together (95%)",
            certified_curves(same),
            command,
        )
    ]
    if voting := [run for run in same if "shares" in run]:
        figures.append(
            FigureBlock(
                "How many noisy copies of an image agree: far right is sure",
                share_bars(voting),
                command,
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
                *(Cell(percent(height), height) for height in heights),
                f"{percent(run['abstained'])}",
                write_radius(run["acr"], 3),
            ]
        )
    caption = f"Certified accuracy (%) at {_norm(norm)} radii, pixels in [0, 1]"
    tables = [TableBlock(caption, [*head, "abstains", "ACR"], rows, command)]
    notes = [_terms(run) for run in same]
    width = ", ".join(
        f"+{percent(run['band']['above'])} and \N{MINUS SIGN}{percent(run['band']['below'])} points"
        for run in same
    )
    notes.append(
        f"The band ({width}) is for images drawn as these were; it includes the certificates that "
        "may be wrong. ACR, the mean radius, rewards easy images without bound; read the curve "
        "first."
    )
    missing = [
        f"{run['name']}: no shares of votes, because {run['no_shares']}."
        for run in same
        if "no_shares" in run and run.get("sigma")
    ]
    missing += [
        f"{run['name']} is certified in {_norm(run['norm'])} and stands in no common table."
        for run in runs
        if run["norm"] != norm
    ]
    for run in same:
        notes += [f"{run['name']}: {said}." for said in run.get("agreement", {}).get("said", ())]
    return Section("certified", "Certified accuracy", says, figures, tables, notes, missing)


def brier_section(found: Found, command: str) -> Section | None:
    """How wrong confidences can become; None where no run tells."""
    runs = [(name, run) for name, part in found.items() for run in part["runs"] if "brier" in run]
    if not runs:
        return None
    name, run = runs[0]
    at = run["brier"]["radii"]
    says = (
        f"With no change its confidence is off by at most {run['brier']['bounds'][0]:.3f} (Brier "
        f"score, 0 is perfect); within a radius of {at[2]:g} nobody can make that worse than "
        f"{run['brier']['bounds'][2]:.3f} for {_of(found, name)}."
    )
    lines = [
        (name, run["brier"]["radii"], run["brier"]["bounds"], i, 0)
        for i, (name, run) in enumerate(runs)
    ]
    figure = curves(
        "certified Brier score by radius", "radius", "Brier score, at most", lines, top=None
    )
    rows = [
        [name, *(f"{bound:.3f}" for bound in run["brier"]["bounds"])]
        for name, run in runs
        if run["brier"]["radii"] == at
    ]
    tables = [TableBlock("Brier score, at most", ["model", *(f"r = {r:g}" for r in at)], rows)]
    notes = [
        "The score is (c \N{MINUS SIGN} right)\N{SUPERSCRIPT TWO} of the share c of noisy copies "
        "that vote for the class answered; in expectation it is at most this plus alpha."
    ]
    figures = [FigureBlock("Certified Brier score by radius", figure, command)]
    return Section("brier", "Confidence under attack", says, figures, tables, notes)


def attacks_section(found: Found, command: str) -> Section:
    """What the certified classifiers get right when somebody tries."""
    runs = [
        (name if len(part["runs"]) == 1 else f"{name}: {run['name']}", run)
        for name, part in found.items()
        for run in part["runs"]
    ]
    broken = sum(len(run["alarms"]) for _, run in runs)
    name, run = runs[0]
    all_of = _row(run, "all attacks")
    at = min(len(run["radii"]) - 1, 2)
    says = (
        f"The strongest of our attacks leaves {percent(all_of['accuracy'][at])}% right at a size of "
        f"{run['radii'][at]:g} for {_of(found, name)}, and "
        + (
            "breaks no certificate: the truth lies between the two curves."
            if not broken
            else f"BREAKS {broken} certificates, which must not happen: see the alarms."
        )
    )
    figures = []
    lines = []
    for i, (called, one) in enumerate(runs):
        certified = _row(one, "certified")
        lines.append((f"{called}, certified", one["radii"], _hundred(certified), i, 0))
        lines.append(
            (f"{called}, attacked", one["radii"], _hundred(_row(one, "all attacks")), i, 1)
        )
    figures.append(
        FigureBlock(
            "Right (%) by size of the change: proven, and left by all attacks",
            curves("accuracy under attack by size", "size of the change", "right (%)", lines),
            command,
        )
    )
    tables = []
    for called, one in runs:
        head = ["", *(f"r = {r:g}" for r in one["radii"]), "breaks"]
        rows = [
            [
                row["name"],
                *(Cell(percent(share), share) for share in row["accuracy"]),
                str(row.get("breaks", DASH)),
            ]
            for row in one["rows"]
        ]
        tables.append(TableBlock(f"{called}: right (%) of {one['images']} images", head, rows))
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


def corruptions_section(found: Found, command: str) -> Section:
    """What weather, lenses, sensors and files leave."""
    best = max(found, key=lambda name: found[name]["mean"])
    part = found[best]
    worst = min(part["rows"], key=lambda row: row["mean"])
    says = (
        f"Without any adversary, bad pictures cost: {_of(found, best)} is right on "
        f"{percent(part['clean'])}% of clean images, on {percent(part['mean'])}% of corrupted ones "
        f"on average, and worst on {worst['name']} ({percent(worst['mean'])}%)."
    )
    lines = [
        (
            name,
            [0, *one["severities"]],
            [100 * one["clean"], *(100 * v for v in one["by_severity"])],
            i,
            0,
        )
        for i, (name, one) in enumerate(found.items())
    ]
    figure = curves(
        "accuracy by severity", "severity (0: as it is)", "right (%), mean of all", lines
    )
    figures = [FigureBlock("Mean over all corruptions, by severity", figure, command)]
    tables = []
    for name, one in found.items():
        head = ["corruption", *(str(severity) for severity in one["severities"]), "mean"]
        rows: list[list[Cell | str]] = [
            [
                f"{row['name']} ({row['about']})"
                if row["about"] not in row["name"]
                else row["name"],
                *(Cell(percent(share), share) for share in row["accuracy"]),
                Cell(percent(row["mean"]), row["mean"]),
            ]
            for row in one["rows"]
        ]
        shares = one["by_severity"]
        rows.append(
            ["all", *(Cell(percent(v), v) for v in shares), Cell(percent(one["mean"]), one["mean"])]
        )
        tables.append(
            TableBlock(f"{name}: right (%) of {one['images']} images, by severity", head, rows)
        )
    left = {name for one in found.values() for name in one["left_out"]}
    notes = [
        "Fourteen of Hendrycks and Dietterich's (2019) corruptions, those that we could write anew "
        "without pictures from elsewhere, at the strengths of their 32x32 set; not their benchmark. "
        "Classified by one solve without noise."
    ]
    if left:
        notes.append(
            f"Left out, because it means nothing for grey images: {', '.join(sorted(left))}."
        )
    return Section("corruptions", "Bad pictures", says, figures, tables, notes)


def calibration_section(found: Found, command: str) -> Section:
    """Whether the models are right as often as they are sure."""
    name = next(iter(found))
    first = found[name]["sources"][0]
    gap = first["confidence"] - first["accuracy"]
    says = (
        f"{_of(found, name).capitalize()} is sure of {percent(first['confidence'])}% and right on "
        f"{percent(first['accuracy'])}%: it is "
        + (
            "too sure of itself"
            if gap > 0.02
            else "not sure enough"
            if gap < -0.02
            else "well calibrated"
        )
        + ", on average."
    )
    names = {"softmax": "one solve, softmax", "votes": "share of votes"}
    sources = [
        (_both(found, name, names[source["name"]]), source, i, j)
        for i, (name, part) in enumerate(found.items())
        for j, source in enumerate(part["sources"])
    ]
    figures = [
        FigureBlock(
            f"Reliability: on the dotted line is honest (large dots: many images), {names[kind]}",
            reliability_diagram(
                f"reliability of {names[kind]}",
                [(n, s, i, 0) for n, s, i, _ in sources if s["name"] == kind],
            ),
            command,
        )
        for kind in names
        if any(source["name"] == kind for _, source, _, _ in sources)
    ]
    head = ["", "images", "right (%)", "mean confidence (%)", "ECE", "Brier", "log loss"]
    rows = [
        [
            called,
            str(source["images"]),
            percent(source["accuracy"]),
            percent(source["confidence"]),
            f"{source['error']:.4f}",
            f"{source['brier']:.4f}",
            f"{source['log_loss']:.4f}",
        ]
        for called, source, _, _ in sources
    ]
    caption = "Calibration: 0 is best in the last three columns"
    votes = {part["votes"] for part in found.values()}
    notes = [
        "ECE is the mean distance between confidence and accuracy over 15 bins; Brier is summed over "
        f"classes (0 to 2). Shares are of {'/'.join(str(v) for v in sorted(votes))} noisy copies, "
        "half a vote added to each class."
    ]
    missing = [f"{name}: {part['missing']}" for name, part in found.items() if part["missing"]]
    return Section(
        "calibration", "Confidence", says, figures, [TableBlock(caption, head, rows, command)],
        notes, missing,
    )  # fmt: skip


def ood_section(found: Found, command: str) -> Section:
    """Whether the models notice images of another kind."""
    name = next(iter(found))
    first = found[name]["sets"][0]
    says = "None of the scores could be computed."
    if first["rows"]:
        best = max(first["rows"], key=lambda row: row["auroc"])
        says = (
            f"Shown images of {first['name']}, {_of(found, name)} is told best by its "
            f"{best['score']}: a foreign image scores higher than an own one in "
            f"{percent(best['auroc'])}% of pairs, and {percent(best['fpr95'])}% of the foreign ones "
            "pass where 95% of its own do."
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
                        command,
                    )
                )
            rows = [
                [
                    row["score"]
                    if row["about"] == row["score"]
                    else f"{row['score']}: {row['about']}",
                    Cell(percent(row["auroc"]), max(0.0, 2 * row["auroc"] - 1)),
                    percent(row["fpr95"]),
                ]
                for row in one["rows"]
            ]
            caption = f"{called}: {one['own']} own and {one['images']} foreign images"
            tables.append(TableBlock(caption, ["score", "AUROC (%)", "FPR95 (%)"], rows, command))
            if one["changed"]:
                notes.append(f"{one['name']}: {one['changed']}.")
            missing += [f"{called}, {score}: {why}" for score, why in one["missing"].items()]
    return Section(
        "ood", "Images of another kind", says, figures, tables, list(dict.fromkeys(notes)), missing
    )


def cost_section(found: Found, command: str, runs: Found) -> Section:
    """What an answer costs."""
    name = min(found, key=lambda name: found[name]["seconds"])
    part = found[name]
    says = (
        f"One answer of {_of(found, name)} takes {part['nfe']['mean']:.1f} evaluations and "
        f"{1000 * part['seconds']:.3g} ms in a batch of {part['batch']}"
    )
    certifying = {
        name: run["seconds"] / run["images"]
        for name, part in runs.items()
        for run in part["runs"][:1]
        if run["seconds"]
    }
    says += f"; a certificate takes {certifying[name]:.3g} s." if name in certifying else "."
    rows = [
        [
            name,
            f"{part['nfe']['mean']:.1f}",
            str(part["nfe"]["largest"]),
            f"{1000 * part['seconds']:.3g}",
            f"{1000 * part['single']:.3g}",
            DASH if part["memory"] is None else f"{part['memory'] / 2**20:.1f}",
            f"{part['weights']['count']:,}",
            DASH if part["energy"] is None else f"{1000 * part['energy']:.3g}",
            f"{certifying[name]:.3g}" if name in certifying else DASH,
        ]
        for name, part in found.items()
    ]
    head = [
        "model",
        "evaluations",
        "at most",
        "ms an image, batch",
        "ms, one alone",
        "memory of a batch (MiB)",
        "weights",
        "energy an image (mJ)",
        "s a certificate",
    ]
    notes = [
        "Batches of "
        + ", ".join(
            f"{part['batch']} on {part['device']} ({part['form']})" for part in found.values()
        )
        + "; times are medians, memory is what a batch adds at most. They depend on the machine."
    ]
    missing = [
        f"{name}: no energy, because {part['no_energy']}."
        for name, part in found.items()
        if part["no_energy"]
    ]
    table = TableBlock("Cost of an answer without noise", head, rows, command)
    return Section("cost", "Cost", says, (), [table], notes, missing)


def _row(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in run["rows"] if row["name"] == name)
    return found


def _hundred(row: Mapping[str, Any]) -> list[float]:
    return [100 * share for share in row["accuracy"]]


def _both(found: Found, name: str, what: str) -> str:
    return what if len(found) == 1 else f"{name}, {what}"


def _of(found: Found, name: str) -> str:
    return "the model" if len(found) == 1 else name


def _norm(norm: str) -> str:
    return "l2" if norm == "l2" else "l-infinity"


def _terms(run: Mapping[str, Any]) -> str:
    """Say what the certificates of a run rest on."""
    words = [str(run.get("method", "unknown method"))]
    words += [f"{key} {run[key]:g}" for key in ("sigma", "n") if _is_number(run.get(key))]
    text = f"{run['name']}: {', '.join(words)}"
    if "classifier" in run:
        text += f"; certified is {run['classifier']}"
    if _is_number(run.get("alpha")) and run["alpha"] > 0:
        text += f"; each certificate is wrong with probability at most {run['alpha']:g}"
    if not run["sound"]:
        text += "; UNSOUND: no theorem supports these radii"
    if run["pending"]:
        text += f"; unfinished, {run['pending']} images are missing"
    return f"{text}. Again: {run['command']}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


SECTIONS: dict[str, Callable[[Found, str], Section]] = {
    "clean": clean_section,
    "certified": certified_section,
    "attacks": attacks_section,
    "corruptions": corruptions_section,
    "calibration": calibration_section,
    "ood": ood_section,
}
"""The sections that need nothing but their own part."""
