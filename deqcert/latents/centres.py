"""Class means as far apart as they can be: the vertices of a simplex."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def simplex(classes: int) -> NDArray[np.float64]:
    """Return unit vectors with equal angles between any two, shape (K, K - 1).

    mu_1 = e_1; for k > 1, mu_k(j) = -(1 / (K - 1) + <mu_k, mu_j>) / mu_j(j) for j < k, and
    mu_k(k) = sqrt(1 - ||mu_k||^2). Every inner product is -1 / (K - 1), every distance
    sqrt(2 K / (K - 1)).

    Args:
        classes: K, at least 2.

    **Source:** T. Pang, C. Du, J. Zhu, "Max-Mahalanobis Linear Discriminant Analysis Networks"
    (2018), algorithm 1.
    """
    found = np.zeros((classes, classes - 1))
    found[0, 0] = 1.0
    for k in range(1, classes):
        for j in range(min(k, classes - 1)):
            found[k, j] = -(1.0 / (classes - 1) + found[k] @ found[j]) / found[j, j]
        if k < classes - 1:
            found[k, k] = math.sqrt(max(0.0, 1.0 - found[k] @ found[k]))
    return found
