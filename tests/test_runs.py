"""The run folder: whatever stops a run, it goes on and ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqcert.certifiers import Certificate, NoiseDetails
from deqcert.certifiers.bounds import write_down
from deqcert.errors import RunError
from deqcert.report import read_results
from deqcert.runs import COLUMNS, Manifest, Row, Run, certify_images, describe_images
from deqcert.runs.journal import PROOFS
from deqcert.runs.manifest import parse_images
from deqcert.smoothing import Input

IMAGES = range(3, 24, 3)
PARAMETERS: dict[str, Any] = {"sigma": 0.25, "n": 1000, "method": "standard", "seed": 7}


def certificate(image: int) -> Certificate:
    """An answer that depends on the image alone."""
    draw = random.Random(image)
    abstain = image % 4 == 0
    return Certificate(
        prediction=None if abstain else draw.randrange(3),
        radius=0.0 if abstain else draw.random(),
        alpha=0.001,
        method="standard",
        assumptions="none",
        details=NoiseDetails(
            p_lower=draw.random(),
            sigma=0.25,
            n0=10,
            n=1000,
            votes=draw.randrange(1000),
            audited=0,
            disagreements=0,
            seed=7,
        ),
        nfe=draw.randrange(9000),
        seconds=1.25,
    )


class Certifying:
    """A certifier, an engine and a data set in one, for runs that need no model."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    name = "standard"
    norm = "l2"

    def certify(self, subject: object, input: Input) -> Certificate:
        time.sleep(self.seconds)
        return certificate(input.index)

    def image(self, index: int) -> None:
        return None

    def label(self, index: int) -> int:
        return index % 3


def go(folder: Path, parameters: dict[str, Any] = PARAMETERS, seconds: float = 0.0) -> bytes:
    """Begin or continue the run, to its end."""
    fake: Any = Certifying(seconds)
    with Run(folder, parameters, IMAGES) as run:
        certify_images(run, fake, fake, fake)
        run.finish({"images": run.done})
        return run.certificates.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return go(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_is_a_manifest_a_journal_and_a_summary(tmp_path: Path, whole: bytes) -> None:
    folder = tmp_path / "deep" / "run"
    assert go(folder) == whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "certificates.tsv",
        "manifest.json",
        "summary.json",
    ]
    lines = whole.decode().splitlines()
    assert lines[0].split("\t")[:6] == ["idx", "label", "predict", "radius", "correct", "time"]
    assert len(lines) == 1 + len(IMAGES)
    results = read_results(folder)
    assert results.idx.tolist() == list(IMAGES)
    assert results.facts["sigma"] == "0.25"
    assert results.pending == 0
    for i, image in enumerate(IMAGES):
        answer = certificate(image)
        assert results.predict[i] == (-1 if answer.prediction is None else answer.prediction)
        assert answer.radius - 1e-6 < results.radius[i] <= answer.radius
        assert results.correct[i] == (answer.prediction == image % 3)
        assert results.seconds[i] == 1.25


def test_cut_off_at_any_byte_it_goes_on_and_ends_the_same(tmp_path: Path, whole: bytes) -> None:
    folder = tmp_path / "run"
    go(folder)
    for length in range(0, len(whole) + 1, 3):
        (folder / "certificates.tsv").write_bytes(whole[:length])
        (folder / "summary.json").unlink(missing_ok=True)
        with Run(folder, PARAMETERS, IMAGES) as run:
            assert run.done == max(0, whole[:length].count(b"\n") - 1)
        assert go(folder) == whole


@pytest.mark.parametrize("garbage", [b"\0\0\0\0", b"\0\0\n", b"3\t1\t", b"\xff\xfe\n", b"\n"])
def test_a_last_line_that_is_none_is_cut_off(tmp_path: Path, whole: bytes, garbage: bytes) -> None:
    folder = tmp_path / "run"
    go(folder)
    first = b"".join(whole.splitlines(keepends=True)[:4])
    (folder / "certificates.tsv").write_bytes(first + garbage)
    assert go(folder) == whole


class Killed(BaseException):
    """Stands for the process being gone: nothing below may catch it and tidy up."""


@pytest.mark.parametrize("call", range(1, 40, 2))
def test_killed_in_any_system_call_it_goes_on(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    folder, calls = tmp_path / "run", iter(range(1, 1000))

    def dying(real: Any, partial: bool) -> Any:
        def wrapped(*arguments: Any) -> Any:
            if next(calls) == call:
                if partial:
                    real(arguments[0], bytes(arguments[1])[: call % 7])
                raise Killed
            return real(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", dying(os.write, True))
        patch.setattr(os, "fsync", dying(os.fsync, False))
        patch.setattr(os, "replace", dying(os.replace, False))
        with contextlib.suppress(Killed):
            go(folder)
    assert go(folder) == whole


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_runs import go
go(Path(sys.argv[2]), seconds=0.02)
"""


def test_killed_with_kill_9_it_goes_on(tmp_path: Path, whole: bytes) -> None:
    folder, draw, kills = tmp_path / "run", random.Random(1), 0
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    journal = folder / "certificates.tsv"
    for target in (0, 1, 3, 5):
        process = subprocess.Popen(command)
        while process.poll() is None and not (
            journal.exists() and journal.read_bytes().count(b"\n") > target
        ):
            time.sleep(0.001)
        time.sleep(0.03 * draw.random())
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    assert go(folder) == whole


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[cm]*")}
    go(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("[cm]*")} == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sigma": 0.5}, "sigma was 0.25 and is now 0.5"),
        ({"method": "serialized", "audit": 10}, "audit was not set and is now 10"),
        ({"solver": {"name": "anderson"}}, "solver.name was not set"),
    ],
)
def test_other_parameters_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    go(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=re.escape(says)):
        go(tmp_path / "run", PARAMETERS | change)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_other_images_are_refused(tmp_path: Path) -> None:
    go(tmp_path / "run")
    with pytest.raises(RunError, match=r"images was 3:22:3 and is now 0:5:1"):
        Run(tmp_path / "run", PARAMETERS, range(5))


def test_tuples_and_lists_are_the_same_parameter(tmp_path: Path) -> None:
    Run(tmp_path / "run", {"shape": (1, 2)}, IMAGES).close()
    Run(tmp_path / "run", {"shape": [1, 2]}, IMAGES).close()


def test_a_change_of_environment_is_told_and_recorded(tmp_path: Path) -> None:
    Run(tmp_path / "run", PARAMETERS, IMAGES, environment={"torch": "1"}).close()
    with Run(tmp_path / "run", PARAMETERS, IMAGES, environment={"torch": "2"}) as run:
        assert run.changes == ["torch was 1 and is now 2"]
    with Run(tmp_path / "run", PARAMETERS, IMAGES, environment={"torch": "2"}) as run:
        assert run.changes == []
    manifest = Manifest.read(tmp_path / "run")
    assert manifest is not None
    assert manifest.environment == {"torch": "1"}
    assert manifest.continued == ({"after_images": 0, "environment": {"torch": "2"}},)


def foreign(folder: Path) -> Iterator[None]:
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    yield
    (folder / "thesis.tex").rename(folder / "certificates.tsv")
    yield
    (folder / "certificates.tsv").rename(folder / "manifest.json")
    yield
    (folder / "manifest.json").write_text(json.dumps({"format": "somebody else's"}))
    yield
    (folder / "manifest.json").write_text(json.dumps({"format": "deqcert-run"}))
    yield
    (folder / "manifest.json").write_text("[]")
    yield


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    for _ in foreign(tmp_path / "theirs"):
        before = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
        with pytest.raises(RunError, match=r"--out|deqcert that began it") as caught:
            go(tmp_path / "theirs")
        assert "\n" not in str(caught.value)
        assert {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir()} == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        go(tmp_path / "file")
    with pytest.raises(RunError, match="cannot make the folder"):
        go(tmp_path / "file" / "run")


@pytest.mark.parametrize("which", ["open", "mkdir"])
def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """By patching, because the super-user may write anywhere."""

    def denied(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, which, denied)
        with pytest.raises(RunError, match=r"no permission to .*--out"):
            go(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="no permission"):
            go(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, call: str, lines: int
) -> None:
    folder = tmp_path / "run"
    fake: Any = Certifying()
    real = getattr(os, call)
    with Run(folder, PARAMETERS, IMAGES) as run, monkeypatch.context() as patch:
        for image in IMAGES[:lines]:
            run.append(Row(image, image % 3, certificate(image)))

        def full(descriptor: int, *data: Any) -> int:
            if data and len(data[0]) > 5:  # the disk takes five more bytes, then none
                return int(real(descriptor, bytes(data[0])[:5]))
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, call, full)
        with pytest.raises(RunError, match=f"the disk is full; {lines} of 7 images are safe"):
            certify_images(run, fake, fake, fake)
        patch.undo()
        assert whole.startswith(run.certificates.read_bytes())
        assert run.certificates.read_bytes().endswith(b"\n")
    assert go(folder) == whole


def test_a_disk_that_is_full_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="the disk is full"):
            go(tmp_path / "run")
    go(tmp_path / "run")  # what was left behind is not foreign


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    held = Run(tmp_path / "run", PARAMETERS, IMAGES)
    with pytest.raises(RunError, match="another process is writing"):
        Run(tmp_path / "run", PARAMETERS, IMAGES)
    held.close()
    Run(tmp_path / "run", PARAMETERS, IMAGES).close()


@pytest.mark.parametrize(
    ("line", "text"), [(0, "idx\tlabel"), (2, "spoilt"), (3, "999" + "\t1" * (len(COLUMNS) - 1))]
)
def test_a_journal_damaged_inside_is_refused(
    tmp_path: Path, whole: bytes, line: int, text: str
) -> None:
    go(tmp_path / "run")
    lines = whole.decode().splitlines()
    lines[line] = text
    (tmp_path / "run" / "certificates.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match="columns" if line == 0 else f"line {line + 1},"):
        go(tmp_path / "run")


def test_a_journal_that_is_too_long_is_refused(tmp_path: Path, whole: bytes) -> None:
    go(tmp_path / "run")
    more = whole + whole.splitlines(keepends=True)[-1]
    (tmp_path / "run" / "certificates.tsv").write_bytes(more)
    with pytest.raises(RunError, match=f"line {len(IMAGES) + 2},"):
        go(tmp_path / "run")


@given(st.floats(0, 100), st.integers(3, 9))
def test_rounding_never_goes_up(value: float, digits: int) -> None:
    text = write_down(value, digits)
    assert 0 <= Decimal(value) - Decimal(text) < Decimal(10) ** -digits
    assert len(text.partition(".")[2]) == digits


@given(
    st.lists(st.integers(0, 10**6), max_size=8)
    | st.builds(
        lambda a, n, s: list(range(a, a + n * s, s)),
        st.integers(0, 99),
        st.integers(0, 9),
        st.integers(1, 9),
    )
)
def test_images_are_written_so_that_they_can_be_read(images: list[int]) -> None:
    assert list(parse_images(describe_images(images))) == images


def proof(radius: float) -> Certificate:
    return Certificate(
        prediction=1, radius=radius, alpha=0.0, method="m", assumptions="a", nfe=1, seconds=1.0
    )


@given(radius=st.floats(0, 1e5) | st.integers(0, 10**7).map(lambda count: count / 10**6))
def test_the_journal_holds_the_certificates_radius(radius: float) -> None:
    answer = proof(radius)
    cells = dict(zip(PROOFS.columns, Row(0, 1, answer).line().split("\t"), strict=True))
    assert float(cells["radius"]) == answer.radius <= radius
    assert radius - answer.radius < 1.0001e-6
    assert len(cells["radius"].partition(".")[2]) == 6


def test_a_radius_of_six_decimals_is_written_as_it_is() -> None:
    answer = proof(0.3)
    assert Row(0, 1, answer).line().split("\t")[3] == "0.300000"
    assert "radius=0.300," in repr(answer)


def test_a_row_says_minus_one_for_abstain() -> None:
    answer = certificate(4)
    row = Row(4, 1, answer)
    assert row.line().startswith("4\t1\t-1\t0.000000\t0\t0:00:01.250000\t")
    assert SimpleNamespace(**dict(zip(COLUMNS, row.line().split("\t"), strict=True))).sound == "1"
