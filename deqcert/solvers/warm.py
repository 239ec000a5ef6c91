"""Carry solutions on along a stream of related problems."""

from __future__ import annotations

import torch
from torch import Tensor

from deqcert.solvers.gradients.adjoint import AdjointMemory
from deqcert.solvers.result import SolveResult, Status


class Warm:
    """What one solve leaves to the next, for problems that differ little: frames, sweeps, masks.

    Given as ``warm=`` to each solve of a stream, it lets every row begin where the same row ended
    in the solve before, and the adjoint solve of its gradient likewise. The solution is the same
    within the stop rule's tolerance; only the evaluations get fewer. A row that diverged or was
    lost begins at its start state again, and so does everything when rows, elements, type or
    device change.

    Attributes:
        solves: Solves that it was given to.
        nfe: Cell evaluations that these cost, summed over rows.
        adjoint: The adjoint of the last backward pass.
    """

    def __init__(self) -> None:
        self.solves, self.nfe = 0, 0
        self.adjoint = AdjointMemory()
        self._z: Tensor | None = None
        self._usable: Tensor | None = None

    def clear(self) -> None:
        """Forget the solutions, as where a stream jumps to something unrelated."""
        self._z = self._usable = None
        self.adjoint = AdjointMemory()

    def start(self, z0: Tensor) -> Tensor:
        """Return where the next solve begins, shape (B, D).

        Args:
            z0: Where it would begin without an earlier solution, shape (B, D).
        """
        z = self._z
        if z is None or self._usable is None or z.shape != z0.shape:
            return z0
        if (z.dtype, z.device) != (z0.dtype, z0.device):
            return z0
        return torch.where(self._usable[:, None], z, z0)

    def keep(self, result: SolveResult) -> None:
        """Remember how a solve ended, with ``z`` of shape (B, D)."""
        self._z = result.z.detach()
        lost = (result.status == Status.DIVERGED) | (result.status == Status.NONFINITE)
        self._usable = ~lost & torch.isfinite(self._z).all(dim=1)
        self.solves += 1
        self.nfe += int(result.nfe.sum())
