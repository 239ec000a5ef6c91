"""The kernels: one contract that every path meets, and the bits that all of them share."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deqcert import kernels
from deqcert import kernels_reference as reference
from deqcert.errors import KernelError

native = getattr(kernels, "_native", None)
needs_native = pytest.mark.skipif(native is None, reason="the compiled extension is not installed")
needs_cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and native is not None and native.cuda_built),
    reason="needs a visible GPU and an extension built with CUDA",
)
VARIANTS = native.simd_variants() if native is not None else []
PATHS = ["torch", *VARIANTS]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
PLAIN = {"damping": 1.0, "ridge": 1e-8, "growth": 4.0, "max_weight": 1e4}


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """Every way to compute on the CPU: the reference and each instruction set."""
    yield from _on_path(request.param, monkeypatch)


@pytest.fixture(params=[pytest.param(v, id=v) for v in VARIANTS] or [None])
def variant(request, monkeypatch):
    """Each compiled instruction set that this processor has."""
    if request.param is None:
        pytest.skip("the compiled extension is not installed")
    yield from _on_path(request.param, monkeypatch)


def _on_path(name, monkeypatch):
    if name == "torch":
        monkeypatch.setenv("DEQCERT_KERNELS", "torch")
        yield name
        return
    monkeypatch.setenv("DEQCERT_KERNELS", "native")
    before = native.simd()
    native.simd_select(name)
    yield name
    native.simd_select(before)


@dataclass
class Window:
    """The buffers of an Anderson solve; what was never written holds NaN."""

    f: torch.Tensor
    g: torch.Tensor
    gram: torch.Tensor
    count: torch.Tensor
    out: torch.Tensor

    @classmethod
    def empty(cls, rows, m, size, dtype, device="cpu"):
        nan = {"fill_value": math.nan, "device": device}
        return cls(
            torch.full((rows, m, size), dtype=dtype, **nan),
            torch.full((rows, m, size), dtype=dtype, **nan),
            torch.full((rows, m, m), dtype=torch.float64, **nan),
            torch.zeros(rows, dtype=torch.int32, device=device),
            torch.full((rows, size), dtype=dtype, **nan),
        )

    def step(self, z, fz, function=kernels.anderson_step, **options):
        function(z, fz, self.f, self.g, self.gram, self.count, self.out, **{**PLAIN, **options})
        return self.out

    def rows(self, index):
        return Window(*(getattr(self, f.name)[index].clone() for f in fields(self)))

    def same(self, other):
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(torch.equal(_bits(a), _bits(b)) for a, b in pairs)


def _bits(tensor):
    """Equality of bits, so that NaN equals NaN and 0 does not equal -0."""
    views = {
        torch.float32: torch.int32,
        torch.float64: torch.int64,
        torch.bfloat16: torch.int16,
    }
    return tensor.contiguous().view(views.get(tensor.dtype, tensor.dtype))


def _steps(count, rows, size, dtype, seed, device="cpu"):
    """States and evaluations whose residuals grow and shrink, so that every branch is taken."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        z = torch.randn(rows, size, generator=generator, dtype=torch.float64)
        scale = torch.exp(2 * torch.randn(rows, 1, generator=generator, dtype=torch.float64))
        g = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
        yield z.to(device, dtype), (z + g).to(device, dtype)


shapes = {
    "rows": st.integers(1, 9),
    "size": st.one_of(st.integers(1, 70), st.sampled_from([2047, 2048, 2049, 5000])),
    "m": st.integers(1, 8),
    "dtype": st.sampled_from(DTYPES),
    "seed": st.integers(0, 2**31),
}


# ---- residual_norms ----------------------------------------------------------------------------


@needs_native
@given(**{k: v for k, v in shapes.items() if k != "m"})
def test_norms_of_native_are_those_of_the_reference(rows, size, dtype, seed):
    z, fz = next(_steps(1, rows, size, dtype, seed))
    for got, want in zip(
        kernels.residual_norms(z, fz), reference.residual_norms(z, fz), strict=True
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


# ---- anderson_step -----------------------------------------------------------------------------


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
    for k, (z, fz) in enumerate(_steps(9, 4, 40, torch.float64, 3)):
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
    **shapes,
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
    for z, fz in _steps(2 * m + 3, rows, size, dtype, seed):
        window.step(z, fz, **options)
        other.step(z, fz, reference.anderson_step, **options)
        _compare(window, other)


def _compare(window, other):
    """Native against reference: the same decisions and copies, sums to rounding."""
    assert torch.equal(window.count.cpu(), other.count)
    assert torch.equal(_bits(window.f.cpu()), _bits(other.f))
    assert torch.equal(_bits(window.g.cpu()), _bits(other.g))
    tolerance = 1e-13 * other.gram.diagonal(dim1=1, dim2=2).nan_to_num(0).amax().item()
    torch.testing.assert_close(
        window.gram.cpu(), other.gram, rtol=1e-13, atol=tolerance, equal_nan=True
    )
    ulp = torch.finfo(other.out.dtype).eps
    size = other.f.nan_to_num(0).abs().amax().item()
    torch.testing.assert_close(
        window.out.cpu(), other.out, rtol=2 * ulp, atol=max(4 * ulp, 1e-9) * max(size, 1.0)
    )


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
        for z, fz in _steps(5, 3, 5000, torch.float32, 0):
            other.step(z.clone(), fz.clone())
            window.out = z if which == "z" else fz
            window.step(z, fz)
            assert window.same(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_know_their_batch(path, dtype):
    window = Window.empty(5, 3, 2100, dtype)
    parts = [window.rows(index) for index in ([0], [4, 2], [1, 3, 0])]
    for z, fz in _steps(7, 5, 2100, dtype, 4):
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
    for k, (z, fz) in enumerate(_steps(6, 3, 64, torch.float32, 5)):
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
        for z, fz in _steps(3, rows, size, dtype, 6):
            window.step(z, fz)
        noise = torch.empty(rows, size)
        kernels.philox_normal(noise, seed=1, image=0, stage=0, first=0)
        results.append((window, noise, *kernels.residual_norms(z, fz)))
    for window, *rest in results[1:]:
        assert window.same(results[0][0])
        assert all(torch.equal(a, b) for a, b in zip(rest, results[0][1:], strict=True))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_agree_bit_for_bit(dtype):
    windows = []
    for name in VARIANTS:
        before = native.simd()
        native.simd_select(name)
        window = Window.empty(4, 5, 2500, dtype)
        for z, fz in _steps(8, 4, 2500, dtype, 7):
            window.step(z, fz, damping=0.9)
        native.simd_select(before)
        windows.append(window)
    assert all(window.same(windows[0]) for window in windows)


def test_denormal_and_huge_states_have_a_result(path):
    for scale in (1e-41, 1e38):
        window = Window.empty(2, 3, 16, torch.float32)
        for z, fz in _steps(4, 2, 16, torch.float32, 8):
            scale_to = scale / fz.abs().amax()
            window.step(z * scale_to, fz * scale_to, growth=math.inf)
        assert window.out.isfinite().all()


# ---- steps under watch -------------------------------------------------------------------------


@dataclass
class Memory:
    """The buffers of any method's solve; what was never written holds NaN."""

    name: str
    options: dict
    arrays: dict
    watch: kernels.Watch | None
    before: torch.Tensor

    @classmethod
    def empty(cls, name, rows, m, size, dtype, device="cpu", rule=None, **options):
        def full(*shape, dtype=torch.float64, value=math.nan):
            return torch.full(shape, value, dtype=dtype, device=device)

        count = torch.zeros(rows, dtype=torch.int32, device=device)
        arrays = {}
        if name == "anderson":
            window = Window.empty(rows, m, size, dtype, device)
            arrays = {"window_f": window.f, "window_g": window.g, "gram": window.gram}
            arrays["count"] = count
        elif name == "broyden":
            arrays = {"directions": full(rows, m, size, dtype=dtype)}
            arrays |= {"squares": full(rows, m), "lengths": full(rows, m), "merit": full(rows)}
            arrays["count"] = count
        watch = None
        if rule is not None:
            start = torch.tensor(kernels.START, dtype=torch.float64, device=device)
            watch = kernels.Watch(start.repeat(rows, 1), full(rows, size, dtype=dtype), **rule)
        return cls(name, options, arrays, watch, full(rows, size, dtype=dtype))

    def step(self, z, fz, module=kernels, **extra):
        """Step into the buffer of the states before, as a solve does; return it."""
        function = getattr(module, self.name + "_step")
        function(z, fz, **self.arrays, out=self.before, watch=self.watch, **self.options, **extra)
        self.before, out = z, self.before
        return out

    def tensors(self):
        watched = [] if self.watch is None else [self.watch.progress, self.watch.best]
        return [*self.arrays.values(), *watched]

    def rows(self, index):
        arrays = {name: value[index].clone() for name, value in self.arrays.items()}
        watch = self.watch and replace(
            self.watch,
            progress=self.watch.progress[index].clone(),
            best=self.watch.best[index].clone(),
        )
        return Memory(self.name, self.options, arrays, watch, self.before[index].clone())

    def same(self, other):
        pairs = zip(self.tensors(), other.tensors(), strict=True)
        return all(torch.equal(_bits(a), _bits(b)) for a, b in pairs)


METHODS = {
    "picard": {"damping": 1.0},
    "picard damped": {"damping": 0.7},
    "anderson": {**PLAIN, "ridge": 1e-3},
    "broyden": {"line_search": False},
    "broyden line search": {"line_search": True},
}
RULE = {"tol": 1e-3, "relative": True, "max_nfe": 12, "divergence": 1e6, "patience": 5}
RULES = {
    "tolerance": RULE,
    "absolute": {**RULE, "tol": 0.5, "relative": False},
    "fixed depth": {**RULE, "tol": 0.0},
    "impatient": {**RULE, "patience": 1, "divergence": 2.0},
}


def _memory(method, *shape, **more):
    return Memory.empty(method.split()[0], *shape, **METHODS[method], **more)


def _cells(rows, size, dtype, seed, device="cpu"):
    """A cell whose rows converge fast, slowly, not at all, and not to a number."""
    generator = torch.Generator().manual_seed(seed)
    pull = torch.tensor([0.3, 0.9, -1.4, 0.6, 0.95, -0.5, 2.5, 0.0])[torch.arange(rows) % 8]
    noise = torch.randn(rows, size, generator=generator, dtype=torch.float64).to(device, dtype)
    bend = torch.linspace(0.5, 1.0, size, dtype=torch.float64).to(device, dtype)
    pull = pull.to(device, dtype)[:, None]

    def cell(z, index=slice(None)):
        fz = pull[index] * bend * z + noise[index] + 0.05 * torch.sin(3 * z)
        big = (torch.arange(rows, device=device) % 8 == 7)[index][:, None] & (z.abs() > 1e-3)
        return torch.where(big, torch.full_like(z, math.inf), fz)

    return cell, torch.zeros(rows, size, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "size", "m"), [(1, 1, 1), (9, 37, 3), (2, 2500, 6)])
@needs_native
def test_a_step_under_watch_is_that_of_the_reference(method, rule, dtype, rows, size, m):
    _same_as_reference(method, rule, dtype, rows, size, m)


def _same_as_reference(method, rule, dtype, rows, size, m, device="cpu"):
    rules = None if rule is None else RULES[rule]
    native_memory, other = (_memory(method, rows, m, size, dtype, rule=rules) for _ in range(2))
    if device != "cpu":
        native_memory = _memory(method, rows, m, size, dtype, device=device, rule=rules)
    cell, z = _cells(rows, size, dtype, 3)
    if rule is None:
        native_memory.before.zero_(), other.before.zero_()
    ulp = torch.finfo(dtype).eps
    for _ in range(13):
        fz = cell(z)
        z_there = z.to(device, copy=True)
        got = native_memory.step(z_there, fz.to(device)).cpu()
        want = other.step(z.clone(), fz, reference)
        runs = torch.ones(rows, dtype=torch.bool)
        if rule is not None:
            mine, theirs = native_memory.watch.progress.cpu(), other.watch.progress
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-12)
            assert torch.equal(mine[:, kernels.NFE :], theirs[:, kernels.NFE :])
            runs = theirs[:, kernels.STATUS] < 0
            answered = ~runs
            torch.testing.assert_close(
                native_memory.watch.best.cpu()[answered],
                other.watch.best[answered],
                rtol=1e3 * ulp,
                atol=1e3 * ulp * z.abs().nan_to_num(0, 0, 0).max().clamp(1).item(),
                equal_nan=True,
            )
        for a, b in zip(got[runs], want[runs], strict=True):
            size_of = b.abs().nan_to_num(0, 0, 0).max().clamp(1).item()
            torch.testing.assert_close(
                a, b, rtol=1e3 * ulp, atol=1e3 * ulp * size_of, equal_nan=True
            )
        # The native result is the next state of both, so that differences do not add up.
        z = torch.where(runs[:, None], got, z)
        for name, value in native_memory.arrays.items():
            other.arrays[name].copy_(value)
        other.before = native_memory.before.cpu().clone()
        native_memory.before = native_memory.before.clone()
        if rule is not None:
            other.watch.progress.copy_(native_memory.watch.progress)
            other.watch.best.copy_(native_memory.watch.best)
        if not runs.any():
            break


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", RULES)
def test_what_happens_to_a_row_under_watch_is_its_own_affair(path, method, rule):
    rows, size = 9, 300
    memory = _memory(method, rows, 4, size, torch.float32, rule=RULES[rule])
    index = torch.tensor([7, 2, 8])
    part = memory.rows(index)
    cell, z = _cells(rows, size, torch.float32, 5)
    for _ in range(13):
        fz = cell(z)
        out = memory.step(z, fz)
        alone = part.step(z[index].clone(), fz[index].clone())
        runs = memory.watch.progress[:, kernels.STATUS] < 0
        assert torch.equal(_bits(part.watch.progress), _bits(memory.watch.progress[index]))
        ended = ~runs[index]
        assert torch.equal(_bits(part.watch.best[ended]), _bits(memory.watch.best[index][ended]))
        assert torch.equal(_bits(alone[~ended]), _bits(out[index][~ended]))
        z = torch.where(runs[:, None], out, z)
        part.before = memory.before[index].clone()
    statuses = memory.watch.progress[:, kernels.STATUS]
    assert (statuses >= 0).all()
    assert statuses[7] == 4


@needs_native
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_threads_and_instruction_sets_do_not_change_a_bit_under_watch(
    method, dtype, rows, monkeypatch
):
    size = 140_000 // rows
    results = []
    for name in VARIANTS:
        for threads in (1, 2, 5) if name == VARIANTS[0] else (1,):
            monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
            before = native.simd()
            native.simd_select(name)
            memory = _memory(method, rows, 3, size, dtype, rule=RULES["tolerance"])
            cell, z = _cells(rows, size, dtype, 6)
            memory.before.zero_()
            for _ in range(6):
                z = memory.step(z, cell(z))
            native.simd_select(before)
            results.append(memory)
    assert all(memory.same(results[0]) for memory in results[1:])


@needs_native
@pytest.mark.parametrize("method", METHODS)
def test_large_states_are_written_past_the_cache_with_the_same_result(method):
    rows, size, m = 130, 20_001, 2  # rows that begin anywhere
    memory = _memory(method, rows, m, size, torch.float32, rule=RULES["tolerance"])
    index = torch.tensor([0, 1, 7, 100, 129])
    part = memory.rows(index)
    cell, z = _cells(rows, size, torch.float32, 5)
    for _ in range(3):
        fz = cell(z)
        alone = part.step(z[index].clone(), fz[index].clone())
        z = memory.step(z, fz)
        runs = part.watch.progress[:, kernels.STATUS] < 0
        assert torch.equal(_bits(alone[runs]), _bits(z[index][runs]))
        assert part.same(memory.rows(index))
        part.before = memory.before[index].clone()


def test_an_ended_row_is_left_alone(variant):
    for method in METHODS:
        memory = _memory(method, 2, 3, 10, torch.float32, rule=RULES["tolerance"])
        z = torch.zeros(2, 10)
        memory.step(z, torch.ones(2, 10))
        memory.watch.progress[0, kernels.STATUS] = 2.0
        before = memory.rows([0])
        for _ in range(4):
            out = memory.step(torch.full((2, 10), math.nan), torch.ones(2, 10))
            memory.before = out.clone()
        assert memory.rows([0]).same(before)
        assert memory.watch.progress[1, kernels.STATUS] == 4


def test_broyden_needs_a_pivot(path):
    # The residual does not change along the step: there is no secant equation to satisfy.
    memory = _memory("broyden", 1, 5, 3, torch.float64)
    z, g = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    for _ in range(3):
        out = memory.step(z, z + g)
        assert memory.arrays["count"].item() == 1
        assert torch.equal(out, z + g)
        z = out.clone()


def test_broyden_searches_along_its_direction_and_then_forgets(path):
    memory = _memory("broyden line search", 1, 5, 2, torch.float64)
    z = torch.zeros(1, 2, dtype=torch.float64)
    z = memory.step(z, z + 1.0).clone()
    z = memory.step(z, z + 0.5).clone()  # accepted: g falls from 1 to 0.5
    assert memory.arrays["count"].item() == 2
    base = z - memory.arrays["directions"][:, 1]
    shares = []
    for _ in range(5):
        z = memory.step(z, z + 9.0).clone()
        share = (z - base) / memory.arrays["directions"][:, 1]
        shares.append(share.mean().item())
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.0])
    assert memory.arrays["count"].item() == 0
    torch.testing.assert_close(memory.step(z, z + 3.0), z + 3.0)
    assert memory.arrays["merit"].item() == 18.0


def test_judgement_of_one_row_after_another(path):
    watch_rule = {**RULE, "tol": 0.1, "relative": False, "patience": 3, "divergence": 10.0}
    memory = _memory("picard", 1, 1, 1, torch.float64, rule=watch_rule)
    residuals = [1.0, 0.5, 0.7, 0.6, 0.9]
    for k, g in enumerate(residuals):
        z = torch.full((1, 1), float(k), dtype=torch.float64)
        memory.step(z, z + g)
    progress = memory.watch.progress[0]
    assert progress[kernels.STATUS] == 2  # stalled: three evaluations without a lower residual
    assert progress[kernels.RESIDUAL] == 0.5
    assert progress[kernels.NFE] == 5
    assert memory.watch.best.item() == 1.0


# ---- philox_normal -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, want):
    """Vectors of Random123 (Salmon, Moraes, Dror, Shaw 2011)."""
    words = tuple(torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    got = reference.philox4x32(words, (k0, k1))
    assert [f"{int(word):08x}" for word in got] == want.split()


def _normal(n, d, *, seed=0, image=0, stage=0, first=0, device="cpu"):
    out = torch.full((n, d), math.nan, device=device)
    kernels.philox_normal(out, seed=seed, image=image, stage=stage, first=first)
    return out


def test_normals_follow_from_philox_by_box_and_muller(path):
    seed, image, stage, first = 0x0123456789ABCDEF, 5, 2**32 - 1, 2**32 - 3
    got = _normal(3, 4000, seed=seed, image=image, stage=stage, first=first).double().numpy()
    block = torch.arange(1000).expand(3, 1000)
    sample = torch.arange(first, first + 3)[:, None].expand(3, 1000)
    counter = (block, sample, torch.full_like(block, image), torch.full_like(block, stage))
    u = [w.numpy() for w in reference.philox4x32(counter, (0x89ABCDEF, 0x01234567))]
    for k in (0, 2):
        radius = np.sqrt(-2 * np.log((u[k] + 1) / 2**32))
        angle = 2 * np.pi * (u[k + 1] + 0.5) / 2**32
        np.testing.assert_allclose(got[:, k::4], radius * np.cos(angle), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got[:, k + 1 :: 4], radius * np.sin(angle), rtol=1e-7, atol=1e-9)


def test_transform_is_accurate_at_the_ends():
    ends = [0, 1, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 2, 2**32 - 1]
    u0, u1 = torch.cartesian_prod(torch.tensor(ends), torch.tensor(ends)).unbind(1)
    radius = np.sqrt(-2 * np.log((u0.numpy() + 1) / 2**32))
    angle = 2 * np.pi * (u1.numpy() + 0.5) / 2**32
    first, second = reference._normal_pair(u0, u1)
    np.testing.assert_allclose(first, radius * np.cos(angle), rtol=2e-7, atol=1e-14)
    np.testing.assert_allclose(second, radius * np.sin(angle), rtol=2e-7, atol=1e-14)
    assert max(first.abs().max(), second.abs().max()) < 6.67


@given(
    n=st.integers(1, 5),
    d=st.integers(1, 600),
    seed=st.integers(0, 2**64 - 1),
    image=st.integers(0, 2**32 - 1),
    stage=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**32 - 5),
)
@needs_native
def test_native_normals_have_the_bits_of_the_reference(n, d, seed, image, stage, first):
    place = {"seed": seed, "image": image, "stage": stage, "first": first}
    want = torch.empty(n, d)
    reference.philox_normal(want, **place)
    for name in VARIANTS:
        before = native.simd()
        native.simd_select(name)
        got = _normal(n, d, **place)
        native.simd_select(before)
        assert torch.equal(_bits(got), _bits(want))


def test_many_native_normals_have_the_bits_of_the_reference(variant):
    want = torch.empty(300, 3072)
    reference.philox_normal(want, seed=9, image=1, stage=2, first=3)
    assert torch.equal(_bits(_normal(300, 3072, seed=9, image=1, stage=2, first=3)), _bits(want))


def test_normals_depend_on_their_place_alone(path):
    whole = _normal(9, 515, seed=3, image=2, stage=1, first=10)
    assert torch.equal(_normal(4, 515, seed=3, image=2, stage=1, first=12), whole[2:6])
    for d in (1, 2, 3, 4, 255, 256, 257):
        assert torch.equal(_normal(9, d, seed=3, image=2, stage=1, first=10), whole[:, :d])


def test_normals_are_standard_normal(path):
    x = _normal(400, 1000, seed=11).double().numpy().ravel()
    assert stats.kstest(x, "norm").pvalue > 0.01
    n = x.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(variance / n)
    for part in range(4):  # each of a block's four outputs by itself
        assert stats.kstest(x[part::4], "norm").pvalue > 0.01


def test_normals_of_different_places_are_independent(path):
    base = {"seed": 1, "image": 1, "stage": 1, "first": 0}
    x = _normal(40, 2500, **base).double()
    n = x.numel()
    others = [
        _normal(40, 2500, **{**base, key: value})
        for key, value in (
            *((("seed"), s) for s in (0, 2, 1 + 2**32)),
            *(("image", i) for i in (0, 2)),
            *(("stage", s) for s in (0, 2)),
            ("first", 40),
        )
    ]
    others += [x.roll(1, dims=1), x.roll(1, dims=0), x.roll(4, dims=1)]
    for y in others:
        y = y.double()
        assert not torch.equal(x, y)
        assert abs((x * y).sum().item()) < 4.5 * math.sqrt(n)
        assert abs(((x**2 - 1) * (y**2 - 1)).sum().item()) < 4.5 * 2 * math.sqrt(n)


# ---- bad arguments -----------------------------------------------------------------------------


def _good():
    window = Window.empty(2, 3, 8, torch.float32)
    return {
        "z": torch.zeros(2, 8),
        "fz": torch.ones(2, 8),
        "window_f": window.f,
        "window_g": window.g,
        "gram": window.gram,
        "count": window.count,
        "out": window.out,
        **PLAIN,
    }


@pytest.mark.parametrize("name", ["z", "fz", "window_f", "window_g", "gram", "count", "out"])
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda t: t.half() if t.is_floating_point() else t.long(), id="dtype"),
        pytest.param(lambda t: torch.cat([t, t]), id="rows"),
        pytest.param(lambda t: t[..., :-1].contiguous() if t.dim() > 1 else t[:-1], id="size"),
        pytest.param(lambda t: t[None], id="dimensions"),
        pytest.param(lambda t: torch.stack([t, t], -1)[..., 0], id="layout"),
        pytest.param(lambda t: t.to("meta"), id="device"),
        pytest.param(lambda t: t.numpy(), id="type"),
    ],
)
def test_a_bad_tensor_is_named(path, name, spoil):
    arguments = _good()
    arguments[name] = spoil(arguments[name])
    with pytest.raises(KernelError) as error:
        kernels.anderson_step(**arguments)
    named = str(error.value).partition(":")[0]
    # A wrong first argument that is well-formed in itself shows as a mismatch of the next.
    assert named == name or (name == "z" and named == "fz")
    if name in ("z", "fz"):
        with pytest.raises(KernelError, match=r"^f?z: "):
            kernels.residual_norms(arguments["z"], arguments["fz"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("damping", "ridge") for value in (-1.0, math.nan, math.inf)),
        ("damping", 0.0),
        *((name, value) for name in ("growth", "max_weight") for value in (0.5, -1.0, math.nan)),
    ],
)
def test_a_number_out_of_range_is_named(path, name, value):
    with pytest.raises(KernelError, match=f"^{name}: "):
        kernels.anderson_step(**{**_good(), name: value})


def test_outputs_that_need_a_gradient_are_refused(path):
    arguments = _good()
    arguments["out"].requires_grad_()
    with pytest.raises(KernelError, match=r"^out: .*gradient"):
        kernels.anderson_step(**arguments)


def test_inputs_that_need_a_gradient_are_used_without_it(path):
    arguments = _good()
    arguments["z"].requires_grad_()
    kernels.anderson_step(**arguments)
    residual, _ = kernels.residual_norms(arguments["z"], arguments["fz"])
    assert not residual.requires_grad
    assert residual.tolist() == [8.0, 8.0]


SPOILED = {
    "half": lambda t: t.half() if t.is_floating_point() else t.long(),
    "another float": lambda t: t.float() if t.dtype == torch.float64 else t.double(),
    "rows": lambda t: torch.cat([t, t]),
    "no rows": lambda t: t[:0],
    "size": lambda t: t[..., :-1].contiguous() if t.dim() > 1 else t[:-1],
    "dimensions": lambda t: t[None],
    "layout": lambda t: torch.stack([t, t], -1)[..., 0],
    "device": lambda t: t.to("meta"),
    "array": lambda t: t.double().numpy(),
    "nothing": lambda t: None,
    "gradient": lambda t: t.clone().requires_grad_() if t.is_floating_point() else t.bool(),
}


@needs_native
@given(
    method=st.sampled_from(list(METHODS)),
    rows=st.integers(1, 4),
    size=st.sampled_from([1, 2, 17, 2049]),
    m=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    spoil=st.sampled_from(list(SPOILED)),
    native_path=st.booleans(),
    data=st.data(),
)
def test_any_spoiled_argument_of_a_step_is_named_or_harmless(
    method, rows, size, m, dtype, spoil, native_path, data
):
    memory = _memory(method, rows, m, size, dtype, rule=RULE)
    arguments = {"z": torch.zeros(rows, size, dtype=dtype), "fz": torch.ones(rows, size).to(dtype)}
    arguments |= memory.arrays | {"out": memory.before}
    arguments["workspace"] = kernels.workspace(memory.name, arguments["z"], m)
    names = [*arguments, "progress", "best"]
    name = data.draw(st.sampled_from(names))
    watch = memory.watch
    if name in ("progress", "best"):
        watch = replace(watch, **{name: SPOILED[spoil](getattr(watch, name))})
    else:
        arguments[name] = SPOILED[spoil](arguments[name])
    function = getattr(kernels, memory.name + "_step")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEQCERT_KERNELS", "native" if native_path else "torch")
        named = None
        try:
            function(**arguments, watch=watch, **memory.options)
        except KernelError as error:
            named = str(error).partition(":")[0]
    if named is not None:
        assert named == name or (name == "z" and named in names)
        return
    # What is let through is a gradient that is ignored, a layout that is packed all the same,
    # nothing where nothing is needed, and a workspace that the reference does not look at.
    assert (
        (spoil == "gradient" and name in ("z", "fz"))
        or (spoil in ("layout", "size") and 1 in (rows, size, m))
        or (name == "workspace" and (spoil == "nothing" or not native_path))
    ), (name, spoil)


@given(
    method=st.sampled_from(list(METHODS)),
    values=st.lists(
        st.sampled_from(
            [0.0, -0.0, 1.0, -1e-45, 1e-40, 3e38, -3e38, math.inf, -math.inf, math.nan]
        ),
        min_size=6,
        max_size=6,
    ),
    steps=st.integers(1, 9),
)
def test_any_values_give_a_status_and_touch_no_other_row(method, values, steps):
    memory, clean = (_memory(method, 3, 2, 6, torch.float32, rule=RULES["absolute"]) for _ in "ab")
    cell, z = _cells(3, 6, torch.float32, 1)
    z_clean = z.clone()
    for _ in range(steps):
        fz, fz_clean = cell(z), cell(z_clean)
        fz[1] = torch.tensor(values)
        z, z_clean = memory.step(z, fz), clean.step(z_clean, fz_clean)
        assert memory.rows([0, 2]).same(clean.rows([0, 2]))
    progress = memory.watch.progress[1]
    assert progress[kernels.STATUS] in (-1, 0, 1, 2, 3, 4)
    if not all(map(math.isfinite, values)):
        assert progress[kernels.STATUS] == 4
        assert memory.watch.best[1].isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", v) for v in (-1, 2**64)),
        *(("image", v) for v in (-1, 2**32)),
        *(("stage", v) for v in (-1, 2**32)),
        *(("first", v) for v in (-1, 2**32 - 1)),
        *(("out", v) for v in (torch.empty(4), torch.empty(2, 4).double(), torch.empty(4, 2).T)),
        ("out", torch.empty(2, 0)),
    ],
)
def test_bad_noise_arguments_are_named(path, name, value):
    good = {"out": torch.empty(2, 4), "seed": 0, "image": 0, "stage": 0, "first": 0}
    with pytest.raises(KernelError, match=f"^{name}: "):
        kernels.philox_normal(**{**good, name: value})


def test_windows_too_long_are_refused(path):
    window = Window.empty(1, 65, 2, torch.float32)
    with pytest.raises(KernelError, match=r"^window_f: .* 1 to 64"):
        window.step(torch.zeros(1, 2), torch.zeros(1, 2))
    longest = Window.empty(1, 64, 2, torch.float32)
    steps = 3 if path == "torch" else 70  # past the end of the window where that is quick
    for z, fz in _steps(steps, 1, 2, torch.float32, 1):
        longest.step(z, fz, growth=math.inf)
    assert longest.count.tolist() == [steps]


def test_an_empty_batch_is_no_work(path):
    window = Window.empty(0, 3, 8, torch.float32)
    window.step(torch.zeros(0, 8), torch.zeros(0, 8))
    residual, norm = kernels.residual_norms(torch.zeros(0, 8), torch.zeros(0, 8))
    assert residual.shape == norm.shape == (0,)
    assert _normal(0, 4).shape == (0, 4)


@needs_native
class TestTheExtensionItself:
    """It guards the memory that it is given, whoever calls it."""

    def test_a_senseless_count_stays_inside_the_window(self):
        arguments = _good()
        arguments["count"][:] = torch.tensor([-1, 2**31 - 1], dtype=torch.int32)
        before = [arguments[name].clone() for name in ("window_f", "window_g")]
        kernels.anderson_step(**arguments)
        assert arguments["count"].tolist() == [0, -(2**31)]
        for now, then in zip((arguments["window_f"], arguments["window_g"]), before, strict=True):
            assert (_bits(now) != _bits(then)).any(dim=2).sum().item() == 2

    def test_read_only_arrays_can_be_read_but_not_written(self):
        z, residual, norm = np.ones((2, 3)), np.empty(2), np.empty(2)
        z.setflags(write=False)
        native.residual_norms(z, z, residual, norm, threads=1, stream=0)
        assert norm.tolist() == [3.0, 3.0]
        residual.setflags(write=False)
        with pytest.raises(ValueError, match=r"^residual: .*read-only"):
            native.residual_norms(z, z, residual, norm, threads=1, stream=0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("z", np.ones(3)),
            ("z", np.ones((2, 3), dtype=np.int32)),
            ("z", "text"),
            ("fz", np.ones((2, 3), dtype=np.float32)),
            ("fz", np.ones((3, 2)).T),
            ("fz", np.ones((2, 4))),
            ("norm", np.ones(3)),
            ("norm", np.ones((2, 1))),
            ("norm", 42),
            ("threads", 0),
        ],
    )
    def test_faults_are_named(self, name, value):
        good = {
            "z": np.ones((2, 3)),
            "fz": np.ones((2, 3)),
            "residual": np.ones(2),
            "norm": np.ones(2),
            "threads": 1,
            "stream": 0,
        }
        with pytest.raises(ValueError, match=f"^{name}: "):
            native.residual_norms(**{**good, name: value})

    def test_a_short_workspace_is_refused(self):
        arrays = [v.numpy() for v in _good().values() if isinstance(v, torch.Tensor)]
        rule = (0.0, False, 1.0, 1.0, 1.0)
        for short in (np.empty((2, 1)), np.empty((1, 10_000)), np.empty(10_000)):
            with pytest.raises(ValueError, match=r"^workspace: "):
                native.anderson_step(
                    *arrays, short, None, None, **PLAIN, rule=rule, threads=1, stream=0
                )

    def test_unknown_instruction_set_is_refused(self):
        with pytest.raises(ValueError, match="simd_variants"):
            native.simd_select("mmx")


# ---- which path --------------------------------------------------------------------------------


def test_status_tells_the_path(path):
    status = kernels.status()
    assert status.path == ("torch" if path == "torch" else "native")
    assert status.reason
    assert status.threads == torch.get_num_threads()


def test_unknown_path_is_refused(monkeypatch):
    monkeypatch.setenv("DEQCERT_KERNELS", "fortran")
    with pytest.raises(KernelError, match="use 'torch', 'native' or unset"):
        kernels.status()


def test_package_works_without_the_extension():
    program = """
import sys
sys.modules["deqcert._native"] = None
import torch
from deqcert import kernels
status = kernels.status()
assert status.path == "torch" and "cannot be imported" in status.reason, status
assert not status.cuda_built
kernels.philox_normal(torch.empty(2, 3), seed=0, image=0, stage=0, first=0)
import os
os.environ["DEQCERT_KERNELS"] = "native"
try:
    kernels.status()
except kernels.KernelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rebuild it" in done.stdout


# ---- CUDA --------------------------------------------------------------------------------------


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
        for z, fz in _steps(2 * m + 3, rows, size, dtype, 1):
            window.step(z.cuda(), fz.cuda(), **options)
            other.step(z, fz, reference.anderson_step, **options)
            _compare(window, other)
            for got, want in zip(
                kernels.residual_norms(z.cuda(), fz.cuda()),
                reference.residual_norms(z, fz),
                strict=True,
            ):
                torch.testing.assert_close(got.cpu(), want, rtol=1e-13, atol=0)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("rule", [None, *RULES])
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(("rows", "size", "m"), [(1, 1, 1), (9, 37, 3), (3, 9000, 6)])
    def test_a_step_under_watch_is_that_of_the_reference(self, method, rule, dtype, rows, size, m):
        _same_as_reference(method, rule, dtype, rows, size, m, "cuda")

    def test_normals_have_the_bits_of_the_reference(self):
        want = torch.empty(50, 3075)
        reference.philox_normal(want, seed=2**63 + 1, image=1, stage=2, first=3)
        got = _normal(50, 3075, seed=2**63 + 1, image=1, stage=2, first=3, device="cuda")
        assert torch.equal(_bits(got.cpu()), _bits(want))

    def test_rows_do_not_know_their_batch(self):
        window = Window.empty(5, 3, 9000, torch.float32, "cuda")
        part = window.rows([4, 2])
        for z, fz in _steps(7, 5, 9000, torch.float32, 4, "cuda"):
            window.step(z, fz)
            part.step(z[[4, 2]], fz[[4, 2]])
            assert part.same(window.rows([4, 2]))

    def test_a_step_can_be_captured_in_a_graph(self):
        z, fz = next(_steps(1, 4, 5000, torch.float32, 2, "cuda"))
        eager, captured = (Window.empty(4, 3, 5000, torch.float32, "cuda") for _ in range(2))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured.step(z, fz)
        for _ in range(3):
            eager.step(z, fz)
            graph.replay()
        torch.cuda.synchronize()
        assert captured.same(eager)
