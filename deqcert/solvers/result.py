"""When a solve ends, how it ended, and what it returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deqcert.options import check_options, choice, number


class Status(enum.IntEnum):
    """How the solve of one row ended."""

    CONVERGED = 0
    MAX_NFE = 1
    STALLED = 2
    DIVERGED = 3
    NONFINITE = 4


@dataclass(frozen=True, slots=True)
class StopRule:
    """Say when the solve of a row ends.

    With ``tol > 0`` and ``max_nfe > 1`` the state returned for a row is the best one that was
    evaluated, so its residual is known. With ``tol == 0``, or a single evaluation, the solve has a
    *fixed depth*: exactly ``max_nfe`` evaluations are made and the state after the last step is
    returned; nobody has evaluated the cell there, so its residual is NaN.

    Args:
        tol: Residual at which a row has converged; 0 asks for a fixed depth.
        mode: ``"rel"`` compares ``||f(z) - z|| / ||f(z)||``, ``"abs"`` compares ``||f(z) - z||``.
        max_nfe: Most cell evaluations that a row may cost.

    Raises:
        ConfigError: If a value is outside its range.
    """

    tol: float = number(1e-3, low=0.0)
    mode: Literal["rel", "abs"] = choice("rel", ("rel", "abs"))
    max_nfe: int = number(30, low=1)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def fixed_depth(self) -> bool:
        """Whether every row makes exactly ``max_nfe`` evaluations."""
        return self.tol == 0.0 or self.max_nfe == 1


@dataclass(slots=True)
class SolveResult:
    """What a solve returns, row by row.

    Attributes:
        z: Returned states, shape (B, D), or the structure given to :func:`deqcert.solvers.solve`.
        residual: Residual of the returned state in the rule's mode, shape (B,), float64; NaN where
            the returned state was never evaluated (fixed depth), infinite where f was not finite.
        status: A :class:`Status` for each row, shape (B,), int8.
        nfe: Cell evaluations that each row cost, shape (B,), int64.
    """

    z: Tensor
    residual: Tensor
    status: Tensor
    nfe: Tensor

    @property
    def converged(self) -> Tensor:
        """Rows whose residual met the tolerance, shape (B,), bool."""
        return self.status == Status.CONVERGED
