"""``deqcert`` and ``python -m deqcert``: the command line, from its very first moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType


def run() -> int:
    """Run the command line of this process; see :func:`deqcert.cli.main`.

    Until it is loaded there is nothing to save: Ctrl-C ends the process at once, because what an
    interrupted import leaves behind is somebody's traceback.
    """
    before = signal.signal(signal.SIGINT, _leave)
    from deqcert.cli import main

    signal.signal(signal.SIGINT, before)
    return main()


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to hear it
        os.write(2, b"deqcert: interrupted.\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(run())
