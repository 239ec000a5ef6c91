"""The loop of a solve: late looks, refilled places, and where their memory lies."""

from __future__ import annotations

import math

import pytest
import torch

from deqcert import kernels
from deqcert.memory import peak_memory
from deqcert.solvers import SOLVERS, Status, StopRule, bind, get_solver
from deqcert.solvers.loop import SolveLoop

DEPTH = 5


def contraction(z, c):
    return torch.tanh(0.6 * z.roll(1, dims=1) + c)


def fixed(name, c):
    """What a solve of these rows alone returns."""
    start = torch.zeros_like(c)
    return get_solver(name).solve(bind(contraction, c), start, StopRule(tol=0.0, max_nfe=DEPTH))


@pytest.mark.parametrize("name", SOLVERS.names())
def test_rows_begun_at_different_times_each_end_at_the_depth(name):
    generator = torch.Generator().manual_seed(3)
    contexts = torch.randn(7, 12, generator=generator)
    place, waiting = torch.arange(3), list(range(3, 7))
    loop = SolveLoop(get_solver(name), torch.zeros(3, 12), StopRule(tol=0.0, max_nfe=DEPTH))
    done = {}
    for number in range(40):
        if number == 2:  # one row begins anew long before any has ended
            place[1] = waiting.pop(0)
            loop.restart(torch.tensor([1]), torch.zeros(1, 12))
        ended, part = loop.advance(bind(contraction, contexts[place]))
        for at, row in enumerate(ended.tolist()):
            done[int(place[row])] = (part.z[at], int(part.nfe[at]), int(part.status[at]))
            if waiting:
                place[row] = waiting.pop(0)
                loop.restart(torch.tensor([row]), torch.zeros(1, 12))
        if not waiting and len(done) >= 6:
            break
    assert set(done) >= {0, 2, 3, 4, 5, 6}
    for index, (z, nfe, status) in done.items():
        alone = fixed(name, contexts[index : index + 1])
        assert torch.equal(z, alone.z[0])
        assert nfe == DEPTH
        assert status == alone.status[0]


@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_row_lost_early_says_when_although_nobody_looked(name):
    context = torch.zeros(2, 4)
    context[1] = math.nan
    result = fixed(name, context)
    assert result.status.tolist() == [Status.MAX_NFE, Status.NONFINITE]
    assert result.nfe.tolist() == [DEPTH, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("quarter", range(4))
def test_states_lie_in_the_quarter_of_a_page_that_was_asked_for(dtype, quarter):
    like = torch.empty(0, dtype=dtype)
    states = kernels.empty_states(like, (3, 2, 5), quarter)
    assert states.shape == (3, 2, 5)
    assert states.is_contiguous()
    assert states.dtype == dtype
    assert states.data_ptr() % 4096 == 1024 * quarter


def test_peak_memory_sees_what_is_gone_again():
    size = 64 << 20
    measured = peak_memory(lambda: torch.ones(size // 4).sum())
    if math.isnan(measured):
        pytest.skip("the system does not tell a process's peak memory")
    assert 0.9 * size < measured < 2 * size
