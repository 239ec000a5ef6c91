"""Schedules, averages, precision, and what a training tells about its history."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from trainings import small_training

from deqcert.errors import ConfigError
from deqcert.models import ARCHITECTURES, load_model
from deqcert.training import TrainConfig, train
from deqcert.training import history as history_module
from deqcert.training.augment import crop
from deqcert.training.average import Average
from deqcert.training.curve import COLUMNS, Board
from deqcert.training.passes import Passes
from deqcert.training.schedule import Schedule


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return small_training(tmp_path)


def table(config: TrainConfig) -> list[dict[str, str]]:
    with (config.out / f"{config.name}.curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_depth_and_side_grow_in_equal_shares(config: TrainConfig) -> None:
    config = dataclasses.replace(config, pretrain=0.72, unroll_from=3, crop_from=24, lr=0.5)
    small = ARCHITECTURES.get("small")
    schedule = Schedule(config, small)
    shares = [0.72 * (k + 0.5) / 60 for k in range(60)]
    assert [schedule.depth(share) for share in shares] == [3 + k // 10 for k in range(60)]
    assert [schedule.side(share) for share in shares] == [24] * 20 + [28] * 20 + [0] * 20
    for share in (0.72, 0.9, 1.0):
        assert not schedule.unrolled(share)
        assert (schedule.depth(share), schedule.side(share)) == (8, 0)
    assert schedule.rate(0.0) == 0.5 and schedule.rate(1.0) == pytest.approx(0.0)
    plain = Schedule(dataclasses.replace(config, unroll_from=0, crop_from=0), small)
    assert {(plain.depth(share), plain.side(share)) for share in shares} == {(8, 0)}


@pytest.mark.parametrize(
    ("name", "side", "says"),
    [
        ("small", 22, "24, 28, 32: multiples of 4"),
        ("contractive", 4, "'contractive' takes no smaller images; use crop_from 0"),
    ],
)
def test_crops_that_do_not_fit_are_refused(
    config: TrainConfig, name: str, side: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        Schedule(dataclasses.replace(config, crop_from=side), ARCHITECTURES.get(name))


def test_an_unrolling_that_begins_too_deep_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"unroll_from is 9, but the depth .* is 8"):
        Schedule(dataclasses.replace(config, unroll_from=9), ARCHITECTURES.get("small"))


def test_a_crop_is_a_window_of_the_image() -> None:
    x = torch.arange(2.0 * 36).view(2, 1, 6, 6)
    places = set()
    for seed in range(60):
        found = crop(x, 4, 5, torch.Generator().manual_seed(seed))
        for row in range(2):
            down, right = divmod(int(found[row, 0, 0, 0].item()) - 36 * row, 6)
            assert torch.equal(found[row], x[row, :, down : down + 4, right : right + 5])
            places.add((down, right))
    assert places == {(down, right) for down in range(3) for right in range(2)}


def test_a_training_with_growing_crops_learns(config: TrainConfig) -> None:
    config = dataclasses.replace(config, crop_from=2, unroll_from=1, pretrain=0.5, epochs=6)
    path = train(config)
    assert json.loads(path.with_suffix(".json").read_text())["measured"]["clean_accuracy"] > 0.6
    assert {row["nfe"] for row in table(config)} >= {"1.0", "3.0"}


def test_an_average_follows_weights_and_statistics(config: TrainConfig, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    average = Average(model, 0.5)  # type: ignore[arg-type]
    wanted: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        model(torch.randn(4, 1, 3, 3, generator=generator))
        average.update(model)  # type: ignore[arg-type]
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                old = wanted.get(key, value)
                wanted[key] = decay * old + (1 - decay) * value
            else:
                wanted[key] = value.clone()
        if step == 9:
            kept = {key: value.clone() for key, value in average.state().items()}
    found = average.model.state_dict()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)
    average.restore(kept)
    assert not torch.equal(average.model.state_dict()["0.weight"], wanted["0.weight"])


def test_the_average_is_what_is_saved(config: TrainConfig) -> None:
    paths = [
        train(dataclasses.replace(config, name=f"m{ema}", ema=ema, epochs=3)) for ema in (0, 0.9)
    ]
    plain, averaged = (load_model(path).state_dict() for path in paths)
    assert plain.keys() == averaged.keys()
    assert not torch.equal(plain["classifier.weight"], averaged["classifier.weight"])
    losses = [
        [row["loss"] for row in table(dataclasses.replace(config, name=path.stem))]
        for path in paths
    ]
    assert losses[0] == losses[1], "averaging does not change the training itself"


def test_bfloat16_learns_with_float32_states(config: TrainConfig) -> None:
    config = dataclasses.replace(config, precision="bfloat16", tol=1e-2, epochs=5)
    path = train(config)
    losses = [float(row["loss"]) for row in table(config)]
    assert losses[-1] < 0.8 * losses[0]
    assert {value.dtype for value in load_model(path).parameters()} == {torch.float32}


@pytest.mark.parametrize("gradient", ["implicit", "phantom", "unroll"])
def test_bfloat16_gradients_are_near_those_of_float32(config: TrainConfig, gradient: str) -> None:
    # Trained: the cell of a fresh model does not contract, and would amplify any rounding.
    model = load_model("digits").train()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = {}
    for precision in ("float32", "bfloat16"):
        given = dataclasses.replace(config, precision=precision, gradient=gradient, tol=1e-2)
        passes = Passes(model, given, torch.Generator().manual_seed(2))
        loss = passes(x).square().sum() + passes.jacobian_penalty()
        assert loss.dtype == torch.float32
        grads = torch.autograd.grad(loss, list(model.parameters()))
        assert all(grad.dtype == torch.float32 for grad in grads)
        found[precision] = torch.cat([grad.flatten() for grad in grads])
    cosine = torch.cosine_similarity(found["float32"], found["bfloat16"], dim=0)
    assert cosine > 0.95


def test_attacked_passes_start_where_the_nearest_one_ended(config: TrainConfig) -> None:
    torch.manual_seed(0)
    model = load_model("digits")
    given = dataclasses.replace(config, max_nfe=30, backward_nfe=30, tol=1e-4)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    counted: list[int] = []
    cell = model.cell
    model.cell = lambda z, *context: counted.append(len(z)) or cell(z, *context)  # type: ignore

    def gradient(passes: Passes, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        counted.clear()
        x = x.clone().requires_grad_()
        logits = passes.attacked(x)
        (found,) = torch.autograd.grad(logits.square().sum(), x)
        return logits.detach(), found, sum(counted)

    passes = Passes(model, given, torch.Generator().manual_seed(0))
    other, near = 1.0 - x, x + 1e-3
    for images in (x, other):
        gradient(passes, images)
    warm = gradient(passes, near)
    passes.begin()
    cold = gradient(passes, near)
    torch.testing.assert_close(warm[0], cold[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(warm[1], cold[1], rtol=2e-2, atol=1e-2)
    assert warm[2] < 0.8 * cold[2]


def test_the_history_is_kept_whole(config: TrainConfig, monkeypatch) -> None:
    monkeypatch.setattr(history_module, "ROW_EVERY", 4)
    monkeypatch.setattr(history_module, "PROBE_EVERY", 10)
    path = train(dataclasses.replace(config, epochs=3))
    rows = table(config)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == [4, 6, 10, 12, 16, 18]
    assert [float(row["epoch"]) for row in rows][1::2] == [1.0, 2.0, 3.0]
    looked = [row["step"] for row in rows if row["noisy_accuracy"]]
    assert looked == ["10", "18"]
    for row in rows:
        assert math.isfinite(float(row["loss"])) and float(row["rate"]) < config.lr
        if row["residual"]:
            assert 0.0 < float(row["residual"]) < 1.0
            assert 0.0 < float(row["spectral_radius"]) < 10.0
    found = json.loads(path.with_suffix(".json").read_text())["history"]
    assert [row["step"] for row in found] == [4, 6, 10, 12, 16, 18]
    assert (config.out / "model.curve.png").read_bytes()[:4] == b"\x89PNG"


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path), 8)

        def add_scalar(self, *scalar: object) -> None:
            written.append(scalar)  # type: ignore[arg-type]

        def flush(self) -> None:
            pass

    fake = type(sys)("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    with pytest.raises(ConfigError, match=r"install deqcert\[tensorboard\]"):
        Board(tmp_path, 7)
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    Board(tmp_path, 7).add({"step": 8, "loss": 0.5, "nfe": 3.0})
    assert written == [("loss", 0.5, 8), ("nfe", 3.0, 8)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ema": 1.0}, "ema"),
        ({"precision": "float16"}, "must be one of float32, bfloat16"),
        ({"crop_from": -1}, "crop_from"),
        ({"unroll_from": -1}, "unroll_from"),
    ],
)
def test_impossible_parameters_are_refused(config: TrainConfig, change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(config, **change)
