"""The contract of a solver, over every solver, type and problem."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, Problem

from deqcert.errors import ConfigError, SolverError
from deqcert.solvers import (
    SOLVERS,
    Status,
    StopRule,
    bind,
    get_solver,
    solve,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-11, torch.bfloat16: 2e-2}
EVERY = list(itertools.product(SOLVERS.names(), DTYPES))


class Counting:
    """Counts how often each row is evaluated, and checks that ended rows are not asked again."""

    def __init__(self, cell, context):
        self.cell, self.context = cell, context
        self.rows = torch.arange(len(context))
        self.calls = torch.zeros(len(context), dtype=torch.int64)

    def __call__(self, z):
        assert len(z) == len(self.rows) > 0
        self.calls[self.rows] += 1
        return self.cell(z, self.context[self.rows])

    def select(self, rows):
        child = Counting.__new__(Counting)
        child.cell, child.context, child.calls = self.cell, self.context, self.calls
        child.rows = self.rows[rows]
        return child


def residual_of(cell, context, z, mode="rel"):
    fz = cell(z, context)
    size = torch.linalg.vector_norm((fz - z).double(), dim=1)
    return size / torch.linalg.vector_norm(fz.double(), dim=1) if mode == "rel" else size


SOLVABLE = [
    (name, dtype, problem)
    for name, dtype, problem in itertools.product(SOLVERS.names(), DTYPES, PROBLEMS)
    if problem.contractive or name != "picard"
]


@pytest.mark.parametrize(("name", "dtype", "problem"), SOLVABLE, ids=str)
def test_finds_the_known_answer_and_describes_what_it_returns(name, dtype, problem: Problem):
    cell, z0, context, answer = problem.make(7, dtype)
    counting = Counting(cell, context)
    stop = StopRule(tol=TOLERANCE[dtype], max_nfe=200)
    result = get_solver(name).solve(counting, z0, stop)
    assert (result.status == Status.CONVERGED).all()
    assert result.z.dtype == dtype
    error = torch.linalg.vector_norm(result.z - answer, dim=1)
    assert (error <= 30 * stop.tol * torch.linalg.vector_norm(answer, dim=1)).all()
    # Evaluating again in another batch may round otherwise: a few units in the last place.
    torch.testing.assert_close(
        result.residual,
        residual_of(cell, context, result.z),
        rtol=1e-2,
        atol=4 * torch.finfo(dtype).eps,
    )
    assert torch.equal(result.nfe, counting.calls)


@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_picard_reports_divergence_and_keeps_the_best_state(name, dtype):
    cell, z0, context, _answer = PROBLEMS[3].make(5, dtype)
    result = get_solver(name).solve(
        bind(cell, context), z0, StopRule(tol=max(1e-5, TOLERANCE[dtype]), max_nfe=300)
    )
    if name != "picard":
        assert result.converged.all()
        return
    assert (result.status == Status.DIVERGED).all() | (result.status == Status.STALLED).all()
    start = residual_of(cell, context, z0)
    assert (result.residual <= start).all()
    torch.testing.assert_close(
        result.residual, residual_of(cell, context, result.z), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("name", "dtype"), EVERY)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_a_bad_row_never_touches_its_neighbours(name, dtype, poison):
    cell, z0, context, _ = PROBLEMS[0].make(6, dtype)
    stop = StopRule(tol=TOLERANCE[dtype], max_nfe=100)
    # One thread of arithmetic a row: compare with the same rows solved beside a healthy one.
    healthy = get_solver(name).solve(bind(cell, context), z0, stop)

    def sick(z, c, bad):
        return torch.where(bad, c * poison * (1 + z.abs()), cell(z, c))

    bad = torch.zeros(6, 1, dtype=torch.bool)
    bad[2] = True
    result = get_solver(name).solve(bind(sick, context, bad), z0, stop)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(result.z[others], healthy.z[others], rtol=1e-5, atol=1e-7)
    assert (result.status[others] == Status.CONVERGED).all()
    assert result.status[2] in (Status.NONFINITE, Status.DIVERGED)
    assert torch.isfinite(result.z[2]).all()


@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_overflow_in_one_row_after_some_good_steps_keeps_its_best_state(name, dtype):
    def cell(z, trap):
        return torch.where(trap & (z < 0.9), torch.full_like(z, torch.nan), 0.5 * z + 0.25)

    trap = torch.tensor([[True], [False]])
    z0 = torch.ones(2, 1, dtype=dtype)
    result = get_solver(name).solve(bind(cell, trap), z0, StopRule(tol=1e-6, max_nfe=50))
    assert result.status.tolist() == [Status.NONFINITE, Status.CONVERGED]
    assert result.z[0].item() == 1.0
    assert result.residual[0].item() == pytest.approx(0.25 / 0.75)


@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_a_start_that_is_the_answer_costs_one_evaluation(name, dtype):
    context = torch.arange(4, dtype=dtype).reshape(4, 1) + 1
    result = get_solver(name).solve(
        bind(lambda z, c: 0.5 * z + 0.5 * c, context), context.clone(), StopRule(tol=1e-6)
    )
    assert result.nfe.tolist() == [1, 1, 1, 1]
    assert result.converged.all()
    assert torch.equal(result.z, context)
    assert (result.residual == 0).all()


@pytest.mark.parametrize(("name", "dtype"), EVERY)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("tol", [0.0, 1e-12])
def test_one_evaluation_moves_by_one_step(name, dtype, problem, tol):
    cell, z0, context, _ = problem.make(3, dtype)
    counting = Counting(cell, context)
    result = get_solver(name).solve(counting, z0, StopRule(tol=tol, max_nfe=1))
    assert counting.calls.tolist() == result.nfe.tolist() == [1, 1, 1]
    assert (result.status == Status.MAX_NFE).all()
    torch.testing.assert_close(result.z, cell(z0, context))
    assert torch.isnan(result.residual).all()


@pytest.mark.parametrize(("name", "dtype"), EVERY)
@pytest.mark.parametrize("depth", [2, 3, 8])
def test_a_fixed_depth_is_exact(name, dtype, depth):
    cell, z0, context, _ = PROBLEMS[0].make(4, dtype)
    counting = Counting(cell, context)
    result = get_solver(name).solve(counting, z0, StopRule(tol=0, max_nfe=depth))
    assert counting.calls.tolist() == result.nfe.tolist() == [depth] * 4
    before = residual_of(cell, context, z0)
    assert (residual_of(cell, context, result.z) < before).all()


@pytest.mark.parametrize(("name", "dtype"), EVERY)
def test_two_evaluations_with_a_tolerance_return_a_checked_state(name, dtype):
    cell, z0, context, _ = PROBLEMS[0].make(4, dtype)
    result = get_solver(name).solve(bind(cell, context), z0, StopRule(tol=1e-12, max_nfe=2))
    assert (result.nfe == 2).all()
    assert not torch.equal(result.z, z0)
    torch.testing.assert_close(
        result.residual, residual_of(cell, context, result.z), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("name", SOLVERS.names())
@given(
    rows=st.integers(1, 9),
    seed=st.integers(0, 1000),
    max_nfe=st.integers(2, 25),
    mode=st.sampled_from(["rel", "abs"]),
)
def test_residual_and_status_describe_the_returned_state(name, rows, seed, max_nfe, mode):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(6, 6, generator=generator, dtype=torch.float64) * 0.6
    context = torch.randn(rows, 6, generator=generator, dtype=torch.float64)

    def cell(z, c):
        return torch.tanh(z @ w.T + c)

    z0 = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    stop = StopRule(tol=1e-6, mode=mode, max_nfe=max_nfe)
    result = get_solver(name).solve(bind(cell, context), z0, stop)
    actual = residual_of(cell, context, result.z, mode)
    torch.testing.assert_close(result.residual, actual, rtol=1e-6, atol=1e-12)
    assert torch.equal(result.converged, result.residual <= stop.tol)
    assert (result.nfe <= max_nfe).all()
    unfinished = result.status == Status.MAX_NFE
    assert (result.nfe[unfinished] == max_nfe).all()
    assert (result.residual <= residual_of(cell, context, z0, mode) * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", SOLVERS.names())
def test_rows_do_not_depend_on_their_batch(name):
    cell, z0, context, _ = PROBLEMS[2].make(16, torch.float64)
    stop = StopRule(tol=1e-9, max_nfe=60)
    solver = get_solver(name)
    together = solver.solve(bind(cell, context), z0, stop)
    for i in range(16):
        alone = solver.solve(bind(cell, context[i : i + 1]), z0[i : i + 1], stop)
        assert alone.nfe[0] == together.nfe[i]
        assert alone.status[0] == together.status[i]
        torch.testing.assert_close(alone.z[0], together.z[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_plain_callables_see_every_row_and_ended_rows_stand_still(name):
    cell, z0, context, answer = PROBLEMS[2].make(5, torch.float64)
    seen = []

    def plain(z):
        seen.append(z.clone())
        return cell(z, context)

    result = get_solver(name).solve(plain, z0, StopRule(tol=1e-10, max_nfe=80))
    assert result.converged.all()
    torch.testing.assert_close(result.z, answer, rtol=1e-8, atol=1e-8)
    assert len(set(result.nfe.tolist())) > 1
    for number, states in enumerate(seen):
        ended = result.nfe <= number
        assert torch.equal(states[ended], result.z[ended])


@pytest.mark.parametrize("name", ["anderson", "broyden"])
def test_the_scale_of_the_state_changes_nothing(name):
    cell, z0, context, _ = PROBLEMS[0].make(3, torch.float64)
    stop = StopRule(tol=1e-10, max_nfe=60)
    small = get_solver(name).solve(bind(cell, context * 2.0**-30), z0, stop)
    large = get_solver(name).solve(bind(cell, context * 2.0**30), z0, stop)
    assert torch.equal(small.nfe, large.nfe)
    torch.testing.assert_close(small.z * 2.0**60, large.z, rtol=1e-7, atol=1e-12)


def test_anderson_solves_a_linear_problem_in_dimension_plus_two_evaluations():
    cell, z0, context, _ = PROBLEMS[3].make(4, torch.float64)
    result = get_solver("anderson", window=6, ridge=1e-14).solve(
        bind(cell, context), z0, StopRule(tol=1e-9, max_nfe=30)
    )
    assert result.converged.all()
    assert (result.nfe <= 6).all()


def _inverse_jacobian(state, x, n):
    """H_{n-1} x of Broyden's method, by the product of its n - 1 factors."""
    y = -x
    for j in range(n - 1):
        d, following = state.directions[:, j], state.directions[:, j + 1]
        left = following - (1 - state.lengths[:, j, None]) * d
        y = y + left * ((d * y).sum(1) / (d * d).sum(1))[:, None]
    return y


@pytest.mark.parametrize("window", [2, 3, 8])
@pytest.mark.parametrize("line_search", [False, True])
def test_broyden_keeps_the_secant_equations_also_after_its_window_was_full(window, line_search):
    cell, z0, context, _ = PROBLEMS[1].make(3, torch.float64)
    solver = get_solver("broyden", window=window, line_search=line_search)
    state, out = solver.init(z0), torch.empty_like(z0)
    z, before = z0.clone(), None
    held, checked = 0, 0
    for _ in range(3 * window):
        fz = cell(z, context)
        solver.step(z, fz, state, out)
        g, n = fz - z, int(state.count[0])
        assert (state.count == n).all()
        assert n == (1 if held == window else held + 1)
        if n > 1:
            dz, dg = z - before[0], g - before[1]
            h_dg = _inverse_jacobian(state, dg, n)
            torch.testing.assert_close(h_dg, dz, rtol=1e-6, atol=1e-14)
            direction = -_inverse_jacobian(state, g, n)
            torch.testing.assert_close(out - z, direction, rtol=1e-5, atol=1e-14)
            checked += 1
        else:
            torch.testing.assert_close(out, fz)
        held, before, z = n, (z.clone(), g), out.clone()
        if g.abs().max() < 1e-10:
            break
    assert checked >= 2


def test_the_line_search_counts_every_trial_and_helps_where_full_steps_overshoot():
    def cell(z, c):
        return z - torch.arctan(5 * (z - c))

    context = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1)
    z0 = torch.full((9, 1), 6.0, dtype=torch.float64)
    counting = Counting(cell, context)
    result = get_solver("broyden", line_search=True).solve(
        counting, z0, StopRule(tol=1e-10, mode="abs", max_nfe=100)
    )
    assert result.converged.all()
    assert torch.equal(counting.calls, result.nfe)
    torch.testing.assert_close(result.z, context, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_row_that_cannot_reach_the_tolerance_stalls_rather_than_spend_everything(name):
    cell, z0, context, _ = PROBLEMS[0].make(3, torch.float32)
    result = get_solver(name).solve(bind(cell, context), z0, StopRule(tol=1e-15, max_nfe=5000))
    assert (result.status != Status.MAX_NFE).all()
    assert (result.nfe < 1000).all()


@pytest.mark.parametrize("name", SOLVERS.names())
def test_an_empty_batch_is_an_answer(name):
    result = get_solver(name).solve(lambda z: z, torch.zeros(0, 3))
    assert result.z.shape == (0, 3)
    assert result.nfe.shape == (0,)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_the_start_state_is_left_alone(name):
    cell, z0, context, _ = PROBLEMS[1].make(3, torch.float64)
    kept = z0.clone()
    get_solver(name).solve(bind(cell, context), z0, StopRule(tol=1e-8))
    get_solver(name).solve(bind(cell, context), z0, StopRule(tol=0, max_nfe=4))
    assert torch.equal(z0, kept)


def test_unknown_names_options_and_values_are_refused_in_one_sentence():
    for call in (
        lambda: get_solver("newton"),
        lambda: get_solver("anderson", windows=3),
        lambda: get_solver("anderson", window=0),
        lambda: get_solver("anderson", damping=0.0),
        lambda: get_solver("anderson", ridge=-1.0),
        lambda: get_solver("broyden", window=1.5),
        lambda: get_solver("broyden", line_search="yes"),
        lambda: get_solver("picard", damping=1.5),
        lambda: StopRule(tol=-1),
        lambda: StopRule(tol=float("nan")),
        lambda: StopRule(mode="both"),
        lambda: StopRule(max_nfe=0),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_unusable_cells_and_starts_are_named(name):
    solver = get_solver(name)
    with pytest.raises(SolverError, match="shape"):
        solver.solve(lambda z: z, torch.zeros(3))
    with pytest.raises(SolverError, match="float32, float64 or bfloat16"):
        solver.solve(lambda z: z, torch.zeros(3, 2, dtype=torch.float16))
    with pytest.raises(SolverError, match="same shape"):
        solver.solve(lambda z: z[:, :1], torch.zeros(3, 2))
    with pytest.raises(SolverError, match="same number of rows"):
        bind(lambda z, a, b: z, torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("name", SOLVERS.names())
def test_states_of_any_shape_and_tuples_of_tensors(name):
    a = torch.linspace(0.1, 0.5, 24, dtype=torch.float64).reshape(2, 3, 4)
    stop = StopRule(tol=1e-10, max_nfe=100)
    single = solve(lambda z, c: 0.5 * torch.cos(z) + c, a, a, method=name, stop=stop)
    assert single.z.shape == (2, 3, 4)
    torch.testing.assert_close(0.5 * torch.cos(single.z) + a, single.z, rtol=1e-8, atol=1e-8)

    def pair(z, c):
        first, second = z
        return 0.3 * torch.sin(second.sum(1)) + c[:, 0], 0.2 * first[:, None] + c

    start = (torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 3, 4, dtype=torch.float64))
    both = solve(pair, start, a, method=name, stop=stop)
    for found, again in zip(both.z, pair(both.z, a), strict=True):
        torch.testing.assert_close(found, again, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_arrays_in_arrays_out_with_a_compiled_row_function(name):
    from deqcert.solvers import arrays

    b = np.linspace(0.0, 1.0, 12).reshape(4, 3)
    cell = arrays.rowwise(lambda z, c: 0.5 * np.cos(z) + c)
    result = arrays.solve(cell, np.zeros((4, 3)), b, method=name, stop=StopRule(1e-10, max_nfe=50))
    np.testing.assert_allclose(result.z, 0.5 * np.cos(result.z) + b, atol=1e-8)
    assert isinstance(result.z, np.ndarray)
    assert result.status.tolist() == [0] * 4
    with pytest.raises(SolverError, match="float32 or float64"):
        arrays.solve(cell, np.zeros((4, 3), dtype=int), b)


@pytest.mark.parametrize("name", SOLVERS.names())
@pytest.mark.parametrize("train", [False, True])
def test_inside_torchdeq(name, train):
    from torchdeq import get_deq

    import deqcert.solvers.torchdeq  # noqa: F401

    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(6, 6, dtype=torch.float64) * 0.2)
    x = torch.randn(4, 6, dtype=torch.float64)
    deq = get_deq(
        f_solver=f"deqcert_{name}",
        b_solver=f"deqcert_{name}",
        f_tol=1e-9,
        b_tol=1e-9,
        f_stop_mode="rel",
        ift=True,
    )
    deq.train(train)
    (z, *_), info = deq(lambda z: torch.tanh(z @ w.T + x), torch.zeros_like(x))
    torch.testing.assert_close(z, torch.tanh(z @ w.T + x), rtol=1e-7, atol=1e-7)
    for key in ("abs_lowest", "rel_lowest", "nstep", "nfe", "status"):
        assert info[key].shape == (4,)
    assert info["abs_trace"].shape == info["rel_trace"].shape
    assert (info["rel_lowest"] < 1e-8).all()
    if train:
        z.sum().backward()
        implicit = w.grad.clone()
        w.grad = None
        unrolled = torch.zeros_like(x)
        for _ in range(200):
            unrolled = torch.tanh(unrolled @ w.T + x)
        unrolled.sum().backward()
        torch.testing.assert_close(implicit, w.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SOLVERS.names())
@pytest.mark.parametrize("mode", ["abs", "rel"])
def test_traces_in_torchdeq_stay_where_a_row_ended(name, mode):
    from torchdeq.solver import get_solver as torchdeq_get

    import deqcert.solvers.torchdeq  # noqa: F401

    slopes = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)[:, None].expand(3, 2)
    z0 = torch.full((3, 2), 5.0, dtype=torch.float64)
    wanted = list(range(1, 60))
    z, states, info = torchdeq_get(f"deqcert_{name}")(
        lambda z: slopes * torch.cos(z), z0, max_iter=60, tol=1e-8, stop_mode=mode, indexing=wanted
    )
    nfe = info["nfe"]
    assert len(set(nfe.tolist())) > 1
    trace, lowest = info[f"{mode}_trace"], info[f"{mode}_lowest"]
    assert trace.shape[1] == nfe.max()
    for row, count in enumerate(nfe.tolist()):
        assert (trace[row, count:] == lowest[row]).all()
        assert lowest[row] == trace[row].min() <= 1e-8
        assert info["nstep"][row] <= count
        assert all(torch.equal(state[row], z[row]) for state in states[count - 1 :])


def test_torchdeq_takes_a_state_of_several_tensors():
    from torchdeq import get_deq

    import deqcert.solvers.torchdeq  # noqa: F401

    def cell(a, b):
        return 0.3 * torch.cos(b.mean(1)), 0.2 * torch.sin(a)[:, None] + 0.1 * b + 1

    deq = get_deq(f_solver="deqcert_anderson", f_tol=1e-6)
    found, info = deq(cell, (torch.zeros(2, 4), torch.zeros(2, 3, 4)))
    for one, other in zip(found[-1], cell(*found[-1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert info["nfe"].shape == (2,)


def test_torchdeq_refuses_unknown_options():
    from torchdeq.solver import get_solver as torchdeq_get

    import deqcert.solvers.torchdeq  # noqa: F401

    with pytest.raises(ConfigError, match="no option 'm'"):
        torchdeq_get("deqcert_anderson")(lambda z: z, torch.zeros(2, 3), m=6)
