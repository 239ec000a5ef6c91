"""What does spending an audit better buy? The plain audit against strata, split and sequence.

    python benchmarks/audit.py

Everything is simulated on counts: which votes are wrong is drawn, and how well their margins show
it. No model is needed.
"""

from __future__ import annotations

import functools
from pathlib import Path

import click
import numpy as np

from deqcert.certifiers import audit as audits
from deqcert.certifiers.audit import Audit, best_share
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.goals import Goal, Radii, Relative
from deqcert.certifiers.sequences import disagreements_upper_sequence

N, ALPHA, SIGMA, BATCH = 10_000, 0.001, 0.5, 100
ROOT = Path(__file__).resolve().parent
GRID = Radii((0.0, 0.25, 0.5, 0.75, 1.0, 1.25))
CLOSE = Relative(0.05)
# Votes for the class, wrong ones among them, and the share of the votes, counted from the smallest
# margin, over which their frequency falls by e; None: the margins say nothing.
CASES = [
    (10_000, 0, None),
    (9_950, 10, 0.01),
    (9_900, 50, 0.005),
    (9_900, 50, None),
    (9_800, 200, 0.02),
    (9_800, 200, None),
    (9_000, 1000, 0.1),
    (9_000, 1000, None),
    (8_000, 1500, None),
]

upper = functools.cache(disagreements_upper_bound)
lower = functools.cache(lower_confidence_bound)


class Never(Goal):
    """Look, and go on: what the looks alone cost."""

    def settled(self, now, best):  # type: ignore[no-untyped-def]
        return np.zeros(np.shape(now), dtype=bool)

    def refuse(self, most):  # type: ignore[no-untyped-def]
        return None

    def describe(self) -> str:
        return "never"


def drawn(votes: int, wrong: int, scale: float | None, rng: np.random.Generator) -> np.ndarray:
    """Return which votes are wrong, in the order of their margins."""
    if scale is None:
        return np.isin(np.arange(votes), rng.choice(votes, size=wrong, replace=False))
    share = np.exp(-np.arange(votes) / (scale * votes))
    share *= wrong / share.sum()
    for _ in range(50):  # never more than seven in ten, as in votes of real models
        share = np.minimum(share, 0.7)
        share *= wrong / share.sum()
    return rng.random(votes) < share


def random_audit(bad: np.ndarray, size: int, repeat: int, share: float) -> float:
    """Return the radius of the plain audit with that share of alpha."""
    order = np.random.default_rng(repeat).permutation(len(bad))
    found = int(bad[order[:size]].sum())
    more = upper(found, size, len(bad), share * ALPHA)
    return certified_radius(lower(len(bad) - more, N, (1 - share) * ALPHA), SIGMA)


def strata(bad: np.ndarray, size: int, repeat: int, goal: Goal | None) -> tuple[float, int]:
    """Return radius and audited votes of `serialized-strata`."""

    def judge(numbers: np.ndarray) -> int:
        return int(bad[numbers].sum())

    found = Audit(N, size, ALPHA, goal).run(
        len(bad), judge, np.random.default_rng(repeat), sigma=SIGMA, batch=BATCH
    )
    return certified_radius(found.p_lower, SIGMA), found.audited


@click.command()
@click.option("--sizes", default="400,1000,2000,5000", show_default=True, help="Audited votes, K.")
@click.option("--repeats", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "audit.md")
def main(sizes: str, repeats: int, seed: int, out: Path) -> None:
    """Write the tables."""
    audits.disagreements_upper_bound = upper  # type: ignore[assignment]
    audits.disagreements_upper_sequence = functools.cache(disagreements_upper_sequence)
    audits.lower_confidence_bound = lower  # type: ignore[assignment]
    radius_rows, goal_rows = [], []
    for size in map(int, sizes.split(",")):
        for votes, wrong, scale in CASES:
            radii: dict[str, list[float]] = {}
            counts: dict[str, list[int]] = {"relative": [], "grid": []}
            differing = 0
            for repeat in range(repeats):
                rng = np.random.default_rng([seed, votes, wrong, repeat])
                bad = drawn(votes, wrong, scale, rng)

                results = {
                    "plain": random_audit(bad, size, repeat, 0.5),
                    "split": random_audit(bad, size, repeat, best_share(N, size, ALPHA)),
                    "strata": strata(bad, size, repeat, None)[0],
                    "looks": strata(bad, size, repeat, Never())[0],
                }
                results["relative"], audited = strata(bad, size, repeat, CLOSE)
                counts["relative"].append(audited)
                on_grid, audited = strata(bad, size, repeat, GRID)
                counts["grid"].append(audited)
                differing += sum(
                    (on_grid >= r) != (results["plain"] >= r) for r in GRID.radii if r > 0
                )
                for name, value in results.items():
                    radii.setdefault(name, []).append(value)
            mean = {name: float(np.mean(values)) for name, values in radii.items()}
            where = "anywhere" if scale is None else f"lowest {100 * scale:g}%"
            head = f"| {size} | {votes} | {wrong} | {where if wrong else ''} | {mean['plain']:.3f}"
            changes = [
                f"{mean[name]:.3f} ({100 * (mean[name] / mean['plain'] - 1):+.1f}%)"
                for name in ("split", "strata", "looks")
            ]
            radius_rows.append(f"{head} | {' | '.join(changes)} |")
            goal_rows.append(
                f"{head} | {mean['relative']:.3f} | {np.mean(counts['relative']):.0f} | "
                f"{np.mean(counts['grid']):.0f} | {differing} of "
                f"{repeats * (len(GRID.radii) - 1)} |"
            )
            click.echo(radius_rows[-1] + goal_rows[-1])
    grid = ", ".join(f"{radius:g}" for radius in GRID.radii)
    lines = [
        f"# The audit, better spent (counts, n={N}, sigma {SIGMA}, alpha {ALPHA})",
        "",
        f"`python benchmarks/audit.py --sizes {sizes} --repeats {repeats} --seed {seed}`",
        "",
        "Of n samples so many vote for the class, and the reference does not share the wrong ones. "
        "*Lowest x%*: wrong votes have small margins, their frequency falls by e over x% of the "
        "votes; *anywhere*: the margins say nothing. Mean radii at the same K audited votes: plain "
        "(`serialized`: random, alpha halved), the same with the best fixed split of alpha, that "
        "and doubtful votes first (`serialized-strata`), and that with looks at every "
        f"{BATCH} votes or more that never stop it, which is what the right to stop costs.",
        "",
        "| K | votes | wrong | where | plain | best split | + doubtful first | + looks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *radius_rows,
        "",
        f"`serialized-strata` with a goal: {CLOSE.describe()} stops once at most five percent of "
        "the radius are missing, even if not one more wrong vote were found; the other decides the "
        f"radii {grid}. Decisions that differ are those of radii above 0, from plain at all K.",
        "",
        f"| K | votes | wrong | where | plain | radius, {CLOSE.describe()} | audited | audited for "
        "the grid | decisions that differ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *goal_rows,
    ]
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
