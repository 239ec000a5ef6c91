"""Solve on states of any structure, with a gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deqcert.errors import SolverError
from deqcert.options import options_of
from deqcert.solvers.base import Solver
from deqcert.solvers.cells import share_memory
from deqcert.solvers.gradients.base import Gradient, unrolls
from deqcert.solvers.gradients.implicit import Implicit
from deqcert.solvers.gradients.registry import GRADIENTS, get_gradient
from deqcert.solvers.registry import get_solver
from deqcert.solvers.result import SolveResult, Status, StopRule
from deqcert.solvers.transforms import Transforms, solve_rows
from deqcert.solvers.trees import Arguments, Layout
from deqcert.solvers.warm import Warm


@dataclass(slots=True)
class Solution(SolveResult):
    """A :class:`SolveResult` whose ``z`` has the structure of the start state.

    ``residual``, ``status`` and ``nfe`` have the leading dimensions of the state as their shape.
    """

    z: Any


def solve(
    f: Callable[..., Any],
    z0: Any,
    *args: Any,
    method: str | Solver[Any] = "anderson",
    stop: StopRule | None = None,
    adjoint: str | Gradient | None = "implicit",
    warm: Warm | None = None,
    batch_dims: Literal[0, 1, 2] | int = 1,
) -> Solution:
    """Find z with f(z, *args) = z for every row, differentiably.

    A row is one problem: an index of the first dimension. Rows must not influence each other; each
    ends on its own, and a row that has ended is not evaluated again where everything that f needs
    per row is in ``args``. Whatever f closes over is shared by all rows; something per row there
    is allowed only without ``args``, and then every evaluation takes all rows.

    Gradients flow to every tensor that f touches, in ``args``, in modules and closed over, unless
    ``adjoint`` is None or grad mode is off. They do not flow to z0, on which a solution does not
    depend (but for "unroll").

    Inside torch.func, ``vmap`` over problems, ``grad``, ``vjp``, ``jacrev`` and
    ``functional_call`` work; forward mode works with "unroll" and "phantom".

    Args:
        f: The cell; maps the state and the arguments of some rows, each with those rows in front,
            to the state's structure, shapes and types. It may work in place.
        z0: Start state: a tensor of shape (B, ...), or a structure of them (tuples, lists, dicts,
            named tuples, nested). float16, bfloat16, float32, float64 or complex: float16 is
            solved in float32, a complex element as two real ones.
        *args: What else f takes: structures of tensors with one entry per row. What is no tensor,
            and tensors without dimensions, are passed on as they are.
        method: A solver, or the name of one with default options.
        stop: When a row ends; the default is ``StopRule()``.
        adjoint: How to go backward: "implicit" (solves the adjoint equation by the same method to
            the same relative tolerance, in the memory of one evaluation), "phantom" (a few
            evaluations at the solution; cheap, approximate), "unroll" (no solver: ``max_nfe``
            plain evaluations, all kept), a gradient object with options of its own, or None for no
            gradient. Gradients of gradients need "unroll"; "implicit" refuses them.
        warm: Where an earlier solve of a stream of related problems left its solution.
        batch_dims: How many leading dimensions count problems: 1 for rows; 0 for one problem, whose
            state and arguments f gets whole; with 2 or more they are flattened, and f gets rows
            all the same.

    Returns:
        The solution; ``z`` has the structure of z0.

    Raises:
        SolverError: If the state, an argument or what f returns cannot be used.
        ConfigError: If there is no such method or adjoint.
    """
    solver = _solver(method)
    stop = stop or StopRule()
    if not isinstance(stop, StopRule):
        raise SolverError(f"stop is {stop!r}, but it must be a StopRule, as in StopRule(tol=1e-5).")
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int) or batch_dims < 0:
        raise SolverError(f"batch_dims is {batch_dims!r}, but it must be a whole number from 0.")
    gradient = _gradient(adjoint, solver, stop, warm)
    layout = Layout.of(z0, batch_dims)
    arguments = Arguments.of(args, layout.lead)
    rows = _Rows(f, layout, arguments)
    start = layout.pack(z0)
    if gradient is None or not unrolls(gradient):
        start = start.detach()
    if Transforms.active() is not None:
        if warm is not None:
            raise SolverError("warm= cannot be used inside torch.func; carry z on as z0 instead.")
        wanted = torch.is_grad_enabled()
    else:
        start = start if warm is None else warm.start(start)
        wanted = rows.look(start)
    context = arguments.rowwise
    if gradient is None or not (wanted or unrolls(gradient)):
        result = solve_rows(rows, start, context, solver, stop)
        z = result.z
    else:
        carrier, ended = gradient.solve(rows, start, context, solver, stop)
        result = _unrolled(carrier, gradient) if ended is None else ended
        # What the residual is about is returned, not an evaluation later.
        z = carrier if ended is None else _Carried.apply(result.z, carrier)  # type: ignore[no-untyped-call]
    if warm is not None:
        warm.keep(result)
    lead = layout.lead
    return Solution(
        layout.unpack(z, tuple(lead)),
        result.residual.reshape(lead),
        result.status.reshape(lead),
        result.nfe.reshape(lead),
    )


class _Rows:
    """The cell over rows of a flat tensor, (b, D) and the arguments of these rows to (b, D)."""

    def __init__(self, f: Callable[..., Any], layout: Layout, arguments: Arguments) -> None:
        self._f, self._layout, self._arguments = f, layout, arguments
        self._in_place = False
        self._first: tuple[Tensor, Tensor] | None = None

    def __call__(self, z: Tensor, *present: Tensor) -> Tensor:
        if self._first is not None:
            (start, value), self._first = self._first, None
            if z.shape == start.shape and not z.requires_grad and torch.equal(z, start):
                return value
        return self._evaluate(z.clone() if self._in_place else z, present)

    def look(self, start: Tensor) -> bool:
        """Evaluate at the start, and return whether there is anything to differentiate by.

        The value is kept for the solve, whose first evaluation this is. A cell that works in place
        is found out here and gets copies from then on.
        """
        present = self._arguments.rowwise
        if not len(start):
            return torch.is_grad_enabled() and any(entry.requires_grad for entry in present)
        given = start.detach().clone()
        value = self._evaluate(given, present)
        primal, tangent = forward_ad.unpack_dual(value)  # type: ignore[no-untyped-call]
        wanted, value = value.requires_grad or tangent is not None, primal.detach()
        self._in_place = share_memory(given, value) or not torch.equal(given, start)
        self._first = start.detach(), value
        return wanted

    def _evaluate(self, z: Tensor, present: tuple[Tensor, ...]) -> Tensor:
        value = self._f(self._layout.unpack(z), *self._arguments.unpack(present))
        return self._layout.pack_value(value, len(z))


class _Carried(torch.autograd.Function):
    """A value whose gradient goes to another tensor of its shape."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, carrier: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad

    @staticmethod
    def jvp(ctx: Any, value: Tensor | None, carrier: Tensor | None) -> Tensor | None:
        return carrier


def _unrolled(z: Tensor, gradient: Gradient) -> SolveResult:
    """Say how plain evaluations ended: nobody has evaluated f at the last state."""
    finite = torch.isfinite(z.detach()).all(dim=1)
    status = torch.where(finite, int(Status.MAX_NFE), int(Status.NONFINITE)).to(torch.int8)
    residual = torch.where(finite, torch.nan, torch.inf).double()
    steps = int(getattr(gradient, "steps", 0))
    return SolveResult(z, residual, status, torch.full_like(status, steps, dtype=torch.int64))


def _solver(method: str | Solver[Any]) -> Solver[Any]:
    if isinstance(method, str):
        return get_solver(method)
    if not isinstance(method, Solver):
        raise SolverError(
            f"method is {method!r}, but it must be a solver's name or a solver, as in Anderson()."
        )
    return method


def _gradient(
    adjoint: str | Gradient | None, solver: Solver[Any], stop: StopRule, warm: Warm | None
) -> Gradient | None:
    """Make the gradient method; one that is only named goes backward as the solve goes forward."""
    if adjoint is None:
        return None
    if isinstance(adjoint, str):
        kind = GRADIENTS.get(adjoint)
        if unrolls(kind) and "steps" in options_of(kind):
            return get_gradient(adjoint, steps=stop.max_nfe)
        if kind is not Implicit:
            return get_gradient(adjoint)
        adjoint = Implicit(solver, dataclasses.replace(stop, mode="rel"))
    elif isinstance(adjoint, type) or not callable(getattr(adjoint, "solve", None)):
        raise SolverError(
            f"adjoint is {adjoint!r}, but it must be {', '.join(GRADIENTS.names())}, a gradient "
            "object, or None."
        )
    if isinstance(adjoint, Implicit) and adjoint.memory is None and warm is not None:
        return dataclasses.replace(adjoint, memory=warm.adjoint)
    return adjoint
