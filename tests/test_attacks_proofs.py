"""Proofs are attacked in their own norm, and one that is too large is contradicted by a proof."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqcert.attacks import ATTACKS, Target, get_attack
from deqcert.attacks.ball import Ball, distances, project, steepest
from deqcert.attacks.base import margin
from deqcert.attacks.evaluation import CertifiedImage, Group, ProvenEvaluation
from deqcert.attacks.pgd import pgd
from deqcert.certifiers import CERTIFIERS, Certificate, Norm
from deqcert.certifiers.certificate import NORMS
from deqcert.certifiers.lipschitz import Lipschitz
from deqcert.cli import main
from deqcert.data.base import ArrayDataset
from deqcert.errors import ConfigError, DataError
from deqcert.models import IntervalConfig, MonotoneConfig, architecture, with_head
from deqcert.models.quadratic import Quadratics
from deqcert.proofs.enclosure import UNPROVEN, Enclosure
from deqcert.report.attacks import attack_table, read_attacks
from deqcert.report.tables import radii_until
from deqcert.smoothing import Input, Predictor
from deqcert.solvers import StopRule, get_solver

SHAPE = (1, 4, 4)
PAIRS = [(name, norm) for name in ATTACKS for norm in NORMS]
KNOWN = [(name, norm) for name, norm in PAIRS if norm in get_attack(name).norms]
SHORT: dict[str, Any] = {"steps": 4, "draws": 2}


@functools.cache
def network() -> Any:
    """A small monotone network whose logits differ visibly between images."""
    torch.manual_seed(0)
    config = MonotoneConfig(
        width=10, num_classes=4, image_size=SHAPE[1:], mean=(0.4,), std=(0.3,), monotone=0.5
    )
    model = config.build().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(2.0)
    return model


def images(seed: int, rows: int = 4) -> Tensor:
    """Images with pixels at the limits too."""
    generator = torch.Generator().manual_seed(seed)
    return (1.4 * torch.rand((rows, *SHAPE), generator=generator) - 0.2).clamp(0.0, 1.0)


def short(name: str) -> Any:
    found = get_attack(name)
    return found.with_options(**{option: SHORT[option] for option in found.options})


def target(name: str) -> Target:
    predictor = Predictor(get_solver("anderson"), StopRule(tol=1e-4, max_nfe=30))
    return Target(network(), predictor, 0.25 if get_attack(name).smoothed else None)


# Balls.


@given(st.integers(0, 10_000), st.floats(0.0, 1.5), st.floats(0.01, 100.0))
@settings(max_examples=25)
def test_a_projection_onto_a_box_is_in_it_and_nearest(
    seed: int, radius: float, spread: float
) -> None:
    x, radii = images(seed), torch.full((4,), radius, dtype=torch.float64)
    points = x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    found = project(points, x, radii, "linf")
    assert found.dtype == x.dtype and ((found >= 0) & (found <= 1)).all()
    assert (distances(found, x, "linf") <= radii).all()
    wanted = points.double().clamp(x.double() - radius, x.double() + radius).clamp(0, 1)
    assert torch.allclose(found.double(), wanted, atol=1.3e-7)
    assert torch.equal(project(found, x, radii, "linf"), found)


def test_the_steepest_step_is_the_dual_of_its_norm() -> None:
    gradients = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [torch.nan, 1.0, 1.0]])
    assert steepest(gradients, "linf").tolist() == [[1, -1, 0], [0, 0, 0], [0, 0, 0]]
    assert steepest(gradients, "l2")[0].tolist() == pytest.approx([0.6, -0.8, 0.0])


@given(st.integers(0, 10_000), st.floats(0.01, 0.5))
@settings(max_examples=10)
def test_pgd_finds_the_optimum_of_a_linear_loss_in_a_box(seed: int, radius: float) -> None:
    x, w = images(seed), torch.randn(16, generator=torch.Generator().manual_seed(seed))
    found = pgd(lambda points: points.flatten(1) @ w, x, radius=radius, steps=5, norm="linf")
    best = (x.flatten(1) + radius * w.sign()).clamp(0, 1) @ w
    assert torch.allclose(found.flatten(1) @ w, best, atol=1e-4)


def test_a_ball_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm is 'l1', but it must be one of l2, linf"):
        Ball(images(0), 0.1, "l1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 0"):
        Ball(images(0), -0.1, "linf")
    with pytest.raises(DataError, match="outside"):
        Ball(images(0) + 1.0, 0.1, "linf")


# Every attack, in every norm.


@pytest.mark.parametrize(
    ("name", "norm"),
    [(n, norm) for n, norm in KNOWN if norm == "linf" or not get_attack(n).smoothed],
)
def test_it_stays_in_its_ball_and_is_never_worse_than_its_start(name: str, norm: Norm) -> None:
    attack, x, aim = short(name), images(5), target(name)
    y, rows = torch.tensor([0, 1, 2, 3]), [3, 1, 4, 9]
    radii = torch.tensor([0.3, 0.0, 0.011, 1.3], dtype=torch.float64)
    found = attack.run(aim, x, y, rows, radius=radii, norm=norm)
    assert found.shape == x.shape and ((found >= 0) & (found <= 1)).all()
    assert (distances(found, x, norm) <= radii).all()
    scores = attack.view.scores(aim, rows)
    with torch.no_grad():
        assert (margin(scores(found), y) >= margin(scores(x), y)).all()


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_an_attack_says_which_norms_it_knows(name: str, norm: Norm) -> None:
    if (name, norm) not in KNOWN:
        with pytest.raises(ConfigError, match=f"attack '{name}' knows balls of l2 only, not of"):
            short(name).run(target(name), images(0), torch.arange(4), [0] * 4, radius=1, norm=norm)
    assert {"pgd-implicit", "apgd-implicit", "random"} <= {n for n, norm in KNOWN if norm == "linf"}


@pytest.mark.parametrize("name", [n for n in ATTACKS if get_attack(n).smoothed])
def test_an_attack_that_needs_noise_is_refused_where_there_is_none(name: str) -> None:
    aim = dataclasses.replace(target(name), sigma=None)
    with pytest.raises(ConfigError, match="climbs on a smoothed classifier"):
        short(name).run(aim, images(0), torch.arange(4), [0] * 4, radius=0.1)


# Certificates held against attacks.


@dataclass(frozen=True)
class Boxes(Lipschitz):
    """Prove a box by the l2 ball around it, times a factor that is 1 in a sound certificate."""

    name: ClassVar[str] = "toy-boxes"
    norm: ClassVar[Norm] = "linf"

    def certify(self, subject: Any, input: Any) -> Certificate:
        """Certify one input."""
        found = super().certify(subject, input)
        pixels = float(np.size(input.x))
        return dataclasses.replace(found, radius=found.radius / pixels**0.5)


@pytest.fixture(scope="module", autouse=True)
def boxes() -> Iterator[None]:
    """A certifier for linf, from outside the package."""
    CERTIFIERS.register("toy-boxes", Boxes)
    yield
    CERTIFIERS.unregister("toy-boxes")


PROVING = [
    name for name in CERTIFIERS if not CERTIFIERS.get(name).noise and CERTIFIERS.get(name).sound
]
METHODS = (*PROVING, Boxes.name)
SAYS = {name: CERTIFIERS.get(name).norm for name in PROVING} | {Boxes.name: Boxes.norm}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, six images, and two runs of proofs."""
    folder = tmp_path_factory.mktemp("proofs")
    model = network()
    torch.save(model.state_dict(), folder / "net.pth")
    (folder / "net.yaml").write_text(model.config.to_yaml())
    own = model.readout_matrix(), model.Wout.bias.double()  # the same classifier, as a fitted head
    headed = with_head(model, Quadratics(torch.zeros_like(own[0]), None, *own))
    torch.save(headed.state_dict(), folder / "headed.pth")
    (folder / "headed.yaml").write_text(headed.config.to_yaml())
    x = images(1, 12)[[7, 0, 2, 4, 6, 9]]
    classes = Enclosure(model).solve(x, tol=1e-10, depth=200).best.numpy()
    np.savez(folder / "images.npz", x=x.numpy(), y=classes)
    for method in METHODS:
        given = (
            f"certify --model {folder}/{'headed' if method == 'latent' else 'net'}.pth "
            f"--data npz:{folder}/images.npz --method {method} "
            f"--out {folder}/{method} --threads 1 --quiet"
        )
        assert main(given.split()) == 0
    return folder


TIGHT = ("lipschitz", "zonotope")
"""Methods whose radii are so near to the truth that twice of them is refuted."""


def scaled(run: Path, to: Path, factor: float) -> Path:
    """A copy of a run whose radii claim something else."""
    shutil.copytree(run, to)
    lines = (to / "certificates.tsv").read_text().splitlines()
    at = lines[0].split("\t").index("radius")
    for i, line in enumerate(lines[1:], start=1):
        cells = line.split("\t")
        cells[at] = f"{factor * float(cells[at]):.6f}"
        lines[i] = "\t".join(cells)
    (to / "certificates.tsv").write_text("\n".join(lines) + "\n")
    return to


BRIEF = "--attack apgd-implicit:steps=8 --attack random:steps=2"


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_found_inside_true_radii(
    method: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "attacks"
    given = ["attack", str(place / method), *BRIEF.split(), "--out", str(out), "--quiet"]
    assert main(given) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "certificates held against 2 attacks (a class counts as another only where" in said.out
    assert f"radius: {SAYS[method]}, [0,1] pixels" in said.out
    found = read_attacks(out)
    assert (found.ball, found.smoothed, found.base) == (SAYS[method], False, {})
    assert found.certified.all() and not found.alarms
    for name, norm in found.norm.items():
        assert (norm > found.radius).all()
        assert ((found.lead[name] >= -1.0) & (found.lead[name] < 0.0)).all()
        assert name == "random" or (found.lead[name] > -1.0).all()
    # Beyond the radii another class is found, and the accuracy that is left is an upper bound.
    assert np.isfinite(found.smallest).any()
    assert "votes" not in attack_table(found, [0.0, 0.1])


def test_a_worker_holds_attacks_against_proofs_as_this_process_does(
    place: Path, tmp_path: Path
) -> None:
    planted = scaled(place / "lipschitz", tmp_path / "planted", 2.0)
    found = []
    for out, more in (("here", ""), ("there", "--workers 1")):
        given = f"attack {planted} {BRIEF} --images 0:3 --quiet --out {tmp_path / out} {more}"
        assert main(given.split()) == 1
        lines = (tmp_path / out / "attacks.tsv").read_text().splitlines()
        at = lines[0].split("\t").index("time")
        rows = [[*cells[:at], *cells[at + 1 :]] for cells in (line.split("\t") for line in lines)]
        files = sorted((tmp_path / out / "alarms").iterdir())
        alarms = {file.name: np.load(file)["x"].tobytes() for file in files}
        found.append((rows, alarms))
    assert found[0] == found[1]
    assert found[0][1]


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_proof_is_contradicted_and_the_point_can_be_proven_again(
    method: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = scaled(place / method, tmp_path / "planted", 2.0 if method in TIGHT else 6.0)
    brief = "--attack apgd-implicit:steps=8 --images 0:3 --quiet"
    assert main(["attack", str(planted), *brief.split()]) == 1
    said = capsys.readouterr().out
    assert "ALARM: image" in said and "proven, its logit leads by more than" in said
    assert f"norm {SAYS[method]}, seed 0" in said
    files = sorted((tmp_path / "planted-attacks" / "alarms").glob("*-apgd-implicit.npz"))
    assert files
    enclosure = Enclosure(network())
    for file in files:
        with np.load(file) as alarm:
            x, original = (torch.from_numpy(alarm[key]) for key in ("x", "original"))
            assert distances(x, original[None], SAYS[method])[0] <= float(alarm["radius"])
            proven = enclosure.solve(x, tol=1e-12, depth=500).classes
            assert proven.tolist() == [int(alarm["found"])] != [int(alarm["answer"])]


def test_halved_constants_are_caught(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from deqcert.proofs import margins

    real = margins.kept_constants

    def halves(*given: Any) -> Any:
        found = real(*given)
        return dataclasses.replace(found, bounds=found.bounds / 2)

    monkeypatch.setattr(margins, "kept_constants", halves)
    monkeypatch.setattr(margins, "_KNOWN", margins.Known())
    given = (
        f"certify --model {place}/net.pth --data npz:{place}/images.npz --method lipschitz "
        f"--out {tmp_path}/run --images 0:2 --threads 1 --quiet"
    )
    assert main(given.split()) == 0
    assert main(f"attack {tmp_path}/run --attack pgd-implicit:steps=8 --quiet".split()) == 1
    assert "ALARM" in capsys.readouterr().out


def test_a_class_that_the_certificate_does_not_name_is_contradicted_at_the_image() -> None:
    model, x = network(), images(1, 1)
    best = int(Enclosure(model).solve(x, tol=1e-10, depth=200).best)
    dataset = ArrayDataset("one", list("abcd"), x.numpy(), np.array([best]), "one")
    image = CertifiedImage(0, (best + 1) % 4, 0.01)
    attacks = [short("random")]
    evaluation = ProvenEvaluation.of_run(model, attacks, [image], norm="linf", reach=0.1)
    (outcome,) = evaluation.outcomes(Group.of([image], dataset))
    assert outcome.numbers == {"norm:random": 0.0, "lead:random": 1.0}
    assert [alarm.counterexample.verdict.leader for alarm in outcome.alarms] == [best]


def test_an_answer_that_is_not_proven_contradicts_nothing() -> None:
    model, x = network(), images(1, 3)
    enclosure = Enclosure(model)
    leads = enclosure.solve(x, tol=1e-10, depth=200)
    assert (leads.classes == leads.best).all()
    rough = enclosure.solve(x, tol=0.5, depth=1)
    assert (rough.classes == UNPROVEN).all()


# Bad input is one sentence.


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("toy-boxes", "--attack ddn", "attack 'ddn' knows balls of l2 only, not of linf"),
        ("toy-boxes", "--attack square", "knows balls of l2 only"),
        ("lipschitz", "--attack smoothadv-pgd", "climbs on a smoothed classifier"),
        ("lipschitz", "--n 500", "--n is about noise, and the certificates of"),
        ("lipschitz", "--alpha 0.1", "--alpha is about noise"),
        ("lipschitz", "--reach 0", "reach is 0"),
        ("lipschitz", "--start learned:x", "leave --start out"),
    ],
)
def test_mistakes_are_one_sentence(
    method: str, more: str, words: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    given = ["attack", str(place / method), "--out", str(tmp_path / "out"), *more.split()]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said
    assert not (tmp_path / "out").exists()


def test_norms_stand_in_one_table_only_apart(place: Path, capsys: Any) -> None:
    assert main(["report", str(place / "lipschitz"), str(place / "toy-boxes")]) == 2
    assert "radii of different norms do not compare" in capsys.readouterr().err
    assert main(["report", str(place / "toy-boxes")]) == 0
    assert "radius: linf, [0,1] pixels" in capsys.readouterr().out


def test_images_that_are_not_finite_are_refused(place: Path, tmp_path: Path, capsys: Any) -> None:
    x = images(0, 2).numpy()
    x[1, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x=x, y=np.zeros(2, dtype=np.int64))
    given = f"certify --model {place}/net.pth --data npz:{tmp_path}/nan.npz --method lipschitz"
    assert main([*given.split(), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pixels that are not finite" in said


def test_an_interval_model_is_attacked_like_the_others() -> None:
    torch.manual_seed(0)
    config = IntervalConfig(width=6, num_classes=3, image_size=(4, 4), monotone=0.5)
    model = config.build().eval()
    certifier, x = CERTIFIERS.get("interval")(), images(3, 3)
    made = [certifier.certify(model, Input(one, i)) for i, one in enumerate(x.numpy())]
    sound = [CertifiedImage(i, one.prediction, one.radius) for i, one in enumerate(made)]
    dataset = ArrayDataset("three", list("abc"), x.numpy(), np.zeros(3, dtype=np.int64), "three")
    for factor, broken in ((1.0, False), (10.0, True)):
        claimed = [dataclasses.replace(one, radius=factor * one.radius) for one in sound]
        evaluation = ProvenEvaluation.of_run(model, [short("pgd-implicit")], claimed, norm="linf")
        outcomes = evaluation.outcomes(Group.of(claimed, dataset))
        assert any(outcome.alarms for outcome in outcomes) == broken
        assert [outcome.base for outcome in outcomes] == [one.prediction for one in made]


def test_a_model_that_proves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the attack of a proof needs a model whose residual"):
        ProvenEvaluation.of_run(
            architecture("tiny").build().eval(),
            [get_attack("random")],
            [CertifiedImage(0, 0, 0.1)],
            norm="l2",
        )


@pytest.mark.parametrize(
    ("largest", "radii"),
    [
        (0.07, [0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]),
        (0.3, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (8 / 255, [0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03]),
        (1.0, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (0.0, [0, 0.01]),
    ],
)
def test_tables_in_linf_have_about_ten_round_radii(largest: float, radii: list[float]) -> None:
    assert list(radii_until(largest, "linf")) == pytest.approx(radii)


# A plan.


def test_a_plan_for_a_proof_says_what_it_takes_and_what_it_does_not(
    place: Path, capsys: Any
) -> None:
    given = (
        f"plan --model {place}/net.pth --data npz:{place}/images.npz --images 0:3 --threads 1 "
        "--method lipschitz"
    )
    assert main([*given.split(), "--radii", "0,0.1"]) == 0
    said = capsys.readouterr().out
    assert "method lipschitz (l2): no noise, alpha 0; it needs no sigma" in said
    assert "(measured on 3); all 6 of" in said and "proven on 3 images: 100% at 0" in said
    for more, words in (
        ("--sigma 0.25 --n 7", "method 'lipschitz' draws no noise; leave --n, --sigma out"),
        ("--pilot 5", "leave --pilot out"),
        ("--method standard", "leave --method standard out"),
        ("--method-option bound=none", "bound is 'none'"),
    ):
        assert main([*given.split(), *more.split()]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and words in said, said


def test_a_run_names_the_constants_that_it_used(place: Path) -> None:
    notes = json.loads((place / "lipschitz" / "manifest.json").read_text())["notes"]
    assert notes["constants"]["file"] == str(place / "net.lipschitz.json")
    assert notes["constants"]["rule"] == "multiplier" and len(notes["constants"]["sha256"]) == 64
