"""How few votes are 2% of a radius, and what an audit must look at for them? Counting alone.

    python benchmarks/faithful_counts.py

Printed as Markdown, for results/faithful.md. No model is needed.
"""

from __future__ import annotations

import functools

from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)

ALPHA, NEAR = 0.001, 0.98
SHARES = (0.05, 0.2, 0.5, 0.8, 0.95)
"""Shares of alpha that the audit may get; the best is taken."""

lower = functools.cache(lower_confidence_bound)


def radius(votes: int, n: int, alpha: float = ALPHA) -> float:
    """Return the radius in units of sigma."""
    return certified_radius(lower(max(votes, 0), n, alpha), 1.0)


def slack(n: int, p: float) -> int:
    """Return by how many votes a count may fall until its radius is more than 2% smaller."""
    votes, fewer = round(p * n), 0
    while radius(votes - fewer - 1, n) >= NEAR * radius(votes, n):
        fewer += 1
    return fewer


def audited(n: int, p: float, wrong: float) -> str:
    """Return the least share of the votes for a class to audit, where a share of them is wrong."""
    votes = round(p * n)
    goal = NEAR * radius(votes - round(wrong * votes), n)

    def enough(size: int) -> bool:
        found = round(wrong * size)
        return any(
            radius(
                votes - disagreements_upper_bound(found, size, votes, share * ALPHA),
                n,
                (1 - share) * ALPHA,
            )
            >= goal
            for share in SHARES
        )

    # All solved need no audit, and so no share of alpha.
    if not enough(votes - 1):
        return "all"
    least, most = 1, votes - 1
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return f"{100 * least / votes:.0f}%" if least < 0.995 * votes else "all"


def main() -> None:
    """Print both tables."""
    ps = (1, 0.99, 0.9, 0.8, 0.7, 0.6)
    print("| n | " + " | ".join(f"p = {p:g}" for p in ps) + " |")
    print("| ---: |" + " ---: |" * len(ps))
    for n in (400, 1000, 10000, 100000):
        print(f"| {n} | " + " | ".join(str(slack(n, p)) for p in ps) + " |")
    ps = (0.7, 0.8, 0.9, 0.95, 0.99, 1)
    print("\n| n | " + " | ".join(f"p = {p:g}" for p in ps) + " |")
    print("| --- |" + " ---: |" * len(ps))
    for n, wrong in ((1000, 0.0), (10000, 0.0), (10000, 0.003), (100000, 0.0)):
        name = f"{n}" + (f", {100 * wrong:g}% of the votes wrong" if wrong else "")
        print(f"| {name} | " + " | ".join(audited(n, p, wrong) for p in ps) + " |", flush=True)


if __name__ == "__main__":
    main()
