"""Method 'interval': intervals hold every equilibrium of a box, and planted mistakes are caught."""

from __future__ import annotations

from pathlib import Path

import mpmath
import numpy as np
import pytest
import test_interval_models as intervals
import test_proofs as monotone
import torch
from torch import Tensor

from deqcert.certifiers import get_certifier
from deqcert.cli import main
from deqcert.errors import ConfigError, DataError
from deqcert.models import IntervalDEQ, architecture, load_model, outward, pixel_box
from deqcert.proofs import a_priori, adjoint, post_fixed_point
from deqcert.proofs.a_priori import APriori
from deqcert.proofs.intervals import Intervals
from deqcert.proofs.post_fixed_point import PostFixedPoint
from deqcert.smoothing import Input

KINDS = ("dense", "conv", *monotone.KINDS)


def network(kind: str, seed: int):
    if kind in ("dense", "conv"):
        return intervals.network(kind, seed, measure=("l2", "linf")[seed % 2], monotone=0.3)
    return monotone.network(kind, seed)


def prover(model, *, tol: float = 1e-8, max_nfe: int = 500) -> Intervals:
    if isinstance(model, IntervalDEQ):
        return PostFixedPoint(model, tol=tol, max_nfe=max_nfe)
    return APriori(model, max_nfe=max_nfe)


def logits(model, x: Tensor) -> Tensor:
    """Logits of the equilibria to 1e-13, differentiable in the images."""
    if isinstance(model, IntervalDEQ):
        with torch.no_grad():
            z = intervals.solve(model, x)
        injection = model.inject(x)
        for _ in range(25 if x.requires_grad else 1):
            z = model.cell(z, injection)
        return model.readout(z)
    form, bias, shift = monotone.parts(model)
    z = monotone.equilibrium(form, bias, x.detach())
    if x.requires_grad:
        slopes = monotone.slopes(form, z)
        z = z @ form.readout.T
        return z + ((x - x.detach()).flatten(1)[:, None] * slopes).sum(dim=2) + shift
    return z @ form.readout.T + shift


def found_inside(model, prove: Intervals, points: int, *, seed: int) -> tuple[int, int]:
    """Look for another class inside proven radii; how often there is one, in how many radii."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, *model.input_shape, generator=generator, dtype=torch.float64)
    x = ((x - 0.2) * 1.5).clamp(0.0, 1.0)  # some black and white pixels
    reached = prove.reach(x, 1.0, resolution=1e-3)
    radius = torch.tensor([found.radius for found in reached])
    best = torch.tensor([found.best for found in reached])
    certified = radius > 0
    x, radius, best = x[certified], radius[certified].double(), best[certified]
    centre, half = pixel_box(x, radius)
    wrong = torch.zeros(len(x), dtype=torch.bool)
    at = x
    for attempt in range(5):
        if attempt < 2:  # to the corner that is downhill on the smallest lead
            at = at.detach().requires_grad_()
            leads = logits(model, at)
            own = leads.gather(1, best[:, None])
            rival = (own - leads).scatter(1, best[:, None], torch.inf).amin(dim=1)
            (slope,) = torch.autograd.grad(rival.sum(), at)
            at = (centre - half * slope.sign()).detach()
        elif attempt < 4:
            at = centre + half * torch.randn(x.shape, generator=generator).sign()
        else:
            at = centre + half * (2 * torch.rand(x.shape, generator=generator) - 1)
        with torch.no_grad():
            wrong |= logits(model, at).argmax(dim=1) != best
    return int(wrong.sum()), len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_inside_proven_radii(kind: str) -> None:
    model = network(kind, 0)
    wrong, radii = found_inside(model, prover(model), 50, seed=0)
    assert wrong == 0
    assert radii > 35


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_inside_two_thousand_proven_radii(kind: str) -> None:
    certified = 0
    for seed in range(3):
        model = network(kind, seed)
        wrong, radii = found_inside(model, prover(model), 800, seed=seed)
        assert wrong == 0
        certified += radii
    assert certified > 2000


def leads_hold(model, prove: Intervals) -> bool:
    """Whether leads are below those of inputs in the box, from tiny boxes to large ones."""
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(20, *model.input_shape, generator=generator).double()
    eps = torch.logspace(-6, -0.5, 20).double()
    classes = torch.arange(20) % 4
    gaps = prove.leads(x, eps, classes).gaps
    centre, half = pixel_box(x, eps)
    held = True
    for attempt in range(8):
        way = 2.0 * torch.rand(x.shape, generator=generator) - 1.0
        with torch.no_grad():
            found = logits(model, centre + half * (way.sign() if attempt % 2 else way))
        held &= bool((gaps <= found.gather(1, classes[:, None]) - found + 1e-12).all())
    return held


@pytest.mark.parametrize("kind", KINDS)
def test_leads_are_below_those_of_inputs_in_the_box_also_at_its_corners(kind: str) -> None:
    model = network(kind, 5)
    assert leads_hold(model, prover(model))


# --- planted mistakes --------------------------------------------------------------------------


def test_a_solve_that_stops_early_only_makes_radii_smaller() -> None:
    model = network("dense", 0)
    assert leads_hold(model, prover(model, tol=0.5, max_nfe=2))
    x = torch.rand(30, *model.input_shape)
    early, late = (prover(model, tol=tol).reach(x, 1.0) for tol in (0.01, 1e-9))
    assert all(a.radius <= b.radius + 2e-4 for a, b in zip(early, late, strict=True))
    assert sum(a.radius < b.radius for a, b in zip(early, late, strict=True)) > 20


def test_a_box_that_is_not_enclosed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostFixedPoint, "_enclosed", lambda self, found, entering: found)
    model = network("dense", 0)
    assert not leads_hold(model, prover(model, tol=0.5, max_nfe=2))


def test_a_box_that_forgets_what_the_cell_makes_of_its_own_inflation_is_caught() -> None:
    model = intervals.network("dense", 0, monotone=0.3, scale=100.0)
    with torch.no_grad():  # every unit is on, and drives every other
        model.weight.abs_()
        model.block[0].norm.bias.add_(5.0)
    prove = prover(model, max_nfe=1)
    assert leads_hold(model, prove)
    prove._factor = 0.0
    assert not leads_hold(model, prove)


def test_forgetting_the_error_of_the_solve_in_a_ball_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adjoint, "MOST", 1)
    model = network("monotone", 0)
    prove = prover(model)
    assert leads_hold(model, prove)
    prove._relaxed.state_norm = 0.0
    assert not leads_hold(model, prove)


def test_a_ball_that_is_too_small_is_caught() -> None:
    model = network("monotone", 0)
    prove = prover(model)
    prove._relaxed.input_norm /= 8.0
    assert not leads_hold(model, prove)


@pytest.mark.parametrize("kind", ["dense", "monotone"])
def test_dropping_the_pairs_but_one_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(kind, 0)
    prove = prover(model)
    honestly = prove.leads

    def dropped(x, eps, classes, start=None):
        found = honestly(x, eps, classes, start)
        found.gaps[:] = found.gaps.amax(dim=1, keepdim=True)
        return found

    monkeypatch.setattr(prove, "leads", dropped)
    assert not leads_hold(model, prove)
    assert found_inside(model, prove, 60, seed=0)[0] > 0


# --- arithmetic ---------------------------------------------------------------------------------


def numbers(values: Tensor) -> np.ndarray:
    """The very numbers, as mpmath holds them."""
    flat = [mpmath.mpf(value) for value in values.detach().double().flatten().tolist()]
    return np.array(flat, dtype=object).reshape(values.shape)


def matrix(layer: torch.nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """A linear layer without a bias as a matrix of its very weights."""
    size = int(np.prod(shape))
    with torch.no_grad():
        return numbers(layer(torch.eye(size).double().view(size, *shape)).flatten(1).T)


def exact_network(model: IntervalDEQ, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Injection and logits of the equilibrium of the stored weights, in forty digits."""
    features = (numbers(x) - numbers(model.normalize.mean)) / numbers(model.normalize.std)
    shape, features = x.shape, features.flatten()
    root = np.vectorize(mpmath.sqrt, otypes=[object])
    for place, layer in enumerate(model.block):
        norm = layer.norm
        weight = matrix(layer.before, shape)
        shape = layer.before(torch.zeros(1, *shape).double()).shape[1:]
        area = int(np.prod(shape[1:]))
        scale = numbers(norm.weight) / root(numbers(norm.running_var) + mpmath.mpf(norm.eps))
        shift = numbers(norm.bias) - numbers(norm.running_mean) * scale
        features = (weight @ features) * scale.repeat(area) + shift.repeat(area)
        if place + 1 < len(model.block):
            features = np.maximum(features, 0)
    free, m = numbers(model.weight), mpmath.mpf(model.config.monotone)
    sums = abs(free).reshape(*free.shape[:2], -1).sum(axis=2)
    convolution = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    convolution.weight = model.weight
    dense = matrix(convolution, shape) if free.ndim == 4 else free
    own = np.arange(len(dense))
    if model.config.measure == "linf":
        state = dense + np.diag(((1 - m) - sums.sum(axis=1)).repeat(area))
    else:
        d = np.maximum((sums.sum(axis=1) + sums.sum(axis=0)) / (2 * (1 - m)), 1).repeat(area)
        state = dense / root(d)[:, None] / root(d)
    rest = 1 - state[own, own]
    state[own, own] = 0
    z = features * 0
    while True:
        following = np.maximum((state @ z + features) / rest, 0)
        if max(abs(following - z)) < mpmath.mpf(10) ** -32:
            break
        z = following
    return features / rest, numbers(model.classifier.weight) @ z + numbers(model.classifier.bias)


@pytest.fixture(scope="module", params=["dense", "conv"])
def in_digits(request: pytest.FixtureRequest):
    """A model, images, and their leads in forty digits."""
    made = []
    with mpmath.workdps(40):
        for seed in range(2 if request.param == "dense" else 1):
            model = network(request.param, seed).float().double()
            images = 8 if request.param == "dense" else 1  # how they round differs by machine
            x = torch.rand(images, *model.input_shape).double()
            injections, exact = zip(*(exact_network(model, one) for one in x), strict=True)
            made.append((model, x, [value.max() - value for value in exact], injections))
    return made


def too_high(in_digits) -> int:
    """How many proven leads at points are above the exact ones."""
    above = 0
    with mpmath.workdps(40):
        for model, x, exact, _ in in_digits:
            best = torch.tensor([int(np.argmin(leads)) for leads in exact])
            stop = {"tol": 1e-30, "max_nfe": 200}
            gaps = prover(model, **stop).leads(x, torch.zeros(len(x)).double(), best).gaps
            for found, leads in zip(gaps.tolist(), exact, strict=True):
                above += sum(a > b for a, b in zip(found, leads, strict=True))
                assert all(b - a < 1e-11 for a, b in zip(found, leads, strict=True))
    return above


def test_leads_at_a_point_are_just_below_those_of_forty_digits(in_digits) -> None:
    assert too_high(in_digits) == 0


def test_injections_are_as_near_to_those_of_forty_digits_as_is_said(in_digits) -> None:
    with mpmath.workdps(40):
        for model, x, _, injections in in_digits:
            found, bound = model.inject(x), model.injection_rounding(x)
            for row, exact in enumerate(injections):
                distance = mpmath.norm(list(numbers(found[row]) - exact))
                assert distance <= mpmath.mpf(bound[row].item()) < 1e-12


@pytest.mark.parametrize("in_digits", ["dense"], indirect=True)
def test_rounding_that_is_ignored_is_caught(in_digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outward, "UNIT", 0.0)
    monkeypatch.setattr(outward, "rounding_constant", lambda operations: 0.0)
    monkeypatch.setattr(outward, "rounded", lambda box: 0.0 * box[0])
    monkeypatch.setattr(post_fixed_point, "rounded", lambda box: 0.0 * box[0])
    assert too_high(in_digits) > 0


def test_the_least_value_in_a_ball_and_a_box_is_that_of_neither_alone() -> None:
    torch.manual_seed(0)
    model = network("monotone", 1)
    prove = prover(model)
    x = torch.rand(6, *model.input_shape).double()
    eps = torch.full((6,), 0.03).double()
    ball = a_priori.ball(prove._relaxed, prove._adjoint, x.flatten(1), eps)
    low = (ball.centre - 0.6 * ball.radius[:, None]).clamp_min(0.0)
    high = ball.centre + 0.6 * ball.radius[:, None]
    ahead = torch.randn(6, 3, ball.centre.shape[1]).double()
    found = a_priori.least(ahead, ball, low, high)
    box = (ahead.clamp_min(0) * low[:, None] + ahead.clamp_max(0) * high[:, None]).sum(2)
    alone = (ahead * ball.centre[:, None]).sum(2) - ahead.norm(dim=2) * ball.radius[:, None]
    assert (found >= torch.maximum(box, alone) - 1e-6).all()
    assert (found > torch.maximum(box, alone) + 1e-6).any()
    for _ in range(200):
        z = ball.centre + torch.randn_like(ball.centre) * ball.radius[:, None]
        z = torch.minimum(torch.maximum(z, low), high)
        inside = (z - ball.centre).norm(dim=1) <= ball.radius
        value = (ahead * z[:, None]).sum(2)
        assert (value >= found)[inside].all()


# --- the method ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "monotone"])
def test_a_certificate_says_what_it_rests_on(kind: str) -> None:
    model = network(kind, 0)
    x = torch.rand(*model.input_shape)
    found = get_certifier("interval", eps=0.5).certify(model, Input(x, 0))
    assert (found.norm, found.alpha, found.details.eps) == ("linf", 0.0, 0.5)
    assert found.details.gap > 0.0
    assert found.details.rival not in (found.prediction, None)
    assert "[0, 1]" in found.assumptions
    assert 0.0 < found.radius < 0.5
    small = get_certifier("interval", eps=found.radius / 2).certify(model, Input(x, 0))
    assert small.radius == pytest.approx(found.radius / 2, abs=1e-6)
    batch = prover(model).reach(x[None], 0.5)[0]
    assert batch.radius == pytest.approx(found.radius, abs=2e-4)


@pytest.mark.parametrize("eps", ["0", "-0.1", "1.5", "nan"])
def test_an_eps_outside_its_range_ends_with_one_sentence(eps: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    given = f"certify --model digits --method interval --method-option eps={eps} --out {out}"
    assert main(given.split()) == 2
    assert "eps is" in (said := capsys.readouterr().err)
    assert len(said.strip().splitlines()) == 1
    assert not out.exists()


def test_a_model_without_intervals_is_refused_in_a_sentence(tmp_path: Path, capsys) -> None:
    with pytest.raises(ConfigError, match="but MDEQ offers none"):
        get_certifier("interval").check(architecture("tiny").build().eval())
    given = f"certify --model digits --method interval --out {tmp_path / 'run'}"
    assert main(given.split()) == 2
    assert "offers none" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dense", "monotone"])
def test_an_image_that_cannot_be_is_refused(kind: str) -> None:
    model = network(kind, 0)
    with pytest.raises(DataError, match="not finite"):
        image = torch.full(model.input_shape, torch.nan)
        get_certifier("interval").certify(model, Input(image, 0))
    with pytest.raises(DataError, match="cannot enter"):
        get_certifier("interval").certify(model, Input(torch.zeros(1, 2, 2), 0))


@monotone.needs_golden
def test_the_published_network_has_the_boxes_that_balls_prove() -> None:
    from deqcert.data import load_dataset

    try:
        data = load_dataset(f"mnist:{monotone.SHARED / 'data' / 'mnist'}", "test")
    except DataError:
        pytest.skip("no ../shared/data/mnist")
    model = load_model(monotone.GOLDEN / "deq_MNIST_SingleFcNet_m=20.mat")
    x = torch.from_numpy(data.batch(range(100))).double()
    labels = torch.from_numpy(data.labels())[:100]
    counts = []
    for eps in (0.01, 0.02, 0.03):
        gaps = prover(model).leads(x, torch.full((100,), eps).double(), labels).gaps
        gaps.scatter_(1, labels[:, None], torch.inf)
        counts.append(int((gaps > 0).all(dim=1).sum()))
    assert counts == [96, 74, 26]  # balls alone: 93, 56
