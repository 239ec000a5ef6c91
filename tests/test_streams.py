"""Closed, full and ASCII-only streams, and names that are no text: a sentence or the result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = "0\t3\t3\t1.53\t1\t0:00:14.25\n20\t8\t-1\t0.0\t0\t0:00:13\n"
CERTIFY = "certify --images 0:1 --n 40 --n0 10 --depth 2 --tol 0 --threads 1 --out {out}"


def shell(
    folder: Path, line: str, **environment: str
) -> tuple[int, subprocess.CompletedProcess[bytes]]:
    """Run a line of the shell in a folder, ``deqcert`` in it being this one."""
    line = line.replace("deqcert", f"'{sys.executable}' -m deqcert", 1)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr
    return done.returncode, done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tsv").write_text(ROWS)
    (tmp_path / "ä.tsv").write_text(ROWS)
    return tmp_path


def test_a_closed_standard_output_is_one_sentence(folder: Path) -> None:
    code, done = shell(folder, "deqcert report a.tsv >&-")
    assert code == 2
    assert done.stderr.startswith(b"deqcert: standard output is closed")
    assert done.stderr.count(b"\n") == 1


def test_with_every_stream_closed_nothing_is_begun(folder: Path) -> None:
    code, _ = shell(folder, f"deqcert {CERTIFY.format(out='run')} <&- >&- 2>&-")
    assert code == 2
    assert not (folder / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("to", ["2>/dev/full", "2>&-"])
def test_a_run_goes_on_where_nobody_hears_its_progress(folder: Path, to: str) -> None:
    code, done = shell(folder, f"deqcert {CERTIFY.format(out='run')} {to}")
    assert code == 0
    assert done.stdout.endswith(b"curve: run/curve.png\n")
    assert done.stdout.startswith(b"run ")  # and none of it went to standard output instead
    assert len((folder / "run" / "certificates.tsv").read_text().splitlines()) == 2
    code, _ = shell(folder, f"deqcert report nowhere.tsv {to}")
    assert code == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_name_that_the_encoding_lacks_is_written_in_escapes(folder: Path, encoding: str) -> None:
    code, done = shell(folder, "deqcert report ä.tsv", PYTHONIOENCODING=encoding)
    assert code == 0
    shown = "\\xe4" if encoding == "ascii" else "ä"
    assert shown in done.stdout.decode(encoding)
    code, done = shell(folder, "deqcert report nö.tsv", PYTHONIOENCODING=encoding)
    assert code == 2
    assert done.stderr.count(b"\n") == 1


def test_a_folder_whose_name_is_no_text_holds_a_whole_run(folder: Path) -> None:
    code, done = shell(folder, "deqcert " + CERTIFY.format(out=r"$'r\xff'"))
    assert code == 0
    assert b"run folder: " in done.stdout
    assert (Path(os.fsdecode(bytes(folder) + b"/r\xff")) / "curve.png").exists()
    code, done = shell(
        folder, r"deqcert report $'n\xff=a.tsv' --picture $'p\xff.png' --title $'t\xff'"
    )
    assert code == 0
    assert b"run " in done.stdout


def test_the_c_locale_will_do(folder: Path) -> None:
    line = "deqcert " + CERTIFY.format(out="ä")
    code, _ = shell(folder, line, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 0
    assert (folder / "ä" / "summary.json").exists()
