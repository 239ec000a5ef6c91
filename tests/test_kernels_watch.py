"""Every solver's step under a watch: one contract on every path."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_problems import (
    DTYPES,
    METHODS,
    PROCESSORS,
    RULE,
    RULES,
    bits,
    cells,
    memory_of,
    native,
    needs_native,
    same_as_reference,
)

from deqcert import kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [None, *RULES])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rows", "size", "m"), [(1, 1, 1), (9, 37, 3), (2, 2500, 6)])
@needs_native
def test_a_step_under_watch_is_that_of_the_reference(method, rule, dtype, rows, size, m):
    same_as_reference(method, rule, dtype, rows, size, m)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", RULES)
def test_what_happens_to_a_row_under_watch_is_its_own_affair(path, method, rule):
    rows, size = 9, 300
    memory = memory_of(method, rows, 4, size, torch.float32, rule=RULES[rule])
    index = torch.tensor([7, 2, 8])
    part = memory.rows(index)
    cell, z = cells(rows, size, torch.float32, 5)
    for _ in range(13):
        fz = cell(z)
        out = memory.step(z, fz)
        alone = part.step(z[index].clone(), fz[index].clone())
        runs = memory.watch.progress[:, kernels.STATUS] < 0
        assert torch.equal(bits(part.watch.progress), bits(memory.watch.progress[index]))
        ended = ~runs[index]
        assert torch.equal(bits(part.watch.best[ended]), bits(memory.watch.best[index][ended]))
        assert torch.equal(bits(alone[~ended]), bits(out[index][~ended]))
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
    for name in PROCESSORS:
        for threads in (1, 2, 5) if name == PROCESSORS[0] else (1,):
            monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
            before = native.isa()
            native.select_isa(name)
            memory = memory_of(method, rows, 3, size, dtype, rule=RULES["tolerance"])
            cell, z = cells(rows, size, dtype, 6)
            memory.before.zero_()
            for _ in range(6):
                z = memory.step(z, cell(z))
            native.select_isa(before)
            results.append(memory)
    assert all(memory.same(results[0]) for memory in results[1:])


@needs_native
@pytest.mark.parametrize("method", METHODS)
def test_large_states_are_written_past_the_cache_with_the_same_result(method):
    rows, size, m = 130, 20_001, 2  # rows that begin anywhere
    memory = memory_of(method, rows, m, size, torch.float32, rule=RULES["tolerance"])
    index = torch.tensor([0, 1, 7, 100, 129])
    part = memory.rows(index)
    cell, z = cells(rows, size, torch.float32, 5)
    for _ in range(3):
        fz = cell(z)
        alone = part.step(z[index].clone(), fz[index].clone())
        z = memory.step(z, fz)
        runs = part.watch.progress[:, kernels.STATUS] < 0
        assert torch.equal(bits(alone[runs]), bits(z[index][runs]))
        assert part.same(memory.rows(index))
        part.before = memory.before[index].clone()


def test_an_ended_row_is_left_alone(variant):
    for method in METHODS:
        memory = memory_of(method, 2, 3, 10, torch.float32, rule=RULES["tolerance"])
        z = torch.zeros(2, 10)
        memory.step(z, torch.ones(2, 10))
        memory.watch.progress[0, kernels.STATUS] = 2.0
        before = memory.rows([0])
        for _ in range(4):
            out = memory.step(torch.full((2, 10), math.nan), torch.ones(2, 10))
            memory.before = out.clone()
        assert memory.rows([0]).same(before)
        assert memory.watch.progress[1, kernels.STATUS] == 4


def test_judgement_of_one_row_after_another(path):
    watch_rule = {**RULE, "tol": 0.1, "relative": False, "patience": 3, "divergence": 10.0}
    memory = memory_of("picard", 1, 1, 1, torch.float64, rule=watch_rule)
    residuals = [1.0, 0.5, 0.7, 0.6, 0.9]
    for k, g in enumerate(residuals):
        z = torch.full((1, 1), float(k), dtype=torch.float64)
        memory.step(z, z + g)
    progress = memory.watch.progress[0]
    assert progress[kernels.STATUS] == 2  # stalled: three evaluations without a lower residual
    assert progress[kernels.RESIDUAL] == 0.5
    assert progress[kernels.NFE] == 5
    assert memory.watch.best.item() == 1.0


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
    memory, clean = (
        memory_of(method, 3, 2, 6, torch.float32, rule=RULES["absolute"]) for _ in "ab"
    )
    cell, z = cells(3, 6, torch.float32, 1)
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
