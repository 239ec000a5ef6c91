"""The convolutional Lipschitz-bounded network: its constant holds, and planted mistakes do not."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqcert.certifiers import get_certifier
from deqcert.errors import ConfigError
from deqcert.models import LipschitzConvConfig, LipschitzConvDEQ, PrescribedModel
from deqcert.models.sll import SMALLEST, SLLConv
from deqcert.proofs import Margins
from deqcert.solvers import StopRule, bind, get_solver

SMOOTH = 12
"""Evaluations that gradients go through: the feedback's share of what is left is below 0.6^12."""

SIZES: dict[str, Any] = {"num_classes": 4, "mean": (0.4,), "std": (0.3,)}


def network(seed: int, *, strength: float = 1.0, **changes: Any) -> LipschitzConvDEQ:
    """A small model with random weights of which the feedback contracts by about 0.6."""
    torch.manual_seed(seed)
    config = {"width": 4, "layers": (1, 2), "hidden": (4, 6), "lipschitz": 2.0} | SIZES | changes
    model = LipschitzConvConfig(**config).build().eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, SLLConv):
                layer.weight.add_(0.3 * torch.rand_like(layer.weight))
                layer.bias.normal_(std=0.2)
                layer.root_q.uniform_(0.5, 2.0)
        model.classifier.bias.normal_(std=0.1)
        model.feedback.normal_()
        model.feedback.mul_(0.6 * strength / model.factor())
    return model


def tight() -> LipschitzConvDEQ:
    """A model of one active layer that reaches its constant along the difference of two logits."""
    sizes = {"image_size": (32, 32), "layers": (1,), "hidden": (2,)}
    model = network(0, strength=0.0, **sizes).double()
    (layer,) = model.layers
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.root_q.fill_(1.0)
        layer.bias.fill_(100.0)
        direction = torch.ones(1, *model.config.stream, dtype=torch.float64)
        kernel = layer.kernel()
        for _ in range(40):
            direction = layer.widen(F.conv2d(direction, kernel, padding=1), kernel)
            direction /= direction.norm()
        model.classifier.weight[0], model.classifier.weight[1] = (
            direction.flatten(),
            -direction.flatten(),
        )
    return model


def exceeds(model: LipschitzConvDEQ) -> bool:
    """Whether a slope was found above the model's constants."""
    constants = model.proven_lipschitz() * (1.0 + 1e-9)
    return not bool((steepest(model, images(model, 2)) <= constants).all())


def images(model: LipschitzConvDEQ, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, *model.input_shape, generator=generator, dtype=torch.float64)


def equilibrium(model: LipschitzConvDEQ, x: Tensor) -> Tensor:
    """The states of a float64 model to their last bits, differentiable."""
    injection = model.inject(x)
    with torch.no_grad():
        stop = StopRule(tol=1e-14, max_nfe=60)
        cell, start = bind(model.cell, injection), model.initial_state(injection)
        z = get_solver("anderson").solve(cell, start, stop).z
    for _ in range(SMOOTH if torch.is_grad_enabled() else 0):
        z = model.cell(z, injection)
    return z


def logits(model: LipschitzConvDEQ, x: Tensor) -> Tensor:
    return model.readout(equilibrium(model, x))


def jacobians(model: LipschitzConvDEQ, x: Tensor) -> Tensor:
    """Of the logits of each image, shape (B, K, C*H*W)."""
    x = x.clone().requires_grad_()
    found = logits(model, x)
    rows = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in found.T]
    return torch.stack(rows, dim=1).flatten(2)


def steepest(model: LipschitzConvDEQ, x: Tensor) -> Tensor:
    """Largest slope of each difference of two logits that was found, shape (K, K)."""
    found = jacobians(model.double(), x)
    return (found[:, :, None] - found[:, None]).norm(dim=3).amax(dim=0)


def dense(layer: SLLConv, side: int) -> Tensor:
    """B' of a layer on images of that side as a matrix."""
    channels = layer.weight.shape[1]
    basis = torch.eye(channels * side * side, dtype=torch.float64)
    with torch.no_grad():
        through = F.conv2d(
            basis.view(-1, channels, side, side), layer.kernel(), padding=layer.weight.shape[2] // 2
        )
    return through.flatten(1).T


# --- layers ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    channels=st.integers(1, 3),
    hidden=st.integers(1, 4),
    side=st.integers(1, 5),
    kernel=st.sampled_from([1, 3]),
    offset=st.floats(-2.0, 2.0),
    seed=st.integers(0, 10**6),
)
def test_no_layer_has_a_norm_above_one(channels, hidden, side, kernel, offset, seed):
    torch.manual_seed(seed)
    layer = SLLConv(channels, hidden, kernel).double()
    with torch.no_grad():
        layer.weight.normal_().add_(offset)
        layer.weight[0].mul_(seed % 2)  # a channel that does nothing
        layer.root_q.normal_()
    assert torch.linalg.matrix_norm(dense(layer, side), 2) <= 1.0 + 1e-12


def without_one_tap(self: SLLConv) -> Tensor:
    """T of a sum that forgets the kernels' correlation at no offset."""
    correlations = F.conv2d(self.weight, self.weight, padding=self.weight.shape[2] - 1)
    middle = self.weight.shape[2] - 1
    correlations = correlations.abs()
    correlations[:, :, middle, middle] = 0.0
    return correlations.sum(dim=(1, 2, 3)) + SMALLEST


def test_a_multiplier_without_one_tap_is_caught(monkeypatch):
    assert not exceeds(tight())
    monkeypatch.setattr(SLLConv, "multiplier", without_one_tap)
    assert exceeds(tight())


# --- constants ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6), g=st.floats(0.1, 20.0), layers=st.sampled_from([(2,), (1, 3)]))
def test_no_jacobian_exceeds_the_prescribed_constants(seed, g, layers):
    model = network(seed, lipschitz=g, layers=layers, hidden=(4, 6)[: len(layers)])
    constants = model.double().proven_lipschitz()
    slopes = steepest(model, images(model, 20))
    assert (slopes <= constants * (1.0 + 1e-9)).all()
    assert slopes.max() > 0.3 * constants.max()
    torch.testing.assert_close(model.pairwise_lipschitz().detach(), constants, atol=1e-5, rtol=0)


def test_feedback_that_is_not_skew_is_caught(monkeypatch):
    """That E = V - V' is what makes feedback cost nothing; V alone may amplify."""
    model = tight()
    with torch.no_grad():
        model.feedback.copy_(0.3 * torch.eye(2))
    assert not exceeds(model)
    monkeypatch.setattr(LipschitzConvDEQ, "skew", lambda self: self.feedback)
    assert exceeds(model)


@torch.no_grad()
def test_pairs_of_inputs_far_apart_obey_the_constants():
    model = network(4).double()
    x, y = images(model, 400).chunk(2)
    a, b = (logits(model, part) for part in (x, y))
    moved = (a - b)[:, :, None] - (a - b)[:, None]
    distance = (x - y).flatten(1).norm(dim=1)
    assert (moved.abs() <= model.proven_lipschitz() * distance[:, None, None]).all()


# --- solves ------------------------------------------------------------------------------------


@torch.no_grad()
def test_one_evaluation_from_zero_is_the_network_without_feedback():
    model = network(5).double()
    injection = model.inject(images(model, 3))
    first = model.cell(model.initial_state(injection), injection)
    model.feedback.zero_()
    assert torch.equal(model.cell(model.initial_state(injection), injection), first)
    assert torch.equal(model.cell(first, injection), first)


@torch.no_grad()
def test_every_solver_finds_the_same_equilibrium():
    model = network(6).double()
    x = images(model, 5)
    injection, wanted = model.inject(x), equilibrium(model, x)
    for name in ("picard", "anderson", "broyden"):
        stop = StopRule(tol=1e-12, max_nfe=500)
        solver = get_solver(name)
        solved = solver.solve(bind(model.cell, injection), model.initial_state(injection), stop)
        assert solved.converged.all()
        torch.testing.assert_close(solved.z, wanted)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
def test_the_error_bound_holds_for_any_state(strength):
    model = network(7, strength=strength).double()
    x = images(model, 50)
    injection, exact = model.inject(x), equilibrium(model, x)
    for size in (1e-3, 1.0, 100.0):
        z = exact + size * torch.randn_like(exact)
        residual = (model.cell(z, injection) - z).norm(dim=1)
        assert ((z - exact).norm(dim=1) <= model.error_bound(residual)).all()


@torch.no_grad()
def test_feedback_that_may_not_contract_is_refused_and_training_never_leaves_it():
    model = network(8, strength=3.0)
    with pytest.raises(ConfigError, match="only proven to contract by 1"):
        get_certifier("lipschitz").check(model)
    model.train()
    model.inject(images(model, 2).float())
    assert 0.99 * model.config.factor <= model.factor() <= model.config.factor
    get_certifier("lipschitz").check(model)


# --- radii -------------------------------------------------------------------------------------


def small(seed: int) -> LipschitzConvDEQ:
    return network(seed, image_size=(4, 4), layers=(2,), hidden=(4,))


def found_inside(model: LipschitzConvDEQ, points: int) -> int:
    """Look for another class inside proven radii, by gradients and at random; how often one is."""
    proven = Margins(model, "multiplier")
    x = images(model, points)
    model = model.double()
    made = proven.each(x, tol=1e-10, depth=500)
    radius = torch.tensor([proven.radius(lead)[0] for lead in made], dtype=torch.float64)
    rival = torch.tensor([proven.radius(lead)[1] for lead in made])
    best = torch.tensor([lead.best for lead in made])
    assert (radius > 0).all()
    rows = torch.arange(points)
    wrong = torch.zeros(points, dtype=torch.bool)
    at = x
    for attempt in range(2):
        if attempt < 1:  # downhill on the lead over a rival
            at = at.detach().requires_grad_()
            found = logits(model, at)
            lead = (found[rows, rival] - found[rows, best]).sum()
            (direction,) = torch.autograd.grad(lead, at)
        else:
            direction = torch.randn(x.shape, dtype=torch.float64)
        size = direction.flatten(1).norm(dim=1).clamp_min(1e-300)
        at = x + direction * (radius / size)[:, None, None, None]
        with torch.no_grad():
            wrong |= logits(model, at).argmax(dim=1) != best
    return int(wrong.sum())


def test_nothing_is_found_inside_two_thousand_proven_radii():
    assert found_inside(small(9), 2000) == 0


def test_halving_the_constants_is_caught(monkeypatch):
    honest = LipschitzConvDEQ.proven_lipschitz
    monkeypatch.setattr(LipschitzConvDEQ, "proven_lipschitz", lambda self: honest(self) / 2.0)
    assert found_inside(small(9), 100) > 0


def gaps_above_the_exact_ones(model: LipschitzConvDEQ) -> int:
    """Solve badly; how many gaps exceed those at the equilibrium."""
    x = images(model, 100)
    with torch.no_grad():
        exact = logits(Margins(model, "multiplier")._model, x)
    above = 0
    for tol in (0.3, 0.03):
        for lead, row in zip(
            Margins(model, "multiplier").each(x, tol=tol, depth=9), exact, strict=True
        ):
            above += int((lead.gaps > row[lead.best] - row + 1e-13).sum())
    return above


def test_gaps_are_below_the_exact_ones_however_early_a_solve_stops():
    assert gaps_above_the_exact_ones(network(10)) == 0


def test_forgetting_the_error_of_the_solve_is_caught(monkeypatch):
    monkeypatch.setattr(LipschitzConvDEQ, "error_bound", lambda self, residual: 0.0 * residual)
    assert gaps_above_the_exact_ones(network(10)) > 0


def test_the_constants_are_prescribed_and_no_other_rule_is_taken():
    model = network(11)
    assert isinstance(model, PrescribedModel)
    with pytest.raises(ConfigError, match="hold by construction; use bound=multiplier"):
        get_certifier("lipschitz", bound="classical").check(model)
    with pytest.raises(ConfigError, match="is not one relu layer"):
        get_certifier("lipschitz", bound="local").check(model)


# --- the computer's arithmetic -----------------------------------------------------------------

Image = dict[tuple[int, int, int], Any]


def exact_layer(layer: SLLConv, x: Image, fed: Any, size: tuple[int, int]) -> tuple[Image, Image]:
    """The hidden state and the output of a layer in many digits, tap by tap."""
    w, (hidden, channels, side, _) = layer.weight.double(), layer.weight.shape
    w, half = [mpmath.mpf(v) for v in w.flatten().tolist()], side // 2
    taps, places = range(side), list(itertools.product(*map(range, size)))

    def weight(i: int, c: int, y: int, x: int) -> Any:
        return w[((i * channels + c) * side + y) * side + x]

    q = [mpmath.mpf(v) ** 2 + mpmath.mpf(1e-3) for v in layer.root_q.double().tolist()]
    root = []
    for i in range(hidden):
        total = mpmath.mpf(SMALLEST)
        offsets = range(1 - side, side)
        for j, dy, dx in itertools.product(range(hidden), offsets, offsets):
            total += (
                q[j]
                / q[i]
                * abs(
                    mpmath.fsum(
                        weight(i, c, y, x) * weight(j, c, y + dy, x + dx)
                        for c, y, x in itertools.product(range(channels), taps, taps)
                        if y + dy in taps and x + dx in taps
                    )
                )
            )
        root.append(mpmath.sqrt(total))
    bias = layer.bias.double().tolist()
    z: Image = {}
    for i, (row, column) in itertools.product(range(hidden), places):
        inner = mpmath.fsum(
            weight(i, c, y, k) * x.get((c, row + y - half, column + k - half), 0)
            for c, y, k in itertools.product(range(channels), taps, taps)
        )
        inner = inner / root[i] + mpmath.mpf(bias[i]) + fed(i, row, column)
        z[i, row, column] = max(inner, mpmath.mpf(0))
    out: Image = {}
    for c, (row, column) in itertools.product(range(channels), places):
        back = mpmath.fsum(
            weight(i, c, y, k) / root[i] * z.get((i, row - y + half, column - k + half), 0)
            for i, y, k in itertools.product(range(hidden), taps, taps)
        )
        out[c, row, column] = x[c, row, column] - 2 * back
    return z, out


def unshuffled(x: Image) -> Image:
    """Four pixels as channels, in many digits."""
    return {(4 * c + 2 * (y % 2) + k % 2, y // 2, k // 2): v for (c, y, k), v in x.items()}


def test_gaps_are_below_those_of_a_solve_in_forty_digits():
    model = network(12, image_size=(4, 4), layers=(1, 2), hidden=(2, 2))
    image = images(model, 1)
    lead = Margins(model, "multiplier").each(image, tol=1e-14, depth=400)[0]
    with mpmath.workdps(40):
        mean, std = (mpmath.mpf(v.item()) for v in (model.normalize.mean, model.normalize.std))
        scale = mpmath.mpf(model.config.lipschitz)  # one channel: g min(std) / std is g
        x = {
            (0, y, k): (mpmath.mpf(image[0, 0, y, k].item()) - mean) / std * (scale * std)
            for y, k in itertools.product(range(4), range(4))
        }
        _, x = exact_layer(model.encoder[0][0], unshuffled(x), lambda *at: 0, (2, 2))
        x = unshuffled(x)
        skew = mpmath.matrix(model.feedback.double().tolist())
        skew = skew - skew.T
        z = mpmath.matrix(4, 1)
        for _ in range(150):
            fed, stream, following = skew * z, x, []
            for index, layer in enumerate(model.layers):
                state, stream = exact_layer(
                    layer, stream, lambda i, *at, index=index, fed=fed: fed[2 * index + i], (1, 1)
                )
                following += [state[i, 0, 0] for i in range(2)]
            moved, z = mpmath.norm(mpmath.matrix(following) - z), mpmath.matrix(following)
            if moved < mpmath.mpf(10) ** -30:
                break
        rows = []
        for row, bias in zip(
            model.classifier.weight.double(), model.classifier.bias.double(), strict=True
        ):
            v = [mpmath.mpf(value) for value in row.tolist()]
            product = mpmath.fsum(a * stream[c, 0, 0] for c, a in enumerate(v))
            rows.append(product / mpmath.norm(v) + mpmath.mpf(bias.item()))
        for j in range(4):
            if j != lead.best:
                gap = rows[lead.best] - rows[j]
                assert lead.gaps[j].item() <= gap
                assert gap - lead.gaps[j].item() < 1e-9


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": ()}, "layers is"),
        ({"layers": (1,)}, "each resolution needs one of both"),
        ({"hidden": (4, 0)}, "whole numbers from 1"),
        ({"kernel": 2}, "odd whole number"),
        ({"lipschitz": math.nan}, "must be above 0"),
        ({"factor": 1.0}, "between 0 and 1"),
        ({"width": 3}, "at least 4"),
        ({"image_size": (8, 10)}, "multiples of 4"),
        ({"std": (0.0,)}, "std is"),
    ],
)
def test_impossible_configurations_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        LipschitzConvConfig(**(SIZES | change))
