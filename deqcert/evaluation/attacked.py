"""The part "attacks": what the certified classifiers still get right when somebody tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deqcert.attacking import Attacking, Certified, attack_certificates, parse_attack
from deqcert.evaluation.certified import run_folders
from deqcert.evaluation.config import spread
from deqcert.evaluation.subject import Subject
from deqcert.report.attacks import Attacked, robust_accuracy

USUAL = ("pgd-implicit:steps=10", "smoothadv-pgd:steps=10", "square:steps=200", "random")
"""Attacks of an evaluation where none is named; those that fit the certificates."""

VERDICT = 500
"""Fresh noisy copies of a verdict."""


def attacked(subject: Subject) -> dict[str, Any]:
    """Attack some of the certified images of every run.

    Returns:
        runs: each with name, images, radii, rows (as :func:`deqcert.report.attacks.attack_rows`),
        alarms, norm, smoothed, subject and folder.
    """
    found = []
    for i, run in enumerate(run_folders(subject)):
        certified = Certified.of_run(
            run,
            lambda count: spread(range(count), subject.asked.attack_images),
            Attacking(n=VERDICT),
            data=subject.data,
        )
        named = subject.attacks or tuple(
            attack
            for attack in map(parse_attack, USUAL)
            if (
                attack.name != "random"
                if certified.noise
                else certified.results.norm in attack.norms and not attack.smoothed
            )
        )
        out = subject.folder / ("attacks" if i == 0 else f"attacks-{i + 1}")
        finished = attack_certificates(
            certified,
            named,
            out,
            tell=lambda outcome, made: None,
            note=subject.note,
            spread=subject.spread,
        )
        outcome = finished.attacked
        found.append(
            {
                "name": certified.results.name,
                "run": str(run),
                "folder": str(out),
                "about": certified.about,
                "images": len(outcome.idx),
                "radii": finished.radii,
                "rows": finished.rows,
                "curves": _curves(outcome, max(finished.evaluation.grid)),
                "alarms": {str(image): list(names) for image, names in outcome.alarms.items()},
                "norm": outcome.ball,
                "smoothed": outcome.smoothed,
                "alpha": finished.alpha,
                "attacks": [attack.describe() for attack in named],
            }
        )
    return {"runs": found}


def _curves(outcome: Attacked, reach: float) -> dict[str, list[float]]:
    """Return accuracy at many radii: certified, and left by all attacks."""
    at = np.linspace(0.0, reach, 121).tolist()
    left = robust_accuracy(outcome.correct, outcome.smallest, at)
    return {
        "radii": at,
        "certified": outcome.certified_accuracy(at).tolist(),
        "attacked": left.tolist(),
    }


def alarms(found: dict[str, Any]) -> list[str]:
    """Return a sentence for every certificate that was broken."""
    return [
        f"ALARM: image {image} is broken inside its certified radius by {', '.join(names)}: "
        f"{Path(run['folder']) / 'alarms'}"
        for run in found["runs"]
        for image, names in run["alarms"].items()
    ]
