"""Proofs around an input: nothing is found inside, and planted mistakes are caught."""

from __future__ import annotations

import dataclasses
import functools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_proofs import (
    GOLDEN,
    KINDS,
    SHAPE,
    equilibrium,
    needs_golden,
    network,
    parts,
    refuted,
)

from deqcert.certifiers import get_certifier
from deqcert.models import load_model
from deqcert.proofs import (
    LOCAL,
    LocalMultipliers,
    Margins,
    Neighbourhood,
    are_semidefinite,
    local,
    local_radii,
    margins,
    margins_of,
    multiplier_bound,
    verified_radii,
)
from deqcert.proofs.local_search import search
from deqcert.smoothing import Input


def images(points: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(points, *SHAPE, generator=generator, dtype=torch.float64)


@functools.cache
def proven(kind: str, seed: int) -> tuple:
    """A model, and its local proofs on top of constants that cost nothing."""
    model = network(kind, seed)
    return model, Margins(model, "classical").locally()


@functools.cache
def around(kind: str, seed: int = 0):
    """A model's form, inputs, and what is known there of the rivals that limit them."""
    model, found = proven(kind, seed)
    points = 20
    x = images(points, seed)
    leads = found.each(x, tol=1e-12, depth=500)
    reach = torch.stack([lead.gaps for lead in leads])
    best = torch.tensor([lead.best for lead in leads])
    reach[torch.arange(points), best] = math.inf
    gap, against = reach.min(dim=1)
    form = model.relu_form()
    readout = form.readout[best] - form.readout[against]
    known = Neighbourhood(
        readout,
        gap,
        torch.stack([lead.entering for lead in leads]),
        torch.tensor([lead.entering_error for lead in leads], dtype=torch.float64),
        *local.beginning(form, readout, [multiplier_bound(form, row) for row in readout]),
    )
    assert (gap > 0).all()
    return form, x.flatten(1), known


def never(known) -> torch.Tensor:
    return torch.full_like(known.gap, math.inf)


@functools.cache
def searched(kind: str, seed: int = 0):
    form, _, known = around(kind, seed)
    return search(
        form.state,
        form.input @ form.input.T,
        form.monotone,
        known.readout,
        known.gap,
        known.entering,
        never(known),
        known.constant,
        known.multiplier,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_radius_is_never_below_that_of_the_constants(kind):
    model, found = proven(kind, 0)
    leads = found.each(images(32, 5), tol=1e-10, depth=500)
    more = torch.tensor([radius for radius, _ in found.radii(leads)])
    least = torch.tensor([radius for radius, _ in Margins(model, "classical").radii(leads)])
    assert (more >= least).all()
    assert more.mean() > 1.1 * least.mean()


def test_a_local_radius_is_longer_than_that_of_the_smallest_constants():
    model, _ = proven("monotone", 0)
    rules = [margins_of(model, rule) for rule in ("multiplier", LOCAL)]
    leads = rules[1].each(images(32, 5), tol=1e-10, depth=500)
    least, more = (torch.tensor([radius for radius, _ in rule.radii(leads)]) for rule in rules)
    assert (more >= least).all()
    assert more.mean() > 1.05 * least.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found_inside_local_radii(kind):
    assert refuted(*proven(kind, 0), 72, seed=0) == 0


def test_local_radii_are_tight_enough_that_a_tenth_more_is_refuted(monkeypatch):
    honest = Margins.radii
    monkeypatch.setattr(
        Margins, "radii", lambda self, leads: [(1.1 * r, rival) for r, rival in honest(self, leads)]
    )
    assert refuted(*proven("monotone", 0), 72, seed=0) > 0


def test_ignoring_how_far_units_are_from_changing_is_caught(monkeypatch):
    honest = margins.entering

    def further(*args):
        inside, off = honest(*args)
        return 3.0 * inside, off

    monkeypatch.setattr(margins, "entering", further)
    assert refuted(*proven("monotone", 0), 72, seed=0) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_proof_at_a_radius_is_none_beyond_it(kind):
    form, _, known = around(kind)
    radii, multipliers = searched(kind)
    long = radii > 1e-2
    assert long.sum() > 10
    assert verified_radii(form, known, multipliers, (1 - 1e-6) * radii)[long].all()
    assert not verified_radii(form, known, multipliers, (1 + 1e-6) * radii).any()


def test_multipliers_of_the_wrong_sign_are_not_believed(monkeypatch):
    """Of q and t below 0, which would prove more than is true."""
    form, _, known = around("monotone", 2)
    radii, honest = searched("monotone", 2)
    lifted = (-honest.gap[:, None] * known.readout).clamp_min(0.0)
    floor = honest.floor + 0.1 * (lifted - honest.floor).clamp_min(0.0)
    more = LocalMultipliers(honest.gap, honest.product, honest.rise, floor)
    assert not verified_radii(form, known, more, 1.01 * radii).any()
    negative = LocalMultipliers(honest.gap, -honest.product, honest.rise, honest.floor)
    assert not verified_radii(form, known, negative, 0.5 * radii).any()
    monkeypatch.setattr(local, "allowed", lambda given, most: given)
    assert verified_radii(form, known, more, 1.01 * radii).any()


@pytest.mark.parametrize("kind", KINDS[::2])
def test_what_is_known_less_well_proves_less(kind):
    form, _, known = around(kind)
    radii, multipliers = searched(kind)
    tight = (1 - 1e-5) * radii
    assert verified_radii(form, known, multipliers, tight).sum() > 10
    for vague in (
        dataclasses.replace(form, state_error=1e-3 * form.state.norm().item()),
        dataclasses.replace(form, input_error=1e-3 * form.input.norm().item()),
    ):
        assert not verified_radii(vague, known, multipliers, tight).any()
    unsure = dataclasses.replace(known, error=known.entering.abs().amax(dim=1))
    assert not verified_radii(form, unsure, multipliers, tight).any()
    smaller = local_radii(form, unsure, never(known))
    assert (smaller <= tight).all()
    assert not verified_radii(form, known, multipliers, radii * math.nan).any()


@settings(deadline=None, max_examples=3)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), off=st.floats(0.0, 0.3))
def test_entering_values_may_be_anywhere_within_their_error(kind, seed, off):
    form, x, known = around(kind)
    generator = torch.Generator().manual_seed(seed)
    away = torch.randn(known.entering.shape, generator=generator, dtype=torch.float64)
    away *= off / away.norm(dim=1, keepdim=True)
    blurred = dataclasses.replace(known, entering=known.entering + away, error=known.error + off)
    radii = local_radii(form, blurred, never(known))
    bias = parts(proven(kind, 0)[0])[1]
    step = torch.randn(32, *x.shape, generator=generator, dtype=torch.float64)
    step *= (radii / step.norm(dim=2))[..., None]
    moved = equilibrium(form, bias, (x + step).flatten(0, 1)).view(32, len(x), -1)
    moved = moved - equilibrium(form, bias, x)
    assert (known.gap + (known.readout * moved).sum(dim=2) > 0).all()
    assert (radii <= 1.1 * local_radii(form, known, never(known))).all()


@pytest.mark.parametrize("kind", KINDS[::2])
def test_a_verified_matrix_is_semidefinite_in_forty_digits(kind):
    form, _, known = around(kind)
    radii, multipliers = searched(kind)
    radii = (1 - 1e-7) * radii
    assert verified_radii(form, known, multipliers, radii).all()
    with mpmath.workdps(40):
        w, u = mpmath.matrix(form.state.tolist()), mpmath.matrix(form.input.tolist())
        gram, operator = u * u.T, mpmath.eye(len(form.state)) - w
        row = 0
        mu, r = mpmath.mpf(multipliers.gap[row].item()), mpmath.mpf(radii[row].item())
        v, t, a, b, c = (
            [mpmath.mpf(value) for value in part[row].tolist()]
            for part in (
                known.entering,
                multipliers.product,
                multipliers.rise,
                multipliers.floor,
                known.readout,
            )
        )
        a = [min(k, s * max(e, 0)) for k, s, e in zip(a, t, v, strict=True)]
        b = [min(k, s * max(-e, 0)) for k, s, e in zip(b, t, v, strict=True)]
        cost = sum(max(-k, 0) * max(e, 0) for k, e in zip(b, v, strict=True))
        cost += sum(max(-k, 0) * max(-e, 0) for k, e in zip(a, v, strict=True))
        rise, scale = mpmath.matrix(a), mpmath.diag(t)
        line = mu * mpmath.matrix(c) + mpmath.matrix(b) + operator.T * rise
        line -= scale * gram * rise / 2
        scaled = scale * operator
        inner = (scaled + scaled.T) / 2 - scale * gram * scale / 4
        corner = (
            mu * mpmath.mpf(known.gap[row].item()) - r**2 - cost - (rise.T * gram * rise)[0] / 4
        )
        whole = mpmath.matrix(len(t) + 1)
        whole[0, 0] = corner
        for i in range(len(t)):
            whole[0, i + 1] = whole[i + 1, 0] = line[i] / 2
            for j in range(len(t)):
                whole[i + 1, j + 1] = inner[i, j]
        assert min(mpmath.eigsy(whole, eigvals_only=True)) >= 0


def test_several_matrices_are_judged_as_each_alone():
    eye = torch.eye(3, dtype=torch.float64)
    matrices = torch.stack((eye, -eye, eye * math.nan, 1e-3 * eye, eye))
    errors = torch.tensor([0.5, 0.0, 0.0, 0.1, math.inf], dtype=torch.float64)
    assert are_semidefinite(matrices, errors).tolist() == [True, False, False, False, False]


def test_a_certificate_of_a_local_proof_says_what_it_rests_on():
    model, _ = proven("monotone", 0)
    for index, x in enumerate(torch.rand(3, *SHAPE)):
        one, other = (
            get_certifier("lipschitz", bound=bound).certify(model, Input(x, index))
            for bound in ("multiplier", LOCAL)
        )
        assert other.prediction == one.prediction
        assert other.radius >= one.radius
        assert other.details.gap >= other.details.lipschitz * other.radius
        assert "local" in other.assumptions


@needs_golden
def test_a_published_network_is_proven_half_as_far_again_as_by_its_classical_constants():
    model = load_model(GOLDEN / "mon_h40_m20.0.pt")
    found = Margins(model, "classical")
    ramp = torch.linspace(0, 1, 784).reshape(1, 1, 28, 28)
    x = ramp * torch.linspace(0.4, 1, 4)[:, None, None, None]
    before = found.radii(found.each(x, tol=1e-10, depth=1000))
    found = found.locally()
    after = found.radii(found.each(x, tol=1e-10, depth=1000))
    for (less, _), (more, _) in zip(before, after, strict=True):
        assert more > 1.5 * less > 0
