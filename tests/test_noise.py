"""Noise that is true on a computer: what float noise gets wrong, and what exact noise is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from toys import SIGMA, HalfLine, ReadsLastBits

import deqcert
from deqcert.attacks.evaluation import Judge
from deqcert.certifiers import predict
from deqcert.certifiers.bounds import lower_confidence_bound
from deqcert.certifiers.standard import Standard
from deqcert.cli import main
from deqcert.errors import ConfigError, DataError
from deqcert.runs import Manifest
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Stage, noisy_copies
from deqcert.smoothing.grid import grid_law
from deqcert.smoothing.noise import on_grid
from deqcert.solvers import StopRule, get_solver

LEVELS = 255
ONE_STEP = Predictor(get_solver("picard"), StopRule(tol=0.0, max_nfe=1))


def image(seed=0):
    """A colour image of 8 bits, of the size of CIFAR-10's."""
    levels = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return levels.float() / LEVELS


def neighbour(x, pixels=100):
    """The image with some pixels one grey level lighter or darker."""
    moved = x.flatten().clone()
    steps = (moved[:pixels] * LEVELS).round()
    moved[:pixels] = (steps + torch.where(steps < 255, 1, -1)) / LEVELS
    return moved.view_as(x)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_a_classifier_that_reads_the_last_bits_is_certified_falsely_by_float_noise_alone(sigma):
    x = image()
    other = neighbour(x)
    distance = float(torch.linalg.vector_norm((other - x).double()))
    assert distance < 0.04
    certifier = Standard(ONE_STEP, n0=20, n=300)

    def engine(levels):
        return SmoothingEngine(ReadsLastBits(x), sigma=sigma, levels=levels, batch=160)

    false = certifier.certify(engine(None), Input(x, 0))
    assert false.prediction == 0 and false.radius > sigma
    refuting = certifier.certify(engine(None), Input(other, 1))
    assert refuting.prediction == 1 and refuting.radius > distance  # each refutes the other
    assert "assumes that the model does not read" in false.assumptions

    true = certifier.certify(engine(LEVELS), Input(x, 0))
    there = certifier.certify(engine(LEVELS), Input(other, 1))
    assert true.prediction == there.prediction != 0


def tells_images_apart(copies):
    """Whether the classifier answers for noisy copies of an image as it does for no other's."""
    x = image()
    model, other = ReadsLastBits(x), neighbour(x)
    mine, theirs = (int((model.inject(copies(one)) == 0).sum()) for one in (x, other))
    return stats.fisher_exact([[mine, 60 - mine], [theirs, 60 - theirs]]).pvalue < 1e-6


def float_noise(x):
    return noisy_copies(x, np.arange(60), sigma=SIGMA, seed=0, index=0, stage=0)


def exact_noise(x):
    return noisy_copies(x, np.arange(60), sigma=SIGMA, seed=0, index=0, stage=0, levels=LEVELS)


def adds_two_floats(x):
    """A fault: the noise is on the grid, but it is added as floats."""
    return x + (float_noise(torch.zeros_like(x)) * LEVELS).round() / LEVELS


@pytest.mark.parametrize(
    ("copies", "told"), [(float_noise, True), (adds_two_floats, True), (exact_noise, False)]
)
def test_only_a_table_of_floats_hides_the_image(copies, told):
    assert tells_images_apart(copies) == told


def test_a_float_normal_that_is_rounded_is_not_the_law():
    """A fault: normals of 32 bits end, and more lies beyond than the certificate pays for."""
    law = grid_law(LEVELS, SIGMA)
    end = np.sqrt(2 * 33 * np.log(2))
    beyond = int(np.ceil(end * SIGMA * LEVELS + 0.5)) - law.lowest  # threshold of that step
    missed = 2 * (1 - int(law.thresholds[beyond]) / 2**60)
    assert missed > 3 * law.charge(1, 1)


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_exact_copies_are_grid_points_and_do_not_know_their_batch(levels, seed):
    x = (torch.arange(12) % (levels + 1)).float().view(1, 3, 4) / levels

    def draw(samples):
        given = {"sigma": 0.25, "seed": seed, "index": 2, "stage": 3, "levels": levels}
        return noisy_copies(x, np.asarray(samples), **given)

    block = draw(range(10))
    assert torch.equal(on_grid(block, levels), block)
    assert block.min() >= -1 and block.max() <= 2
    for order in ([3], [9, 0, 4], [4, 5, 6, 1]):
        assert torch.equal(draw(order), block[order])


@pytest.mark.parametrize("value", [0.3 / LEVELS, 1e-6, 1 - 1e-6, -1 / LEVELS, 256 / LEVELS])
def test_an_image_off_the_grid_is_refused(value):
    x = image()
    x[0, 0, 0] = value
    engine = SmoothingEngine(ReadsLastBits(x), sigma=SIGMA, levels=LEVELS)
    with pytest.raises(DataError, match="or noise float"):
        engine.votes(ONE_STEP, Input(x, 0), Stage.ESTIMATE, 2)


@pytest.mark.parametrize("levels", [1, 16, 255])
def test_every_rounding_of_a_grid_point_is_taken(levels):
    exact = np.arange(levels + 1) / levels
    for x in (exact.astype(np.float32), np.float32(1) / np.float32(levels) * np.arange(levels + 1)):
        x = torch.as_tensor(np.minimum(x, 1).astype(np.float32))
        noisy = noisy_copies(x, np.arange(3), sigma=1e-6, seed=0, index=0, stage=0, levels=levels)
        assert torch.equal(noisy, torch.as_tensor(exact.astype(np.float32)).expand(3, -1))


def test_votes_have_the_probability_of_the_law():
    """Class 0 up to the grid point 0.3: an exact sum of cells."""
    model = HalfLine(0.5)
    model.threshold = 0.3 + 0.5 / LEVELS
    engine = SmoothingEngine(model, sigma=SIGMA, levels=LEVELS)
    votes = engine.votes(ONE_STEP, Input(torch.zeros(1, 1, 1), 0), Stage.ESTIMATE, 20000)
    p = stats.norm.cdf((2 * int(0.3 * LEVELS) + 1) / (2 * LEVELS * SIGMA))
    assert stats.binomtest(int(votes.counts[0]), 20000, p).pvalue > 1e-3


def test_the_draw_is_paid_out_of_alpha_and_the_certificate_says_so():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, levels=LEVELS)
    made = Standard(ONE_STEP, n0=10, n=200).certify(engine, Input(torch.zeros(1, 1, 1), 0))
    charge = grid_law(LEVELS, SIGMA).charge(210, 1)
    assert made.alpha == 0.001
    assert made.details.charge == charge == engine.charge(torch.zeros(1, 1, 1), 210)
    paid = lower_confidence_bound(made.details.votes, 200, 0.001 - charge)
    assert made.details.p_lower == paid
    assert f"{charge:.1e} of alpha" in made.assumptions
    assert "multiples of 1/255" in made.assumptions and "[-3, 4]" in made.assumptions


def test_float_noise_pays_nothing_and_says_what_it_assumes():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA)
    made = Standard(ONE_STEP, n0=10, n=200).certify(engine, Input(torch.zeros(1, 1, 1), 0))
    assert made.details.charge == 0.0
    assert made.details.p_lower == lower_confidence_bound(made.details.votes, 200, 0.001)
    assert "float32" in made.assumptions and "beyond 6.76 sigma" in made.assumptions


def test_an_alpha_that_cannot_pay_for_the_draw_is_refused_before_the_first_solve():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, levels=LEVELS)
    certifier = Standard(ONE_STEP, n0=10, n=200, alpha=1e-14)
    with pytest.raises(ConfigError, match="of alpha"):
        certifier.certify(engine, Input(torch.zeros(1, 1, 1), 0))


def test_a_prediction_pays_too():
    """Forty votes of forty have the p-value 2^-39."""
    x = Input(torch.zeros(1, 1, 1), 0)
    for levels, alpha, answer in ((None, 1.0, 0), (LEVELS, 1.0, None), (LEVELS, 1.05, 0)):
        engine = SmoothingEngine(HalfLine(1.0 - 1e-12), sigma=SIGMA, levels=levels)
        assert predict(engine, ONE_STEP, x, n=40, alpha=alpha * 2.0**-39) == answer


def test_a_verdict_that_cannot_pay_is_refused_before_the_first_vote():
    engine = SmoothingEngine(HalfLine(0.9), sigma=SIGMA, levels=LEVELS)
    with pytest.raises(ConfigError, match="attack fewer images"):
        Judge(engine, ONE_STEP, n=100, alpha=1e-14, guesses=10)


def test_a_sigma_without_tables_is_refused_by_the_engine():
    with pytest.raises(ConfigError, match="noise float"):
        SmoothingEngine(HalfLine(0.9), sigma=1e5, levels=LEVELS)


# Which noise a run uses.

QUICK = {"sigma": 0.25, "n0": 10, "n": 60, "batch": 35, "tol": 0.0, "depth": 2}


def digits(out=None, **settings):
    smooth = deqcert.SmoothedClassifier("digits", **QUICK, **settings)
    return smooth if out is None else smooth.certify_dataset("digits", images="0:2", out=out)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {"noise": "exact", "levels": 16}),
        ({"noise": "exact"}, {"noise": "exact", "levels": 16}),
        ({"levels": 32}, {"noise": "exact", "levels": 32}),
        ({"noise": "float"}, {"noise": "float"}),
    ],
)
def test_a_run_names_its_noise_and_says_what_it_assumes(tmp_path, settings, wanted):
    digits(tmp_path / "run", **settings)
    manifest = Manifest.read(tmp_path / "run")
    assert wanted.items() <= manifest.parameters.items()
    assert ("levels" in manifest.parameters) == ("levels" in wanted)
    stated = json.loads((tmp_path / "run" / "summary.json").read_text())["assumptions"]
    assert f"noise {wanted['noise']}: " in stated
    assert manifest.notes["assumptions"] == stated


def test_a_run_in_one_noise_is_not_continued_in_the_other(tmp_path):
    digits(tmp_path / "run")
    with pytest.raises(deqcert.errors.RunError, match='noise was "exact" and is now "float"'):
        digits(tmp_path / "run", noise="float")


def test_a_run_folder_that_names_no_noise_is_one_of_float_noise(tmp_path):
    before = digits(tmp_path / "run", noise="float")
    path = tmp_path / "run" / "manifest.json"
    content = json.loads(path.read_text())
    del content["parameters"]["noise"]
    path.write_text(json.dumps(content))
    again = digits(tmp_path / "run", noise="float")
    np.testing.assert_array_equal(before.radius, again.radius)
    with pytest.raises(deqcert.errors.RunError, match="noise was"):
        digits(tmp_path / "run")


def test_data_without_a_grid_have_float_noise_unless_one_is_given(tmp_path):
    data = deqcert.load_dataset("digits")
    np.savez(tmp_path / "floats.npz", x=data.batch([0, 1]), y=data.labels()[:2])
    spec = f"npz:{tmp_path / 'floats.npz'}"

    def noise(name, **settings):
        smooth = deqcert.SmoothedClassifier("digits", **QUICK, **settings)
        smooth.certify_dataset(spec, out=tmp_path / name)
        return Manifest.read(tmp_path / name).parameters["noise"]

    assert noise("auto") == "float"
    assert noise("given", levels=16) == "exact"
    with pytest.raises(ConfigError, match="--levels 255"):
        noise("exact", noise="exact")
    with pytest.raises(DataError, match="1/7"):
        noise("wrong", levels=7)


def test_arrays_have_the_noise_of_the_data_that_the_model_was_trained_on():
    x = deqcert.load_dataset("digits").image(0)
    assert digits().engine.levels == 16
    assert digits(noise="float").engine.levels is None
    made = digits().certify(x)
    assert made.radius == digits(levels=16).certify(x).radius
    with pytest.raises(DataError, match="noise float"):
        digits().certify(x * 0.99)
    assert digits(noise="float").predict(x * 0.99, n=100) == made.prediction


def test_predictions_have_the_noise_of_certificates(tmp_path, capsys):
    x = deqcert.load_dataset("digits").batch([0])[0]
    np.save(tmp_path / "grey.npy", (x * 255).round().astype(np.uint8))
    np.save(tmp_path / "floats.npy", x)
    short = ["predict", "--model", "digits", "--sigma", "0.25", "--n", "50", "--tol", "0"]
    assert main([*short, "--depth", "2", "--images", "0"]) == 0
    for file in ("grey", "floats"):
        assert main([*short, "--depth", "2", str(tmp_path / f"{file}.npy")]) == 0
    assert main([*short, "--depth", "2", "--levels", "7", "--images", "0"]) == 2
    assert "1/7" in capsys.readouterr().err


def test_an_attack_judges_with_the_noise_of_the_certificates_on_their_grid(tmp_path):
    run, made = tmp_path / "run", tmp_path / "attacks"
    digits(run)
    attack = [
        "attack",
        str(run),
        "--attack",
        "smoothadv-pgd:steps=3,draws=2",
        "--n",
        "100",
        "--search",
        "20",
    ]
    assert main([*attack, "--out", str(made), "--quiet"]) in (0, 1)
    found = Manifest.read(made).parameters
    assert (found["noise"], found["levels"]) == ("exact", 16)
