"""Guarantees by simulation: with a known probability, how often is a certificate wrong?

A test of a guarantee is only worth something if it would catch a wrong method, so planted mistakes
are simulated too and must be caught.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats
from test_bounds import certifier
from toys import ORIGIN, SIGMA, HalfLine, adversaries, reference, warm

from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import disagreements_upper_bound, lower_confidence_bound
from deqcert.smoothing import Input, SmoothingEngine


def too_often(failures: int, trials: int, alpha: float) -> bool:
    """Whether a method that fails with probability alpha would fail this often once in 10^6."""
    return failures > stats.binom.ppf(1 - 1e-6, trials, alpha)


# --- whole certifiers on a real engine ------------------------------------------------------------


@pytest.mark.parametrize("which", range(3))
def test_serialized_holds_against_adversaries_on_the_engine(which):
    """250 whole certificates an adversary, alpha 0.1, true radius known."""
    alpha, trials, p = 0.1, 250, 0.85
    model = HalfLine(p)
    start = adversaries(model)[which]
    engine = SmoothingEngine(model, sigma=SIGMA, seed=which, batch=300)
    method = get_certifier(
        "serialized",
        predictor=warm(start),
        reference=reference(),
        n0=10,
        n=300,
        alpha=alpha,
        audit=60,
    )
    wrong = 0
    for trial in range(trials):
        certificate = method.certify(engine, Input(ORIGIN, trial))
        wrong += certificate.prediction == 1 or certificate.p_lower > p
    assert not too_often(wrong, trials, alpha)


def test_standard_holds_on_the_engine():
    alpha, trials, p = 0.1, 400, 0.8
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=5, batch=200)
    method = get_certifier("standard", predictor=reference(), n0=10, n=200, alpha=alpha)
    certificates = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
    wrong = sum(c.prediction == 1 or c.p_lower > p for c in certificates)
    assert not too_often(wrong, trials, alpha)
    # Clopper-Pearson is nearly exact here: a bound that never fails would be a bug too.
    assert wrong > 0.05 * trials


def test_released_count_fails_nearly_always_where_two_in_a_hundred_votes_are_wrong():
    """sigma 0.5: the true radius is 1.03, the released count reports about 1.58."""
    p = 0.98
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=11, batch=2000)
    always_first = warm(adversaries(HalfLine(p))[0])
    options = {"reference": reference(), "n0": 10, "n": 10000, "alpha": 0.001, "audit": 400}
    true_radius = SIGMA * stats.norm.ppf(p)
    assert true_radius == pytest.approx(1.03, abs=5e-3)
    for name, allowed in (("serialized", 0), ("serialized-paper", 0), ("serialized-released", 20)):
        method = get_certifier(name, predictor=always_first, **options)
        radii = [method.certify(engine, Input(ORIGIN, trial)).radius for trial in range(20)]
        wrong = sum(radius > true_radius for radius in radii)
        if name == "serialized-released":
            assert wrong >= 19
            assert np.median(radii) > 1.4
        else:
            assert wrong <= allowed


# --- counts alone: many more trials, every adversary, several sizes -------------------------------


def adversarial_votes(kind: str, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which samples vote for A, given which samples the reference gives A."""
    votes = truth.copy()
    if kind == "always A":
        votes[:] = True
    elif kind == "copies its neighbour":
        votes = truth[(np.arange(len(truth)) // 8) * 8]
    elif kind == "wrong where it hurts":
        others = np.flatnonzero(~truth)
        votes[rng.choice(others, size=len(others) // 3, replace=False)] = True
    elif kind == "a hidden few":
        # As many wrong votes as the audit is most likely to miss.
        others = np.flatnonzero(~truth)
        votes[others[: max(1, len(truth) // 80)]] = True
    else:
        assert kind == "honest"
    return votes


KINDS = ["honest", "always A", "copies its neighbour", "wrong where it hurts", "a hidden few"]
SIZES = [(0.9, 500, 100, 0.1), (0.98, 1000, 150, 0.05), (0.6, 300, 300, 0.1)]


@functools.cache
def upper(found: int, audited: int, population: int, alpha: float) -> int:
    return disagreements_upper_bound(found, audited, population, alpha)


@functools.cache
def lower(successes: int, n: int, alpha: float) -> float:
    return lower_confidence_bound(successes, n, alpha)


def serialized_bound(votes, truth, audit, alpha, rng):
    voters = np.flatnonzero(votes)
    chosen = rng.choice(voters, size=min(audit, len(voters)), replace=False)
    found = int(np.sum(~truth[chosen]))
    wrong = upper(found, len(chosen), len(voters), alpha / 2)
    return lower(len(voters) - wrong, len(truth), alpha / 2)


def trusts_the_votes(votes, truth, audit, alpha, rng):
    """Mistake: no audit at all."""
    return lower(int(votes.sum()), len(votes), alpha)


def audits_the_first_ones(votes, truth, audit, alpha, rng):
    """Mistake: the audit is the head of the chain, where it was still cold."""
    voters = np.flatnonzero(votes)
    found = int(np.sum(~truth[voters[:audit]]))
    wrong = upper(found, min(audit, len(voters)), len(voters), alpha / 2)
    return lower(len(voters) - wrong, len(truth), alpha / 2)


def takes_the_rate_as_known(votes, truth, audit, alpha, rng):
    """Mistake: the audited rate is taken for the true one."""
    voters = np.flatnonzero(votes)
    chosen = rng.choice(voters, size=min(audit, len(voters)), replace=False)
    rate = np.mean(~truth[chosen])
    return lower(int(len(voters) * (1 - rate)), len(truth), alpha)


def drops_wrong_votes(votes, truth, audit, alpha, rng):
    """Mistake of the released code: wrong votes count as never drawn."""
    voters = np.flatnonzero(votes)
    chosen = rng.choice(voters, size=min(audit, len(voters)), replace=False)
    found = int(np.sum(~truth[chosen]))
    kept = lower(len(chosen) - found, len(chosen), alpha / 2)
    k, n = int(kept * len(voters)), int(kept * len(truth))
    return lower(k, n, alpha / 2)


def failures(method, kind, p, n, audit, alpha, trials, seed):
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(trials):
        truth = rng.random(n) < p
        if kind == "cold head":
            votes = truth.copy()
            votes[audit * 2 :] = True
        else:
            votes = adversarial_votes(kind, truth, rng)
        wrong += method(votes, truth, audit, alpha, rng) > p
    return wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("p", "n", "audit", "alpha"), SIZES)
def test_serialized_counts_cover(kind, p, n, audit, alpha):
    trials = 3000
    wrong = failures(serialized_bound, kind, p, n, audit, alpha, trials, seed=1)
    assert not too_often(wrong, trials, alpha)


def test_the_simulation_uses_the_certifiers_own_formula():
    method = certifier("serialized", n=1000, audit=150, alpha=0.05)
    rng = np.random.default_rng(0)
    votes, truth = np.ones(1000, dtype=bool), np.arange(1000) >= 20
    found = int(np.sum(~truth[np.random.default_rng(0).choice(1000, size=150, replace=False)]))
    assert serialized_bound(votes, truth, 150, 0.05, rng) == method.bound(1000, 150, found)


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (trusts_the_votes, "always A"),
        (trusts_the_votes, "wrong where it hurts"),
        (audits_the_first_ones, "cold head"),
        (takes_the_rate_as_known, "always A"),
        (drops_wrong_votes, "always A"),
    ],
)
def test_planted_mistakes_are_caught(mistake, kind):
    p, n, audit, alpha = SIZES[0] if kind == "cold head" else SIZES[1]
    trials = 1000
    wrong = failures(mistake, kind, p, n, audit, alpha, trials, seed=2)
    assert too_often(wrong, trials, alpha)


@pytest.mark.parametrize("p", [0.55, 0.9, 0.999])
@pytest.mark.parametrize("n", [50, 1000])
def test_clopper_pearson_covers_exactly(p, n):
    """No simulation needed: sum the probabilities of the counts whose bound is too high."""
    for alpha in (0.001, 0.05):
        counts = np.arange(n + 1)
        bounds = np.array([lower(int(k), n, alpha) for k in counts])
        assert stats.binom.pmf(counts[bounds > p], n, p).sum() <= alpha * (1 + 1e-9)
        # One success too many in the bound must be seen.
        shifted = np.array([lower(min(int(k) + 1, n), n, alpha) for k in counts])
        assert stats.binom.pmf(counts[shifted > p], n, p).sum() > alpha or p**n > alpha


@pytest.mark.parametrize(("population", "marked", "audited"), [(60, 7, 20), (500, 30, 40)])
def test_hypergeometric_bound_covers_exactly(population, marked, audited):
    for alpha in (0.001, 0.05):
        found = np.arange(0, min(marked, audited) + 1)
        bounds = np.array([upper(int(d), audited, population, alpha) for d in found])
        probability = stats.hypergeom.pmf(found, population, marked, audited)
        assert probability[bounds < marked].sum() <= alpha


def test_reusing_the_selection_votes_is_caught():
    """With two even classes, choosing and bounding on the same votes fails twice as often."""
    alpha, n, trials = 0.05, 200, 20000
    rng = np.random.default_rng(3)
    counts = rng.binomial(n, 0.5, size=trials)
    reused = sum(lower(int(max(k, n - k)), n, alpha) > 0.5 for k in counts)
    fresh = sum(lower(int(k), n, alpha) > 0.5 for k in counts)
    assert too_often(reused, trials, alpha)
    assert not too_often(fresh, trials, alpha)
