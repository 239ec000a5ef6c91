"""Attacks keep their promises, reach what is known, and catch certificates that are too large."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from deqcert.attacking import parse_attack
from deqcert.attacks import ATTACKS, Attack, Climb, Target, Task, get_attack
from deqcert.attacks.ball import column, project
from deqcert.attacks.base import margin
from deqcert.attacks.evaluation import (
    CertifiedImage,
    Judge,
    Outcome,
    SmoothedEvaluation,
    base_classes,
    most_verdicts,
    outcome_layout,
)
from deqcert.attacks.evaluation.base_classifier import base_distances
from deqcert.attacks.evaluation.certified import certified_predictor
from deqcert.attacks.evaluation.counterexample import nearest_counterexample
from deqcert.attacks.views import Smoothed
from deqcert.certifiers.bounds import two_sided_p_value
from deqcert.cli import main
from deqcert.compose import describe_predictor
from deqcert.data import load_dataset
from deqcert.data.base import ArrayDataset
from deqcert.errors import ConfigError, DataError, RunError
from deqcert.models import ContractiveConfig, ContractiveDEQ
from deqcert.options import number
from deqcert.report.attacks import attack_rows, attack_table, read_attacks, robust_accuracy
from deqcert.runs import Manifest, Run
from deqcert.smoothing import (
    CheckedStop,
    DecidedStop,
    EarlyStop,
    Input,
    Predictor,
    SmoothingEngine,
)
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import Learned, get_start

SIGMA, SHAPE = 0.25, (1, 4, 4)
GRADIENT = tuple(name for name in ATTACKS if name != "square")


class HalfSpace:
    """Class 1 where the mean direction of the pixels exceeds a threshold, class 0 elsewhere.

    Smoothed with any noise it is the same classifier, so that its boundary is known: a plane at
    distance ``distance(x)``.
    """

    input_shape = SHAPE
    num_classes = 2

    def __init__(self, threshold: float, sharpness: float = 4.0) -> None:
        signs = torch.tensor([1.0, -1.0, 1.0, 1.0] * 4)
        self.w, self.threshold, self.sharpness = signs / 4.0, threshold, sharpness

    def inject(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def initial_state(self, injection: Tensor) -> Tensor:
        return torch.zeros_like(injection)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        return 0.5 * (z + injection)

    def readout(self, z: Tensor) -> Tensor:
        beyond = self.sharpness * ((z * self.w).sum(dim=1, keepdim=True) - self.threshold)
        return torch.cat([-beyond, beyond], dim=1)

    def distance(self, x: Tensor) -> Tensor:
        return self.threshold - (x.flatten(1) * self.w).sum(dim=1)


class Steps(HalfSpace):
    """The same with scores that are constant almost everywhere: no gradient to follow."""

    def readout(self, z: Tensor) -> Tensor:
        beyond = 8.0 * ((z * self.w).sum(dim=1, keepdim=True) - self.threshold)
        return torch.cat([-beyond, beyond], dim=1).round()


def predictor() -> Predictor:
    return Predictor(get_solver("anderson"), StopRule(tol=1e-4, max_nfe=20))


def target(model: Any, seed: int = 0) -> Target:
    return Target(model, predictor(), SIGMA, seed)


def images(seed: int, rows: int = 4) -> Tensor:
    """Images with pixels at the limits too."""
    generator = torch.Generator().manual_seed(seed)
    return (1.4 * torch.rand((rows, *SHAPE), generator=generator) - 0.2).clamp(0.0, 1.0)


def grey(rows: int = 1) -> Tensor:
    return torch.full((rows, *SHAPE), 0.5)


def scores(attack: Attack, aim: Target, rows: list[int]) -> Any:
    return attack.view.scores(aim, rows)


def brief(name: str) -> Attack:
    found = get_attack(name)
    few = {"steps": 30 if name == "square" else 6, "draws": 4}
    return found.with_options(**{name: few[name] for name in found.options})


# What every attack promises.


@pytest.mark.parametrize("name", ATTACKS.names())
@given(seed=st.integers(0, 1000), radius=st.floats(0.0, 3.0))
@settings(max_examples=6)
def test_it_stays_in_ball_and_box_and_is_never_worse_than_its_start(
    name: str, seed: int, radius: float
) -> None:
    attack, x, rows = brief(name), images(seed), [3, 1, 4, 9]
    aim = target(HalfSpace(0.9), seed)
    y = torch.tensor([0, 1, 0, 1])
    radii = torch.tensor([radius, 0.0, 0.5 * radius, 1.3 * radius], dtype=torch.float64)
    found = attack.run(aim, x, y, rows, radius=radii)
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert ((found >= 0) & (found <= 1)).all()
    assert ((found.double() - x.double()).flatten(1).norm(dim=1) <= radii).all()
    view = scores(attack, aim, rows)
    with torch.no_grad():
        assert (margin(view(found), y) >= margin(view(x), y)).all()


@pytest.mark.parametrize("name", ATTACKS.names())
def test_a_row_does_not_depend_on_its_batch_mates_or_on_the_call(name: str) -> None:
    attack, x, rows = brief(name), images(7), [3, 1, 4, 9]
    y, radii = torch.tensor([0, 1, 0, 1]), torch.tensor([0.3, 0.8, 0.5, 1.2])
    aim = target(HalfSpace(0.9))
    whole = attack.run(aim, x, y, rows, radius=radii)
    assert torch.equal(whole, attack.run(aim, x, y, rows, radius=radii))
    order = [2, 0, 3, 1]
    turned = attack.run(aim, x[order], y[order], [rows[i] for i in order], radius=radii[order])
    torch.testing.assert_close(turned, whole[order], atol=1e-5, rtol=0)
    for i in range(4):
        alone = attack.run(aim, x[i : i + 1], y[i : i + 1], rows[i : i + 1], radius=radii[i])
        torch.testing.assert_close(alone[0], whole[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["square", "smoothadv-pgd"])
def test_seed_and_index_decide_what_is_random(name: str) -> None:
    attack, x, y = brief(name), images(0, 1), torch.tensor([0])
    model = ContractiveDEQ(ContractiveConfig(width=8, image_size=(4, 4))).eval()
    aim = Target(model, predictor(), SIGMA, 0)
    found = attack.run(aim, x, y, [5], radius=0.5)
    assert torch.equal(found, attack.run(aim, x, y, [5], radius=0.5))
    assert not torch.equal(found, attack.run(aim, x, y, [6], radius=0.5))
    other = Target(model, predictor(), SIGMA, 1)
    assert not torch.equal(found, attack.run(other, x, y, [5], radius=0.5))


@pytest.mark.parametrize("name", ATTACKS.names())
def test_it_reaches_the_known_optimum_of_a_linear_model(name: str) -> None:
    model, radius = HalfSpace(1.1), 0.8
    found = get_attack(name).run(target(model), grey(), torch.tensor([0]), [0], radius=radius)
    gained = float(model.distance(grey()) - model.distance(found))
    assert gained <= radius + 1e-6
    assert gained >= {"square": 0.6, "random": 0.3}.get(name, 0.995) * radius


def test_random_search_needs_no_gradient() -> None:
    model = Steps(0.8)
    y = torch.tensor([0])
    stuck = get_attack("apgd-implicit").run(target(model), grey(), y, [0], radius=1.2)
    assert torch.equal(stuck, grey())
    found = get_attack("square").run(target(model), grey(), y, [0], radius=1.2)
    assert float(model.distance(found)) < float(model.distance(grey())) - 0.5


def test_fixed_depth_and_early_stopped_classifiers_can_be_attacked() -> None:
    model = HalfSpace(1.1)
    for stop, early in ((StopRule(tol=0.0, max_nfe=3), None), (StopRule(0.0), EarlyStop(0.1))):
        cold = Predictor(get_solver("picard"), stop, get_start("cold"), early=early)
        aim = Target(model, cold, SIGMA)
        for name in ("pgd-implicit", "intermediate", "smoothadv-pgd"):
            found = brief(name).run(aim, grey(), torch.tensor([0]), [0], radius=0.8)
            assert float(model.distance(found)) < float(model.distance(grey())) - 0.7


class Lazy(HalfSpace):
    """A cell that stays where it is: what it says of an image is what its start says."""

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        return z


@pytest.mark.parametrize("name", [n for n in ATTACKS if "unroll" in n or "smooth" in n])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_go_through_a_learned_start(name: str, steps: int) -> None:
    model = Lazy(1.1)
    learned = Learned(lambda injection: injection, cost=0.1)
    quick = Predictor(get_solver("anderson"), StopRule(tol=0.0, max_nfe=steps), learned)
    aim = Target(model, quick, SIGMA)
    found = get_attack(name).run(aim, grey(), torch.tensor([0]), [0], radius=0.8)
    assert float(model.distance(grey()) - model.distance(found)) >= 0.995 * 0.8


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: get_attack("pgd"), "no attack 'pgd'; .* pgd-implicit"),
        (lambda: get_attack("pgd-implicit", draws=3), "no option 'draws'; it has steps"),
        (lambda: get_attack("square", steps=0), "steps is 0"),
        (lambda: get_attack("square", draws=True), "draws is True"),
        (lambda: Target(HalfSpace(1), predictor(), 0.0), "sigma is 0.0"),
        (
            lambda: Target(
                HalfSpace(1),
                Predictor(get_solver("picard"), StopRule(), get_start("mean"), StopRule()),
                SIGMA,
            ),
            "chains samples",
        ),
    ],
)
def test_impossible_attacks_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_images_that_do_not_fit_are_refused() -> None:
    attack, aim = get_attack("pgd-implicit"), target(HalfSpace(1))
    with pytest.raises(DataError, match="outside"):
        attack.run(aim, grey() + 1, torch.tensor([0]), [0], radius=1.0)
    with pytest.raises(DataError, match="2 indices"):
        attack.run(aim, grey(), torch.tensor([0]), [0, 1], radius=1.0)
    with pytest.raises(ConfigError, match="below 0"):
        attack.run(aim, grey(), torch.tensor([0]), [0], radius=-1.0)


# What the registry promises.


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_is_called_what_the_registry_calls_it_and_describes_itself(name: str) -> None:
    attack = get_attack(name)
    assert attack.name == name
    assert parse_attack(attack.describe()) == attack
    for option in attack.options.values():
        assert option.help
        with pytest.raises(ConfigError, match=option.name):
            attack.with_options(**{option.name: 0})
    changed = attack.with_options(steps=3)
    assert changed.options["steps"].default == 3 and changed != attack == get_attack(name)


@dataclass(frozen=True)
class TowardsBlack(Climb):
    """Go straight towards the black image.

    Args:
        steps: Lengths tried.
    """

    steps: int = number(4, low=1)

    def climb(self, task: Task) -> Tensor:
        """Return the length of largest margin per row."""
        best = task.x
        for step in range(1, self.steps + 1):
            radius = task.radius * step / self.steps
            tried = project(torch.zeros_like(task.x), task.x, radius)
            better = task.margin(tried) > task.margin(best)
            best = torch.where(column(better), tried, best)
        return best


@pytest.fixture
def toy() -> Iterator[Attack]:
    """An attack that is registered from outside the package."""
    yield ATTACKS.register("toy", Attack("toy", TowardsBlack(), Smoothed(draws=2)))
    ATTACKS.unregister("toy")


def test_a_registered_attack_is_one_like_the_others(toy: Attack) -> None:
    assert "toy" in ATTACKS
    assert parse_attack("toy:steps=2,draws=1").describe() == "toy:steps=2,draws=1"
    x, radii = images(2), torch.tensor([0.3, 0.8, 0.5, 1.2], dtype=torch.float64)
    found = toy.run(
        target(HalfSpace(0.9)), x, torch.tensor([0, 1, 0, 1]), [0, 1, 2, 3], radius=radii
    )
    assert ((found.double() - x.double()).flatten(1).norm(dim=1) <= radii).all()
    with pytest.raises(ConfigError, match="attack 'toy' exists already"):
        ATTACKS.register("toy", toy)


# What verdicts promise.


def judge(model: Any, *, n: int = 600, alpha: float = 1e-5, **more: Any) -> Judge:
    engine = SmoothingEngine(model, sigma=SIGMA, seed=3, batch=200)
    return Judge(engine, predictor(), n=n, alpha=alpha, guesses=100, **more)


def test_verdicts_are_wrong_no_more_often_than_they_say() -> None:
    model = HalfSpace(float((grey().flatten(1) * HalfSpace(0.0).w).sum()))
    assert float(model.distance(grey())) == 0.0  # both classes are equally probable here
    decides = judge(model, n=60, alpha=0.1)
    against = sum(decides.verdict(Input(grey()[0], 0), 0, number).differs for number in range(300))
    assert 0 < against <= stats.binom.ppf(0.999, 300, 0.1)
    beyond = judge(HalfSpace(model.threshold - 0.1), n=60, alpha=0.1)
    assert sum(beyond.verdict(Input(grey()[0], 0), 0, number).differs for number in range(50)) > 25


def test_alpha_covers_the_verdicts_on_images_that_abstain_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every point is where two classes are equally probable: there the tests err most often.
    alpha, n, certified, drawn = 0.05, 60, 1, np.random.default_rng(0)
    images = [
        CertifiedImage(i, 0 if i < certified else None, 0.2 * (i < certified)) for i in range(30)
    ]
    aim = target(HalfSpace(0.4))
    engine = SmoothingEngine(aim.model, sigma=SIGMA)
    evaluation = SmoothedEvaluation.of_run(
        engine, predictor(), aim.model, [brief("square")], images, n=n, alpha=alpha, guesses=10
    )
    each = most_verdicts(1 + len(evaluation.grid))
    verdicts = len(images) * each
    module = sys.modules["deqcert.attacks.evaluation.judge"]
    monkeypatch.setattr(module, "two_sided_p_value", functools.cache(two_sided_p_value))

    def failures(judge: Judge, runs: int = 400) -> float:
        """Return the share of the runs with a verdict against a class that is answered."""
        votes = iter(drawn.binomial(n, 0.5, runs * verdicts))
        monkeypatch.setattr(judge, "_counts", lambda *_: np.array([k := next(votes), n - k]))
        point = Input(grey()[0], 0)
        wrong = [judge.verdict(point, 0, 0).differs for _ in range(runs * verdicts)]
        return float(np.mean(np.reshape(wrong, (runs, verdicts)).any(axis=1)))

    assert failures(evaluation.judge) <= alpha
    # As it was: alpha spread over the verdicts on certified images alone.
    before = Judge(engine, predictor(), n=n, alpha=alpha / (certified * each), guesses=10)
    assert failures(before) > 4 * alpha


def test_no_two_verdicts_share_noise() -> None:
    decides = judge(HalfSpace(0.9), n=50)
    seen = [decides.verdict(Input(grey()[0], 0), 0, number).counts.tolist() for number in range(8)]
    assert len({tuple(counts) for counts in seen}) > 1
    assert decides.verdict(Input(grey()[0], 0), 0, 2).counts.tolist() == seen[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"n": 10}, "n is 10, but it must be a whole number from 18"),
        ({"guesses": 0}, "search is 0"),
    ],
)
def test_impossible_verdicts_are_refused(options: dict[str, Any], words: str) -> None:
    engine = SmoothingEngine(HalfSpace(1), sigma=SIGMA)
    with pytest.raises(ConfigError, match=words):
        Judge(engine, predictor(), **{"n": 600, "alpha": 1e-5, "guesses": 9, **options})


def test_votes_that_are_not_proven_count_for_the_certified_class() -> None:
    torch.manual_seed(0)
    model = ContractiveDEQ(ContractiveConfig(width=16, image_size=(4, 4), factor=0.5)).eval()
    start = Predictor(get_solver("anderson"), StopRule(tol=0.0, max_nfe=1))
    engine = SmoothingEngine(model, sigma=SIGMA, batch=50)
    x = Input(images(0, 1)[0], 0)
    proven = Judge(engine, start, n=100, alpha=1e-3, guesses=50, depth=60)
    open_ = Judge(engine, start, n=100, alpha=1e-3, guesses=50, depth=1)
    found = proven.answer(x)
    other = (found + 1) % 10
    assert proven.verdict(x, other, 0).differs
    verdict = open_.verdict(x, other, 0)
    assert verdict.counts.sum() == 100
    assert verdict.counts[other] > 90 and not verdict.differs


@pytest.mark.parametrize(
    "kind",
    [
        Predictor(get_solver("anderson"), StopRule(tol=1e-4, max_nfe=20)),
        Predictor(get_solver("picard"), StopRule(tol=0.0, max_nfe=9)),
        Predictor(get_solver("picard"), StopRule(tol=0.0, max_nfe=30), early=EarlyStop(0.001)),
        Predictor(
            get_solver("picard"),
            StopRule(tol=0.0, max_nfe=30),
            early=CheckedStop((9, 20), (0.01, 0.001), 0.5),
        ),
    ],
)
def test_the_base_classifier_is_the_engines_own(kind: Predictor) -> None:
    model, x = HalfSpace(1.0), images(1, 40)
    engine = SmoothingEngine(model, sigma=SIGMA, batch=7)
    found = base_classes(engine, kind, x)
    assert found.tolist() == (model.distance(x) < 0).long().tolist()
    assert 0 < found.sum() < 40
    never = Predictor(get_solver("picard"), StopRule(tol=1e-9, max_nfe=2))
    assert (base_classes(engine, never, x) == -1).all()


def test_a_certified_rule_is_read_back_from_a_runs_manifest(tmp_path: Path) -> None:
    solver, stop = get_solver("picard"), StopRule(tol=0.0, max_nfe=9)
    for early in (
        EarlyStop(0.1),
        DecidedStop(2.0, 0.5),
        CheckedStop((1, 3), (1.0, 0.5), 0.5),
        None,
    ):
        kind = Predictor(solver, stop, early=early)
        written = json.loads(json.dumps({"predictor": describe_predictor(kind)}))
        read, _ = certified_predictor(Manifest(written, (0,)), lambda: get_start("cold"))
        assert (read.early, read.stop) == (early, stop)


def test_the_nearest_points_of_both_classifiers_are_found() -> None:
    model = HalfSpace(1.3)
    true = float(model.distance(grey()))
    attack = get_attack("apgd-implicit")
    points = attack.run(target(model), grey(2), torch.zeros(2).long(), [0, 0], radius=1.5)
    decides = judge(model)
    engine = decides.engine
    both = torch.stack([points, grey(2)])  # nothing is to be found on the way to x itself
    found = base_distances(engine, predictor(), grey(2), np.zeros(2, dtype=np.int16), both)
    assert found == [pytest.approx(true, abs=0.01), float("inf")]
    inside = nearest_counterexample(decides, grey()[0], 0, 0, 0.9 * true, points, 0)
    assert inside.lead < 0
    assert inside.counterexample is not None
    # A verdict takes a clear lead, which is to be had a little beyond the boundary.
    beyond = SIGMA * stats.norm.ppf(0.5 + 0.5 * decides.needed)
    assert true <= inside.counterexample.distance <= true + 2.0 * beyond + 0.05


def test_guesses_that_err_lose_no_point() -> None:
    model = HalfSpace(1.3)
    points = grey(3) + 4.0 * torch.tensor([0.08, 0.12, 0.2]).view(3, 1, 1, 1) * model.w.view(SHAPE)
    engine = SmoothingEngine(model, sigma=SIGMA, seed=3, batch=200)
    decides = Judge(engine, predictor(), n=600, alpha=1e-5, guesses=8)
    for image in range(20):
        reached = nearest_counterexample(decides, grey()[0], image, 0, 0.2, points, 0)
        found = reached.counterexample
        assert found is not None
        assert 0.3 <= found.distance <= 0.801
        assert found.verdict.stage < 2**18 + most_verdicts(len(points))


# Certificates held against attacks.


def run_attacks(
    folder: Path, claims: list[float], names: tuple[str, ...], stop_after: int | None = None
) -> Path:
    """Attack four grey images whose true radius is 0.4 and whose certificates claim others."""
    model = HalfSpace(0.4 + float((grey().flatten(1) * HalfSpace(0.0).w).sum()))
    dataset = ArrayDataset("grey", ["0", "1"], grey(4).numpy(), np.array([0, 0, 0, 1]), "grey")
    certified = [CertifiedImage(i, 0, claim) for i, claim in enumerate(claims)]
    attacks = [get_attack(name, steps=60 if name == "square" else 8) for name in names]
    decides = judge(model, alpha=1e-3 / (len(claims) * len(names) * most_verdicts(3)))
    evaluation = SmoothedEvaluation(
        judge=decides,
        target=target(model),
        attacks=attacks,
        grid=(0.6, 1.2),
        rows=50,
        facts={"seed": 0},
    )
    told = 0

    def tell(outcome: Any) -> None:
        nonlocal told
        told += 1
        if told == stop_after:
            raise KeyboardInterrupt

    parameters = {"claims": claims}
    with Run(folder, parameters, range(len(claims)), layout=evaluation.layout) as run:
        evaluation.run(run, certified, dataset, tell)
    return folder


@pytest.mark.parametrize("name", ATTACKS.names())
def test_doubled_radii_are_caught_and_sound_ones_are_not(name: str, tmp_path: Path) -> None:
    sound = [0.39, 0.2, 0.0, 0.3]
    found = read_attacks(run_attacks(tmp_path / "sound", sound, (name,)))
    assert not found.alarms
    assert not (tmp_path / "sound" / "alarms").exists()
    assert (found.norm[name] > 0.4).all()
    assert np.isnan(found.lead[name][2])
    assert (found.lead[name][[0, 1, 3]] < 0.1).all()
    doubled = [0.8, 0.8, 0.8, 0.39]
    found = read_attacks(run_attacks(tmp_path / "doubled", doubled, (name,)))
    if name == "random":  # what finds no way up may miss
        assert set(found.alarms) <= set(range(3))
        return
    assert found.alarms == dict.fromkeys(range(3), (name,))
    assert (found.norm[name][:3] <= 0.8).all()


def test_an_alarm_holds_all_that_is_needed_to_see_it_again(tmp_path: Path) -> None:
    folder = run_attacks(tmp_path, [0.8], ("apgd-implicit",))
    with np.load(folder / "alarms" / "0-apgd-implicit.npz") as alarm:
        facts = {key: alarm[key] for key in alarm.files}
    distance = np.linalg.norm(facts["x"].astype(float) - facts["original"])
    assert distance == pytest.approx(float(facts["distance"])) and distance <= 0.8
    assert facts["answer"] == 0 and facts["found"] == 1
    assert str(facts["attack"]) == "apgd-implicit:steps=8"
    again = load_dataset(f"npz:{folder / 'alarms' / '0-apgd-implicit.npz'}")
    model = HalfSpace(0.4 + float((grey().flatten(1) * HalfSpace(0.0).w).sum()))
    counts = judge(model).engine.votes(
        predictor(), Input(again.image(0), int(facts["image"])), int(facts["stage"]), 600
    )
    assert counts.counts.tolist() == facts["counts"].tolist()


def test_a_certificate_without_a_radius_cannot_be_broken(tmp_path: Path) -> None:
    # Class 1 is answered at the image itself, at distance 0 from it.
    folder = tmp_path / "zero"
    model = HalfSpace(float((grey().flatten(1) * HalfSpace(0.0).w).sum()) - 0.3)
    dataset = ArrayDataset("grey", ["0", "1"], grey(1).numpy(), np.array([0]), "grey")
    attack = get_attack("square", steps=2)
    evaluation = SmoothedEvaluation(
        judge=judge(model, alpha=1e-3), target=target(model), attacks=[attack], grid=(0.6,)
    )
    with Run(folder, {}, [0], layout=evaluation.layout) as run:
        evaluation.run(run, [CertifiedImage(0, 0, 0.0)], dataset)
    found = read_attacks(folder)
    assert found.norm["square"][0] == 0.0
    assert not found.alarms and not (folder / "alarms").exists()


def outcome(**changes: Any) -> Outcome:
    numbers = {"lead:square": -0.5, "norm:square": 0.75}  # not in the order of the columns
    columns = outcome_layout([get_attack("square")]).columns
    values: dict[str, Any] = {
        "idx": 4,
        "label": 1,
        "answer": 1,
        "radius": 0.5,
        "base": -1,
        "numbers": numbers,
        "alarms": (),
        "seconds": 61.25,
        "columns": columns,
    }
    return Outcome(**{**values, **changes})


def test_a_line_is_written_and_read_by_its_columns_names(tmp_path: Path) -> None:
    layout = outcome_layout([get_attack("square")])
    cells = dict(zip(layout.columns, outcome().line().rstrip("\n").split("\t"), strict=True))
    assert cells["norm:square"] == "0.750000" and cells["lead:square"] == "-0.500000"
    turned = list(reversed(layout.columns))
    lines = ["\t".join(turned), "\t".join(cells[column] for column in turned)]
    (tmp_path / "attacks.tsv").write_text("\n".join(lines) + "\n4\t1")  # the last line is torn
    found = read_attacks(tmp_path)
    assert found.idx.tolist() == [4] and found.radius.tolist() == [0.5]
    assert found.norm["square"].tolist() == [0.75] and found.lead["square"].tolist() == [-0.5]
    with pytest.raises(KeyError):
        outcome(numbers={"norm:square": 0.75}).line()


DAMAGED = {
    "idx": ["-1", "x", "99999999999999999999", "1_0"],
    "label": ["", "1.0", "-1"],
    "answer": ["nan", "-1"],
    "radius": ["inf", "-0.1", "nan"],
    "base": ["-2", "0.5"],
    "alarms": ["", "pgd", "square,", "+"],
    "time": ["", "soon", "-1:00:00"],
    "norm:square": ["-1", "nan", "0,5"],
    "lead:square": ["2", "inf", "\u0661"],
}


@pytest.mark.parametrize("column", DAMAGED)
def test_every_column_of_the_journal_is_validated_where_it_is_read(
    column: str, tmp_path: Path
) -> None:
    assert set(DAMAGED) == set(outcome_layout([get_attack("square")]).columns)
    columns = outcome().columns
    for cell in DAMAGED[column]:
        cells = outcome().line().rstrip("\n").split("\t")
        cells[columns.index(column)] = cell
        text = "\t".join(columns) + "\n" + "\t".join(cells) + "\n"
        (tmp_path / "attacks.tsv").write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=f"line 2: {column} is .* must be"):
            read_attacks(tmp_path)


@pytest.mark.parametrize("column", ["alarms", "time", "norm:square", "base", "radius"])
def test_a_run_is_not_continued_after_a_line_with_a_damaged_cell(
    column: str, tmp_path: Path
) -> None:
    layout = outcome_layout([get_attack("square")])
    with Run(tmp_path, {}, range(3), layout=layout) as run:
        run.append(outcome(idx=0))
        run.append(outcome(idx=1))
    file = tmp_path / "attacks.tsv"
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    lines[1][layout.columns.index(column)] = "damaged"
    file.write_text("\n".join(map("\t".join, lines)) + "\n")
    with pytest.raises(RunError, match="line 2, is not what this run would have written"):
        Run(tmp_path, {}, range(3), layout=layout)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("idx\tlabel", "no column answer"),
        ("idx\tlabel\tanswer\tradius\tbase\talarms\ttime", "no column norm:ATTACK"),
        ("idx\tlabel\tanswer\tradius\tbase\talarms\ttime\tnorm:a", "no column lead:a"),
        ("idx\tlabel\tanswer\tradius\tbase\talarms\ttime\tnorm:a\tlead:a\tx", "a column 'x'"),
        ("idx\tidx\tlabel\tanswer\tradius\tbase\talarms\ttime\tnorm:a\tlead:a", "twice"),
    ],
)
def test_a_damaged_header_is_refused(head: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "attacks.tsv").write_text(head + "\n")
    with pytest.raises(RunError, match=words):
        read_attacks(tmp_path)


def test_a_stopped_run_ends_with_the_same_lines(tmp_path: Path) -> None:
    claims, names = [0.3, 0.8, 0.2, 0.1], ("pgd-phantom", "smoothadv-pgd")
    whole = run_attacks(tmp_path / "whole", claims, names)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run_attacks(tmp_path / f"cut{stop}", claims, names, stop)
        (tmp_path / f"cut{stop}" / "alarms").mkdir(exist_ok=True)
        with (tmp_path / f"cut{stop}" / "attacks.tsv").open("ab") as journal:
            journal.write(b"2\t0\t0")
        cut = run_attacks(tmp_path / f"cut{stop}", claims, names)
        lines = [(one / "attacks.tsv").read_text().splitlines() for one in (whole, cut)]
        at = lines[0][0].split("\t").index("time")
        parts = [[line.split("\t") for line in some] for some in lines]
        assert [p[:at] + p[at + 1 :] for p in parts[0]] == [p[:at] + p[at + 1 :] for p in parts[1]]


def test_the_table_counts_what_is_left(tmp_path: Path) -> None:
    folder = run_attacks(tmp_path, [0.39, 0.2, 0.0, 0.3], ("apgd-implicit", "smoothadv-pgd"))
    found = read_attacks(folder)
    rows = {row["name"]: row for row in attack_rows(found, [0.0, 0.25, 0.6])}
    # The third certificate abstains, and the last image's label is 1.
    assert rows["certified"]["accuracy"] == [0.5, 0.25, 0.0]
    assert rows["all attacks"]["accuracy"] == [0.75, 0.75, 0.0]
    assert rows["base: all attacks"]["accuracy"] == [0.75, 0.75, 0.0]
    assert rows["all attacks"]["missed"] == 0 and rows["all attacks"]["breaks"] == 0
    text = attack_table(found, [0.0, 0.25])
    assert "smoothadv-pgd" in text and "base: apgd-implicit" in text
    assert robust_accuracy(np.array([True]), np.array([0.5]), [0.4, 0.5]).tolist() == [1.0, 0.0]
    with pytest.raises(RunError, match="give a folder"):
        read_attacks(tmp_path / "nowhere")
    (folder / "attacks.tsv").write_text("idx\tlabel\nx\ty\n")
    with pytest.raises(RunError, match="damaged"):
        read_attacks(folder)


def test_evaluations_that_cannot_be_are_refused() -> None:
    made = functools.partial(
        SmoothedEvaluation, judge=judge(HalfSpace(1)), target=target(HalfSpace(1))
    )
    attack = get_attack("square")
    for attacks, grid, rows in (([], (1.0,), 1), ([attack] * 2, (1.0,), 1)):
        with pytest.raises(ConfigError, match="each only once"):
            made(attacks=attacks, grid=grid, rows=rows)
    with pytest.raises(ConfigError, match="attacked radii"):
        made(attacks=[attack], grid=(), rows=1)
    with pytest.raises(ConfigError, match="rows is 0"):
        made(attacks=[attack], grid=(1.0,), rows=0)


# The command.


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attack") / "run"
    given = f"certify --images 3:6 --n 300 --n0 20 --batch 50 --threads 1 --out {folder} --quiet"
    assert main(given.split()) == 0
    return folder


BRIEF = "--attack apgd-implicit:steps=8 --attack smoothadv-pgd:steps=4,draws=4 --n 200 --search 50"


def test_the_command_finds_nothing_inside_sound_radii(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "attacks"
    given = ["attack", str(certified), *BRIEF.split(), "--images", "0:2", "--out", str(out)]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "no alarm: 2 certificates held against 2 attacks" in said.out
    assert re.search(r"certified and attacked: the .*, smoothed", said.out)
    assert said.err.count("\n") == 2
    names = {path.name for path in out.iterdir()}
    assert names == {"manifest.json", "attacks.tsv", "summary.json", "attacks.png"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["alarms"] == {}
    before = (out / "attacks.tsv").read_bytes()
    assert main([*given, "--quiet"]) == 0  # finished: the table again
    assert capsys.readouterr().err == ""
    assert (out / "attacks.tsv").read_bytes() == before
    assert main([*given, "--n", "300"]) == 2
    assert "n was 200 and is now 300" in capsys.readouterr().err


def test_the_command_takes_a_registered_attack(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], toy: Attack
) -> None:
    out = tmp_path / "attacks"
    given = f"attack {certified} --attack toy:steps=2 --images 0 --n 200 --search 50 --out {out}"
    assert main(given.split()) == 0
    assert "held against 1 attack " in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["attacks"] == ["toy:steps=2,draws=2"]
    assert "norm:toy" in (out / "attacks.tsv").read_text()
    assert main([*given.split(), "--attack", "toy:eps=1"]) == 2
    assert "there is no attack option 'eps'" in capsys.readouterr().err


def test_the_command_catches_planted_radii_and_exits_with_1(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = tmp_path / "planted"
    shutil.copytree(certified, planted)
    lines = (planted / "certificates.tsv").read_text().splitlines()
    at = lines[0].split("\t").index("radius")
    for i, line in enumerate(lines[1:], start=1):
        cells = line.split("\t")
        cells[at] = str(3.0 * float(cells[at]))
        lines[i] = "\t".join(cells)
    (planted / "certificates.tsv").write_text("\n".join(lines) + "\n")
    given = ["attack", str(planted), *BRIEF.split(), "--quiet"]
    assert main(given) == 1
    said = capsys.readouterr()
    assert "ALARM: image 3 is certified as class 5 within" in said.out
    alarm = next(iter(sorted((tmp_path / "planted-attacks" / "alarms").glob("3-*.npz"))))
    assert str(alarm) in said.out
    assert main([*given]) == 1  # finished, and still an alarm
    capsys.readouterr()
    check = f"predict --data npz:{alarm} --sigma 0.25 --images 0 --n 2000 --threads 1"
    assert main(check.split()) == 0
    _, label, found, _ = capsys.readouterr().out.splitlines()[1].split("\t")
    assert label == "5" and found not in ("5", "-1")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--attack fgsm", "no attack 'fgsm'"),
        (
            "--attack square:eps=1",
            "no attack option 'eps'; did you mean steps? there are steps, draws",
        ),
        (
            "--attack square:steps=abc",
            "attack option steps is 'abc', but it must be a whole number",
        ),
        ("--attack pgd-implicit:steps=0", "attack option steps is 0"),
        ("--attack sqare", "did you mean square?"),
        ("--start learned:nowhere", "leave --start out"),
        ("--attack square:steps", "must read KEY=VALUE"),
        ("--attack square --attack square", "each only once"),
        ("--images 3:", "selects no image|outside"),
        ("--n 5", "n is 5"),
        ("--alpha 0", "alpha is 0"),
        ("--alpha 1.5", "alpha is 1.5"),
        ("--reach -1", "reach is -1"),
        ("--rows 0", "rows is 0"),
        ("--data digits --model nowhere.pth", "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, words: str
) -> None:
    given = ["attack", str(certified), "--out", str(tmp_path / "out"), *more.split()]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert any(word in said for word in words.split("|")), said
    assert not (tmp_path / "out").exists()


def test_what_is_no_finished_run_of_the_same_model_is_refused(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attack", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    for name in ("half", "other"):
        folder = tmp_path / name
        shutil.copytree(certified, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        if name == "half":
            manifest["count"] = 4
        else:
            manifest["parameters"]["checkpoint_sha256"] = "0"
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert main(["attack", str(folder), *BRIEF.split()]) == 2
    said = capsys.readouterr().err
    assert "finish it first" in said
    assert "is about something else (checkpoint_sha256" in said
