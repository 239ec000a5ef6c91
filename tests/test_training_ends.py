"""Both trainings alike: what an unfinished one leaves, and how the same command ends it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import kills
import pytest

from deqcert import files
from deqcert.cli import main
from deqcert.training.loop import _Training
from deqcert.training.starts.fit import _Fitting
from deqcert.training.unfinished import Unfinished

STEPS = {"train": _Training, "train-start": _Fitting}
"""What takes the steps of each."""


class KilledError(Exception):
    """In place of a signal, where the very moment matters."""


class Training:
    """One of the two commands.

    Attributes:
        name: What it is called.
        out: Folder that it writes to.
        last: File that it leaves last.
    """

    def __init__(self, name: str, given: list[str], out: Path) -> None:
        self.name, self.out = name, out
        self.last = self.out / ("model.pth" if name == "train" else "tiny.start.pth")
        self.state = self.last.with_suffix(".unfinished")
        self._given = list(given)

    def run(self, *more: str) -> int:
        return main([*self._given, *kills.out(self.name, self.out), *more])

    def stopped(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        """Run it, and kill it in that step."""
        real, calls = STEPS[self.name]._step, iter(range(1, 1000))

        def killed(*arguments: object) -> object:
            if next(calls) == step:
                raise KilledError
            return real(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(STEPS[self.name], "_step", killed)
            with pytest.raises(KilledError):
                self.run()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return kills.commands(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def whole(
    given: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """What undisturbed ones leave."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        kills.save_after_every_step(patch.setattr)
        for name, line in given.items():
            out = tmp_path_factory.mktemp("whole") / "out"
            assert main([*line, *kills.out(name, out)]) == 0
            found[name] = kills.essence(out)
    return found


@pytest.fixture(params=list(STEPS))
def training(
    request: pytest.FixtureRequest,
    given: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Training:
    kills.save_after_every_step(monkeypatch.setattr)
    return Training(request.param, given[request.param], tmp_path / "out")


@pytest.mark.parametrize("step", [1, 9])  # a training of a start has rounds of 16
def test_killed_in_a_step_it_goes_on_to_the_same_bytes(
    training: Training,
    whole: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    training.stopped(monkeypatch, step)
    assert not training.last.exists()
    assert training.run() == 0
    assert kills.essence(training.out) == whole[training.name]


def test_killed_after_its_last_file_the_same_command_tidies_up(
    training: Training,
    whole: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:

    def killed(self: Unfinished) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "remove", killed)
        with pytest.raises(KilledError):
            training.run()
    assert training.last.exists() and training.state.exists()
    files.aside(training.state).write_bytes(b"cut")  # as a kill leaves it
    before = training.last.read_bytes()
    capsys.readouterr()
    assert training.run("--seed", "1") == 2  # others may not
    assert "seed was 0 and is now 1" in capsys.readouterr().err
    training.last.write_bytes(before + b"\0")
    assert training.run() == 2  # nor is another's file taken for the training's own
    assert "exists already and is not what" in capsys.readouterr().err
    training.last.write_bytes(before)
    training._given.remove("--quiet")
    assert training.run() == 0
    said = capsys.readouterr()
    assert "this training was finished when it was killed" in said.err
    if training.name == "train-start":  # of a model that was never trained
        assert "after 1, 2, 3 cells: unknown, for none of the noisy images has" in said.out
    assert kills.essence(training.out) == whole[training.name]
    assert training.run() == 2
    assert "exists already" in capsys.readouterr().err


def test_a_state_with_a_flipped_byte_is_noticed_and_kept(
    training: Training, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training.stopped(monkeypatch, 4)
    good = training.state.read_bytes()
    with zipfile.ZipFile(training.state) as archive:  # which has padding that nobody reads
        members = sorted(archive.infolist(), key=lambda member: -member.file_size)[:2]
        contents = [archive.read(member) for member in members]
    for content in contents:
        bad = bytearray(good)
        bad[good.index(content) + len(content) // 2] ^= 0x10
        training.state.write_bytes(bad)
        capsys.readouterr()
        assert training.run() == 2
        assert "cannot be read (it is cut short, or bytes of it have" in capsys.readouterr().err
        assert training.state.read_bytes() == bad
    for bad, words in (
        (good[: len(good) // 2], "it is cut short, or bytes of it have changed"),
        (b"", "it is damaged or something else"),
    ):
        training.state.write_bytes(bad)
        assert training.run() == 2
        said = capsys.readouterr().err
        assert f"{training.state} cannot be read ({words}); give another out or name, or" in said
        assert training.state.read_bytes() == bad
    training.state.write_bytes(good)
    assert training.run() == 0


def test_a_full_disk_costs_what_came_after_the_last_save(
    training: Training,
    whole: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls, real = iter(range(1000)), os.fsync

    def full(descriptor: int) -> None:
        if next(calls) >= 20:
            raise OSError(28, "No space left on device")
        real(descriptor)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert training.run() == 2
    said = capsys.readouterr().err
    assert "the disk is full; free some space and give the same command again" in said
    assert said.count("\n") == 1
    assert training.state.exists()
    assert training.run() == 0
    assert kills.essence(training.out) == whole[training.name]


def test_what_is_beside_a_start_is_no_name_for_it(
    given: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.json", "a.unfinished"):
        assert main([*given["train-start"], "--out", str(tmp_path / name)]) == 2
        assert "give a name that ends in .pth" in capsys.readouterr().err
