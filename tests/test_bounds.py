"""The bounds: sanity values, properties, and refusals."""

from __future__ import annotations

import math
import re
from pathlib import Path

import mpmath  # comes with torch
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats
from toys import ORIGIN, SIGMA, AlwaysFirst, HalfLine, reference, warm

import deqcert
from deqcert.certifiers import CERTIFIERS, get_certifier
from deqcert.certifiers.bounds import (
    SHAVE,
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
    round_down,
    two_sided_p_value,
    write_radius,
)
from deqcert.certifiers.goals import parse_goal
from deqcert.certifiers.metrics import average_certified_radius, certified_accuracy
from deqcert.certifiers.sampling import Sampling, radii
from deqcert.certifiers.sequences import disagreements_upper_sequence
from deqcert.errors import ConfigError
from deqcert.smoothing import Input, SmoothingEngine

UNAUDITED = ("standard", "independent")
SANITY = [(400, 184, 0.995), (1000, 71, 1.157), (2000, 33, 1.267), (5000, 10, 1.402)]


def certifier(name, **options):
    given = {"n0": 100, "n": 10000, "alpha": 0.001} | options
    if name == "enclosed":
        return get_certifier(name, predictor=warm(AlwaysFirst()), **{"depth": 30} | given)
    if name in UNAUDITED:
        return get_certifier(name, predictor=reference(), **given)
    given = {"audit": 400, "reference": reference()} | given
    return get_certifier(name, predictor=warm(AlwaysFirst()), **given)


@pytest.mark.parametrize(("n", "radius"), [(10000, 1.599), (100000, 1.906)])
def test_standard_radius_of_a_unanimous_vote(n, radius):
    assert certified_radius(certifier("standard", n=n).best_p_lower(), 0.5) == pytest.approx(
        radius, abs=5e-4
    )


@pytest.mark.parametrize(("audited", "disagreements", "radius"), SANITY)
def test_exact_audit_of_a_unanimous_vote(audited, disagreements, radius):
    assert disagreements_upper_bound(0, audited, 10000, 0.0005) == disagreements
    bound = certifier("serialized", audit=audited).bound(10000, audited, 0)
    assert certified_radius(bound, 0.5) == pytest.approx(radius, abs=5e-4)


def test_paper_and_released_counts_of_a_unanimous_vote():
    released = certifier("serialized-released").bound(10000, 400, 400)
    assert certified_radius(released, 0.5) == pytest.approx(1.583, abs=5e-4)
    paper = certifier("serialized-paper").bound(10000, 400, 400)
    assert certified_radius(paper, 0.5) == pytest.approx(0.991, abs=5e-4)
    assert [name for name in CERTIFIERS if not CERTIFIERS.get(name).sound] == [
        "latent-estimated",
        "serialized-released",
    ]


@given(
    population=st.integers(1, 300),
    data=st.data(),
    alpha=st.floats(1e-6, 0.5),
)
def test_disagreement_bound_inverts_the_hypergeometric_test(population, data, alpha):
    audited = data.draw(st.integers(0, population))
    found = data.draw(st.integers(0, audited))
    bound = disagreements_upper_bound(found, audited, population, alpha)
    every = np.arange(found, population - (audited - found) + 1)
    likely = every[stats.hypergeom.cdf(found, population, every, audited) > alpha]
    assert bound == likely.max()
    if audited == population:
        assert bound == found


@given(n=st.integers(1, 5000), data=st.data(), alpha=st.floats(1e-6, 0.5))
def test_lower_bound_is_monotone_and_below_the_frequency(n, data, alpha):
    k = data.draw(st.integers(0, n))
    bound = lower_confidence_bound(k, n, alpha)
    assert 0.0 <= bound <= k / n
    assert k == 0 or bound > lower_confidence_bound(k - 1, n, alpha)
    if k > 0:
        # The probability of k or more successes at the bound is alpha, the defining equation: at
        # the bound before its last billionth was given away, and no more at the bound.
        assert stats.binom.sf(k - 1, n, bound / (1 - SHAVE)) == pytest.approx(alpha, rel=1e-6)
        assert stats.binom.sf(k - 1, n, bound) < alpha


@given(value=st.floats(0, 2.0**33) | st.integers(0, 10**7).map(lambda count: count / 10**6))
def test_radii_are_cut_once_and_never_rounded_up(value):
    cut = float(round_down(value))
    assert cut <= value <= cut + 1e-6 + 2e-16 * value
    assert float(round_down(cut)) == cut
    assert float(write_radius(cut)) == cut
    assert float(write_radius(cut, 3)) <= cut


@given(value=st.floats(2.0**33, 1e300))
def test_radii_beyond_six_decimals_stay_as_they_are(value):
    assert float(round_down(value)) == value == float(write_radius(value))


# Bounds whose radius lies at, or next to, a decimal of six digits are the ones to round wrongly.
NEAR = st.tuples(
    st.integers(1, 1_000_000), st.sampled_from([0.12, 0.25, 0.5, 1.0]), st.integers(-3, 3)
)


@given(NEAR)
@settings(max_examples=300)
def test_no_radius_exceeds_the_exact_one(near):
    count, sigma, steps = near
    p = float(stats.norm.cdf(count / 10**6 / sigma))
    for _ in range(abs(steps)):
        p = float(np.nextafter(p, 1.0 if steps > 0 else 0.0))
    assume(p < 1.0)
    with mpmath.workdps(60):
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
        for used in (sigma, float(np.float32(sigma))):  # as asked for, and as noise is scaled
            exact = used * quantile
            assert mpmath.mpf(write_radius(certified_radius(p, sigma))) <= max(exact, 0)
        least = min(sigma, float(np.float32(sigma)))
        assert least * quantile - certified_radius(p, sigma) < 1.0001e-6


@given(n=st.integers(1, 1_000_000), data=st.data(), alpha=st.floats(1e-12, 0.5))
@settings(max_examples=200)
def test_a_lower_bound_is_a_billionth_below_the_quantile(n, data, alpha):
    k = data.draw(st.integers(1, n))
    quantile = stats.beta.ppf(alpha, k, n - k + 1)
    assert quantile * (1 - 1.1e-9) < lower_confidence_bound(k, n, alpha) < quantile * (1 - 0.9e-9)


@given(population=st.integers(1, 3000), data=st.data())
@settings(max_examples=100)
def test_a_number_that_nearly_has_probability_alpha_is_not_ruled_out(population, data):
    audited = data.draw(st.integers(1, population))
    marked = data.draw(st.integers(0, population))
    found = data.draw(st.integers(max(0, audited - (population - marked)), min(audited, marked)))
    chance = float(stats.hypergeom.cdf(found, population, marked, audited))
    assume(1e-300 < chance < 0.9)  # below it nothing is larger by so small a share
    # As if SciPy had evaluated the probability a little too small.
    assert disagreements_upper_bound(found, audited, population, chance * (1 + 5e-8)) >= marked


def test_what_scipy_cannot_evaluate_certifies_nothing(monkeypatch):
    def nothing(*arguments):
        return np.full(np.broadcast_shapes(*map(np.shape, arguments)), np.nan)

    assert certified_radius(math.nan, 0.5) == 0.0
    method = certifier("standard", n=1000)
    engine, origin = SmoothingEngine(HalfLine(0.99), sigma=SIGMA), Input(ORIGIN, 0)
    assert method.certify(engine, origin).prediction == 0
    assert method.certificate(engine, 0, math.nan, ()).prediction is None
    looked = certifier("independent", n=1000, goal=parse_goal("relative=0.01"))
    monkeypatch.setattr(stats.beta, "ppf", nothing)
    monkeypatch.setattr(stats.hypergeom, "cdf", nothing)
    monkeypatch.setattr(special, "gammaln", nothing)
    monkeypatch.setattr(special, "betaln", nothing)
    assert lower_confidence_bound(1000, 1000, 0.001) == 0.0
    assert disagreements_upper_bound(1, 100, 1000, 0.001) == 901
    with np.errstate(invalid="ignore"):
        assert disagreements_upper_sequence(1, 100, 1000, 0.001) == 901
    assert float(Sampling(1000, 0.001).p_lower(1000, 1000)) == 0.0
    for found in (method, looked):
        assert not found.best_p_lower() > 0.5
        assert found.certify(engine, origin).prediction is None


def test_no_radius_is_printed_by_a_format_that_rounds_to_nearest():
    rounded = re.compile(r"\{[^{}]*\b(?:radius|acr|reach)(?:['\"]\])?:\.\d+[fge]\}")
    assert rounded.search('f"within {self.radius:.3f}"')
    for path in Path(deqcert.__file__).parent.rglob("*.py"):
        assert not rounded.findall(path.read_text(encoding="utf-8")), path


@given(p=st.floats(0, 1, exclude_max=True), sigma=st.floats(1e-3, 10))
def test_goals_compare_the_radius_that_is_certified(p, sigma):
    seen = float(radii(p, sigma))
    assert seen == (certified_radius(p, sigma) if p > 0.5 else -math.inf)


def test_radius_is_zero_without_a_majority_and_infinite_only_at_certainty():
    assert certified_radius(0.5, 1.0) == certified_radius(0.2, 1.0) == 0.0
    assert math.isinf(certified_radius(1.0, 1.0))
    assert certified_radius(0.9, 0.25) == round_down(0.25 * stats.norm.ppf(0.9))


def test_the_verification_test_is_the_binomial_one():
    assert two_sided_p_value(10, 0) == pytest.approx(2 * 0.5**10)
    assert two_sided_p_value(5, 5) == 1.0
    assert two_sided_p_value(0, 0) == 1.0


@pytest.mark.parametrize("bad", [2.0, "3", None, True, np.float64(3)])
def test_bounds_take_integers_only(bad):
    with pytest.raises(ConfigError, match="whole number"):
        lower_confidence_bound(bad, 10, 0.1)
    with pytest.raises(ConfigError, match="whole number"):
        disagreements_upper_bound(bad, 10, 10, 0.1)


def test_impossible_counts_are_refused():
    for call in (
        lambda: lower_confidence_bound(11, 10, 0.1),
        lambda: lower_confidence_bound(-1, 10, 0.1),
        lambda: lower_confidence_bound(1, 10, 0.0),
        lambda: lower_confidence_bound(1, 10, 1.0),
        lambda: disagreements_upper_bound(3, 2, 10, 0.1),
        lambda: disagreements_upper_bound(0, 11, 10, 0.1),
    ):
        with pytest.raises(ConfigError):
            call()


@pytest.mark.parametrize("name", CERTIFIERS.names())
def test_impossible_requests_are_refused_before_any_solve(name):
    for options in (
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": float("nan")},
        {"n": 0},
        {"n0": 0},
        {"n": 5, "audit": 5} if name not in (*UNAUDITED, "enclosed") else {"n": 9},
        {"unknown": 1},
    ):
        with pytest.raises(ConfigError) as error:
            certifier(name, **options)
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)


def test_the_refusal_of_too_few_samples_says_how_many_would_do():
    with pytest.raises(ConfigError, match="at least 10") as error:
        certifier("standard", n=9)
    assert "alpha 0.001" in str(error.value)
    assert certifier("standard", n=10).best_p_lower() > 0.5


def test_chained_starts_are_refused_where_samples_must_be_independent():
    for name in UNAUDITED:
        with pytest.raises(ConfigError, match=f"'{name}'.*serialized"):
            get_certifier(name, predictor=warm(AlwaysFirst()), n0=1, n=100, alpha=0.1)
    with pytest.raises(ConfigError, match="independent reference"):
        certifier("serialized", reference=warm(AlwaysFirst()))
    with pytest.raises(ConfigError, match="there is no method"):
        get_certifier("smooth", predictor=reference())
    with pytest.raises(ConfigError, match="also needs"):
        get_certifier("serialized", predictor=reference(), n0=1, n=100, alpha=0.1)


def test_metrics_count_every_input():
    correct = [True, True, False, True]
    radius = [0.5, 0.0, 3.0, 0.25]
    np.testing.assert_array_equal(
        certified_accuracy(correct, radius, [0.0, 0.25, 0.3]), [0.75, 0.5, 0.25]
    )
    assert average_certified_radius(correct, radius) == 0.75 / 4
    assert np.isnan(average_certified_radius([], []))
