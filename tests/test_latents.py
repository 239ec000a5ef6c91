"""Latent radii, what a mixture predicts, and certificates over a proven constant."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqcert import SmoothedClassifier
from deqcert.certifiers import get_certifier
from deqcert.cli import main
from deqcert.errors import ConfigError, DataError
from deqcert.latents import LatentRadius, radius
from deqcert.latents.centres import simplex
from deqcert.latents.evidence import estimate_gap, normality
from deqcert.latents.heads import fit_head, lda, qda, robust_lda
from deqcert.latents.mixture import Mixture, divergence, fit_mixture
from deqcert.latents.prediction import (
    label_band,
    linear_accuracy,
    simplex_accuracy,
    under_drift,
)
from deqcert.latents.reach import LatentReach
from deqcert.models import HeadedModel, architecture, load_model, with_head
from deqcert.models.quadratic import Quadratics
from deqcert.proofs import multiplier_bound, verified_bound
from deqcert.smoothing import Input
from deqcert.training.objectives.gaussian_latent import anisotropy, discrepancy, vertices


def random_mixture(seed: int, classes: int, size: int, shared: bool) -> Mixture:
    draw = np.random.default_rng(seed)
    count = 1 if shared else classes
    roots = draw.standard_normal((count, size, size)) / math.sqrt(size)
    covariances = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(size)
    means = 1.5 * draw.standard_normal((classes, size))
    priors = draw.dirichlet(np.full(classes, 5.0))
    return Mixture(means, covariances, priors)


def nearest_change(head: Quadratics, z: torch.Tensor, found: Any) -> torch.Tensor:
    """The closest point where the rival is as good, by the stationary point of the best multiplier.

    Found by bisection in float64, independently of the code under test.
    """
    a, i = int(found.best[0]), int(found.rival[0])
    m = float(head.scores(z)[0, a] - head.scores(z)[0, i])
    g = (head.linear[a] - head.linear[i]) / 2
    w = torch.zeros(z.shape[1], z.shape[1], dtype=torch.float64)
    if head.precisions is not None:
        w = head.precisions[i] - head.precisions[a]
        g = g + head.precisions[i] @ (z[0] - head.means[i])
        g = g - head.precisions[a] @ (z[0] - head.means[a])
    identity = torch.eye(len(g), dtype=torch.float64)
    floor = max(0.0, -float(torch.linalg.eigvalsh(w)[0]))

    def moved(mu: float) -> torch.Tensor:
        return -torch.linalg.solve(w + mu * identity, g)

    low, high = floor * (1 + 1e-12) + 1e-14, 1e9
    for _ in range(100):
        mu = math.sqrt(low * high)
        d = moved(mu)
        if float(m + 2 * g @ d + d @ w @ d) > 0.0:
            high = mu
        else:
            low = mu
    return z[0] + moved(low)


def check_radius(seed: int, classes: int, size: int, shared: bool, spread: float) -> None:
    mixture = random_mixture(seed, classes, size, shared)
    head = fit_head("lda" if shared else "qda", mixture)
    draw = torch.Generator().manual_seed(seed)
    z = torch.from_numpy(mixture.means[:1]) + spread * torch.randn(
        1, size, generator=draw, dtype=torch.float64
    )
    found = LatentRadius(head).at(z)
    reach = float(found.radius)
    if reach < 1e-6:
        return
    around = torch.randn(400, size, generator=draw, dtype=torch.float64)
    around = z + reach * (1 - 1e-9) * around / torch.linalg.vector_norm(around, dim=1)[:, None]
    assert bool((head.scores(around).argmax(dim=1) == found.best).all())
    worst = nearest_change(head, z, found)
    assert float(torch.linalg.vector_norm(worst - z[0])) == pytest.approx(reach, rel=1e-4)
    if not shared:
        assert float(LatentRadius(head).published(z)) <= reach * (1 + 1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 8), st.booleans(), st.floats(0, 2))
def test_the_radius_is_exact_never_too_large_and_never_below_the_published_one(
    seed: int, classes: int, size: int, shared: bool, spread: float
) -> None:
    check_radius(seed, classes, size, shared, spread)


@pytest.mark.parametrize("mistake", ["one rival", "half the slope", "no definiteness"])
def test_planted_mistakes_of_the_radius_are_caught(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The property above fails for each of these."""
    if mistake == "one rival":
        whole = LatentRadius._pair

        def last_only(self: LatentRadius, first: int, other: int) -> Any:
            rivals = [k for k in range(len(self.head.means)) if k != first]
            return whole(self, first, rivals[-1])

        monkeypatch.setattr(LatentRadius, "_pair", last_only)
    elif mistake == "half the slope":
        terms = radius._Pair._terms

        def halved(self: Any, head: Any, z: Any) -> Any:
            m, g, m_error, g_error = terms(self, head, z)
            return m, g / 2, m_error, g_error

        monkeypatch.setattr(radius._Pair, "_terms", halved)
    else:
        proven = radius._Pair._proven

        def careless(self: Any, m: Any, a: Any, g_error: Any, mu: Any) -> Any:
            flat = dataclasses.replace(self, values=self.values.clamp_min(0.0))
            return proven(flat, m, a, g_error, mu)

        monkeypatch.setattr(radius._Pair, "_proven", careless)
    caught = 0
    for seed in range(4):
        try:
            check_radius(seed, 4, 5, False, 1.0)
        except AssertionError:
            caught += 1
    assert caught


def test_the_head_of_lda_has_the_known_radius() -> None:
    mixture = random_mixture(3, 4, 6, True)
    rows, offsets = lda(mixture)
    head = fit_head("lda", mixture)
    z = torch.from_numpy(mixture.means + 0.1)
    scores = z.numpy() @ rows.T + offsets
    best = scores.argmax(axis=1)
    for k in range(4):
        others = [j for j in range(4) if j != best[k]]
        expected = min(
            (scores[k, best[k]] - scores[k, j]) / np.linalg.norm(rows[best[k]] - rows[j])
            for j in others
        )
        assert float(LatentRadius(head).at(z).radius[k]) == pytest.approx(expected, rel=1e-5)


def test_a_latent_that_is_not_finite_has_no_radius() -> None:
    head = fit_head("lda", random_mixture(0, 3, 4, True))
    z = torch.full((1, 4), float("nan"), dtype=torch.float64)
    assert float(LatentRadius(head).at(z).radius) == 0.0


def test_the_simplex_and_its_prediction_have_the_known_values() -> None:
    assert simplex_accuracy(10, 3.0, 1.0, 0.3) == pytest.approx(0.57569, abs=1e-5)
    corners = simplex(10)
    inner = corners @ corners.T
    assert np.allclose(np.diag(inner), 1.0)
    assert np.allclose(inner[~np.eye(10, dtype=bool)], -1 / 9)
    means = 3.0 * corners / np.linalg.norm(corners[0] - corners[1])
    mixture = Mixture(means, np.eye(9)[None], np.full(10, 0.1))
    found = linear_accuracy(mixture, *lda(mixture), [0.3])
    assert found[0] == pytest.approx(0.57569, abs=1e-3)


def test_two_classes_have_the_closed_form() -> None:
    mixture = random_mixture(5, 2, 4, True)
    covariance = mixture.covariance(0)
    w = np.linalg.solve(covariance, mixture.means[0] - mixture.means[1])
    d = math.sqrt((mixture.means[0] - mixture.means[1]) @ w)
    odds, expected = math.log(mixture.priors[0] / mixture.priors[1]), 0.0
    for prior, sign in zip(mixture.priors, (1, -1), strict=True):
        at = (d * d / 2 + sign * odds - 0.4 * np.linalg.norm(w)) / d
        expected += prior * scipy.stats.norm.cdf(at)
    assert linear_accuracy(mixture, *lda(mixture), [0.4])[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "size", "shared"),
    [(2, 2, True), (4, 8, True), (2, 64, True), (10, 64, True), (3, 6, False)],
)
def test_the_predicted_curve_is_the_simulated_one(classes: int, size: int, shared: bool) -> None:
    from deqcert.training.latents.fit import predict

    mixture = random_mixture(11, classes, size, shared)
    head = fit_head("lda" if shared else "qda", mixture)
    radii = np.array([0.0, 0.2, 0.5])
    predicted = predict(mixture, head, radii, seed=1)
    z, y = mixture.sample(20_000, seed=2)
    found = LatentRadius(head).at(torch.from_numpy(z))
    right = found.best.numpy() == y
    for place, at in enumerate(radii):
        share = np.mean(right & (found.radius.numpy() >= at))
        assert share == pytest.approx(predicted[place], abs=0.02 if not shared else 0.012)


def test_drift_has_the_known_values_and_covers_the_law_that_was_fitted_wrongly() -> None:
    for q, kappa, known in ((0.95, 0.01, 0.916), (0.95, 0.1, 0.827), (0.95, 2.0, 0.179)):
        assert float(under_drift(q, kappa)) == pytest.approx(known, abs=6e-4)
    assert float(under_drift(0.8, 0.1)) == pytest.approx(0.605, abs=6e-4)
    true = random_mixture(7, 3, 5, True)
    wrong = dataclasses.replace(true, means=true.means + 0.25, covariances=1.2 * true.covariances)
    kappa = divergence(true, wrong)
    head = fit_head("lda", wrong)
    predicted = linear_accuracy(wrong, head.linear, head.offsets, [0.0, 0.3])
    z, y = true.sample(20_000, seed=3)
    found = LatentRadius(head).at(torch.from_numpy(z))
    for place, at in enumerate((0.0, 0.3)):
        share = np.mean((found.best.numpy() == y) & (found.radius.numpy() >= at))
        least = float(under_drift(predicted[place], kappa))
        assert max(0.0, predicted[place] - math.sqrt(kappa / 2)) <= least <= share + 0.01


@pytest.mark.parametrize("shared", [True, False])
def test_the_divergence_is_the_mean_log_ratio(shared: bool) -> None:
    law, fitted = (random_mixture(seed, 3, 4, shared) for seed in (1, 2))
    z, y = law.sample(40_000, seed=0)
    ratio = law.log_density(z) - fitted.log_density(z)
    each = ratio[np.arange(len(y)), y]
    assert divergence(law, fitted) == pytest.approx(each.mean(), abs=5 * each.std() / 200)
    assert divergence(law, law) == pytest.approx(0.0, abs=1e-12)


def test_a_divergence_of_latents_without_classes_promises_too_much() -> None:
    """The planted trap: swapped classes leave the law of z as it was, and nothing right."""
    fitted = Mixture(np.array([[2.0], [-2.0]]), np.ones((1, 1, 1)), np.array([0.5, 0.5]))
    law = dataclasses.replace(fitted, means=fitted.means[::-1])
    predicted, true = (float(linear_accuracy(m, *lda(fitted), [0.0])[0]) for m in (fitted, law))
    of_latents_alone = 0.0
    assert true < float(under_drift(predicted, of_latents_alone))
    assert true >= float(under_drift(predicted, divergence(law, fitted)))


@given(st.floats(0.0, 1.0), st.floats(0.0, 3.0))
def test_drift_never_promises_more_and_never_less_than_pinsker(q: float, kappa: float) -> None:
    found = float(under_drift(q, kappa))
    assert max(0.0, q - math.sqrt(kappa / 2)) - 1e-9 <= found <= q


def test_the_band_of_labels_covers() -> None:
    """The one-sided band fails for at most alpha of the draws, and for some: it is no wider."""
    draw, fails, n, alpha = np.random.default_rng(0), 0, 200, 0.1
    band = label_band(n, alpha)
    for _ in range(2000):
        sample = np.sort(draw.uniform(size=n))
        # P(R >= r) is 1 - r; the empirical curve is too high by most just at a sample.
        over = np.arange(n, 0, -1) / n - (1.0 - sample)
        fails += bool(over.max() > band)
    assert 0.5 * alpha < fails / 2000 <= alpha + 0.02
    with pytest.raises(ConfigError, match="at most 0"):
        label_band(100, 0.7)


def test_the_robust_head_is_the_best_for_two_classes() -> None:
    mixture = Mixture(
        np.array([[1.0, 1.0], [-1.0, -1.0]]), np.diag([4.0, 0.25])[None], np.array([0.5, 0.5])
    )
    rows, offsets, _ = robust_lda(mixture, 1.0)
    robust = linear_accuracy(mixture, rows, offsets, [1.0])[0]
    plain = linear_accuracy(mixture, *lda(mixture), [1.0])[0]
    angles = np.linspace(0, np.pi, 2001)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    spread = np.sqrt(np.einsum("ki,ij,kj->k", directions, mixture.covariance(0), directions))
    best = scipy.stats.norm.cdf((directions @ mixture.means[0] - 1.0) / spread).max()
    assert plain + 0.02 < robust <= best + 1e-9
    assert robust == pytest.approx(best, abs=2e-3)


def test_smoothing_a_linear_head_gives_its_latent_radius() -> None:
    """sigma Phi^-1(p_A) = T for a linear model, end to end through the engine."""

    class Linear:
        input_shape, num_classes = (1, 2, 2), 2

        def inject(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

        def initial_state(self, injection: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(injection)

        def cell(self, z: torch.Tensor, injection: torch.Tensor) -> torch.Tensor:
            return injection

        def readout(self, z: torch.Tensor) -> torch.Tensor:
            return z @ ROWS.T + torch.tensor([0.0, 0.55])

    ROWS = torch.tensor([[1.0, 0.4, -0.3, 0.2], [0.0, 0.0, 0.0, 0.0]])
    x = torch.full((1, 2, 2), 0.6)
    head = Quadratics(
        torch.zeros(2, 4, dtype=torch.float64),
        None,
        ROWS.double(),
        torch.tensor([0.0, 0.55], dtype=torch.float64),
    )
    reach = float(LatentRadius(head).at(x.flatten()[None].double()).radius)
    smooth = SmoothedClassifier(Linear(), sigma=0.25, n=20_000, noise="float", agreement=0.0)
    certificate = smooth.certify(x.numpy())
    p = scipy.stats.norm.cdf(reach / 0.25)
    spread = math.sqrt(p * (1 - p) * 20_000)
    assert abs(certificate.details.votes - 20_000 * p) < 4 * spread
    assert certificate.radius <= reach * 1.05


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    """A monotone and a contractive network of random weights, and latents of random images."""
    found: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name in ("monotone", "contractive"):
            config = dataclasses.replace(architecture(name), width=12, num_classes=3)
            model = config.build().eval()
            found[name] = model
    return found


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def latents_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    exact = copy.deepcopy(model).double()
    injection = exact.inject(x.double())
    z = exact.initial_state(injection)
    for _ in range(1000):
        before, z = z, exact.cell(z, injection)
        if float((z - before).abs().max()) < 1e-13:
            break
    return exact.latent(z)


def headed(model: Any, head: str, seed: int = 0) -> HeadedModel:
    z = latents_of(model, images(90, seed)).numpy()
    y = np.arange(90) % 3
    z = z + 0.5 * z.std() * simplex(3)[y].repeat(6, axis=1)[:, :12]
    mixture = fit_mixture(z, y, shared=head != "qda", shrinkage=0.3)
    return with_head(model, fit_head(head, mixture, 0.1))


@pytest.mark.parametrize("head", ["lda", "qda", "robust-lda"])
@pytest.mark.parametrize("name", ["monotone", "contractive"])
def test_nothing_changes_the_class_inside_a_proven_radius(
    dense: dict[str, Any], name: str, head: str
) -> None:
    model = headed(dense[name], head)
    reach, scores = LatentReach(model), model.scores()
    proven = 0
    for x in images(12, seed=5):
        found = reach.at(x, formula="exact", tol=1e-10, depth=500)
        if found.radius <= 0.0:
            continue
        proven += 1
        draw = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        draw = draw / torch.linalg.vector_norm(draw.flatten(1), dim=1)[:, None, None, None]
        moved = x + found.radius * 0.999 * draw
        classes = scores.scores(latents_of(model.base, moved)).argmax(dim=1)
        assert bool((classes == found.best).all())
        # The constant itself: no latent moves by more than L times the radius.
        apart = latents_of(model.base, moved) - latents_of(model.base, x[None])
        furthest = float(torch.linalg.vector_norm(apart, dim=1).max())
        assert furthest <= reach.lipschitz * found.radius
        published = None
        if head == "qda":
            published = reach.at(x, formula="published", tol=1e-10, depth=500)
            assert published.radius <= found.radius
    assert proven >= 3


def test_the_error_of_a_solve_is_charged(dense: dict[str, Any]) -> None:
    model = headed(dense["monotone"], "lda")
    reach = LatentReach(model)
    for x in images(8, seed=5):
        fine = reach.at(x, formula="exact", tol=1e-10, depth=500)
        coarse = reach.at(x, formula="exact", tol=1e-2, depth=3)
        assert coarse.error > 1e3 * fine.error
        assert coarse.reach <= fine.reach + fine.error


def test_a_linear_head_is_proven_pair_by_pair_too(dense: dict[str, Any]) -> None:
    model = headed(dense["monotone"], "lda")
    x = images(1, seed=5)[0].numpy()
    whole = get_certifier("latent").certify(model, Input(x, 0))
    pairs = get_certifier("lipschitz").certify(model, Input(x, 0))
    assert pairs.radius >= whole.radius > 0.0
    assert whole.prediction == pairs.prediction


def test_the_bound_of_several_rows_is_verified(dense: dict[str, Any]) -> None:
    form = dense["monotone"].relu_form()
    rows = torch.eye(12, dtype=torch.float64)
    bound, multiplier = multiplier_bound(form, rows)
    assert verified_bound(form, rows, multiplier, bound)
    assert not verified_bound(form, rows, multiplier, 0.9 * bound)
    apart = latents_of(dense["monotone"], images(50)) - latents_of(
        dense["monotone"], images(50, seed=1)
    )
    moved = torch.linalg.vector_norm((images(50) - images(50, seed=1)).flatten(1), dim=1)
    assert bool((torch.linalg.vector_norm(apart, dim=1) <= bound * moved).all())


def test_normality_speaks_against_what_is_not_gaussian() -> None:
    draw = np.random.default_rng(0)
    gaussian = draw.standard_normal((400, 3))
    heavy = draw.standard_t(3, size=(400, 3))
    fine, bad = (normality(z, np.zeros(3), np.eye(3)) for z in (gaussian, heavy))
    assert min(fine.skewness, fine.kurtosis, fine.two_sample) > 0.01
    assert max(bad.kurtosis, bad.two_sample) < 0.01
    assert bad.excess > 1.0 > abs(fine.excess)


def test_the_gap_is_seen_where_there_is_one() -> None:
    draw = np.random.default_rng(0)
    y = np.arange(2000) % 2
    side = draw.choice([-2.0, 2.0], size=(2000, 1))
    bimodal = draw.standard_normal((2000, 3)) + side + 3.0 * y[:, None]
    plain = draw.standard_normal((2000, 3)) + 3.0 * y[:, None]
    gaps = []
    for z in (bimodal, plain):
        fitted = fit_mixture(z[:1000], y[:1000], shared=False)
        gaps.append(estimate_gap(fitted, z[:1000], y[:1000], z[1000:], y[1000:]))
    assert gaps[0] > 0.1 > 0.02 > gaps[1] >= 0.0
    # Behind many elements of noise, where a flexible density of all of them sees nothing.
    noise = draw.standard_normal((2000, 60))
    gaps = []
    for z in (bimodal, plain):
        wide = np.column_stack([z, noise])
        fitted = fit_mixture(wide[:1000], y[:1000], shared=False)
        gaps.append(estimate_gap(fitted, wide[:1000], y[:1000], wide[1000:], y[1000:]))
    assert gaps[0] > 0.1 > gaps[1] >= 0.0


def test_a_mixture_that_cannot_be_fitted_is_refused() -> None:
    z = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.raises(DataError, match="fewer than two images"):
        fit_mixture(z, np.array([0] * 19 + [1]), shared=True)
    with pytest.raises(DataError, match="all latents are of class 0"):
        fit_mixture(z, np.zeros(20, dtype=int), shared=True)
    flat = np.column_stack([z, z[:, 0]])
    with pytest.raises(ConfigError, match="larger shrinkage"):
        fit_mixture(flat, np.arange(20) % 2, shared=True, shrinkage=0.0)
    fit_mixture(flat, np.arange(20) % 2, shared=True, shrinkage=0.1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, dense: dict[str, Any]) -> Path:
    """A small contractive network for digits, with a head that the command fitted."""
    folder = tmp_path_factory.mktemp("latents")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = dataclasses.replace(architecture("contractive"), width=16)
        model = config.build().eval()
    torch.save(model.state_dict(), folder / "small.pth")
    (folder / "small.yaml").write_text(config.to_yaml())
    assert main(["fit-latent", "--model", str(folder / "small.pth"), "--quiet"]) == 0
    return folder


def test_a_fitted_head_is_a_model_like_any_other(fitted: Path, tmp_path: Path) -> None:
    file = fitted / "small-lda.pth"
    record = json.loads(file.with_suffix(".json").read_text())
    assert record["measured"]["accuracy"] > 0.7
    assert "not a bound" in record["measured"]["gap_method"]
    assert file.with_suffix(".png").stat().st_size > 1000
    loaded = load_model(file)
    assert isinstance(loaded, HeadedModel)
    base = {name: value for name, value in loaded.state_dict().items() if name.startswith("base.")}
    own = load_model(fitted / "small.pth").state_dict()
    assert all(torch.equal(base[f"base.{name}"], value) for name, value in own.items())
    for method, more in (("latent", ()), ("standard", ("--sigma", "0.25", "--n", "200"))):
        out = tmp_path / method
        given = ["certify", "--model", str(file), "--images", "0:3", "--method", method, *more]
        assert main([*given, "--out", str(out), "--quiet"]) == 0
        assert (out / "certificates.tsv").read_text().count("\n") >= 4


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--model", "digits"], "name its file"),
        (["--images", "0:10", "--out", "few.pth"], "needs at least two"),
        (["--head", "qda", "--shrinkage", "0"], "larger shrinkage"),
        (["--out", "head.bin"], "must end in .pth"),
        ([], "exists already"),
        (["--data", "nothing", "--out", "none.pth"], "'nothing'"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(
    fitted: Path,
    more: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(fitted)
    given = ["fit-latent", "--model", str(fitted / "small.pth"), "--quiet", *more]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize("model", ["digits", "small.pth"])
def test_method_latent_needs_a_head_and_a_proven_encoder(
    fitted: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = model if model == "digits" else str(fitted / model)
    given = ["certify", "--model", named, "--method", "latent", "--images", "0:1"]
    assert main([*given, "--out", str(tmp_path / "run")]) == 2
    assert "fit one with deqcert fit-latent" in capsys.readouterr().err


def test_latents_are_drawn_to_equally_distant_means(tmp_path: Path) -> None:
    means = vertices(4, 13, 6.0)
    apart = torch.cdist(means, means)[~torch.eye(4, dtype=torch.bool)]
    assert torch.allclose(apart, torch.full_like(apart, 6.0)) and bool((means >= 0.0).all())
    with pytest.raises(ConfigError, match="wider model"):
        vertices(10, 9, 1.0)
    round_ones = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4000) % 2
    assert float(anisotropy(3.0 * round_ones, y, 2)) < 0.01
    assert float(anisotropy(round_ones * torch.tensor([5.0, 1.0, 1.0]), y, 2)) > 0.5
    normal = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    like = [float(discrepancy(z, y, 2, normal)) for z in (5.0 * round_ones, round_ones.relu())]
    assert abs(like[0]) < 1e-3 < 0.01 < like[1]
    z = torch.zeros(6, 3, requires_grad=True)  # all equal, as behind a relu that is off
    discrepancy(z, y[:6], 2, normal[:6]).backward()
    assert z.grad is not None and bool(torch.isfinite(z.grad).all())
    given = "train --architecture interval --objective gaussian-latent --batch 500 --epochs 1"
    assert main([*given.split(), "--out", str(tmp_path / "none"), "--quiet"]) == 2


def test_the_public_head_of_qda_is_symmetric_in_float32() -> None:
    head = qda(random_mixture(0, 3, 5, False))
    assert head.precisions is not None
    assert torch.equal(head.precisions, head.precisions.mT)
    assert torch.equal(head.precisions, head.precisions.float().double())
