"""Interval models: boxes have an equilibrium whatever the weights, and bounds can be trained."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqcert.errors import ConfigError
from deqcert.models import IntervalConfig, IntervalDEQ, pixel_box
from deqcert.models.interval import MEASURES
from deqcert.solvers import StopRule, bind, get_solver

SIZES = {"num_classes": 4, "image_size": (6, 6), "mean": (0.4,), "std": (0.3,)}
TIGHT = StopRule(tol=1e-13, max_nfe=2000)


def network(kind: str, seed: int, *, scale: float = 3.0, **given) -> IntervalDEQ:
    """A random small model in float64 that has seen some images."""
    torch.manual_seed(seed)
    if kind == "conv":
        given = {"kernel": 3, "block": (3,), "strides": (1, 2)} | given
    model = IntervalConfig(5 if kind == "conv" else 9, **SIZES, **given).build()
    with torch.no_grad():
        model.weight.mul_(scale)
        model.weight.add_(0.1 * torch.randn_like(model.weight))
        model.inject(torch.rand(16, *model.input_shape))
    return model.double().eval()


def solve(model: IntervalDEQ, x: torch.Tensor) -> torch.Tensor:
    injection = model.inject(x)
    start = model.initial_state(injection)
    return get_solver("picard").solve(bind(model.cell, injection), start, TIGHT).z


def dense(model: IntervalDEQ) -> torch.Tensor:
    """N as a matrix: what the cell does to units, without its relu."""
    size = len(model.initial_state(model.inject(torch.zeros(1, *model.input_shape).double()))[0])
    big = torch.full((size, size), 1e6, dtype=torch.float64)
    with torch.no_grad():
        return (model.cell(torch.eye(size).double(), big) - big).T


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("measure", MEASURES)
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 10**6), m=st.floats(0.02, 0.98), scale=st.floats(0.01, 100.0))
def test_boxes_have_an_equilibrium_whatever_the_weights(kind, measure, seed, m, scale):
    model = network(kind, seed, scale=scale, monotone=m, measure=measure)
    state, (v, rho) = dense(model), model.contraction()
    assert state.diagonal().abs().max() < 1e-9
    assert ((state.abs() @ v) <= rho * v * (1 + 1e-6)).all()
    assert rho < 1.0
    inverse = torch.linalg.inv(torch.eye(len(state), dtype=torch.float64) - state.abs())
    gain = model.error_bound(torch.ones(1)).item()
    assert torch.linalg.matrix_norm(inverse, 2) <= gain * (1 + 1e-6)
    assert gain < math.inf


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("measure", MEASURES)
def test_bounds_hold_for_inputs_in_the_box_and_are_exact_at_a_point(kind, measure):
    model = network(kind, 1, measure=measure, monotone=0.3)
    x = torch.rand(12, *model.input_shape).double()
    y = torch.arange(12) % 4
    eps = torch.linspace(0.0, 0.2, 12).double()
    with torch.no_grad():
        found = model.interval_form().bound(x, y, eps, stop=TIGHT)
        assert (found.margins.gather(1, y[:, None]) == 0).all()
        mu, r = pixel_box(x, eps)
        assert ((mu - r) >= 0).all() and ((mu + r) <= 1).all()
        for attempt in range(12):
            way = torch.rand_like(x) * 2 - 1 if attempt % 2 else torch.randn_like(x).sign()
            logits = model.readout(solve(model, mu + r * way))
            margins = logits.gather(1, y[:, None]) - logits
            assert (margins >= found.margins - 1e-9).all()
        logits = model.readout(solve(model, x[:1]))
    assert torch.allclose(found.margins[0], logits[0, y[0]] - logits[0], atol=1e-9)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_in_training_bounds_see_the_statistics_of_their_batch(kind):
    model = network(kind, 2).train()
    x = torch.rand(10, *model.input_shape).double()
    y, eps = torch.zeros(10, dtype=torch.int64), torch.zeros(10)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        margins = model.interval_form(x).bound(x, y, eps, stop=TIGHT).margins
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        logits = model.readout(solve(model, x))
    assert torch.allclose(margins, logits[:, :1] - logits, atol=1e-9)
    with pytest.raises(ConfigError, match="need the images"):
        model.interval_form()


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("measure", MEASURES)
def test_gradients_of_bounds_are_those_of_differences(kind, measure):
    model = network(kind, 3, measure=measure).train()
    x, y = torch.rand(4, *model.input_shape).double(), torch.arange(4)
    eps = torch.tensor([0.02, 0.05, 0.1, 0.0])

    def total() -> torch.Tensor:
        return model.interval_form(x).bound(x, y, eps, stop=TIGHT).margins.sum()

    total().backward()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        way = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        way /= way.norm()
        with torch.no_grad():
            weight.add_(1e-6 * way)
            above = total()
            weight.sub_(2e-6 * way)
            below = total()
            weight.add_(1e-6 * way)
        slope = (above - below).item() / 2e-6
        assert slope == pytest.approx((weight.grad * way).sum().item(), rel=1e-3, abs=1e-5), name


def test_a_warm_start_saves_evaluations_and_changes_nothing():
    model = network("dense", 4, monotone=0.1)
    x, y = torch.rand(8, *model.input_shape).double(), torch.zeros(8, dtype=torch.int64)
    form, stop = model.interval_form(), StopRule(tol=1e-8, max_nfe=1000)
    with torch.no_grad():
        near = form.bound(x, y, torch.full((8,), 0.1), stop=stop)
        cold = form.bound(x, y, torch.full((8,), 0.1001), stop=stop)
        warm = form.bound(x, y, torch.full((8,), 0.1001), start=near.state, stop=stop)
    assert warm.nfe < cold.nfe
    assert torch.allclose(warm.margins, cold.margins, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"monotone": 0.0}, "between 0 and 1"),
        ({"monotone": 1.0}, "between 0 and 1"),
        ({"monotone": float("nan")}, "between 0 and 1"),
        ({"measure": "l1"}, "one of l2, linf"),
        ({"kernel": 2}, "odd whole number"),
        ({"kernel": 3}, "has 1 convolutions and needs one for each"),
        ({"block": (0,), "strides": (1,)}, "block is"),
        ({"block": "ab", "strides": (1,)}, "block is"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_a_sentence(given, text):
    with pytest.raises(ConfigError, match=text):
        IntervalConfig(**given)
