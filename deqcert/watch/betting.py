"""Evidence that may be looked at for ever: bets against "no more than tolerated"; NumPy only.

Derivations are in docs/watch.md. Losses are numbers in [0, 1], such as 1 for an answer that
abstains. Everything has a leading shape, so that a simulation of thousands of streams runs the very
code that watches one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqcert.errors import ConfigError

Array = NDArray[np.float64]

ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0, 65.0, 1025.0)
"""Each bet is the best one against a rate whose odds are this many times the tolerated ones."""

SLACK = 1e-6
"""Share of evidence that is asked for in excess, far more than rounding makes in 10^9 steps."""

HIGHEST = 0.95
"""Largest mean that may be tolerated: above it nothing is left to bet on."""


def bets(tolerated: ArrayLike) -> Array:
    """Return the stakes lambda_j on a loss above the tolerated mean b, in (0, 1/b).

    Args:
        tolerated: b, any shape, in (0, HIGHEST].

    Returns:
        That shape with one axis more, one entry per entry of :data:`ODDS`: with q the rate whose
        odds are so many times those of b, (q - b) / (b (1 - b)), which lets the evidence for q
        grow fastest.
    """
    b = np.asarray(tolerated, dtype=np.float64)[..., None]
    if not ((b > 0.0) & (b <= HIGHEST)).all():
        raise ConfigError(f"a tolerated mean must be above 0 and at most {HIGHEST}.")
    more = np.array(ODDS) - 1.0
    return np.asarray(more / (1.0 + more * b))


def remaining(t: ArrayLike) -> Array:
    """Return the share of the capital that is still to be staked after t losses: 1 / (1 + ln t).

    It begins with 1 and falls to 0 as slowly as a power of the logarithm, so that a change after
    nu losses is bet on with a share of about 1 / (nu ln(nu)^2).
    """
    return np.asarray(1.0 / (1.0 + np.log(np.maximum(np.asarray(t, dtype=np.float64), 1.0))))


class Evidence:
    """Bets on a change at any time, of any size, against a tolerated mean.

    Before loss t a share w_t of a capital of 1 is put to work, w_t > 0 with sum 1, in equal parts
    on the stakes lambda_j; each part is multiplied by 1 + lambda_j (l - b) from then on. What has
    not begun is kept: the evidence is

        M_t = R_t + sum_{k <= t} w_k mean_j prod_{i = k..t} (1 + lambda_j (l_i - b)),  R_t = w_{t+1} + w_{t+2} + ...

    Beside it runs the detector E_t = mean_j max(E_{t-1, j}, 1) (1 + lambda_j (l_t - b)), which
    forgets what spoke against a change and says since when one is likely.

    Args:
        tolerated: b, in (0, HIGHEST], any shape: one entry per stream.

    **Guarantee:** if the mean of every loss given all that came before is at most b, then M is a
    nonnegative supermartingale that begins with 1, so that the probability that it ever reaches
    1 / delta is at most delta, for every delta in (0, 1) and however often one looks. The detector
    is no such thing: the expected number of losses until it reaches c is at least c, counted from
    the beginning or from any moment at which it was set to 1, and it does reach it in the end.

    **Source:** J. Ville (1939); I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random
    variables by betting" (2024); A. N. Shiryaev (1963) for the weights on the time of a change;
    J. Shin, A. Ramdas, A. Rinaldo, "E-detectors" (2024), definition 2.2 and theorem 2.4, for the
    detector.
    """  # noqa: E501

    def __init__(self, tolerated: ArrayLike) -> None:
        self.tolerated = np.asarray(tolerated, dtype=np.float64)
        self._stakes = bets(self.tolerated)
        self.staked = np.zeros(self._stakes.shape)
        """What the parts that work are worth, summed over when they began, per stake."""
        self.detector = np.ones(self._stakes.shape)
        """E per stake."""
        self.begun = np.zeros(self._stakes.shape, dtype=np.int64)
        """With which loss, from 0, each stake's E last began anew."""
        self.count = 0
        """Losses so far, t."""

    @property
    def value(self) -> Array:
        """M_t, one entry per stream."""
        left = remaining(self.count + 1)
        return np.asarray(self.staked.mean(axis=-1) + left)

    @property
    def recent(self) -> Array:
        """E_t, one entry per stream."""
        return np.asarray(self.detector.mean(axis=-1))

    @property
    def since(self) -> NDArray[np.int64]:
        """With which loss, from 0, a change most likely began: an estimate, one per stream."""
        best = self.detector.argmax(axis=-1)[..., None]
        return np.asarray(np.take_along_axis(self.begun, best, axis=-1)[..., 0])

    def add(self, loss: ArrayLike) -> None:
        """Take one more loss per stream.

        Args:
            loss: In [0, 1], the shape of ``tolerated``.
        """
        value = np.asarray(loss, dtype=np.float64)
        assert ((value >= 0.0) & (value <= 1.0)).all(), "losses lie in [0, 1]"
        self.begun = np.where(self.detector <= 1.0, self.count, self.begun)
        self.count += 1
        share = remaining(self.count) - remaining(self.count + 1)
        factor = 1.0 + self._stakes * (value - self.tolerated)[..., None]
        # No further than this: an alarm was raised long ago, and infinity times 0 is no number.
        self.staked = np.minimum((self.staked + share) * factor, 1e200)
        self.detector = np.minimum(np.maximum(self.detector, 1.0) * factor, 1e200)

    def reached(self, delta: ArrayLike) -> NDArray[np.bool_]:
        """Whether the evidence is enough for a false-alarm probability of delta."""
        return np.asarray(self.value * np.asarray(delta) >= 1.0 + SLACK)


def delay(tolerated: float, mean: float, delta: float, before: int = 0) -> float:
    """Bound the losses that an alarm takes on average after a change.

    Args:
        tolerated: b.
        mean: Mean of the losses after the change, in (0, 1].
        delta: False-alarm probability.
        before: Losses before the change.

    Returns:
        The smallest over j of (ln(J / (delta w)) + c_j) / g_j, where J is the number of stakes, w
        the share that begins with the first loss after the change, c_j = ln(1 + lambda_j (1 - b)),
        and g_j = mean c_j + (1 - mean) ln(1 - lambda_j b) what the logarithm of the evidence grows
        by in a step. Infinite where none grows.

    **Guarantee:** if the losses after the change are independent with this mean, the expected
    number of them until :meth:`Evidence.reached` is at most this (Wald's equation, and the
    concavity of the logarithm for losses other than 0 and 1).

    **Source:** A. Wald (1945); elementary.
    """
    stakes = bets(tolerated)
    gain, cost = np.log1p(stakes * (1.0 - tolerated)), np.log1p(-stakes * tolerated)
    growth = mean * gain + (1.0 - mean) * cost
    share = float(remaining(before + 1) - remaining(before + 2))
    needed = np.log(len(stakes) * (1.0 + SLACK) / (delta * share)) + gain
    found = np.where(growth > 0.0, needed / np.where(growth > 0.0, growth, 1.0), np.inf)
    return float(found.min())
