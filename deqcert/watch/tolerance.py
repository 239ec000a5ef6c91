"""How large a mean is still like the reference: its finite size and a drift budget allowed for."""

from __future__ import annotations

import math

from deqcert.certifiers.bounds import check_count, check_probability, lower_confidence_bound
from deqcert.errors import ConfigError
from deqcert.latents.prediction import under_drift

RARE = 0.1
"""A reference must be large enough to tell a rate of 0 from this one."""


def tolerated_rate(events: int, n: int, delta: float, kappa: float = 0.0) -> float:
    """Bound how often an event happens, given how often it happened in the reference.

    Args:
        events: In how many rows of the reference it did.
        n: Rows, from 1.
        delta: Probability that the bound may be wrong.
        kappa: Drift budget in nats, from 0.

    Returns:
        kl^+(u, kappa) with u the Clopper-Pearson upper bound.

    **Guarantee:** if the rows are independent draws of a law Q of observations, then with
    probability 1 - delta over them, P(event) is at most this under every law P with
    KL(P || Q) <= kappa.

    **Source:** C. J. Clopper and E. S. Pearson (1934); the data-processing inequality.
    """
    upper = 1.0 - lower_confidence_bound(n - events, n, delta)
    return upward(upper, kappa)


def tolerated_rank(n: int, delta: float, kappa: float = 0.0) -> float:
    """Bound the mean rank of a new score among those of the reference, where nothing changed.

    The rank of s is the share of the n scores below it, ties by a coin, in [0, 1].

    Args:
        n: Scores in the reference, from 1.
        delta: Probability that the bound may be wrong.
        kappa: Drift budget in nats, from 0.

    Returns:
        kl^+(1/2 + sqrt(ln(1/delta) / (6 n)), kappa), at most 1.

    **Guarantee:** if the n scores are independent draws of a law Q, then with probability
    1 - delta over them, the mean rank of a new score among them is at most this under every law
    with KL(P || Q) <= kappa: given the reference it is the mean of n independent uniform numbers
    (1 minus Q's distribution function at each, ties spread out), and a uniform number is
    sub-Gaussian with variance 1/12. One half alone would be wrong for every second reference.

    **Source:** W. Hoeffding (1963) with the exact variance of a uniform number, which is strictly
    sub-Gaussian; V. Vovk, A. Gammerman, G. Shafer (2005) for ranks with coins.
    """
    check_probability("delta", delta)
    middle = 0.5 + math.sqrt(math.log(1.0 / delta) / (6.0 * check_count("n", n)))
    return upward(min(1.0, middle), kappa)


def upward(probability: float, kappa: float) -> float:
    """Return kl^+(q, kappa): the largest probability, or mean in [0, 1], within kappa nats of q.

    Raises:
        ConfigError: If kappa is negative or no number.
    """
    if not (math.isfinite(kappa) and kappa >= 0.0):
        raise ConfigError(f"a drift budget is {kappa}, but it must be a number of nats from 0.")
    if kappa == 0.0:
        return probability
    return min(1.0, 1.0 - float(under_drift(1.0 - probability, kappa)))


def least_rows(delta: float) -> int:
    """Return the fewest rows of a reference without events that bound their rate below RARE."""
    check_probability("delta", delta)
    return math.ceil(math.log(delta) / math.log1p(-RARE))
