"""A function of one row, compiled by numba, and the loops that are compiled with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from deqcert.solvers.loop import DIVERGENCE, PATIENCE
from deqcert.solvers.result import Status, StopRule

Array = NDArray[np.floating[Any]]


class RowFunction:
    """A cell over rows, compiled from a function of one row; see :func:`arrays.rowwise`.

    Args:
        function: Maps one row of the state, shape (D,), and one row of the context to the next.
    """

    def __init__(self, function: Callable[[Array, Array], Array]) -> None:
        self._row: Any = numba.njit(function)

    def __call__(self, z: Array, context: NDArray[Any]) -> Array:
        """Evaluate rows, shape (b, D), with a context of b rows."""
        return self._over_rows(z, context)  # type: ignore[no-any-return]

    def picard(
        self, z0: Array, context: NDArray[Any], damping: float, stop: StopRule
    ) -> tuple[Array, NDArray[np.float64], NDArray[np.int8], NDArray[np.int64]]:
        """Iterate every row until it ends, by the rules of :class:`deqcert.solvers.Picard`.

        Nothing leaves the compiled loop between two evaluations, and each core ends a row before
        it begins the next, so that a small state stays in its registers.

        Args:
            z0: Start states, shape (B, D).
            context: One entry per row.
            damping: Share of each step.
            stop: When a row ends.

        Returns:
            States, residuals, statuses and evaluations, as in :class:`arrays.ArrayResult`.
        """
        tol = 0.0 if stop.fixed_depth else stop.tol
        return self._picard(z0, context, damping, tol, stop.mode == "rel", stop.max_nfe)  # type: ignore[no-any-return]

    @cached_property
    def _over_rows(self) -> Any:
        row = self._row

        @numba.njit(parallel=True)
        def over_rows(z, context):  # type: ignore[no-untyped-def]
            out = np.empty_like(z)
            for i in numba.prange(z.shape[0]):
                out[i] = row(z[i], context[i])
            return out

        return over_rows

    @cached_property
    def _picard(self) -> Any:
        row = self._row
        converged, diverged = int(Status.CONVERGED), int(Status.DIVERGED)
        exhausted, stalled, nonfinite = (
            int(Status.MAX_NFE), int(Status.STALLED), int(Status.NONFINITE)
        )  # fmt: skip

        @numba.njit(parallel=True)
        def picard(z0, context, damping, tol, relative, max_nfe):  # type: ignore[no-untyped-def]
            rows, size = z0.shape
            best = z0.copy()
            residual = np.full(rows, np.inf)
            status = np.empty(rows, dtype=np.int8)
            nfe = np.zeros(rows, dtype=np.int64)
            for i in numba.prange(rows):
                z, fz = z0[i].copy(), np.empty_like(z0[i])
                scale, waited, ended = 0.0, 0, -1
                while ended < 0:
                    fz[:] = row(z, context[i])
                    nfe[i] += 1
                    square, image = 0.0, 0.0
                    for k in range(size):
                        square += (float(fz[k]) - float(z[k])) ** 2
                        image += float(fz[k]) ** 2
                    if nfe[i] >= max_nfe:
                        ended = exhausted
                    finite = np.isfinite(square) and np.isfinite(image)
                    if not finite:
                        ended = nonfinite
                        if np.isinf(residual[i]):
                            best[i] = z
                    elif tol > 0:
                        step, length = np.sqrt(square), np.sqrt(image)
                        found = step / max(length, 1e-300) if relative else step
                        if nfe[i] == 1:
                            scale = max(step, length)
                        waited += 1
                        if found < residual[i]:
                            residual[i], waited = found, 0
                            best[i] = z
                        if waited >= PATIENCE:
                            ended = stalled
                        if step > DIVERGENCE * scale:
                            ended = diverged
                        if found <= tol:
                            ended = converged
                    for k in range(size):
                        z[k] = fz[k] if damping == 1.0 else z[k] + damping * (fz[k] - z[k])
                    if tol == 0 and finite and ended >= 0:
                        best[i], residual[i] = z, np.nan
                status[i] = ended
            return best, residual, status, nfe

        return picard
