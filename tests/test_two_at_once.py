"""Two of a kind on one place: the second is refused in a sentence, and the first loses nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kills
import pytest
import torch

from deqcert.cli import main
from deqcert.runs import Run
from deqcert.training.loop import _Training
from deqcert.training.starts.fit import _Fitting

CERTIFY = "certify --images 3:6 --n 100 --n0 20 --batch 50 --threads 1 --quiet"
ATTACK = "--attack square:steps=2 --n 100 --search 20 --images 0:2 --quiet"

MIDDLE: dict[str, tuple[Any, str]] = {
    "train": (_Training, "_step"),
    "train-start": (_Fitting, "_step"),
    "certify": (Run, "append"),
    "attack": (Run, "append"),
}
"""What each command does more than once."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Path], list[str]]]:
    """The command lines, by where they write."""
    folder = tmp_path_factory.mktemp("two")
    run = folder / "run"
    assert main([*CERTIFY.split(), "--out", str(run)]) == 0
    trainings = kills.commands(folder)

    def training(name: str) -> Callable[[Path], list[str]]:
        return lambda out: [*trainings[name], *kills.out(name, out)]

    return {
        "certify": lambda out: [*CERTIFY.split(), "--out", str(out)],
        "attack": lambda out: ["attack", str(run), *ATTACK.split(), "--out", str(out)],
        **{name: training(name) for name in trainings},
    }


def left(folder: Path) -> dict[str, Any]:
    """What is there, without clocks."""
    if not (folder / "manifest.json").exists():
        return kills.essence(folder)
    tables = [path.read_text().splitlines() for path in sorted(folder.glob("*.tsv"))]
    at = [
        [i for i, name in enumerate(t[0].split("\t")) if name in ("time", "seconds")]
        for t in tables
    ]
    rows = [
        [[c for i, c in enumerate(line.split("\t")) if i not in clock] for line in table]
        for table, clock in zip(tables, at, strict=True)
    ]
    return {"rows": rows, "names": sorted(path.name for path in folder.iterdir())}


@pytest.mark.parametrize("name", list(MIDDLE))
def test_the_second_is_refused_and_the_first_loses_nothing(
    lines: dict[str, Callable[[Path], list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    torch.set_num_threads(1)
    kills.save_after_every_step(monkeypatch.setattr)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(lines[name](whole)) == 0
    said: list[str] = []
    place, method = MIDDLE[name]
    real = getattr(place, method)

    def second_comes(*arguments: Any) -> Any:
        # Locks are of open files, so one process is enough for two.
        if len(said) < 2:
            before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
            capsys.readouterr()
            assert main(lines[name](out)) == 2
            said.append(capsys.readouterr().err)
            after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
            assert after == before
        return real(*arguments)

    monkeypatch.setattr(place, method, second_comes)
    assert main(lines[name](out)) == 0
    assert len(said) == 2
    for text in said:
        assert re.fullmatch(
            r"deqcert: another process is (training for|writing) \S+; wait for it[ ,]* or .*\n",
            text,
        )
    assert left(out) == left(whole)
