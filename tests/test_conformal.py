"""Prediction sets hold the true class as often as promised, under the worst shift there is."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from test_proofs import network
from toys import ORIGIN, SIGMA, AlwaysFirst, HalfLine, reference, warm

import deqcert
from deqcert.cli import main
from deqcert.conformal import (
    SCORES,
    SET_METHODS,
    Binarised,
    Calibration,
    OneDraw,
    Proven,
    binarised,
    one_draw,
    proven,
    scores_of,
)
from deqcert.conformal.base import members
from deqcert.conformal.binarised import parted, upper_bounds, votes_evidence
from deqcert.conformal.shift import clean_level, shifted
from deqcert.conformal.split import covering_rank, least_values, smallest
from deqcert.errors import ConfigError, RunError
from deqcert.smoothing import Copies, Input, SmoothingEngine, Stage

REPETITIONS = 2000
ALPHA, RADIUS, NOISE = 0.1, 0.5, 1.0

# --- the pieces


def test_a_rank_is_that_of_the_decimal_which_was_written() -> None:
    cases = [(0.1, 99), (0.3, 9), (0.7, 9), (0.1, 98), (0.05, 19), (0.05, 18)]
    assert [covering_rank(*case) for case in cases] == [10, 3, 7, 9, 1, 0]
    for alpha in (0.1, 0.3, 0.0374, 0.001):
        n = least_values(alpha)
        assert covering_rank(alpha, n) == 1
        assert n == 1 or covering_rank(alpha, n - 1) == 0
    assert smallest([3.0, 1.0, 2.0], 2) == 2.0
    assert smallest([3.0], 0) == -math.inf


def test_the_level_that_pays_for_a_radius_is_that_of_the_paper() -> None:
    assert 1 - clean_level(0.1, 0.5, 1.0) == pytest.approx(0.9626, abs=5e-5)
    assert shifted(1 - clean_level(0.1, 0.5, 1.0), 0.5, 1.0) == pytest.approx(0.9, abs=1e-6)
    assert clean_level(0.1, 0.0, 1.0) == 0.1
    assert shifted(0.9, 0.5, 0.3) < stats.norm.cdf(stats.norm.ppf(0.9) - 0.5 / 0.3)


def test_choosing_a_threshold_takes_no_class_away() -> None:
    """Images of a folder come class by class: both parts must still have all of them."""
    chosen, rest = parted(range(0, 400, 2))
    assert len(chosen) == 40 and sorted((*chosen, *rest)) == list(range(0, 400, 2))
    for part, expected in ((chosen, 4), (rest, 16)):
        counts = np.bincount([image // 40 for image in part], minlength=10)
        assert counts.min() >= expected // 4 and counts.max() <= 3 * expected
    assert parted(range(0, 400, 2)) == (chosen, rest)
    assert parted([1, 2]) == ((), (1, 2))


logits = st.lists(st.floats(-9, 9), min_size=2, max_size=6).map(np.array)


@given(logits, st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", SCORES)
def test_no_larger_gap_lowers_a_score(name: str, z: np.ndarray, seed: int) -> None:
    draw, score = np.random.default_rng(seed), SCORES.get(name)
    gaps = z[:, None] - z[None, :]
    for more in (1.0, np.inf):
        wider = np.where(draw.random(gaps.shape) < 0.5, gaps + more, gaps)
        np.fill_diagonal(wider, 0.0)
        assert (score(wider) >= score(gaps) - 1e-12).all()


@given(logits)
def test_scores_are_what_they_are_called(z: np.ndarray) -> None:
    probabilities = special.softmax(z)
    assert np.allclose(scores_of("softmax", z), probabilities)
    above = np.array([probabilities[z > mine].sum() for mine in z])
    assert np.allclose(scores_of("aps", z), 1.0 - above)
    assert scores_of("aps", z).max() == 1.0
    assert ((scores_of("margin", z) >= 0) == (z == z.max())).all()


@given(st.integers(1, 300), st.floats(1e-6, 0.5), st.floats(0, 1))
def test_the_smallest_count_that_is_enough_is_found(n: int, alpha: float, needed: float) -> None:
    found = binarised.least_count(n, alpha, needed)
    bounds = upper_bounds(np.arange(n + 1), n, alpha)
    assert found == int(np.argmax(bounds >= needed))
    assert (bounds >= np.arange(n + 1) / n).all()
    exact = 1 - stats.beta.ppf(alpha, n - np.arange(n), np.arange(n) + 1)
    assert np.allclose(bounds[:-1], exact, atol=1e-8)


# --- coverage, in closed form given the bar, under the worst shift there is: images are numbers and
# the score of a noisy copy is the number plus noise, so to move it down by the radius is the worst.


def one_draw_coverage(n: int, spread: float, shared: bool = False):
    """Clean images are normal with that spread; ``shared`` noise is the planted mistake."""

    def once(draw: np.random.Generator) -> float:
        images = spread * draw.standard_normal(n)
        noise = NOISE * draw.standard_normal(1 if shared else n)
        bar = OneDraw().bar(images + noise, alpha=ALPHA, radius=RADIUS, sigma=NOISE)
        if shared:  # the test copy has that very noise, too
            return float(stats.norm.cdf(noise[0] - RADIUS - bar, scale=max(spread, 1e-9)))
        return float(special.ndtr(-(bar + RADIUS) / np.hypot(spread, NOISE)))

    return once


def binarised_coverage(n: int, copies: int, spread: float, eta: float = 0.1):
    """A copy of an image reaches the threshold with probability Phi(the image)."""
    method = Binarised(n=copies, threshold=0.0, eta=eta)

    @functools.cache
    def bar(worst: int) -> float:  # it depends on nothing else
        return method.bar([worst] * n, alpha=ALPHA, radius=RADIUS, sigma=NOISE)

    def once(draw: np.random.Generator) -> float:
        counts = draw.binomial(copies, special.ndtr(spread * draw.standard_normal(n)))
        k = binarised.covering_rank(method.level(ALPHA, RADIUS, NOISE), n)
        least = bar(int(smallest(counts, k)))
        attacked = special.ndtr(spread * draw.standard_normal(100) - RADIUS / NOISE)
        return float(special.bdtrc(least - 1, copies, attacked).mean()) if least > 0 else 1.0

    return once


class LinearMargins:
    """Logits x and -x of a number x: gaps move by exactly 2 per unit."""

    def __init__(self) -> None:
        import torch

        self.constants = 2.0 * (1.0 - torch.eye(2, dtype=torch.float64))

    def differences(self, x, *, tol, depth):
        gap = 2.0 * float(np.ravel(x)[0])
        return np.array([[0.0, gap], [-gap, 0.0]]), np.zeros((2, 2)), 1


def proven_coverage(n: int):
    method = Proven(score="margin")

    def once(draw: np.random.Generator) -> float:
        bar = method.bar(2.0 * draw.standard_normal(n), alpha=ALPHA, radius=RADIUS, sigma=math.nan)
        given = Input(np.array([[[draw.standard_normal()]]]), 0)
        high = method.evidence(None, [given], stage=0, radius=RADIUS)[0].high[0]
        offset = high - 2.0 * float(given.x[0, 0, 0])  # what the method adds to the gap
        return float(special.ndtr((offset - bar) / 2.0 - RADIUS))

    return once


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    margins = LinearMargins()
    monkeypatch.setattr(Proven, "_margins", lambda self, model: margins)


def simulated(once, count: int = REPETITIONS) -> tuple[float, float]:
    """Return the mean of so many repetitions, and its standard error."""
    draw = np.random.default_rng(7)
    found = np.array([once(draw) for _ in range(count)])
    return float(found.mean()), float(found.std() / np.sqrt(count))


TIGHT = {
    # Just above a whole number of images, so that one more would be too many.
    "one-draw": functools.partial(one_draw_coverage, 401, 0.0),
    "binarised": functools.partial(binarised_coverage, 30, 10**6, 1.0, eta=0.01),
    "proven": functools.partial(proven_coverage, 99),
}
WITH_SLACK = {
    "one-draw, images that differ": functools.partial(one_draw_coverage, 401, 1.0),
    "one-draw, few images": functools.partial(one_draw_coverage, 53, 0.5),
    "binarised, few copies": functools.partial(binarised_coverage, 60, 30, 1.0),
    "binarised, images alike": functools.partial(binarised_coverage, 60, 100, 0.0),
}


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("name", [*TIGHT, *WITH_SLACK])
def test_attacked_sets_hold_the_true_class_as_often_as_promised(name: str) -> None:
    mean, error = simulated({**TIGHT, **WITH_SLACK}[name]())
    assert mean >= 1 - ALPHA - 3 * error
    if name in TIGHT:
        assert mean <= 1 - ALPHA + 0.015


def one_too_many(alpha: float, n: int) -> int:
    return covering_rank(alpha, n) + 1


def wrong_side(patch: pytest.MonkeyPatch) -> None:
    lower, upper = binarised.lower_confidence_bound, binarised.upper_bounds
    flip = lambda c, n, a: float(upper(np.array([c]), n, a)[0])  # noqa: E731
    patch.setattr(binarised, "lower_confidence_bound", flip)
    down = lambda counts, n, a: np.array([lower(int(c), n, a) for c in counts])  # noqa: E731
    patch.setattr(binarised, "upper_bounds", down)


MISTAKES = {
    "one-draw calibrates at 1 - alpha instead of 1 - alpha'": (
        TIGHT["one-draw"],
        lambda patch: patch.setattr(one_draw, "clean_level", lambda alpha, radius, sigma: alpha),
    ),
    "one-draw takes the next quantile": (
        TIGHT["one-draw"],
        lambda patch: patch.setattr(one_draw, "covering_rank", one_too_many),
    ),
    "one-draw uses the noise of calibration again": (
        functools.partial(one_draw_coverage, 401, 0.1, shared=True),
        lambda patch: None,
    ),
    "binarised pays for no radius": (
        TIGHT["binarised"],
        lambda patch: patch.setattr(binarised, "shifted", lambda p, radius, sigma: p),
    ),
    "binarised takes the next quantile": (
        TIGHT["binarised"],
        lambda patch: patch.setattr(binarised, "covering_rank", one_too_many),
    ),
    "binarised bounds counts from the wrong sides": (
        functools.partial(binarised_coverage, 60, 100, 1.0),
        wrong_side,
    ),
    "proven forgets the radius": (
        TIGHT["proven"],
        lambda patch: patch.setattr(LinearMargins, "differences", forgets_the_radius),
    ),
    "proven takes the next quantile": (
        TIGHT["proven"],
        lambda patch: patch.setattr(proven, "covering_rank", one_too_many),
    ),
}


def forgets_the_radius(self, x, *, tol, depth):
    self.constants = 0.0 * self.constants
    gap = 2.0 * float(np.ravel(x)[0])
    return np.array([[0.0, gap], [-gap, 0.0]]), np.zeros((2, 2)), 1


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_simulations_notice_a_planted_mistake(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plant = MISTAKES[mistake]
    plant(monkeypatch)
    mean, error = simulated(made(), 300 if mistake.startswith("binarised") else 800)
    assert mean < 1 - ALPHA - 3 * error


def test_a_set_is_never_smaller_for_a_larger_radius_or_a_smaller_alpha() -> None:
    draw = np.random.default_rng(0)
    scores, counts = draw.standard_normal(300), draw.binomial(100, 0.9, 300)
    for method, values in ((OneDraw(), scores), (Binarised(n=100, threshold=0.0), counts)):
        by_radius = [method.bar(values, alpha=0.1, radius=r, sigma=0.5) for r in (0, 0.1, 0.3, 0.4)]
        by_alpha = [method.bar(values, alpha=a, radius=0.1, sigma=0.5) for a in (0.3, 0.2, 0.1)]
        assert by_radius == sorted(by_radius, reverse=True)
        assert by_alpha == sorted(by_alpha, reverse=True)


# --- evidence


class Half(HalfLine):
    num_classes = 2


def copies(**options) -> Copies:
    return Copies(SmoothingEngine(Half(0.8), sigma=SIGMA, batch=7, **options), reference())


def test_many_inputs_are_solved_as_each_alone_would_be() -> None:
    inputs = [Input(ORIGIN, 3), Input(ORIGIN + 0.5, 4), Input(ORIGIN, 9)]
    found = copies().answers(inputs, Stage.SETS, 5)
    for i, one in enumerate(inputs):
        alone = copies().engine.classify(reference(), one, Stage.SETS, np.arange(5))
        assert found.predictions[i].tolist() == alone.predictions.tolist()
        again = copies().answers([one], Stage.SETS, 5)
        assert np.array_equal(again.logits[0], found.logits[i])
        assert found.nfe[i] == alone.nfe
    assert not np.array_equal(found.logits[0], found.logits[2])


def test_a_chained_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="function of that copy alone"):
        Copies(copies().engine, warm(AlwaysFirst()))


def test_a_copy_without_an_answer_counts_against_the_label_and_for_every_class() -> None:
    class Silent(Half):
        def readout(self, z):
            return super().readout(z) / (z > 0).float()  # inf or NaN below 0

    source = Copies(SmoothingEngine(Silent(0.5), sigma=SIGMA, batch=50), reference())
    one = [OneDraw().evidence(source, [Input(ORIGIN, i)], stage=0, radius=0)[0] for i in range(20)]
    lost = [e for e in one if e.unsolved]
    assert 0 < len(lost) < 20
    assert all(np.isneginf(e.low).all() and members(e, 1e9) == (0, 1) for e in lost)
    many = Binarised(score="margin", n=50).evidence(source, [Input(ORIGIN, 0)], stage=0, radius=0)
    assert many[0].unsolved > 0
    assert (many[0].high - many[0].low == many[0].unsolved).all()
    assert many[0].low.sum() + many[0].unsolved == 50


def test_votes_of_a_certificate_bound_those_of_every_class() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        counts = draw.multinomial(80, [0.1, 0.2, 0.3, 0.3, 0.1])[:4]  # some have no vote
        chosen = int(draw.integers(4))
        for told in (chosen, -1):
            found = votes_evidence(told, int(counts[chosen]), 80, 4)
            assert (found.low <= counts).all()
            assert (counts <= found.high).all()


@pytest.mark.parametrize("kind", ["monotone", "lipschitz-bounded"])
def test_a_proven_set_holds_what_any_clean_image_within_the_radius_has(kind: str) -> None:
    model, draw = network(kind, 0), np.random.default_rng(0)
    for score in SCORES:
        method = Proven(score=score)
        for radius in (0.0, 0.1, 1.0):
            x = draw.random(model.input_shape)
            way = draw.standard_normal(x.shape)
            moved = x + radius * (1 - 1e-9) * way / np.linalg.norm(way)
            clean = method.evidence(model, [Input(x, 0)], stage=0, radius=0.0)[0]
            found = method.evidence(model, [Input(moved, 0)], stage=0, radius=radius)[0]
            assert (clean.low <= clean.high).all()
            assert (found.high >= clean.low).all()
            exact = method.evidence(model, [Input(x, 0)], stage=0, radius=0.0)[0]
            assert np.allclose(exact.low, exact.high, atol=1e-5) or score == "aps"
    with pytest.raises(ConfigError, match="Lipschitz constants can be proven"):
        Proven().check(Half(0.5))


# --- from the front doors

QUICK = "--model digits --sigma 0.25 --tol 0 --depth 2 --batch 40 --threads 1 --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibration of each kind, a run, and votes."""
    folder = tmp_path_factory.mktemp("conformal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few = "--method binarised --method-option n=10"
        for command in (
            f"conformal calibrate {QUICK} --images 0:60 --out one",
            f"conformal calibrate {QUICK} --images 0:40 {few} --out many",
            "conformal sets one --images 60:100 --radius 0.1 --alpha 0.2 --quiet "
            "--attack smoothadv-pgd:steps=1,draws=1 --out sets",
            f"certify {QUICK} --images 0:30 --n0 5 --n 40 --alpha 0.1 --out run",
            f"certify {QUICK} --images 30:36 --n0 5 --n 40 --alpha 0.1 --out more",
            "conformal calibrate --votes run --out votes",
        ):
            assert main(command.split()) == 0, command
    return folder


def columns(file: Path, without: str = "time") -> list[list[str]]:
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    left_out = rows[0].index(without)
    return [row[:left_out] + row[left_out + 1 :] for row in rows]


def test_a_calibration_is_read_as_it_was_written(place: Path) -> None:
    made = Calibration.read(place / "many")
    assert isinstance(made.method, Binarised)
    assert made.method.threshold is not None
    assert len(made) == 32  # 8 of the 40 chose the threshold
    tuned = made.notes["tuned"]
    assert sorted((*made.images, *tuned)) == list(range(40))
    same = (made.parameters["data_hash"], made.parameters["split"])
    for asked in ((*same, tuned[:1], [""]), ("", "", [999], made.seen[-1:])):
        with pytest.raises(ConfigError, match="calibrated on"):
            made.check_images(*asked)
    again = made.write(place)
    assert again.read_bytes() == (place / "many" / "calibration.json").read_bytes()


@pytest.mark.parametrize("name", ["one", "sets"])
def test_what_was_stopped_goes_on_to_the_same_end(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    file = place / name / ("calibration.tsv" if name == "one" else "sets.tsv")
    before, text = columns(file), file.read_text()
    kept = (place / "one" / "calibration.json").read_bytes()
    file.write_text(text[: len(text) // 2])
    command = {
        "one": f"conformal calibrate {QUICK} --images 0:60 --out one",
        "sets": "conformal sets one --images 60:100 --radius 0.1 --alpha 0.2 --quiet "
        "--attack smoothadv-pgd:steps=1,draws=1 --out sets",
    }[name]
    assert main(command.split()) == 0
    assert columns(file) == before
    assert (place / "one" / "calibration.json").read_bytes() == kept


def test_sets_of_a_run_are_told_and_drawn(place: Path) -> None:
    summary = json.loads((place / "sets" / "summary.json").read_text())
    assert [row["name"] for row in summary["rows"]] == ["clean", "smoothadv-pgd"]
    assert summary["promised"] == 0.8
    assert 0.7 < summary["rows"][0]["coverage"] <= 1
    assert sum(row["images"] for row in summary["by_class"]) == 40
    assert (place / "sets" / "sets.png").stat().st_size < 100_000
    norms = [row[-1] for row in columns(place / "sets" / "sets.tsv")[1:]]
    assert max(map(float, norms)) <= 0.1


def test_the_front_door_answers_as_the_command_does(place: Path) -> None:
    data = deqcert.load_dataset("digits")
    sets = deqcert.SetPredictor(place / "one", alpha=0.2, radius=0.1)
    told = {int(row[0]): row[2] for row in columns(place / "sets" / "sets.tsv")[1:]}
    found = sets(data.batch(range(60, 65)), index=60)
    assert [",".join(map(str, one)) or "-" for one in found] == [told[i] for i in range(60, 65)]
    assert sets(data.image(60), index=60) == found[0]
    with pytest.raises(ConfigError, match="image 7 was calibrated on"):
        sets(data.image(7), index=7)
    smooth = deqcert.SmoothedClassifier("digits", sigma=0.25, tol=0, depth=2, batch=40, threads=1)
    made = deqcert.SetPredictor.calibrate(smooth, "digits", images="0:60", alpha=0.2, radius=0.1)
    assert made.calibration.values == sets.calibration.values
    assert made.bar == sets.bar
    assert made(data.image(60), index=60) == found[0]
    other = dataclasses.replace(smooth, sigma=0.5)
    with pytest.raises(ConfigError, match=r"sigma was 0\.25 and is now 0\.5"):
        deqcert.SetPredictor(place / "one", 0.2, 0.1, other)(data.image(60))


def test_votes_of_a_run_serve_as_evidence(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    made = Calibration.read(place / "votes")
    rows = [
        line.split("\t") for line in (place / "run" / "certificates.tsv").read_text().split("\n")
    ]
    at = {name: i for i, name in enumerate(rows[0])}
    votes, predict, label = (at[name] for name in ("votes", "predict", "label"))
    right = [int(row[votes]) * (row[predict] == row[label]) for row in rows[1:-1]]
    assert list(made.values) == right
    command = "conformal sets votes --votes more --alpha 0.3 --out voted --quiet"
    assert main(command.split()) == 0
    assert "binarised" in capsys.readouterr().out
    assert (place / "voted" / "sets.tsv").read_text().count("\n") == 7
    sets = deqcert.SetPredictor(made, alpha=0.3)  # new votes by the same classifier
    assert isinstance(sets(deqcert.load_dataset("digits").image(200), index=200), tuple)


REFUSED = {
    "conformal sets one --images 100:110 --alpha 0.01 --out x": "has 60 images, too few",
    "conformal sets one --images 100:110 --radius 0.5 --out x": "lower --radius",
    "conformal sets one --images 50:70 --out x": "image 50 and 9 more was calibrated on",
    "conformal sets one --images 100:110 --sigma 0.5 --out x": "sigma was 0.25 and is now 0.5",
    "conformal sets one --data npz:copy.npz --images 0:2 --out x": "image 1 was calibrated on",
    "conformal sets changed --images 100:110 --out x": "was changed since it was written",
    "conformal sets run --images 100:110 --out x": "cannot read run/calibration.json",
    "conformal sets one --images 100:110 --attack square --out x": "radius above 0",
    "conformal sets votes --votes run --alpha 0.3 --out x": "was calibrated on",
    "conformal sets one --votes more --out x": "calibrate with votes of as many",
    "conformal sets votes --votes more --alpha 0.3 --sigma 0.5 --out x": "leave --sigma out",
    f"conformal calibrate {QUICK} --start previous --out x": "function of that copy alone",
    f"conformal calibrate {QUICK} --split train --out x": "was trained on these images",
    f"conformal calibrate {QUICK} --method proven --out x": "proven",
    f"conformal calibrate {QUICK} --method-option score=best --out x": "softmax",
    f"conformal calibrate {QUICK} --method nosuch --out x": "there is no set method 'nosuch'",
    "conformal calibrate --votes one --out x": "is a run of method one-draw",
    "conformal nosuch": "nosuch",
}


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_be_promised_is_refused_in_one_sentence(
    command: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    if not (place / "copy.npz").exists():
        data = deqcert.load_dataset("digits")
        np.savez("copy.npz", x=data.batch([200, 5]), y=data.labels()[[200, 5]])
        content = json.loads((place / "one" / "calibration.json").read_text())
        content["values"][0] = 1.0
        (place / "changed").mkdir()
        (place / "changed" / "calibration.json").write_text(json.dumps(content))
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert REFUSED[command] in said
    assert said.count("\n") == 1
    assert not (place / "x" / "sets.tsv").exists()


def test_methods_say_what_they_guarantee() -> None:
    for name in SET_METHODS:
        kind = SET_METHODS.get(name)
        assert kind.name == name
        assert "**Guarantee:**" in (kind.__doc__ or "")
        assert kind.summary()
    with pytest.raises(RunError, match="no calibration"):
        Calibration.read(__file__)
