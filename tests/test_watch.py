"""Alarms for ever: false ones seldom, true ones in time, each answer read once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from deqcert.errors import ConfigError, RunError
from deqcert.latents.prediction import under_drift
from deqcert.watch import (
    Evidence,
    Observation,
    Promise,
    Reference,
    Watch,
    delay,
    make_reference,
    tolerated_rank,
    tolerated_rate,
)
from deqcert.watch.betting import bets, remaining
from deqcert.watch.pool import Pool
from deqcert.watch.tolerance import least_rows, upward

Losses = NDArray[np.float64]


# The bets ------------------------------------------------------------------------------------


def ever(
    rule: Callable[[Evidence, Losses, float], NDArray[np.bool_]],
    tolerated: Losses,
    draw: Callable[[], Losses],
    steps: int,
    delta: float,
) -> float:
    """In what share of the streams a rule raises an alarm at any of its steps."""
    bet, raised = Evidence(tolerated), np.zeros(tolerated.shape, dtype=bool)
    for _ in range(steps):
        raised |= rule(bet, draw(), delta)
    return float(raised.mean())


def ours(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    bet.add(loss)
    return bet.reached(delta)


def with_the_detector(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    bet.add(loss)
    return bet.recent >= 1.0 / delta


def peeking(bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
    """Stakes that are chosen when the loss is known."""
    before = bet.staked.copy()
    bet.add(loss)
    begun = remaining(bet.count) - remaining(bet.count + 1)
    bet.staked = np.maximum(bet.staked, before + begun)
    return bet.reached(delta)


class FixedTest:
    """A test for a fixed number of losses, at every number of them."""

    def __init__(self) -> None:
        self.total: Any = 0.0

    def __call__(self, bet: Evidence, loss: Losses, delta: float) -> NDArray[np.bool_]:
        bet.count += 1
        self.total = self.total + loss
        found: NDArray[np.bool_]
        found = scipy.stats.binom.sf(self.total - 1, bet.count, bet.tolerated) <= delta
        return found


def drawing(seed: int, rate: float, streams: int) -> Callable[[], Losses]:
    draw = np.random.default_rng(seed)
    return lambda: (draw.random(streams) < rate).astype(np.float64)


def exceeds(share: float, promised: float, streams: int) -> bool:
    """Whether a share cannot be by chance alone, once in a thousand tests."""
    return bool(scipy.stats.binom.sf(round(share * streams) - 1, streams, promised) < 1e-3)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_false_alarms_over_all_time_are_as_rare_as_promised(rate: float) -> None:
    streams = 1000
    share = ever(ours, np.full(streams, rate), drawing(0, rate, streams), 1500, 0.1)
    assert not exceeds(share, 0.1, streams)
    assert share > 0.005  # and the bound is not so loose as to be of no use


@pytest.mark.parametrize("rule", [peeking, with_the_detector, FixedTest()])
def test_rules_that_promise_too_much_are_caught(rule: Any) -> None:
    streams = 400
    share = ever(rule, np.full(streams, 0.1), drawing(1, 0.1, streams), 1000, 0.1)
    assert exceeds(share, 0.1, streams)


def test_losses_between_0_and_1_are_bet_on_like_their_mean() -> None:
    draw, streams = np.random.default_rng(2), 1000
    share = ever(ours, np.full(streams, 0.5), lambda: draw.random(streams), 1000, 0.1)
    assert not exceeds(share, 0.1, streams)


def test_a_loss_may_depend_on_those_before_while_its_mean_does_not() -> None:
    draw, streams = np.random.default_rng(3), 1000
    last = np.zeros(streams)

    def next_loss() -> Losses:  # after a loss a coin, after none something rarer and larger
        nonlocal last
        coin = draw.random(streams)
        last = np.where(last > 0, (coin < 0.2) * 0.5, (coin < 0.1) * 1.0)
        return last

    assert not exceeds(ever(ours, np.full(streams, 0.1), next_loss, 1500, 0.1), 0.1, streams)


@pytest.mark.long
def test_false_alarms_of_many_long_streams_are_as_rare_as_promised() -> None:
    streams = 2000
    share = ever(ours, np.full(streams, 0.1), drawing(4, 0.1, streams), 20000, 0.01)
    assert not exceeds(share, 0.01, streams)


def test_what_is_still_to_be_staked_begins_with_all_and_falls_to_nothing() -> None:
    t = np.array([1, 2, 10, 1e6, 1e300])
    assert remaining(1) == 1.0
    assert (np.diff(remaining(t)) < 0).all()
    assert remaining(1e300) < 0.002


def test_the_evidence_is_the_sum_that_the_docstring_gives() -> None:
    losses, b = np.array([0.0, 1.0, 1.0, 0.3, 1.0]), 0.2
    bet = Evidence(b)
    for loss in losses:
        bet.add(loss)
    expected = float(remaining(6))
    for k in range(5):
        share = float(remaining(k + 1) - remaining(k + 2))
        for stake in bets(b):
            expected += share * np.prod(1 + stake * (losses[k:] - b)) / len(bets(b))
    assert float(bet.value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("b", "mean", "before"), [(0.1, 0.2, 0), (0.1, 0.2, 500), (0.02, 1, 300)])
def test_an_alarm_is_raised_within_the_predicted_delay(b: float, mean: float, before: int) -> None:
    streams, delta = 300, 0.01
    bet, took = Evidence(np.full(streams, b)), np.zeros(streams)
    clean, shifted = drawing(5, b, streams), drawing(6, mean, streams)
    for _ in range(before):
        bet.add(clean())
    for step in range(1, 3000):
        bet.add(shifted())
        took[(took == 0) & bet.reached(delta)] = step
        if took.all():
            break
    predicted = delay(b, mean, delta, before)
    error = took.std() / np.sqrt(streams)
    assert took.all()
    assert predicted / 2.5 < took.mean() < predicted + 3 * error


def test_the_plain_bet_of_the_field_has_its_known_delay() -> None:
    """One bet that learns the rate from all losses so far: 142 losses where the rate doubles."""
    draw, b, delta, streams = np.random.default_rng(7), 0.1, 0.01, 300

    def median(rate: float, steps: int) -> tuple[float, float]:
        log, total, took = np.zeros(streams), np.zeros(streams), np.full(streams, np.inf)
        for t in range(1, steps + 1):
            p = (total + 0.5) / t
            stake = np.clip((p - b) / (b * (1 - b)), 0.0, 0.9 / b)
            loss = (draw.random(streams) < rate).astype(float)
            log += np.log1p(stake * (loss - b))
            total += loss
            took[np.isinf(took) & (log >= np.log(1 / delta))] = t
        return float(np.median(took)), float(np.isfinite(took).mean())

    assert median(b, 3000)[1] <= 0.02
    assert 110 <= median(2 * b, 1500)[0] <= 180


def test_the_detector_runs_as_long_as_it_says_between_false_alarms() -> None:
    streams, needed = 400, 20.0
    bet, took = Evidence(np.full(streams, 0.1)), np.zeros(streams)
    draw = drawing(8, 0.1, streams)
    for step in range(1, 4000):
        bet.add(draw())
        took[(took == 0) & (bet.recent >= needed)] = step
    took[took == 0] = 4000
    assert took.mean() - 3 * took.std() / np.sqrt(streams) >= needed


def test_the_change_is_dated() -> None:
    draw, bet = np.random.default_rng(9), Evidence(np.full(200, 0.1))
    for t in range(600):
        bet.add((draw.random(200) < (0.1 if t < 400 else 0.5)).astype(float))
    assert abs(np.median(bet.since) - 400) <= 20


# The reference -------------------------------------------------------------------------------


def test_the_tolerated_rate_covers_a_reference_of_finite_size_and_the_drift_budget() -> None:
    draw = np.random.default_rng(10)
    counts = draw.binomial(100, 0.07, 2000)
    bounds = np.array([tolerated_rate(int(k), 100, 0.05) for k in counts])
    assert not exceeds(float((bounds < 0.07).mean()), 0.05, 2000)
    assert exceeds(float((counts / 100 < 0.07).mean()), 0.05, 2000)  # the plain rate is no bound
    q, kappa = 0.2, 0.05
    p = upward(q, kappa)
    assert p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)) == pytest.approx(kappa)
    assert p >= q
    assert 1 - p == pytest.approx(float(under_drift(1 - q, kappa)))


def test_the_tolerated_rank_covers_a_reference_of_finite_size() -> None:
    draw, delta = np.random.default_rng(11), 0.05
    # The mean rank of a new uniform score among n is 1 minus the mean of the n.
    means = 1.0 - draw.random((4000, 60)).mean(axis=1)
    assert not exceeds(float((means > tolerated_rank(60, delta)).mean()), delta, 4000)
    assert exceeds(float((means > 0.5).mean()), delta, 4000)
    assert tolerated_rank(60, delta) < 0.5 + 0.1


def test_ranks_against_a_finite_reference_raise_no_more_than_promised() -> None:
    draw, streams, rows, delta = np.random.default_rng(12), 400, 40, 0.1
    reference = np.sort(draw.random((streams, rows)), axis=1)

    def rank() -> Losses:
        return (reference < draw.random((streams, 1))).mean(axis=1)

    bound = np.full(streams, tolerated_rank(rows, delta / 2))
    assert not exceeds(ever(ours, bound, rank, 1500, delta / 2), delta, streams)
    half = np.full(streams, 0.5)  # as if the reference were infinite
    assert exceeds(ever(ours, half, rank, 1500, delta / 2), delta, streams)


def test_the_fewest_rows_are_enough_and_one_less_is_not() -> None:
    rows = least_rows(0.001)
    assert tolerated_rate(0, rows, 0.001) <= 0.1 < tolerated_rate(0, rows - 1, 0.001)


def test_ranks_in_a_pool_are_uniform_and_independent_whatever_the_reference(tmp_path: Path) -> None:
    draw, streams, steps, delta = np.random.default_rng(13), 300, 250, 0.1
    ranks = np.empty((streams, steps))
    for i in range(streams):  # few values, so that ties count
        pool = Pool(draw.integers(0, 12, 8).tolist(), tmp_path / f"{i}.f64", 0)
        scores, coins = draw.integers(0, 12, steps), draw.random(steps)
        ranks[i] = [pool.rank(float(s), c) for s, c in zip(scores, coins, strict=True)]
    assert scipy.stats.kstest(ranks.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(ranks[:, 1:].ravel(), ranks[:, :-1].ravel())[0, 1]) < 0.015
    # Streams of one small reference share its luck if ranks are taken in it alone.
    steady = ranks.mean(axis=1).std() * np.sqrt(12 * steps)
    assert 0.85 < steady < 1.15
    step = iter(ranks.T)
    half = np.full(streams, 0.5)
    assert not exceeds(ever(ours, half, lambda: next(step), steps, delta), delta, streams)


def test_a_pool_forgets_what_no_state_counts(tmp_path: Path) -> None:
    pool = Pool([1.0, 2.0], tmp_path / "s.f64", 0)
    for score in (3.0, 4.0, 5.0):
        pool.rank(score, 0.5)
    pool.write()
    again = Pool([1.0, 2.0], tmp_path / "s.f64", 2)  # stopped before the state knew of the third
    assert again.rank(4.5, 0.0) == 4 / 5
    again.write()
    assert Pool([1.0, 2.0], tmp_path / "s.f64", 3).rank(4.6, 0.0) == 5 / 6
    with pytest.raises(RunError, match="lost scores"):
        Pool([1.0, 2.0], tmp_path / "s.f64", 4)


# The watch -----------------------------------------------------------------------------------

PARAMETERS = {"checkpoint_sha256": "0" * 64, "sigma": 0.25, "method": "standard", "n": 100}


def answers(seed: int, count: int, abstain: float = 0.05, shift: float = 0.0) -> list[Observation]:
    """Answers of a made-up classifier."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(count):
        silent = draw.random() < abstain
        found.append(
            Observation(
                key=f"{seed}:{i}",
                predict=None if silent else 3,
                radius=0.0 if silent else float(draw.uniform(0.1, 1.0)),
                label=3 if draw.random() < 0.98 else 4,
                clean=3 if draw.random() < 0.99 else 5,
                scores={"energy": float(draw.integers(0, 50)) + 50 * shift},
                evidence={"votes": 90, "seed": seed},
                replay="deqcert certify --images 0",
            )
        )
    return found


class ListSource:
    """A source that is a list; the labels of some answers come later."""

    name, skipped = "list", 0

    def __init__(self, seen: Sequence[Observation], late: Sequence[int] = ()) -> None:
        self.notes: dict[str, Any] = {}
        self.seen, self.late = seen, late
        self.parameters = [PARAMETERS]
        self.position: Any = None

    def observations(self) -> Iterator[Observation]:
        first, labels = self.position or (0, 0)
        for i in range(first, len(self.seen)):
            self.position = [i + 1, labels]
            known = None if self.late else self.seen[i].label
            yield dataclasses.replace(self.seen[i], label=known)

    def labelled(self) -> Iterator[Observation]:
        done, labels = self.position or (0, 0)
        for i in range(labels, len(self.late)):
            self.position = [done, i + 1]
            yield self.seen[self.late[i]]

    def images(self, observations: Sequence[Observation]) -> NDArray[np.float32]:
        raise AssertionError("these answers come with all that is needed")


def reference(rows: int = 400) -> Reference:
    clean = answers(0, rows)
    scores = {"energy": [row.scores["energy"] for row in clean]}
    return make_reference(clean, PARAMETERS, 0.2, scores=scores)


def watched(source: ListSource, folder: Path, **options: Any) -> Watch:
    with Watch(reference(), source, folder, **options) as watch:
        watch.go_on()
    return watch


def test_like_answers_raise_no_alarm_and_others_do(tmp_path: Path) -> None:
    quiet = watched(ListSource(answers(1, 800)), tmp_path / "quiet")
    assert not quiet.standing
    assert not quiet.new
    loud = watched(
        ListSource(answers(1, 500) + answers(2, 300, abstain=0.6, shift=0.8)), tmp_path / "loud"
    )
    rows = {row["alarm"]: row for row in loud.rows()}
    assert loud.standing
    assert rows["abstention"]["standing"]
    assert rows["energy"]["standing"]
    assert 490 <= rows["abstention"]["since"] <= 520 <= rows["abstention"]["raised"] <= 580
    assert rows["error"]["raised"] is None


def test_a_watch_that_is_stopped_anywhere_ends_like_one_that_is_not(tmp_path: Path) -> None:
    seen = answers(1, 300) + answers(2, 200, abstain=0.5)
    whole = watched(ListSource(seen, late=range(450)), tmp_path / "whole")
    for end in (1, 255, 257, 257, 420, 500):
        source = ListSource(seen[:end], late=range(min(end, 450)))
        parts = watched(source, tmp_path / "parts")
    whole.state.seed = parts.state.seed  # coins are drawn per watch
    assert parts.state.answers == 500
    rows = {row["alarm"]: row for row in parts.rows()}
    assert rows["error"]["answers"] == 450
    energy = [row for row in whole.rows() if row["alarm"] != "energy"]
    assert [row for row in parts.rows() if row["alarm"] != "energy"] == energy
    names = sorted(path.name for path in (tmp_path / "parts" / "incidents").iterdir())
    assert names == sorted(name for row in rows.values() for name in row["incidents"])


def test_an_alarm_that_is_over_is_raised_again_as_a_repeated_one(tmp_path: Path) -> None:
    bad, good = {"abstain": 0.9}, {"abstain": 0.0}
    source = ListSource(
        answers(1, 100) + answers(2, 60, **bad) + answers(3, 300, **good) + answers(4, 60, **bad)
    )
    watch = watched(source, tmp_path / "w", alarms=["abstention"])
    (row,) = watch.rows()
    first, second = (
        json.loads((tmp_path / "w" / "incidents" / name).read_text()) for name in row["incidents"]
    )
    assert "ever" in first["statement"]
    assert "repeated" in second["statement"]
    assert 455 <= second["since"] <= second["raised"] <= 480


def test_an_incident_stands_on_its_own(tmp_path: Path) -> None:
    watch = watched(ListSource(answers(5, 80, abstain=0.9)), tmp_path, alarms=["abstention"])
    found = json.loads(watch.new[0].read_text())
    assert found["alarm"] == "abstention"
    assert found["evidence"] >= found["threshold"] == 200.0
    assert found["inputs"]
    for one in found["inputs"]:
        assert one["predict"] is None
        assert one["votes"] == 90
        assert one["replay"].startswith("deqcert certify")
    assert {"torch", "deqcert"} <= set(found["versions"])


def test_what_is_promised_is_fixed_before_the_first_answer(tmp_path: Path) -> None:
    source = ListSource(answers(1, 10))
    watched(source, tmp_path)
    with pytest.raises(RunError, match="whose delta is"):
        watched(source, tmp_path, promise=Promise(delta=0.2))
    with pytest.raises(RunError, match="whose alarms is"):
        watched(source, tmp_path, alarms=["energy"])
    with pytest.raises(ConfigError, match="did you mean"):
        watched(source, tmp_path, alarms=["energi"])


def test_a_drift_budget_tolerates_more(tmp_path: Path) -> None:
    source = ListSource(answers(6, 400, abstain=0.15))
    assert watched(source, tmp_path / "none", alarms=["abstention"]).standing
    wide = Promise(drift_budget=0.05)
    assert not watched(source, tmp_path / "wide", promise=wide, alarms=["abstention"]).standing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": 0.5}, "sigma was 0.25 and is now 0.5"),
        ({"checkpoint_sha256": "1" * 64}, "checkpoint_sha256 was"),
        ({"method": "independent"}, "method was"),
        ({"n": 50}, "n was 100"),
    ],
)
def test_a_reference_of_something_else_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    source = ListSource(answers(1, 10))
    source.parameters = [PARAMETERS | change]
    with pytest.raises(ConfigError, match=said):
        watched(source, tmp_path)


def test_a_reference_that_is_too_small_says_how_many_are_needed(tmp_path: Path) -> None:
    for rows, said in ((20, "are needed to tell a rate of 0"), (3, "are needed")):
        with pytest.raises(ConfigError, match=said):
            Watch(reference(rows), ListSource(answers(1, 10)), tmp_path)
    small = make_reference([], PARAMETERS, 0.2, scores={"energy": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="hardly be raised"):
        Watch(small, ListSource(answers(1, 10)), tmp_path, Promise(drift_budget=0.01))


def test_a_reference_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    made = reference()
    made.write(file)
    assert Reference.read(file) == made
    file.write_text(file.read_text().replace('"radius": 0.2', '"radius": 0.3'))
    with pytest.raises(RunError, match="was changed"):
        Reference.read(file)


@pytest.mark.parametrize("content", ["", "[]", '{"format": "deqcert-watch"}', "\x00", "{}"])
def test_a_damaged_state_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RunError, match="begins anew"):
        watched(ListSource(answers(1, 10)), tmp_path)
