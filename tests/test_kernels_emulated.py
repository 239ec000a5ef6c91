"""The CUDA kernels on the emulated GPU of ``make sanitize``: rows that several blocks share, the
small system that a warp solves, and what the device says about itself.
"""

from __future__ import annotations

import math

import pytest
import torch
from kernel_problems import (
    DTYPES,
    METHODS,
    RULES,
    VARIANTS,
    Window,
    bits,
    cells,
    compare,
    evaluations,
    memory_of,
    native,
    same_as_reference,
)

from deqcert import kernels
from deqcert.kernels.native import status, uses_native

pytestmark = pytest.mark.skipif("cuda" not in VARIANTS, reason="needs the build of make sanitize")

LONG = 29_000
"""Elements of a row that eight blocks share, the last with less; see csrc/cuda/spread.h."""


@pytest.fixture(autouse=True)
def emulated():
    """The emulated GPU instead of the processor."""
    before = native.isa()
    native.select_isa("cuda")
    yield
    native.select_isa(before)


def multiprocessors(monkeypatch, count):
    monkeypatch.setenv("DEQCERT_EMULATED_MULTIPROCESSORS", str(count))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_the_reference(method, rule, dtype):
    same_as_reference(method, rule, dtype, 9, 37, 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("rule", "dtype"),
    [(None, torch.float32), ("tolerance", torch.bfloat16), ("fixed depth", torch.float64)],
)
def test_a_step_of_few_long_rows_is_that_of_the_reference(method, rule, dtype):
    same_as_reference(method, rule, dtype, 2, LONG, 4)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_that_share_a_row_change_no_bit(method, monkeypatch):
    # Rows that converge, that do not and that are no numbers: whoever shares them, and with whom.
    rows, few = 8, torch.tensor([0, 2, 7])
    memories = {}
    for count in (1, 8, 132):  # no room to spread 8 rows, for 8 blocks each, for more than needed
        multiprocessors(monkeypatch, count)
        memory = memory_of(method, rows, 3, LONG, torch.float32, rule=RULES["tolerance"])
        part = memory.rows(few)
        memory.before.zero_(), part.before.zero_()
        cell, z = cells(rows, LONG, torch.float32, 6)
        for _ in range(3):
            fz = cell(z)
            if count == 8:
                part.step(z[few].clone(), fz[few].clone())
                part.before = part.before.clone()
            z = memory.step(z, fz).clone()
        memories[count] = memory
        if count == 8:
            assert part.same(memory.rows(few))
    assert memories[1].same(memories[8])
    assert memories[1].same(memories[132])
    assert memories[1].watch.progress[7, kernels.STATUS] == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_norms_of_few_long_rows(dtype, monkeypatch):
    z, fz = next(evaluations(1, 3, LONG + 1, dtype, 3))
    fz[1, LONG] = math.nan
    want = kernels.residual_norms.reference(z, fz)
    found = []
    for count in (1, 4, 132):
        multiprocessors(monkeypatch, count)
        found.append(kernels.residual_norms(z, fz))
        for got, value in zip(found[-1], want, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-13, atol=0, equal_nan=True)
    for other in found[1:]:
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("m", [1, 2, 8, 40])
@pytest.mark.parametrize("growth", [1.5, math.inf])
def test_the_small_system_of_an_anderson_window_is_solved_as_by_the_reference(m, growth):
    # As many dimensions as make all columns count, and so few that some depend on others.
    for size in (2 * m, max(1, m // 2)):
        options = {"ridge": 1e-3, "growth": growth, "max_weight": 30.0}
        window, other = (Window.empty(2, m, size, torch.float64) for _ in range(2))
        for k, (z, fz) in enumerate(evaluations(m + 3, 2, size, torch.float64, 5)):
            compared = k < 2 or k in (m - 1, m, m + 2)
            for name in ("f", "g", "gram", "count"):  # rounding does not add up
                getattr(other, name).copy_(getattr(window, name))
            window.step(z, fz, **options)
            if compared:
                other.step(z, fz, kernels.anderson_step.reference, **options)
                compare(window, other)


def test_a_device_that_the_kernels_have_no_code_for_is_a_sentence(monkeypatch):
    assert native.cuda_fault(0) == ""
    monkeypatch.setenv("DEQCERT_EMULATED_CAPABILITY", "70")
    assert "no kernel image" in native.cuda_fault(0)
    with pytest.raises(RuntimeError, match="residual_norms: no kernel image"):
        kernels.residual_norms(torch.zeros(2, 3), torch.ones(2, 3))
    monkeypatch.setenv("DEQCERT_EMULATED_CAPABILITY", "75")
    assert native.cuda_fault(0) == ""
    kernels.residual_norms(torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("capability", "words"), [(70, "it has compute capability 7.0"), (75, ""), (90, "")]
)
def test_a_gpu_below_the_kernels_takes_the_references(capability, words, monkeypatch):
    # What torch says of the GPU and what the binary was built for decide, then the device itself.
    monkeypatch.delenv("DEQCERT_KERNELS")
    monkeypatch.setenv("DEQCERT_EMULATED_CAPABILITY", str(capability))
    monkeypatch.setattr(native, "cuda_architectures", [75, 80, 90])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(capability, 10))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    kernels.native._cuda_reason.cache_clear()
    try:
        assert uses_native(torch.device("cuda", 0)) == (not words)
        assert words in status().cuda_reason
        assert bool(status().cuda_reason) == bool(words)
    finally:
        kernels.native._cuda_reason.cache_clear()
