"""The part "ood": whether the model notices images that are of another kind than its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqcert.errors import ConfigError, DataError, DeqcertError
from deqcert.evaluation.scores import SCORES, Looked
from deqcert.evaluation.subject import FOREIGN, Subject

POINTS = 120
"""Points of a curve that are kept, besides its ends."""


def detected(subject: Subject) -> dict[str, Any]:
    """Score own and foreign images, and see how well each score tells them apart.

    Returns:
        sets: each with name, images, own (own images), changed (how foreign ones were brought into
        shape), rows (score, about, auroc, fpr95, roc) and missing (score to reason).

    Raises:
        ConfigError: If no foreign data are given.
    """
    if not subject.ood:
        raise ConfigError("no foreign data are given; name some with --ood, as in --ood mnist:DIR.")
    looked = Looked(subject)
    images = subject.dataset.batch(subject.images)
    own: dict[str, NDArray[np.float64]] = {}
    missing: dict[str, str] = {}
    for name, score in SCORES.items():
        try:
            own[name] = score.of(looked, images, list(subject.images), True)
        except (DeqcertError, ValueError) as error:
            missing[name] = str(error)
    sets = []
    for called, foreign in subject.ood.items():
        looked.forget()
        rows, without = [], dict(missing)
        numbers = [FOREIGN + int(i) for i in foreign.numbers]
        for name, inside in own.items():
            try:
                outside = SCORES[name].of(looked, foreign.images, numbers, False)
                row = tell_apart(inside, outside)
            except (DeqcertError, ValueError) as error:
                without[name] = str(error)
                continue
            rows.append({"score": name, "about": SCORES[name].about, **row})
        sets.append(
            {
                "name": called,
                "images": len(foreign.images),
                "own": len(images),
                "changed": foreign.changed,
                "rows": rows,
                "missing": without,
            }
        )
    return {"sets": sets}


def tell_apart(own: NDArray[np.float64], foreign: NDArray[np.float64]) -> dict[str, Any]:
    """Measure how well a score that is larger for foreign images finds them.

    Args:
        own: Scores of own images, shape (N,); infinite ones are taken for the largest.
        foreign: Of foreign images, shape (M,).

    Returns:
        auroc (probability that a foreign image scores higher than an own one, half of ties), fpr95
        (share of foreign images that pass where 95% of the own ones at least pass), and roc, pairs
        of the share of foreign and of own images that pass.

    Raises:
        DataError: If a score is no number.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    scores = np.concatenate([own, foreign])
    if np.isnan(scores).any():
        raise DataError("some images have no such score.")
    finite = scores[np.isfinite(scores)]
    largest = float(finite.max()) if len(finite) else 0.0
    # An infinite residual is the most foreign of all; sklearn takes finite numbers alone.
    scores = np.where(np.isposinf(scores), largest + 1.0, scores)
    passes = np.concatenate([np.ones(len(own)), np.zeros(len(foreign))])
    false, true, _ = roc_curve(passes, -scores, drop_intermediate=True)
    at = np.unique(np.linspace(0, len(false) - 1, POINTS).round().astype(int))
    return {
        "auroc": float(roc_auc_score(passes, -scores)),
        "fpr95": float(false[np.argmax(true >= 0.95)]),
        "roc": [[float(false[i]), float(true[i])] for i in at],
    }
