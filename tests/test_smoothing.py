"""The engine: noise, starts, votes; row independence above all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from toys import ORIGIN, SIGMA, HalfLine, reference

from deqcert.errors import ConfigError, DataError
from deqcert.models import load_model
from deqcert.smoothing import (
    NO_VOTE,
    DecidedStop,
    EarlyStop,
    Input,
    Predictor,
    SmoothingEngine,
    noisy_copies,
)
from deqcert.solvers import SOLVERS, Picard, StopRule, get_solver
from deqcert.starts import get_start, start_names

X = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)


class SmallDeq(torch.nn.Module):
    """A three-class DEQ over 8 x 8 images with every row's arithmetic in library calls."""

    input_shape = (1, 8, 8)
    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.w = torch.nn.Parameter(0.12 * torch.randn(24, 24, generator=generator))
        self.u = torch.nn.Parameter(0.4 * torch.randn(24, 64, generator=generator))
        self.v = torch.nn.Parameter(torch.randn(3, 24, generator=generator))

    def inject(self, x):
        return x.flatten(1) @ self.u.T

    def initial_state(self, injection):
        return torch.zeros_like(injection)

    def cell(self, z, injection):
        return torch.tanh(z @ self.w.T + injection)

    def readout(self, z):
        return z @ self.v.T


def engine(**options):
    given = {"sigma": 0.7, "seed": 3, "batch": 64, "shape": 64} | options
    return SmoothingEngine(SmallDeq(), **given)


def predictor(solver="anderson", start="cold", stop=None, **options):
    stop = stop or StopRule(tol=1e-4, max_nfe=40)
    if start != "cold":
        options = {"warmup": StopRule(tol=0, max_nfe=30)} | options
    return Predictor(get_solver(solver), stop, get_start(start), **options)


FIXED = StopRule(tol=0, max_nfe=4)


@pytest.mark.parametrize("solver", SOLVERS.names())
@pytest.mark.parametrize("stop", [StopRule(tol=1e-4, max_nfe=40), FIXED])
def test_votes_of_independent_starts_do_not_depend_on_the_batch(solver, stop):
    for batch, n in ((1, 40), (7, 150), (64, 150)):
        whole = engine().votes(predictor(solver, stop=stop), Input(X, 5), 1, n)
        other = engine(batch=batch).votes(predictor(solver, stop=stop), Input(X, 5), 1, n)
        assert whole.predictions.shape == (n,)
        np.testing.assert_array_equal(whole.predictions, other.predictions)
        np.testing.assert_array_equal(whole.margins, other.margins)
        assert other.nfe == whole.nfe


@settings(max_examples=10)
@given(parts=st.lists(st.integers(1, 90), min_size=1, max_size=5), shuffle=st.integers(0, 99))
def test_votes_do_not_depend_on_how_the_samples_are_split_or_ordered(parts, shuffle):
    n = sum(parts)
    whole = engine().votes(predictor(), Input(X, 0), 2, n)
    order = np.random.default_rng(shuffle).permutation(n)
    seen = np.empty(n, dtype=np.int16)
    for piece in np.split(order, np.cumsum(parts)[:-1]):
        seen[piece] = engine(batch=16).classify(predictor(), Input(X, 0), 2, piece).predictions
    np.testing.assert_array_equal(seen, whole.predictions)


@pytest.mark.parametrize("start", start_names())
def test_every_start_finds_the_same_classes_when_it_solves_deeply(start):
    cold = engine().votes(predictor(), Input(X, 1), 1, 200)
    deep = engine().votes(predictor(start=start, stop=StopRule(tol=1e-5)), Input(X, 1), 1, 200)
    assert np.mean(cold.predictions == deep.predictions) > 0.99


@pytest.mark.parametrize("start", [name for name in start_names() if name != "cold"])
def test_chained_starts_repeat_exactly_and_count_their_warm_up(start):
    warm = predictor(start=start, stop=StopRule(tol=0, max_nfe=2))
    first = engine(batch=50).votes(warm, Input(X, 2), 1, 175)
    again = engine(batch=50).votes(warm, Input(X, 2), 1, 175)
    np.testing.assert_array_equal(first.predictions, again.predictions)
    # previous and mean solve the first batch of 50 with 30 evaluations; clean solves one input.
    assert first.nfe == (30 + 175 * 2 if start == "clean" else 50 * 30 + 125 * 2)
    # An image's chain knows nothing of the image before it.
    shared = engine(batch=50)
    shared.votes(warm, Input(X[:, ::-1].copy(), 9), 1, 100)
    np.testing.assert_array_equal(
        shared.votes(warm, Input(X, 2), 1, 175).predictions, first.predictions
    )


@pytest.mark.parametrize("start", ["previous", "mean"])
def test_refresh_solves_every_so_many_batches_cold(start):
    warm = predictor(start=start, stop=StopRule(tol=0, max_nfe=2), refresh=2)
    votes = engine(batch=50).votes(warm, Input(X, 2), 1, 200)
    assert votes.nfe == 2 * 50 * 30 + 2 * 50 * 2


def test_rows_that_do_not_converge_have_no_vote_but_stay_in_n():
    model = HalfLine(0.9)
    never = Predictor(Picard(), StopRule(tol=1e-12, max_nfe=2))
    model.initial_state = lambda injection: torch.zeros_like(injection)
    votes = SmoothingEngine(model, sigma=SIGMA).votes(never, Input(ORIGIN, 0), 1, 50)
    assert (votes.predictions == NO_VOTE).all()
    assert votes.counts.sum() == 0
    assert len(votes.predictions) == 50
    assert (votes.margins == 0).all()


@pytest.mark.parametrize("stop", [StopRule(tol=1e-4, max_nfe=40), FIXED])
@pytest.mark.parametrize("mode", [True, False])
def test_the_callers_grad_mode_is_its_own_between_two_batches(stop, mode):
    inside = []
    watched = engine(batch=16, callbacks=[lambda *_, **__: inside.append(torch.is_grad_enabled())])
    with torch.set_grad_enabled(mode):
        batches = watched.batches(predictor(stop=stop), Input(X, 5), 1, np.arange(80))
        for number, batch in enumerate(batches):
            assert torch.is_grad_enabled() is mode
            assert not batch.z.requires_grad and not batch.logits.requires_grad
            if number == 2:
                break  # the rest is never asked for
        assert torch.is_grad_enabled() is mode
        batches.close()
        assert torch.is_grad_enabled() is mode
    assert inside == [False] * 3


@pytest.mark.parametrize("solver", SOLVERS.names())
def test_no_sample_votes_by_a_tolerance_that_nobody_measured(solver):
    """After one evaluation far from the equilibrium every sample used to vote."""
    for more in ({}, {"start": "previous"}):
        with pytest.raises(ConfigError, match=r"tol of 0\.001 cannot be held .* 2 evaluations or"):
            predictor(solver, stop=StopRule(tol=1e-3, max_nfe=1), **more)
    once = StopRule(tol=1e-3, max_nfe=1)
    with pytest.raises(ConfigError, match=r"tol of 0\.001 cannot be held"):
        predictor(solver, stop=FIXED, start="previous", warmup=once)
    twice = predictor(solver, stop=StopRule(tol=1e-9, max_nfe=2))
    assert engine(batch=16).votes(twice, Input(X, 5), 1, 16).counts.sum() == 0


@pytest.mark.parametrize("tol", [1e-3, 0.5, 1e3])
@pytest.mark.parametrize("solver", SOLVERS.names())
@pytest.mark.parametrize("early", [EarlyStop(0.2), DecidedStop(1.0, 0.1)])
def test_one_evaluation_with_an_early_stop_reads_out_the_state_after_it(tol, solver, early):
    # With one evaluation there is nothing for a tolerance to end.
    found, expected = (
        next(
            engine(batch=64).batches(
                predictor(solver, stop=StopRule(tol=t, max_nfe=1), early=early),
                Input(X, 5),
                1,
                np.arange(64),
            )
        )
        for t in (tol, 0.0)
    )
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert torch.equal(found.z, expected.z)
    assert found.z.abs().sum() > 0, "the cold start, all zeros, is the state before the step"
    assert np.isnan(found.residual).all() and (found.nfe == 1).all()
    np.testing.assert_array_equal(found.predictions, expected.predictions)


def test_margins_are_the_gaps_between_the_two_largest_logits():
    model = HalfLine(0.9)
    votes = SmoothingEngine(model, sigma=SIGMA, batch=30).votes(
        reference(), Input(ORIGIN, 3), 1, 100
    )
    noisy = noisy_copies(
        torch.zeros(1, 1, 1), np.arange(100), sigma=SIGMA, seed=0, index=3, stage=1
    )
    expected = 2 * (noisy.reshape(100) - model.threshold).abs()
    np.testing.assert_allclose(votes.margins, expected.numpy(), atol=1e-5)


def test_rows_that_are_not_finite_have_no_vote_and_touch_no_other():
    model = HalfLine(0.5)
    usual = SmoothingEngine(model, sigma=SIGMA).votes(reference(), Input(ORIGIN, 0), 1, 200)

    class Poisoned(HalfLine):
        def cell(self, z, injection):
            value = super().cell(z, injection)
            return torch.where(injection > 0.4, torch.full_like(value, torch.nan), value)

    votes = SmoothingEngine(Poisoned(0.5), sigma=SIGMA).votes(reference(), Input(ORIGIN, 0), 1, 200)
    lost = votes.predictions == NO_VOTE
    assert 0 < lost.sum() < 100
    np.testing.assert_array_equal(votes.predictions[~lost], usual.predictions[~lost])


def test_votes_have_the_probability_they_should():
    votes = SmoothingEngine(HalfLine(0.7), sigma=SIGMA).votes(
        reference(), Input(ORIGIN, 0), 1, 20000
    )
    assert stats.binomtest(int(votes.counts[0]), 20000, 0.7).pvalue > 1e-3


def test_noise_is_a_function_of_its_counters_alone():
    x = torch.zeros(3, 5, 5)

    def draw(samples, seed=1, index=2, stage=3):
        return noisy_copies(x, np.asarray(samples), sigma=1.0, seed=seed, index=index, stage=stage)

    block = draw(range(10))
    for order in ([3], [9, 0, 4], [4, 5, 6, 1]):
        assert torch.equal(draw(order), block[order])
    for other in (draw(range(10), seed=2), draw(range(10), index=3), draw(range(10), stage=1)):
        assert not torch.isclose(other, block).any(dim=1).all()
    shifted = noisy_copies(x + 0.5, np.arange(10), sigma=0.25, seed=1, index=2, stage=3)
    torch.testing.assert_close(shifted, 0.5 + 0.25 * block)


PEAK = """
import resource, sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from test_smoothing import FIXED, Averages, predictor
from deqcert.smoothing import Input, SmoothingEngine
solve = SmoothingEngine(Averages(), sigma=0.7, batch=50)
x = np.zeros((1, 32, 32), dtype=np.float32)
solve.votes(predictor(stop=FIXED), Input(x, 0), 1, 500)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
solve.votes(predictor(stop=FIXED), Input(x, 1), 1, 20000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


class Averages(SmallDeq):
    """The DEQ over larger images, each averaged to 8 x 8."""

    input_shape = (1, 32, 32)

    def inject(self, x):
        return super().inject(torch.nn.functional.avg_pool2d(x, 4))


def test_memory_does_not_grow_with_n():
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(Path(__file__).parent)],
        check=True,
        capture_output=True,
        text=True,
    )
    # Twenty thousand noisy copies are 80 MB; what may grow is a few numbers a sample.
    assert int(done.stdout) < 8000


def test_impossible_engines_predictors_and_inputs_are_refused_in_one_sentence():
    for call in (
        lambda: engine(sigma=0.0),
        lambda: engine(sigma=float("nan")),
        lambda: engine(sigma=-1.0),
        lambda: engine(batch=0),
        lambda: engine(shape=0),
        lambda: engine(seed=-1),
        lambda: engine(device="warp"),
        lambda: engine(device="cuda:99"),
        lambda: get_start("hot"),
        lambda: Predictor(Picard(), FIXED, get_start("previous")),
        lambda: Predictor(Picard(), FIXED, warmup=FIXED),
        lambda: Predictor(Picard(), FIXED, refresh=3),
        lambda: engine().votes(predictor(), Input(X, 0), 1, 0),
        lambda: engine().votes(predictor(), Input(X, -1), 1, 5),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="the model takes"):
        engine().votes(predictor(), Input(X[:, :7], 0), 1, 5)
    with pytest.raises(DataError, match="not finite"):
        engine().votes(predictor(), Input(X * np.nan, 0), 1, 5)


class Many(HalfLine):
    """A model that has this many classes, and may say so."""

    def __init__(self, classes: int, says: bool) -> None:
        super().__init__(0.9)
        self.classes, self.num_classes = classes, classes if says else None

    def readout(self, z: Tensor) -> Tensor:
        return torch.cat([super().readout(z), torch.full((len(z), self.classes - 2), -9.0)], dim=1)


@pytest.mark.parametrize("says", [True, False])
def test_more_classes_than_votes_can_name_are_refused(says):
    def counts(classes: int) -> np.ndarray:
        engine = SmoothingEngine(Many(classes, says), sigma=SIGMA, batch=10)
        return engine.votes(reference(), Input(ORIGIN, 0), 0, 10).counts

    assert counts(2**15 - 1).sum() == 10
    with pytest.raises(ConfigError, match=r"32768 classes.* at most 32767"):
        counts(2**15)


def test_a_convolutional_model_in_one_declared_shape(golden_folder):
    """MDEQ-SMALL: identical votes for batches of 1, 7 and 64 evaluated as 64 rows."""
    model = load_model(golden_folder / "mdeq_small_noise25.pth.tar")
    with np.load(golden_folder / "mdeq_small_noise25.npz") as archive:
        x = archive["x"][2].astype(np.float32) / 255
    cold = Predictor(get_solver("anderson"), StopRule(tol=0, max_nfe=3))
    votes = [
        SmoothingEngine(model, sigma=0.25, batch=batch, shape=64).votes(cold, Input(x, 2), 1, n)
        for batch, n in ((64, 130), (7, 130), (1, 20))
    ]
    np.testing.assert_array_equal(votes[0].predictions, votes[1].predictions)
    np.testing.assert_array_equal(votes[0].predictions[:20], votes[2].predictions)
