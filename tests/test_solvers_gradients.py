"""Backward through an equilibrium, against finite differences and against unrolling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deqcert.errors import ConfigError
from deqcert.models import ARCHITECTURES, MDEQ
from deqcert.solvers import StopRule, get_solver
from deqcert.solvers.gradients import (
    GRADIENTS,
    AdjointMemory,
    Implicit,
    equilibrium,
    get_gradient,
)
from deqcert.solvers.jacobian import jacobian_penalty, spectral_radius

TIGHT = StopRule(tol=1e-13, max_nfe=400)


def contraction() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    weight *= 0.4 / torch.linalg.matrix_norm(weight, 2)
    return weight, torch.randn(2, 4, generator=generator, dtype=torch.float64)


def exact(name: str):
    """Options with which each method should give the gradient to nearly machine precision."""
    options = {
        "implicit": {"solver": get_solver("anderson"), "stop": TIGHT},
        "phantom": {"steps": 30, "damping": 1.0},
        "unroll": {"steps": 30},
    }
    return get_gradient(name, **options[name])


@pytest.mark.parametrize("name", GRADIENTS.names())
@pytest.mark.parametrize("solver", ["picard", "anderson", "broyden"])
def test_gradcheck(name: str, solver: str) -> None:
    weight, context = contraction()

    def solve(weight: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        z, _ = equilibrium(
            lambda z, c: torch.tanh(z @ weight.T + c),
            torch.zeros(2, 4, dtype=torch.float64),
            context,
            solver=get_solver(solver),
            stop=TIGHT,
            gradient=exact(name),
        )
        return z

    inputs = (weight.requires_grad_(), context.requires_grad_())
    assert torch.autograd.gradcheck(solve, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


def small_mdeq() -> MDEQ:
    """An MDEQ whose cell contracts, in float64."""
    torch.manual_seed(0)
    config = replace(
        ARCHITECTURES.get("tiny"), channels=(4, 4), head_channels=(2, 2), final_channels=8
    )
    model = MDEQ(replace(config, post_affine=True)).double().eval()
    with torch.no_grad():
        for post in model.fullstage.post_fuse_layers:
            post.gnorm.weight.mul_(0.03)
            post.gnorm.bias.normal_()
    return model


def mdeq_gradients(gradient) -> list[torch.Tensor]:
    model = small_mdeq()
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    injection = model.inject(x)
    z, _ = equilibrium(
        model.cell,
        model.initial_state(injection),
        injection,
        solver=get_solver("anderson"),
        stop=StopRule(tol=1e-12, max_nfe=300),
        gradient=gradient,
    )
    loss = torch.nn.functional.cross_entropy(model.readout(z), torch.tensor([1, 2, 3]))
    parameters = [p for n, p in model.named_parameters() if "post_fuse" in n or "conv1" in n]
    return [g for g in torch.autograd.grad(loss, parameters, allow_unused=True) if g is not None]


def test_implicit_agrees_with_unrolling_on_an_mdeq() -> None:
    implicit = mdeq_gradients(exact("implicit"))
    unrolled = mdeq_gradients(get_gradient("unroll", steps=40))
    phantom = mdeq_gradients(get_gradient("phantom", steps=5, damping=0.5))
    assert len(implicit) == len(unrolled) > 5
    torch.testing.assert_close(implicit, unrolled, rtol=1e-6, atol=1e-10)
    both = [torch.cat([g.flatten() for g in grads]) for grads in (phantom, unrolled)]
    assert torch.cosine_similarity(*both, dim=0) > 0.9


def bytes_kept(name: str, forward_nfe: int) -> int:
    """Bytes that autograd keeps for the backward pass."""
    model = small_mdeq()
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    options = {"unroll": {"steps": forward_nfe}}.get(name, {})
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        injection = model.inject(torch.rand(2, 1, 8, 8, dtype=torch.float64))
        equilibrium(
            model.cell,
            model.initial_state(injection),
            injection,
            solver=get_solver("picard"),
            stop=StopRule(tol=0, max_nfe=forward_nfe),
            gradient=get_gradient(name, **options),
        )
    return kept


@pytest.mark.parametrize("name", GRADIENTS.names())
def test_memory_does_not_grow_with_the_forward_solve(name: str) -> None:
    grows = bytes_kept(name, 24) > bytes_kept(name, 4)
    assert grows == (name == "unroll")


def test_jacobian_penalty_estimates_the_frobenius_norm() -> None:
    weight, context = contraction()
    weight.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    found = jacobian_penalty(
        lambda z, c: z @ weight.T + c, torch.zeros(2, 4).double(), context,
        draws=4000, generator=generator,
    )  # fmt: skip
    wanted = weight.square().sum() / 4
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad(found, weight)
    torch.testing.assert_close(gradient, weight.detach() / 2, rtol=0.2, atol=0.05)


def test_rows_that_end_early_do_not_change_the_adjoint_of_others() -> None:
    """Rows whose cells contract at very different speed, alone and together."""
    factors = torch.tensor([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.01]).double()
    generator = torch.Generator().manual_seed(2)
    offsets = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    evaluated: list[int] = []

    def cell(z: torch.Tensor, context: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        evaluated.append(len(z))
        return torch.tanh(factor[:, None] * z.roll(1, dims=1) + context)

    def gradient(rows: slice) -> torch.Tensor:
        context = offsets[rows].clone().requires_grad_()
        stop = StopRule(tol=1e-12, max_nfe=400)
        z, _ = equilibrium(
            cell,
            torch.zeros_like(context).detach(),
            context,
            factors[rows],
            solver=get_solver("picard"),
            stop=stop,
            gradient=get_gradient("implicit", solver=get_solver("picard"), stop=stop),
        )
        evaluated.clear()
        (found,) = torch.autograd.grad(z.square().sum(), context)
        return found

    together = gradient(slice(None))
    assert evaluated == sorted(evaluated, reverse=True) and evaluated[-1] < 4
    alone = torch.cat([gradient(slice(row, row + 1)) for row in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    # dz/dc solves a linear system that can be written down.
    for row in range(8):
        z = torch.zeros(5).double()
        for _ in range(600):
            z = torch.tanh(factors[row] * z.roll(1) + offsets[row])
        slope = torch.diag(1.0 - z.square())
        shift = factors[row] * torch.eye(5).double().roll(1, dims=0)
        exact = 2.0 * z @ torch.linalg.solve(torch.eye(5).double() - slope @ shift, slope)
        torch.testing.assert_close(together[row], exact, rtol=1e-9, atol=1e-12)


def test_a_remembered_adjoint_saves_evaluations_and_changes_nothing() -> None:
    weight, context = contraction()
    products = 0

    def cell(z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        out = torch.tanh(z @ weight.T + c)
        if out.requires_grad:

            def count(grad: torch.Tensor) -> None:
                nonlocal products
                products += 1

            out.register_hook(count)
        return out

    def gradient(context: torch.Tensor, memory: AdjointMemory | None) -> tuple[torch.Tensor, int]:
        nonlocal products
        context = context.clone().requires_grad_()
        way = Implicit(get_solver("picard"), StopRule(tol=1e-9, max_nfe=50), memory)
        z, _ = equilibrium(
            cell,
            torch.zeros(2, 4).double(),
            context,
            solver=get_solver("anderson"),
            stop=TIGHT,
            gradient=way,
        )
        products = 0
        (found,) = torch.autograd.grad(z.square().sum(), context)
        return found, products

    memory = AdjointMemory()
    assert memory.ended is None
    gradient(context, memory)
    assert memory.ended is not None
    assert memory.ended.converged.all()
    near = 2.0 * context + 1e-3
    cold, needed = gradient(1.001 * context, None)
    warm, saved = gradient(1.001 * context, memory)
    torch.testing.assert_close(warm, cold, rtol=1e-7, atol=1e-9)
    assert saved < 0.8 * needed
    far, _ = gradient(near, memory)
    torch.testing.assert_close(far, gradient(near, None)[0], rtol=1e-7, atol=1e-9)
    # Rows of another shape, and what is not finite, are ignored.
    grad = torch.ones(3, 4)
    assert memory.start(grad) is grad
    memory.keep(grad, torch.tensor([[1.0], [float("nan")], [3.0]]) * grad)
    assert memory.start(2.0 * grad).tolist() == [[2.0] * 4, [2.0] * 4, [6.0] * 4]


def test_an_adjoint_that_does_not_converge_says_so_row_by_row() -> None:
    # df/dz is 0.5 in the first row and -3 in the second, whose forward solve is still exact.
    slope = torch.tensor([[0.5], [-3.0]]).double()
    memory = AdjointMemory()
    way = Implicit(get_solver("picard"), StopRule(tol=1e-6, max_nfe=40), memory)
    context = torch.ones(2, 1).double().requires_grad_()
    z, _ = equilibrium(
        lambda z, c, s: s * z + c,
        (1.0 / (1.0 - slope)).clone(),
        context,
        slope,
        solver=get_solver("anderson"),
        stop=TIGHT,
        gradient=way,
    )
    z.sum().backward()
    ended = memory.ended
    assert ended is not None
    assert ended.converged.tolist() == [True, False]
    assert ended.residual[1] > 0.1
    assert context.grad is not None
    assert context.grad[0].item() == pytest.approx(2.0, abs=1e-4)


def test_the_spectral_radius_is_estimated_row_by_row() -> None:
    angle = torch.tensor(0.7).double()
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)])
    weight = torch.block_diag(turn.view(2, 2), 0.5 * torch.eye(3).double())
    scales = torch.tensor([0.9, 0.3, 1.5]).double()
    found = spectral_radius(
        lambda z, c: c[:, None] * (z @ weight.T),
        torch.zeros(3, 5).double(),
        scales,
        steps=40,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(found, scales, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("backprop", {}, "there are implicit"),
        ("phantom", {"step": 3}, "has no option 'step'"),
        ("phantom", {"damping": 0.0}, "damping"),
        ("unroll", {"steps": 0}, "steps"),
    ],
)
def test_unknown_options_are_refused(name: str, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get_gradient(name, **options)
