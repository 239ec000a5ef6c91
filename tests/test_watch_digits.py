"""The commands on digits, from end to end: clean ones, then shifted ones."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from deqcert.cli import main
from deqcert.data import load_dataset

FAST = "--sigma 0.25 --n0 5 --n 20 --alpha 0.05 --tol 0 --depth 2 --batch 25 --agreement 0 --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reference, and clean and inverted digits that were certified."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_dataset("digits", "test")
    chosen = np.random.default_rng(0).integers(0, len(data), 150)
    x = np.rint(255 * data.batch(chosen)).astype(np.uint8)
    x[130:] = 255 - x[130:]
    np.savez(folder / "all.npz", x=x, y=data.labels()[chosen])
    (folder / "stream").mkdir()
    for name, images in (("reference", ":100"), ("stream/1", "100:130"), ("stream/2", "130:150")):
        given = f"certify {FAST} --data npz:{folder}/all.npz --images {images} --seed 7"
        assert main([*given.split(), "--out", f"{folder}/{name}"]) == 0
    made = f"watch-reference {folder}/reference --radius 0.1 --out {folder}/reference.json"
    assert main(made.split()) == 0
    return folder


def watch(place: Path, run: str, more: str = "") -> int:
    given = f"watch {place}/{run} --reference {place}/reference.json --quiet {more}"
    return main(given.split())


def test_shifted_digits_raise_an_alarm_and_its_incident_replays(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert watch(place, "stream/1", f"--state {tmp_path}/clean --delta 0.2") == 0
    assert "incident" not in capsys.readouterr().out
    assert watch(place, "stream", f"--state {tmp_path}/s --delta 0.2 --json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["standing"]
    assert found["answers"] == 50
    assert (tmp_path / "s" / "evidence.png").stat().st_size < 300_000
    raised = {row["alarm"]: row["raised"] for row in found["alarms"] if row["standing"]}
    assert {"energy", "mahalanobis"} <= set(raised)
    assert all(30 < at <= 50 for at in raised.values())
    incident = json.loads(Path(found["new"][0]).read_text())
    one = incident["inputs"][-1]
    out = tmp_path / "again"
    words = shlex.split(one["replay"])
    assert main([*words[1:-1], str(out), "--quiet"]) == 0
    header, line = (out / "certificates.tsv").read_text().splitlines()
    again = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert {key: again[key] for key in ("votes", "n", "p_lower")} == {
        key: one[key] for key in ("votes", "n", "p_lower")
    }


def test_a_second_look_reads_nothing_twice_and_still_says_that_an_alarm_stands(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--state {tmp_path}/s --alarms abstention,radius,error --delta 0.2"
    codes, before = set(), None
    for _ in range(2):
        capsys.readouterr()
        codes.add(watch(place, "stream", options))
        told = capsys.readouterr().out
        table = told.split("picture")[0].split("incident")[0]
        assert before in (None, table)
        before = table
    assert codes == {1}
    assert re.search(r"error +50 ", table)


@pytest.mark.parametrize(
    ("run", "more", "said"),
    [
        ("stream", "--delta 0", "above 0"),
        ("stream", "--delta 1", "below 1"),
        ("stream", "--alarms energi", "did you mean"),
        ("reference", "", "the reference itself"),
        ("", "--alarms error", "holds no run|of something else|reference itself"),
        ("nowhere", "", "holds no run"),
        ("stream", "--delta 1e-9", "are needed"),
    ],
)
def test_a_watch_that_cannot_be_is_one_sentence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str, more: str, said: str
) -> None:
    (place / "nowhere").mkdir(exist_ok=True)
    capsys.readouterr()
    assert watch(place, run, f"{more} --state {tmp_path}/s") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.search(said, told.err)
    assert told.err.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_run_of_another_sigma_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"certify {FAST} --data npz:{place}/all.npz --images :2 --sigma 0.5 --out {tmp_path}/r"
    assert main(given.split()) == 0
    capsys.readouterr()
    code = main(f"watch {tmp_path}/r --reference {place}/reference.json".split())
    assert code == 2
    assert "sigma was 0.25 and is now 0.5" in capsys.readouterr().err


def test_a_run_that_was_changed_below_what_was_read_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "stream" / "1", tmp_path / "r")
    given = f"watch {tmp_path}/r --reference {place}/reference.json --alarms abstention --quiet"
    assert main(given.split()) == 0
    file = tmp_path / "r" / "certificates.tsv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    assert main(given.split()) == 2
    assert "has lost lines" in capsys.readouterr().err
    cells = lines[3].split("\t")
    cells[3], cells[2], cells[4] = "0.000000", "-1", "0"
    file.write_text("".join([*lines[:3], "\t".join(cells), *lines[4:]]))
    assert main(given.split()) == 2
    assert "is not the run that was watched" in capsys.readouterr().err
