"""The report: any certificate file in, a table and curves out, and no torch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deqcert.errors import ConfigError, RunError
from deqcert.report import default_radii, draw_curves, join_parts, read_results, table
from deqcert.report.attacks import read_attacks
from deqcert.report.columns import parse_seconds
from deqcert.report.picture import curve
from deqcert.report.tables import MOST_STEPS

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ROWS = "0\t3\t3\t1.53\t1\t0:00:14.25\n20\t8\t-1\t0.0\t0\t0:00:13\n40\t1\t2\t0.7\t0\t12.5\n"


def written(folder: Path, text: str, name: str = "theirs.tsv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [HEADER + ROWS, ROWS, (HEADER + ROWS).replace("\n", "\r\n")])
def test_reads_the_fields_files_with_and_without_a_header(tmp_path: Path, text: str) -> None:
    results = read_results(written(tmp_path, text))
    assert results.name == "theirs"
    assert results.idx.tolist() == [0, 20, 40]
    assert results.predict.tolist() == [3, -1, 2]
    assert results.correct.tolist() == [True, False, False]
    assert results.seconds.tolist() == [14.25, 13.0, 12.5]
    assert results.sound
    assert not results.facts


def test_a_file_without_the_time_column_will_do(tmp_path: Path) -> None:
    text = "\n".join(line.rsplit("\t", 1)[0] for line in (HEADER + ROWS).splitlines())
    assert len(read_results(written(tmp_path, text))) == 3


def test_counts_all_images_and_only_right_radii(tmp_path: Path) -> None:
    made = table([read_results(written(tmp_path, HEADER + ROWS))], [1.54, 0, 1.53])
    row = made.rows[0]
    assert made.radii == (0.0, 1.53, 1.54)
    assert row["certified_accuracy"] == pytest.approx([1 / 3, 1 / 3, 0])
    assert row["acr"] == pytest.approx(1.53 / 3)  # the wrong image's 0.7 does not count
    assert row["abstained"] == pytest.approx(1 / 3)
    assert json.loads(made.json())["runs"][0]["images"] == 3


@pytest.mark.parametrize("torn", ["50\t1\t1", "50", "50\t1\t1\t0.2\t"])
def test_leaves_a_torn_last_line_out(tmp_path: Path, torn: str) -> None:
    assert len(read_results(written(tmp_path, HEADER + ROWS + torn))) == 3


def test_takes_method_sigma_and_soundness_from_further_columns(tmp_path: Path) -> None:
    head = HEADER.rstrip("\n") + "\tmethod\tsigma\tsound\n"
    rows = "0\t1\t1\t0.5\t1\t1\todd\t0.5\t1\n1\t1\t1\t0.5\t1\t1\todd\t0.5\t0\n"
    results = read_results(written(tmp_path, head + rows))
    assert results.facts == {"method": "odd", "sigma": "0.5"}
    assert not results.sound
    assert results.title == "theirs (odd sigma=0.5) UNSOUND"
    assert "UNSOUND" in table([results]).text()


def test_samples_that_stopped_early_are_shown_as_their_mean(tmp_path: Path) -> None:
    head = HEADER.rstrip("\n") + "\tn\tmethod\tsigma\n"
    rows = "0\t1\t1\t0.5\t1\t1\t500\todd\t0.5\n1\t1\t1\t0.5\t1\t1\t2000\todd\t0.5\n"
    results = read_results(written(tmp_path, head + rows))
    assert results.facts["n"] == "mixed"
    assert results.title == "theirs (odd sigma=0.5 n=1250 on average)"
    assert json.loads(table([results]).json())["runs"][0]["n_mean"] == 1250
    same = read_results(written(tmp_path, (head + rows).replace("2000", "500")))
    assert same.title == "theirs (odd sigma=0.5 n=500)"
    assert "n_mean" not in same.facts


WIDE = HEADER.rstrip("\n") + "\tn\tmethod\tsigma\n"
ROW = st.tuples(st.integers(-1, 3), st.integers(0, 200), st.sampled_from([500, 1000, 2000]))


@given(rows=st.lists(ROW, min_size=2, max_size=12), cut=st.integers(1, 11))
@settings(max_examples=40, deadline=None)
def test_parts_of_one_evaluation_join_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    lines = []
    for i, (predict, radius, n) in enumerate(rows):
        certified = f"{predict}\t{radius / 100 * (predict >= 0)}\t{int(predict == 1)}"
        lines.append(f"{i}\t1\t{certified}\t2\t{n}\todd\t0.5\n")
    at = min(cut, len(lines) - 1)
    whole = read_results(written(folder, WIDE + "".join(lines), "whole.tsv"), "all")
    halves = [
        read_results(written(folder, WIDE + "".join(half), f"{i}.tsv"), "all")
        for i, half in enumerate((lines[:at], lines[at:]))
    ]
    joined, asked = join_parts(halves), [0.0, 0.5, 1.0]
    ours, theirs = table([joined], asked).rows[0], table([whole], asked).rows[0]
    # each half rounds its mean of n, and the mean of the means is rounded again
    assert abs(ours.pop("n_mean", 0) - theirs.pop("n_mean", 0)) <= 1
    assert ours.pop("title").split(" n=")[0] == theirs.pop("title").split(" n=")[0]
    assert ours == theirs
    assert joined.idx.tolist() == whole.idx.tolist()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("0\t1\t1\t0.5\t1\t1\t500\todd\t0.5\n", "image 0 is in two parts of all"),
        ("1\t1\t1\t0.5\t1\t1\t500\todd\t0.25\n", r"all differ in sigma \(0.5 and 0.25\)"),
    ],
)
def test_what_is_not_a_part_is_refused(tmp_path: Path, other: str, says: str) -> None:
    first = WIDE + "0\t1\t1\t0.5\t1\t1\t500\todd\t0.5\n"
    files = [written(tmp_path, first, "a.tsv"), written(tmp_path, WIDE + other, "b.tsv")]
    with pytest.raises(RunError, match=says):
        join_parts([read_results(file, "all") for file in files])


def test_takes_the_captions_from_the_manifest_beside_it(tmp_path: Path) -> None:
    written(tmp_path, HEADER + ROWS, "certificates.tsv")
    manifest = {
        "count": 4,
        "parameters": {"method": "serialized-released", "sigma": 0.25, "n": 1000},
    }
    written(tmp_path, json.dumps(manifest), "manifest.json")
    results = read_results(tmp_path)
    assert results.pending == 1
    assert not results.sound
    assert results.title == f"{tmp_path.name} (serialized-released sigma=0.25 n=1000) UNSOUND"
    assert "unfinished, 3 of 4" in table([results]).text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no certificates yet"),
        (HEADER, "no certificates yet"),
        ("idx\tlabel\tradius\n0\t1\t0.5\n", "no column 'predict'"),
        (HEADER + "0\t1\t1\tlarge\t1\t2\n", "line 2: radius is 'large'"),
        (HEADER + "0\t1\t1\tnan\t1\t2\n", "line 2: radius is 'nan'"),
        (HEADER + "0\t1\t1\t-1\t1\t2\n", "line 2: radius is '-1'"),
        (HEADER + "0\tcat\t1\t1\t1\t2\n", "line 2: label is 'cat'"),
        (HEADER + "0\t1\t1\t1\tyes\t2\n", "line 2: correct is 'yes'"),
        (HEADER + "0\t1\t1\n" + ROWS, "line 2: 3 tab-separated values"),
        (HEADER + ROWS + ROWS, "image 0 stands in line 2 and again in line 5"),
        ("a picture of a cat\n", "line 1"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RunError, match=says) as caught:
        read_results(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0\t3\t-1\t0.0\t1\t2", "correct is '1' and contradicts label 3 and predict -1, an"),
        (
            "0\t3\t3\t0.5\t0\t2",
            "correct is '0' and contradicts .* and predict 3; it must be 1",
        ),
        (
            "0\t3\t4\t0.5\t1\t2",
            "correct is '1' and contradicts .* and predict 4; it must be 0",
        ),
        ("0\t3\t-1\t0.5\t0\t2", "radius is '0.5' and must be 0, because predict is -1"),
        ("0\t3\t-2\t0.0\t0\t2", "predict is '-2' and must be a whole number from -1"),
        ("0\t3\t3\t1e300\t1\t2", "radius is '1e300' and must be a finite number >= 0, at most"),
        ("0\t3\t3\t1e999\t1\t2", "radius is '1e999'"),
        ("99999999999999999999\t3\t3\t1\t1\t2", "idx is '99999999999999999999'"),
        ("-1\t3\t3\t1\t1\t2", "idx is '-1' and must be a whole number from 0"),
        ("٣\t3\t3\t1\t1\t2", "idx is '٣'"),
        ("1_0\t3\t3\t1\t1\t2", "idx is '1_0'"),
        ("0\t3\t3\t٣.5\t1\t2", "radius is '٣.5'"),
        ("0\t3\t3\t1_0.5\t1\t2", "radius is '1_0.5'"),
        (f"0\t3\t3\t{'x' * 99999}\t1\t2", "radius is 'x{40}...' and"),
    ],
)
def test_a_line_that_cannot_be_true_is_refused(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(RunError, match=f"line 2: {says}") as caught:
        read_results(written(tmp_path, HEADER + line + "\n"))
    assert len(str(caught.value)) < 400


CELL = st.sampled_from(["-1", "0", "1", "3", "0.5", "1e3", "nan", "true", "idx"]) | st.text(
    max_size=6
)


@given(cells=st.lists(CELL, min_size=5, max_size=6))
@settings(max_examples=200, deadline=None)
def test_whatever_a_line_holds_it_is_consistent_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_text("\t".join(cells) + "\n", encoding="utf-8", errors="replace")
    try:
        results = read_results(path)
    except RunError as error:
        refusal: str | None = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert len(refusal) < 600
        assert "\n" not in refusal
        return
    right = (results.predict == results.label) & (results.predict >= 0)
    assert (results.correct == right).all()
    assert (results.radius[results.predict < 0] == 0).all()
    made = table([results])
    assert max(map(len, made.text().split("\n"))) < 1000
    json.loads(made.json(), parse_constant=pytest.fail)


def test_an_unknown_word_for_soundness_is_refused(tmp_path: Path) -> None:
    head = HEADER.rstrip("\n") + "\tsound\n"
    with pytest.raises(RunError, match="sound is 'no' and must be 0 or 1"):
        read_results(written(tmp_path, head + "0\t1\t1\t0.5\t1\t1\tno\n"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "theirs.tsv"
    path.write_text(HEADER + ROWS, encoding="utf-8-sig")
    assert len(read_results(path)) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="no regular file"):
        read_results(tmp_path / "pipe")
    os.mkfifo(tmp_path / "attacks.tsv")
    with pytest.raises(RunError, match="no regular file"):
        read_attacks(tmp_path)


@pytest.mark.parametrize("radius", [10.5, 127.5, 999.0, 1e6])
def test_radii_in_another_unit_make_a_table_that_says_so(tmp_path: Path, radius: float) -> None:
    made = table([read_results(written(tmp_path, f"0\t1\t1\t{radius}\t1\t1\n"))])
    assert len(made.radii) <= MOST_STEPS + 1
    assert made.radii[-1] <= radius
    assert f"divide the radii by 255 ({radius:g} becomes {radius / 255:.3g})" in made.text()
    assert "divide the radii by 255" in made.rows[0]["doubt"]


def test_facts_that_are_no_numbers_stay_text_for_machines(tmp_path: Path) -> None:
    head = HEADER.rstrip("\n") + "\tn\tsigma\n"
    rows = f"0\t1\t1\t0.5\t1\t1\t٣\tnan\n1\t1\t1\t0.5\t1\t1\t{'9' * 399}\tnan\n"
    made = table([read_results(written(tmp_path, head + rows))])
    assert made.rows[0]["sigma"] == "nan"
    assert "n_mean" not in made.rows[0]
    json.loads(made.json(), parse_constant=pytest.fail)


def test_a_manifest_that_is_nested_without_end_costs_the_captions_only(tmp_path: Path) -> None:
    written(tmp_path, HEADER + ROWS, "certificates.tsv")
    written(tmp_path, "[" * 100_000, "manifest.json")
    assert len(read_results(tmp_path)) == 3


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_results(tmp_path / "nowhere.tsv")
    with pytest.raises(RunError, match=r"no certificates\.tsv"):
        read_results(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(RunError, match="not text"):
        read_results(tmp_path / "binary")


def test_refuses_radii_that_are_none(tmp_path: Path) -> None:
    results = read_results(written(tmp_path, ROWS))
    for radii in ([-0.5], [math.nan], []):
        with pytest.raises(ConfigError):
            table([results], radii)


def test_default_radii_reach_the_largest_right_radius(tmp_path: Path) -> None:
    results = read_results(written(tmp_path, ROWS))
    assert default_radii([results]) == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@given(
    rows=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=1, max_size=30),
    at=st.floats(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_curve_is_the_share_of_images_at_every_radius(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bool, float]], at: float
) -> None:
    lines = [
        f"{i}\t1\t{int(good)}\t{radius!r}\t{int(good)}\t1" for i, (good, radius) in enumerate(rows)
    ]
    folder = tmp_path_factory.mktemp("curve")
    results = read_results(written(folder, "\n".join(lines) + "\n"))
    radii, shares = curve(results)
    assert (np.diff(radii) >= 0).all()
    assert (np.diff(shares) <= 0).all()
    where = int(np.searchsorted(radii, at, side="left"))
    drawn = shares[where] if where < len(shares) else 0.0
    assert drawn == pytest.approx(np.mean([good and radius >= at for good, radius in rows]))


def test_draws_several_runs_in_one_picture(tmp_path: Path) -> None:
    runs = [read_results(written(tmp_path, HEADER + ROWS, f"{i}.tsv")) for i in range(9)]
    path = draw_curves(runs, tmp_path / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    with pytest.raises(ConfigError, match="must end in"):
        draw_curves(runs, tmp_path / "curves.doc")
    with pytest.raises(ConfigError, match="no runs"):
        draw_curves([], tmp_path / "curves.png")
    with pytest.raises(ConfigError, match="there is no folder"):
        draw_curves(runs, tmp_path / "nowhere" / "curves.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="there is a folder of that name"):
        draw_curves(runs, tmp_path / "folder.png")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("0:00:14.25", 14.25), ("1:00:00", 3600), ("2 days, 0:00:01", 172801)],
)
def test_reads_durations_as_the_field_writes_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["soon", "", "-1", "1e999", "١٢", "1_2", "1:2:3:4", "some days, 0:00:01", ", 1", "0:-1"]
)
def test_what_is_no_duration_is_unknown(text: str) -> None:
    assert math.isnan(parse_seconds(text))


def test_needs_no_torch() -> None:
    code = "import sys, deqcert.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
