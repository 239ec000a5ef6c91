"""The part "calibration": whether the model is right as often as it is sure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.confidence import brier, log_loss, reliability
from deqcert.errors import DeqcertError
from deqcert.evaluation.subject import Subject


def calibrated(subject: Subject) -> dict[str, Any]:
    """Hold confidences against truth: of the softmax without noise, and of shares of votes.

    Returns:
        sources: each with name, images, error (expected calibration error), brier, log_loss,
        confidence (mean), accuracy, bins (low, high, count, confidence, accuracy); missing: why
        there are no shares of votes, or None.
    """
    labels = subject.labels
    sources = [_source("softmax", subject.solved.probabilities, labels)]
    missing = None
    try:
        sources.append(_source("votes", vote_shares(subject.shares, subject.asked.votes), labels))
    except DeqcertError as error:
        missing = str(error)
    return {"sources": sources, "missing": missing, "votes": subject.asked.votes}


def vote_shares(counts: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return shares of votes, shape (N, K): half a vote is added to each class.

    Without it a class that nobody voted for would have probability 0, and a log loss no end. Copies
    without an answer are votes for every class alike.

    Args:
        counts: Votes per class, shape (N, K).
        n: Noisy copies of each image.
    """
    classes = counts.shape[1]
    lost = n - counts.sum(axis=1, keepdims=True)
    return np.asarray((counts + lost / classes + 0.5) / (n + 0.5 * classes))


def _source(
    name: str, probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, Any]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = reliability(confidence, right)
    return {
        "name": name,
        "images": len(labels),
        "error": found.error,
        "brier": brier(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "bins": [
            {
                "low": float(found.edges[i]),
                "high": float(found.edges[i + 1]),
                "count": int(found.count[i]),
                "confidence": float(found.confidence[i]) if found.count[i] else None,
                "accuracy": float(found.accuracy[i]) if found.count[i] else None,
            }
            for i in range(len(found.count))
        ],
    }
