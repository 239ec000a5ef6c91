"""The look at agreement with the converged model: covered, budgeted, repeatable, out of the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deqcert
from deqcert import SmoothedClassifier
from deqcert.certifiers import CERTIFIERS, make_certifier
from deqcert.certifiers.agreement import ERROR, Agreement, AgreementAudit
from deqcert.certifiers.bounds import confidence_interval
from deqcert.certifiers.named import classifier_name
from deqcert.certifiers.smoothed import SmoothingCertifier
from deqcert.cli import main
from deqcert.compose import describe_predictors
from deqcert.errors import RunError
from deqcert.report import join_parts, read_results, table
from deqcert.smoothing import CheckedStop, DecidedStop, EarlyStop, Predictor, Stage
from deqcert.solvers import Anderson, StopRule
from deqcert.starts import Learned

QUICK: dict[str, Any] = {"sigma": 0.25, "n0": 20, "n": 300, "alpha": 0.01, "batch": 50}
ONE: dict[str, Any] = {**QUICK, "tol": 0.0, "depth": 1}
CONVERGED = Predictor(Anderson(), StopRule())


def fixed(steps: int) -> Predictor:
    return Predictor(Anderson(), StopRule(tol=0.0, max_nfe=steps))


class Answers:
    """An engine that knows every answer beforehand, one row of them per image."""

    base_stage = 0

    def __init__(self, predictions: np.ndarray, nfe: float, seed: int = 0) -> None:
        self.predictions, self.nfe, self.seed = predictions, nfe, seed

    def classify(self, predictor: Predictor, input: Any, stage: int, samples: np.ndarray) -> Any:
        assert stage == Stage.ESTIMATE
        found = self.predictions[input.index, samples]
        return SimpleNamespace(predictions=found, nfe=self.nfe * len(samples))


def audit_of(cast: np.ndarray, truth: np.ndarray, *, share: float, seed: int = 0) -> AgreementAudit:
    """An audit of known answers, with the budget that makes it look at that share of them."""
    engine: Any = Answers(cast, 1.0, seed)
    converging: Any = Answers(truth, 12.0, seed)
    return AgreementAudit(engine, fixed(1), converging, CONVERGED, budget=31.0 * share)


def look(audit: AgreementAudit, images: int, drawn: int) -> Agreement:
    """Audit all images."""
    seen: list[Any] = [
        audit.look(SimpleNamespace(index=i), drawn)  # type: ignore[arg-type]
        for i in range(images)
    ]
    counts = {
        key: np.array([getattr(one, key) for one in seen])
        for key in ("audited", "agreed", "unsolved", "nfe", "seconds")
    }
    return Agreement(idx=np.arange(images), **counts)


def planted(shares: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes and converged answers that agree on exactly this share of each image's samples."""
    random = np.random.default_rng(seed)
    truth = random.integers(10, size=(len(shares), n))
    cast = truth.copy()
    for image, share in enumerate(shares):
        wrong = random.permutation(n)[: round((1 - share) * n)]
        cast[image, wrong] = (truth[image, wrong] + 1) % 10
    return cast, truth


SHARES = np.linspace(0.7, 1.0, 16)


def missed(
    change: Callable[[Agreement], tuple[bool, bool]], *, runs: int = 200
) -> tuple[float, float]:
    """How often the overall interval, and any of those of the least faithful images, was wrong."""
    wrong = np.zeros(2)
    for seed in range(runs):
        cast, truth = planted(SHARES, 300, seed)
        found = look(audit_of(cast, truth, share=0.1, seed=seed), len(SHARES), 300)
        wrong += change(found)
    return wrong[0] / runs, wrong[1] / runs


def judged(found: Agreement) -> tuple[bool, bool]:
    low, high = found.interval()
    inside = [low_ <= SHARES[i] <= high_ for i, _, _, (low_, high_) in found.least()]
    return not low <= SHARES.mean() <= high, not all(inside)


def test_a_known_share_is_covered_overall_and_on_the_images_that_were_picked() -> None:
    overall, picked = missed(judged)
    assert overall <= 0.05
    assert picked <= 0.05


def test_images_picked_without_correction_would_not_be_covered() -> None:
    def uncorrected(found: Agreement) -> tuple[bool, bool]:
        bounds = [
            (SHARES[i], confidence_interval(agreed, of, ERROR))
            for i, agreed, of, _ in found.least()
        ]
        return False, not all(low <= share <= high for share, (low, high) in bounds)

    assert missed(uncorrected)[1] > 0.05


def test_an_audit_that_ends_once_it_can_warn_would_not_be_covered() -> None:
    wrong = 0
    for seed in range(150):
        cast, truth = planted(np.full(1, 0.95), 3000, seed)
        chosen = audit_of(cast, truth, share=0.1, seed=seed).samples(0, 3000)
        same = np.cumsum((cast == truth)[0, np.random.default_rng(seed).permutation(chosen)])
        looks = [confidence_interval(int(same[k - 1]), k, ERROR) for k in range(10, 300, 10)]
        wrong += any(high < 0.95 for _, high in looks)
    assert wrong / 150 > 0.05


def test_samples_are_a_function_of_seed_and_place_and_hit_all_alike() -> None:
    cast, truth = planted(SHARES, 300, 0)
    audit = audit_of(cast, truth, share=0.02)
    counts = np.zeros(300)
    for index in range(2000):
        chosen = audit.samples(index, 300)
        np.testing.assert_array_equal(chosen, audit.samples(index, 300))
        assert len(np.unique(chosen)) == len(chosen)
        counts[chosen] += 1
    # 2000 images with 6 samples each: 40 hits per sample, with a deviation of 6.3.
    assert counts.sum() == pytest.approx(12_000, abs=300)
    assert np.all(np.abs(counts - 40) < 6 * 6.3)
    other = audit_of(cast, truth, share=0.02, seed=1)
    assert any(len(np.setxor1d(audit.samples(i, 300), other.samples(i, 300))) for i in range(5))


def test_a_converged_solve_that_gives_no_class_never_agrees() -> None:
    cast, truth = np.full((1, 40), -1), np.full((1, 40), -1)
    seen = look(audit_of(cast, truth, share=0.5), 1, 40)
    assert (seen.audited[0], seen.agreed[0], seen.unsolved[0]) == (20, 0, 20)


@given(
    st.integers(1, 40),
    st.integers(2, 60),
    st.floats(1e-4, 1.0),
    st.sampled_from(["fixed", "early", "margin", "checks", "tol"]),
)
def test_the_dearest_audit_keeps_to_its_budget(
    steps: int, depth: int, budget: float, kind: str
) -> None:
    steps = max(steps, 2) if kind == "tol" else steps
    classifiers = {
        "fixed": fixed(steps),
        "early": Predictor(Anderson(), StopRule(0.0, "rel", steps), early=EarlyStop(0.1)),
        "margin": Predictor(Anderson(), StopRule(0.0, "rel", steps), early=DecidedStop(2.0, 0.5)),
        "checks": Predictor(
            Anderson(),
            StopRule(0.0, "rel", steps + 3),
            early=CheckedStop((2, 3), (1.0, 0.5), 0.5),
        ),
        "tol": Predictor(Anderson(), StopRule(0.1, "rel", max(steps, 2))),
    }
    classifier = classifiers[kind]
    converged = Predictor(Anderson(), StopRule(1e-3, "rel", depth))
    engine: Any = Answers(np.zeros((1, 1)), 1.0)
    audit = AgreementAudit(engine, classifier, engine, converged, budget)
    least = classifier.spent({"fixed": steps, "checks": 2}.get(kind, 1), 1, readouts=0)
    most = classifier.spent(classifier.stop.max_nfe, 1) + depth
    n = 10_000
    size = np.mean([len(audit.samples(index, n)) for index in range(20)])
    assert size * most <= budget * n * least + most
    assert size == pytest.approx(min(n, n * audit.share), abs=1)


@given(st.integers(1, 300), st.integers(0, 300), st.floats(1e-4, 0.5))
def test_an_interval_holds_its_share_and_turns_with_the_question(
    n: int, agreed: int, alpha: float
) -> None:
    agreed = min(agreed, n)
    low, high = confidence_interval(agreed, n, alpha)
    assert 0 <= low <= agreed / n <= high <= 1
    other = confidence_interval(n - agreed, n, alpha)
    assert (low, high) == pytest.approx((1 - other[1], 1 - other[0]))


@pytest.mark.parametrize(
    ("predictor", "name"),
    [
        (CONVERGED, "the converged model (to 0.001)"),
        (fixed(1), "the 1-evaluation classifier"),
        (fixed(30), "the 30-evaluation classifier"),
        (
            Predictor(Anderson(), StopRule(tol=0.1, max_nfe=30)),
            "the stop-rule classifier (residual 0.1, at most 30 evaluations)",
        ),
        (
            Predictor(Anderson(), StopRule(tol=1e-4, mode="abs")),
            "the stop-rule classifier (absolute residual 0.0001, at most 30 evaluations)",
        ),
        (
            Predictor(Anderson(), StopRule(0.0, "rel", 8), early=DecidedStop(2.0, 0.5)),
            "the stop-rule classifier (margin 2, at most 8 evaluations)",
        ),
        (
            Predictor(Anderson(), StopRule(0.0, "rel", 8), early=CheckedStop((2,), (1.0,), 0.5)),
            "the stop-rule classifier (checks after 2, at most 8 evaluations)",
        ),
        (
            Predictor(Anderson(), StopRule(0.0, "rel", 1), Learned(torch.nn.Identity(), 0.3)),
            "the 1-evaluation classifier (learned start)",
        ),
        (
            Predictor(Anderson(), StopRule(), Learned(torch.nn.Identity(), 0.3)),
            "the converged model (to 0.001, learned start)",
        ),
    ],
)
def test_a_classifier_has_a_name_that_a_stranger_understands(
    predictor: Predictor, name: str
) -> None:
    assert predictor.about() == name


@pytest.mark.parametrize("name", CERTIFIERS.names())
def test_every_certifier_names_its_classifier_and_a_manifest_tells_it_again(name: str) -> None:
    kind = CERTIFIERS.get(name)
    if not issubclass(kind, SmoothingCertifier):
        pytest.skip("draws no noise")
    pool = {"predictor": fixed(2), "reference": CONVERGED, "n": 2000, "audit": 1000}
    certifier = make_certifier(name, pool)
    assert certifier.about() in certifier.assumptions()
    if kind.__module__.startswith("deqcert."):
        parameters = certifier.parameters() | describe_predictors(certifier)
        assert classifier_name(json.loads(json.dumps(parameters))) == certifier.about()


def without_time(file: Path) -> list[list[str]]:
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    at = lines[0].index("time")
    return [line[:at] + line[at + 1 :] for line in lines]


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the 1-evaluation classifier, with a budget that shows something."""
    folder = tmp_path_factory.mktemp("agreement") / "quick"
    smooth = SmoothedClassifier("digits", **ONE, agreement=0.5)
    smooth.certify_dataset("digits", images="0:5", out=folder)
    return folder


def test_a_run_names_its_classifier_and_shows_its_agreement_everywhere(quick_run: Path) -> None:
    results = read_results(quick_run)
    assert results.about == "the 1-evaluation classifier"
    assert results.compared == "the converged model (to 0.001)"
    assert results.title.endswith(": the 1-evaluation classifier")
    found = results.agreement
    assert found is not None
    assert found.idx.tolist() == list(range(5))
    spent = [int(line[-2]) for line in without_time(quick_run / "certificates.tsv")[1:]]
    assert 0 < found.nfe.sum() <= 0.5 * sum(spent)
    made = table([results])
    assert f"{found.agreed.sum()} of {found.audited.sum()} audited votes" in made.text()
    assert made.rows[0]["agreement"]["audited"] == found.audited.sum()
    json.loads(made.json())
    manifest = json.loads((quick_run / "manifest.json").read_text())
    assert manifest["notes"]["classifier"] == "the 1-evaluation classifier"
    assert "the 1-evaluation classifier" in manifest["notes"]["assumptions"]
    assert json.loads((quick_run / "summary.json").read_text())["agreement"]["share"] <= 1


def test_votes_and_converged_classes_are_those_of_the_engine(quick_run: Path) -> None:
    smooth = SmoothedClassifier("digits", **ONE)
    dataset = deqcert.load_dataset("digits")
    found = read_results(quick_run).agreement
    assert found is not None
    converged = Predictor(Anderson(), StopRule())
    for index in range(5):
        each = deqcert.smoothing.Input(dataset.image(index), index)
        cast, truth = (
            smooth.engine.votes(how, each, Stage.ESTIMATE, 300).predictions
            for how in (smooth.predictor, converged)
        )
        low, high = confidence_interval(int(found.agreed[index]), int(found.audited[index]), 1e-9)
        assert low <= np.mean(cast == truth) <= high


def test_a_run_with_a_secret_seed_is_audited_on_its_own_samples(tmp_path: Path) -> None:
    smooth = SmoothedClassifier("digits", **ONE, seed="random", agreement=0.5)
    smooth.certify_dataset("digits", images="0:3", out=tmp_path / "secret")
    told = json.loads((tmp_path / "secret/manifest.json").read_text())["parameters"]["seed"]
    known = SmoothedClassifier("digits", **ONE, seed=told, agreement=0.5)
    known.certify_dataset("digits", images="0:3", out=tmp_path / "known")
    ours, theirs = (without_time(tmp_path / run / "agreement.tsv") for run in ("secret", "known"))
    assert ours == theirs


@pytest.mark.parametrize("certified", [0, 2, 5])
@pytest.mark.parametrize("audited", [0, 1, 5, None])
def test_a_run_that_was_stopped_ends_with_the_same_agreement(
    quick_run: Path, tmp_path: Path, certified: int, audited: int | None
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(quick_run, folder)
    for name, kept in (("certificates.tsv", certified), ("agreement.tsv", audited)):
        lines = (quick_run / name).read_text().splitlines(keepends=True)
        if kept is None:  # as in a run that was begun before there were audits
            (folder / name).unlink()
        else:
            torn = lines[kept + 1][:5] if kept < 5 else ""
            (folder / name).write_text("".join(lines[: kept + 1]) + torn)
    smooth = SmoothedClassifier("digits", **ONE, agreement=0.5)
    smooth.certify_dataset("digits", images="0:5", out=folder)
    for name in ("certificates.tsv", "agreement.tsv"):
        assert without_time(folder / name) == without_time(quick_run / name)


def test_certificates_have_the_same_bytes_whether_anybody_looks_or_not(
    quick_run: Path, tmp_path: Path
) -> None:
    smooth = SmoothedClassifier("digits", **ONE, agreement=0)
    results = smooth.certify_dataset("digits", images="0:5", out=tmp_path / "off")
    assert without_time(tmp_path / "off/certificates.tsv") == without_time(
        quick_run / "certificates.tsv"
    )
    assert not (tmp_path / "off/agreement.tsv").exists()
    assert results.agreement is None
    assert "not measured" in table([results]).text()


@pytest.mark.parametrize(
    "settings",
    [{}, {"tol": 1e-4, "depth": 60}, {"start": "previous", "steps": 2, "audit": 100}],
    ids=["cold", "closer", "audited"],
)
def test_the_converged_model_is_not_compared_with_itself(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    smooth = SmoothedClassifier("digits", **QUICK, agreement=1.0, **settings)
    results = smooth.certify_dataset("digits", images="0:2", out=tmp_path / "run")
    assert not (tmp_path / "run/agreement.tsv").exists()
    assert (results.agreement, results.compared) == (None, None)
    assert results.about is not None
    assert results.about.startswith("the converged model (to 0.00")
    assert "agree" not in table([results]).text()


def stubborn() -> Any:
    """A model whose first evaluation says little about its equilibrium."""
    torch.manual_seed(3)
    embed, layer, head = (torch.nn.Linear(a, b) for a, b in ((64, 16), (16, 16), (16, 10)))
    return deqcert.ImplicitClassifier(
        lambda z, u: 0.9 * torch.tanh(2.0 * layer(z) + u),
        head,
        inject=lambda x: embed(x.flatten(1)),
        state_shape=(16,),
        input_shape=(1, 8, 8),
        num_classes=10,
    )


def test_below_95_percent_a_sentence_warns(tmp_path: Path) -> None:
    said: list[str] = []
    smooth = SmoothedClassifier(stubborn(), **ONE, agreement=1.0)
    results = smooth.certify_dataset("digits", images="0:4", out=tmp_path / "run", note=said.append)
    assert results.agreement is not None
    assert results.agreement.share < 0.95
    assert results.warning() in said
    assert "the 1-evaluation classifier" in said[-1]
    assert said[-1].count(".") <= 2  # a sentence, with figures
    assert "WARNING" in table([results]).text()
    assert "agrees least: image" in table([results]).text()


@given(st.integers(0, 400), st.integers(1, 400))
def test_the_warning_begins_below_95_percent(agreed: int, audited: int) -> None:
    agreed = min(agreed, audited)
    arrays = [np.array([value]) for value in (0, audited, agreed, 0, 1.0, 1.0)]
    found = Agreement(*arrays)
    assert (found.warning("f", "g") is None) == (agreed >= 0.95 * audited)


def test_the_command_line_prints_it_and_report_again(
    quick_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in ONE.items()]
    given = ["certify", "--images", "0:5", "--agreement", "0.5", "--quiet", *options]
    assert main([*given, "--out", str(tmp_path / "quick")]) == 0
    printed = capsys.readouterr().out
    assert main(["report", str(tmp_path / "quick")]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == printed.splitlines()[2].split()
    assert "audited votes" in printed
    assert without_time(tmp_path / "quick/agreement.tsv") == without_time(
        quick_run / "agreement.tsv"
    )


def test_parts_of_a_run_are_joined_with_their_agreement(quick_run: Path, tmp_path: Path) -> None:
    parts = []
    for name, images in (("even", "0:5:2"), ("odd", "1:5:2")):
        smooth = SmoothedClassifier("digits", **ONE, agreement=0.5)
        smooth.certify_dataset("digits", images=images, out=tmp_path / name)
        parts.append(read_results(tmp_path / name, "all"))
    whole, joined = read_results(quick_run).agreement, join_parts(parts).agreement
    assert whole is not None
    assert joined is not None
    assert joined.interval() == whole.interval()
    assert sorted(joined.least()) == sorted(whole.least())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: ["idx\tagreed", *lines[1:]],
        lambda lines: [lines[0], "0\t3\t4\t0\t9.0\t0:00:01", *lines[2:]],
        lambda lines: [lines[0], "0\t3\t2\t0\tnan\t0:00:01", *lines[2:]],
        lambda lines: [lines[0], "0\t3", *lines[2:]],
        lambda lines: [*lines, lines[1]],
    ],
    ids=["columns", "more than all", "no number", "short", "twice"],
)
def test_a_damaged_agreement_is_refused_in_a_sentence(
    quick_run: Path, tmp_path: Path, spoil: Callable[[list[str]], list[str]]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(quick_run, folder)
    lines = spoil((folder / "agreement.tsv").read_text().splitlines())
    (folder / "agreement.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=r"agreement\.tsv.*remove it"):
        read_results(folder)


def test_a_run_of_an_older_version_is_named_from_its_parameters(
    quick_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(quick_run, folder)
    (folder / "agreement.tsv").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("classifier", "compared"):
        del manifest["notes"][key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    results = read_results(folder)
    assert results.about == "the 1-evaluation classifier"
    assert (results.compared, results.agreement, results.warning()) == (None, None, None)


def test_an_engine_beside_another_draws_the_same_noise_and_calls_nobody() -> None:
    smooth = SmoothedClassifier("digits", **ONE)
    called: list[int] = []
    smooth.engine.callbacks.append(lambda batch, **more: called.append(more["number"]))
    twin = smooth.engine.beside(smooth.engine.raw, shape=7)
    each = deqcert.smoothing.Input(deqcert.load_dataset("digits").image(0), 0)
    votes = twin.votes(smooth.predictor, each, Stage.ESTIMATE, 60)
    assert not called
    expected = smooth.engine.votes(smooth.predictor, each, Stage.ESTIMATE, 60)
    np.testing.assert_array_equal(votes.predictions, expected.predictions)
