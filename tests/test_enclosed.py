"""Proven equilibria: the bounds hold, a proof is never wrong, and planted mistakes are seen."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_coverage import too_often
from toys import ORIGIN, SIGMA, AlwaysFirst, HalfLine, adversaries, reference, warm

from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.errors import ConfigError
from deqcert.models import (
    ContractiveConfig,
    ContractiveDEQ,
    EnclosedModel,
    architecture,
    load_model,
    read_config,
)
from deqcert.models.spectral import rounding_constant, spectral_norm_bound
from deqcert.proofs import enclosure
from deqcert.proofs.enclosure import Enclosure
from deqcert.smoothing import NO_VOTE, Input, Predictor, SmoothingEngine
from deqcert.smoothing.proven import proven_votes
from deqcert.solvers import SOLVERS, StopRule, get_solver
from deqcert.starts import get_start

TRAINING = "--epochs 12 --lr 0.02 --pretrain 0.5 --augment none --jacobian-weight 0 --threads 1"


class ProvenHalfLine(HalfLine):
    """A half line that knows that its cell contracts by 0.999; its bounds are tight."""

    def rounding(self, z, injection):
        size = 16 * 2.0**-53 * (z.abs() + injection.abs() + abs(self.threshold)).sum(dim=1)
        return size, size

    def error_bound(self, residual):
        return residual.double() / 1e-3 * (1 + 1e-9)

    def readout_lipschitz(self):
        return torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)


def contractive(seed: int, width: int, factor: float, classes: int = 4) -> ContractiveDEQ:
    """Random weights with a spectral norm just below the factor."""
    torch.manual_seed(seed)
    model = ContractiveDEQ(
        ContractiveConfig(width=width, factor=factor, num_classes=classes, image_size=(2, 3))
    )
    with torch.no_grad():
        model.weight.copy_(torch.randn(width, width))
        model.inject(torch.zeros(1, 1, 2, 3))  # in training: back into the ball
        model.classifier.weight.mul_(5.0)
    return model.eval()


def equilibrium(model: ContractiveDEQ, injection: torch.Tensor) -> torch.Tensor:
    """Iterate in float64 until only rounding is left."""
    exact = enclosure.in_float64(model)
    z = exact.initial_state(injection.double())
    with torch.no_grad():
        for _ in range(math.ceil(math.log(1e-18) / math.log(model.factor()))):
            z = exact.cell(z, injection.double())
    return z


# --- the bounds -----------------------------------------------------------------------------------


@given(
    left=st.lists(st.integers(-1000, 1000), min_size=1, max_size=12),
    right=st.lists(st.integers(-1000, 1000), min_size=1, max_size=12),
    scale=st.integers(-140, 100),
)
def test_spectral_bound_is_above_the_exact_norm_of_rank_one(left, right, scale):
    """||u v^T||^2 = |u|^2 |v|^2 is a whole number: no reference is rounded."""
    matrix = torch.tensor(np.outer(left, right), dtype=torch.float64) * 2.0**scale
    exact = Fraction(sum(v * v for v in left) * sum(v * v for v in right)) * Fraction(2) ** (
        2 * scale
    )
    bound = spectral_norm_bound(matrix)
    assert Fraction(bound) ** 2 >= exact
    assert float(Fraction(bound) ** 2) <= 1.001 * float(exact)


@given(seed=st.integers(0, 10**6), m=st.integers(1, 40), n=st.integers(1, 40))
def test_spectral_bound_is_tight(seed, m, n):
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    found = float(np.linalg.norm(matrix.double().numpy(), 2))
    assert found * (1 - 1e-13) <= spectral_norm_bound(matrix) <= found * 1.001


def test_spectral_bound_of_special_matrices():
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(5):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
        # All singular values are equal: the Frobenius norm is furthest from the spectral one.
        assert (
            len(hadamard) <= Fraction(spectral_norm_bound(hadamard)) ** 2 <= 1.001 * len(hadamard)
        )
    assert spectral_norm_bound(torch.zeros(3, 4)) == 0.0
    assert spectral_norm_bound(torch.full((2, 2), torch.nan)) == float("inf")
    for size in (1e-300, 1e300):
        bound = spectral_norm_bound(torch.full((3, 3), size, dtype=torch.float64))
        assert 3 * size * (1 - 1e-15) <= bound <= 3.01 * size


def exact_cell(model: ContractiveDEQ, z, u) -> list[Fraction]:
    weight = [[Fraction(w) for w in row] for row in model.weight.tolist()]
    z, u = ([Fraction(v) for v in row.tolist()] for row in (z, u))
    sums = [sum(w * v for w, v in zip(row, z, strict=True)) for row in weight]
    return [max(Fraction(0), s + v) for s, v in zip(sums, u, strict=True)]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-3, 1.0, 1e5]))
def test_rounding_covers_the_exact_cell_and_readout(seed, size):
    """Fractions: what float64 computes differs from the exact value by less than the bound."""
    model = contractive(seed, 6, 0.9)
    exact = enclosure.in_float64(model)
    z = size * torch.randn(1, 6, dtype=torch.float64)
    u = size * torch.randn(1, 6).double()
    with torch.no_grad():
        in_cell, in_logits = exact.rounding(z, u)
        computed, logits = exact.cell(z, u)[0].tolist(), exact.readout(z)[0].tolist()
    true = exact_cell(model, z[0], u[0])
    error = sum((Fraction(a) - b) ** 2 for a, b in zip(computed, true, strict=True))
    assert error <= Fraction(in_cell.item()) ** 2
    assert in_cell < 1e-12 * (1 + size)
    rows, bias = model.classifier.weight.tolist(), model.classifier.bias.tolist()
    state = [Fraction(v) for v in z[0].tolist()]
    truth = [
        sum(Fraction(w) * v for w, v in zip(row, state, strict=True)) + Fraction(b)
        for row, b in zip(rows, bias, strict=True)
    ]
    for i, j in ((0, 1), (2, 3), (3, 0)):
        difference = Fraction(logits[i] - logits[j]) - (truth[i] - truth[j])
        assert abs(difference) <= Fraction(in_logits.item())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 24),
    factor=st.sampled_from([0.3, 0.9, 0.99]),
)
def test_the_equilibrium_is_within_the_bound_of_every_iterate(seed, width, factor):
    model = contractive(seed, width, factor)
    assert isinstance(model, EnclosedModel)
    assert model.factor() <= factor
    u = torch.randn(8, width)
    star = equilibrium(model, u)
    exact = enclosure.in_float64(model)
    z = 10 * torch.randn(8, width)
    tight = 0.0
    for _ in range(60):
        with torch.no_grad():
            wide = z.double()
            in_cell, _ = exact.rounding(wide, u.double())
            residual = torch.linalg.vector_norm(exact.cell(wide, u.double()) - wide, dim=1)
            bound = exact.error_bound(residual + in_cell)
            distance = torch.linalg.vector_norm(wide - star, dim=1)
            assert (distance <= bound + 1e-14).all()
            far = distance > 1e-3
            if far.any():
                tight = max(tight, (distance / bound)[far].max().item())
            z = model.cell(z, u)  # float32, as votes are cast
    assert tight > 0.2 * (1 - factor), "a bound that is never nearly reached would be a bug too"


def test_readout_lipschitz_is_the_distance_of_the_rows():
    model = contractive(0, 5, 0.9)
    found = model.readout_lipschitz()
    rows = model.classifier.weight.detach().double()
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.cdist(rows, rows), rtol=1e-6)
    assert (found >= torch.cdist(rows, rows) * (1 - 1e-12)).all()


def test_the_factor_follows_the_weight():
    model = contractive(0, 8, 0.9)
    before = model.factor()
    with torch.no_grad():
        model.weight.mul_(0.5)
    assert model.factor() == pytest.approx(before / 2)
    assert rounding_constant(10) > 10 * 2.0**-53


# --- proofs ---------------------------------------------------------------------------------------


def near_boundaries(model: ContractiveDEQ, rows: int, classes: int) -> torch.Tensor:
    """Injections whose equilibria are as often as possible close to two classes."""
    u = torch.randn(rows, model.config.width)
    z = equilibrium(model, u)
    with torch.no_grad():
        top = enclosure.in_float64(model).readout(z).topk(2, dim=1).values
        order = (top[:, 0] - top[:, 1]).argsort()
    return u[order[: rows // 2]]


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), solver=st.sampled_from(SOLVERS.names()))
def test_a_proven_class_is_the_exact_one(seed, solver):
    model = contractive(seed, 12, 0.95)
    u = near_boundaries(model, 400, 4)
    with torch.no_grad():
        truth = enclosure.in_float64(model).readout(equilibrium(model, u)).argmax(dim=1)
    z = 3 * torch.randn(len(u), 12)
    z[::7] = torch.nan  # a lost row begins again
    z[3] = torch.inf
    shares = []
    for depth in (1, 8, 60):
        proven, spent = Enclosure(model).prove(z, u, get_solver(solver), depth)
        decided = proven != NO_VOTE
        assert (proven[decided] == truth[decided]).all()
        assert len(u) <= spent <= depth * len(u)
        shares.append(decided.double().mean().item())
    assert shares == sorted(shares)
    assert shares[-1] > 0.97


def test_rows_that_nobody_can_tell_apart_are_never_proven():
    model = contractive(1, 6, 0.9, classes=2)
    with torch.no_grad():
        model.classifier.weight[1] = model.classifier.weight[0]
        model.classifier.bias.zero_()
    proven, spent = Enclosure(model).prove(
        torch.zeros(5, 6), torch.randn(5, 6), get_solver("picard"), 50
    )
    assert (proven == NO_VOTE).all()
    assert spent == 250


def test_proofs_leave_the_model_as_it_is():
    model = contractive(2, 6, 0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Enclosure(model).prove(torch.zeros(3, 6), torch.randn(3, 6), get_solver("anderson"), 5)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.dtype == torch.float32 for value in after.values())


# --- whole certificates, and planted mistakes -----------------------------------------------------


def failures(start, p: float, alpha: float, trials: int, depth: int, seed: int) -> int:
    """Certify an input with a known probability from a start; count wrong certificates."""
    engine = SmoothingEngine(ProvenHalfLine(p), sigma=SIGMA, seed=seed, batch=300)
    method = get_certifier("enclosed", warm(start), n0=10, n=300, alpha=alpha, depth=depth)
    certificates = [method.certify(engine, Input(ORIGIN, trial)) for trial in range(trials)]
    return sum(c.prediction == 1 or c.details.p_lower > p for c in certificates)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("which", range(3))
def test_enclosed_holds_against_adversaries(which, depth):
    alpha, trials, p = 0.1, 150, 0.85
    wrong = failures(adversaries(HalfLine(p))[which], p, alpha, trials, depth, seed=which)
    assert not too_often(wrong, trials, alpha)
    # Far from the threshold the enclosure is tight, and Clopper-Pearson nearly exact; a neighbour's
    # state leaves some samples unproven.
    assert wrong > 0 or which == 2


class ForgetsTheContraction(ProvenHalfLine):
    """Mistake: the residual itself is taken for the distance."""

    def error_bound(self, residual):
        return residual.double()


class HalvesTheLipschitz(ProvenHalfLine):
    """Mistake: the constant of one logit instead of that of a difference."""

    def readout_lipschitz(self):
        return super().readout_lipschitz() / 2


class MeasuresAnotherState(Enclosure):
    """Mistake: the residual is that of a better state than the one read out."""

    def classes(self, z, fz, injection):
        better = injection.clone()
        drift = self.model.cell(better, injection) - better
        return super().classes(z, z + drift, injection)


class TrustsTheVotes(Enclosure):
    """Mistake: no proof at all."""

    def classes(self, z, fz, injection):
        return self.model.readout(z).argmax(dim=1)


@pytest.mark.parametrize(
    "mistake", [ForgetsTheContraction, HalvesTheLipschitz, MeasuresAnotherState, TrustsTheVotes]
)
def test_planted_mistakes_are_caught(mistake, monkeypatch):
    alpha, trials, p = 0.1, 60, 0.85
    if issubclass(mistake, Enclosure):
        monkeypatch.setattr(enclosure, "Enclosure", mistake)
    else:
        monkeypatch.setattr(f"{__name__}.ProvenHalfLine", mistake)
    assert too_often(failures(AlwaysFirst(), p, alpha, trials, 1, seed=1), trials, alpha)


def test_a_warm_start_of_one_step_reaches_the_full_radius():
    """Unanimous, and from `previous`: what takes an audit elsewhere costs no radius here."""
    engine = SmoothingEngine(ProvenHalfLine(1 - 1e-12), sigma=SIGMA, batch=500)
    start = Predictor(
        get_solver("anderson"),
        StopRule(tol=0, max_nfe=1),
        get_start("previous"),
        warmup=StopRule(tol=0, max_nfe=3),
    )
    method = get_certifier("enclosed", start, n0=10, n=10000, alpha=0.001, depth=10)
    certificate = method.certify(engine, Input(ORIGIN, 0))
    assert certificate.prediction == 0
    assert certificate.details.votes == 10000
    assert certificate.details.audited == 0
    full = certified_radius(lower_confidence_bound(10000, 10000, 0.001), SIGMA)
    assert certificate.radius == full == pytest.approx(1.599, abs=5e-4)
    assert "exact equilibrium" in certificate.assumptions


def test_nfe_counts_votes_and_proofs():
    engine = SmoothingEngine(ProvenHalfLine(0.9), sigma=SIGMA, batch=50)
    votes = proven_votes(
        engine, Enclosure(engine.raw), reference(), Input(ORIGIN, 0), 1, 200, depth=1
    )
    assert votes.nfe == 200 * (3 + 1)
    cold = engine.votes(reference(), Input(ORIGIN, 0), 1, 200)
    decided = votes.predictions != NO_VOTE
    assert decided.mean() > 0.95
    np.testing.assert_array_equal(votes.predictions[decided], cold.predictions[decided])


# --- digits, and the command line -----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contractive model of the digits, trained through the command line in a few seconds."""
    folder = tmp_path_factory.mktemp("contractive")
    assert main(f"train --architecture contractive {TRAINING} --quiet --out {folder}".split()) == 0
    return folder / "model.pth"


def test_training_keeps_the_cell_a_contraction(trained):
    model = load_model(trained)
    assert isinstance(model, ContractiveDEQ)
    assert read_config(trained.with_suffix(".yaml")) == architecture("contractive")
    assert model.factor() < 0.95
    measured = json.loads(trained.with_suffix(".json").read_text())["measured"]
    assert measured["clean_accuracy"] > 0.8
    assert measured["converged"] == 1.0


def test_proven_votes_are_the_standard_ones_where_both_are_converged(trained):
    engine = SmoothingEngine(load_model(trained), sigma=0.25, batch=250)
    cold = Predictor(get_solver("anderson"), StopRule(tol=1e-5, max_nfe=60))
    chained = Predictor(
        get_solver("anderson"),
        StopRule(tol=0, max_nfe=1),
        get_start("previous"),
        warmup=StopRule(tol=1e-3),
    )
    data = load_dataset("digits")
    for image in range(4):
        x = data.image(image)
        standard = engine.votes(cold, Input(x, image), 1, 1000)
        found = proven_votes(
            engine, Enclosure(engine.raw), chained, Input(x, image), 1, 1000, depth=40
        )
        decided = found.predictions != NO_VOTE
        assert decided.mean() > 0.99
        np.testing.assert_array_equal(found.predictions[decided], standard.predictions[decided])
        assert found.nfe < standard.nfe


def test_certify_from_the_command_line(trained, tmp_path, capsys):
    out = tmp_path / "run"
    command = f"certify --model {trained} --data digits --images 0:3 --n 1000 --threads 1 --quiet"
    warmly = f"{command} --method enclosed --start previous --steps 1 --out {out}".split()
    assert main(warmly) == 0
    assert "(enclosed " in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["depth"] == 30
    assert manifest["parameters"]["model_config"]["factor"] == 0.9
    assert "infinitely many iterations" in manifest["notes"]["assumptions"]
    assert main(f"{command} --out {tmp_path / 'cold'}".split()) == 0
    lines = [
        (folder / "certificates.tsv").read_text().split("\n") for folder in (out, tmp_path / "cold")
    ]
    certificates = [
        [dict(zip(text[0].split("\t"), row.split("\t"), strict=True)) for row in text[1:4]]
        for text in lines
    ]
    for proven, standard in zip(*certificates, strict=True):
        assert proven["predict"] == standard["predict"]
        assert float(proven["radius"]) == pytest.approx(float(standard["radius"]), abs=0.02)
    assert main([*warmly, "--depth", "9"]) == 2
    assert "depth was 30 and is now 9" in capsys.readouterr().err


def test_refusals_are_one_sentence(trained, tmp_path, capsys):
    def refused(arguments: str, says: str) -> None:
        assert main([*arguments.split(), "--out", str(tmp_path / "none")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert says in error
        assert not (tmp_path / "none").exists()

    fixed = "--data digits --images 0:1 --n 100 --sigma 0.25"
    refused(f"certify --model digits {fixed} --method enclosed", "MDEQ offers no error_bound")
    refused(
        f"certify --model {trained} {fixed} --method enclosed --audit 5", "has no option 'audit'"
    )
    refused(f"certify --model {trained} {fixed} --method enclosed --n 9", "n must be at least 10")
    weights = torch.load(trained, weights_only=True)
    weights["weight"] *= 3
    torch.save(weights, tmp_path / "wide.pth")
    text = trained.with_suffix(".yaml").read_text()
    (tmp_path / "wide.yaml").write_text(text)
    refused(f"certify --model {tmp_path}/wide.pth {fixed} --method enclosed", "spectral norm")
    for change, says in (
        (("FACTOR: 0.9", "FACTOR: 1.5"), "factor is 1.5"),
        (("WIDTH: 128", "BREADTH: 128"), "needs exactly"),
        (("WIDTH: 128", "WIDTH: wide"), "whole number"),
        (("WIDTH: 128", "WIDTH: 64"), "configuration asks for"),
        (("NAME: contractive", "NAME: other"), "mdeq, contractive"),
    ):
        (tmp_path / "wide.yaml").write_text(text.replace(*change))
        refused(f"certify --model {tmp_path}/wide.pth {fixed}", says)


@pytest.mark.parametrize("depth", [0, 1.5, True])
def test_an_impossible_depth_is_refused(depth):
    with pytest.raises(ConfigError, match=r"depth is .* whole number from 1"):
        get_certifier("enclosed", reference(), n0=1, n=100, alpha=0.1, depth=depth)


def test_configurations_out_of_range_are_refused():
    for change, says in (
        ({"factor": 1.0}, "factor"),
        ({"width": 0}, "whole number"),
        ({"mean": (0.1, 0.2)}, "each of 1 channels"),
    ):
        with pytest.raises(ConfigError, match=says):
            dataclasses.replace(ContractiveConfig(), **change)
