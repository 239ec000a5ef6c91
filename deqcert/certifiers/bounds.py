"""Counts in, probabilities and radii out; SciPy only, no torch.

Derivations are in docs/bounds.md. Every bound takes integers, because the theorems are about
counts.
"""

from __future__ import annotations

import operator
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
import scipy  # its parts load when they are first used: help texts need none of them
from numpy.typing import ArrayLike, NDArray

from deqcert.errors import ConfigError

RADIUS_DECIMALS = 6
"""Decimals of a printed or stored radius; further ones are cut off, never rounded up."""

SHAVE = 1e-9
"""Share of every lower confidence bound that is given away, far more than SciPy's quantiles of the
Beta distribution were ever seen to be off."""

SLACK = 1e-7
"""Share of alpha by which a hypergeometric probability may be off without a bound being unsafe."""


def lower_confidence_bound(successes: int, n: int, alpha: float) -> float:
    """Bound a success probability from below, given successes among n independent trials.

    Args:
        successes: Number of successes, 0 to n.
        n: Number of trials, at least 1.
        alpha: Failure probability, in (0, 1).

    Returns:
        The alpha-quantile of Beta(successes, n - successes + 1), rounded down; 0 without successes.

    Raises:
        ConfigError: If a number is out of range or a count is not an integer.

    **Guarantee:** if the count is Binomial(n, p), the bound exceeds p with probability at most
    alpha, for every p.

    **Source:** C. J. Clopper and E. S. Pearson (1934).
    """
    successes, n = check_count("successes", successes), check_count("n", n)
    check_probability("alpha", alpha)
    if not 0 <= successes <= n or n < 1:
        raise ConfigError(f"{successes} successes of {n} trials are impossible.")
    if successes == 0:
        return 0.0
    return float(beta_quantiles(alpha, successes, n - successes + 1))


def beta_quantiles(alpha: float, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return alpha-quantiles of Beta distributions, rounded down by a billionth.

    Args:
        alpha: In (0, 1).
        first: First parameter, above 0.
        second: Second parameter, above 0.

    Returns:
        Never more than the quantiles, in the parameters' common shape; 0, which certifies nothing,
        where SciPy finds none.
    """
    found = (1.0 - SHAVE) * scipy.stats.beta.ppf(alpha, first, second)
    return np.where(found > 0.0, found, 0.0)


def confidence_interval(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Bound a success probability from both sides, given successes among n independent trials.

    Args:
        successes: Number of successes, 0 to n.
        n: Number of trials, at least 1.
        alpha: Failure probability, in (0, 1).

    Returns:
        The bounds of Clopper and Pearson, each at alpha/2; 0 or 1 where there is none.

    Raises:
        ConfigError: If a number is out of range or a count is not an integer.

    **Guarantee:** as for :func:`lower_confidence_bound`, on each side with alpha/2.
    """
    low = lower_confidence_bound(successes, n, alpha / 2)
    return low, 1.0 - lower_confidence_bound(n - successes, n, alpha / 2)


def disagreements_upper_bound(found: int, audited: int, population: int, alpha: float) -> int:
    """Bound how many members of a finite population are marked, from a random sample of it.

    Args:
        found: Marked members in the sample, 0 to audited.
        audited: Size of the sample, drawn uniformly without replacement, 0 to population.
        population: Size of the population.
        alpha: Failure probability, in (0, 1).

    Returns:
        The largest D with P[Hypergeometric(population, D, audited) <= found] > alpha.

    Raises:
        ConfigError: If a number is out of range or a count is not an integer.

    **Guarantee:** whatever fixed number D of members is marked, the bound is below D with
    probability at most alpha over the draw of the sample.

    **Source:** inversion of the hypergeometric test; T. Wright, "Exact Confidence Bounds when
    Sampling from Small Finite Universes" (1991).
    """
    found, audited = check_count("found", found), check_count("audited", audited)
    population = check_count("population", population)
    check_probability("alpha", alpha)
    if not 0 <= found <= audited <= population:
        raise ConfigError(f"{found} found among {audited} audited of {population} is impossible.")
    least, most = found, population - (audited - found)
    # The probability falls as D grows. A number that SciPy cannot evaluate is not ruled out.
    while least < most:
        middle = (least + most + 1) // 2
        chance = scipy.stats.hypergeom.cdf(found, population, middle, audited)
        if chance <= alpha * (1.0 - SLACK):
            most = middle - 1
        else:
            least = middle
    return least


def certified_radius(p_lower: float, sigma: float) -> float:
    """Return the l2 radius around an input in which the smoothed class cannot change.

    Args:
        p_lower: Lower bound of the probability of the class under the noise, in [0, 1].
        sigma: Standard deviation of the noise, in input units ([0, 1] pixels), above 0.

    Returns:
        sigma * Phi^-1(p_lower), rounded down to 6 decimals; 0 where p_lower is at most 1/2, or is
        no number. Noise is scaled in float32, so sigma here is what is given or the float32 that
        is nearest to it, whichever is smaller.

    **Source:** J. Cohen, E. Rosenfeld, J. Z. Kolter (2019), theorem 1.
    """
    return float(certified_radii(p_lower, sigma))


def certified_radii(p_lower: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """Return :func:`certified_radius` of an array of bounds, in its shape."""
    p = np.asarray(p_lower, dtype=np.float64)
    with np.errstate(over="ignore"):
        least = min(sigma, float(np.float32(sigma)))
    # SciPy's quantile and the products are off by less than this: what is cut below is no more
    # than the exact radius.
    radii = least * scipy.special.ndtri(np.where(p > 0.5, p, 0.5)) * (1.0 - 2.0**-49)
    return round_down(radii)


def round_down(values: ArrayLike) -> NDArray[np.float64]:
    """Cut non-negative values to 6 decimals.

    Returns:
        For each value the largest one that is not above it among the floats that stand for
        decimals of 6 digits, so that what is cut once stays as it is. An infinite value, and one
        from 2^33, where floats are further apart than that, are returned as they are.
    """
    exact = np.asarray(values, dtype=np.float64)
    fine = exact < 2.0**33
    # A quotient of whole numbers is rounded correctly: count / scale is what its text reads as.
    scale = 10.0**RADIUS_DECIMALS
    count = np.floor(np.where(fine, exact, 0.0) * scale) + 1.0
    for _ in range(2):  # the product may have been rounded up to the next whole number
        count -= count / scale > exact
    return np.where(fine, np.maximum(count, 0.0) / scale, exact)


def write_radius(radius: float, decimals: int = RADIUS_DECIMALS) -> str:
    """Write a radius that :func:`round_down` has cut.

    Args:
        radius: In input units.
        decimals: Decimals to keep, further ones are cut off.

    Returns:
        Text; with all decimals it reads as the very same float.
    """
    return write_down(Decimal(f"{radius:.{RADIUS_DECIMALS}f}"), decimals)


def write_down(value: float | Decimal, digits: int) -> str:
    """Write a number with so many decimals, never larger than it is.

    Args:
        value: A finite number.
        digits: Decimals to keep.

    Returns:
        The largest decimal fraction of that many digits that is not above the value.
    """
    exact = Context(prec=400, rounding=ROUND_FLOOR)  # more digits than a float has
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), context=exact):f}"


def two_sided_p_value(first: int, second: int) -> float:
    """Test whether the more frequent of two classes is more probable at all.

    Args:
        first: Votes of the leading class.
        second: Votes of the runner-up.

    Returns:
        The p-value of the two-sided binomial test of probability 1/2 on first of first + second.

    **Source:** K. Hung and W. Fithian, "Rank verification for exponential families" (2019), as used
    in PREDICT of Cohen et al. (2019).
    """
    first, second = check_count("first", first), check_count("second", second)
    if first + second == 0:
        return 1.0
    return float(scipy.stats.binomtest(first, first + second, 0.5).pvalue)


def check_count(name: str, value: int) -> int:
    """Return the value as an int, or refuse what is no whole number.

    Raises:
        ConfigError: If it is not an integer.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{name} is {value}, but it must be a whole number.")
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}, but it must be a whole number.") from None


def check_probability(name: str, value: float) -> None:
    """Refuse what is not strictly between 0 and 1.

    Raises:
        ConfigError: If it is not.
    """
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} is {value}, but it must lie strictly between 0 and 1.")
