"""Objectives: each is its paper's formula, differentiable, repeatable and safe at the edges."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from trainings import small_training

from deqcert.attacks.pgd import pgd
from deqcert.cli import main
from deqcert.data import load_dataset
from deqcert.errors import CheckpointError, ConfigError, DataError
from deqcert.models import ARCHITECTURES, file_hash, load_model
from deqcert.starts.file import load_start, start_path
from deqcert.training import (
    AUGMENTATIONS,
    OBJECTIVES,
    TrainConfig,
    get_objective,
    objective_options,
    train,
)
from deqcert.training.extra import with_extra
from deqcert.training.objectives import TrainingBatch
from deqcert.training.objectives.base import log_average
from deqcert.training.passes import Passes
from deqcert.training.proof import LipschitzProof
from deqcert.training.starts import StartConfig, train_start

CLASSES = 3
NOISY = ("smoothadv", "consistency", "macer")


class Net(nn.Module):
    """A small smooth classifier."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last, self.scale = nn.Linear(16, 8), nn.Linear(8, CLASSES), scale

    def forward(self, x: Tensor) -> Tensor:
        """Map images, shape (B, 1, 4, 4), to logits."""
        logits: Tensor = self.scale * self.last(torch.tanh(self.first(x.flatten(1))))
        return logits


def batch(net: Callable[[Tensor], Tensor], *, seed: int = 0, share: float = 1.0) -> TrainingBatch:
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    return TrainingBatch(
        x=images,
        y=torch.arange(5) % CLASSES,
        forward=net,
        attacked=net,
        generator=torch.Generator().manual_seed(seed),
        share=share,
        quick=lambda x, steps: torch.stack([net(x) / k for k in range(2, steps + 2)]),
        latents=net,
        prove=lambda x, y: LipschitzProof(net(x), y, slopes(net)),
        teacher=lambda x: 8.0 * nn.functional.one_hot(torch.arange(5) % CLASSES, CLASSES).float(),
    )


def slopes(net: Net) -> Tensor:
    """How fast differences of logits change at most: tanh changes no faster than its input."""
    size = net.scale * torch.linalg.matrix_norm(net.first.weight, 2)
    return (net.last.weight[:, None] - net.last.weight).square().sum(2).clamp_min(
        1e-9
    ).sqrt() * size


def probabilities(net: Net, images: Tensor, sigma: float, draws: int, seed: int = 0) -> np.ndarray:
    """Softmax of every noisy copy, shape (m, B, K), by NumPy from the logits on."""
    generator = torch.Generator().manual_seed(seed)
    noise = sigma * torch.randn((draws, *images.shape), generator=generator)
    with torch.no_grad():
        logits = [net(images + draw).double().numpy() for draw in noise]
    return special.softmax(np.stack(logits), axis=2)


@pytest.mark.parametrize("name", OBJECTIVES.names())
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_every_objective_is_a_differentiable_scalar(name: str, share: float) -> None:
    net = Net()
    loss = get_objective(name, 0.5).loss(batch(net, share=share))
    assert loss.ndim == 0
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    loss.backward()
    for parameter in net.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_is_repeatable(name: str) -> None:
    objective, net = get_objective(name, 0.5), Net()
    losses = [objective.loss(batch(net, seed=seed)).item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_learns(name: str) -> None:
    net, options = Net(), {"radius": 0.2} if name == "smoothadv" else {}
    objective = get_objective(name, 0.1, **options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    losses = []
    for seed in range(60):
        loss = objective.loss(batch(net, seed=seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_takes_saturated_logits(name: str) -> None:
    for scale in (1e-6, 1e3, 1e6):
        net = Net(scale)
        loss = get_objective(name, 0.5).loss(batch(net))
        loss.backward()
        assert math.isfinite(loss.item())
        assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_noise_is_in_pixel_units(name: str) -> None:
    noise = get_objective(name, 0.25).noise(batch(Net()), 100)
    assert noise.shape == (100, 5, 1, 4, 4)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.25, abs=0.01)


def test_gaussian_is_the_cross_entropy_of_one_noisy_copy() -> None:
    net = Net()
    task = batch(net)
    p = probabilities(net, task.x, 0.25, 1)[0]
    expected = -np.log(p[np.arange(5), task.y.numpy()]).mean()
    assert get_objective("gaussian", 0.25).loss(task).item() == pytest.approx(expected, rel=1e-5)


def test_consistency_is_its_formula() -> None:
    net = Net(4.0)
    task = batch(net)
    p = probabilities(net, task.x, 0.4, 4)
    mean = p.mean(axis=0)
    cross = -np.log(p[:, np.arange(5), task.y.numpy()]).mean()
    divergence = np.mean([stats.entropy(mean, each, axis=1) for each in p])
    entropy = stats.entropy(mean, axis=1).mean()
    loss = get_objective("consistency", 0.4, draws=4, weight=7.0, entropy=0.3).loss(task)
    assert loss.item() == pytest.approx(cross + 7.0 * divergence + 0.3 * entropy, rel=1e-5)


def test_faithful_is_its_formula_and_teaches_the_first_evaluations_only() -> None:
    net, steps = Net(4.0), [Net(k) for k in (1.0, 2.0)]
    task = dataclasses.replace(
        batch(net), quick=lambda x, k: torch.stack([step(x) for step in steps[:k]])
    )
    p, *others = (probabilities(each, task.x, 0.4, 1)[0] for each in (net, *steps))
    cross = -np.log(p[np.arange(5), task.y.numpy()]).mean()
    divergence = np.mean([stats.entropy(p, other, axis=1) for other in others])
    loss = get_objective("faithful", 0.4, steps=2, weight=7.0).loss(task)
    assert loss.item() == pytest.approx(cross + 7.0 * divergence, rel=1e-5)
    loss.backward()
    plain = Net(4.0)
    get_objective("gaussian", 0.4).loss(batch(plain)).backward()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad.abs().sum() > 0 for step in steps for p in step.parameters())


@pytest.mark.parametrize("beta", [1.0, 16.0])
def test_macer_is_its_formula(beta: float) -> None:
    net = Net(3.0)
    task = batch(net)
    y = net(task.x).argmax(dim=1)
    y[0] = (y[0] + 1) % CLASSES  # one that is wrong pays no hinge
    task = dataclasses.replace(task, y=y)
    options = {"draws": 8, "weight": 5.0, "margin": 6.0, "beta": beta}
    mean = probabilities(net, task.x, 0.4, 8).mean(axis=0)
    vote = special.softmax(beta * np.log(probabilities(net, task.x, 0.4, 8)), axis=2).mean(axis=0)
    expected, hinges = -np.log(mean[np.arange(5), y.numpy()]).mean(), 0
    for row, label in zip(vote, y.numpy(), strict=True):
        mine, following = row[label], np.delete(row, label).max()
        if mine > following:
            hinge = max(0.0, 6.0 - (stats.norm.ppf(mine) - stats.norm.ppf(following)))
            expected += 5.0 * 0.4 / 2.0 * hinge / 5
            hinges += hinge > 0
    assert hinges >= 2
    assert get_objective("macer", 0.4, **options).loss(task).item() == pytest.approx(
        expected, rel=1e-5
    )
    late = get_objective("macer", 0.4, **options, deferred=0.5)
    early = late.loss(dataclasses.replace(batch(net, share=0.4), y=y)).item()
    assert early == pytest.approx(-np.log(mean[np.arange(5), y.numpy()]).mean(), rel=1e-5)


def test_distill_is_the_divergence_from_the_teacher_and_the_cross_entropy() -> None:
    net, other = Net(), Net(3.0)
    task = dataclasses.replace(batch(net), teacher=other)
    own = probabilities(net, task.x, 0.25, 1)[0]
    halved = probabilities(Net(0.5), task.x, 0.25, 1)[0]  # a temperature of 2
    told = probabilities(Net(1.5), task.x, 0.25, 1)[0]
    divergence = (told * np.log(told / halved)).sum(axis=1).mean()
    cross = -np.log(own[np.arange(5), task.y.numpy()]).mean()
    found = get_objective("distill", 0.25, weight=0.3).loss(task)
    assert found.item() == pytest.approx(0.3 * 4.0 * divergence + 0.7 * cross, rel=1e-4)
    same = dataclasses.replace(task, teacher=net)
    assert get_objective("distill", 0.25, weight=1.0).loss(same).item() == pytest.approx(
        0.0, abs=1e-6
    )


def test_a_student_learns_from_a_teacher(tmp_path: Path) -> None:
    yaml = (
        load_model("digits").config.to_yaml().replace("EXPANSION_FACTOR: 2", "EXPANSION_FACTOR: 1")
    )
    (tmp_path / "student.yaml").write_text(yaml)
    config = dataclasses.replace(
        short(tmp_path),
        objective="distill",
        teacher="digits",
        model_config=tmp_path / "student.yaml",
    )
    path = train(config)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["data_sha256"]["teacher"] == file_hash("digits")
    assert record["parameters"]["objective_options"] == {"weight": 0.9, "temperature": 2.0}
    assert load_model(path).config.expansion_factor == 1


def test_a_teacher_must_fit_the_data(tmp_path: Path) -> None:
    config = short(tmp_path)
    with pytest.raises(ConfigError, match="objective distill learns from a teacher"):
        dataclasses.replace(config, objective="distill")
    x, y = arrays("train")
    np.savez(tmp_path / "train.npz", x=x[y < 8], y=y[y < 8])
    fewer = {"data": f"npz:{tmp_path / 'train.npz'}", "test_data": "digits"}
    taught = {"objective": "distill", "teacher": "digits"}
    with pytest.raises(ConfigError, match=r"the teacher knows 10 classes, but .* has 8"):
        train(dataclasses.replace(config, **fewer, **taught))
    pixels = np.random.default_rng(0).random((600, 1, 8, 16))
    np.savez(tmp_path / "wide.npz", x=pixels, y=np.arange(600) % 10)
    wide = {"data": f"npz:{tmp_path / 'wide.npz'}", "test_data": "digits"}
    with pytest.raises(ConfigError, match="the teacher takes"):
        train(dataclasses.replace(config, name="wide", **wide, **taught))
    (tmp_path / "junk.pth").write_bytes(bytes(500))
    with pytest.raises(CheckpointError, match="junk"):
        train(dataclasses.replace(config, objective="distill", teacher=str(tmp_path / "junk.pth")))


def test_macer_holds_exactly_the_rows_below_the_margin() -> None:
    # Logits that do not depend on the image: the gap of each row is known.
    gaps = [0.5, 3.0, 7.0, 9.0, 12.0]
    q = [stats.norm.sf(gap / 2) for gap in gaps]  # two classes: the gap is 2 Phi^-1(1 - q)
    logits = torch.tensor([[math.log1p(-v) - math.log(v), 0.0] for v in q], requires_grad=True)
    task = TrainingBatch(
        torch.rand(5, 1, 4, 4),
        torch.zeros(5, dtype=torch.long),
        lambda x: logits.repeat(2, 1),
        lambda x: logits.repeat(2, 1),
        torch.Generator(),
        1.0,
        lambda x, steps: logits[None],
        lambda x: logits,
    )
    loss = get_objective("macer", 0.5, draws=2, weight=4.0, beta=1.0).loss(task)
    cross = torch.nn.functional.cross_entropy(logits, task.y)
    assert (loss - cross).item() == pytest.approx((7.5 + 5.0 + 1.0) / 5, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss - cross, logits)
    assert (gradient[:3, 0] < -1e-3).all()
    assert gradient[3:].abs().max() < 1e-6


def test_smoothadv_attacks_the_average_and_trains_on_the_same_draws() -> None:
    net, seen = Net(4.0), []
    task = batch(net)

    def forward(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return net(images)

    objective = get_objective("smoothadv", 0.4, draws=3, radius=0.6, steps=4)
    loss = objective.loss(dataclasses.replace(task, forward=forward))
    noise = 0.4 * torch.randn((3, *task.x.shape), generator=torch.Generator().manual_seed(0))

    def averaged(images: Tensor) -> Tensor:
        p = torch.stack([net(images + draw).softmax(dim=1) for draw in noise]).mean(dim=0)
        return -p[torch.arange(5), task.y].log()

    attacked = pgd(averaged, task.x, radius=0.6, steps=4)
    assert (averaged(attacked) > averaged(task.x)).all()
    (trained,) = seen
    assert torch.allclose(trained.view(3, 5, 1, 4, 4), attacked + noise, atol=1e-5)
    p = special.softmax(net(trained).detach().double().numpy(), axis=1).reshape(3, 5, CLASSES)
    expected = -np.log(p[:, np.arange(5), task.y.numpy()]).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_radius_of_smoothadv_grows() -> None:
    objective = get_objective("smoothadv", 0.4, radius=0.6, warmup=0.2)
    shares = (0.0, 0.1, 0.2, 1.0)
    found = [objective.radii(batch(Net(), share=share)) for share in shares]
    assert found == pytest.approx([0.0, 0.3, 0.6, 0.6])
    at_once = get_objective("smoothadv", 0.4, radius=0.6, warmup=0.0)
    assert at_once.radii(batch(Net(), share=0.0)) == 0.6


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
def test_both_attacks_of_smoothadv_raise_the_loss(attack: str) -> None:
    net = Net(4.0)
    task = batch(net)
    task = dataclasses.replace(task, y=net(task.x).argmax(dim=1))
    plain, hard = (
        get_objective("smoothadv", 0.1, radius=radius, attack=attack, steps=10, draws=4)
        for radius in (0.0, 0.8)
    )
    # DDN goes no further than to where the class changes.
    factor = 1.5 if attack == "pgd" else 1.1
    assert hard.loss(task) > factor * plain.loss(dataclasses.replace(task, generator=_fresh()))


def test_smoothadv_attacks_each_image_within_what_the_draws_would_certify() -> None:
    net = Net(4.0)
    task = batch(net)
    y = net(task.x).argmax(dim=1)
    y[0] = (y[0] + 1) % CLASSES  # one that is wrong is not attacked
    task = dataclasses.replace(task, y=y)
    p = probabilities(net, task.x, 0.4, 6).mean(axis=0)
    mine, following = p[np.arange(5), y.numpy()], p.copy()
    following[np.arange(5), y.numpy()] = 0.0
    own = 0.2 * (stats.norm.ppf(mine) - stats.norm.ppf(following.max(axis=1)))
    cap = float(np.median(own))
    objective = get_objective("smoothadv", 0.4, draws=6, radius=cap, adaptive=True, steps=8)
    noise = objective.noise(task, 6)
    way = (objective.fooling(task, noise) - task.x).flatten(1).norm(dim=1).numpy()
    expected = np.clip(own, 1e-6, cap)
    assert own[0] < 0.0 and (own > cap).any()
    assert (way <= expected * (1 + 1e-5)).all()
    assert (way > 0.5 * expected)[own > 0.0].all()  # the box [0, 1] may cut it


def _fresh() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", NOISY)
def test_without_noise_the_draws_are_one(name: str) -> None:
    net = Net()
    task = batch(net)
    options = {"radius": 0.0} if name == "smoothadv" else {}
    expected = torch.nn.functional.cross_entropy(net(task.x), task.y)
    if name == "consistency":
        p = net(task.x).softmax(dim=1)
        expected = expected - 0.5 * (p * p.log()).sum(dim=1).mean()
    assert get_objective(name, 0.0, **options).loss(task).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_an_average_keeps_what_nobody_believes_in() -> None:
    logits = torch.tensor([[[0.0, -500.0]], [[0.0, -600.0]]], requires_grad=True)
    found = log_average(logits)
    assert found[0, 1].item() == pytest.approx(-500.0 - math.log(2.0), rel=1e-6)
    found[0, 1].backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0, 1] > 0


def test_options_are_checked() -> None:
    for name, options, text in (
        (
            "smoothadv",
            {"radius": -0.1},
            "smoothadv option radius is -0.1, but it must be a number",
        ),
        ("smoothadv", {"steps": 2.5}, "whole number from 1"),
        ("smoothadv", {"draws": True}, "whole number"),
        ("smoothadv", {"attack": "fgsm"}, "must be one of pgd, ddn"),
        ("smoothadv", {"warmup": float("nan")}, "from 0 to 1"),
        ("consistency", {"draws": 1}, "from 2"),
        ("macer", {"margin": 0.0}, "from 0.01 to 30"),
        ("macer", {"lambda": 1.0}, "no macer option 'lambda'; there are draws, weight, margin"),
        ("gaussian", {"draws": 1}, "no gaussian option 'draws'; there is none"),
        ("magic", {}, "'magic'.* gaussian, smoothadv"),
    ):
        with pytest.raises(ConfigError, match=text):
            get_objective(name, 0.5, **options)
        with pytest.raises(ConfigError, match=text):
            TrainConfig(out=Path("out"), objective=name, objective_options=options)


# Through a model: what attacks may and may not touch.


@pytest.fixture(scope="module", params=["tiny", "contractive"])
def passes(request: pytest.FixtureRequest) -> Passes:
    torch.manual_seed(0)
    model = ARCHITECTURES.get(request.param).build().train()
    config = TrainConfig(out=Path("out"), max_nfe=12, backward_nfe=12)
    return Passes(model, config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("unrolled", [0, 3])
def test_attacked_passes_leave_no_trace(passes: Passes, unrolled: int) -> None:
    passes.unrolled = unrolled
    x = torch.rand(6, *passes.model.input_shape, generator=_fresh())
    passes(x)
    kept, nfe = passes._last, passes.nfe
    before = {name: value.clone() for name, value in passes.model.state_dict().items()}
    state = passes._generator.get_state()
    images = x.clone().requires_grad_()
    logits = passes.attacked(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert gradient.abs().sum() > 0
    after = passes.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(passes._generator.get_state(), state)
    assert all(parameter.grad is None for parameter in passes.model.parameters())
    assert all(parameter.requires_grad for parameter in passes.model.parameters())
    assert passes.model.training
    assert passes._last is kept
    assert passes.nfe == nfe


def test_the_adjoint_of_an_attacked_pass_sees_the_model_as_certified(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its solve comes after the pass, when the model is in training mode again."""
    passes.unrolled = 0
    model, cell = passes.model, passes.model.cell
    seen: list[tuple[bool, bool]] = []

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        seen.append((model.training, any(p.requires_grad for p in model.parameters())))
        return cell(*arguments)

    monkeypatch.setattr(model, "cell", watched)
    x = torch.rand(12, *model.input_shape, generator=_fresh()).requires_grad_()
    passes.begin()
    logits = passes.attacked(x)
    forward = len(seen)
    # Most rows have nothing to solve; the others go on in an evaluation of their own.
    torch.autograd.grad(logits[:4].square().sum(), x)
    assert len(seen) > forward
    assert set(seen) == {(False, False)}
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_quick_evaluations_are_the_solves_own_first_ones(passes: Passes) -> None:
    """Of the same injection and masks: unrolled as deep, a pass is the last of them."""
    x = torch.rand(6, *passes.model.input_shape, generator=_fresh())
    passes.unrolled = 3
    logits = passes(x)
    state = passes._generator.get_state()
    found = passes.quick(x, 3)
    assert torch.equal(passes._generator.get_state(), state)
    torch.testing.assert_close(found[-1], logits)
    assert not torch.equal(found[0], found[1])
    z, context = passes._last
    passes.start = lambda injection: z.detach()
    torch.testing.assert_close(
        passes.quick(x, 1)[0], passes.model.readout(passes.model.cell(z, *context))
    )
    passes.start, passes.unrolled = None, 0


@pytest.mark.parametrize("unrolled", [0, 3])
def test_attacked_rows_are_independent(passes: Passes, unrolled: int) -> None:
    passes.unrolled = unrolled
    x = torch.rand(6, *passes.model.input_shape, generator=_fresh()).requires_grad_()
    logits = passes.attacked(x)
    (gradient,) = torch.autograd.grad(logits[2].sum(), x)
    assert gradient[2].abs().sum() > 0
    assert not gradient[[0, 1, 3, 4, 5]].any()


def test_a_model_that_fails_is_given_back_as_it_was(passes: Passes) -> None:
    with pytest.raises(Exception, match="shape"):
        passes.attacked(torch.rand(2, 7, 3, 3))
    assert passes.model.training
    assert all(parameter.requires_grad for parameter in passes.model.parameters())


def short(tmp_path: Path, **options: object) -> TrainConfig:
    return TrainConfig(
        out=tmp_path,
        data="digits",
        sigma=0.25,
        epochs=1,
        batch=512,
        max_nfe=6,
        backward_nfe=4,
        lr=0.01,
        augment="none",
        test_draws=1,
        progress=False,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", NOISY)
def test_a_short_training_by_every_objective(name: str, tmp_path: Path) -> None:
    given = {"draws": 2}
    path = train(short(tmp_path, objective=name, objective_options=given))
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["parameters"]["objective"] == name
    defaults = {key: option.default for key, option in objective_options(name).items()}
    assert record["parameters"]["objective_options"] == defaults | given
    assert all(math.isfinite(row["loss"]) for row in record["history"])
    assert all(torch.isfinite(value).all() for value in load_model(path).state_dict().values())


def test_a_start_is_saved_again_for_the_model_that_was_made_from_its_own(tmp_path: Path) -> None:
    first = train(short(tmp_path, name="first"))
    start = train_start(
        StartConfig(model=str(first), batch=16, steps=2, tune_images=20, most=2, progress=False)
    )
    given = {"start": str(start), "steps": 2}
    more = {"objective": "faithful", "objective_options": given, "pretrain": 0.0}
    second = train(short(tmp_path, name="second", init=str(first), **more))
    record = json.loads(second.with_suffix(".json").read_text())
    assert record["data_sha256"]["start"] == file_hash(start)
    assert record["checkpoint_sha256"] == file_hash(second) != file_hash(first)
    ours, theirs = load_start(start_path(second), second), load_start(start, first)
    for name, value in theirs.net.state_dict().items():
        assert torch.equal(ours.net.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="another model"):
        train(short(tmp_path, name="third", init=str(second), **more))
    with pytest.raises(ConfigError, match="--init"):
        train(short(tmp_path, name="third", **more))


def test_a_checkpoint_to_begin_with(tmp_path: Path) -> None:
    # So small a rate that the weights hardly move, and two classes less than the checkpoint.
    x, y = arrays("train")
    np.savez(tmp_path / "train.npz", x=x[y < 8], y=y[y < 8])
    x, y = arrays("test")
    np.savez(tmp_path / "test.npz", x=x[y < 8], y=y[y < 8])
    still = short(tmp_path, init="digits", pretrain=0.0, weight_decay=0.0)
    same = train(dataclasses.replace(still, name="same", lr=1e-9))
    record = json.loads(same.with_suffix(".json").read_text())
    assert record["measured"]["clean_accuracy"] > 0.9
    assert record["data_sha256"]["init"] == file_hash("digits")
    fewer = dataclasses.replace(
        still,
        name="fewer",
        lr=1e-9,
        data=f"npz:{tmp_path / 'train.npz'}",
        test_data=f"npz:{tmp_path / 'test.npz'}",
    )
    found, given = load_model(train(fewer)), load_model("digits")
    assert found.num_classes == 8
    ours, theirs = dict(found.named_parameters()), dict(given.named_parameters())
    other = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert other == {"classifier.weight", "classifier.bias"}
    for name in set(ours) - other:
        assert torch.allclose(ours[name], theirs[name], atol=1e-6), name
    with pytest.raises(ConfigError, match="takes images of"):
        np.savez(tmp_path / "wide.npz", x=np.zeros((600, 1, 8, 16)), y=np.arange(600) % 10)
        train(dataclasses.replace(still, data=f"npz:{tmp_path / 'wide.npz'}", test_data="digits"))


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    data = load_dataset("digits", split)
    return data.batch(np.arange(len(data))), data.labels()


def test_images_that_a_teacher_labels(tmp_path: Path) -> None:
    x, y = arrays("train")
    np.savez(tmp_path / "few.npz", x=x[:200], y=y[:200])
    np.savez(tmp_path / "more.npz", x=x[200:700], y=np.zeros(500, dtype=int))
    config = dataclasses.replace(
        short(tmp_path),
        batch=128,
        data=f"npz:{tmp_path / 'few.npz'}",
        test_data="digits",
        extra=f"npz:{tmp_path / 'more.npz'}",
        teacher="digits",
    )
    labelled = load_dataset(f"npz:{tmp_path / 'few.npz'}", "train")
    joined = with_extra(config, labelled)
    assert 690 <= len(joined) <= 700
    assert (joined.labels()[:200] == y[:200]).all()
    kept = joined._rows + 200
    assert (joined.labels()[200:] == y[kept]).mean() > 0.95
    assert np.array_equal(joined.batch([len(joined) - 1])[0], x[kept[-1]])
    assert np.array_equal(joined.batch([0, 199]), labelled.batch([0, 199]))
    assert joined.image(200).shape == (1, 8, 8)
    assert joined.label(0) == y[0]
    assert joined.hash() != labelled.hash()
    with pytest.raises(DataError, match="has no image"):
        joined.image(len(joined))
    record = json.loads(train(config).with_suffix(".json").read_text())
    assert record["data_sha256"]["teacher"] == file_hash("digits")
    for options in ({"extra": "digits"}, {"teacher": "digits"}):
        with pytest.raises(ConfigError, match="give both"):
            TrainConfig(out=tmp_path, **options)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("radius", "must read KEY=VALUE, as in draws=2"),
        ("draws=many", "smoothadv option draws is 'many', but it must be a whole number"),
        ("draws=2 draws=3", "given twice"),
        ("speed=1", "there is no smoothadv option 'speed'"),
        ("attack=fgsm", "one of pgd, ddn"),
    ],
)
def test_the_command_refuses_wrong_options(
    words: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--out", str(tmp_path / "out"), "--objective", "smoothadv"]
    for word in words.split():
        command += ["--objective-option", word]
    assert main(command) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


GUIDE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
SHOWN, REGISTERS, _ = (
    GUIDE.partition("## An objective\n")[2]
    .partition("```python\n")[2]
    .partition('OBJECTIVES.register("smooth-labels", Smooth)\n')
)
SHOWN = f"""
from dataclasses import dataclass
from typing import ClassVar
from deqcert.options import number
{SHOWN}"""
"""The objective from outside that the documentation shows, as a module of its own."""


@pytest.mark.parametrize("comes", ["registered", "by an entry point"])
def test_an_objective_from_outside_is_used_by_the_command(
    comes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "plugin"
    (plugin / "smooth-1.0.dist-info").mkdir(parents=True)
    (plugin / f"smooth_{comes[:2]}.py").write_text(
        SHOWN + REGISTERS if comes == "registered" else SHOWN
    )
    assert REGISTERS
    monkeypatch.syspath_prepend(plugin)
    if comes == "registered":
        importlib.import_module("smooth_re")
    else:
        (plugin / "smooth-1.0.dist-info" / "METADATA").write_text("Name: smooth\nVersion: 1.0\n")
        points = "[deqcert.objectives]\nsmooth-labels = smooth_by:Smooth\n"
        (plugin / "smooth-1.0.dist-info" / "entry_points.txt").write_text(points)
        monkeypatch.delitem(OBJECTIVES.__dict__, "_plugins", raising=False)
    try:
        assert main(["train", "--help"]) == 0
        assert "|smooth-labels]" in capsys.readouterr().out
        images = small_training(tmp_path)
        given = f"train --data {images.data} --test-data {images.test_data} "
        given += f"--model-config {images.model_config} "
        given += f"--batch 32 --epochs 1 --test-draws 1 --quiet --out {tmp_path / 'out'} "
        given += "--objective smooth-labels --objective-option softening="
        assert main(f"{given}-1".split()) == 2
        assert (
            "smooth-labels option softening is -1, but it must be a number from 0 to below 1"
            in capsys.readouterr().err
        )
        assert main(f"{given}0.2".split()) == 0
        record = json.loads((tmp_path / "out" / "model.json").read_text())
        assert record["parameters"]["objective"] == "smooth-labels"
        assert record["parameters"]["objective_options"] == {"softening": 0.2}
        assert load_model(tmp_path / "out" / "model.pth").num_classes == 3
    finally:
        OBJECTIVES.unregister("smooth-labels")
        OBJECTIVES.__dict__.pop("_plugins", None)
    assert main(["train", "--out", str(tmp_path), "--objective", "smoothav"]) == 2
    assert "did you mean smoothadv?" in capsys.readouterr().err


def test_an_augmentation_from_outside_is_used_by_the_command(tmp_path: Path) -> None:
    seen: list[int] = []

    def darker(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(len(x))
        return 0.9 * x

    AUGMENTATIONS.register("darker", darker)
    try:
        images = small_training(tmp_path)
        given = f"train --data {images.data} --test-data {images.test_data} "
        given += f"--model-config {images.model_config} "
        given += f"--batch 96 --epochs 1 --test-draws 1 --quiet --out {tmp_path / 'out'}"
        assert main([*given.split(), "--augment", "darker"]) == 0
    finally:
        AUGMENTATIONS.unregister("darker")
    assert seen == [96, 96]


def test_the_old_name_of_the_architecture_works_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"train --out {tmp_path / 'out'} --data npz:nowhere.npz"
    assert main([*given.split(), "--preset", "small"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("deqcert: note: --preset is called --architecture now")
    assert "nowhere.npz" in said[1] and len(said) == 2
    assert main([*given.split(), "--preset", "huge"]) == 2
    assert "--preset is 'huge', but it must be one of tiny, small" in capsys.readouterr().err
