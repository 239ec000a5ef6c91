"""The CUDA kernels against the torch reference, where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import (
    DTYPES,
    METHODS,
    RULES,
    Window,
    bits,
    compare,
    evaluations,
    grid_points,
    grid_table,
    needs_cuda,
    normals,
    same_as_reference,
)

from deqcert import kernels


@needs_cuda
class TestCuda:
    """The CUDA twins against the CPU reference."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("rows", "size", "m"), [(1, 1, 1), (3, 17, 2), (7, 9000, 6)])
    @pytest.mark.parametrize("damping", [1.0, 0.6])
    def test_step_is_that_of_the_reference(self, dtype, rows, size, m, damping):
        options = {"damping": damping, "ridge": 1e-3, "growth": 1.5}
        window = Window.empty(rows, m, size, dtype, "cuda")
        other = Window.empty(rows, m, size, dtype)
        for z, fz in evaluations(2 * m + 3, rows, size, dtype, 1):
            window.step(z.cuda(), fz.cuda(), **options)
            other.step(z, fz, kernels.anderson_step.reference, **options)
            compare(window, other)
            for got, want in zip(
                kernels.residual_norms(z.cuda(), fz.cuda()),
                kernels.residual_norms.reference(z, fz),
                strict=True,
            ):
                torch.testing.assert_close(got.cpu(), want, rtol=1e-13, atol=0)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("rule", [None, *RULES])
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("rows", "size", "m"), [(1, 1, 1), (9, 37, 3), (3, 9000, 6)])
    def test_a_step_under_watch_is_that_of_the_reference(self, method, rule, dtype, rows, size, m):
        same_as_reference(method, rule, dtype, rows, size, m, "cuda")

    def test_normals_have_the_bits_of_the_reference(self):
        want = torch.empty(50, 3075)
        kernels.philox_normal.reference(want, seed=2**63 + 1, index=1, stage=2, first=3)
        got = normals(50, 3075, seed=2**63 + 1, index=1, stage=2, first=3, device="cuda")
        assert torch.equal(bits(got.cpu()), bits(want))

    @pytest.mark.parametrize("grid", [(255, 0.5), (16, 0.25), (255, 10.0)])
    def test_grid_points_have_the_bits_of_the_reference(self, grid):
        place = {"seed": 2**63 + 1, "index": 1, "stage": 2, "first": 3}
        x = torch.arange(3075, dtype=torch.int32) % (grid[0] + 1)
        want = torch.empty(700, 3075)
        kernels.philox_grid.reference(want, x, grid_table(*grid), **place)
        assert torch.equal(bits(grid_points(700, x.cuda(), *grid, **place).cpu()), bits(want))

    def test_rows_do_not_know_their_batch(self):
        window = Window.empty(5, 3, 9000, torch.float32, "cuda")
        part = window.rows([4, 2])
        for z, fz in evaluations(7, 5, 9000, torch.float32, 4, "cuda"):
            window.step(z, fz)
            part.step(z[[4, 2]], fz[[4, 2]])
            assert part.same(window.rows([4, 2]))

    def test_a_step_can_be_captured_in_a_graph(self):
        z, fz = next(evaluations(1, 4, 5000, torch.float32, 2, "cuda"))
        eager, captured = (Window.empty(4, 3, 5000, torch.float32, "cuda") for _ in range(2))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured.step(z, fz)
        for _ in range(3):
            eager.step(z, fz)
            graph.replay()
        torch.cuda.synchronize()
        assert captured.same(eager)
