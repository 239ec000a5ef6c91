"""A training that is killed goes on bit for bit; one with other parameters is left alone."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from trainings import small_training

from deqcert import files
from deqcert.cli import main
from deqcert.errors import Interrupted, RunError
from deqcert.models import load_model
from deqcert.training import TrainConfig, train
from deqcert.training import loop as loop_module
from deqcert.training.unfinished import Unfinished

HERE = Path(__file__).resolve().parent

CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from trainings import small_training
from deqcert.training import loop, train
import dataclasses
loop.SAVE_EVERY = loop.SAVE_AT_END = 0.0  # after every step
options = dict(out=Path(sys.argv[2]), **eval(sys.argv[3]))
train(dataclasses.replace(small_training(Path(sys.argv[1])), **options))
"""

RICH = {"ema": 0.9, "unroll_from": 2, "augment": "crop-flip", "jacobian_share": 0.5, "epochs": 5}
"""Everything that has a memory of its own."""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    torch.set_num_threads(1)
    return dataclasses.replace(small_training(tmp_path), **RICH)


def curve(config: TrainConfig) -> list[dict[str, str]]:
    """The table without its clock."""
    with (config.out / f"{config.name}.curve.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def start(config: TrainConfig, tmp_path: Path) -> subprocess.Popen[bytes]:
    """Train in another process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(config.out), repr(RICH)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def test_a_killed_training_goes_on_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    wanted = load_model(train(whole)).state_dict()
    unfinished = config.out / "model.unfinished"
    for rows in (1, 3):  # killed twice, somewhere after these rows
        child = start(config, tmp_path)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if unfinished.exists() and len(curve(config)) > rows:
                break
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL, errors.decode()
        assert unfinished.exists()
        assert not (config.out / "model.pth").exists()
    path = train(config)
    assert curve(config) == curve(whole)
    found = load_model(path).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    record = json.loads(path.with_suffix(".json").read_text())
    assert len(record["resumed"]) == 2
    assert 0 < record["resumed"][0]["step"] < record["resumed"][1]["step"] < 30
    assert not unfinished.exists()
    assert not list(config.out.glob(".*"))


class KilledError(Exception):
    """In place of a signal, where the very step matters."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a training end before it saves after that many steps."""
    save = loop_module._Training._save

    def spoiled(self: loop_module._Training, every: float) -> None:
        if self._total() >= step:
            raise KilledError
        save(self, 0.0)

    monkeypatch.setattr(loop_module._Training, "_save", spoiled)


def test_going_back_after_going_on_is_the_same(config: TrainConfig, monkeypatch) -> None:
    """A loss that is not finite, in the epoch in which the training was interrupted."""
    real = type(loop_module.get_objective("gaussian", 0.1))
    spoil_at = 16

    def spoiling(already: int):
        class Spoiled(real):
            calls = already

            def loss(self, *arguments):
                Spoiled.calls += 1
                loss = super().loss(*arguments)
                return loss * float("nan") if Spoiled.calls == spoil_at else loss

        return lambda name, sigma, **options: Spoiled(sigma, **options)

    monkeypatch.setattr(loop_module, "get_objective", spoiling(0))
    whole = dataclasses.replace(config, out=config.out / "whole")
    wanted = load_model(train(whole)).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "get_objective", spoiling(0))
        stop_at(patch, 15)
        with pytest.raises(KilledError):
            train(config)
    monkeypatch.setattr(loop_module, "get_objective", spoiling(14))
    found = load_model(train(config)).state_dict()
    assert curve(config) == curve(whole)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_time_that_was_spent_counts(config: TrainConfig, monkeypatch) -> None:
    config = dataclasses.replace(config, minutes=1000.0)
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(KilledError):
            train(config)
    path = config.out / "model.unfinished"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"seconds": 60000.0 - 0.05}, path)
    record = json.loads(train(config).with_suffix(".json").read_text())
    assert record["seconds"] >= 59999.9
    assert record["history"][-1]["step"] < 30


def test_other_parameters_are_refused(config: TrainConfig, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(KilledError):
            train(config)
    path = config.out / "model.unfinished"
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"whose lr was 0.02 and is now 0.01; give the same"):
        train(dataclasses.replace(config, lr=0.01))
    assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(RunError, match=r"cannot be read .* remove .*model.unfinished"):
        train(config)


def test_a_full_disk_keeps_what_was_saved(config: TrainConfig, monkeypatch) -> None:
    config.out.mkdir()
    unfinished = Unfinished(config.out / "model.pth", config, {})
    unfinished.save({"here": 1})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="free some space and give the same command"):
        unfinished.save({"here": 2})
    found = unfinished.load()
    assert found is not None and found["here"] == 1
    assert [path.name for path in config.out.iterdir()] == ["model.unfinished"]


@pytest.mark.parametrize("step", [1, 8, 12])  # first, in the middle, at an epoch's end
def test_after_ctrl_c_it_goes_on_bit_for_bit(config: TrainConfig, monkeypatch, step: int) -> None:
    whole = dataclasses.replace(config, out=config.out / "whole", epochs=3)
    config = dataclasses.replace(config, epochs=3)
    wanted = load_model(train(whole)).state_dict()
    with monkeypatch.context() as patch:
        real = loop_module._Training._step

        def pressed(self: loop_module._Training, *arguments: object) -> float | None:
            if self._total() + 1 == step:
                os.kill(os.getpid(), signal.SIGINT)
            return real(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(loop_module._Training, "_step", pressed)
        with pytest.raises(Interrupted, match=r"safe in .*model.unfinished, and the same command"):
            train(config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    state = torch.load(config.out / "model.unfinished", weights_only=True)
    assert state["epoch"] * 6 + state["step"] == step
    found = load_model(train(config)).state_dict()
    assert curve(config) == curve(whole)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_ctrl_c_while_it_measures_loses_nothing(config: TrainConfig, monkeypatch) -> None:
    whole = dataclasses.replace(config, out=config.out / "whole", epochs=2)
    config = dataclasses.replace(config, epochs=2)
    wanted = load_model(train(whole)).state_dict()

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "measure", interrupted)
        with pytest.raises(Interrupted, match="safe in"):
            train(config)
    found = load_model(train(config)).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_ctrl_c_before_anything_was_saved_says_so(config: TrainConfig, monkeypatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module._Training, "run", interrupted)
    with pytest.raises(Interrupted, match="interrupted before anything was saved in"):
        train(config)
    assert not list(config.out.glob("*.pth"))


def test_a_second_training_is_refused_and_ctrl_c_keeps_the_first(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"train --out {config.out} --data {config.data} --test-data {config.test_data} "
    given += f"--model-config {config.model_config} --batch 32 --epochs 100000 --threads 1 --quiet"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "deqcert", *given.split()]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 240
        table = config.out / "model.curve.csv"
        while not (table.exists() and len(curve(config)) > 1):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        assert main(given.split()) == 2
        says = "another process is training for .*model.pth; wait for it, or choose another out"
        assert re.search(says, capsys.readouterr().err)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=240)
    finally:
        first.kill()
    assert first.returncode == 130, errors
    assert re.fullmatch(r"deqcert: interrupted; .* is safe in .*model.unfinished, .*\n", errors)
    state = torch.load(config.out / "model.unfinished", weights_only=True)
    assert state["epoch"] * 6 + state["step"] >= 6
    assert not list(config.out.glob(".*")), "no lock stays behind"


@pytest.mark.parametrize("left", ["model.yaml", "model.curve.png", "model.json"])
def test_killed_while_it_writes_its_end_it_leaves_all_files(
    config: TrainConfig, monkeypatch, left: str
) -> None:
    """The checkpoint is the last to come: where it is, everything is."""
    config = dataclasses.replace(config, epochs=1)
    real = files.os.replace

    def killed(aside: Path, path: Path) -> None:
        if path.name == left:
            raise KilledError
        real(aside, path)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KilledError):
            train(config)
    assert not (config.out / "model.pth").exists()
    train(config)
    endings = ("pth", "yaml", "json", "curve.csv", "curve.png")
    assert {path.name for path in config.out.iterdir()} == {f"model.{end}" for end in endings}
