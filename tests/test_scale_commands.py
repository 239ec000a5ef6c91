"""Commands whose images are shared among processes: the bytes of one process, alarms and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_scale import SMALL, essence

from deqcert.cli import main

HARD = "--attack square:steps=5 --attack pgd-implicit:steps=2 --n 60 --search 20 --rows 20 --quiet"


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps its votes, and claims much larger radii than it has proven."""
    out = tmp_path_factory.mktemp("voted") / "run"
    assert main([*f"{SMALL} --threads 1 --keep-votes --quiet --out {out}".split()]) == 0
    journal = out / "certificates.tsv"
    rows = [line.split("\t") for line in journal.read_text().splitlines()]
    at = rows[0].index("radius")
    claimed = [[*row[:at], "2.500000", *row[at + 1 :]] for row in rows[1:]]
    journal.write_text("".join("\t".join(row) + "\n" for row in [rows[0], *claimed]))
    return out


def attack(voted: Path, out: Path, more: str = "") -> dict[str, Any]:
    """Attack a run; return what its folder holds but for the clocks."""
    assert main(["attack", str(voted), *HARD.split(), *more.split(), "--out", str(out)]) == 1
    found: dict[str, Any] = {
        path.name: path.read_bytes() for path in out.iterdir() if path.is_file()
    }
    rows = [line.split("\t") for line in found["attacks.tsv"].decode().splitlines()]
    at = rows[0].index("time")
    found["attacks.tsv"] = [row[:at] + row[at + 1 :] for row in rows]
    for path in (out / "alarms").iterdir():
        with np.load(path) as alarm:
            found[path.name] = {key: alarm[key].tolist() for key in alarm.files}
    return found


@pytest.fixture(scope="module")
def alone(voted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds by attacks."""
    return attack(voted, tmp_path_factory.mktemp("alone") / "attacks")


def test_attacks_by_workers_are_the_bytes_of_one_process(
    voted: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    assert any(name.endswith(".npz") for name in alone)
    assert attack(voted, tmp_path / "attacks", "--workers 2") == alone


@pytest.mark.long
def test_attacks_on_a_local_cluster_are_the_bytes_of_one_process(
    voted: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    assert attack(voted, tmp_path / "attacks", "--ray local") == alone


def recertify(voted: Path, out: Path, more: str) -> dict[str, object]:
    """Certify a changed model from the votes; return what its folder holds but for the clocks."""
    given = f"{voted} --depth 4 --audit 40 --agreement 1 --threads 1 {more} --quiet --out {out}"
    assert main(["recertify", *given.split()]) == 0
    return essence(out)


def test_recertification_by_workers_is_the_bytes_of_one_process(
    voted: Path, tmp_path: Path
) -> None:
    found = [recertify(voted, tmp_path / more[:3] / "run", more) for more in ("", "--workers 2")]
    assert found[0] == found[1]


@pytest.mark.long
def test_recertification_on_a_local_cluster_is_the_bytes_of_one_process(
    voted: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    found = [recertify(voted, tmp_path / more[:3] / "run", more) for more in ("", "--ray local")]
    assert found[0] == found[1]


def test_an_evaluation_certifies_and_attacks_by_workers(tmp_path: Path) -> None:
    given = "evaluate digits --parts certified,attacks --images 0:3 --sigma 0.25 --n 60 --tol 0 "
    given += "--depth 3 --n0 10 --agreement 0 --attack square:steps=2 --threads 1 --quiet --out"
    found = []
    for more in ("", "--workers 1"):
        out = tmp_path / f"of{more[-1:]}" / "run"
        assert main([*given.split(), str(out), *more.split()]) == 0
        (model,) = json.loads((out / "evaluation.json").read_text())["models"]
        parts = {name: part["state"] for name, part in model["parts"].items()}
        lines = (out / "digits" / "attacks" / "attacks.tsv").read_text().splitlines()
        found.append((parts, [[c for c in line.split("\t") if ":0" not in c] for line in lines]))
    assert found[0] == found[1]
    assert set(found[0][0].values()) == {"done"}
