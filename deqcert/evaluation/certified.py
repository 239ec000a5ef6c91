"""The part "certified": what no perturbation within a radius can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deqcert.evaluation.config import spread
from deqcert.evaluation.subject import Subject

FOLDER = "certified"


def certified(subject: Subject) -> dict[str, Any]:
    """Certify some of the images, or read the runs that are there.

    Returns:
        runs, each as :func:`deqcert.report.certified.describe_run` describes it.
    """
    from deqcert.report.certified import describe_run

    return {"runs": [describe_run(folder) for folder in run_folders(subject)]}


def run_folders(subject: Subject) -> tuple[Path, ...]:
    """Return the folders of finished runs; without any, certify into one."""
    if subject.runs:
        return subject.runs
    folder = subject.folder / FOLDER
    chosen = spread(subject.images, subject.asked.certify_images)
    subject.classifier.certify_dataset(
        subject.data,
        split=subject.split,
        images=f"{chosen.start}:{chosen.stop}:{chosen.step}",
        out=folder,
        workers=subject.spread.workers,
        ray=subject.spread.ray,
        progress=subject.progress,
        note=subject.note,
    )
    return (folder,)
