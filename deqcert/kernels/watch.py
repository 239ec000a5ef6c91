"""What a solve keeps of its rows between evaluations, and the judgement of one evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqcert.errors import KernelError
from deqcert.kernels.arrays import check_array, check_states
from deqcert.kernels.residual import residual_norms

# Columns of a watch's progress, and values of its status; csrc/watch.h has the same.
RESIDUAL, SCALE, NFE, WAITED, STATUS, FRESH = range(6)
RUNNING, CONVERGED, MAX_NFE, STALLED, DIVERGED, NONFINITE = range(-1, 5)

START = (math.inf, 0.0, 0.0, 0.0, -1.0, 0.0)
"""The progress of a row that has not been evaluated; its status says that it runs."""


@dataclass(slots=True)
class Watch:
    """What a solve keeps of its rows between evaluations; steps judge rows by it.

    A step that is given a watch judges each row before it steps: a row that has ended is left
    alone, and one that ends puts its answer into ``best`` and does not step, or, where its depth is
    fixed, steps into ``best``. The ``out`` of such a step must hold the states that were evaluated
    before: a best state is copied only when it would be lost. Status values are those of
    :class:`deqcert.solvers.Status`, -1 while the row runs.

    Args:
        progress: (B, 6) float64; a row is the best residual, the size of the first evaluation, the
            evaluations, those since the residual last fell, the status, and whether the best state
            is the one evaluated last. Begins as :data:`START`.
        best: (B, D) best states, answers once the rows have ended.
        tol: Residual at which a row has converged; 0 asks for exactly ``max_nfe`` evaluations.
        relative: Whether residuals are divided by ``||fz||``.
        max_nfe: Most evaluations per row.
        divergence: A row has diverged when its residual is more than this times its first size.
        patience: A row stalls when this many evaluations have not lowered its residual.
    """

    progress: Tensor
    best: Tensor
    tol: float
    relative: bool
    max_nfe: int
    divergence: float
    patience: int

    @property
    def rule(self) -> tuple[float, bool, float, float, float]:
        """The numbers that a kernel judges by, in the order of StopRule in csrc/step.h."""
        return (
            float(self.tol),
            self.relative,
            float(self.max_nfe),
            float(self.divergence),
            float(self.patience),
        )


def check_watch(watch: Watch | None, z: Tensor) -> None:
    """Raise a KernelError unless ``watch`` fits the states ``z``."""
    if watch is None:
        return
    shape = (z.shape[0], len(START))
    check_array("progress", watch.progress, shape, torch.float64, z.device, written=True)
    check_array("best", watch.best, tuple(z.shape), z.dtype, z.device, written=True)
    if not (watch.tol >= 0 and watch.max_nfe >= 1):
        raise KernelError(
            f"watch: expected tol >= 0 and max_nfe >= 1, got {watch.tol}, {watch.max_nfe}"
        )


@torch.no_grad()
def judge(z: Tensor, fz: Tensor, out: Tensor, watch: Watch | None) -> Tensor:
    """Judge the rows for a method that has no kernel of its own, before it writes ``out``.

    Such a method calls :func:`finish` after it has written ``out``.

    Args:
        z: (B, D) float32, float64 or bfloat16 states.
        fz: (B, D) the cell at ``z``.
        out: (B, D) the states that were evaluated before.
        watch: What the solve keeps of the rows; None judges nobody.

    Returns:
        The rows that make their last step of a fixed depth now, (B,) bool.

    Raises:
        KernelError: If an argument has the wrong dtype, shape, device or layout.
    """
    check_states("z", z)
    check_array("out", out, tuple(z.shape), z.dtype, z.device)
    check_watch(watch, z)
    return judge_norms(z, out, *residual_norms(z, fz), watch)


def judge_norms(
    z: Tensor, before: Tensor, g_square: Tensor, fz_square: Tensor, watch: Watch | None
) -> Tensor:
    """Do what :func:`judge` does, with ``||fz - z||^2`` and ``||fz||^2`` given, each (B,)."""
    if watch is None:
        return torch.zeros(z.shape[0], dtype=torch.bool, device=z.device)
    progress = watch.progress
    running = progress[:, STATUS] < 0
    nfe = progress[:, NFE] + 1
    finite = g_square.isfinite() & fz_square.isfinite()
    status = torch.where(nfe >= watch.max_nfe, MAX_NFE, RUNNING).double()
    status[~finite] = NONFINITE
    new = progress.clone()
    new[:, NFE] = nfe
    fresh = torch.zeros_like(running)
    if watch.tol > 0:
        size, length = g_square.sqrt(), fz_square.sqrt()
        residual = size / length.clamp_min(1e-300) if watch.relative else size
        scale = torch.where(nfe == 1, torch.maximum(size, length), progress[:, SCALE])
        fresh = finite & (residual < progress[:, RESIDUAL])
        waited = torch.where(fresh, 0.0, progress[:, WAITED] + 1)
        status[finite & (waited >= watch.patience)] = STALLED
        status[finite & (size > watch.divergence * scale)] = DIVERGED
        status[finite & (residual <= watch.tol)] = CONVERGED
        new[:, SCALE], new[:, WAITED], new[:, FRESH] = scale, waited, fresh.double()
        new[:, RESIDUAL] = torch.where(fresh, residual, progress[:, RESIDUAL])
        lost = torch.nonzero(running & (progress[:, FRESH] != 0) & ~fresh).squeeze(1)
        watch.best[lost] = before[lost]
    new[:, STATUS] = status
    ended = running & (status >= 0)
    last = ended & finite & (watch.tol == 0)
    # A row that was not finite at once has no best state; it keeps its start.
    here = torch.nonzero(ended & ~last & (fresh | torch.isinf(new[:, RESIDUAL]))).squeeze(1)
    watch.best[here] = z[here]
    progress.copy_(torch.where(running[:, None], new, progress))
    return last


@torch.no_grad()
def finish(out: Tensor, watch: Watch | None, last: Tensor) -> None:
    """Keep the answers of the rows that :func:`judge` said make their last step.

    Args:
        out: (B, D) the states after the step.
        watch: As given to :func:`judge`.
        last: What it returned.
    """
    if watch is not None:
        rows = torch.nonzero(last).squeeze(1)
        watch.best[rows] = out[rows]
