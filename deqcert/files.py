"""Files that a killed process, a full disk or a second process cannot spoil."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Self

from deqcert.errors import RunError


def explain(error: OSError, doing: str, hint: str = "") -> RunError:
    """Turn an operating-system error into one sentence, and return it to be raised.

    Args:
        error: What was raised.
        doing: What was being done, with the path, as in "write /x/manifest.json".
        hint: What would work; advice that fits the kind of error if not given.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, way_out = "the disk is full", "free some space and give the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"no permission to {doing}"
        return RunError(f"{reason}; {hint or 'give a folder that you may write to with --out'}")
    else:
        reason, way_out = error.strerror or str(error), "give another folder with --out"
    return RunError(f"cannot {doing}: {reason}; {hint or way_out}")


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading, in bytes.

    Raises:
        OSError: If it cannot be opened. A pipe or a device, which could make a reader wait for ever
            or never end, and a name that no file can have are among what cannot.
    """
    try:
        # Opened first and looked at then: nothing can be put in its place in between, and no pipe
        # makes this wait for somebody to write into it.
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  the caller closes it
    except ValueError as error:  # a null byte, or what the file system's encoding lacks
        raise OSError(errno.EINVAL, "no file can have that name", str(path)) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_regular(path: str | Path) -> bytes:
    """Read the whole of a regular file.

    Raises:
        OSError: As for :func:`open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def cache_folder() -> Path:
    """Return the user's cache of deqcert, or the folder that DEQCERT_CACHE names; may be absent.

    What is in it only ever saves time.
    """
    named = os.environ.get("DEQCERT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "deqcert"


def sync_folder(folder: Path) -> None:
    """Put a folder's own entries (new names) on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: one os.write may take only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def aside(path: Path) -> Path:
    """Return where a file is written before it takes its name; a kill may leave this behind."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(
    path: Path,
    content: str | bytes | Callable[[BinaryIO], object],
    hint: str = "",
    *,
    private: bool = False,
) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    When this returns, the file and its name are on the disk.

    Args:
        path: The file.
        content: Its new content: text (written as UTF-8), bytes, or a function that writes into
            an open file, such as ``lambda file: torch.save(state, file)``.
        hint: What would work where it cannot be written; see :func:`explain`.
        private: Whether nobody but its owner may read it, at any moment.

    Raises:
        RunError: If it cannot be written; an older file of that name is as it was.
    """
    beside = aside(path)
    try:
        if private:
            beside.unlink(missing_ok=True)  # what is left of an earlier one may be for all to read
        mode = 0o600 if private else 0o666
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            if callable(content):
                with open(descriptor, "wb", closefd=False) as file:
                    content(file)
            else:
                write_all(descriptor, content.encode() if isinstance(content, str) else content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
        sync_folder(path.parent)
    except (Exception, KeyboardInterrupt) as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise explain(error, f"write {path}", hint) from None
        if isinstance(error.__context__, OSError):  # a writer that says it in words of its own
            raise explain(error.__context__, f"write {path}", hint) from None
        raise


def check_writable(path: Path, hint: str = "") -> None:
    """Find out whether :func:`write_atomically` could write a file, and leave nothing behind.

    Args:
        path: The file.
        hint: What would work; see :func:`explain`.

    Raises:
        RunError: If it could not.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT, 0o666))
        beside.unlink()
    except OSError as error:
        raise explain(error, f"write {path}", hint) from None


class Closing(ABC):
    """What is closed at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Lock(Closing):
    """Keep other processes out for as long as this one holds it; the lock dies with the process.

    It is advisory: it stops those who ask for it, too. Use it as a context manager, or close it.

    Args:
        path: A folder that is there, or the name of a lock file, which is made and goes again.
        busy: What to say where another process holds it.
        made: Folders that were made for the lock file, the innermost first; those in which nothing
            was written go again, too.

    Raises:
        RunError: If another process holds it, or the file cannot be made.
    """

    def __init__(self, path: Path, busy: str, made: Sequence[Path] = ()) -> None:
        self._path, self._made = path, made
        self._folder = path.is_dir()
        self._descriptor = self._open(busy)

    def close(self) -> None:
        """Let others in."""
        if not self._folder:
            with suppress(OSError):  # before it is let go: afterwards it may be another's
                self._path.unlink()
        os.close(self._descriptor)
        with suppress(OSError):  # up to the first that is not empty
            for folder in self._made:
                folder.rmdir()

    def _open(self, busy: str) -> int:
        flags = os.O_RDONLY if self._folder else os.O_RDWR | os.O_CREAT
        while True:
            try:
                descriptor = os.open(self._path, flags, 0o666)
            except OSError as error:
                raise explain(error, f"open {self._path}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some network file systems cannot lock; then nobody can, and the work may go on.
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(descriptor)
                    raise RunError(busy) from None
            if self._folder or self._still_there(descriptor):
                return descriptor
            os.close(descriptor)  # whoever held it has taken the file away meanwhile

    def _still_there(self, descriptor: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        return False
