"""The estimated constant: its slopes are right, it is no bound, and everything says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from deqcert.certifiers import get_certifier
from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.latents.estimate import Linearised, endpoint, estimate_lipschitz
from deqcert.latents.heads import linear_head
from deqcert.models import architecture, load_model, with_head
from deqcert.proofs import multiplier_bound
from deqcert.smoothing import Input
from deqcert.solvers import StopRule, bind, get_solver

FINE = StopRule(tol=1e-11, max_nfe=500)


def dense(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = dataclasses.replace(architecture(name), width=12, num_classes=3).build()
    return model.eval().double()


@torch.no_grad()
def latents(model: Any, x: torch.Tensor) -> torch.Tensor:
    injection = model.inject(x)
    start = model.initial_state(injection)
    solved = get_solver("anderson").solve(bind(model.cell, injection), start, FINE)
    return model.latent(solved.z)


@pytest.mark.parametrize("name", ["monotone", "contractive", "lipschitz-bounded"])
def test_a_slope_is_the_norm_of_the_jacobian_and_never_above_a_proven_constant(name: str) -> None:
    model = dense(name)
    x = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6 * torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    jacobian = (latents(model, x + step) - latents(model, x - step)).T / 2e-6
    here = Linearised(model, x[None], FINE)
    along = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    u = torch.ones(1, 12, dtype=torch.float64)
    for found, known in (
        (here.product(along)[0], jacobian @ along.flatten()),
        (here.transposed(u).flatten(), jacobian.T @ u[0]),
    ):
        apart = torch.linalg.vector_norm(found - known)
        assert float(apart) <= 3e-3 * float(torch.linalg.vector_norm(known))
    slope, _ = here.slope(u, 60)
    assert float(slope) == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=2e-3)
    stop = StopRule(tol=1e-6, max_nfe=200)
    given: dict[str, Any] = {"ball": 0.5, "batches": 4, "points": 4, "stop": stop}
    slopes = estimate_lipschitz(model, x, **given, seed=0)
    proven, _ = multiplier_bound(model.relu_form(), torch.eye(12, dtype=torch.float64))
    assert slopes.largest <= proven * (1 + 1e-3)
    assert slopes.estimate >= slopes.largest
    assert slopes == estimate_lipschitz(model, x, **given, seed=0)
    assert slopes != estimate_lipschitz(model, x, **given, seed=1)


def test_the_endpoint_of_a_known_law_is_found() -> None:
    law = scipy.stats.weibull_max(2.0, loc=5.0, scale=1.0)
    found = [endpoint(law.rvs(100, random_state=seed)) for seed in range(5)]
    assert np.mean(found) == pytest.approx(5.0, abs=0.1)
    assert endpoint(np.array([3.0, 3.0])) == 3.0


def hidden_ridge() -> Any:
    """Latents a'd + 1 and relu(100 (a'd - 0.3)), d the way from grey along a unit vector a."""
    config = dataclasses.replace(architecture("contractive"), width=2, num_classes=2)
    model = config.build().eval()
    a = torch.full((64,), 1 / 8)
    scale = float(model.normalize.std)
    with torch.no_grad():
        model.weight.zero_()
        model.encoder.weight.copy_(torch.stack([a, 100 * a]) * scale)
        # Grey is 0.5; normalisation takes the mean off before the layer sees it.
        shift = float((0.5 - model.normalize.mean) * a.sum())
        model.encoder.bias.copy_(torch.tensor([1.0 - shift, -100.0 * (0.3 + shift)]))
    return with_head(model, linear_head(np.eye(2), np.zeros(2)))


def test_an_estimate_is_wrong_where_a_proof_is_right() -> None:
    model = hidden_ridge()
    grey = torch.full((1, 8, 8), 0.5)
    estimated = get_certifier("latent-estimated").certify(model, Input(grey, 0))
    proven = get_certifier("latent").certify(model, Input(grey, 0))
    assert estimated.prediction == proven.prediction == 0
    assert estimated.details.estimate == pytest.approx(1.0, abs=1e-3)
    assert proven.details.lipschitz == pytest.approx(100.0, rel=1e-3)
    assert estimated.radius == 0.5
    moved = grey + 0.32 / 8  # l2 size 0.32
    z = model.latent(latents(model.double(), moved[None].double()))
    assert int(model.head(z).argmax()) == 1
    assert 0.0 < proven.radius < 0.32 < estimated.radius


def test_an_estimate_never_exceeds_its_ball() -> None:
    """A slope that was sampled in a ball says nothing of what is outside of it."""
    grey = Input(torch.full((1, 8, 8), 0.5), 0)
    for ball in (0.1, 0.25):
        found = get_certifier("latent-estimated", ball=ball).certify(hidden_ridge(), grey)
        assert found.radius == ball


def test_an_estimate_is_marked_in_certificate_run_table_and_legend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = get_certifier("latent-estimated").certify(
        hidden_ridge(), Input(torch.full((1, 8, 8), 0.5), 0)
    )
    assert not found.sound and "sound=False" in repr(found)
    assert "UNSOUND" in found.assumptions and "ESTIMATE" in found.assumptions
    head = str(tmp_path / "head.pth")
    fit = ["fit-latent", "--model", "digits", "--images", "0:120", "--max-nfe", "4"]
    assert main([*fit, "--out", head, "--quiet"]) == 0
    capsys.readouterr()
    given = ["certify", "--model", head, "--method", "latent-estimated", "--images", "0:1"]
    some = ["--method-option", "batches=2", "--method-option", "points=2"]
    assert main([*given, *some, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "UNSOUND" in said.out and "latent-estimated" in said.out
    header, row = (tmp_path / "run" / "certificates.tsv").read_text().splitlines()[:2]
    cells = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert (cells["sound"], cells["method"]) == ("0", "latent-estimated")
    assert json.loads(cells["details"])["points"] == 4
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["notes"]["sound"] is False
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "no theorem supports these radii" in capsys.readouterr().out


def test_what_cannot_be_estimated_is_one_sentence() -> None:
    certifier = get_certifier("latent-estimated")
    with pytest.raises(ConfigError, match="fit one with deqcert fit-latent"):
        certifier.check(load_model("digits"))
    with pytest.raises(ConfigError, match="fit the head qda"):
        get_certifier("latent-estimated", formula="published").check(hidden_ridge())
