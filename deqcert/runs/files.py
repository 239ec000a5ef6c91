"""Small file operations that a killed process or a full disk cannot spoil."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from deqcert.errors import RunError


def explain(error: OSError, doing: str, hint: str = "") -> RunError:
    """Turn an operating-system error into one sentence.

    Args:
        error: what was raised.
        doing: what was being done, with the path, as in "write /x/manifest.json".
        hint: what would work; default: advice that fits the kind of error.

    Returns:
        RunError: to be raised by the caller.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason, way_out = "the disk is full", "free some space and give the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"no permission to {doing}"
        return RunError(f"{reason}; {hint or 'give a folder that you may write to with --out'}")
    else:
        reason, way_out = error.strerror or str(error), "give another folder with --out"
    return RunError(f"cannot {doing}: {reason}; {hint or way_out}")


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


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Args:
        path: the file.
        text: its new content.

    Raises:
        RunError: it cannot be written; an older file of that name is as it was.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise explain(error, f"write {path}") from None
