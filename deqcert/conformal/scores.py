"""How well an input conforms to each class: larger is better, and no larger gap lowers it.

A score is a function of the gaps D[y, j] = z_y - z_j between logits that rises (or stays) in each
of them. So it can be computed from logits, and bounded wherever the gaps are: from lower bounds of
all gaps it makes a lower bound of itself, from upper bounds an upper one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from deqcert.registry import Registry

Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Gaps, shape (..., K, K), 0 on the diagonal, to scores per class, shape (..., K)."""


def margin(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much each logit exceeds every other one: min over j of z_y - z_j."""
    classes = gaps.shape[-1]
    if classes == 1:
        return np.zeros(gaps.shape[:-1])
    others: NDArray[np.float64] = np.where(np.eye(classes, dtype=bool), np.inf, gaps).min(axis=-1)
    return others


def softmax(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each class's probability, 1 / sum over j of exp(z_j - z_y).

    **Source:** M. Sadinle, J. Lei, L. Wasserman, "Least Ambiguous Set-Valued Classifiers With
    Bounded Error Levels" (2019).
    """
    found: NDArray[np.float64] = np.exp(-special.logsumexp(-gaps, axis=-1))
    return found


def aps(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 minus the probability of the classes that are likelier, without a coin.

    The class with the largest logit has score 1, so its sets are never empty.

    **Source:** Y. Romano, M. Sesia, E. Candès, "Classification with Valid and Adaptive Coverage"
    (2020), equations 4 and 5: y is among the fewest classes that make up a mass t exactly if the
    mass of those before it is below t.
    """
    # P(j) = 1 / sum over k of exp(D[k, j]); a larger gap takes mass from the classes before.
    mass = np.exp(-special.logsumexp(gaps, axis=-2))
    before = np.where(gaps < 0.0, mass[..., None, :], 0.0).sum(axis=-1)
    return np.asarray(1.0 - before)


SCORES: Registry[Score] = Registry(
    "score",
    {
        "softmax": softmax,
        "margin": margin,
        "aps": aps,
    },
)
"""Every score; add yours with ``SCORES.register``."""

ELEMENTS = 2**22
"""Gaps that are held at once."""


def scores_of(name: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of logits, both of shape (..., K).

    Args:
        name: Name of the score.
        logits: Finite logits.
    """
    score, classes = SCORES.get(name), logits.shape[-1]
    rows = logits.reshape(-1, classes)
    found = np.empty(rows.shape)
    step = max(1, ELEMENTS // classes**2)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        found[first : first + step] = score(part[:, :, None] - part[:, None, :])
    return found.reshape(logits.shape)
