"""Bounds that hold at every look at once, so that sampling may stop whenever it likes; SciPy only.

Derivations are in docs/bounds.md. Both sequences are mixtures of likelihood ratios over the
alternatives on one side only, which are martingales under the value that is tested; none of them
draws random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from deqcert.certifiers.bounds import check_count, check_probability
from deqcert.errors import ConfigError

PRIOR = 0.5
"""Both parameters of the Beta prior over the alternatives: half of the usual pseudo-counts, which
pays for probabilities near 0 and 1 with little elsewhere."""

SLACK = 1e-6
"""Nats of evidence that are asked for in excess, far more than the logarithms are rounded by."""


def lower_sequence(successes: int, n: int, alpha: float) -> float:
    """Bound a success probability from below, at every number of trials at once.

    Args:
        successes: Number of successes so far, 0 to n.
        n: Number of trials so far, at least 1.
        alpha: Failure probability, in (0, 1).

    Returns:
        The largest p0 such that every probability below it is rejected, at most (k - 1/2) / n.

    Raises:
        ConfigError: If a number is out of range or a count is not an integer.

    **Guarantee:** whatever the success probability p of independent trials, the probability that
    the bound exceeds p at any n = 1, 2, ... is at most alpha. So it holds at whatever n one stops,
    and so does the largest of the bounds seen so far.

    **Source:** mixture martingales, J. Ville (1939) and H. Robbins (1970), with the Beta prior
    restricted to the alternatives above the tested probability; V. Voráček (2024) for smoothing.
    """
    successes, n = check_count("successes", successes), check_count("n", n)
    if not 0 <= successes <= n or n < 1:
        raise ConfigError(f"{successes} successes of {n} trials are impossible.")
    return float(lower_sequences(successes, n, alpha))


def upper_sequence(successes: int, n: int, alpha: float) -> float:
    """Bound a success probability from above, at every n at once: see :func:`lower_sequence`."""
    successes = check_count("successes", successes)
    return min(1.0, float(np.nextafter(1.0 - lower_sequence(n - successes, n, alpha), 2.0)))


def lower_sequences(successes: ArrayLike, n: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Return :func:`lower_sequence` of arrays of counts, in their common shape."""
    check_probability("alpha", alpha)
    k, total = np.broadcast_arrays(np.asarray(successes), np.asarray(n))
    low = np.zeros(k.shape)
    high = np.maximum((k - 0.5) / total, 0.0)
    evidence = _evidence(k, total - k)
    needed = np.log(1.0 / alpha) + SLACK
    # The evidence falls between 0 and (k - 1/2) / n; `low` is always a rejected probability.
    with np.errstate(divide="ignore", invalid="ignore"):  # no success: nothing is rejected
        for _ in range(50):
            middle = (low + high) / 2.0
            rejected = evidence(middle) >= needed
            low = np.where(rejected, middle, low)
            high = np.where(rejected, high, middle)
    return low


def log_evidence(tested: ArrayLike, successes: ArrayLike, n: ArrayLike) -> NDArray[np.float64]:
    """Return the evidence, in nats, that the success probability is above the tested one.

    The integral over q in (p0, 1] of (q/p0)^k ((1-q)/(1-p0))^(n-k) under the Beta prior restricted
    to that interval.

    Args:
        tested: The tested probability p0, in (0, 1); other values give -inf.
        successes: Number of successes k.
        n: Number of trials.
    """
    p, k, total = np.broadcast_arrays(
        np.asarray(tested, dtype=np.float64), np.asarray(successes), np.asarray(n)
    )
    inside = (p > 0.0) & (p < 1.0)
    with np.errstate(divide="ignore"):  # far above the frequency nothing is left of the mixture
        return np.where(inside, _evidence(k, total - k)(np.where(inside, p, 0.5)), -np.inf)


def _evidence(
    k: NDArray[np.int64], failures: NDArray[np.int64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the evidence as a function of the tested probability alone, in (0, 1)."""
    first, second = k + PRIOR, failures + PRIOR
    constant = scipy.special.betaln(first, second) - scipy.special.betaln(PRIOR, PRIOR)

    def evidence(p: NDArray[np.float64]) -> NDArray[np.float64]:
        above = scipy.special.betaincc(first, second, p) / scipy.special.betaincc(PRIOR, PRIOR, p)
        value: NDArray[np.float64]
        value = constant + np.log(above) - k * np.log(p) - failures * np.log1p(-p)
        return value

    return evidence


def disagreements_upper_sequence(found: int, audited: int, population: int, alpha: float) -> int:
    """Bound how many members of a finite population are marked, at every sample size at once.

    Args:
        found: Marked members among those drawn so far, 0 to audited.
        audited: Members drawn so far, uniformly without replacement, 0 to population.
        population: Size of the population.
        alpha: Failure probability, in (0, 1).

    Returns:
        The largest number of marked members that the draws do not reject.

    Raises:
        ConfigError: If a number is out of range or a count is not an integer.

    **Guarantee:** whatever fixed number D of members is marked, the probability that the bound is
    below D after any number of draws is at most alpha over the order of the draws.

    **Source:** I. Waudby-Smith and A. Ramdas, "Confidence sequences for sampling without
    replacement" (2020), the prior-posterior ratio, here with a prior restricted to the alternatives
    below the tested number.
    """
    found, audited = check_count("found", found), check_count("audited", audited)
    population = check_count("population", population)
    check_probability("alpha", alpha)
    if not 0 <= found <= audited <= population:
        raise ConfigError(f"{found} found among {audited} audited of {population} is impossible.")
    tested = np.arange(found, population - (audited - found) + 1)
    likelihood = _log_choose(population - audited, tested - found) - _log_choose(population, tested)
    # Alternatives are weighted like 1/sqrt(D + 1): few disagreements are what one hopes for.
    weights = -0.5 * np.log(np.arange(population + 1) + 1.0)
    mixed = np.logaddexp.accumulate(likelihood + weights[tested])[:-1]
    mass = np.logaddexp.accumulate(weights)[tested[1:] - 1]
    evidence = mixed - mass - likelihood[1:]
    # Written so that evidence that is not a number rules nothing out.
    kept = np.flatnonzero(~(evidence >= np.log(1.0 / alpha) + SLACK))
    return int(tested[kept[-1] + 1]) if kept.size else int(tested[0])


def _log_choose(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ln C(n, k)."""
    logs: NDArray[np.float64] = (
        scipy.special.gammaln(n + 1.0)
        - scipy.special.gammaln(k + 1.0)
        - scipy.special.gammaln(n - k + 1.0)
    )
    return logs
