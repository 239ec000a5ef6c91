"""``deqcert`` and ``python -m deqcert``: the command line, from its very first moment."""

from __future__ import annotations

# The module under Python's signal, which takes milliseconds to load: those that this is about.
import _signal  # type: ignore[import-not-found]  # without stubs
import os
import sys
from types import FrameType


def run() -> int:
    """Run the command line of this process; see :func:`deqcert.cli.main`.

    Until it is loaded there is nothing to save: Ctrl-C ends the process at once, because what an
    interrupted import leaves behind is somebody's traceback.
    """
    before = _signal.signal(_signal.SIGINT, _leave)
    from deqcert.cli import main

    _signal.signal(_signal.SIGINT, before)
    return main()


def _leave(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"deqcert: interrupted.\n")
    finally:  # whether or not anybody is there to hear it
        os._exit(130)


if __name__ == "__main__":
    sys.exit(run())
