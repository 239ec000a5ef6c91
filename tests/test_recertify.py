"""A changed model certified from old votes: against adversarial changes and planted mistakes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_coverage import too_often
from test_sequences import Luckiest
from toys import ORIGIN, SIGMA, HalfLine, adversaries, reference, warm

from deqcert.certifiers import Certificate
from deqcert.certifiers import audit as audits
from deqcert.certifiers import looks as by_themselves
from deqcert.certifiers.bounds import (
    certified_radius,
    disagreements_upper_bound,
    lower_confidence_bound,
)
from deqcert.certifiers.incremental import Incremental
from deqcert.certifiers.kept_votes import DOUBTS, KeptVotes, doubts
from deqcert.certifiers.looks import Looks, VotesAudit, counted
from deqcert.certifiers.recertified import Recertified
from deqcert.certifiers.registry import RECERTIFIERS, make_from_votes
from deqcert.certifiers.sampling import Sampling, looks
from deqcert.certifiers.sequences import disagreements_upper_sequence, lower_sequences
from deqcert.cli import main
from deqcert.errors import ConfigError, RunError
from deqcert.recertifying import RecertifiedClassifier
from deqcert.report import read_results
from deqcert.runs import Manifest, VotedRun
from deqcert.runs.votes import read_votes, votes_file, write_votes
from deqcert.smoothing import Input, SmoothingEngine, Stage

TRIALS = 2000

lower = functools.cache(lower_confidence_bound)
upper = functools.cache(disagreements_upper_bound)


class RememberedSampling(Sampling):
    """One whose bounds are computed once."""

    p_lower = functools.cache(Sampling.p_lower)  # type: ignore[assignment]


@pytest.fixture(autouse=True, scope="module")
def _remembered() -> Iterator[None]:
    """The same few counts come again thousands of times."""
    with pytest.MonkeyPatch.context() as patch:
        for bound in (
            disagreements_upper_bound,
            disagreements_upper_sequence,
            lower_confidence_bound,
        ):
            patch.setattr(audits, bound.__name__, functools.cache(bound))
        patch.setattr(by_themselves, "lower_confidence_bound", lower)
        patch.setattr(by_themselves, "Sampling", RememberedSampling)
        yield


# --- counts alone: what the old model and the changed one say of the same noise -------------------


@dataclass(frozen=True)
class Change:
    """Two models on n shared noisy copies.

    Attributes:
        old: Whether each sample voted for A.
        new: Whether the changed model gives it A; independent with probability p each.
        doubt: What the old votes say of their own doubt, small first.
        p: Probability of A under the changed model.
    """

    old: np.ndarray
    new: np.ndarray
    doubt: np.ndarray
    p: float

    @property
    def voters(self) -> np.ndarray:
        """The votes for A, the most doubtful first."""
        voters = np.flatnonzero(self.old)
        return voters[np.argsort(self.doubt[voters], kind="stable")]

    @property
    def others(self) -> np.ndarray:
        """The other votes, the most doubtful first."""
        others = np.flatnonzero(~self.old)
        return others[np.argsort(self.doubt[others], kind="stable")]

    @property
    def wrong(self) -> np.ndarray:
        """Which of these the changed model does not share."""
        return ~self.new[self.voters]


def changed(kind: str, n: int, p: float, rng: np.random.Generator) -> Change:
    """Draw a change whose new model has probability p of A, and the worst old model of a kind."""
    new, doubt = rng.random(n) < p, rng.random(n)
    if kind == "nothing changed":
        old = new
    elif kind == "the old model always said A":
        old = np.ones(n, dtype=bool)
    elif kind == "flips where the old votes were sure":
        old, doubt = np.ones(n, dtype=bool), new * -1.0
    elif kind == "flips where the old votes were in doubt":
        old, doubt = np.ones(n, dtype=bool), new * 1.0
    elif kind == "as few flips as the audit will miss":
        old = new.copy()
        old[np.flatnonzero(~new)[: max(1, n // 80)]] = True
    else:
        assert kind == "gains elsewhere"  # old votes for another class that the change mends
        old = new & (rng.random(n) < 0.9)
        doubt = np.where(old | (rng.random(n) < 0.3), doubt, doubt - 1.0)
    return Change(old, new, doubt, p)


CHANGES = [
    "nothing changed",
    "the old model always said A",
    "flips where the old votes were sure",
    "flips where the old votes were in doubt",
    "as few flips as the audit will miss",
    "gains elsewhere",
]
CASES = [(0.9, 300, 80, 0.1), (0.97, 500, 500, 0.05)]


def audited(plan: VotesAudit, change: Change, rng: np.random.Generator) -> float:
    if not len(change.voters):
        return 0.0
    judge = lambda samples: change.new[samples]  # noqa: E731  of this change
    return plan.run(change.voters, change.others, judge, rng, sigma=SIGMA, batch=40).p_lower


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize(("p", "n", "size", "alpha"), CASES)
def test_certificates_of_changed_models_hold_whatever_the_change(kind, p, n, size, alpha):
    """2000 changes of each kind, with a fixed audit and one that stops when it hurts most."""
    for goal in (None, Luckiest(certified_radius(p, SIGMA))):
        rng, plan = np.random.default_rng(len(kind)), VotesAudit(n, size, alpha, goal)
        trials = TRIALS if goal is None else TRIALS // 10
        wrong = sum(audited(plan, changed(kind, n, p, rng), rng) > p for _ in range(trials))
        assert not too_often(wrong, trials, alpha)


def counts_gains_as_if_at_random(change: Change, alpha: float) -> float:
    """Mistake: what the most doubtful others have gained is taken for the rate of all others."""
    some = change.others[: max(1, len(change.others) // 10)]
    gained = int(np.mean(change.new[some]) * len(change.others))
    return lower(min(len(change.old), int(change.old.sum()) + gained), len(change.old), alpha)


def test_gains_count_only_where_they_were_seen():
    n, p, alpha, rng = 300, 0.8, 0.1, np.random.default_rng(8)
    right = wrong = more = 0
    for _ in range(TRIALS // 4):
        new = rng.random(n) < p
        old = new & (rng.random(n) < 0.8)
        change = Change(old, new, np.where(new, -1.0, 1.0), p)  # gains are the most doubtful
        plan = VotesAudit(n, n, alpha)
        found = audited(plan, change, rng)
        right += found > p
        wrong += counts_gains_as_if_at_random(change, alpha) > p
        more += found > lower(int(old.sum()), n, alpha) + 0.05
    assert not too_often(right, TRIALS // 4, alpha)
    assert too_often(wrong, TRIALS // 4, alpha)
    assert more > 0.9 * (TRIALS // 4)


@pytest.mark.parametrize("early", [False, True])
def test_looks_by_themselves_hold_though_doubtful_votes_come_first(early):
    """An audit that looks at half of the votes by their answers first, and may then stop."""
    n, alpha, p, rng = 200, 0.1, 0.8, np.random.default_rng(5)
    wrong, trials = 0, TRIALS // 2
    for _ in range(trials):
        new = rng.random(n) < p
        voters = np.flatnonzero(new | (rng.random(n) < 0.8))
        looks = Looks(n, voters, counted(n, 120), alpha, early, rng)
        chosen = voters[np.argsort(new[voters], kind="stable")][: len(voters) // 2]
        looks.record(chosen, new[chosen])
        values = []
        for at in np.array_split(looks.permutation(len(voters)), 6):
            looks.record(voters[at], new[voters[at]])
            values.append(looks.now())
            assert early or values[-1] <= looks.best()
        wrong += (max(values) if early else values[-1]) > p
    assert not too_often(wrong, trials, alpha)


def test_looks_at_chosen_samples_are_caught():
    """Mistake: the order follows what the changed model says."""
    n, alpha, p, rng = 200, 0.1, 0.8, np.random.default_rng(6)
    wrong = 0
    for _ in range(200):
        new = rng.random(n) < p
        looks = Looks(n, np.arange(n), 120, alpha, False, rng)
        looks._order = np.argsort(~new, kind="stable")
        looks.record(np.arange(n), new)
        wrong += looks.now() > p
    assert too_often(wrong, 200, alpha)


def audits_the_surest(change: Change, size: int, alpha: float, rng: np.random.Generator) -> float:
    """Mistake: selected samples are audited, those that the old votes were surest of."""
    wrong = change.wrong
    found = int(wrong[-size:].sum())
    more = upper(found, min(size, len(wrong)), len(wrong), alpha / 2)
    return lower(len(wrong) - more, len(change.new), alpha / 2)


def trusts_the_old_votes(change: Change, size: int, alpha: float, rng: Any) -> float:
    """Mistake: what changed little is taken for unchanged."""
    return lower(int(change.old.sum()), len(change.old), alpha)


def forgets_the_estimate(change: Change, size: int, alpha: float, rng: Any) -> float:
    """Mistake: the old bound, at the old run's alpha of 0.5, less what all of alpha audits."""
    wrong, n = change.wrong, len(change.new)
    drawn = wrong[rng.permutation(len(wrong))[:size]]
    more = upper(int(drawn.sum()), len(drawn), len(wrong), alpha)
    return lower(len(wrong) - more, n, 0.5)


@pytest.mark.parametrize(
    ("mistake", "kind", "size"),
    [
        (audits_the_surest, "flips where the old votes were in doubt", 80),
        (trusts_the_old_votes, "the old model always said A", 80),
        (forgets_the_estimate, "nothing changed", 300),
    ],
)
def test_planted_mistakes_are_caught(mistake, kind, size):
    """A fixed audit that is stopped as one likes is planted in test_sequences."""
    p, n, alpha = 0.9, 300, 0.1
    rng = np.random.default_rng(1)
    made = [changed(kind, n, p, rng) for _ in range(TRIALS // 4)]
    wrong = sum(mistake(change, size, alpha, rng) > p for change in made)
    assert too_often(wrong, len(made), alpha)


def test_a_class_selected_from_the_votes_themselves_is_caught():
    """Selection from the noise of the estimate: two even classes fail twice as often as alpha."""
    n, alpha, rng = 200, 0.1, np.random.default_rng(2)
    reused = own = 0
    for _ in range(TRIALS):
        new = rng.random(n) < 0.5
        most = new if new.mean() >= 0.5 else ~new
        reused += lower(int(most.sum()), n, alpha) > 0.5
        own += lower(int(new.sum()), n, alpha) > 0.5
    assert too_often(reused, TRIALS, alpha)
    assert not too_often(own, TRIALS, alpha)


def stopped_vote(p: float, n: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Vote until the earlier run has had luck: at some look its bound is above the truth."""
    votes, sampling = rng.random(n) < p, Sampling(n, alpha)
    for look in looks(n, 10):
        if sampling.p_lower(int(votes[:look].sum()), look) > p:
            break
        if lower(int(votes[:look].sum()), look, alpha) > p:  # what hurts a bound for a fixed n
            break
    return votes[:look]


def test_votes_that_stopped_by_what_they_said_are_bounded_by_a_sequence():
    """The old run drew until it was lucky; a bound for a fixed number of votes then fails."""
    p, n, alpha, rng = 0.7, 200, 0.1, np.random.default_rng(3)
    fixed = sequence = 0
    trials = TRIALS // 8
    for _ in range(trials):
        votes = stopped_vote(p, n, alpha, rng)
        change = Change(votes, votes, np.zeros(len(votes)), p)
        fixed += lower(int(votes.sum()), len(votes), alpha) > p
        sequence += audited(VotesAudit(len(votes), n, alpha, None, n), change, rng) > p
    assert too_often(fixed, trials, alpha)
    assert not too_often(sequence, trials, alpha)


def test_the_sequence_grows_with_its_count():
    """What makes a count that is too small a bound that is too small."""
    for n in (30, 400):
        found = lower_sequences(np.arange(n + 1), n, 0.001)
        assert np.all(np.diff(found) >= 0)


# --- the certifiers, on an engine -----------------------------------------------------------------


@dataclass
class Kept:
    """An earlier run whose votes are at hand."""

    engine: SmoothingEngine
    by: Any = field(default_factory=reference)
    n0: int = 10
    n: int = 300
    stopped: bool = False
    independent: bool = True
    classes: int = 2
    identity: Any = field(default_factory=lambda: {"votes_sha256": "x"})
    voted_by: str = "an earlier run"
    place: str = "runs/earlier"

    def votes(self, index: int) -> KeptVotes:
        input = Input(ORIGIN, index)
        counts = self.engine.votes(self.by, input, Stage.SELECT, self.n0).counts
        cast = self.engine.votes(self.by, input, Stage.ESTIMATE, self.n)
        return KeptVotes(int(counts.argmax()), 2, cast.predictions, doubts(cast.margins))


@pytest.mark.parametrize("name", RECERTIFIERS)
@pytest.mark.parametrize("old", [0.8, 0.9, 0.99])
def test_they_hold_on_the_engine(name, old):
    """120 certificates: the changed model has p = 0.85 whatever the old one had."""
    alpha, trials, p = 0.1, 120, 0.85
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=4, batch=300)
    kept = Kept(engine.beside(HalfLine(old), shape=300))
    method = make_from_votes(
        name, reference(), kept, {"n0": 10, "n": 300, "alpha": alpha, "audit": 100}
    )
    made = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
    assert not too_often(sum(c.details.p_lower > p for c in made), trials, alpha)
    assert all(c.method == name and c.details.audited in {0, *range(100, 126)} for c in made)
    assert np.median([c.details.p_lower for c in made]) > 0.6


@pytest.mark.parametrize("which", range(3))
def test_recertified_takes_the_votes_of_any_adversary(which):
    alpha, trials, p = 0.1, 100, 0.85
    engine = SmoothingEngine(HalfLine(p), sigma=SIGMA, seed=which, batch=300)
    kept = Kept(engine, warm(adversaries(HalfLine(p))[which]), independent=False)
    options = {"n0": 10, "n": 300, "alpha": alpha, "audit": 60}
    method = make_from_votes("recertified", reference(), kept, options)
    made = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
    assert not too_often(sum(c.details.p_lower > p for c in made), trials, alpha)
    with pytest.raises(ConfigError, match="needs n independent votes"):
        make_from_votes("incremental", reference(), kept, options).check(engine)


def test_a_goal_stops_the_audit_and_keeps_what_it_asks_for():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, seed=4, batch=50)
    from deqcert.certifiers.goals import Relative

    kept = Kept(engine, n=3000)
    options = {"n0": 10, "n": 3000, "alpha": 0.001}
    whole = make_from_votes("recertified", reference(), kept, {**options, "audit": 3000})
    early = make_from_votes("recertified", reference(), kept, {**options, "goal": Relative(0.1)})
    assert early.parameters()["audit"] == 3000
    a, b = (method.certify(engine, Input(ORIGIN, 0)) for method in (whole, early))
    assert a.details.audited >= a.details.votes
    assert 0.9 * a.radius <= b.radius < a.radius
    assert b.details.audited < 0.5 * a.details.audited
    assert b.nfe < 0.5 * a.nfe


def test_certificates_go_through_json():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, seed=4, batch=300)
    for name in RECERTIFIERS:
        method = make_from_votes(name, reference(), Kept(engine), {"n": 300, "n0": 10})
        made = method.certify(engine, Input(ORIGIN, 0))
        assert Certificate.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        assert "was not chosen by looking" in made.assumptions


def test_published_and_exact_bounds_are_those_of_the_page():
    """n = 100000, 1000 cast again without a disagreement, 0.001 for each of the two parts."""
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA)
    options = {"n0": 10, "n": 100_000, "audit": 1000, "alpha": 0.002}
    published = make_from_votes("incremental", reference(), Kept(engine), options)
    for p, theirs, ours, scratch in (
        (0.7, 0.6886, 0.6907, 0.6567),
        (0.9, 0.8902, 0.8908, 0.8698),
        (0.97, 0.9614, 0.9615, 0.9510),
    ):
        votes = round(p * 100_000)
        assert published.bound(votes, 0) == pytest.approx(theirs, abs=5e-5)
        exact = lower(votes - upper(0, 1000, votes, 0.001), 100_000, 0.001)
        assert exact == pytest.approx(ours, abs=5e-5)
        assert lower(round(1000 * p), 1000, 0.002) == pytest.approx(scratch, abs=5e-5)


def test_no_method_can_say_more_than_its_looks_allow():
    """However votes are reused, K looks without a disagreement cannot rule out a fault rarer."""
    for audit in (100, 1000, 5000):
        best = VotesAudit(10_000, audit, 0.001).best()
        assert 0.001 ** (1.2 / audit) < best < 0.001 ** (1 / audit)


def test_impossible_requests_are_refused():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA)
    kept = Kept(engine)
    with pytest.raises(ConfigError, match="the run holds n=300 votes"):
        make_from_votes("recertified", reference(), kept, {"n": 300, "audit": 301})
    with pytest.raises(ConfigError, match="can certify nothing"):
        make_from_votes("recertified", reference(), kept, {"n": 300, "audit": 5})
    with pytest.raises(ConfigError, match="chains its samples"):
        warmed = warm(adversaries(HalfLine(0.9))[0])
        make_from_votes("recertified", warmed, kept, {"n": 300})
    with pytest.raises(ConfigError, match="has no option 'goal'"):
        make_from_votes("incremental", reference(), kept, {"n": 300, "goal": "budget"})
    with pytest.raises(ConfigError, match="2 classes, but the votes of the run are for 3"):
        method = make_from_votes("recertified", reference(), Kept(engine, classes=3), {"n": 300})
        method.certify(engine, Input(ORIGIN, 0))


# --- run folders ----------------------------------------------------------------------------------

SMALL = "--model digits --images 0:3 --n0 20 --n 300 --threads 1 --quiet"


def deqcert(line: str) -> int:
    return main(line.split())


def without_time(folder: str) -> list[list[str]]:
    lines = Path(folder, "certificates.tsv").read_text().splitlines()
    return [line.split("\t")[:5] + line.split("\t")[6:] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs that keep their votes, which is the current one meanwhile."""
    place = tmp_path_factory.mktemp("recertify")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert deqcert(f"certify {SMALL} --keep-votes --out kept") == 0
        yield place


@pytest.mark.parametrize(
    "how", ["", "--start previous --steps 2 --audit 50", "--goal radii=0,0.1 --batch 50"]
)
def test_votes_are_the_same_bytes_whenever_they_are_kept(how, folder, tmp_path, capsys):
    first = f"certify {SMALL} {how} --agreement 0 --out"
    assert deqcert(f"{first} {tmp_path}/with --keep-votes") == 0
    assert deqcert(f"{first} {tmp_path}/later") == 0
    before = Path(tmp_path, "later", "manifest.json").read_bytes()
    assert not Path(tmp_path, "later", "votes").exists()
    assert deqcert(f"{first} {tmp_path}/later --keep-votes") == 0
    assert without_time(f"{tmp_path}/with") == without_time(f"{tmp_path}/later")
    for run in ("with", "later"):
        assert Path(tmp_path, run, "manifest.json").read_bytes() == before
    for index in range(3):
        files = [votes_file(tmp_path / run, index).read_bytes() for run in ("with", "later")]
        assert files[0] == files[1]
        VotedRun(tmp_path / "with").votes(index)  # those that the journal counts


def test_the_same_model_is_recertified_without_a_disagreement(folder, capsys):
    assert deqcert("recertify kept --audit 300 --out again --quiet") == 0
    assert "0 of them changed" in capsys.readouterr().out
    results, before = read_results("again"), read_results("kept")
    assert np.all(results.predict == before.predict)
    assert np.all(results.radius > 0.9 * before.radius)
    manifest = Manifest.read(folder / "again")
    assert manifest is not None
    assert manifest.parameters["parent"]["certificates_sha256"] == VotedRun("kept")._hash
    assert manifest.notes["parent"] == "kept"
    assert deqcert("report kept again") == 0
    assert "recertified sigma=0.25 n=300" in capsys.readouterr().out


def test_a_recertification_goes_on_where_it_stopped(folder, tmp_path):
    line = "recertify kept --depth 12 --audit 60 --quiet --out"
    assert deqcert(f"{line} {tmp_path}/whole") == 0
    assert deqcert(f"{line} {tmp_path}/cut") == 0
    journal = tmp_path / "cut" / "certificates.tsv"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:9])
    assert deqcert(f"{line} {tmp_path}/cut") == 0
    assert without_time(f"{tmp_path}/cut") == without_time(f"{tmp_path}/whole")


def test_changes_of_all_kinds_are_taken_from_the_run(folder, tmp_path, capsys):
    for change, about in (
        ("--depth 5 --tol 0", "the 5-evaluation classifier"),
        ("--form eager", "the converged model"),
        ("--method incremental --audit 250", "incremental sigma=0.25"),
        ("--goal relative=0.1 --images 1:3", "2"),
        ("--alpha-total 0.01", "recertified"),
    ):
        out = tmp_path / change.replace(" ", "_")
        assert deqcert(f"recertify kept {change} --quiet --out {out}") == 0
        assert about in capsys.readouterr().out
        assert len(read_results(out)) == (2 if "--images" in change else 3)
    smooth = RecertifiedClassifier.of_run("kept", form="eager", audit=100)
    results = smooth.certify_dataset("digits", images="0:1", out=tmp_path / "python")
    assert results.facts["method"] == "recertified"


def test_a_run_of_another_machine_and_torch_is_told_and_recertified(folder, tmp_path, capsys):
    import shutil

    shutil.copytree("kept", tmp_path / "elsewhere")
    file = tmp_path / "elsewhere" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["environment"] |= {"torch": "2.5.0", "cpu": "another"}
    file.write_text(json.dumps(manifest))
    assert deqcert(f"recertify {tmp_path}/elsewhere --images 0:1 --quiet --audit 60") == 0
    said = capsys.readouterr().err
    assert "torch was 2.5.0 when" in said
    assert "cpu was another when" in said


def test_a_run_of_audited_votes_passes_on_its_reference(folder, tmp_path, capsys):
    line = f"certify {SMALL} --start previous --steps 2 --audit 50 --keep-votes"
    assert deqcert(f"{line} --out {tmp_path}/warm") == 0
    assert deqcert(f"recertify {tmp_path}/warm --quiet --audit 300") == 0
    assert "the converged model (to 0.001)" in capsys.readouterr().out
    deqcert(f"recertify {tmp_path}/warm --quiet --audit 200 --method incremental --out x")
    assert "needs n independent votes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kept --sigma 0.5", "sigma is 0.5, but the votes of kept were cast at sigma 0.25"),
        ("kept --split train", "is not the data that kept voted on"),
        ("kept --data npz:other.npz", "is not the data that kept voted on"),
        ("kept --images 2:4", "image 3 is none of kept, which has 0:3:1"),
        ("kept --audit 301", "audit is 301, but the run holds n=300 votes"),
        ("kept --start previous", "chains its samples"),
        ("kept --model seven.pth", "the changed model has 7 classes"),
        ("kept --out kept", "--out kept is the run itself"),
        ("kept --goal radii=9", "not even a unanimous vote certifies it"),
        ("kept --method incremental --goal radii=0.1", "has no option 'goal'"),
        ("bare", "bare does not keep its votes"),
        ("proofs", "proves without noise, so there are no votes"),
        ("again2", "was recertified itself and holds no votes of its own"),
        ("torn", "is not a finished run of deqcert certify"),
        ("spoilt", "votes where the run counted"),
        ("damaged", "is damaged; delete it and give its deqcert certify command again"),
        (".", "is no run folder"),
    ],
)
def test_what_cannot_be_recertified_is_refused_in_a_sentence(line, said, runs, capsys):
    assert deqcert(f"recertify {line}{'' if '--out' in line else ' --out new'} --quiet") == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """Runs beside the one that can be recertified."""
    import shutil

    import torch

    from deqcert.models import load_model

    assert deqcert(f"certify {SMALL} --out bare") == 0
    assert deqcert("recertify kept --images 0:1 --audit 60 --out again2 --quiet") == 0
    pixels = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8)) / 16
    np.savez(folder / "other.npz", x=pixels.astype(np.float32), y=np.arange(5))
    seven = load_model("digits")
    config = seven.config.to_yaml().replace("NUM_CLASSES: 10", "NUM_CLASSES: 7")
    (folder / "seven.yaml").write_text(config)
    state = {
        key: value[:7] if value.shape[:1] == (10,) else value
        for key, value in seven.state_dict().items()
    }
    torch.save(state, folder / "seven.pth")
    for name in ("torn", "spoilt", "damaged"):
        shutil.copytree(folder / "kept", folder / name)
    journal = folder / "torn" / "certificates.tsv"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    file = votes_file(folder / "spoilt", 0)
    held = read_votes(file)
    write_votes(file, KeptVotes(held.selected, 10, held.predictions * 0 + 3, held.doubt))
    votes_file(folder / "damaged", 0).write_bytes(b"PK\x03\x04 no archive")
    manifest = json.loads((folder / "kept" / "manifest.json").read_text())
    parameters = {**manifest["parameters"], "method": "lipschitz"}
    del parameters["predictor"]
    (folder / "proofs").mkdir()
    (folder / "proofs" / "manifest.json").write_text(
        json.dumps({**manifest, "parameters": parameters})
    )
    return folder


def test_methods_without_votes_cannot_keep_them(tmp_path, capsys):
    line = f"certify {SMALL} --method enclosed --keep-votes --out {tmp_path}/x"
    assert deqcert(line) == 2
    assert "method 'enclosed' has no votes that could be kept" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_damaged_votes_are_refused_whatever_is_wrong(tmp_path):
    good = KeptVotes(1, 3, np.array([1, -1, 2], dtype=np.int16), np.zeros(3, dtype=np.uint8))
    path = tmp_path / "votes" / "0.npz"
    write_votes(path, good)
    found = read_votes(path)
    assert (found.selected, found.votes, found.voters.tolist()) == (1, 1, [0])
    content = path.read_bytes()
    for bad in (b"", content[:50], content[:-30], b"\x00" * 100, b"{}"):
        path.write_bytes(bad)
        with pytest.raises(RunError, match="is damaged"):
            read_votes(path)
    write_votes(path, KeptVotes(5, 3, good.predictions, good.doubt))
    with pytest.raises(RunError, match="classes that there are not"):
        read_votes(path)


def test_doubts_are_ranks_in_so_many_steps():
    margins = np.random.default_rng(0).random(1000)
    found = doubts(margins)
    assert found.min() == 0
    assert found.max() == DOUBTS - 1
    assert np.all(np.diff(found[np.argsort(margins)].astype(int)) >= 0)
    assert doubts([]).shape == (0,)


def test_a_unanimous_audit_of_all_votes_is_nearly_the_radius_from_scratch():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA)
    method = Recertified(reference(), parent=Kept(engine), n=300, audit=300, n0=10)
    assert method.best_p_lower() > lower(300, 300, 0.0004)
    assert Incremental(reference(), parent=Kept(engine), n=300, audit=300).best_p_lower() < (
        method.best_p_lower()
    )
