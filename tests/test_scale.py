"""Shards and their merging: the bytes of one process, or one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deqcert.cli import main
from deqcert.errors import ConfigError, RunError
from deqcert.runs.agreement import AGREEMENT
from deqcert.runs.journal import CERTIFICATES
from deqcert.scale.merge import merge, timeless
from deqcert.scale.shard import Shard, parse_shard

SMALL = "certify --sigma 0.25 --images 0:5 --n0 10 --n 60 --tol 0 --depth 3 --batch 50"
SMALL += " --agreement 1"


def certify(out: Path, more: str = "") -> Path:
    """Certify in this process; return the run folder."""
    assert main([*SMALL.split(), *more.split(), "--quiet", "--out", str(out)]) == 0
    return out


def essence(folder: Path) -> dict[str, object]:
    """Return what a run folder holds but for its clocks: what must be equal to the byte."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        found[path.name] = path.read_bytes()
    for layout in (CERTIFICATES, AGREEMENT):
        lines = (folder / layout.name).read_text().splitlines()
        found[layout.name] = [timeless(line, layout) for line in lines]
    summary = json.loads((folder / "summary.json").read_text())
    for timed in (summary, summary["agreement"]):
        assert timed.pop("seconds") >= 0
    summary["agreement"].pop("said")  # it tells the seconds, too
    found["summary.json"] = summary
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    return certify(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same run in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    return [certify(folder / f"s{i}", f"--shard {i}/2") for i in (1, 2)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_shards_hold_every_image_once_and_in_order(count: int) -> None:
    images = range(3, 23, 2)
    parts = [Shard(index, count).part(images) for index in range(1, count + 1)]
    assert [i for part in parts for i in part] == list(images)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("given", ["3/2", "0/2", "1/0", "2", "", "a/b", "1/2/3", "\u0661/2"])
def test_what_is_no_shard_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="I from 1 to N"):
        parse_shard(given)


def test_more_shards_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 2"):
        Shard(1, 3).part(range(2))


def test_merged_shards_are_the_bytes_of_one_process(
    whole: Path, shards: list[Path], tmp_path: Path
) -> None:
    # Out of order, and one of them twice.
    told = [str(path) for path in (shards[1], shards[0], shards[1])]
    assert main(["merge", *told, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert essence(tmp_path / "run") == essence(whole)
    assert (tmp_path / "run" / "manifest.json").read_bytes() == (
        whole / "manifest.json"
    ).read_bytes()


def test_a_merge_that_was_killed_goes_on(whole: Path, shards: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    merge(shards, run)
    (run / "agreement.tsv").unlink()
    (run / "summary.json").unlink()
    text = (run / "certificates.tsv").read_text()
    (run / "certificates.tsv").write_text(text[: len(text) // 2])
    merge(shards, run)
    assert essence(run) == essence(whole)


def test_a_merge_into_other_certificates_is_refused(shards: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    merge(shards, run)
    lines = (run / "certificates.tsv").read_text().splitlines(keepends=True)
    cells = lines[1].split("\t")
    cells[3] = "9.000000"
    (run / "certificates.tsv").write_text("".join([lines[0], "\t".join(cells)]))
    with pytest.raises(RunError, match="another line for image 0"):
        merge(shards, run)


def test_a_merge_into_one_of_its_shards_is_refused(shards: list[Path]) -> None:
    with pytest.raises(RunError, match="is one of the shards"):
        merge(shards, shards[1])


def test_a_missing_shard_is_named(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"shard 1/2 \(images 0:2:1\) is missing"):
        merge(shards[1:], tmp_path / "run")


def test_an_unfinished_shard_is_named(shards: list[Path], tmp_path: Path) -> None:
    cut = shutil.copytree(shards[1], tmp_path / "cut")
    text = (cut / "certificates.tsv").read_text()
    (cut / "certificates.tsv").write_text(text[:-5])
    with pytest.raises(RunError, match=r"shard 2/2\) has 2 of 3 lines in certificates.tsv"):
        merge([shards[0], cut], tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--n 61", "n was 60"),
        ("--seed 1", "seed was 0"),
        ("--images 1:6", "shards of 0:5:1"),
        ("--agreement 0", "agreement"),
    ],
)
def test_shards_of_different_runs_are_refused(
    more: str, says: str, shards: list[Path], tmp_path: Path
) -> None:
    other = certify(tmp_path / "other", f"{more} --shard 2/2")
    with pytest.raises(RunError, match=says):
        merge([shards[0], other], tmp_path / "run")


def test_one_image_with_two_answers_is_refused(shards: list[Path], tmp_path: Path) -> None:
    twin = shutil.copytree(shards[1], tmp_path / "twin")
    text = (twin / "certificates.tsv").read_text()
    last = text.splitlines(keepends=True)[-1]
    cells = last.split("\t")
    cells[cells.index("60")] = "61"
    (twin / "certificates.tsv").write_text(text.replace(last, "\t".join(cells)))
    with pytest.raises(RunError, match="image 4 has two different lines"):
        merge([*shards, twin], tmp_path / "run")


def test_other_versions_are_refused_and_other_processors_recorded(
    shards: list[Path], tmp_path: Path
) -> None:
    def moved(key: str, value: object) -> Path:
        copy = shutil.copytree(shards[1], tmp_path / key)
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["environment"][key] = value
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    with pytest.raises(RunError, match=r"with torch 1\.0 and"):
        merge([shards[0], moved("torch", "1.0")], tmp_path / "run")
    merge([shards[0], moved("cpu", "another")], tmp_path / "run")
    entry = json.loads((tmp_path / "run" / "manifest.json").read_text())["continued"][0]
    assert (entry["after_images"], entry["environment"]["cpu"]) == (2, "another")


def test_an_ordinary_run_is_no_shard(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no shard"):
        merge([whole], tmp_path / "run")


def test_a_secret_seed_is_refused_for_a_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*SMALL.split(), "--shard", "1/2", "--seed", "random", "--out", str(tmp_path / "run")]
    assert main(given) == 2
    assert "all of a run share one" in capsys.readouterr().err


def test_alpha_total_of_a_shard_is_that_of_the_whole_run(whole: Path, tmp_path: Path) -> None:
    shard = certify(tmp_path / "s", "--alpha-total 0.005 --shard 2/5")
    alpha = json.loads((shard / "manifest.json").read_text())["parameters"]["alpha"]
    assert alpha == 0.005 / 5
