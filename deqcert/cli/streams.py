"""Standard output and error, whatever they are connected to, and in whatever encoding."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO


def prepare() -> bool:
    """Make both streams safe to print to; return False where standard output is closed.

    Characters that the encoding lacks are written as escapes. What is said on standard error is
    for people: where it cannot be written (a full disk, nobody there), it is dropped, and the work
    goes on.
    """
    _fill_descriptors()
    if sys.stderr is None:
        # For as long as the process runs.
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), mode="w")
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, _Forgiving):
        sys.stderr = _Forgiving(sys.stderr)
    return sys.stdout is not None


def abandon(stream: TextIO | None) -> None:
    """Send what is left of a stream nowhere, so that Python does not fail again at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


class _Forgiving:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            abandon(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            abandon(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _fill_descriptors() -> None:
    """Connect closed standard descriptors to nothing, so that no file of ours becomes one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
