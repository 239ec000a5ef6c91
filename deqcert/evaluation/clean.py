"""The part "clean": how often the model is right when nothing is done to the images."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqcert.certifiers.bounds import confidence_interval
from deqcert.evaluation.subject import Subject

CERTAINTY = 0.05
"""Failure probability of the intervals of a page."""


def clean(subject: Subject) -> dict[str, Any]:
    """Classify every image once, without noise.

    Returns:
        images, correct, accuracy, interval (Clopper and Pearson, 95%), unsolved (images whose solve
        did not end as it should, which count as wrong), by_class.
    """
    solved, labels = subject.solved, subject.labels
    right = solved.answer == labels
    names = subject.dataset.classes
    return {
        "images": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "interval": list(confidence_interval(int(right.sum()), len(labels), CERTAINTY)),
        "unsolved": int((~solved.answered).sum()),
        "solve": subject.predictor.describe(),
        "by_class": [
            {
                "class": str(names[y]) if y < len(names) else str(y),
                "images": int((labels == y).sum()),
                "accuracy": float(right[labels == y].mean()),
            }
            for y in np.unique(labels)
        ],
    }
