"""The bounds: sanity values, properties, and refusals."""

from __future__ import annotations

import math

import mpmath  # comes with torch
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from toys import AlwaysFirst, reference, warm

from deqcert.certifiers import CERTIFIERS, get_certifier
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
    round_down,
    two_sided_p_value,
    write_radius,
)
from deqcert.certifiers.metrics import average_certified_radius, certified_accuracy
from deqcert.certifiers.sampling import radii
from deqcert.errors import ConfigError

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
        "serialized-released"
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
        # The probability of k or more successes at the bound is alpha: the defining equation.
        assert stats.binom.sf(k - 1, n, bound) == pytest.approx(alpha, rel=1e-6)


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
        exact = sigma * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
        assert mpmath.mpf(write_radius(certified_radius(p, sigma))) <= max(exact, 0)
        assert exact - certified_radius(p, sigma) < 1.0001e-6


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
