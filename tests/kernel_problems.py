"""What the tests of all kernels share: the paths, the buffers of a solve, and problems."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from deqcert import kernels
from deqcert.kernels.native import extension as native
from deqcert.kernels.step import ROWS, SIZE, WINDOW
from deqcert.smoothing.grid import grid_law

needs_native = pytest.mark.skipif(native is None, reason="the compiled extension is not installed")
needs_cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and native is not None and native.cuda_architectures),
    reason="needs a visible GPU and an extension built with CUDA",
)
VARIANTS = native.isas() if native is not None else []
PROCESSORS = [name for name in VARIANTS if name != "cuda"]
"""Those of the processor, whose sums have one order; an emulated GPU agrees with it to rounding."""
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
    before = native.isa()
    native.select_isa(name)
    yield name
    native.select_isa(before)


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
        return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


def bits(tensor):
    """Equality of bits, so that NaN equals NaN and 0 does not equal -0."""
    views = {
        torch.float32: torch.int32,
        torch.float64: torch.int64,
        torch.bfloat16: torch.int16,
    }
    return tensor.contiguous().view(views.get(tensor.dtype, tensor.dtype))


def evaluations(count, rows, size, dtype, seed, device="cpu"):
    """States and evaluations whose residuals grow and shrink, so that every branch is taken."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        z = torch.randn(rows, size, generator=generator, dtype=torch.float64)
        scale = torch.exp(2 * torch.randn(rows, 1, generator=generator, dtype=torch.float64))
        g = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
        yield z.to(device, dtype), (z + g).to(device, dtype)


SHAPES = {
    "rows": st.integers(1, 9),
    "size": st.one_of(st.integers(1, 70), st.sampled_from([2047, 2048, 2049, 5000])),
    "m": st.integers(1, 8),
    "dtype": st.sampled_from(DTYPES),
    "seed": st.integers(0, 2**31),
}


def compare(window, other):
    """Native against reference: the same decisions and copies, sums to rounding."""
    assert torch.equal(window.count.cpu(), other.count)
    assert torch.equal(bits(window.f.cpu()), bits(other.f))
    assert torch.equal(bits(window.g.cpu()), bits(other.g))
    tolerance = 1e-13 * other.gram.diagonal(dim1=1, dim2=2).nan_to_num(0).amax().item()
    torch.testing.assert_close(
        window.gram.cpu(), other.gram, rtol=1e-13, atol=tolerance, equal_nan=True
    )
    ulp = torch.finfo(other.out.dtype).eps
    size = other.f.nan_to_num(0).abs().amax().item()
    torch.testing.assert_close(
        window.out.cpu(), other.out, rtol=2 * ulp, atol=max(4 * ulp, 1e-9) * max(size, 1.0)
    )


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

        extents = {ROWS: rows, WINDOW: m, SIZE: size}
        arrays = {}
        for array, (shape, own) in kernels.STEPS[name].keeps.items():
            value = math.nan if own != torch.int32 else 0  # counts say that nothing is held
            arrays[array] = full(*map(extents.get, shape), dtype=own or dtype, value=value)
        watch = None
        if rule is not None:
            start = torch.tensor(kernels.START, dtype=torch.float64, device=device)
            watch = kernels.Watch(start.repeat(rows, 1), full(rows, size, dtype=dtype), **rule)
        return cls(name, options, arrays, watch, full(rows, size, dtype=dtype))

    def step(self, z, fz, *, reference=False, **extra):
        """Step into the buffer of the states before, as a solve does; return it."""
        function = getattr(kernels, self.name + "_step")
        function = function.reference if reference else function
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
        return all(torch.equal(bits(a), bits(b)) for a, b in pairs)


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


def memory_of(method, *shape, **more):
    return Memory.empty(method.split()[0], *shape, **METHODS[method], **more)


def cells(rows, size, dtype, seed, device="cpu"):
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


def same_as_reference(method, rule, dtype, rows, size, m, device="cpu"):
    rules = None if rule is None else RULES[rule]
    native_memory, other = (memory_of(method, rows, m, size, dtype, rule=rules) for _ in range(2))
    if device != "cpu":
        native_memory = memory_of(method, rows, m, size, dtype, device=device, rule=rules)
    cell, z = cells(rows, size, dtype, 3)
    if rule is None:
        native_memory.before.zero_(), other.before.zero_()
    ulp = torch.finfo(dtype).eps
    for _ in range(13):
        fz = cell(z)
        z_there = z.to(device, copy=True)
        got = native_memory.step(z_there, fz.to(device)).cpu()
        want = other.step(z.clone(), fz, reference=True)
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


def normals(n, d, *, seed=0, index=0, stage=0, first=0, device="cpu"):
    out = torch.full((n, d), math.nan, device=device)
    kernels.philox_normal(out, seed=seed, index=index, stage=stage, first=first)
    return out


def grid_table(levels, sigma, device="cpu"):
    law = grid_law(levels, sigma)
    values = np.arange(law.low, law.high + 1, dtype=np.float32) / np.float32(levels)
    return kernels.GridTable.of(
        law.thresholds, lowest=law.lowest, low=law.low, values=values, device=torch.device(device)
    )


def grid_points(n, x, levels, sigma, *, seed=0, index=0, stage=0, first=0):
    out = torch.full((n, len(x)), math.nan, device=x.device)
    table = grid_table(levels, sigma, x.device)
    kernels.philox_grid(out, x, table, seed=seed, index=index, stage=stage, first=first)
    return out


def anderson_arguments():
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
