"""How often would a sound run raise an alarm? Exactly, for the worst image and the worst attack.

    python benchmarks/attack_alarms.py --n 10000 --verdict 1000 --images 200 --attacks 7

A certificate and a verdict would both have to be wrong; docs/attacks.md has the derivation. Counts
only: no model is needed.
"""

from __future__ import annotations

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deqcert.attacks.evaluation import most_verdicts
from deqcert.certifiers.bounds import two_sided_p_value


def joint(
    grid: NDArray[np.float64], n: int, alpha: float, verdict: int, each: float
) -> NDArray[np.float64]:
    """Probability, for each p, that an image is certified too far and one verdict sees it."""
    votes = np.arange(n // 2, n + 1)
    lower = stats.beta.ppf(alpha, votes, n - votes + 1)
    votes, lower = votes[lower > 0.5], lower[lower > 0.5]
    most = max(k for k in range(verdict // 2 + 1) if two_sided_p_value(verdict - k, k) <= each)
    # By the theorem the class keeps at least this probability anywhere within its radius.
    kept = stats.norm.cdf(stats.norm.ppf(grid)[:, None] - stats.norm.ppf(lower))
    seen = stats.binom.cdf(most, verdict, kept)
    return np.asarray(np.sum(stats.binom.pmf(votes, n, grid[:, None]) * seen, axis=1))


@click.command()
@click.option("--n", type=int, default=10_000, show_default=True, help="Of the certificates.")
@click.option("--verdict", type=int, default=1000, show_default=True, help="Samples of a verdict.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Of either.")
@click.option("--images", type=int, default=200, show_default=True)
@click.option("--attacks", type=int, default=7, show_default=True)
def main(n: int, verdict: int, alpha: float, images: int, attacks: int) -> None:
    tests = attacks * most_verdicts(4)  # at the certified radius and at three more
    each = alpha / (images * tests)
    grid = 1.0 - np.geomspace(0.49, 1e-5, 1000)
    chances = joint(grid, n, alpha, verdict, each)
    worst = int(np.argmax(chances))
    print(f"one verdict: at most {chances[worst]:.2g}, at p = {grid[worst]:.5f}")
    print(
        f"any verdict of {images} images x {attacks} attacks: {images * tests * chances[worst]:.2g}"
    )


if __name__ == "__main__":
    main()
