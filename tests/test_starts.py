"""Learned starts and early stops: independent rows, exact counts, files bound to their model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_smoothing import FIXED, SmallDeq, X, engine
from toys import ORIGIN, SIGMA, HalfLine

from deqcert import SmoothedClassifier, load_dataset
from deqcert.certifiers import get_certifier
from deqcert.cli import main
from deqcert.compose import describe_predictor, early_stop
from deqcert.errors import CheckpointError, ConfigError, RunError
from deqcert.models import MDEQ, architecture, file_hash, load_model
from deqcert.models.zoo import SHIPPED
from deqcert.smoothing import (
    NO_VOTE,
    CheckedStop,
    DecidedStop,
    EarlyStop,
    Input,
    Predictor,
    SmoothingEngine,
    Stage,
    noisy_copies,
)
from deqcert.smoothing.stream import solve_stream
from deqcert.solvers import Anderson, Broyden, Picard, StopRule, bind
from deqcert.solvers.loop import SolveLoop
from deqcert.starts import (
    STARTS,
    Learned,
    StartPolicy,
    build_start,
    get_start,
    load_start,
    make_start,
    start_architecture,
    start_path,
)
from deqcert.starts.network import LowRankStart, PyramidStart
from deqcert.training import StartConfig, train_start
from deqcert.training.record import claim
from deqcert.training.starts.depth import Trajectories, choose_depth, follow

TOLERANCE = StopRule(tol=1e-3, max_nfe=40)


def learned(cost: float = 0.25) -> Learned:
    """A start for SmallDeq, with weights that nobody fitted."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Learned(LowRankStart(24, 24, 5).requires_grad_(False), cost)


def predictors() -> dict[str, Predictor]:
    return {
        "fixed": Predictor(Anderson(), FIXED, learned()),
        "tolerance": Predictor(Anderson(), TOLERANCE, learned()),
        "early": Predictor(Anderson(), StopRule(0, max_nfe=9), learned(), early=EarlyStop(0.01)),
        "margin": Predictor(
            Anderson(), StopRule(0, max_nfe=9), learned(), early=DecidedStop(4.0, 0.5)
        ),
        "checks": Predictor(
            Anderson(),
            StopRule(0, max_nfe=6),
            learned(),
            early=CheckedStop((0, 1, 3), (2.0, 1.2, 0.9), 0.5),
        ),
        "early, cold": Predictor(Picard(), StopRule(0, max_nfe=9), early=EarlyStop(0.05)),
    }


@pytest.mark.parametrize("kind", predictors())
def test_votes_depend_neither_on_the_batch_nor_on_the_order(kind: str) -> None:
    predictor = predictors()[kind]
    assert predictor.independent
    whole = engine().votes(predictor, Input(X, 5), 1, 150)
    assert len(set(whole.predictions.tolist())) > 1
    for batch in (1, 7, 64):
        other = engine(batch=batch).votes(predictor, Input(X, 5), 1, 150)
        np.testing.assert_array_equal(whole.predictions, other.predictions)
        assert other.nfe == whole.nfe
    order = np.random.default_rng(0).permutation(150)
    mixed = engine(batch=16).classify(predictor, Input(X, 5), 1, order)
    np.testing.assert_array_equal(mixed.predictions, whole.predictions[order])


def test_a_start_is_counted_by_its_cost() -> None:
    fixed, tolerance = predictors()["fixed"], predictors()["tolerance"]
    assert engine().votes(fixed, Input(X, 5), 1, 100).nfe == 100 * (4 + 0.25)
    free = dataclasses.replace(tolerance, start=learned(cost=0.0))
    spent = engine().votes(free, Input(X, 5), 1, 100).nfe
    assert engine().votes(tolerance, Input(X, 5), 1, 100).nfe == spent + 25
    batch = next(engine().batches(fixed, Input(X, 5), 1, np.arange(64)))
    assert set(batch.nfe) == {4}
    assert fixed.spent(int(batch.nfe.sum()), 64) == 64 * 4.25
    certificate = get_certifier("standard", fixed, n0=10, n=100, alpha=0.01).certify(
        engine(), Input(X, 5)
    )
    assert certificate.nfe == 110 * 4.25
    assert "learned start (0.25 evaluations)" in certificate.assumptions


def test_an_early_stop_is_that_of_each_row_alone() -> None:
    """Against a loop that does nothing else, one row at a time, in the same declared shape."""
    solve = engine()
    early = Predictor(Picard(), StopRule(0, max_nfe=6), learned(), early=EarlyStop(0.06))
    votes = solve.votes(early, Input(X, 3), 1, 80)
    depths, model = [], solve.model
    always = Predictor(Picard(), StopRule(0, max_nfe=1), learned())
    for batch in solve.batches(always, Input(X, 3), 1, np.arange(80)):
        for row, sample in enumerate(batch.samples):
            injection = batch.injection[row : row + 1]
            with torch.no_grad():
                z = model.apply(early.start.net, injection)
                depth, residual = 0, 1.0
                while depth < 6 and residual > 0.06:
                    fz = model.cell(z, injection)
                    residual = ((fz - z).norm() / fz.norm()).item()
                    z, depth = fz, depth + 1
                assert model.readout(z).argmax().item() == votes.predictions[sample]
            depths.append(depth)
    assert len(set(depths)) > 2
    assert votes.nfe == sum(depths) + 80 * 0.25


def test_a_decided_stop_is_that_of_each_row_alone() -> None:
    solve = engine()
    early = DecidedStop(margin=5.0, readout=0.5)
    votes = solve.votes(
        Predictor(Picard(), StopRule(0, max_nfe=6), learned(), early=early), Input(X, 3), 1, 80
    )
    depths, model = [], solve.model
    always = Predictor(Picard(), StopRule(0, max_nfe=1), learned())
    for batch in solve.batches(always, Input(X, 3), 1, np.arange(80)):
        for row, sample in enumerate(batch.samples):
            injection = batch.injection[row : row + 1]
            with torch.no_grad():
                z = model.apply(always.start.net, injection)
                logits, depth, decided = model.readout(z)[0], 0, False
                while depth < 6 and not decided:
                    z, depth = model.cell(z, injection), depth + 1
                    before, logits = logits, model.readout(z)[0]
                    first, second = logits.sort(descending=True).values[:2].tolist()
                    decided = first - second > 5.0 * (logits - before).abs().max().item()
                assert logits.argmax().item() == votes.predictions[sample]
            depths.append(depth)
    assert len(set(depths)) > 2
    assert votes.nfe == sum(depths) * 1.5 + 80 * 0.25


def test_a_row_ends_at_the_first_check_that_lets_it_go_whatever_its_mates_do() -> None:
    """Against a loop that does nothing else, with the same solver, one row at a time."""
    solve, checks = engine(), CheckedStop((0, 1, 3), (2.0, 1.2, 0.9), 0.5)
    predictor = Predictor(Anderson(), StopRule(0, max_nfe=5), learned(), early=checks)
    votes = solve.votes(predictor, Input(X, 3), 1, 80)
    depths, model = [], solve.model
    always = Predictor(Picard(), StopRule(0, max_nfe=1), learned())
    for batch in solve.batches(always, Input(X, 3), 1, np.arange(80)):
        for row, sample in enumerate(batch.samples):
            injection = batch.injection[row : row + 1]
            with torch.no_grad():
                loop = SolveLoop(
                    Anderson(), model.apply(always.start.net, injection), StopRule(0, max_nfe=9)
                )
                for depth in range(6):
                    logits = model.readout(loop.z)[0]
                    first, second = logits.sort(descending=True).values[:2].tolist()
                    gaps = dict(zip(checks.depths, checks.gaps, strict=True))
                    if depth == 5 or first - second > gaps.get(depth, np.inf):
                        break
                    loop.advance(bind(model.cell, injection))
                assert logits.argmax().item() == votes.predictions[sample]
            depths.append(depth)
    assert set(depths) == {0, 1, 3, 5}
    failed = sum(depth > check for depth in depths for check in checks.depths)
    assert votes.nfe == sum(depths) + 80 * 0.25 + 0.5 * failed


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden()])
@pytest.mark.parametrize(
    ("stop", "early"),
    [
        (TOLERANCE, None),
        (StopRule(0, max_nfe=4), None),
        (StopRule(0, max_nfe=6), EarlyStop(0.06)),
        (StopRule(0, max_nfe=6), DecidedStop(5.0, 0.5)),
        (StopRule(0, max_nfe=5), CheckedStop((0, 1, 3), (2.0, 1.2, 0.9), 0.5)),
    ],
)
def test_rows_that_join_others_are_solved_as_if_alone(solver, stop, early) -> None:
    """Blocks come when they come, larger than what is empty, or not at all."""
    solve, predictor = engine(), Predictor(solver, stop, learned(), early=early)
    clean, draw, given = torch.as_tensor(X, dtype=torch.float32), np.random.default_rng(0), 0
    noisy = noisy_copies(clean, np.arange(60), sigma=0.3, seed=0, index=0, stage=1)
    injection = solve.model.inject(noisy).detach()

    class Blocks:
        def __iter__(self):
            return self

        def __next__(self):
            nonlocal given
            first, given = given, min(given + int(draw.choice([0, 0, 1, 3, 7])), 60)
            if first == given:
                raise StopIteration
            return np.arange(first, given), injection[first:given]

    found: dict[int, tuple[torch.Tensor, int]] = {}
    with torch.no_grad():
        while len(found) < 60:
            for rows in solve_stream(solve.model, predictor, Blocks(), 7, joining=True):
                for row, sample in enumerate(rows.samples.tolist()):
                    assert sample not in found
                    found[sample] = rows.result.z[row], int(rows.result.nfe[row])
        for sample, (z, nfe) in found.items():
            block = (np.array([sample]), injection[sample : sample + 1])
            (alone,) = solve_stream(solve.model, predictor, iter([block]), 7)
            assert torch.equal(alone.result.z[0], z)
            assert int(alone.result.nfe[0]) == nfe


@pytest.mark.parametrize(
    "early", [EarlyStop(10.0), DecidedStop(1e-9, 0.0), CheckedStop((1, 3), (1e-9, 1e-9), 0.1)]
)
def test_rows_that_are_lost_vote_for_nobody_whatever_the_stop(early) -> None:
    class Poisoned(HalfLine):
        def cell(self, z, injection):
            value = super().cell(z, injection)
            return torch.where(injection > 0.4, torch.full_like(value, torch.nan), value)

    predictor = Predictor(Picard(), StopRule(0, max_nfe=5), early=early)
    solve = SmoothingEngine(Poisoned(0.5), sigma=SIGMA, batch=16)
    votes = solve.votes(predictor, Input(ORIGIN, 0), 1, 200)
    lost = votes.predictions == NO_VOTE
    usual = SmoothingEngine(HalfLine(0.5), sigma=SIGMA).votes(predictor, Input(ORIGIN, 0), 1, 200)
    assert 0 < lost.sum() < 100
    np.testing.assert_array_equal(votes.predictions[~lost], usual.predictions[~lost])
    assert usual.nfe == 200  # every row ends after its first step


def test_impossible_starts_and_stops_are_refused_in_one_sentence() -> None:
    chained = {"start": get_start("mean"), "warmup": FIXED}
    for call in (
        lambda: EarlyStop(0.0),
        lambda: EarlyStop(float("nan")),
        lambda: DecidedStop(0.0, 0.1),
        lambda: DecidedStop(1.0, -0.1),
        lambda: CheckedStop((), (), 0.1),
        lambda: CheckedStop((2, 1), (1.0, 1.0), 0.1),
        lambda: CheckedStop((-1,), (1.0,), 0.1),
        lambda: CheckedStop((1,), (1.0, 2.0), 0.1),
        lambda: CheckedStop((1,), (float("nan"),), 0.1),
        lambda: CheckedStop((1,), (1.0,), -0.1),
        lambda: Predictor(Picard(), TOLERANCE, learned(), early=CheckedStop((1,), (1.0,), 0.1)),
        lambda: learned(cost=-1.0),
        lambda: learned(cost=float("inf")),
        lambda: get_start("learned"),
        lambda: Predictor(Picard(), TOLERANCE, early=EarlyStop(0.1)),
        lambda: Predictor(Picard(), FIXED, early=EarlyStop(0.1), **chained),
        lambda: Predictor(Picard(), FIXED, learned(), warmup=FIXED),
        lambda: build_start({"kind": "crystal ball"}),
        lambda: StartConfig("digits", cells=4),
        lambda: StartConfig("digits", disagreement=2.0),
        lambda: StartConfig("digits", lr=0.0),
        lambda: StartConfig("digits", labels=-1.0),
        lambda: StartConfig("digits", augment="blur"),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)


class Halfway(StartPolicy):
    """A start from outside: half of the injection, or what the user says."""

    name = "halfway"
    independent = True
    takes = "FACTOR"

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    @classmethod
    def make(cls, argument: str, *, model: object, device: str) -> Halfway:
        return cls(float(argument) if argument else 0.5)

    def facts(self) -> dict[str, float]:
        return {"factor": self.factor}

    def initial(self, model, injection):
        return self.factor * injection


def test_a_start_from_outside_is_one_like_the_others() -> None:
    STARTS.register("halfway", Halfway)
    try:
        policy, tuned = make_start("halfway:0.25")
        assert isinstance(policy, Halfway)
        assert (policy.facts(), tuned) == ({"factor": 0.25}, None)
        votes = engine().votes(Predictor(Anderson(), FIXED, policy), Input(X, 0), 1, 50)
        alone = engine(batch=7).votes(Predictor(Anderson(), FIXED, policy), Input(X, 0), 1, 50)
        np.testing.assert_array_equal(votes.predictions, alone.predictions)
    finally:
        STARTS.unregister("halfway")


@pytest.mark.parametrize("name", STARTS.names())
def test_every_start_says_what_it_needs(name: str) -> None:
    kind = STARTS.get(name)
    assert kind.name == name
    assert isinstance(kind.independent, bool)
    if kind.takes:
        with pytest.raises(ConfigError, match="fitted to one checkpoint"):
            make_start(name)
        return
    policy, tuned = make_start(name)
    assert isinstance(policy, kind)
    assert tuned is None
    assert (policy.cost, policy.facts()) == (0.0, {})
    assert name in policy.describe()
    with pytest.raises(ConfigError, match=f"'{name}' takes no file"):
        make_start(f"{name}:file.pth")


@pytest.mark.parametrize("name", ["tiny", "small", "large"])
def test_a_start_has_at_most_a_fifth_of_the_model_and_the_state_of_it(name: str) -> None:
    model = MDEQ(architecture(name)).eval()
    injection = model.inject(torch.rand(3, *model.input_shape))
    net = build_start(start_architecture(model, injection)).eval()
    assert isinstance(net, PyramidStart)
    weights, whole = (sum(p.numel() for p in m.parameters()) for m in (net, model))
    assert weights <= whole / 5
    states = net(injection)
    assert states.shape == model.initial_state(injection).shape
    torch.testing.assert_close(net(injection[1:2]), states[1:2], rtol=1e-4, atol=1e-4)


def test_other_models_and_single_resolutions_get_a_start_too() -> None:
    small = SmallDeq()
    net = build_start(start_architecture(small, small.inject(torch.rand(2, 1, 8, 8))))
    assert isinstance(net, LowRankStart)
    assert 5 * sum(p.numel() for p in net.parameters()) <= sum(
        p.numel() for p in small.parameters()
    )
    line = HalfLine(0.5)
    assert build_start(start_architecture(line, torch.zeros(2, 1)))(torch.zeros(2, 1)).shape == (
        2,
        1,
    )
    single = PyramidStart(((8, 4, 4),), channels=3, scale=1.0, groups=4)
    assert single(torch.rand(2, 3, 4, 4)).shape == (2, 128)


def trajectories(wrong: list[list[int]], residuals: list[list[float]]) -> Trajectories:
    """Two classes, the truth always 0; ``wrong`` says after which steps another was read out."""
    missed = np.array(wrong)
    missed = np.concatenate([missed[:, :1], missed], axis=1)  # at the start, as after a step
    logits = np.stack([1.0 - missed, missed], axis=2).astype(np.float32)
    rows = len(missed)
    return Trajectories(
        np.zeros(rows, int), np.zeros(rows, int), logits, np.array(residuals, float)
    )


def test_the_cheapest_depth_that_keeps_to_the_disagreement_is_chosen() -> None:
    easy, hard = [[0, 0, 0]] * 8, [[1, 1, 0]] * 2
    residuals = [[0.1, 0.05, 0.02]] * 8 + [[0.9, 0.5, 0.1]] * 2
    kinds = ("fixed", "early", "margin")
    free, dear = {"readout": 0.0, "kinds": kinds}, {"readout": 9.0, "kinds": kinds}
    depth = choose_depth(trajectories(easy + hard, residuals), 0.0, **dear)
    assert depth.steps == 3
    assert depth.early == pytest.approx(0.1)
    assert depth.nfe == pytest.approx((8 * 1 + 2 * 3) / 10)
    assert depth.disagreement == 0
    assert choose_depth(trajectories(easy + hard, residuals), 0.2, **dear).nfe == 1
    for price in (free, dear):
        same = choose_depth(trajectories(easy, residuals[:8]), 0.0, **price)
        assert (same.steps, same.early, same.margin) == (1, None, None)
    never = choose_depth(trajectories([[1, 1, 1]] * 4, [[0.1] * 3] * 4), 0.5, **free)
    assert (never.steps, never.early, never.disagreement) == (3, None, 1.0)
    unknown = trajectories(easy, residuals[:8])
    lost = dataclasses.replace(unknown, truth=np.full(8, -1))
    assert choose_depth(lost, 0.5, **free).steps == 3


def test_a_margin_is_chosen_where_readouts_are_cheap_and_counted_where_not() -> None:
    """Rows that change little are right at once; the others from the second step on."""
    logits = np.zeros((10, 4, 2), np.float32)
    logits[:, :, 0] = 1.0
    logits[:4, :, 0] = [-1.0, -0.2, 0.5, 1.0]
    found = Trajectories(np.zeros(10, int), np.zeros(10, int), logits, np.ones((10, 3)))
    assert found.classes[:4].tolist() == [[1, 0, 0]] * 4
    cheap = choose_depth(found, 0.0, readout=0.1, kinds=("fixed", "margin"))
    assert cheap.margin is not None
    assert cheap.nfe == pytest.approx(1.1 * (6 * 1 + 4 * 2) / 10)
    dear = choose_depth(found, 0.0, readout=0.5, kinds=("fixed", "margin"))
    assert (dear.steps, dear.margin, dear.nfe) == (2, None, 2.0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped model with a start that was fitted for a few seconds."""
    folder = tmp_path_factory.mktemp("digits")
    for ending in ("pth", "yaml", "json"):
        shutil.copy(SHIPPED / f"digits.{ending}", folder)
    path = train_start(
        StartConfig(folder / "digits.pth", steps=48, reuse=2, tune_images=200, progress=False)
    )
    assert path == folder / "digits.start.pth"
    return folder / "digits.pth"


def test_a_fitted_start_is_worth_more_than_a_cold_cell(digits: Path) -> None:
    model, start = load_model(digits), load_start(start_path(digits), digits)
    data = load_dataset("digits", "test")
    agreement, residual = [], []
    for net in (None, start.net):
        found = follow(model, net, data, sigma=0.25, images=200, steps=2, seed=5)
        agreement.append((found.classes[:, 0] == found.truth).mean())
        residual.append(np.median(found.residuals, axis=0))
    assert agreement[1] > agreement[0]
    assert agreement[1] > 0.95
    # The start is nearer than a cold one, and so is where its first cell leads.
    assert (residual[1] < residual[0]).all()
    record = json.loads(start_path(digits).with_suffix(".json").read_text())
    assert record["measured"]["share_of_parameters"] <= 0.2
    assert record["measured"]["depth"]["steps"] == start.steps
    assert record["history"][-1]["start"] < record["history"][0]["start"]
    assert start.cost > 0


def test_labels_make_the_class_after_the_cells_the_right_one(digits: Path, tmp_path: Path) -> None:
    """From a fitted start on, and with no word of a converged solve, the loss is what falls."""
    out = tmp_path / "labelled.start.pth"
    train_start(
        StartConfig(
            digits,
            out=out,
            init=start_path(digits),
            steps=72,
            reuse=2,
            tune_images=50,
            divergence=0.0,
            labels=4.0,
            progress=False,
        )
    )
    history = json.loads(out.with_suffix(".json").read_text())["history"]
    assert history[-1]["labels"] < 0.8 * history[0]["labels"]
    before, after = (load_start(path, digits).net for path in (start_path(digits), out))
    assert not torch.equal(*(next(net.parameters()) for net in (before, after)))


def test_labels_of_other_classes_are_refused(digits: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "two.npz",
        x=np.zeros((64, 1, 8, 8), np.float32),
        y=np.arange(64) % 2,
        classes=np.array(["0", "1"]),
    )
    config = StartConfig(
        digits, out=tmp_path / "a.pth", data=f"npz:{tmp_path / 'two.npz'}", labels=1.0
    )
    with pytest.raises(ConfigError, match="2 classes and the model 10"):
        train_start(config)


def test_two_trainings_of_one_start_file_are_refused_and_nothing_is_lost(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.start.pth"
    given = f"train-start --model {digits} --out {out} --steps 1 --quiet"
    with claim(out):
        assert main(given.split()) == 2
    assert "another process is training for" in capsys.readouterr().err
    out.write_bytes(b"precious")
    assert main(given.split()) == 2
    assert "exists already" in capsys.readouterr().err
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(out, b"precious")]


def test_what_is_followed_is_what_a_solve_reads_out(digits: Path) -> None:
    model, net = load_model(digits), load_start(start_path(digits), digits).net
    data = load_dataset("digits", "train")
    found = follow(model, net, data, sigma=0.25, images=20, steps=3, seed=2)
    rows = np.unique(np.linspace(0, len(data) - 1, 20).round().astype(int))
    first, place = np.zeros(1, dtype=np.int64), {"seed": 2, "stage": Stage.TUNE}
    noisy = [
        noisy_copies(torch.from_numpy(x), first, sigma=0.25, index=int(row), **place)
        for x, row in zip(data.batch(rows), rows, strict=True)
    ]
    with torch.no_grad():
        injection = model.inject(torch.cat(noisy))
        for steps in (1, 2, 3):
            stop = StopRule(0, max_nfe=steps)
            solved = Anderson().solve(bind(model.cell, injection), net(injection), stop)
            torch.testing.assert_close(
                torch.from_numpy(found.logits[:, steps]), model.readout(solved.z)
            )


def test_a_saved_start_casts_the_same_votes(digits: Path) -> None:
    model, path = load_model(digits), start_path(digits)
    votes = []
    for _ in range(2):
        start = load_start(path, digits)
        predictor = Predictor(Anderson(), StopRule(0, max_nfe=2), Learned(start.net, start.cost))
        solve = SmoothingEngine(model, sigma=0.25, batch=64)
        votes.append(solve.votes(predictor, Input(np.zeros((1, 8, 8), np.float32), 0), 1, 128))
    np.testing.assert_array_equal(votes[0].predictions, votes[1].predictions)
    assert votes[0].nfe == pytest.approx(128 * (2 + start.cost))


def test_a_start_is_refused_with_another_model_and_when_damaged(
    digits: Path, tmp_path: Path
) -> None:
    good = start_path(digits)
    weights = torch.load(digits, weights_only=True)
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    other = tmp_path / "other.pth"
    torch.save(weights, other)
    damaged = tmp_path / "damaged.start.pth"
    damaged.write_bytes(good.read_bytes()[:1000])
    flipped = tmp_path / "flipped.start.pth"
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 0x10
    flipped.write_bytes(content)
    content = torch.load(good, weights_only=True)
    changed = {
        "version": {**content, "version": 99},
        "weights": {**content, "weights": {}},
        "architecture": {**content, "architecture": {"kind": "other"}},
    }
    for name, entry in changed.items():
        torch.save(entry, tmp_path / f"{name}.pth")
    for path, model, words in (
        (good, other, "another model"),
        (tmp_path / "none.pth", digits, "there is no start"),
        (damaged, digits, "damaged"),
        (flipped, digits, "damaged"),
        (digits, digits, "no start network"),
        (tmp_path / "version.pth", digits, "format version 99"),
        (tmp_path / "weights.pth", digits, "damaged"),
        (tmp_path / "architecture.pth", digits, "damaged"),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            load_start(path, model)
        assert "\n" not in str(error.value)
    with pytest.raises(RunError, match="exists already"):
        train_start(StartConfig(digits, progress=False))


def test_a_training_that_diverges_says_so(digits: Path, tmp_path: Path, monkeypatch) -> None:
    from deqcert.training.starts import fit as fitting

    config = StartConfig(digits, out=tmp_path / "a.start.pth", steps=30, progress=False)
    monkeypatch.setattr(fitting._Fitting, "_error", lambda self, z, target: z.sum() * float("nan"))
    with pytest.raises(ConfigError, match="diverged"):
        train_start(config)
    assert not config.out.exists()
    monkeypatch.setattr(fitting._Fitting, "_refill", lambda self, cold: self.pool.clear())
    monkeypatch.setattr(fitting.Pool, "draw", lambda self, generator: iter(()))
    with pytest.raises(ConfigError, match="no step"):
        train_start(config)


def certify(digits: Path, out: Path, *more: str) -> int:
    given = f"certify --model {digits} --images 0:1 --n0 10 --n 60 --batch 20 --threads 1 --quiet"
    return main([*given.split(), "--out", str(out), *more])


def test_certify_with_a_learned_start(digits: Path, tmp_path: Path, capsys) -> None:
    start = load_start(start_path(digits), digits)
    policy, tuned = make_start("learned", model=digits)
    assert isinstance(policy, Learned)
    assert tuned is policy.tuned
    assert (tuned.steps, tuned.cost, policy.cost) == (start.steps, start.cost, start.cost)
    assert policy.facts() == {"start_sha256": file_hash(start_path(digits))}
    runs = {
        "tuned": (["--start", "learned"], start.steps),
        "named": (["--start", f"learned:{start_path(digits)}", "--steps", "2"], 2),
        "early": (["--start", "learned", "--steps", "3", "--early", "0.2"], 3),
        "margin": (["--start", "learned", "--steps", "3", "--margin", "2"], 3),
        "tolerance": (["--start", "learned", "--steps", "0", "--depth", "25"], 25),
        "cold, early": (["--depth", "7", "--early", "0.2"], 7),
    }
    for name, (options, most) in runs.items():
        assert certify(digits, tmp_path / name, *options) == 0, capsys.readouterr().err
        predictor = json.loads((tmp_path / name / "manifest.json").read_text())["parameters"][
            "predictor"
        ]
        assert predictor["stop"]["max_nfe"] == most
        assert ("start_sha256" in predictor) == (predictor["start"] == "learned")
        if "--early" in options:
            assert predictor["early"] == {"residual": 0.2}
        lines = (tmp_path / name / "certificates.tsv").read_text().splitlines()
        nfe = [float(line.split("\t")[lines[0].split("\t").index("nfe")]) for line in lines[1:]]
        cost = start.cost if predictor["start"] == "learned" else 0.0
        early = predictor.get("early", {})
        each = 1 + early.get("readout", 0.0)
        # A row that ends at its first check has paid for no readout but its vote's.
        least = early["depths"][0] if "depths" in early else each
        assert all(
            70 * (least + cost) - 0.1 <= count <= 70 * (most * each + cost) + 0.1 for count in nfe
        )
    # What is known before a run is said, and what is not.
    own = ["--preset", "faithful", "--n0", "10", "--n", "60", "--images", "0:1"]
    asked = ["certify", "--model", str(digits), "--alpha", "0.01", *own]
    for sigma, says in (("0.25", "at most"), ("0.5", "nothing is known of how often")):
        capsys.readouterr()
        out = str(tmp_path / f"faithful-{sigma}")
        assert main([*asked, "--sigma", sigma, "--out", out]) == 0
        said = capsys.readouterr().err
        assert says in said
        assert "no radius can exceed" in said
    smooth = SmoothedClassifier.from_preset("faithful", digits, sigma=0.25)
    assert smooth.predictor.early == early_stop(tuned)  # which rule it is rests on measured times
    assert smooth.stated is not None
    assert SmoothedClassifier.from_preset("converged", digits, sigma=0.25).stated is None
    # The journal is read back, fractions of an evaluation included.
    assert certify(digits, tmp_path / "named", *runs["named"][0]) == 0
    capsys.readouterr()
    assert certify(digits, tmp_path / "named", "--start", "learned", "--steps", "3") == 2
    assert "max_nfe was 2 and is now 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "--start learned",
        "--start learned --steps 2",
        "--start learned --steps 3 --early 0.2",
        "--start learned --steps 3 --margin 2",
        "--start learned --steps 0 --depth 25",
    ],
)
def test_what_was_certified_with_a_learned_start_is_asked_with_the_same_settings(
    digits: Path, tmp_path: Path, capsys, options: str
) -> None:
    assert certify(digits, tmp_path / "run", *options.split()) == 0
    manifest = tmp_path / "run" / "manifest.json"
    asked = f"predict --config {manifest} --images 0:1 --n 60 --json"
    capsys.readouterr()
    assert main(asked.split()) == 0
    answer = json.loads(capsys.readouterr().out)
    given = json.loads(manifest.read_text())["notes"]["settings"]
    smooth = SmoothedClassifier(**{k: v for k, v in given.items() if k not in ("data", "images")})
    assert (
        describe_predictor(smooth.predictor)
        == json.loads(manifest.read_text())["parameters"]["predictor"]
    ), "the very classifier"
    assert answer["predict"] == smooth.predict(load_dataset("digits").image(0), 0, n=60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--start learned:nowhere.pth", "there is no start network"),
        ("--start mean:file.pth", "takes no file"),
        ("--start learned --steps 0 --early 0.1", "give 1 or more"),
        ("--start learned --warmup 3", "has no chain"),
        ("--start learned --early 0", "early is 0"),
        ("--start mean --early 0.1", "fixed depth"),
        ("--start cold --steps 3", "leave --steps out"),
        ("--start cold --margin 3", "only a learned start"),
        ("--start learned --margin 3 --early 0.1", "give one of them"),
        ("--start learnt", "there is no start policy"),
    ],
)
def test_what_makes_no_sense_of_a_start_is_one_sentence(
    digits: Path, tmp_path: Path, capsys, options: str, words: str
) -> None:
    assert certify(digits, tmp_path / "run", *options.split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_bench_measures_a_learned_start(digits: Path, capsys) -> None:
    given = f"bench --model {digits} --images 0:1 --n 40 --n0 10 --batch 20 --depths 1,2 --depth 12"
    given += " --tol 0.3 --reference-tol 0.01 --reference-depth 20 --early 0.2 --threads 1"
    assert main([*given.split(), "--starts", "learned", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    cost = load_start(start_path(digits), digits).cost
    found = {row["depth"]: row for row in rows if row["start"] == "learned"}
    assert set(found) == {"1", "2", "early 0.2"}
    assert {row["method"] for row in found.values()} <= {"standard", "independent"}
    assert found["2"]["nfe"] == pytest.approx(2 + cost)
    assert 1 + cost - 1e-9 <= found["early 0.2"]["nfe"] <= 2 + cost + 1e-9
    assert any(row["start"] == "cold" and row["depth"] == "early 0.2" for row in rows)
