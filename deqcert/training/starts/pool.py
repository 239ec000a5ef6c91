"""Solved states that a start network learns from, kept for a few passes: solving costs most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqcert.models import ImplicitModel
from deqcert.solvers import Anderson, SolveResult, Status, StopRule, bind


@dataclass(frozen=True, slots=True)
class SolvedImages:
    """Noisy images that were solved.

    Attributes:
        injection: What entered the cell, shape (B, ...).
        z: Where the solve ended, shape (B, D).
        logits: What is read out there, shape (B, K).
        labels: The images' classes, shape (B,).
    """

    injection: Tensor
    z: Tensor
    logits: Tensor
    labels: Tensor


_COLUMNS = ("injection", "z", "logits", "labels")


class Pool:
    """Keep solved states in half precision, about 45 KB per row for a small CIFAR-10 model.

    Args:
        size: Rows that are drawn together.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[SolvedImages] = []
        self._order: Tensor | None = None
        self._place = 0

    def __len__(self) -> int:
        """How many times states were taken in."""
        return len(self._parts)

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self._order = None

    def add(self, solved: SolvedImages) -> None:
        """Take states in."""
        self._parts.append(
            SolvedImages(
                _half(solved.injection), _half(solved.z), _half(solved.logits), solved.labels
            )
        )

    def draw(self, generator: torch.Generator) -> Iterator[SolvedImages]:
        """Yield all rows once, in random order; a last incomplete batch is left out.

        A pass that was begun before :meth:`state` was taken goes on where it was.
        """
        injection, z, logits, labels = (
            torch.cat([getattr(part, name) for part in self._parts]) for name in _COLUMNS
        )
        if self._order is None:
            self._order, self._place = torch.randperm(len(z), generator=generator), 0
        order = self._order.to(z.device)
        while self._place + self.size <= len(order):
            rows = order[self._place : self._place + self.size]
            self._place += self.size
            yield SolvedImages(
                injection[rows].float(), z[rows].float(), logits[rows].float(), labels[rows]
            )
        self._order = None

    def state(self) -> dict[str, Any]:
        """Return all that :meth:`restore` needs, without a copy."""
        parts = [[getattr(part, name) for name in _COLUMNS] for part in self._parts]
        return {"parts": parts, "order": self._order, "place": self._place}

    def restore(self, state: dict[str, Any], device: str) -> None:
        """Go back to what :meth:`state` returned, with the states on a device."""
        self._parts = [
            SolvedImages(*(column.to(device) for column in part)) for part in state["parts"]
        ]
        self._order, self._place = state["order"], state["place"]


def solve_states(
    model: ImplicitModel, x: Tensor, labels: Tensor, start: Tensor | None, stop: StopRule
) -> SolvedImages:
    """Solve inputs, shape (B, C, H, W), from start states or cold; leave out rows that are lost."""
    with torch.no_grad():
        injection = model.inject(x)
        z0 = model.initial_state(injection) if start is None else start
        result: SolveResult = Anderson().solve(bind(model.cell, injection), z0, stop)
        logits = model.readout(result.z)
        usable = (result.status != Status.NONFINITE) & torch.isfinite(logits).all(dim=1)
        return SolvedImages(injection[usable], result.z[usable], logits[usable], labels[usable])


def _half(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float16)
