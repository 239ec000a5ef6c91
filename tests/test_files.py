"""Files are there whole or not at all, on the disk when we say so; a lock keeps others out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

import deqcert
from deqcert.errors import RunError
from deqcert.files import Lock, write_atomically

CONTENTS = {
    "text": "ümlaut\n",
    "bytes": b"\0\1",
    "writer": lambda file: torch.save({"x": torch.ones(3)}, file),
}


@pytest.fixture(params=CONTENTS)
def content(request: pytest.FixtureRequest) -> Any:
    return CONTENTS[request.param]


def test_what_was_given_is_there_and_nothing_else(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "file"
    for _ in range(2):  # new, and in place of an older one
        write_atomically(path, content)
    assert list(tmp_path.iterdir()) == [path]
    if callable(content):
        assert torch.equal(torch.load(path, weights_only=True)["x"], torch.ones(3))
    else:
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)


def test_file_and_name_are_on_the_disk_before_it_returns(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, then its new name: a loss of power finds the old file or the new one."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def watched_replace(*paths: Any) -> None:
        events.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "file", content)
    assert events == ["file", "replace", "folder"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_is_a_sentence_and_the_old_file_stays(
    tmp_path: Path, content: Any, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(RunError, match=r"cannot write .*file: the disk is full; free some space"):
        write_atomically(path, content)
    assert [(entry, entry.read_text()) for entry in tmp_path.iterdir()] == [(path, "before")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_a_writer_of_torch_on_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").symlink_to("/dev/full")
    state = {"x": torch.ones(1_000_000)}
    with pytest.raises(RunError, match="the disk is full; free some space"):
        write_atomically(tmp_path / "file", lambda file: torch.save(state, file))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_writer_that_is_stopped_leaves_the_old_file_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def stopped(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(path, stopped)
    assert [(entry, entry.read_text()) for entry in tmp_path.iterdir()] == [(path, "before")]


def test_no_permission_and_no_folder_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file or directory; give another folder"):
        write_atomically(tmp_path / "nowhere" / "file", "text")
    with pytest.raises(RunError, match="; give the picture another name"):
        write_atomically(tmp_path / "nowhere" / "file", "text", "give the picture another name")


WRITES = re.compile(
    r"os\.(replace|rename)\(|\.write_(text|bytes)\(|open\([^)]*[\"'][wax]b?[\"']"
    r"|(savefig|torch\.save)\((?!.*file|\{.*weights\))"
)
OTHERS = {"files.py", "memory.py"}
"""This room itself, and a file that is the kernel's: it resets the peak of the memory."""


def test_nothing_else_in_the_package_writes_files() -> None:
    root = Path(deqcert.__file__).parent
    found = [
        f"{path.relative_to(root)}:{number}"
        for path in root.rglob("*.py")
        if path.name not in OTHERS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WRITES.search(line) and not line.lstrip().startswith(('"', "#"))
    ]
    assert not found
    assert all(WRITES.search(f"    {line}") for line in ("path.write_text(x)", "open(p, 'w')"))


CHILD = """
import sys
from pathlib import Path
from deqcert.errors import RunError
from deqcert.files import Lock
try:
    Lock(Path(sys.argv[1]), "somebody is here")
except RunError as error:
    sys.exit(str(error))
"""


def another(path: Path) -> str:
    """What a second process is told; "" where it gets in."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip()


@pytest.mark.parametrize("folder", [True, False])
def test_a_lock_keeps_another_process_out_until_it_is_let_go(tmp_path: Path, folder: bool) -> None:
    path = tmp_path if folder else tmp_path / ".name.lock"
    with Lock(path, "busy"):
        assert another(path) == "somebody is here"
        with pytest.raises(RunError, match="busy"):
            Lock(path, "busy")
    assert not list(tmp_path.iterdir())
    assert another(path) == ""
    Lock(path, "busy").close()  # also where a process that died has left its lock file
