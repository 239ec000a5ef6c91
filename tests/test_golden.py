"""Our solvers on the real checkpoint, against what the original implementation computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deqcert.models import load_model
from deqcert.solvers import SOLVERS, StopRule, bind, get_solver

pytestmark = pytest.mark.usefixtures("golden_folder")


@pytest.fixture(scope="module")
def golden(golden_folder):
    with np.load(golden_folder / "mdeq_small_noise25.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def model(golden_folder):
    return load_model(golden_folder / "mdeq_small_noise25.pth.tar").eval()


def logits(model, golden, kind, name, stop):
    x = golden["x"].float() / 255
    with torch.no_grad():
        injection = model.inject(x + golden["noise"] if kind == "noisy" else x)
        start = model.initial_state(injection)
        return model.readout(get_solver(name).solve(bind(model.cell, injection), start, stop).z)


def distance(found, wanted):
    return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()


@pytest.mark.parametrize("kind", ["clean", "noisy"])
@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "picard"])
def test_the_equilibrium_of_float64_is_found(golden, model, kind, name):
    truth = golden[f"{kind}_logits_equilibrium_float64"]
    found = logits(model, golden, kind, name, StopRule(tol=2e-6, max_nfe=100))
    assert distance(found, truth) < 1e-4


@pytest.mark.parametrize("kind", ["clean", "noisy"])
@pytest.mark.parametrize(("name", "depth"), [("anderson", 30), ("broyden", 20)])
def test_as_many_evaluations_come_as_close_as_the_original_solver(golden, model, kind, name, depth):
    truth = golden[f"{kind}_logits_equilibrium_float64"]
    original = golden[f"{kind}_logits_{name}{depth}"]
    found = logits(model, golden, kind, name, StopRule(tol=0, max_nfe=depth))
    assert distance(found, truth) < max(3 * distance(original, truth), 5e-5)
    assert distance(found, original) < 5e-4
    assert torch.equal(found.argmax(1), original.argmax(1))


@pytest.mark.parametrize("kind", ["clean", "noisy"])
@pytest.mark.parametrize("depth", range(1, 6))
def test_picard_makes_exactly_the_evaluations_asked_for(golden, model, kind, depth):
    found = logits(model, golden, kind, "picard", StopRule(tol=0, max_nfe=depth))
    assert distance(found, golden[f"{kind}_logits_picard{depth}"]) < 1e-5
