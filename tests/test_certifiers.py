"""What every certifier offers, built in or brought along, and the certificates that they return."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import ORIGIN, SIGMA, AlwaysFirst, HalfLine, reference, warm

from deqcert.certifiers import (
    CERTIFIERS,
    NORMS,
    Certificate,
    Certifier,
    NoiseDetails,
    SmoothingCertifier,
    default_method,
    get_certifier,
    make_certifier,
)
from deqcert.certifiers.bounds import certified_radius, round_down
from deqcert.certifiers.certificate import LARGEST_RADIUS
from deqcert.certifiers.goals import Radii
from deqcert.data import ArrayDataset
from deqcert.errors import ConfigError, RunError
from deqcert.options import number, options_of
from deqcert.report import draw_curves, join_parts, read_results, table
from deqcert.runs import Run, certificate_layout, certify_images
from deqcert.smoothing import Input, SmoothingEngine
from deqcert.smoothing.stage import Stage

INPUTS = np.array([0.0, 0.25, 0.75, 1.0], dtype=np.float32).reshape(4, 1, 1, 1)
DATA = ArrayDataset("line", ["below", "above"], INPUTS, np.array([0, 0, 1, 1]), "the test")


@dataclass(frozen=True)
class Margin:
    """What the proof of a half line rests on."""

    logits: tuple[float, float]
    steps: int


@dataclass(frozen=True)
class Proven(Certifier[HalfLine]):
    """Prove the class of a half line from the distance to its threshold.

    Args:
        shrink: What the distance is divided by, to be on the safe side.
    """

    name: ClassVar[str] = "proven"
    norm: ClassVar[Any] = "linf"
    record: ClassVar[type[Any] | None] = Margin

    shrink: float = number(1.0, low=1)

    def certify(self, subject: HalfLine, input: Input) -> Certificate:
        x = torch.as_tensor(np.asarray(input.x))[None].double()
        logits = subject.readout(subject.inject(x))[0].tolist()
        radius = round_down(abs(logits[0]) / self.shrink)
        return Certificate(
            prediction=int(np.argmax(logits)) if radius > 0.2 else None,
            radius=radius if radius > 0.2 else 0.0,
            norm="linf",
            alpha=0,
            method=self.name,
            assumptions=self.assumptions(),
            nfe=1,
            seconds=0.5,
            details=Margin(tuple(logits), 1) if radius > 0.2 else None,
        )

    def assumptions(self) -> str:
        return "holds for the equilibrium itself"


@dataclass(frozen=True)
class Hoeffding(SmoothingCertifier):
    """Bound the probability of the class by Hoeffding's inequality."""

    name: ClassVar[str] = "hoeffding"

    def bound(self, votes: int) -> float:
        return votes / self.n - math.sqrt(math.log(1 / self.alpha) / (2 * self.n))

    def best_p_lower(self) -> float:
        return self.bound(self.n)

    def certify(self, subject: SmoothingEngine, input: Input) -> Certificate:
        guess, selection = self.select(subject, input)
        if guess is None:
            return self.certificate(subject, None, 0.0, (selection,))
        estimate = subject.votes(self.predictor, input, Stage.ESTIMATE, self.n)
        votes = int(estimate.counts[guess])
        spent = (selection, estimate)
        return self.certificate(subject, guess, max(0.0, self.bound(votes)), spent, votes=votes)

    def assumptions(self) -> str:
        return "holds for the smoothed classifier"


@pytest.fixture
def toys():
    """Two methods from outside, one of them without noise."""
    for kind in (Proven, Hoeffding):
        CERTIFIERS.register(kind.name, kind)
    yield
    for kind in (Proven, Hoeffding):
        CERTIFIERS.unregister(kind.name)


def certify(folder, certifier, subject):
    """Certify the four inputs in a run folder, as a caller does who knows no method by name."""
    layout = certificate_layout(noise=certifier.noise, norm=certifier.norm)
    told: list[Certificate] = []
    with Run(folder, certifier.parameters(), range(4), layout=layout) as run:
        certify_images(run, certifier, subject, DATA, lambda row: told.append(row.certificate))
        run.finish({})
    return told


# --- from outside ---------------------------------------------------------------------------------


def test_a_certifier_without_noise_from_outside_makes_runs_and_reports(toys, tmp_path):
    model = HalfLine(0.5)
    model.threshold = 0.55
    certifier = make_certifier("proven", {"predictor": reference(), "n": 7, "alpha": 0.1})
    assert certifier.parameters() == {"method": "proven", "norm": "linf", "shrink": 1.0}
    found = certify(tmp_path / "run", certifier, model)
    assert [c.prediction for c in found] == [0, 0, None, 1]
    header, first, *_ = (tmp_path / "run" / "certificates.tsv").read_text().splitlines()
    assert header.split("\t")[6:] == ["norm", "alpha", "method", "sound", "nfe", "details"]
    assert first.split("\t")[6:11] == ["linf", "0.0", "proven", "1", "1"]
    assert json.loads(first.split("\t")[11])["steps"] == 1
    assert certify(tmp_path / "run", certifier, model) == []  # finished, and opened again
    results = read_results(tmp_path / "run")
    assert (results.norm, results.sound, results.title) == ("linf", True, "run (proven linf)")
    text = table([results]).text()
    assert "75.0" in text
    assert "radius: linf" in text
    assert draw_curves([results], tmp_path / "curve.png").is_file()


def test_a_certifier_with_noise_from_outside_makes_runs_and_reports(toys, tmp_path):
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, batch=100)
    certifier = get_certifier("hoeffding", reference(), n0=10, n=200, alpha=0.01)
    found = certify(tmp_path / "run", certifier, engine)
    assert all(c.radius == certified_radius(c.details.p_lower, SIGMA) for c in found)
    results = read_results(tmp_path / "run")
    assert results.title == "run (hoeffding sigma=0.5 n=200)"
    assert "radius: l2" in table([results]).text()
    assert list(options_of(Hoeffding)) == ["n0", "n", "alpha"]


def test_radii_of_different_norms_do_not_share_a_table_or_a_name(toys, tmp_path):
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, batch=100)
    certify(tmp_path / "a", get_certifier("proven"), HalfLine(0.9))
    certify(tmp_path / "b", get_certifier("hoeffding", reference(), n0=1, n=50), engine)
    runs = [read_results(tmp_path / name) for name in "ab"]
    for refused in (lambda: table(runs), lambda: draw_curves(runs, tmp_path / "c.png")):
        with pytest.raises(ConfigError, match=r"a in linf, b in l2"):
            refused()
    with pytest.raises(RunError, match="only runs over different images"):
        join_parts(runs)


def test_a_certificate_of_another_method_or_norm_is_refused(toys, tmp_path):
    class Liar(Proven):
        norm: ClassVar[Any] = "l2"

    with pytest.raises(ConfigError, match=r"'proven' \(l2\) returned a certificate .*linf"):
        certify(tmp_path / "run", Liar(), HalfLine(0.9))


# --- making them ----------------------------------------------------------------------------------

POOL = {"n0": 20, "n": 500, "alpha": 0.01, "audit": 100, "depth": 7, "goal": Radii((0.1,))}


@pytest.mark.parametrize("name", CERTIFIERS.names())
def test_every_method_is_made_from_a_pool_of_what_it_declares(name):
    kind = CERTIFIERS.get(name)
    steady = reference() if name in ("standard", "independent") else warm(AlwaysFirst())
    made = make_certifier(name, POOL | {"predictor": steady, "reference": reference()})
    assert (made.name, type(made)) == (name, kind)
    for option in options_of(kind):
        assert getattr(made, option) == POOL.get(option, options_of(kind)[option].default)
        assert options_of(kind)[option].help.endswith(".")
    assert json.loads(json.dumps(made.parameters())) == made.parameters()
    assert kind.summary().endswith(".")
    assert kind.summary().startswith("UNSOUND") != kind.sound
    assert made.noise == isinstance(made, SmoothingCertifier)


@pytest.mark.parametrize("name", CERTIFIERS.names())
def test_what_was_asked_for_is_never_ignored(name):
    known = options_of(CERTIFIERS.get(name))
    pool = {"predictor": reference(), "reference": reference()}
    for option in POOL:
        if option in known:
            samples = {"n": 500} if "n" in known else {}
            made = make_certifier(name, pool, samples | {option: POOL[option]})
            assert getattr(made, option) == POOL[option]
        else:
            with pytest.raises(ConfigError, match=f"'{name}' has no option '{option}'; it has"):
                make_certifier(name, pool, {option: POOL[option]})
            make_certifier(name, pool | {option: POOL[option]}, {option: None})


def test_an_audit_is_of_a_thousand_votes_or_of_all():
    given = {"predictor": warm(AlwaysFirst()), "reference": reference(), "alpha": 0.1}
    for n, audit in ((100, 100), (5000, 1000)):
        assert make_certifier("serialized", given | {"n": n}).audit == audit
    with pytest.raises(ConfigError, match=r"audit is 101, .* from 1 to n=100"):
        make_certifier("serialized", given, {"n": 100, "audit": 101})


def test_a_goal_may_be_given_as_text():
    for text, goal in (("radii=0.1", Radii((0.1,))), ("budget", None), (None, None)):
        assert get_certifier("independent", reference(), goal=text).goal == goal


def test_where_no_method_is_asked_for_one_fits():
    for predictor, goal, name in (
        (reference(), None, "standard"),
        (reference(), Radii((0.1,)), "independent"),
        (warm(AlwaysFirst()), None, "serialized"),
        (warm(AlwaysFirst()), Radii((0.1,)), "serialized-strata"),
    ):
        assert default_method(predictor, goal) == name


# --- certificates ---------------------------------------------------------------------------------

finite = st.floats(0, 1e300)
noise = st.builds(
    NoiseDetails,
    p_lower=st.floats(0, 1),
    sigma=finite,
    **dict.fromkeys(("n0", "n", "votes", "audited", "disagreements", "seed"), st.integers(0)),
)
margins = st.builds(Margin, st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), st.integers())


@st.composite
def certificates(draw):
    prediction = draw(st.none() | st.integers(0, 999))
    method, details = draw(
        st.tuples(st.sampled_from(["standard", "serialized"]), noise)
        | st.tuples(st.just("proven"), st.none() | margins)
    )
    return Certificate(
        prediction=prediction,
        radius=0.0 if prediction is None else draw(st.floats(0, LARGEST_RADIUS)),
        norm=draw(st.sampled_from(NORMS)),
        alpha=draw(st.floats(0, 1, exclude_max=True)),
        method=method,
        sound=draw(st.booleans()),
        assumptions=draw(st.text()),
        nfe=draw(st.integers(0) | finite),
        seconds=draw(finite),
        details=details,
    )


@given(certificate=certificates())
def test_a_certificate_survives_json_exactly(certificate):
    CERTIFIERS.register("proven", Proven, replace=True)
    try:
        text = json.dumps(certificate.to_dict(), allow_nan=False)
        assert Certificate.from_dict(json.loads(text)) == certificate
    finally:
        CERTIFIERS.unregister("proven")


@given(certificate=certificates())
def test_a_certificate_never_shows_more_radius_than_it_has(certificate):
    shown = repr(certificate).split("radius=")[1].split(",")[0]
    assert float(shown) <= certificate.radius < float(shown) + 0.0011 + 1e-9 * certificate.radius


def test_a_certificate_reads_well():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, batch=100)
    found = get_certifier("standard", reference(), n0=10, n=200).certify(engine, Input(ORIGIN, 0))
    shown = f"{math.floor(1000 * found.radius) / 1000:.3f}"
    assert repr(found) == (
        f"Certificate(prediction=0, radius={shown}, norm='l2', alpha=0.001, method='standard', ...)"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"radius": -1.0},
        {"radius": math.inf},
        {"radius": 1.1e6},  # report would refuse to read it
        {"radius": math.nan},
        {"prediction": None},
        {"alpha": 1.0},
        {"norm": "l1"},
        {"method": "standrad"},
        {"details": {"p": 1}},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_certificate_is_refused_in_a_sentence(change):
    good = {"prediction": np.int64(3), "radius": 0.5, "alpha": 0, "method": "standard"}
    good |= {"assumptions": "none", "nfe": np.float32(2.5), "seconds": 1}
    assert json.dumps(Certificate.from_dict(good).to_dict())
    with pytest.raises(ConfigError) as error:
        Certificate.from_dict(good | change)
    assert str(error.value).endswith(".")
