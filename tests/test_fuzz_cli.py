"""Hundreds of wrong command lines: each one sentence, exit code 2, at once, and nothing done."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from wrong_calls import ARGUMENTS, BASE, WrongCall, commands, make_files, wrong_calls, wrong_value

from deqcert.cli import main

SECONDS = 5
"""In which a wrong call must have been refused."""

SEEDS = int(os.environ.get("DEQCERT_FUZZ", "1"))
"""How many times 300 calls are made."""

LONGEST = 1000
"""Characters of a sentence; the longest names of files are not ours."""


class TooSlow(BaseException):
    """A call took too long; no handler of errors catches it."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with right and wrong files, which is the current one meanwhile."""
    folder = tmp_path_factory.mktemp("wrong")
    with contextlib.chdir(folder):
        make_files(folder)
        yield folder


class Writes:
    """What was opened for writing, made or taken away outside a folder, while it watches."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.found: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        write = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
        if event == "open" and isinstance(arguments[2], int):
            write = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if write and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            # What cannot be written is tried, and folders for temporary files come and go.
            elsewhere = ("/dev", "/proc", tempfile.gettempdir())
            if not path.startswith((str(self.folder), *elsewhere)):
                self.found.append(f"{event} {path}")


@pytest.fixture(scope="module")
def writes() -> Iterator[Writes]:
    watching = Writes()  # a hook stays for as long as the process
    yield watching
    watching.folder = None


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every name below a folder with its size and time."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (status.st_size, status.st_mtime_ns)
    return found


def slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def complaint(call: WrongCall, place: Path) -> str:
    """Make a call in this process; return what is wrong with how it ended, "" for nothing."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    before = listing(place)
    signal.signal(signal.SIGALRM, slow)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
        ):
            warnings.simplefilter("always")
            code = main(call.arguments)
            sys.stderr.flush()
    except TooSlow:
        return f"not refused in {SECONDS} seconds"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    lines = [line for line in err.split("\n") if not line.startswith("deqcert: note:")]
    sentence = lines[0]
    for fault, found in {
        "exit code": code != 2,
        "standard output": out != "",
        "no one line": len(lines) != 2 or lines[1] != "",
        "no sentence of ours": not re.fullmatch(r"deqcert: .+[.?!]", sentence, re.DOTALL),
        "too long": len(sentence) > LONGEST,
        "a traceback": "Traceback" in err,
        "an internal name": re.search(
            r"\b[A-Z]\w*(Error|Exception)\b|(?<!option )max_nfe|<class|object at", err
        ),
        "a warning": [str(warning.message) for warning in warned],
        "something done": listing(place) != before,
    }.items():
        if found:
            seen = "" if found is True else found
            return f"{fault} {seen} ({code}): {out[:100]!r} {err[:600]!r}"
    return ""


def complaints(seed: int, count: int, place: Path, writes: Writes) -> list[str]:
    writes.folder, writes.found = place.resolve(), []
    try:
        found = []
        for call in wrong_calls(seed, count, place):
            said = complaint(call, place)
            if said:
                found.append(f"{call.why}: {call.arguments}\n    {said}")
    finally:
        writes.folder = None
    return [*found, *(f"written: {path}" for path in writes.found)]


def test_every_option_says_what_it_does_not_take() -> None:
    for name, command in commands().items():
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                wrong_value(name, parameter, random.Random(0))


def test_the_calls_that_are_made_wrong_are_right(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "held", "shard"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("ok.pth", "ok.yaml", "data.npz", "other.npz", "normal.json"):
        shutil.copy(place / name, tmp_path / name)
    for command, right in BASE.items():
        # One compiles for minutes, one runs until it is told to stop, one asks for its answers.
        if command in ("bench forms", "serve", "replay"):  # tests/test_serve_process.py runs two
            continue
        given = [*command.split(), *right.split(), *ARGUMENTS.get(command, [])]
        with contextlib.chdir(tmp_path):
            shutil.rmtree("new", ignore_errors=True)
            assert main(given) == 0, (given, capsys.readouterr().err)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(SEEDS))
def test_hundreds_of_wrong_calls_are_one_sentence_each(
    place: Path, writes: Writes, seed: int
) -> None:
    found = complaints(seed, 300, place, writes)
    assert not found, "\n".join([f"{len(found)} of 300", *found])


CLOSED = {
    ">&-": "standard output is closed",
    "<&-": "no such file",
    "2>&-": "",
    "<&- >&- 2>&-": "",
    "<&- >&-": "standard output is closed",
}


@pytest.mark.parametrize("closed", CLOSED)
def test_with_closed_descriptors_a_wrong_call_is_one_sentence_or_silent(
    tmp_path: Path, closed: str
) -> None:
    line = f"'{sys.executable}' -m deqcert report missing {closed}"
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert time.perf_counter() - began < 60
    assert done.returncode == 2
    assert done.stdout == ""
    assert CLOSED[closed] in done.stderr
    assert done.stderr.count("\n") == (CLOSED[closed] != "")
    assert not list(tmp_path.iterdir())
