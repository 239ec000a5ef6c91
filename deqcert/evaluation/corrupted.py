"""The part "corruptions": what weather, lenses, sensors and files leave of the accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqcert.errors import DataError
from deqcert.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, fitting, is_picture
from deqcert.evaluation.subject import Subject


def check_picture(subject: Subject) -> None:
    """Refuse data that are no pictures.

    Raises:
        DataError: If they are none.
    """
    shape = subject.dataset.shape
    if not is_picture(shape):
        size = "x".join(map(str, shape))
        raise DataError(
            f"the inputs of {subject.data} are {size}, but corruptions are made for pictures "
            "of one or three channels and 4x4 pixels or more; leave corruptions out of --parts."
        )


def corrupted(subject: Subject) -> dict[str, Any]:
    """Classify every image in every corruption and severity, once, without noise.

    Returns:
        images, severities, clean (accuracy of the images as they are), rows (name, about, accuracy
        per severity, mean), by_severity (mean over corruptions), mean, left_out (corruptions that
        mean nothing for these images).

    Raises:
        DataError: If the data are no pictures.
    """
    check_picture(subject)
    shape, labels = subject.dataset.shape, subject.labels
    names = fitting(shape)
    images = subject.dataset.batch(subject.images)
    rows = []
    for name in names:
        shares = []
        for severity in SEVERITIES:
            worse = np.stack(
                [
                    corrupt(image, name, severity, index=index)
                    for image, index in zip(images, subject.images, strict=True)
                ]
            )
            shares.append(float((subject.solve(worse).answer == labels).mean()))
        rows.append(
            {
                "name": name,
                "about": CORRUPTIONS.get(name).about,
                "accuracy": shares,
                "mean": float(np.mean(shares)),
            }
        )
    by_severity = np.array([row["accuracy"] for row in rows]).mean(axis=0)
    return {
        "images": len(labels),
        "severities": list(SEVERITIES),
        "clean": float((subject.solved.answer == labels).mean()),
        "rows": rows,
        "by_severity": by_severity.tolist(),
        "mean": float(by_severity.mean()),
        "left_out": [name for name in CORRUPTIONS.names() if name not in names],
    }
