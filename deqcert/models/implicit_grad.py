"""Backward through an equilibrium: the gradient of a loss on z* without storing the solve.

Three ways, chosen by name with :func:`get_gradient`:

- ``implicit``: solve the adjoint equation ``g = J^T g + dL/dz*`` at the equilibrium with one of our
  solvers. Exact up to the two tolerances; memory of one cell evaluation.
- ``phantom``: differentiate through a few damped evaluations taken from the equilibrium on. Cheap
  and usually a descent direction; memory of those few evaluations.
- ``unroll``: no solver; differentiate through a fixed number of evaluations from the start. Memory
  grows with that number; for pre-training, and to check the other two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deqcert.errors import ConfigError
from deqcert.models.adjoint import AdjointCell, AdjointMemory
from deqcert.solvers import Anderson, Solver, SolveResult, StopRule, bind


class Gradient(Protocol):
    """A way to obtain an equilibrium that a loss can be differentiated through."""

    name: ClassVar[str]

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Return z*, shape (B, D), with its gradient attached, and how the solve ended."""
        ...


@dataclass(frozen=True)
class Implicit:
    """Implicit differentiation.

    At z* = f(z*, c) the implicit function theorem gives ``dL/dc = (df/dc)^T g`` with
    ``g = (df/dz)^T g + dL/dz*``, a fixed-point problem as well.

    Args:
        solver: Solves the adjoint equation.
        stop: When the adjoint is accurate enough. Rows that do not get there use their best state.
        memory: Where the adjoint of an earlier pass over the same rows is; each backward pass
            starts there and leaves its own.

    Source: Bai, Kolter, Koltun 2019, "Deep Equilibrium Models", theorem 1.
    """

    name: ClassVar[str] = "implicit"
    solver: Solver[Any] = field(default_factory=Anderson)
    stop: StopRule = field(default_factory=lambda: StopRule(tol=1e-3, max_nfe=20))
    memory: AdjointMemory | None = None

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Solve without a graph, then attach one evaluation and the adjoint solve."""
        result = solver.solve(bind(f, *context), z0, stop)
        z = result.z.detach().requires_grad_()
        fz = f(z, *context)

        def adjoint(grad: Tensor) -> Tensor:
            memory = self.memory or AdjointMemory()
            cell = AdjointCell(f, z, fz, context, grad)
            found = self.solver.solve(cell, memory.start(grad), self.stop).z
            memory.keep(grad, found)
            return found

        return _WithAdjoint.apply(fz, adjoint), result  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Phantom:
    """Phantom gradients: a few damped steps from the equilibrium, differentiated.

    ``z <- damping * f(z) + (1 - damping) * z``, ``steps`` times.

    Args:
        steps: Evaluations differentiated through, from 1.
        damping: Share of each new evaluation, in (0, 1].

    Raises:
        ConfigError: If a value is out of range.

    Source: Geng, Zhang, Bai, Wang, Lin 2021, "On Training Implicit Models", section 3.
    """

    name: ClassVar[str] = "phantom"
    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if not 0.0 < self.damping <= 1.0:
            raise ConfigError(f"damping is {self.damping}, but it must be above 0 and at most 1.")

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Solve without a graph, then take the damped steps."""
        result = solver.solve(bind(f, *context), z0, stop)
        z = result.z.detach()
        for _ in range(self.steps):
            z = self.damping * f(z, *context) + (1.0 - self.damping) * z
        return z, result


@dataclass(frozen=True)
class Unroll:
    """Plain evaluations from the start state, all differentiated; the solver is not used.

    Args:
        steps: Evaluations, from 1.

    Raises:
        ConfigError: If the number is below 1.
    """

    name: ClassVar[str] = "unroll"
    steps: int = 8

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def solve(
        self,
        f: Callable[..., Tensor],
        z0: Tensor,
        context: tuple[Tensor, ...],
        solver: Solver[Any],
        stop: StopRule,
    ) -> tuple[Tensor, SolveResult | None]:
        """Evaluate ``steps`` times."""
        z = z0
        for _ in range(self.steps):
            z = f(z, *context)
        return z, None


_GRADIENTS: dict[str, type[Implicit | Phantom | Unroll]] = {
    gradient.name: gradient for gradient in (Implicit, Phantom, Unroll)
}


def gradient_names() -> tuple[str, ...]:
    """Return the names that :func:`get_gradient` knows."""
    return tuple(_GRADIENTS)


def get_gradient(name: str, **options: Any) -> Gradient:
    """Make the backward method of that name.

    Args:
        name: One of :func:`gradient_names`.
        **options: Its knobs; see the class for ranges.

    Raises:
        ConfigError: If there is no such method, it has no such knob, or a value is out of range.
    """
    if name not in _GRADIENTS:
        raise ConfigError(f"there is no gradient '{name}'; there are {', '.join(_GRADIENTS)}.")
    known = [entry.name for entry in dataclasses.fields(_GRADIENTS[name])]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"gradient '{name}' has no option '{option}'; it has {', '.join(known)}."
            )
    return _GRADIENTS[name](**options)


def equilibrium(
    f: Callable[..., Tensor],
    z0: Tensor,
    *context: Tensor,
    solver: Solver[Any],
    stop: StopRule,
    gradient: Gradient,
) -> tuple[Tensor, SolveResult | None]:
    """Solve ``z = f(z, *context)`` so that a loss on z* has gradients.

    Gradients flow to the context tensors and to the parameters inside f, not to z0 (but for
    ``unroll``).

    Args:
        f: The cell, from (B, D) and the context of the same rows to (B, D), rows independent.
        z0: Start states, shape (B, D).
        *context: Tensors with one entry a row, such as the injection.
        solver: Solves the forward problem.
        stop: When the forward solve ends.
        gradient: How to go backward; see :func:`get_gradient`.

    Returns:
        z*, shape (B, D), and how the solve ended (None for ``unroll``, which does not solve).
    """
    return gradient.solve(f, z0, context, solver, stop)


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps is {steps}, but it must be a whole number from 1.")


class _WithAdjoint(torch.autograd.Function):
    """The identity, with a backward pass that solves the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, fz: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.adjoint = adjoint
        return fz.view_as(fz)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.adjoint(grad.contiguous()), None
