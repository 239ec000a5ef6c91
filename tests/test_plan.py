"""Plans: numbers that do what they say, and one sentence for what no number does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toys import ORIGIN, SIGMA, HalfLine, reference

from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.goals import Radii
from deqcert.certifiers.plan import (
    POWER,
    audits_needed,
    forecast,
    probability_needed,
    samples_needed,
)
from deqcert.cli import main
from deqcert.smoothing import Input, SmoothingEngine


@settings(max_examples=40)
@given(radius=st.floats(0.0, 0.9), alpha=st.floats(1e-5, 0.1))
def test_the_least_samples_are_those_of_a_unanimous_vote(radius, alpha):
    n = samples_needed(radius, 0.25, alpha)
    asked = probability_needed(radius, 0.25)
    assert lower_confidence_bound(n, n, alpha) >= asked * (1 - 1e-12)
    assert n == 1 or lower_confidence_bound(n - 1, n - 1, alpha) < asked * (1 + 1e-12)


@pytest.mark.parametrize(("radius", "p"), [(0.25, 0.9), (0.5, 0.99), (0.1, 0.7), (0.75, 0.9999)])
def test_the_samples_certify_in_nine_of_ten_runs(radius, p):
    n = samples_needed(radius, 0.25, 0.001, p)
    rng = np.random.default_rng(0)
    bounds = [lower_confidence_bound(int(k), n, 0.001) for k in rng.binomial(n, p, 2000)]
    held = sum(certified_radius(bound, 0.25) >= radius - 1e-6 for bound in bounds)
    assert held > stats.binom.ppf(1e-6, 2000, POWER)
    assert held < 0.97 * 2000  # and hardly more samples than that takes


def test_what_no_number_of_samples_certifies_has_none():
    assert samples_needed(0.5, 0.25, 0.001, 0.9) is None
    assert samples_needed(0.0, 0.25, 0.001, 0.5) is None
    assert samples_needed(10.0, 0.25, 0.001) is None
    assert audits_needed(0.25, 0.25, 0.001, 1000, 0.8) is None
    assert audits_needed(0.25, 0.25, 0.001, 1000, 0.95, 0.2) is None


@pytest.mark.parametrize(("radius", "p", "wrong"), [(0.25, 1.0, 0.0), (0.5, 0.999, 0.002)])
def test_the_least_audit_is_the_least(radius, p, wrong):
    size = audits_needed(radius, 0.25, 0.001, 10_000, p, wrong)
    votes = round(10_000 * p)

    def reached(audited):
        more = disagreements_upper_bound(round(wrong * audited), audited, votes, 0.0005)
        bound = lower_confidence_bound(votes - more, 10_000, 0.0005)
        return certified_radius(bound, 0.25) >= radius

    assert reached(size)
    assert not reached(size - 1)


def test_a_forecast_stops_where_the_method_stops():
    goal = Radii((0.0, 0.5, 1.0))
    engine = SmoothingEngine(HalfLine(1 - 1e-12), sigma=SIGMA, seed=0, batch=100)
    method = get_certifier("independent", reference(), n0=10, n=20_000, alpha=0.001, goal=goal)
    found = method.certify(engine, Input(ORIGIN, 0))
    runs = forecast(
        [1.0, 1.0, 0.55],
        goal,
        n=20_000,
        alpha=0.001,
        sigma=SIGMA,
        batch=100,
        rng=np.random.default_rng(0),
    )
    assert runs.drawn.tolist()[:2] == [found.details.n, found.details.n]
    assert runs.p_lower[0] == found.details.p_lower
    assert runs.votes.tolist()[:2] == [20_000, 20_000]
    assert 0.5 < runs.p_lower[2] < 0.55
    assert runs.drawn[2] < 20_000


def test_decisions_are_those_of_all_samples_but_for_near_ties():
    """The promise of sequential sampling: far fewer samples, the same decisions."""
    grid, n, alpha, sigma = (0.0, 0.25, 0.5, 0.75), 20_000, 0.001, 0.25
    rng = np.random.default_rng(1)
    p = rng.beta(8, 0.4, 300)
    runs = forecast(p, Radii(grid), n=n, alpha=alpha, sigma=sigma, batch=100, rng=rng)
    whole = np.array([lower_confidence_bound(int(k), n, alpha) for k in runs.votes])
    for radius in grid:
        asked = probability_needed(radius, sigma)
        certified = (whole > 0.5) & (whole >= asked)
        early = (runs.p_lower > 0.5) & (runs.p_lower >= asked)
        tie = np.abs(p - asked) < 5 * np.sqrt(asked * (1 - asked) / n)
        assert (certified == early)[~tie].all()
    assert runs.drawn.mean() < n / 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--radii 0.5 --sigma 0.25 --p 0.9", "at p 0.9 the true radius is 0.320"),
        ("--radii 0.25,1 --sigma 0.25", "radius 1 needs at least 218105 samples"),
        ("--radii 40 --sigma 0.25", "no number of samples certifies radius 40"),
        ("--radii 0 --sigma 0.25 --n 9", "needs at least 10 samples"),
        ("--radii x --sigma 0.25", "radii is 'x'"),
        ("--radii 0.5 --sigma 0", "sigma is 0, but"),
        ("--radii 0.5 --sigma 0.25 --p 2", "p is '2'"),
        ("--radii 0.5 --sigma 0.25 --p a", "p is 'a'"),
        ("--radii 0.5 --sigma 0.25 --alpha 1", "alpha is 1, but"),
        ("--radii 0.5 --sigma 0.25 --n 0", "n is 0"),
        ("--radii 0.5 --sigma 0.25 --wrong 1", "wrong is 1, but"),
        ("--radii 0.5 --sigma 0.25 --pilot 0", "pilot is 0"),
        ("--sigma 0.25", "missing option"),
    ],
)
def test_the_impossible_is_refused_in_one_sentence(options, says, capsys):
    assert main(["plan", *options.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert says in said.err


def test_a_plan_without_a_model_says_what_each_radius_takes(capsys):
    options = "--radii 0.25,0.5 --sigma 0.25 --p 0.9,0.999 --n 20000"
    assert main(["plan", *options.split()]) == 0
    said = capsys.readouterr().out
    assert str(samples_needed(0.5, 0.25, 0.001, 0.999)) in said
    assert str(audits_needed(0.25, 0.25, 0.001, 20_000, 0.9)) in said
    assert "never" in said
    assert said.count("samples on average") == 2


def test_a_pilot_forecasts_samples_and_time(capsys):
    options = "--radii 0,0.25 --images 0:3 --pilot 40 --batch 40 --n 5000 --threads 1"
    assert main(["plan", *options.split()]) == 0
    said = capsys.readouterr().out
    assert "pilot: 3 images, 40 votes each" in said
    assert "evaluations per vote" in said
    assert "times less" in said
