"""Bounds that hold at every look, goals, and sequential sampling: exact where that is possible.

The probability that a bound is ever wrong is summed over all paths of the counts, so a planted
mistake is seen without chance: peeking, evidence that is counted wrongly, an audit that is stopped
but bounded as if its size had been fixed.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from test_coverage import too_often
from toys import ORIGIN, SIGMA, HalfLine, reference

from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.goals import Goal, Radii, Relative, parse_goal
from deqcert.certifiers.sampling import Sampling, looks, radii
from deqcert.certifiers.sequences import (
    PRIOR,
    SLACK,
    disagreements_upper_sequence,
    log_evidence,
    lower_sequence,
    lower_sequences,
    upper_sequence,
)
from deqcert.errors import ConfigError
from deqcert.smoothing import Input, SmoothingEngine

# --- success probabilities ------------------------------------------------------------------------


def ever(p: float, sizes: list[int], wrong) -> float:
    """Return the probability that ``wrong(k, n)`` is true at some look, k an array of counts."""
    alive, drawn, lost = np.ones(1), 0, 0.0
    for look in sizes:
        steps = stats.binom.pmf(np.arange(look - drawn + 1), look - drawn, p)
        alive, drawn = np.convolve(alive, steps), look
        bad = wrong(np.arange(look + 1), look)
        lost += alive[bad].sum()
        alive = np.where(bad, 0.0, alive)
    return lost


EVERY = list(range(1, 601))
CASES = [(p, alpha) for p in (0.05, 0.5, 0.8, 0.99, 0.999) for alpha in (0.001, 0.05)]


@pytest.mark.parametrize(("p", "alpha"), CASES)
def test_the_lower_sequence_holds_at_every_n_at_once(p, alpha):
    failing = ever(p, EVERY, lambda k, n: log_evidence(p, k, n) >= np.log(1 / alpha) + SLACK)
    assert failing <= alpha
    assert failing > 0.02 * alpha or p > 0.9  # a bound that never fails would be a bug too


@pytest.mark.parametrize(("p", "alpha"), [(0.3, 0.05), (0.9, 0.01)])
def test_the_bound_is_where_the_evidence_suffices(p, alpha):
    for n in (1, 2, 7, 60, 400):
        k = np.arange(n + 1)
        suffices = log_evidence(p, k, n) >= np.log(1 / alpha) + SLACK
        np.testing.assert_array_equal(lower_sequences(k, n, alpha) >= p, suffices)
        mirrored = [upper_sequence(int(n - i), n, alpha) for i in k]
        np.testing.assert_allclose(mirrored, 1 - lower_sequences(k, n, alpha))


def clopper_pearson_at_every_look(p, alpha):
    """Mistake: peeking, with a bound that holds at one look."""
    return lambda k, n: stats.beta.ppf(alpha, np.maximum(k, 1), n - k + 1) * (k > 0) > p


def one_failure_forgotten(p, alpha):
    """Mistake: n - k - 1 failures in the likelihood instead of n - k."""
    return lambda k, n: (k < n) & (log_evidence(p, k, np.maximum(n - 1, k)) >= np.log(1 / alpha))


def prior_not_normalised(p, alpha):
    """Mistake: the prior is restricted to the alternatives but not raised to mass one, twice."""
    mass = -np.log(stats.beta.sf(p, PRIOR, PRIOR))
    return lambda k, n: log_evidence(p, k, n) + mass >= np.log(1 / alpha)


def best_alternative(p, alpha):
    """Mistake: the likelihood ratio of the best alternative instead of a mixture."""

    def wrong(k, n):
        best = np.maximum(k / n, p)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = stats.binom.logpmf(k, n, best) - stats.binom.logpmf(k, n, p)
        return ratio >= np.log(1 / alpha)

    return wrong


@pytest.mark.parametrize(
    "mistake",
    [clopper_pearson_at_every_look, one_failure_forgotten, prior_not_normalised, best_alternative],
)
def test_planted_mistakes_in_the_sequence_are_seen(mistake):
    assert any(ever(p, EVERY, mistake(p, alpha)) > alpha for p, alpha in CASES)


@settings(max_examples=60)
@given(p=st.floats(0.01, 0.99), n=st.integers(1, 60), data=st.data())
def test_the_evidence_is_the_integral_that_the_docs_state(p, n, data):
    k = data.draw(st.integers(0, n))
    prior = stats.beta(PRIOR, PRIOR)

    def integrand(t):  # q = 1 - (1-p)t^2 takes the prior's pole at 1 away
        q = 1 - (1 - p) * t * t
        ratio = np.exp(k * np.log(q / p) + (n - k) * np.log(t * t if t > 0 else 1e-300))
        return ratio * 2 * np.sqrt(1 - p) / (np.pi * np.sqrt(q))

    value, _ = integrate.quad(integrand, 0, 1, epsabs=0, epsrel=1e-10, limit=200)
    assert log_evidence(p, k, n) == pytest.approx(np.log(value / prior.sf(p)), abs=1e-6)


@settings(max_examples=60)
@given(n=st.integers(1, 1_000_000), data=st.data(), alpha=st.floats(1e-9, 0.9))
def test_sequences_are_sane_up_to_a_million_samples(n, data, alpha):
    k = data.draw(st.integers(0, n))
    low, high = lower_sequence(k, n, alpha), upper_sequence(k, n, alpha)
    assert 0.0 <= low <= k / n <= high <= 1.0
    assert k == 0 or low >= lower_sequence(k - 1, n, alpha)
    if alpha < 0.5 and k > 0:
        assert low <= lower_confidence_bound(k, n, alpha) * (1 + 1e-9)


def test_a_unanimous_vote_costs_little_more_than_a_fixed_size():
    for n in (1000, 100_000, 1_000_000):
        ratio = (1 - lower_sequence(n, n, 0.001)) / (1 - lower_confidence_bound(n, n, 0.001))
        assert 1.0 < ratio < 1.2


# --- sampling without replacement -----------------------------------------------------------------


@functools.cache
def marked_bound(found: int, audited: int, population: int, alpha: float) -> int:
    return disagreements_upper_sequence(found, audited, population, alpha)


@functools.cache
def fixed_bound(found: int, audited: int, population: int, alpha: float) -> int:
    return disagreements_upper_bound(found, audited, population, alpha)


def ever_below(marked: int, population: int, alpha: float, bound) -> float:
    """Return the probability that the bound is below the truth after some number of draws."""
    alive, lost = {0: 1.0}, 0.0
    for drawn in range(1, population + 1):
        after: dict[int, float] = {}
        for found, mass in alive.items():
            hit = (marked - found) / (population - drawn + 1)
            for more, share in ((1, hit), (0, 1 - hit)):
                if share > 0:
                    after[found + more] = after.get(found + more, 0.0) + mass * share
        alive = {}
        for found, mass in after.items():
            if bound(found, drawn, population, alpha) < marked:
                lost += mass
            else:
                alive[found] = mass
    return lost


@pytest.mark.parametrize(("population", "marked"), [(60, 1), (60, 7), (60, 50), (120, 12)])
@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_the_audit_sequence_holds_after_every_draw_at_once(population, marked, alpha):
    assert ever_below(marked, population, alpha, marked_bound) <= alpha * (1 + 1e-9)


def test_an_audit_that_is_stopped_but_treated_as_of_fixed_size_is_seen():
    assert ever_below(12, 120, 0.1, fixed_bound) > 0.2


@given(population=st.integers(1, 200), data=st.data(), alpha=st.floats(1e-6, 0.5))
def test_the_audit_sequence_is_sane(population, data, alpha):
    audited = data.draw(st.integers(0, population))
    found = data.draw(st.integers(0, audited))
    bound = marked_bound(found, audited, population, alpha)
    assert found <= bound <= population - (audited - found)
    assert bound >= fixed_bound(found, audited, population, alpha)
    if audited == population:
        assert bound == found


@pytest.mark.parametrize("bad", [2.0, "3", None, True])
def test_sequences_take_integers_only(bad):
    for call in (
        lambda: lower_sequence(bad, 10, 0.1),
        lambda: upper_sequence(1, bad, 0.1),
        lambda: disagreements_upper_sequence(bad, 10, 10, 0.1),
    ):
        with pytest.raises((ConfigError, TypeError)):
            call()
    for call in (
        lambda: lower_sequence(11, 10, 0.1),
        lambda: lower_sequence(1, 10, 1.0),
        lambda: disagreements_upper_sequence(0, 11, 10, 0.1),
    ):
        with pytest.raises(ConfigError):
            call()


# --- sequential sampling --------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.51, 0.9, 0.995])
@pytest.mark.parametrize(("n", "batch"), [(600, 10), (2000, 500), (40, 40)])
def test_sampling_holds_at_every_look_and_at_the_last(p, n, batch):
    for alpha in (0.001, 0.05):
        sampling = Sampling(n, alpha)
        sizes = list(looks(n, batch))
        assert sizes[-1] == n
        assert all(size % batch == 0 for size in sizes[:-1])
        assert ever(p, sizes, lambda k, look: sampling.p_lower(k, look) > p) <= alpha  # noqa: B023


def test_peeking_with_clopper_pearson_at_the_looks_is_seen():
    sizes = list(looks(600, 10))
    assert ever(0.9, sizes, clopper_pearson_at_every_look(0.9, 0.05)) > 0.1


@pytest.mark.parametrize(("p", "asked"), [(0.9, 0.9), (0.9, 0.89), (0.9, 0.91), (0.999, 0.99)])
def test_what_is_given_up_would_hardly_have_been_reached(p, asked):
    """The probability to give up and yet to have been certified by all n samples, exactly."""
    n, batch, alpha = 1500, 50, 0.05
    sampling = Sampling(n, alpha)
    needed = next(k for k in range(n + 1) if lower_confidence_bound(k, n, alpha / 2) >= asked)
    alive, drawn, regretted = np.ones(1), 0, 0.0
    for look in looks(n, batch):
        steps = stats.binom.pmf(np.arange(look - drawn + 1), look - drawn, p)
        alive, drawn = np.convolve(alive, steps), look
        counts = np.arange(look + 1)
        given_up = sampling.reachable(counts, look) < asked
        regretted += (alive * stats.binom.sf(needed - counts - 1, n - look, p))[given_up].sum()
        alive = np.where(given_up, 0.0, alive)
    assert regretted <= alpha


def test_all_samples_lose_next_to_nothing_against_a_vote_that_was_never_looked_at():
    whole = certified_radius(lower_confidence_bound(100_000, 100_000, 0.001), 0.5)
    looked = certified_radius(float(Sampling(100_000, 0.001).p_lower(100_000, 100_000)), 0.5)
    assert 0.993 * whole < looked < whole


# --- whole certificates ---------------------------------------------------------------------------


class Luckiest(Goal):
    """Stop at the first look whose radius is too large: the stopping that hurts most."""

    def __init__(self, truth: float) -> None:
        self.truth = truth

    def settled(self, now, best):
        return now > self.truth

    def refuse(self, most):
        return None

    def describe(self):
        return "luckiest"


def independent(n: int, alpha: float, goal: Goal | None, n0: int = 10):
    return get_certifier("independent", reference(), n0=n0, n=n, alpha=alpha, goal=goal)


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_independent_holds_on_the_engine_when_it_stops_at_the_luckiest_look(p):
    alpha, trials = 0.2, 60
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=7, batch=10)
    method = independent(80, alpha, Luckiest(certified_radius(p, SIGMA)))
    certificates = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
    wrong = sum(c.prediction == 1 or c.p_lower > p for c in certificates)
    assert not too_often(wrong, trials, alpha)
    assert wrong > 0  # it does stop there


def test_selecting_and_counting_with_the_same_votes_is_caught():
    """With two even classes, a class chosen by votes that are counted again fails too often."""
    alpha, trials, chosen_by, n = 0.05, 20_000, 10, 150
    votes = np.random.default_rng(0).integers(0, 2, (trials, chosen_by + n))
    k, drawn = np.meshgrid(np.arange(chosen_by + n + 1), np.arange(1, chosen_by + n + 1))
    rejects = (k <= drawn) & (log_evidence(0.5, np.minimum(k, drawn), drawn) >= np.log(1 / alpha))
    guess = votes[:, :chosen_by].sum(axis=1) >= chosen_by / 2

    def failures(counted):
        right = np.cumsum(counted == guess[:, None], axis=1)
        return int(rejects[np.arange(right.shape[1]), right].any(axis=1).sum())

    assert too_often(failures(votes), trials, alpha)
    assert not too_often(failures(votes[:, chosen_by:]), trials, alpha)


def test_without_a_goal_independent_is_standard():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, seed=1, batch=50)
    one = independent(500, 0.01, None).certify(engine, Input(ORIGIN, 0))
    other = get_certifier("standard", reference(), n0=10, n=500, alpha=0.01)
    two = other.certify(engine, Input(ORIGIN, 0))
    assert (one.radius, one.votes, one.n, one.nfe) == (two.radius, two.votes, two.n, two.nfe)
    assert one.method == "independent"
    assert "anderson from a cold start" in one.assumptions


@pytest.mark.parametrize("goal", [Radii((0.0, 0.25, 0.5)), Relative(0.1), Relative(0.5)])
@pytest.mark.parametrize("p", [0.3, 0.52, 0.8, 0.99])
def test_a_goal_stops_at_a_look_with_the_votes_of_those_samples(goal, p):
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=3, batch=100)
    found = independent(20_000, 0.001, goal).certify(engine, Input(ORIGIN, 4))
    assert found.n in set(looks(20_000, 100))
    assert goal.describe() in found.assumptions
    votes = engine.votes(reference(), Input(ORIGIN, 4), 1, found.n).counts
    assert found.votes in votes
    most = certified_radius(lower_confidence_bound(20_000, 20_000, 0.0005), SIGMA)
    if isinstance(goal, Radii):
        truth = certified_radius(max(p, 1 - p), SIGMA)
        for radius in goal.radii:
            certified = found.prediction is not None and found.radius >= radius
            assert certified == (truth > radius) or abs(truth - radius) < 0.03
    else:
        assert found.radius <= most
    assert found.n < 20_000 or goal == Relative(0.1) or p == 0.52


def test_goals_that_cannot_be_are_refused_before_any_solve():
    class Untouchable(HalfLine):
        def inject(self, x):
            raise AssertionError("solved")

    engine = SmoothingEngine(Untouchable(0.9), sigma=SIGMA)
    with pytest.raises(ConfigError, match=r"radius 3.*n=1000.*at most 1\.2") as error:
        independent(1000, 0.001, Radii((0.0, 3.0))).certify(engine, Input(ORIGIN, 0))
    assert str(error.value).endswith(".")
    with pytest.raises(ConfigError, match="n must be at least 11"):
        independent(10, 0.001, Relative(0.1))
    for text in ("", "radii", "radii=", "radii=-1", "radii=a", "radii=inf", "relative=0", "best",
                 "relative=1", "relative=nan", "budget=3"):  # fmt: skip
        with pytest.raises(ConfigError) as error:
            parse_goal(text)
        assert str(error.value).endswith(".")


@pytest.mark.parametrize("text", ["radii=0,0.25,0.5", "relative=0.02"])
def test_goals_are_described_as_they_are_given(text):
    assert parse_goal(text).describe() == text
    assert parse_goal("budget") is None


@given(p=st.floats(0.0, 1.0, exclude_max=True), sigma=st.floats(0.01, 2.0))
def test_goals_see_the_radius_that_the_certificate_states(p, sigma):
    seen, stated = float(radii(p, sigma)), certified_radius(p, sigma)
    assert seen == (pytest.approx(stated, abs=1.1e-6) if p > 0.5 else -np.inf)
