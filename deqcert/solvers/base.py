"""The one loop that every solver shares: it evaluates the cell, counts, judges and retires rows."""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from deqcert import kernels
from deqcert.errors import ConfigError, SolverError
from deqcert.solvers.cells import Cell, as_cell

DIVERGENCE = 1e6
"""A row diverges when its residual exceeds this many times the size of its first evaluation."""

PATIENCE = 20
"""A row stalls after this many evaluations in a row that did not lower its best residual."""


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
        tol: Residual at which a row has converged, at least 0; 0 asks for a fixed depth.
        mode: ``"rel"`` compares ``||f(z) - z|| / ||f(z)||``, ``"abs"`` compares ``||f(z) - z||``.
        max_nfe: Most cell evaluations a row may cost, at least 1.

    Raises:
        ConfigError: If a value is outside its range.
    """

    tol: float = 1e-3
    mode: Literal["rel", "abs"] = "rel"
    max_nfe: int = 30

    def __post_init__(self) -> None:
        if not (0.0 <= self.tol < float("inf")):
            raise ConfigError(f"tol is {self.tol}, but it must be at least 0 (0: fixed depth).")
        if self.mode not in ("rel", "abs"):
            raise ConfigError(f"the residual mode is '{self.mode}', but it must be 'rel' or 'abs'.")
        if isinstance(self.max_nfe, bool) or not isinstance(self.max_nfe, int) or self.max_nfe < 1:
            raise ConfigError(f"max_nfe is {self.max_nfe}, but it must be a whole number from 1.")

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


@dataclass(slots=True)
class State:
    """What a method remembers between steps: tensors with one entry a row in front."""

    def select(self, keep: Tensor) -> None:
        """Keep only the rows whose indices are given, shape (b,), int64."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name)[keep])


S = TypeVar("S", bound=State)


class Solver(ABC, Generic[S]):
    """A fixed-point method: algebra on states, never a call of the cell.

    A method is a frozen dataclass whose fields are its knobs, with :meth:`init` and :meth:`step`.
    """

    name: ClassVar[str]

    @abstractmethod
    def init(self, z: Tensor) -> S:
        """Make the memory for a batch that starts at z, shape (B, D)."""

    @abstractmethod
    def step(self, z: Tensor, fz: Tensor, state: S, out: Tensor) -> None:
        """Write the next states, shape (b, D), into ``out`` and bring ``state`` up to date."""

    def solve(
        self, f: Callable[[Tensor], Tensor], z0: Tensor, stop: StopRule | None = None
    ) -> SolveResult:
        """Find z with f(z) = z for every row.

        Rows are independent: a row that ends costs nothing more, and a row that overflows touches
        no other. A plain callable is always given all B rows, because it may have captured one
        input a row; make it a cell with :func:`deqcert.solvers.bind` and it is given only the rows
        that still run.

        Args:
            f: The cell, from (b, D) to (b, D), rows independent.
            z0: Start states, shape (B, D), float32 or float64.
            stop: When to stop; the default is ``StopRule()``.

        Returns:
            A :class:`SolveResult`; ``residual`` and ``status`` describe the returned states.

        Raises:
            SolverError: If z0 or what f returns has a shape or a type that cannot be used.
        """
        stop = stop or StopRule()
        _check_start(z0)
        with torch.no_grad():
            return self._loop(as_cell(f, z0), z0.detach().contiguous(), stop)

    def _loop(self, cell: Cell, z0: Tensor, stop: StopRule) -> SolveResult:
        rows = torch.arange(z0.shape[0], device=z0.device)
        result = SolveResult(
            z=z0.clone(),
            residual=torch.full(rows.shape, torch.inf, dtype=torch.float64, device=z0.device),
            status=torch.full(rows.shape, Status.MAX_NFE, dtype=torch.int8, device=z0.device),
            nfe=torch.zeros_like(rows),
        )
        z, out = z0.clone(), torch.empty_like(z0)
        state = self.init(z)
        first: Tensor | None = None
        waited = torch.zeros_like(rows)
        for evaluation in range(1, stop.max_nfe + 1):
            if rows.numel() == 0:
                break
            fz = _evaluate(cell, z)
            square, scale = kernels.residual_norms(z, fz)
            size, image = square.sqrt(), scale.sqrt()
            first = torch.maximum(size, image) if first is None else first
            residual = size / image.clamp_min(1e-300) if stop.mode == "rel" else size
            finite = torch.isfinite(size) & torch.isfinite(image)
            result.nfe[rows] = evaluation
            last = evaluation == stop.max_nfe

            done = ~finite
            result.status[rows[done]] = Status.NONFINITE
            if stop.fixed_depth:
                # Rows that survive to the last step are written after it; a lost row keeps the
                # state that broke it, and its residual stays infinite.
                result.z[rows[done]] = z[done]
            else:
                better = finite & (residual < result.residual[rows])
                result.z[rows[better]] = z[better]
                result.residual[rows[better]] = residual[better]
                waited = torch.where(better, 0, waited + 1)
                for status, ended in (
                    (Status.STALLED, waited >= PATIENCE),
                    (Status.DIVERGED, size > DIVERGENCE * first),
                    (Status.CONVERGED, residual <= stop.tol),
                ):
                    ended &= finite
                    result.status[rows[ended]] = status
                    done = done | ended
                if last:
                    break

            if bool(done.any()):
                keep = torch.nonzero(~done).squeeze(1)
                rows, z, fz, first, waited = (t[keep] for t in (rows, z, fz, first, waited))
                out = out[: keep.numel()]
                state.select(keep)
                cell = cell.select(keep)
            self.step(z, fz, state, out)
            z, out = out, z
        if stop.fixed_depth:
            result.z[rows] = z
            result.residual[rows] = torch.nan
        return result


def _check_start(z0: Tensor) -> None:
    if z0.ndim != 2:
        raise SolverError(
            f"the start state has shape {tuple(z0.shape)}, but a solver takes (rows, elements); "
            "deqcert.solvers.solve takes any shape."
        )
    if z0.dtype not in (torch.float32, torch.float64):
        raise SolverError(f"the start state is {z0.dtype}, but it must be float32 or float64.")


def _evaluate(cell: Cell, z: Tensor) -> Tensor:
    fz = cell(z)
    if fz.shape != z.shape or fz.dtype != z.dtype:
        raise SolverError(
            f"the cell returned {tuple(fz.shape)} {fz.dtype} for a state of {tuple(z.shape)} "
            f"{z.dtype}, but it must return the same shape and type."
        )
    return fz.contiguous()
