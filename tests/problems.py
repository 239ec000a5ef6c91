"""Fixed-point problems with known answers; every solver is run against all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A batched problem: ``cell(z, context)`` has the equilibrium ``answer``."""

    name: str
    make: Callable[[int, torch.dtype], tuple[Callable[..., Tensor], Tensor, Tensor, Tensor]]
    contractive: bool = True

    def __str__(self) -> str:
        return self.name


def _linear(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """z = A z + b with a known solution and ||A|| = 0.8."""
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    a = (0.8 / torch.linalg.matrix_norm(a, 2)) * a
    answer = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    b = answer - answer @ a.T
    a, b = a.to(dtype), b.to(dtype)
    return (lambda z, c: z @ a.T + c), torch.zeros(rows, 12, dtype=dtype), b, answer


def _cosine(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """z = cos(z), whose solution is Dottie's number."""
    dottie = 0.7390851332151607
    scale = torch.ones(rows, 5, dtype=dtype)
    start = torch.linspace(0.0, 1.5, rows * 5, dtype=dtype).reshape(rows, 5)
    return (
        (lambda z, c: torch.cos(z) * c),
        start,
        scale,
        torch.full((rows, 5), dottie, dtype=torch.float64),
    )


def _heron(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """z = (z + a / z) / 2, whose solution is the square root of a."""
    a = torch.linspace(1.0, 9.0, rows * 4, dtype=dtype).reshape(rows, 4)
    return (lambda z, c: 0.5 * (z + c / z)), torch.ones_like(a), a, a.double().sqrt()


def _expanding(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """z = b - Q z with spectral radius 1.6: Picard diverges, an accelerated method need not."""
    generator = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))[0]
    q = q @ torch.diag(torch.tensor([1.6, 1.2, 0.4, 0.1], dtype=torch.float64)) @ q.T
    answer = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    b = answer + answer @ q.T
    q, b = q.to(dtype), b.to(dtype)
    return (lambda z, c: c - z @ q.T), torch.zeros(rows, 4, dtype=dtype), b, answer


def _large_scale(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """The linear problem with states of size 1e8: nothing may depend on the absolute scale."""
    cell, z0, b, answer = _linear(rows, dtype)
    return cell, z0, b * 1e8, answer * 1e8


def _scalar(rows: int, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """One element a row: z = sqrt(1 + z), whose solution is the golden ratio."""
    golden = (1 + math.sqrt(5)) / 2
    return (
        (lambda z, c: torch.sqrt(c + z)),
        torch.zeros(rows, 1, dtype=dtype),
        torch.ones(rows, 1, dtype=dtype),
        torch.full((rows, 1), golden, dtype=torch.float64),
    )


PROBLEMS = [
    Problem("linear", _linear),
    Problem("cosine", _cosine),
    Problem("heron", _heron),
    Problem("expanding", _expanding, contractive=False),
    Problem("large scale", _large_scale),
    Problem("scalar", _scalar),
]
