"""The audit better spent: against adversaries, and against mistakes that one could make in it."""

from __future__ import annotations

import functools
from unittest import mock

import numpy as np
import pytest
from test_coverage import too_often
from test_sequences import Luckiest
from toys import ORIGIN, SIGMA, HalfLine, adversaries, reference, warm

from deqcert.certifiers import audit as audits
from deqcert.certifiers import get_certifier
from deqcert.certifiers.audit import Audit, best_share
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.goals import Goal, Radii, Relative
from deqcert.certifiers.sequences import disagreements_upper_sequence
from deqcert.errors import ConfigError
from deqcert.smoothing import Input, SmoothingEngine


@pytest.fixture(autouse=True, scope="module")
def _remembered():
    """The same few counts come again thousands of times."""
    with pytest.MonkeyPatch.context() as patch:
        for bound in (
            disagreements_upper_bound,
            disagreements_upper_sequence,
            lower_confidence_bound,
        ):
            patch.setattr(audits, bound.__name__, functools.cache(bound))
        yield


def voters(kind: str, n: int, p: float, rng: np.random.Generator) -> np.ndarray:
    """Return, in the order of the margins, which votes for A the reference does not share."""
    truth = rng.random(n) < p
    if kind == "doubt where it is wrong":  # the margins say it
        wrong = np.zeros(n, dtype=bool)
        wrong[: np.sum(~truth)] = True
        return wrong
    if kind == "sure where it is wrong":  # the margins say the opposite
        wrong = np.zeros(n, dtype=bool)
        wrong[n - np.sum(~truth) :] = True
        return wrong
    if kind == "margins say nothing":
        return ~truth
    assert kind == "a few, sure of themselves"
    few = min(n // 80, np.sum(~truth))  # as many as the audit is most likely to miss
    return np.arange(np.sum(truth) + few) >= np.sum(truth)


KINDS = [
    "doubt where it is wrong",
    "sure where it is wrong",
    "margins say nothing",
    "a few, sure of themselves",
]
CASES = [(0.9, 300, 80, 0.1), (0.98, 600, 120, 0.05)]


def failures(plan: Audit, kind: str, p: float, trials: int, seed: int, batch: int = 10) -> int:
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(trials):
        bad = voters(kind, plan.n, p, rng)

        def judge(at: np.ndarray, bad: np.ndarray = bad) -> int:
            return int(bad[at].sum())

        found = plan.run(len(bad), judge, rng, sigma=SIGMA, batch=batch)
        wrong += found.p_lower > p
    return wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("p", "n", "size", "alpha"), CASES)
def test_the_audit_holds_whatever_the_margins_say(kind, p, n, size, alpha):
    trials = 400
    for goal in (None, Luckiest(certified_radius(p, SIGMA))):
        wrong = failures(Audit(n, size, alpha, goal), kind, p, trials, seed=1)
        assert not too_often(wrong, trials, alpha)


class PooledAudit(Audit):
    """Mistake: the doubtful votes are counted as if they had been drawn at random, too."""

    def bound(self, votes, whole, wrong, drawn, found):
        return super().bound(votes, 0, 0, whole + drawn, wrong + found)


class NoRandomPart(Audit):
    """Mistake: what the doubtful votes show is taken for the rate of all."""

    def bound(self, votes, whole, wrong, drawn, found):
        return lower_confidence_bound(votes - wrong - found, self.n, self.alpha)


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (PooledAudit, "sure where it is wrong"),
        (NoRandomPart, "margins say nothing"),
    ],
)
def test_planted_mistakes_are_caught(mistake, kind):
    with mock.patch.object(audits, "DOUBTFUL", 0.9), mock.patch.object(audits, "WORTHWHILE", 0.0):
        plan = mistake(300, 80, 0.1)
        assert too_often(failures(plan, kind, 0.9, 400, seed=2), 400, 0.1)
        honest = Audit(300, 80, 0.1)
        assert not too_often(failures(honest, kind, 0.9, 400, seed=2), 400, 0.1)


def test_alpha_is_split_before_any_data_and_adds_up():
    for n, size in ((10_000, 400), (10_000, 10_000), (100, 1)):
        assert 0 < best_share(n, size, 0.001) < 1
    assert best_share(10_000, 400, 0.001) > 0.5  # few looks: the audit is what limits
    assert best_share(10_000, 10_000, 0.001) < 0.1  # all are looked at: nothing is left to bound
    half = disagreements_upper_bound(0, 1000, 10_000, 0.0005)
    plain = lower_confidence_bound(10_000 - half, 10_000, 0.0005)
    assert Audit(10_000, 1000, 0.001).best(10_000) > plain


def test_nothing_is_audited_where_nothing_could_be_certified():
    def judge(numbers):
        raise AssertionError("audited")

    rng = np.random.default_rng(0)
    found = Audit(1000, 200, 0.001).run(500, judge, rng, sigma=0.5, batch=10)
    assert (found.p_lower, found.audited) == (0.0, 0)
    goal = Radii((0.5,))
    found = Audit(1000, 200, 0.001, goal).run(700, judge, rng, sigma=0.5, batch=10)
    assert found.audited == 0
    found = Audit(1000, 200, 0.001, goal).run(0, judge, rng, sigma=0.5, batch=10)
    assert found.audited == 0


@pytest.mark.parametrize("goal", [None, Radii((0.0, 0.25)), Relative(0.1)])
@pytest.mark.parametrize("votes", [5000, 4000, 60, 3])
def test_no_vote_is_audited_twice_and_never_more_than_asked(goal, votes):
    seen: list[int] = []

    def judge(numbers):
        seen.extend(numbers.tolist())
        return int(np.sum(numbers % 7 == 0))

    plan = Audit(5000, 800, 0.01, goal)
    found = plan.run(votes, judge, np.random.default_rng(1), sigma=0.5, batch=50)
    assert len(seen) == len(set(seen)) == found.audited <= min(800, votes)
    assert found.disagreements == sum(number % 7 == 0 for number in seen)
    assert all(0 <= number < votes for number in seen)


def test_a_goal_saves_audits_and_decides_the_same():
    bad = np.zeros(9900, dtype=bool)
    bad[:30] = True
    for radius, most in ((0.25, 300), (0.9, 1000), (0.98, 2000)):
        asked = Radii((radius,))
        runs = [
            Audit(10_000, 2000, 0.001, goal).run(
                9900, lambda at: int(bad[at].sum()), np.random.default_rng(5), sigma=0.5, batch=50
            )
            for goal in (None, asked)
        ]
        radii = [certified_radius(run.p_lower, 0.5) for run in runs]
        assert (radii[0] >= radius) == (radii[1] >= radius)
        assert runs[1].audited <= most
        assert runs[0].audited == 2000


# --- on the engine --------------------------------------------------------------------------------


def strata(start, **options):
    given = {"n0": 10, "n": 300, "alpha": 0.2, "audit": 60, "goal": None} | options
    method = "serialized-strata"
    return get_certifier(method, predictor=warm(start), reference=reference(), **given)


@pytest.mark.parametrize("which", range(3))
def test_strata_hold_against_adversaries_on_the_engine(which):
    trials, p = 60, 0.85
    model = HalfLine(p)
    engine = SmoothingEngine(model, sigma=SIGMA, seed=which, batch=300)
    goal: Goal = Luckiest(certified_radius(p, SIGMA))
    for method in (strata(adversaries(model)[which]), strata(adversaries(model)[which], goal=goal)):
        certificates = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
        wrong = sum(c.prediction == 1 or c.p_lower > p for c in certificates)
        assert not too_often(wrong, trials, 0.2)


def test_a_goal_out_of_reach_of_the_audit_is_refused():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA)
    method = strata(adversaries(HalfLine(0.9))[0], goal=Radii((2.0,)))
    with pytest.raises(ConfigError, match=r"audit of 60.*raise audit") as error:
        method.certify(engine, Input(ORIGIN, 0))
    assert str(error.value).endswith(".")


def test_an_audit_that_may_stop_is_bounded_by_the_sequence_until_its_end():
    """The bound of a fixed size, taken at every look, would fail: tests/test_sequences.py."""
    fixed, stopped = Audit(300, 60, 0.1), Audit(300, 60, 0.1, Relative(0.1))
    share = best_share(300, 60, 0.1)
    for drawn, found in ((10, 0), (50, 1)):
        more = disagreements_upper_sequence(found, drawn, 300, share * 0.05)
        expected = lower_confidence_bound(300 - more, 300, (1 - share) * 0.1)
        assert stopped.bound(300, 0, 0, drawn, found) == expected
        assert expected < fixed.bound(300, 0, 0, drawn, found)
    assert stopped.best(300) >= stopped.bound(300, 0, 0, 50, 0)
