"""Training for proven radii: the bounds, the searches, the losses, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trainings import small_training

from deqcert.cli import main
from deqcert.errors import ConfigError
from deqcert.models import (
    ContractiveConfig,
    IntervalConfig,
    LipschitzBoundedConfig,
    LipschitzModel,
    MonotoneConfig,
    interval_relaxation,
    load_model,
)
from deqcert.proofs import margins_of, pairwise_bounds
from deqcert.training import TrainConfig, get_objective, train
from deqcert.training.objectives import TrainingBatch
from deqcert.training.objectives.balance import imbalance
from deqcert.training.passes import Passes
from deqcert.training.proof import LipschitzProof, Proof, WorstCase, prove
from deqcert.training.roots import roots

SIZES = {"num_classes": 3, "image_size": (4, 4), "mean": (0.3,), "std": (0.3,)}
MODELS = {
    "l2": LipschitzBoundedConfig(8, **SIZES, lipschitz=2.0),
    "linf": IntervalConfig(8, **SIZES),
}
CERTIFIED = ("adaptive", "fixed-radius", "small-box")


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    return x, torch.arange(count) % 3


def passes(norm: str, seed: int = 0) -> Passes:
    torch.manual_seed(seed)
    config = TrainConfig(out=Path("out"), tol=1e-6, max_nfe=100, backward_nfe=100)
    return Passes(MODELS[norm].build().train(), config, torch.Generator().manual_seed(0))


def batch(norm: str, share: float = 1.0, seed: int = 0) -> TrainingBatch:
    made, (x, y) = passes(norm, seed), images()
    return TrainingBatch(
        *(
            x,
            y,
            made,
            made.attacked,
            torch.Generator().manual_seed(0),
            share,
            made.quick,
            made.latents,
        ),
        prove=made.prove,
    )


# The closed form.

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.5, 1.0, 0.75], [0.0, 2.0, 9.0], [9.0, 1.0, 0.0]])
SLOPES = torch.tensor([[0.0, 2.0, 4.0], [2.0, 0.0, 1.0], [4.0, 1.0, 0.0]])


def test_lipschitz_radii_and_margins_are_their_quotients_and_differences() -> None:
    proof = LipschitzProof(LOGITS, torch.tensor([0, 1, 0, 0]), SLOPES)
    assert proof.radii(2.0, 1).tolist() == [0.75, 0.25, 0.0, 2.0]
    assert proof.radii(0.5, 1).tolist() == [0.5, 0.25, 0.0, 0.5]
    found = proof.worst_case(torch.tensor([0.75, 0.25, 1.0, 0.0])).margins
    expected = [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, -4.0, -13.0], [0.0, 8.0, 9.0]]
    assert found.tolist() == expected


def test_the_losses_are_what_is_computed_by_hand() -> None:
    y = torch.tensor([0, 1, 0, 0])
    task = dataclasses.replace(
        batch("l2"), y=y, prove=lambda x, y: LipschitzProof(LOGITS, y, SLOPES), x=images(4)[0]
    )
    clean = F.cross_entropy(LOGITS, y).item()
    for name, radii in (("adaptive", (0.5, 0.25, 1e-6, 0.5)), ("fixed-radius", (0.5,) * 4)):
        worst = []
        for row, radius in enumerate(radii):
            gaps = [
                LOGITS[row, y[row]] - LOGITS[row, j] - SLOPES[y[row], j] * radius
                for j in range(3)
                if j != y[row]
            ]
            worst.append(math.log(1.0 + sum(math.exp(-gap) for gap in gaps)))
        for kappa in (0.0, 0.3, 1.0):
            objective = get_objective(name, 0.0, kappa=kappa, radius=0.5)
            expected = (1.0 - kappa) * np.mean(worst) + kappa * clean
            assert objective.loss(task).item() == pytest.approx(expected, rel=1e-5)
        # Halfway through the warm-up nobody is trained beyond half of the radius.
        early = get_objective(name, 0.0, radius=1.0, warmup=0.5, kappa=0.0)
        now = early.loss(dataclasses.replace(task, share=0.25)).item()
        late = get_objective(name, 0.0, radius=0.5, warmup=0.5, kappa=0.0)
        assert now == pytest.approx(late.loss(task).item(), rel=1e-6)


@pytest.mark.parametrize("kind", [MonotoneConfig, ContractiveConfig, LipschitzBoundedConfig])
def test_slopes_that_train_are_those_that_are_proven_but_for_rounding(kind: type) -> None:
    torch.manual_seed(0)
    model = kind(8, **SIZES).build().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.01 * torch.randn_like(parameter))
        model.inject(torch.rand(2, *model.input_shape))  # what a step would project
    assert isinstance(model, LipschitzModel)
    found = model.pairwise_lipschitz()
    assert (found.diagonal() == 0).all()
    if kind is LipschitzBoundedConfig:
        assert found[0, 1].item() == pytest.approx(math.sqrt(2.0) * model.config.lipschitz)
        proven = margins_of(model.eval(), "multiplier").constants
        assert (proven <= found.detach() * (1 + 1e-6)).all()
        return
    proven = pairwise_bounds(model.relu_form(), "classical")
    torch.testing.assert_close(found.detach(), proven, rtol=2e-3, atol=0.0)
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    weight = next(p for p in model.parameters() if p.dim() == 2)
    with torch.no_grad():
        before, way = model.pairwise_lipschitz().sum(), 1e-5 * torch.randn_like(weight)
        weight.add_(way)
        change = (model.pairwise_lipschitz().sum() - before).item()
    assert change == pytest.approx((weight.grad * way).sum().item(), rel=0.05, abs=1e-4)


# The search.


@settings(deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=6),
    bend=st.floats(0.1, 5.0),
    size=st.floats(1e-3, 1e3),
)
def test_a_search_finds_from_below_where_a_value_becomes_negative(
    cuts: list[float], bend: float, size: float
) -> None:
    cut, limit = torch.tensor(cuts, dtype=torch.float64), 1.2
    seen = torch.zeros(len(cuts))

    def value(rows: Tensor, radii: Tensor) -> Tensor:
        seen[rows] += 1
        gap = cut[rows] - radii
        return size * gap.sign() * gap.abs() ** bend

    start = value(torch.arange(len(cuts)), torch.zeros(len(cuts), dtype=torch.float64))
    seen.zero_()
    found = roots(value, start, limit, 30)
    expected = cut.clamp(0.0, limit)
    assert (found <= expected).all()
    assert (found >= expected - 0.005 * limit - 1e-12).all()
    assert seen.max() <= 30
    assert (seen[cut <= 0] == 0).all() and (seen[cut >= limit] <= 1).all()
    assert (roots(value, start, limit, 4) <= expected).all()


def test_a_search_takes_what_is_not_a_number_for_negative() -> None:
    def value(rows: Tensor, radii: Tensor) -> Tensor:
        return torch.where(radii > 0.3, torch.nan, 1.0)

    found = roots(value, torch.tensor([1.0, torch.nan, -torch.inf, torch.inf]), 1.0, 40)
    assert found[0] == pytest.approx(0.3, abs=0.005) and found[0] <= 0.3
    assert (found[1:] == 0.0).all()


def interval_proof() -> Proof:
    made, x = passes("linf"), images()[0]
    logits = made(x)
    return made.prove(x, logits.argmax(dim=1))


def test_radii_of_boxes_are_those_of_a_fine_grid() -> None:
    proof = interval_proof()
    found = proof.radii(0.2, 40)
    with torch.no_grad():
        grid = torch.linspace(0.0, 0.2, 41)
        least = torch.stack(
            [
                margins.scatter(1, proof._y[:, None], torch.inf).amin(dim=1)
                for margins in (
                    proof.worst_case(torch.full((12,), r)).margins for r in grid.tolist()
                )
            ]
        )
    brute = grid[(least >= 0).sum(dim=0).sub(1).clamp_min(0)]
    assert ((found - brute) > -0.005 * 0.2 - 1e-3).all() and ((found - brute) < 0.005 + 1e-3).all()
    assert (found > 0.01).sum() > 3
    assert (proof.worst_case(found).margins > -1e-3).all()


def test_a_warm_start_changes_no_bound_and_the_bound_is_differentiable() -> None:
    radii = torch.full((12,), 0.05)
    cold, warm = interval_proof(), interval_proof()
    warm.radii(0.2, 6)
    ours, theirs = (each.worst_case(radii) for each in (cold, warm))
    torch.testing.assert_close(ours.margins, theirs.margins, atol=2e-3, rtol=1e-2)
    assert len(ours.layers) == 2
    model = MODELS["linf"].build().train()
    x, y = images()
    prove(model, lambda x: torch.zeros(len(x), 3), x, y).worst_case(radii).margins.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.weight.grad.abs().sum() > 0


def boxes_and_lines(eps: float, kernel: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Margins by intervals and by lines, and the least of many images inside; shape (B, K)."""
    sizes = {} if kernel else {"kernel": 0, "strides": (2,)}
    torch.manual_seed(1)
    model = IntervalConfig(
        6, **SIZES, **({"kernel": kernel, "strides": (2, 1)} | sizes), block=(5,)
    ).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model = model.eval().double()
    x, y = images()
    x = x.double()

    def forward(x: Tensor) -> Tensor:
        injection = model.inject(x)
        z = model.initial_state(injection)
        for _ in range(200):
            z = model.cell(z, injection)
        return model.readout(z)

    with torch.no_grad():
        proof = prove(model, forward, x, y)
        proof.radii(0.5, 60)  # ends near the fixed point
        for _ in range(30):  # the box of states is solved anew from there each time
            worst = proof.worst_case(torch.full((12,), eps))
        lines, least = proof.relaxed(worst), torch.full((12, 3), torch.inf).double()
        noise = torch.Generator().manual_seed(2)
        for draw in range(200):
            way = 2.0 * torch.rand(x.shape, generator=noise).double() - 1.0
            logits = forward((x + eps * (way.sign() if draw % 2 else way)).clamp(0.0, 1.0))
            least = torch.minimum(least, logits.gather(1, y[:, None]) - logits)
    return worst.margins, lines, least


@pytest.mark.parametrize("kernel", [0, 3])
def test_lines_hold_what_intervals_hold_and_are_tighter_in_small_boxes(kernel: int) -> None:
    for eps in (0.0, 0.01, 0.1, 0.4):
        boxes, lines, least = boxes_and_lines(eps, kernel)
        assert (lines.gather(1, images()[1][:, None]).abs() < 1e-9).all()
        assert (boxes <= least + 1e-3).all() and (lines <= least + 1e-3).all()
        if eps == 0.0:
            torch.testing.assert_close(lines, least, atol=2e-3, rtol=1e-3)
        if eps == 0.01:
            assert (lines - boxes).mean() > 0.0


def test_a_line_through_a_relu_with_the_chord_below_is_noticed(monkeypatch) -> None:
    right = interval_relaxation._through_relu
    monkeypatch.setattr(
        interval_relaxation,
        "_through_relu",
        lambda slopes, box: tuple(-f for f in right(-slopes, box)),
    )
    _, lines, least = boxes_and_lines(0.1)
    assert (lines > least + 1e-3).any()


def test_crown_ibp_ends_as_the_fixed_radius_and_begins_with_lines() -> None:
    for share, same in ((1.0, True), (0.1, False)):
        ours, theirs = (
            get_objective(name, 0.0, radius=0.1, kappa=0.0).loss(batch("linf", share)).item()
            for name in ("crown-ibp", "fixed-radius")
        )
        assert (ours == pytest.approx(theirs, rel=1e-6)) is same
    with pytest.raises(ConfigError, match="by Lipschitz constants"):
        get_objective("crown-ibp", 0.0).check("l2")


# The objectives through models.


@pytest.mark.parametrize("norm", MODELS)
def test_a_small_box_that_is_the_whole_ball_is_the_fixed_radius(norm: str) -> None:
    whole = get_objective("small-box", 0.0, radius=0.1, part=1.0).loss(batch(norm))
    fixed = get_objective("fixed-radius", 0.0, radius=0.1).loss(batch(norm))
    assert whole.item() == pytest.approx(fixed.item(), rel=1e-4)
    nothing = get_objective("small-box", 0.0, radius=0.1, part=0.3, kappa=0.0).loss(batch(norm))
    clean = F.cross_entropy(passes(norm)(images()[0]), images()[1])
    assert (
        clean
        < nothing
        < get_objective("fixed-radius", 0.0, radius=0.1, kappa=0.0).loss(batch(norm))
    )


@pytest.mark.parametrize("norm", MODELS)
def test_where_only_accuracy_counts_all_are_the_cross_entropy(norm: str) -> None:
    clean = F.cross_entropy(passes(norm)(images()[0]), images()[1]).item()
    for name in CERTIFIED:
        loss = get_objective(name, 0.0, kappa=1.0, radius=0.1).loss(batch(norm))
        assert loss.item() == pytest.approx(clean, rel=1e-4)


def test_imbalance_is_what_is_computed_by_hand() -> None:
    pixels = (torch.zeros(2, 2), torch.full((2, 2), 0.1))
    centre = torch.tensor([[2.0, 4.0, -1.0, -2.0, 0.0]])
    layer = (centre, torch.tensor([[0.4, 0.4, 0.4, 0.4, 0.4]]))
    means, variances = 1.5 / 3.0, 0.5 / 2.0
    expected = (1 - (0.1 / 0.4) / 0.5) + (1 - means / 0.5) + (1 - variances / 0.5)
    assert imbalance((pixels, layer)).item() == pytest.approx(expected)
    narrow = (centre, torch.full((1, 5), 0.05))
    assert imbalance((pixels, narrow)).item() == pytest.approx(0.0 + 0.0 + 0.5)
    assert imbalance(()).item() == 0.0
    # While the radius grows it is paid, afterwards it is not.
    objective = get_objective("fixed-radius", 0.0, radius=0.1, warmup=0.5, kappa=1.0)
    paid = objective.loss(batch("linf", share=0.1)).item()
    assert paid > objective.loss(batch("linf", share=0.5)).item()


# The command.


def small(tmp_path: Path, norm: str, **given: object) -> TrainConfig:
    config = small_training(tmp_path)
    text = yaml.safe_load(MODELS[norm].to_yaml())
    config.model_config.write_text(yaml.safe_dump(text))
    return dataclasses.replace(config, sigma=0.0, pretrain=0.0, jacobian_weight=0.0, **given)


@pytest.mark.parametrize("norm", MODELS)
def test_a_training_measures_the_radii_that_it_trains(norm: str, tmp_path: Path) -> None:
    given = {"radius": 0.25, "kappa": 0.3}
    path = train(
        small(tmp_path, norm, objective="adaptive", objective_options=given, epochs=5, lr=0.05)
    )
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["parameters"]["objective_options"].items() >= given.items()
    assert record["measured"]["clean_accuracy"] == record["measured"]["noisy_accuracy"] > 0.9
    assert 0.05 < record["measured"]["acr_own_bound"] <= 0.25
    with path.with_suffix(".curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0.0 < float(rows[-1]["acr_own_bound"]) <= 0.25
    if norm == "l2":  # what is proven is at least what the training thought
        model, data = load_model(path), np.load(tmp_path / "test.npz")
        margins = margins_of(model, "multiplier")
        leads = margins.each(torch.from_numpy(data["x"]), tol=1e-9, depth=500)
        radii = [
            min(0.25, margins.radius(lead)[0]) * (lead.best == y)
            for lead, y in zip(leads, data["y"], strict=True)
        ]
        assert np.mean(radii) >= record["measured"]["acr_own_bound"] - 1e-3


@pytest.mark.parametrize(
    ("architecture", "options", "text"),
    [
        ("tiny", "", "this one proves nothing; use --architecture lipschitz-bounded"),
        ("interval", "radius=1.5", "radius is 1.5, but pixels are in [0, 1]"),
        (
            "interval",
            "kappa=1.5",
            "adaptive option kappa is 1.5, but it must be a number from 0 to 1",
        ),
        ("lipschitz-bounded", "radius=0", "option radius is 0, but it must be a number above 0"),
        ("lipschitz-bounded", "search=0", "whole number from 1 to 100"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    architecture: str, options: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--objective", "adaptive", "--architecture", architecture, "--quiet"]
    command += ["--out", str(tmp_path), "--sigma", "0"]
    command += ["--objective-option", options] if options else []
    assert main(command) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_worst_case_without_intervals_has_no_layers() -> None:
    assert WorstCase(torch.zeros(1, 2)).layers == ()
    with pytest.raises(ConfigError, match="proves nothing"):
        get_objective("adaptive", 0.0).check(None)
