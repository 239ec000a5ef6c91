"""Anderson's step: the definition by least squares, its safeguards, and its bits on every path."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import (
    DTYPES,
    PROCESSORS,
    SHAPES,
    Window,
    compare,
    evaluations,
    native,
    needs_native,
)

from deqcert import kernels
from deqcert.errors import KernelError


def _least_squares(window, m, damping):
    """The definition, by NumPy: weights of sum one that minimise the mixed residual."""
    out = np.empty(window.out.shape)
    for b in range(out.shape[0]):
        s = (int(window.count[b]) - 1) % m
        filled = range(min(int(window.count[b]), m))
        f = window.f[b].double().numpy()
        g = window.g[b].double().numpy()
        others = [j for j in filled if j != s]
        weights = np.zeros(m)
        weights[s] = 1.0
        if others:
            columns = np.stack([g[j] - g[s] for j in others], axis=1)
            gamma = np.linalg.lstsq(columns, -g[s], rcond=None)[0]
            weights[others] = gamma
            weights[s] -= gamma.sum()
        kept = list(filled)
        out[b] = weights[kept] @ (f[kept] - (1 - damping) * g[kept])
    return torch.from_numpy(out)


@pytest.mark.parametrize("damping", [1.0, 0.7])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_step_is_the_least_squares_step(path, m, damping):
    window = Window.empty(4, m, 40, torch.float64)
    free = {"damping": damping, "ridge": 0.0, "growth": math.inf, "max_weight": math.inf}
    for k, (z, fz) in enumerate(evaluations(9, 4, 40, torch.float64, 3)):
        window.step(z, fz, **free)
        assert window.count.tolist() == [k + 1] * 4
        torch.testing.assert_close(
            window.out, _least_squares(window, m, damping), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_linear_problem_ends_after_its_dimension(path, scale):
    generator = torch.Generator().manual_seed(1)
    a = 0.5 * torch.randn(3, 5, 5, generator=generator, dtype=torch.float64) / 5**0.5
    b = scale * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    window = Window.empty(3, 8, 5, torch.float64)
    z = torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(7):
        z = window.step(z, torch.einsum("bij,bj->bi", a, z) + b, ridge=1e-14).clone()
    torch.testing.assert_close(
        z, torch.linalg.solve(torch.eye(5) - a, b), rtol=1e-7, atol=1e-7 * scale
    )


@needs_native
@given(
    **SHAPES,
    damping=st.sampled_from([1.0, 0.5, 1.3]),
    growth=st.sampled_from([1.0, 1.5, math.inf]),
    max_weight=st.sampled_from([2.0, 30.0, math.inf]),
)
def test_native_step_is_that_of_the_reference(
    rows, size, m, dtype, seed, damping, growth, max_weight
):
    # A ridge that is not tiny keeps the weights a smooth function of the inner products.
    options = {"damping": damping, "ridge": 1e-3, "growth": growth, "max_weight": max_weight}
    window, other = (Window.empty(rows, m, size, dtype) for _ in range(2))
    for z, fz in evaluations(2 * m + 3, rows, size, dtype, seed):
        window.step(z, fz, **options)
        other.step(z, fz, kernels.anderson_step.reference, **options)
        compare(window, other)


def test_growth_restarts_from_the_best_state(path):
    window = Window.empty(2, 3, 4, torch.float32)
    zero = torch.zeros(2, 4)
    norms = [4.0, 1.0, 2.0]
    for norm in norms:
        window.step(zero, torch.full((2, 4), norm / 2), growth=3.0)
    assert window.count.tolist() == [3, 3]
    worse = torch.full((2, 4), 1.0)
    worse[1] = 50.0
    window.step(zero, worse, growth=3.0, damping=0.5)
    assert window.count.tolist() == [4, 1]
    assert torch.equal(window.f[1, 0], torch.full((4,), 0.5))
    assert torch.equal(window.g[1, 0], torch.full((4,), 0.5))
    assert window.gram[1, 0, 0].item() == 1.0
    assert torch.equal(window.out[1], torch.full((4,), 0.25))
    # The row goes on as if the other slots had never been filled.
    window.f[1, 1:] = math.nan
    window.g[1, 1:] = math.nan
    window.step(zero, torch.full((2, 4), 0.25), growth=3.0)
    assert window.count.tolist() == [5, 2]
    assert window.out.isfinite().all()


def test_wild_weights_give_way_to_the_plain_step(path):
    window = Window.empty(1, 2, 2, torch.float64)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    window.step(zero, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    second = torch.tensor([[0.99, 0.001]], dtype=torch.float64)
    window.step(zero, second, max_weight=2.0, damping=0.5)
    assert torch.equal(window.out, 0.5 * second)


def test_equal_residuals_do_not_divide_by_zero(path):
    window = Window.empty(1, 4, 3, torch.float32)
    z = torch.ones(1, 3)
    for _ in range(6):
        assert torch.equal(window.step(z, 2 * z), 2 * z)
    for _ in range(6):
        assert torch.equal(window.step(z, z.clone()), z)


def test_output_may_be_an_input(path):
    for which in ("z", "fz"):
        window, other = (Window.empty(3, 3, 5000, torch.float32) for _ in range(2))
        for z, fz in evaluations(5, 3, 5000, torch.float32, 0):
            other.step(z.clone(), fz.clone())
            window.out = z if which == "z" else fz
            window.step(z, fz)
            assert window.same(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_know_their_batch(path, dtype):
    window = Window.empty(5, 3, 2100, dtype)
    parts = [window.rows(index) for index in ([0], [4, 2], [1, 3, 0])]
    for z, fz in evaluations(7, 5, 2100, dtype, 4):
        window.step(z, fz)
        for part, index in zip(parts, ([0], [4, 2], [1, 3, 0]), strict=True):
            part.step(z[index], fz[index])
            assert part.same(window.rows(index))
            for got, want in zip(
                kernels.residual_norms(z[index], fz[index]),
                kernels.residual_norms(z, fz),
                strict=True,
            ):
                assert torch.equal(got, want[index])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_bad_row_stays_alone(path, bad):
    window, clean = (Window.empty(3, 3, 64, torch.float32) for _ in range(2))
    for k, (z, fz) in enumerate(evaluations(6, 3, 64, torch.float32, 5)):
        clean.step(z, fz)
        fz = fz.clone()
        if k >= 2:
            fz[1, 10] = bad
        window.step(z, fz)
        assert window.rows([0, 2]).same(clean.rows([0, 2]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_threads_do_not_change_a_bit(path, dtype, rows, monkeypatch):
    size = 140_000 // rows  # enough for eight threads to be worth their while
    results = []
    for threads in (1, 2, 5, 8):
        if path == "torch":
            if threads > 2:
                continue
            torch.set_num_threads(threads)
        else:
            monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        window = Window.empty(rows, 2, size, dtype)
        for z, fz in evaluations(3, rows, size, dtype, 6):
            window.step(z, fz)
        noise = torch.empty(rows, size)
        kernels.philox_normal(noise, seed=1, index=0, stage=0, first=0)
        results.append((window, noise, *kernels.residual_norms(z, fz)))
    for window, *rest in results[1:]:
        assert window.same(results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(rest, results[0][1:], strict=True))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_agree_bit_for_bit(dtype):
    windows = []
    for name in PROCESSORS:
        before = native.isa()
        native.select_isa(name)
        window = Window.empty(4, 5, 2500, dtype)
        for z, fz in evaluations(8, 4, 2500, dtype, 7):
            window.step(z, fz, damping=0.9)
        native.select_isa(before)
        windows.append(window)
    assert all(window.same(windows[0]) for window in windows)


def test_denormal_and_huge_states_have_a_result(path):
    for scale in (1e-41, 1e38):
        window = Window.empty(2, 3, 16, torch.float32)
        for z, fz in evaluations(4, 2, 16, torch.float32, 8):
            scale_to = scale / fz.abs().amax()
            window.step(z * scale_to, fz * scale_to, growth=math.inf)
        assert window.out.isfinite().all()


def test_windows_too_long_are_refused(path):
    window = Window.empty(1, 65, 2, torch.float32)
    with pytest.raises(KernelError, match=r"^window_f: .* 1 to 64"):
        window.step(torch.zeros(1, 2), torch.zeros(1, 2))
    longest = Window.empty(1, 64, 2, torch.float32)
    steps = 3 if path == "torch" else 70  # past the end of the window where that is quick
    for z, fz in evaluations(steps, 1, 2, torch.float32, 1):
        longest.step(z, fz, growth=math.inf)
    assert longest.count.tolist() == [steps]
