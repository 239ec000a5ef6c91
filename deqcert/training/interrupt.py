"""Ctrl-C in a training: it ends after the step, when everything can be saved."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class CtrlC:
    """While it is entered, a first Ctrl-C is only noted; a second one interrupts as ever.

    Outside the main thread, where Python delivers no signals, nothing is changed.

    Args:
        shown: Whether to say on standard error that it was noted.

    Attributes:
        pressed: Whether it was.
    """

    def __init__(self, shown: bool) -> None:
        self.pressed, self._shown = False, shown
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        self._restore()
        if self._shown:  # not by print: a signal may come in the middle of one
            os.write(2, b"\nstopping after this step; again: at once\n")

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
