"""Solves that do not converge: whoever reads a result of them is told why there are no votes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deqcert.cli import main

SAYS = "100.0% of the samples had no vote, because their solves did not converge"
TOO_FEW = "--depth 2 --tol 1e-9 --images 0:1 --threads 1"

COMMANDS = {
    "certify": "certify --n 60 --n0 10 --quiet --out {out}",
    "predict": "predict --n 40",
    "plan": "plan --radii 0.25 --pilot 40",
    "bench": "bench --n 40 --n0 10 --batch 20 --depths 9 --starts previous --quiet",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_depth_that_is_too_small_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = COMMANDS[command].format(out=tmp_path / "run")
    assert main([*given.split(), *TOO_FEW.split()]) == 0
    said = capsys.readouterr()
    # bench also measures fixed depths, whose samples all vote
    share = "% of the samples had no vote" if command == "bench" else SAYS
    notes = [line for line in said.err.splitlines() if share in line]
    assert len(notes) == 1
    assert notes[0].startswith("deqcert: note: ")
    assert notes[0].endswith("a larger --depth or --tol may give them one")
    assert "nan" not in said.out


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_said_where_all_samples_vote(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = COMMANDS[command].format(out=tmp_path / "run")
    # a fixed depth always votes; the cold baselines of bench need room for their tolerance
    depth = "--depth 40 --tol 0.01" if command == "bench" else "--depth 2 --tol 0"
    assert main([*given.split(), *depth.split(), "--images", "0:1", "--threads", "1"]) == 0
    assert "no vote" not in "".join(capsys.readouterr())


def test_bench_says_per_setting_how_many_had_no_vote(capsys: pytest.CaptureFixture[str]) -> None:
    given = COMMANDS["bench"].replace("--quiet", "") + " --reference-depth 2 " + TOO_FEW
    assert main(given.split()) == 0
    said = capsys.readouterr()
    table = [line for line in said.out.splitlines() if line.startswith("anderson")]
    chained = next(line for line in table if "previous" in line)
    assert chained.split()[3:8] == ["-", "0.50", "-", "-", chained.split()[7]]
    assert "100.0" in chained.split()
    assert "anderson, previous, 9: no vote was cast" in said.err
    assert "the reference solve converged for no sample" in said.err
