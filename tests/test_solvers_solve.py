"""The front door of the solvers, solve(): structures, types, gradients, torch.func, streams."""

from __future__ import annotations

import itertools
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad, jacrev, jvp, vmap

from deqcert.errors import ConfigError, DeqcertError, SolverError
from deqcert.solvers import (
    SOLVERS,
    Anderson,
    Status,
    StopRule,
    Warm,
    arrays,
    get_solver,
    solve,
)
from deqcert.solvers.gradients import GRADIENTS, Implicit, Phantom, Unroll

Pair = namedtuple("Pair", "left right")
TIGHT = StopRule(tol=1e-12, max_nfe=200)
# The same evaluations for all: enough that plain ones converge as well.
EXACT = {
    "implicit": "implicit",
    "phantom": Phantom(steps=60, damping=1.0),
    "unroll": Unroll(steps=60),
}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def weights() -> torch.Tensor:
    weight = numbers(4, 4, seed=3)
    return 0.5 * weight / torch.linalg.matrix_norm(weight, 2)


def cell(z: torch.Tensor, x: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
    return torch.tanh(z @ (weights() if w is None else w).T + x)


def iterate(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    z = torch.zeros_like(x)
    for _ in range(150):
        z = cell(z, x, w)
    return z


def solved(w: torch.Tensor, x: torch.Tensor, **options) -> torch.Tensor:
    """The equilibrium of x by solve(), which closes over w."""
    options = {"stop": TIGHT, **options}
    return solve(lambda z, x: cell(z, x, w), torch.zeros_like(x), x, **options).z


# Structures: each maps numbers to a state, and back to all its elements.
STRUCTURES = {
    "tensor": lambda a, b: a,
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [b, a],
    "dict": lambda a, b: {"b": b, "a": a},
    "named tuple": Pair,
    "nested": lambda a, b: {"x": (a, [b]), "y": Pair(b, a)},
}
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_solves_every_structure_in_every_type(name, dtype, structure):
    make = STRUCTURES[structure]
    real = numbers(3, 2, seed=1), numbers(3, 2, 2, seed=2)
    a, b = ((t + 1j * t.flip(0)) if dtype.is_complex else t for t in real)
    x = make(a.to(dtype), b.to(dtype))
    start = torch.utils._pytree.tree_map(torch.zeros_like, x)

    def f(z, x):
        return torch.utils._pytree.tree_map(lambda z, x: 0.4 * torch.sin(z) + 0.1 * x, z, x)

    tol = TOLERANCE.get(dtype, 1e-6)
    found = solve(f, start, x, method=name, stop=StopRule(tol=tol, max_nfe=60))
    assert found.converged.all()
    again = f(found.z, x)
    assert type(found.z) is type(x)
    flat, spec = torch.utils._pytree.tree_flatten(found.z)
    assert spec == torch.utils._pytree.tree_flatten(x)[1]
    for one, other in zip(flat, torch.utils._pytree.tree_leaves(again), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=4 * tol, atol=4 * tol)


@given(lead=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(0, 99))
def test_leading_dimensions_are_rows_and_come_back(lead, seed):
    x = numbers(*lead, 4, seed=seed)
    found = solve(cell, torch.zeros_like(x), x, stop=TIGHT, batch_dims=len(lead))
    assert found.z.shape == x.shape
    assert found.nfe.shape == found.status.shape == found.residual.shape == torch.Size(lead)
    torch.testing.assert_close(found.z, iterate(weights(), x), rtol=1e-9, atol=1e-9)


def test_states_of_mixed_types_keep_each_its_own():
    x = {"half": numbers(3, 2).half(), "wave": numbers(3, 2) + 1j, "float": numbers(3).float()}
    found = solve(lambda z: {k: 0.3 * torch.sin(v) + 0.1 * x[k] for k, v in z.items()}, dict(x))
    assert found.converged.all()
    assert {k: v.dtype for k, v in found.z.items()} == {k: v.dtype for k, v in x.items()}


ADJOINTS = list(itertools.product(GRADIENTS.names(), SOLVERS.names()))


@pytest.mark.parametrize(("adjoint", "method"), ADJOINTS)
def test_gradients_agree_with_finite_differences_in_arguments_and_in_what_is_closed_over(
    adjoint, method
):
    w, x = weights().requires_grad_(), numbers(3, 4).requires_grad_()
    shift = numbers(4, seed=9).requires_grad_()

    def outputs(w, x, shift):
        def f(z, x):
            left, right = z["pair"]
            new = torch.tanh(right @ w.T + x["x"] + shift)
            return {"pair": (0.5 * left.sin() + new, 0.5 * left)}

        start = {"pair": (torch.zeros(3, 4).double(), torch.zeros(3, 4).double())}
        result = solve(f, start, {"x": x}, method=method, stop=TIGHT, adjoint=EXACT[adjoint])
        return result.z["pair"]

    assert torch.autograd.gradcheck(outputs, (w, x, shift), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("adjoint", GRADIENTS.names())
def test_parameters_of_a_module_get_their_gradient_by_default_and_by_name(adjoint):
    layer = torch.nn.Linear(4, 4).double()
    with torch.no_grad():
        layer.weight.copy_(weights())
    x = numbers(5, 4)
    options = {} if adjoint == "implicit" else {"adjoint": EXACT[adjoint]}
    z = solve(lambda z: torch.tanh(layer(z) + x), torch.zeros_like(x), stop=TIGHT, **options).z
    z.pow(3).sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    reference = torch.zeros_like(x)
    for _ in range(150):
        reference = torch.tanh(layer(reference) + x)
    reference.pow(3).sum().backward()
    torch.testing.assert_close(found, layer.weight.grad, rtol=1e-8, atol=1e-9)


def test_there_is_no_graph_where_none_is_asked_for_and_no_evaluation_is_spent_on_it():
    calls = []

    def counted(z, x):
        calls.append(len(z))
        return cell(z, x)

    x = numbers(3, 4)
    wanted = x.clone().requires_grad_()
    for entry, options in ((x, {}), (wanted, {"adjoint": None})):
        calls.clear()
        found = solve(counted, torch.zeros_like(x), entry, stop=TIGHT, **options)
        assert not found.z.requires_grad
        assert sum(calls) == int(found.nfe.sum())
    with torch.no_grad():
        assert not solve(cell, torch.zeros_like(x), wanted).z.requires_grad
    with torch.inference_mode():
        assert solve(cell, torch.zeros_like(x), x).converged.all()
    assert solve(cell, torch.zeros_like(x), wanted).z.requires_grad


@pytest.mark.parametrize("adjoint", [None, "implicit", "phantom"])
def test_the_residual_is_that_of_the_returned_state_whatever_the_adjoint(adjoint):
    x = numbers(5, 4).requires_grad_()
    found = solve(cell, torch.zeros(5, 4).double(), x, adjoint=adjoint)
    with torch.no_grad():
        fz = cell(found.z, x)
    actual = (fz - found.z).norm(dim=1) / fz.norm(dim=1)
    torch.testing.assert_close(found.residual, actual.detach(), rtol=1e-6, atol=1e-12)


def test_unrolling_says_that_nobody_evaluated_its_last_state():
    x = numbers(2, 4)
    found = solve(cell, torch.zeros_like(x), x, adjoint="unroll", stop=StopRule(max_nfe=7))
    assert found.nfe.tolist() == [7, 7]
    assert found.status.tolist() == [Status.MAX_NFE] * 2
    assert found.residual.isnan().all()


def second_derivative(adjoint: object) -> torch.Tensor:
    x = numbers(2, 4).requires_grad_()
    value = solved(weights(), x, adjoint=adjoint).pow(3).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0]


def test_second_derivatives_are_right_by_unrolling_and_refused_by_the_adjoint_equation():
    x = numbers(2, 4).requires_grad_()
    (first,) = torch.autograd.grad(iterate(weights(), x).pow(3).sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(first.square().sum(), x)
    found = second_derivative(EXACT["unroll"])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
    with pytest.raises(SolverError, match=r"first derivatives only.*unroll"):
        second_derivative("implicit")


@pytest.mark.parametrize("adjoint", ["implicit", "unroll"])
def test_a_gradient_penalty_is_never_silently_wrong(adjoint):
    w, x = weights().requires_grad_(), numbers(2, 4).requires_grad_()
    z = solved(w, x, adjoint=EXACT[adjoint])
    (slope,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    penalty = z.sum() + slope.square().sum()
    if adjoint == "implicit":
        with pytest.raises(SolverError, match="first derivatives only"):
            penalty.backward()
        return
    penalty.backward()
    u = w.detach().clone().requires_grad_()
    reference = iterate(u, x)
    (slope,) = torch.autograd.grad(reference.sum(), x, create_graph=True)
    wanted = torch.autograd.grad(reference.sum() + slope.square().sum(), u)[0]
    torch.testing.assert_close(w.grad, wanted, rtol=1e-8, atol=1e-9)


def cube(solution):
    return lambda w, x: solution(w, x).pow(3).sum()


TRANSFORMED = {
    "vmap": lambda s: vmap(s, in_dims=(None, 0)),
    "vmap over parameters": lambda s: lambda w, x: vmap(s)(torch.stack([w, -w, w / 2]), x),
    "vmap in vmap": lambda s: vmap(vmap(s, in_dims=(None, 0)), in_dims=(None, 0)),
    "grad": lambda s: grad(cube(s)),
    "grad of both": lambda s: grad(cube(s), argnums=(0, 1)),
    "jacrev": lambda s: lambda w, x: jacrev(s)(w, x[0]),
    "grad of vmap": lambda s: grad(cube(vmap(s, in_dims=(None, 0)))),
    "vmap of grad": lambda s: vmap(grad(cube(s)), in_dims=(None, 0)),
}


@pytest.mark.parametrize("adjoint", GRADIENTS.names())
@pytest.mark.parametrize("transformed", TRANSFORMED)
def test_inside_torch_func(transformed, adjoint):
    def rows(w, x):
        flat = x.reshape(-1, 4)
        return solved(w, flat, adjoint=EXACT[adjoint]).view(x.shape)

    w, x = weights(), numbers(3, 2, 4)
    transform = TRANSFORMED[transformed]
    torch.testing.assert_close(
        transform(rows)(w, x), transform(iterate)(w, x), rtol=1e-8, atol=1e-9
    )


def test_backward_outside_of_a_vmap_and_with_functional_call():
    layer = torch.nn.Linear(4, 4).double()
    with torch.no_grad():
        layer.weight.copy_(weights())
    x = numbers(3, 2, 4)

    def f(parameters, x):
        def cell(z, x):
            return torch.tanh(functional_call(layer, parameters, (z,)) + x)

        return solve(cell, torch.zeros_like(x), x, stop=TIGHT).z

    parameters = dict(layer.named_parameters())
    vmap(f, in_dims=(None, 0))(parameters, x).pow(3).sum().backward()
    plain = {name: p.detach() for name, p in parameters.items()}
    again = grad(lambda p: f(p, x.view(6, 4)).pow(3).sum())(plain)
    torch.testing.assert_close(layer.weight.grad, again["weight"], rtol=1e-8, atol=1e-9)


def test_what_torch_func_cannot_do_is_said_in_a_sentence():
    w, x = weights(), numbers(2, 4)
    for call in (
        lambda: jvp(lambda x: solved(w, x), (x,), (x,)),
        lambda: torch.func.hessian(lambda x: solved(w, x).sum())(x),
        lambda: grad(lambda w: grad(cube(solved))(w, x).sum())(w),
        lambda: vmap(lambda x: solved(w, x, warm=Warm(), batch_dims=0))(x),
        lambda: torch.func.functionalize(lambda x: solved(w, x))(x),
        lambda: torch.autograd.functional.jacobian(lambda x: solved(w, x), x, vectorize=True),
    ):
        with pytest.raises(SolverError) as error:
            call()
        assert str(error.value).endswith(".")
    tangent = jvp(lambda x: solved(w, x, adjoint=Unroll(150)), (x,), (x,))[1]
    torch.testing.assert_close(tangent, jvp(lambda x: iterate(w, x), (x,), (x,))[1])


def works_in_place(z, x):
    return z.mul_(0.5).add_(x).tanh_()


@pytest.mark.parametrize("name", SOLVERS.names())
def test_cells_that_work_in_place_are_noticed(name):
    x = numbers(3, 4)
    wanted = solve(lambda z, x: torch.tanh(0.5 * z + x), torch.zeros_like(x), x, stop=TIGHT).z
    for f in (works_in_place, lambda z, x: works_in_place(z, x).clone()):
        start = torch.zeros_like(x)
        found = solve(f, start, x, method=name, stop=TIGHT)
        assert found.converged.all()
        torch.testing.assert_close(found.z, wanted, rtol=1e-9, atol=1e-9)
        assert not start.any()
        with pytest.raises(SolverError, match="in place"):
            get_solver(name).solve(lambda z, f=f: f(z, x), start, TIGHT)
    given = x.clone().requires_grad_()
    solve(works_in_place, torch.zeros_like(x), given, stop=TIGHT).z.sum().backward()
    again = x.clone().requires_grad_()
    solve(
        lambda z, x: torch.tanh(0.5 * z + x), torch.zeros_like(x), again, stop=TIGHT
    ).z.sum().backward()
    torch.testing.assert_close(given.grad, again.grad, rtol=1e-9, atol=1e-9)

    def on_arrays(z, x):
        z *= 0.5
        z += x
        return np.tanh(z, out=z)

    found = arrays.solve(on_arrays, np.zeros((3, 4)), x.numpy(), method=name, stop=TIGHT)
    np.testing.assert_allclose(found.z, wanted.numpy(), atol=1e-9)


Z = torch.zeros(3, 4)
REFUSED = {
    "None": lambda: solve(lambda z: None, Z),
    "None in a structure": lambda: solve(lambda z: (z[0] * 0, None), (Z, Z)),
    "a list": lambda: solve(lambda z: [z * 0], Z),
    "a number": lambda: solve(lambda z: 3.0, Z),
    "another shape": lambda: solve(lambda z: z[:, :1], Z),
    "another type": lambda: solve(lambda z: z.double(), Z),
    "other rows": lambda: solve(lambda z, x: z * 0 + x, Z, torch.zeros(1, 4)),
    "more rows": lambda: solve(lambda z, x: z * 0 + x[:3], Z, {"x": torch.zeros(6, 4)}),
    "no rows": lambda: solve(torch.cos, torch.tensor(1.0)),
    "rows that differ": lambda: solve(lambda z: z, (Z, torch.zeros(2, 4))),
    "whole numbers": lambda: solve(torch.cos, torch.zeros(3, 4, dtype=torch.int64)),
    "nothing": lambda: solve(torch.cos, ()),
    "rows of nothing": lambda: solve(torch.cos, torch.zeros(2, 0)),
    "no tensor": lambda: solve(torch.cos, 1.0),
    "an array": lambda: solve(np.cos, np.zeros((3, 4))),
    "an array beside": lambda: solve(lambda z, x: z, Z, np.zeros((3, 4))),
    "sparse": lambda: solve(torch.cos, Z.to_sparse()),
    "meta": lambda: solve(torch.cos, Z.to("meta")),
    "meta at the bottom": lambda: Anderson().solve(torch.cos, Z.to("meta")),
    "an array at the bottom": lambda: Anderson().solve(torch.cos, np.zeros((3, 4))),
    "None at the bottom": lambda: Anderson().solve(lambda z: None, Z),
    "batch_dims": lambda: solve(torch.cos, Z, batch_dims=-1),
    "method in capitals": lambda: solve(torch.cos, Z, method="Anderson"),
    "method that is none": lambda: solve(torch.cos, Z, method=None),
    "a class as method": lambda: solve(torch.cos, Z, method=Anderson),
    "adjoint": lambda: solve(torch.cos, Z, adjoint="implicitly"),
    "a class as adjoint": lambda: solve(torch.cos, Z, adjoint=Implicit),
    "stop": lambda: solve(torch.cos, Z, stop=1e-3),
    "tol as text": lambda: StopRule(tol="1e-3"),
    "tol None": lambda: StopRule(tol=None),
    "max_nfe 2.5": lambda: StopRule(max_nfe=2.5),
    "window 2.5": lambda: Anderson(window=2.5),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_work_is_refused_in_one_sentence(what):
    with pytest.raises(DeqcertError) as error:
        REFUSED[what]()
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_a_name_in_capitals_is_told_its_nearest():
    with pytest.raises(ConfigError, match="did you mean broyden"):
        get_solver("BROYDEN")


def test_numpy_numbers_are_numbers():
    stop = StopRule(tol=np.float32(1e-3), max_nfe=np.int64(9))
    assert type(stop.max_nfe) is int
    assert type(stop.tol) is float
    assert type(Anderson(window=np.int32(3)).window) is int


@pytest.mark.parametrize("name", SOLVERS.names())
@pytest.mark.parametrize("shape", [(0, 4), (0, 2, 3)])
def test_empty_states_are_answers(name, shape):
    x = torch.zeros(*shape, requires_grad=True)
    found = solve(lambda z, x: 0.5 * z + x, torch.zeros(*shape), x, method=name)
    assert found.z.shape == shape
    assert found.nfe.shape == shape[:1]
    found.z.sum().backward()


def test_a_stream_costs_less_with_warm_starts_and_ends_at_the_same_solutions():
    stop, drift = StopRule(tol=1e-9, max_nfe=100), numbers(5, 4, seed=4)
    stream = [numbers(5, 4) + 0.01 * step * drift for step in range(8)]
    cold = [solve(cell, torch.zeros_like(x), x, stop=stop) for x in stream]
    memory = Warm()
    warm = [solve(cell, torch.zeros_like(x), x, stop=stop, warm=memory) for x in stream]
    for one, other in zip(cold, warm, strict=True):
        torch.testing.assert_close(one.z, other.z, rtol=1e-7, atol=1e-7)
    assert memory.solves == 8
    assert memory.nfe == sum(int(result.nfe.sum()) for result in warm)
    assert memory.nfe < 0.9 * sum(int(result.nfe.sum()) for result in cold)
    # Other rows, or a memory that was cleared, begin at the start state.
    other = solve(cell, torch.zeros(2, 4).double(), stream[0][:2], stop=stop, warm=memory)
    assert other.nfe.tolist() == cold[0].nfe[:2].tolist()
    memory.clear()
    assert torch.equal(memory.start(stream[0]), stream[0])


def test_a_lost_row_of_a_stream_begins_again_at_its_start():
    memory = Warm()
    x = torch.tensor([[0.1], [float("nan")]])
    solve(lambda z, x: 0.5 * z + x, torch.zeros(2, 1), x, warm=memory)
    found = solve(lambda z, x: 0.5 * z + x, torch.zeros(2, 1), x.nan_to_num(0.3), warm=memory)
    assert found.converged.all()
    torch.testing.assert_close(found.z, torch.tensor([[0.2], [0.6]]), rtol=1e-2, atol=0)


def one_of_several(z, c):
    """Contracts, diverges, oscillates, is lost, or cannot be exact, as the context says."""
    kind = c[0]
    if kind == 0:
        return 0.7 * np.sin(z) + c[1:]
    if kind == 1:
        return 3.0 * z + c[1:]
    if kind == 2:
        return c[1:] - z
    if kind == 3:
        return np.where(z > 0.9, np.nan, 0.5 * z + 0.6 * np.abs(c[1:]))
    return 1e4 * np.cos(z * 1e-5) + np.sin(1e6 * z) * 1e-5


@pytest.fixture(scope="module")
def compiled_rows():
    return arrays.rowwise(one_of_several)


@pytest.mark.parametrize("damping", [1.0, 0.5])
@pytest.mark.parametrize("stop", [
    StopRule(1e-9, max_nfe=200), StopRule(1e-6, mode="abs", max_nfe=9), StopRule(0, max_nfe=5),
    StopRule(max_nfe=1),
], ids=str)  # fmt: skip
def test_the_compiled_loop_of_picard_ends_rows_as_the_other_loop_does(compiled_rows, stop, damping):
    x = numbers(15, 3).numpy()
    context = np.concatenate([np.arange(15.0)[:, None] % 5, x], axis=1)
    method = get_solver("picard", damping=damping)
    for z0 in (np.zeros((15, 3)), np.full((15, 3), np.nan), x, x[:0]):
        given = z0, context[: len(z0)]
        whole = arrays.solve(compiled_rows, *given, method=method, stop=stop)
        apart = arrays.solve(lambda z, c: compiled_rows(z, c), *given, method=method, stop=stop)
        assert whole.status.tolist() == apart.status.tolist()
        np.testing.assert_array_equal(whole.nfe, apart.nfe)
        np.testing.assert_allclose(whole.z, apart.z, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole.residual, apart.residual, rtol=1e-3, atol=1e-12)


def test_names_and_options_come_from_the_registry():
    from deqcert.options import options_of

    for name in SOLVERS:
        for option in options_of(SOLVERS.get(name)).values():
            assert option.help
            assert option.range()
