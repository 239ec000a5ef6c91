"""Picard iteration on NumPy arrays: the loop that numba compiles, and the solvers' own loop.

python benchmarks/arrays.py

Both solve z = 0.7 sin(z) + c to the same tolerance, and numba has compiled the function of a row
for both; the fastest of several rounds counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numpy as np

from deqcert.memory import keep_freed_memory
from deqcert.solvers import StopRule, arrays

STOP, ROUNDS = StopRule(tol=1e-6, max_nfe=60), 9
SHAPES = ((1, 2), (100, 2), (10000, 2), (1, 1000), (100, 1000), (1000, 1000))


def fastest(run: Callable[[], object]) -> float:
    """Milliseconds of the fastest of several runs; the first one compiles."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * min(times[1:])


def main() -> None:
    keep_freed_memory()
    cell = arrays.rowwise(lambda z, c: 0.7 * np.sin(z) + c)
    plain = lambda z, c: cell(z, c)  # noqa: E731  (an ordinary function to arrays.solve)
    print(" rows  elements  picard, compiled ms  picard ms  anderson ms")
    for rows, elements in SHAPES:
        c = np.random.default_rng(0).standard_normal((rows, elements))
        z0 = np.zeros_like(c)
        whole, loop, anderson = (
            fastest(functools.partial(arrays.solve, f, z0, c, method=method, stop=STOP))
            for f, method in ((cell, "picard"), (plain, "picard"), (cell, "anderson"))
        )
        print(f"{rows:5d} {elements:9d} {whole:20.3f} {loop:10.3f} {anderson:12.3f}")


if __name__ == "__main__":
    main()
