"""Solve on NumPy arrays; no model and no torch code needed on the caller's side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.errors import SolverError
from deqcert.solvers.base import Solver
from deqcert.solvers.compiled import RowFunction
from deqcert.solvers.fixed_point import solve as solve_tensors
from deqcert.solvers.picard import Picard
from deqcert.solvers.registry import get_solver
from deqcert.solvers.result import StopRule

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class ArrayResult:
    """What a solve on arrays returns; see :class:`deqcert.solvers.SolveResult`.

    Attributes:
        z: Returned states, shape and type of the start state.
        residual: Residual of the returned states, shape (B,), float64.
        status: A :class:`deqcert.solvers.Status` per row, shape (B,), int8.
        nfe: Cell evaluations per row, shape (B,), int64.
    """

    z: Array
    residual: NDArray[np.float64]
    status: NDArray[np.int8]
    nfe: NDArray[np.int64]


def solve(
    f: Callable[..., Array],
    z0: Array,
    *context: NDArray[Any],
    method: str | Solver[Any] = "anderson",
    stop: StopRule | None = None,
) -> ArrayResult:
    """Find z with f(z, *context) = z for every row of an array.

    A function that :func:`rowwise` has compiled is solved by Picard iteration in one compiled loop,
    which is many times quicker for small states; other methods evaluate it from their own loop.

    Args:
        f: Maps the state, shape (b, ...), and b rows of each context array to the same shape.
        z0: Start state, shape (B, ...), float32 or float64.
        *context: Arrays with one entry per row.
        method: A solver, or its name with default options.
        stop: When to stop; the default is ``StopRule()``.

    Raises:
        SolverError: If z0 is not a floating-point array or f changes its shape or type.
    """
    z0 = np.asarray(z0)
    if z0.dtype not in (np.float32, np.float64) or z0.ndim == 0:
        raise SolverError(
            f"the start state is {z0.dtype} of shape {z0.shape}, but it must be float32 or float64 "
            "with rows in front."
        )

    method = get_solver(method) if isinstance(method, str) else method
    if isinstance(f, RowFunction) and type(method) is Picard and z0.ndim == 2 and len(context) == 1:
        stop = stop or StopRule()
        if len(context[0]) == len(z0):
            return ArrayResult(*f.picard(z0, np.asarray(context[0]), method.damping, stop))

    def on_arrays(z: torch.Tensor, *present: torch.Tensor) -> torch.Tensor:
        value = np.ascontiguousarray(f(z.numpy(), *(entry.numpy() for entry in present)))
        return torch.from_numpy(value)

    result = solve_tensors(
        on_arrays,
        torch.from_numpy(np.array(z0)),
        *(torch.from_numpy(np.array(entry)) for entry in context),
        method=method,
        stop=stop,
    )
    assert isinstance(result.z, torch.Tensor)
    return ArrayResult(
        result.z.numpy(), result.residual.numpy(), result.status.numpy(), result.nfe.numpy()
    )


def rowwise(function: Callable[[Array, Array], Array]) -> RowFunction:
    """Compile a function of one row to machine code that loops over rows on all cores.

    Args:
        function: Maps one row of the state, shape (D,), and one row of the context to the next
            row, shape (D,); written in the part of Python and NumPy that numba compiles.

    Returns:
        A cell over (b, D) states and a context of b rows, for :func:`solve`.
    """
    return RowFunction(function)
