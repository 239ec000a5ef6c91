"""Boxes of inputs: every equilibrium is in its bounds, and nothing is found in a proven box."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_proofs import GOLDEN, SHAPE, SHARED, equilibrium, needs_golden, network
from torch import Tensor

from deqcert.certifiers import get_certifier
from deqcert.certifiers.goals import parse_goal
from deqcert.certifiers.zonotope import largest_proven
from deqcert.errors import ConfigError, DataError
from deqcert.models import architecture, load_model
from deqcert.models.relu_form import ReluForm
from deqcert.proofs import boxes, branching, relaxed, zonotope
from deqcert.proofs.adjoint import Adjoint
from deqcert.proofs.boxes import Boxes
from deqcert.proofs.branching import Branching
from deqcert.proofs.relaxed import Region, Relaxed
from deqcert.smoothing import Input

KINDS = ("contractive", "lipschitz-bounded", "monotone", "monotone-conv")
SLACK = 1e-12
"""More than the error of the equilibria that bounds are compared with."""


def before(form: ReluForm, x: Tensor) -> tuple[Tensor, Tensor]:
    """The equilibria for inputs, shape (B, D), and what enters their relus."""
    z = equilibrium(form, form.bias, x)
    return z, z @ form.state.T + x @ form.input.T + form.bias


def inside(x: Tensor, eps: float, seed: int, count: int) -> list[Tensor]:
    """Inputs of the boxes, shape (B, C*H*W): half of them corners, half anywhere."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (x - eps).clamp_min(0.0), (x + eps).clamp_max(1.0)
    found = []
    for number in range(count):
        share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        found.append(low + (high - low) * (share if number % 2 else share.round()))
    return found


def images(count: int, seed: int) -> Tensor:
    """Random images, some pixels black and some white."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    return (1.4 * x - 0.2).clamp(0.0, 1.0)


def outside(kind: str, seed: int, eps: float, rounds: int) -> float:
    """By how much what enters relus leaves its bounds, at most, over some inputs of boxes."""
    form = network(kind, seed).double().relu_form()
    net, solver, x = Relaxed(form), Adjoint(form), images(6, seed).flatten(1)
    reach = torch.full((len(x),), eps, dtype=torch.float64)
    region = zonotope.tighten(net, zonotope.enclose(net, solver, x, reach), rounds)
    found = -math.inf
    for at in inside(x, eps, seed, 8):
        z, p = before(form, at)
        found = max(found, (p - region.upper).max().item(), (region.lower - p).max().item())
        found = max(found, (z.norm(dim=1) - region.state).max().item())
    return found


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.0, 0.5), rounds=st.integers(0, 4))
def test_what_enters_the_relus_of_every_equilibrium_is_within_its_bounds(kind, seed, eps, rounds):
    assert outside(kind, seed, eps, rounds) <= SLACK


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.0, 0.3), scale=st.floats(0.0, 3.0))
def test_any_weights_at_all_give_a_bound(kind, seed, eps, scale):
    form = network(kind, seed).double().relu_form()
    net, solver, x = Relaxed(form), Adjoint(form), images(6, seed).flatten(1)
    reach = torch.full((len(x),), eps, dtype=torch.float64)
    region = zonotope.tighten(net, zonotope.enclose(net, solver, x, reach), 2)
    weights = scale * torch.randn(6, len(form.state), dtype=torch.float64)
    objective = torch.randn(6, len(form.state), dtype=torch.float64)
    bound = net.maximum(net.weigh(weights, objective), region)
    for at in inside(x, eps, seed, 6):
        assert ((objective * before(form, at)[0]).sum(dim=1) <= bound + SLACK * (1 + scale)).all()


def test_zonotopes_and_chosen_weights_are_much_narrower_than_the_ball():
    form = network("monotone", 0).double().relu_form()
    net, solver, x = Relaxed(form), Adjoint(form), images(20, 0).flatten(1)
    region = zonotope.enclose(net, solver, x, torch.full((20,), 0.05, dtype=torch.float64))
    less = zonotope.tighten(net, region, 4)
    assert (less.upper <= region.upper).all()
    assert (less.lower >= region.lower).all()
    where = region.open
    widths = [(r.upper - r.lower)[where].mean() for r in (region, less)]
    assert widths[1] < 0.5 * widths[0]


def plant_no_error_term(monkeypatch):
    """A relu is replaced by the line through the ends of its interval, and nothing around it."""

    def line(weighed, region):
        slope = region.upper / (region.upper - region.lower)
        return weighed.factors * 0.0 - slope * 0.0

    monkeypatch.setattr(relaxed, "worst_terms", line)


def shrink_the_ball(monkeypatch, share: float) -> None:
    honest = relaxed.Relaxed.__init__

    def smaller(self, form):
        honest(self, form)
        self.input_norm *= share

    monkeypatch.setattr(relaxed.Relaxed, "__init__", smaller)


def plant_no_ball(monkeypatch):
    shrink_the_ball(monkeypatch, 0.0)


@pytest.mark.parametrize(("plant", "rounds"), [(plant_no_error_term, 2), (plant_no_ball, 0)])
def test_a_forgotten_error_term_and_a_forgotten_ball_are_caught(monkeypatch, plant, rounds):
    assert outside("monotone", 1, 0.3, rounds) <= SLACK
    plant(monkeypatch)
    assert outside("monotone", 1, 0.3, rounds) > 1e-3


def tight() -> ReluForm:
    """One unit that moves exactly as far as the ball says: z = (x1 + x2) / (2 m), always on."""
    return ReluForm(
        state=torch.full((1, 1), -1.0, dtype=torch.float64),
        input=torch.ones(1, 2, dtype=torch.float64),
        readout=torch.tensor([[1.0], [0.0]], dtype=torch.float64),
        monotone=2.0,
        state_error=0.0,
        input_error=0.0,
        bias=torch.ones(1, dtype=torch.float64),
        bias_error=0.0,
        offset=torch.tensor([0.0, 0.8], dtype=torch.float64),
    )


def leaves_the_ball(form: ReluForm) -> bool:
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    region = zonotope.enclose(Relaxed(form), Adjoint(form), x, torch.tensor([0.25]).double())
    corner = torch.full((1, 2), 0.75, dtype=torch.float64)
    return bool((before(form, corner)[1] > region.upper).any())


def test_a_ball_a_thousandth_too_small_is_caught(monkeypatch):
    assert not leaves_the_ball(tight())
    shrink_the_ball(monkeypatch, 0.999)
    assert leaves_the_ball(tight())


def exact_maximum(form: ReluForm, w: Tensor, c: Tensor, region: Region) -> Fraction:
    """The maximum over relaxed relus and the box of the equation weighed by w, in rationals."""

    def exact(t: Tensor) -> list[Fraction]:
        return [Fraction(v) for v in t.tolist()]

    state, entering = ([exact(row) for row in m] for m in (form.state.T, form.input.T))
    weights, low, high = exact(w), exact(region.lower[0]), exact(region.upper[0])
    total = sum(a * b for a, b in zip(weights, exact(form.bias), strict=True))
    for column, at, half in zip(
        entering, exact(region.centre[0]), exact(region.half[0]), strict=True
    ):
        slope = sum(a * b for a, b in zip(weights, column, strict=True))
        total += slope * at + abs(slope) * half
    for i, (column, own) in enumerate(zip(state, exact(c), strict=True)):
        factor = own + sum(a * b for a, b in zip(weights, column, strict=True))
        ends = {(p, max(p, Fraction(0))) for p in (low[i], high[i])}
        ends |= {(Fraction(0), Fraction(0))} if low[i] < 0 < high[i] else set()
        total += max(factor * z - weights[i] * p for p, z in ends)
    return total


def below_the_exact(seed: int) -> int:
    """How many of some bounds are below those of exact arithmetic on the same numbers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    form = dataclasses.replace(
        tight(), state=draw(5, 5), input=draw(5, 7), bias=draw(5), readout=draw(2, 5)
    )
    found = 0
    for _ in range(10):
        ends = draw(2, 1, 5).sort(dim=0).values
        centre, half = draw(1, 7), draw(1, 7).abs()
        size = torch.full((1,), 10.0, dtype=torch.float64)
        region = Region(centre, half, ends[0], ends[1], size, size)
        w, c = draw(1, 5), draw(1, 5)
        net = Relaxed(form)
        bound = net.maximum(net.weigh(w, c), region)
        found += Fraction(bound.item()) < exact_maximum(form, w[0], c[0], region)
    return found


def test_bounds_are_above_those_of_exact_arithmetic_and_rounding_that_is_ignored_is_caught(
    monkeypatch,
):
    assert below_the_exact(0) == 0
    monkeypatch.setattr(relaxed.Relaxed, "_charge", lambda self, weighed, region: 0.0)
    assert below_the_exact(0) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_bias_is_as_near_to_the_exact_one_as_is_said(kind):
    model = network(kind, 5)
    form = model.relu_form()
    if kind == "contractive":
        weight, bias = model.encoder.weight.double(), model.encoder.bias.double()
    else:
        weight, bias = model.input_matrix()
    mean, std = (Fraction(v.double().item()) for v in (model.normalize.mean, model.normalize.std))
    off = Fraction(0)
    for row, own, computed in zip(weight.tolist(), bias.tolist(), form.bias.tolist(), strict=True):
        exact = Fraction(own) - sum(map(Fraction, row)) * mean / std
        off += (exact - Fraction(computed)) ** 2
    assert 0 < off <= Fraction(form.bias_error) ** 2


@settings(deadline=None, max_examples=60)
@given(
    x=st.floats(-0.5, 1.5), eps=st.floats(0.0, 1.0), share=st.fractions(-1, 1, max_denominator=9)
)
def test_a_box_of_pixels_holds_every_real_one_that_it_should(x, eps, share):
    at = torch.tensor([[x]], dtype=torch.float64)
    centre, half = relaxed.pixel_boxes(at, torch.tensor([eps], dtype=torch.float64))
    pixel = Fraction(x) + share * Fraction(eps)
    if 0 <= pixel <= 1 or pixel == Fraction(x):
        assert abs(pixel - Fraction(centre.item())) <= Fraction(half.item())
    assert half.item() <= eps + max(0.0, -x, x - 1.0) + 1e-14


# --- decisions ---------------------------------------------------------------------------------


def found_in_boxes(kind: str, seed: int, points: int, **options: int) -> tuple[int, int]:
    """How many boxes are proven, and in how many of them another class is found."""
    settings = {"rounds": 3, "steps": 1, "branches": 60} | options
    model = network(kind, seed)
    form, x = model.double().relu_form(), images(points, seed)
    box = Boxes(model, **settings)
    best = box.classes(x)
    generator = torch.Generator().manual_seed(seed)
    eps = 0.25 * torch.rand(points, generator=generator, dtype=torch.float64) ** 2
    proven = box.decide(x, eps, best).proven
    x, eps, best = x[proven].flatten(1), eps[proven], best[proven]
    low = (x - eps[:, None]).clamp_min(0.0)
    high = (x + eps[:, None]).clamp_max(1.0)
    wrong = torch.zeros(len(x), dtype=torch.bool)
    rows, at = torch.arange(len(x)), x
    for step in range(8):
        z = before(form, at)[0]
        logits = z @ form.readout.T + form.offset
        wrong |= logits.argmax(dim=1) != best
        logits[rows, best] = -math.inf
        pair = form.readout[logits.argmax(dim=1)] - form.readout[best]
        active = torch.diag_embed((z > 0).double())
        weights = torch.linalg.solve(
            torch.eye(len(form.state)).double() - (active @ form.state).mT, pair
        )
        slope = (active @ weights[:, :, None])[:, :, 0] @ form.input
        if step % 3 == 2:
            slope = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        at = torch.where(slope > 0, high, low)
    return int(proven.sum()), int(wrong.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_in_proven_boxes(kind):
    proven, wrong = found_in_boxes(kind, 0, 250)
    assert proven > 40
    assert wrong == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_in_two_thousand_proven_boxes(kind):
    proven = 0
    for seed in range(1, 60):
        more, wrong = found_in_boxes(kind, seed, 250, branches=300)
        proven += more
        assert wrong == 0
        if proven >= 2000:
            break
    assert proven >= 2000


def plant_yes(monkeypatch):
    """Whatever is asked is proven."""
    honest = Branching.decide

    def says_yes(self, region, best):
        found = honest(self, region, best)
        return dataclasses.replace(found, proven=torch.ones_like(found.proven))

    monkeypatch.setattr(Branching, "decide", says_yes)


def plant_one_branch(monkeypatch):
    """The branch in which the relu is off is forgotten."""
    honest = branching._split

    def half(branches, found, region, which):
        both = honest(branches, found, region, which)
        return both.rows(slice(0, len(both) // 2))

    monkeypatch.setattr(branching, "_split", half)
    monkeypatch.setattr(Branching, "_attacked", lambda self, region, best: best < 0)
    monkeypatch.setattr(Branching, "_wrong", lambda self, x, best: best < 0)


def plant_a_pair_dropped(monkeypatch):
    honest = Branching._pairs

    def fewer(self, region, best, classes):
        return honest(self, region, best, classes - 1)

    monkeypatch.setattr(Branching, "_pairs", fewer)


@pytest.mark.parametrize("plant", [plant_yes, plant_one_branch, plant_a_pair_dropped])
def test_planted_mistakes_are_found_in_boxes_that_are_said_to_be_proven(monkeypatch, plant):
    plant(monkeypatch)
    assert found_in_boxes("monotone", 0, 250)[1] > 0


def test_what_is_proven_of_a_box_is_proven_of_smaller_ones():
    model, x = network("monotone", 2), images(40, 2)
    box = Boxes(model, rounds=3, steps=1, branches=60)
    best, last = box.classes(x), torch.ones(40, dtype=torch.bool)
    counts = []
    for eps in (0.0, 0.01, 0.03, 0.1):
        found = box.decide(x, torch.full((40,), eps), best)
        assert not (found.proven & ~last).any()
        assert not (found.proven & found.refuted).any()
        last = found.proven
        counts.append(int(last.sum()))
    assert counts[0] == 40
    assert counts[-1] < 20


def test_each_part_of_the_method_proves_more():
    model, x = network("monotone", 3), images(120, 3)
    eps, counts = torch.full((120,), 0.06), []
    for rounds, steps, branches in ((0, 0, 0), (3, 0, 0), (3, 3, 0), (3, 3, 300)):
        box = Boxes(model, rounds=rounds, steps=steps, branches=branches)
        counts.append(int(box.decide(x, eps, box.classes(x)).proven.sum()))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] <= counts[2] < counts[3]


# --- certificates ------------------------------------------------------------------------------


def test_a_certificate_says_what_is_proven_and_where_another_class_is():
    model = network("monotone", 0)
    certifier = get_certifier("zonotope", eps=0.4, resolution=0.05, branches=30, steps=1)
    for index, x in enumerate(images(3, 7)):
        made = certifier.certify(model, Input(x, index))
        assert (made.norm, made.alpha, made.sound) == ("linf", 0.0, True)
        details = made.details
        assert details.rival != made.prediction
        if details.refuted is not None:
            assert made.radius < details.refuted
        if made.radius > 0.0:
            box = Boxes(model, rounds=4, steps=1, branches=30)
            best = torch.tensor([made.prediction])
            assert box.decide(x[None], torch.tensor([made.radius]).double(), best).proven


@settings(deadline=None, max_examples=60)
@given(edge=st.floats(0.0, 1.0), limit=st.floats(0.01, 1.0), resolution=st.floats(1e-4, 0.5))
def test_the_search_ends_at_the_edge_of_what_is_proven(edge, limit, resolution):
    asked = []

    def proves(radius: float) -> bool:
        asked.append(radius)
        return radius <= edge

    found = largest_proven(proves, limit, resolution, None)
    assert found <= edge
    assert found == limit or found >= min(edge, limit) - resolution
    assert found == 0.0 or found in asked
    share = largest_proven(proves, limit, 1e-6, parse_goal("relative=0.3"))
    assert 0.7 * min(edge, limit) - 1e-6 <= share <= edge


def test_a_goal_of_radii_tries_these_alone():
    for goal, edge, found in (
        ("radii=0,0.02,0.05,0.1", 0.06, 0.05),
        ("radii=0.02", 0.01, 0.0),
        ("radii=0.5,0.6", 1.0, 0.6),
    ):
        asked = []

        def proves(radius: float, edge: float = edge, asked: list[float] = asked) -> bool:
            asked.append(radius)
            return radius <= edge

        assert largest_proven(proves, 0.3, 0.1, parse_goal(goal)) == found
        assert set(asked) <= set(parse_goal(goal).radii)


def test_models_and_inputs_that_cannot_be_taken_are_refused_in_a_sentence(monkeypatch):
    certifier = get_certifier("zonotope")
    with pytest.raises(ConfigError, match=r"one relu layer .* but MDEQ is none"):
        certifier.check(architecture("tiny").build().eval())
    model = network("monotone", 0)
    with pytest.raises(DataError, match="not finite"):
        certifier.certify(model, Input(torch.full(SHAPE, math.nan), 0))
    with pytest.raises(DataError, match=r"takes \(B, 1, 4, 4\)"):
        certifier.certify(model, Input(torch.zeros(1, 5, 5), 0))
    monkeypatch.setattr(boxes, "MOST_UNITS", 9)
    with pytest.raises(ConfigError, match="at most 9 elements, but this model has 10"):
        Boxes(model, rounds=1, steps=1, branches=1)


@pytest.mark.parametrize("eps", [0.0, -0.1, 1.5, math.nan])
def test_a_largest_radius_outside_the_range_of_pixels_is_refused(eps):
    with pytest.raises(ConfigError, match=r"eps is .*, but it must be a number above 0 to 1"):
        get_certifier("zonotope", eps=eps)


@needs_golden
@pytest.mark.long
def test_a_published_network_is_decided_on_every_image_of_a_hundred():
    from deqcert.data import load_dataset

    try:
        data = load_dataset(f"mnist:{SHARED / 'data' / 'mnist'}", "test")
    except DataError:
        pytest.skip("no ../shared/data/mnist")
    model = load_model(GOLDEN / "deq_MNIST_SingleFcNet_m=20.mat")
    x, labels = torch.from_numpy(data.batch(range(100))), torch.from_numpy(data.labels()[:100])
    box = Boxes(model, rounds=4, steps=2, branches=3000)
    right = box.classes(x) == labels
    for eps, known in ((0.01, 99), (0.02, 98), (0.05, 75)):
        found = box.decide(x, torch.full((100,), eps), box.classes(x))
        assert int((found.proven & right).sum()) == known
        assert int((found.refuted & right).sum()) == 99 - known
