"""Norms of residuals: float64 sums, each row by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from kernel_problems import SHAPES, evaluations, needs_native

from deqcert import kernels


@needs_native
@given(**{k: v for k, v in SHAPES.items() if k != "m"})
def test_norms_of_native_are_those_of_the_reference(rows, size, dtype, seed):
    z, fz = next(evaluations(1, rows, size, dtype, seed))
    for got, want in zip(
        kernels.residual_norms(z, fz), kernels.residual_norms.reference(z, fz), strict=True
    ):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, want, rtol=1e-13, atol=0)


def test_norms_are_accumulated_in_float64(path):
    z = torch.zeros(1, 100_000)
    fz = torch.full_like(z, 0.1)
    residual, norm = kernels.residual_norms(z, fz)
    exact = 100_000 * float(np.float32(0.1)) ** 2
    assert abs(residual.item() / exact - 1) < 1e-13
    assert residual.item() == norm.item()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_norms_keep_a_bad_row_to_itself(path, bad):
    z = torch.randn(3, 33, generator=torch.Generator().manual_seed(0))
    fz = z * 0.5
    clean = kernels.residual_norms(z, fz)
    z[1, 7] = bad
    for got, want in zip(kernels.residual_norms(z, fz), clean, strict=True):
        assert torch.equal(got[[0, 2]], want[[0, 2]])
    if not math.isfinite(bad):
        assert not kernels.residual_norms(z, fz)[0][1].isfinite()
