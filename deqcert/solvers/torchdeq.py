"""Our solvers inside torchdeq; importing this module registers them.

``get_deq(f_solver="deqcert_anderson")`` then works, for ``b_solver`` too; the names are
``deqcert_`` and a name of :data:`deqcert.solvers.SOLVERS`. A solver that is registered later joins
when it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchdeq.solver import register_solver
from torchdeq.solver.stat import SolverStat

from deqcert.errors import ConfigError
from deqcert.solvers.registry import SOLVERS, get_solver
from deqcert.solvers.result import StopRule

PREFIX = "deqcert_"


class _Recorder:
    """Calls the cell and notes both residuals, and the states at the wanted evaluations."""

    def __init__(self, func: Callable[[Tensor], Tensor], like: Tensor, wanted: Sequence[int]):
        self.func, self.like, self.wanted = func, like, wanted
        self.absolute: list[Tensor] = []
        self.relative: list[Tensor] = []
        self.sampled: dict[int, Tensor] = {}

    def __call__(self, z: Tensor) -> Tensor:
        fz = self.func(z.view_as(self.like)).reshape(z.shape)
        absolute = torch.linalg.vector_norm(fz - z, dim=1)
        self.absolute.append(absolute)
        self.relative.append(absolute / (torch.linalg.vector_norm(fz, dim=1) + 1e-9))
        if len(self.absolute) in self.wanted:
            self.sampled[len(self.absolute)] = fz.view_as(self.like).clone()
        return fz


def torchdeq_solver(name: str) -> Callable[..., tuple[Tensor, list[Tensor], SolverStat]]:
    """Return one of our solvers with the signature that torchdeq calls.

    The returned function takes ``(func, x0, max_iter, tol, stop_mode, indexing, **options)``;
    options are those of our solver, and an unknown one is an error. It returns the state, the
    states after the evaluations in ``indexing``, and torchdeq's statistics, to which ``nfe`` and
    ``status`` are added: evaluations and :class:`deqcert.solvers.Status` per row. A row that has
    ended stays at the state and the residual that are returned for it.

    Raises:
        ConfigError: If there is no solver of that name.
    """
    if name not in SOLVERS:
        raise ConfigError(SOLVERS.unknown(name))

    def solver(
        func: Callable[[Tensor], Tensor],
        x0: Tensor,
        max_iter: int = 50,
        tol: float = 1e-3,
        stop_mode: str = "abs",
        indexing: Sequence[int] | None = None,
        **options: Any,
    ) -> tuple[Tensor, list[Tensor], SolverStat]:
        flat = x0.reshape(x0.shape[0], -1) if x0.ndim else x0.reshape(1, 1)
        wanted = sorted(indexing or ())
        recorder = _Recorder(func, x0, wanted)
        stop = StopRule(tol=tol, mode=stop_mode, max_nfe=int(max_iter))  # type: ignore[arg-type]
        result = get_solver(name, **options).solve(recorder, flat, stop)
        z = result.z.view_as(x0)
        sampled = []
        for k in wanted:
            done = (result.nfe <= k)[:, None].expand_as(flat).reshape(x0.shape)
            sampled.append(torch.where(done, z, recorder.sampled.get(k, z)))

        absolute = torch.stack(recorder.absolute, dim=1)
        relative = torch.stack(recorder.relative, dim=1)
        ordering = (relative if stop_mode == "rel" else absolute).nan_to_num(nan=torch.inf)
        ended = torch.arange(ordering.shape[1], device=x0.device) >= result.nfe[:, None]
        best = ordering.masked_fill(ended, torch.inf).argmin(dim=1)
        # A row that has ended keeps the residual that it is returned with.
        absolute, relative = (
            torch.where(ended, trace.gather(1, best[:, None]), trace)
            for trace in (absolute, relative)
        )
        statistics = SolverStat(
            abs_lowest=absolute.gather(1, best[:, None]).squeeze(1),
            rel_lowest=relative.gather(1, best[:, None]).squeeze(1),
            abs_trace=absolute,
            rel_trace=relative,
            nstep=best + 1.0,
            nfe=result.nfe,
            status=result.status,
        )
        return z, sampled, statistics

    return solver


def offer(name: str) -> None:
    """Register one of our solvers with torchdeq, as ``deqcert_`` and its name."""
    register_solver(PREFIX + name, torchdeq_solver(name))


for _name in SOLVERS:
    offer(_name)
