"""Checks that are fitted keep to what they state, on rows that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest

from deqcert.training.starts.checks import outcome, tried_checks
from deqcert.training.starts.depth import Trajectories, choose_depth, hold_depth

STATED = 0.02


def simulated(rows: int, seed: int, steps: int = 4) -> Trajectories:
    """Logits that come nearer to where they end at each step, as those of a solve do."""
    draw = np.random.default_rng(seed)
    ends = draw.normal(size=(rows, 1, 4)) * 2.0
    error = draw.normal(size=(rows, 1, 4)) * np.exp(draw.normal(size=(rows, 1, 1)))
    turn = draw.normal(size=(rows, steps + 1, 4)) * 0.3
    shrink = 0.3 ** np.arange(steps + 1)[None, :, None]
    logits = ends + (error + turn) * shrink
    residuals = np.abs(error[:, :, 0]) * shrink[:, 1:, 0]
    truth = ends[:, 0].argmax(axis=1)
    return Trajectories(truth, truth, logits.astype(np.float32), residuals)


def test_a_stated_disagreement_holds_on_other_rows_as_often_as_is_said() -> None:
    """95% confidence: of 20 rules at most 4 may exceed it (more has probability 0.003)."""
    others, exceeded, kept = simulated(40_000, seed=10**6), 0, 0
    for seed in range(20):
        held = hold_depth(simulated(1500, seed), STATED, readout=0.5, kinds=("checks",))
        if held.bound > STATED:
            continue
        kept += 1
        depths, gaps = zip(*held.depth.checks, strict=True) if held.depth.checks else ((), ())
        _, wrong = outcome(others.gaps, others.wrong, depths, gaps, held.depth.steps, 0.5)
        exceeded += wrong > STATED
    assert kept >= 16
    assert exceeded <= 4


def test_a_rule_is_bolder_the_more_votes_may_change_and_cheaper_than_one_depth_for_all() -> None:
    found, spent = simulated(4000, seed=3), []
    for stated in (0.01, 0.02, 0.05, 0.1):
        held = hold_depth(found, stated, readout=0.5)
        assert held.depth.disagreement <= held.bound <= stated
        assert held.images == 2000
        fixed = hold_depth(found, stated, readout=0.5, kinds=("fixed",))
        assert held.depth.nfe <= fixed.depth.nfe
        spent.append(held.depth.nfe)
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < spent[0]


def test_what_too_few_rows_cannot_show_is_said_and_the_most_cautious_rule_kept() -> None:
    held = hold_depth(simulated(100, seed=1), 0.001, readout=0.5)
    assert held.bound > 0.001
    assert held.bound >= 1.0 - 0.05 ** (1 / held.images) - 1e-12
    first = simulated(100, seed=1).part(slice(0, None, 2))
    cautious = choose_depth(first, 0.0, readout=0.5)
    assert (held.depth.steps, held.depth.checks) == (cautious.steps, cautious.checks)


def test_evaluations_and_readouts_of_a_rule_are_counted_row_by_row() -> None:
    gap = np.array([[3.0, 3.0, 3.0], [0.0, 2.0, 2.0], [0.0, 0.0, 1.0]])
    wrong = np.array([[False, True, True], [True, True, False], [False, False, True]])
    nfe, disagreement = outcome(gap, wrong, (0, 1), (2.5, 1.5), 2, 0.25)
    # The first ends at its start, the second after one evaluation and a readout in vain, the third
    # after two evaluations and two such readouts.
    assert nfe == pytest.approx((0.0 + 1.25 + 2.5) / 3)
    assert disagreement == pytest.approx(2 / 3)


def test_gaps_fall_where_the_class_is_surer_and_are_finite_whatever_the_rows() -> None:
    found = simulated(2000, seed=5)
    for rule in tried_checks(found.gaps, found.wrong, 0.5):
        assert all(np.isfinite(gap) and gap >= 0 for gap in rule.gaps)
    never = np.zeros((10, 3), dtype=bool)
    for gap in (np.zeros((10, 3)), np.full((10, 3), np.nan)):
        for wrong in (never, ~never):
            for rule in tried_checks(gap, wrong, 0.5):
                assert all(np.isfinite(g) and g >= 0 for g in rule.gaps)
                assert 0 <= rule.disagreement <= 1
