"""Training: it learns, it is reproducible, it saves what loads, and it refuses what cannot work."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from trainings import TINY_YAML, small_training

from deqcert.errors import ConfigError, DataError, RunError
from deqcert.models import file_hash, load_model
from deqcert.solvers.gradients import GRADIENTS
from deqcert.training import AUGMENTATIONS, TrainConfig, get_objective, train
from deqcert.training import loop as loop_module


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return small_training(tmp_path)


def record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("gradient", GRADIENTS.names())
def test_a_short_training_learns(config: TrainConfig, gradient: str) -> None:
    path = train(dataclasses.replace(config, gradient=gradient))
    found = record(path)
    losses = [entry["loss"] for entry in found["history"]]
    assert losses[-1] < 0.7 * losses[0]
    assert found["history"][0]["unrolled"] == 1.0
    assert found["history"][-1]["unrolled"] == 0.0
    assert found["measured"]["clean_accuracy"] > 0.6
    assert found["checkpoint_sha256"] == file_hash(path)
    assert found["parameters"]["gradient"] == gradient
    model = load_model(path)
    assert model.input_shape == (1, 4, 4)
    assert not list(path.parent.glob("*.partial"))


def test_same_seed_same_weights(config: TrainConfig) -> None:
    config = dataclasses.replace(config, epochs=2)
    states = [
        load_model(train(dataclasses.replace(config, name=name, seed=seed))).state_dict()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_a_time_limit_ends_the_training(config: TrainConfig, monkeypatch) -> None:
    ticks = itertools.count(step=0.1)
    monkeypatch.setattr(loop_module.time, "perf_counter", lambda: next(ticks))
    path = train(dataclasses.replace(config, epochs=1, minutes=0.5))
    assert 30 <= record(path)["seconds"] < 60


def test_an_architecture_takes_the_geometry_of_the_data(config: TrainConfig) -> None:
    path = train(dataclasses.replace(config, model_config=None, architecture="tiny", epochs=1))
    model = load_model(path)
    assert (model.input_shape, model.num_classes) == ((1, 4, 4), 3)
    assert model.config.mean[0] == pytest.approx(0.3, abs=0.05)


def test_progress_is_plain_off_a_terminal(config: TrainConfig, capsys) -> None:
    train(dataclasses.replace(config, epochs=1, progress=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("100%  epoch 1  loss ")


def test_a_loss_that_is_not_finite_goes_back(config: TrainConfig, monkeypatch, capsys) -> None:
    calls = 0
    real = loop_module.get_objective("gaussian", 0.1)

    class Spoiled(type(real)):
        def loss(self, *arguments):
            nonlocal calls
            calls += 1
            loss = super().loss(*arguments)
            return loss * float("nan") if calls == 9 else loss

    monkeypatch.setattr(loop_module, "get_objective", lambda name, sigma: Spoiled(sigma))
    path = train(dataclasses.replace(config, progress=True))
    assert "back to the last good epoch" in capsys.readouterr().err
    assert len(record(path)["history"]) == 6
    assert all(torch.isfinite(v).all() for v in load_model(path).state_dict().values())


def test_a_training_that_always_diverges_says_what_to_do(config, monkeypatch) -> None:
    class Hopeless(type(get_objective("gaussian", 0.1))):
        def loss(self, *arguments):
            return super().loss(*arguments) * float("inf")

    monkeypatch.setattr(loop_module, "get_objective", lambda name, sigma: Hopeless(sigma))
    with pytest.raises(ConfigError, match="diverged 6 times; lower lr"):
        train(config)
    assert not (config.out / "model.pth").exists()


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation_keeps_shape_and_range(name: str, channels: int) -> None:
    x = torch.rand(40, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    after = AUGMENTATIONS.get(name)(x, torch.Generator().manual_seed(1))
    assert after.shape == x.shape
    assert torch.equal(x, before), "the images given are not changed"
    assert 0.0 <= after.min() <= after.max() <= 1.0
    assert torch.equal(after, x) == (name == "none")


def test_a_shift_moves_by_whole_pixels() -> None:
    x = torch.zeros(60, 1, 8, 8)
    x[:, :, 3, 3] = 1.0
    after = AUGMENTATIONS.get("shift")(x, torch.Generator().manual_seed(0))
    places = {tuple(place[2:].tolist()) for place in after.nonzero()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (2, 3, 4)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "magic"}, "objective is 'magic', but it must be one of gaussian, "),
        ({"gradient": "implict"}, "one of implicit, phantom, unroll; did you mean implicit?"),
        ({"solver": "magic"}, "one of picard, anderson"),
        ({"augment": "magic"}, "one of auto, none"),
        ({"architecture": "huge"}, "one of tiny, small"),
        ({"precision": "float16"}, "one of float32, bfloat16"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"lr": 0.0}, "lr"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 1}, "batch is 1, but it must be a whole number from 2"),
        ({"pretrain": 1.5}, "pretrain"),
        ({"seed": -1}, "seed"),
        ({"name": "../up"}, "file name"),
    ],
)
def test_impossible_parameters_are_refused(config: TrainConfig, change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(config, **change)


def test_trainings_that_cannot_work_are_refused_before_they_start(config, tmp_path) -> None:
    def refuse(error: type[Exception], says: str, **change) -> None:
        with pytest.raises(error, match=says):
            train(dataclasses.replace(config, **change))

    refuse(ConfigError, "are the same .+ test_data", test_data=None)
    refuse(ConfigError, "192 training images", batch=193)
    refuse(DataError, "no file", data="npz:nowhere.npz")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TINY_YAML.replace("[4, 4]\n  EXTRA", "[8, 8]\n  EXTRA"))
    refuse(ConfigError, "correct IMAGE_SIZE", model_config=wrong)
    wrong.write_text(TINY_YAML.replace("NUM_CLASSES: 3", "NUM_CLASSES: 4"))
    refuse(ConfigError, "correct NUM_CLASSES", model_config=wrong)
    (tmp_path / "file").touch()
    refuse(RunError, "cannot write", out=tmp_path / "file")
    config.out.mkdir(exist_ok=True)
    (config.out / "model.pth").touch()
    refuse(RunError, "exists already")
