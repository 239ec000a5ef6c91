"""Ranks that are exact whatever the size of the reference: among it and all that came since."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deqcert.errors import RunError
from deqcert.files import explain, sync_folder, write_all

WIDTH = 8
"""Bytes of a score in the file."""


class Pool:
    """The scores of a reference and of every answer since, in a file that only grows.

    Args:
        reference: Scores of the reference.
        path: File of those that came since; made if it is not there.
        count: How many of them count; what a stopped process wrote beyond is cut off.

    Raises:
        RunError: If the file cannot be used, or holds fewer.

    **Guarantee:** if the scores of the reference and those that come are exchangeable (independent
    draws of one law, for instance), the ranks are independent and uniform on [0, 1], exactly,
    for a reference of any size; the coins that break ties must be uniform and independent.

    **Source:** V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World" (2005),
    theorem 8.2: smoothed transductive p-values, here 1 minus these.
    """

    def __init__(self, reference: Sequence[float], path: Path, count: int) -> None:
        self._path = path
        self._new: list[float] = []
        try:
            new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if os.fstat(descriptor).st_size < count * WIDTH:
                    raise RunError(
                        f"{path} has lost scores that were counted; restore it, or begin anew "
                        "with another --state"
                    )
                os.ftruncate(descriptor, count * WIDTH)
                kept = np.frombuffer(path.read_bytes(), dtype="<f8")
            finally:
                os.close(descriptor)
            if new:
                sync_folder(path.parent)
        except OSError as error:
            raise explain(error, f"write {path}", "give another --state") from None
        self._sorted: list[float] = sorted([*reference, *kept.tolist()])

    def rank(self, score: float, coin: float) -> float:
        """Return the share of scores so far, its own included, that are below; and keep it.

        Args:
            score: A new one.
            coin: In [0, 1); where it stands among those that are equal, itself included.
        """
        below = bisect.bisect_left(self._sorted, score)
        upto = bisect.bisect_right(self._sorted, score)
        rank = (below + coin * (upto - below + 1)) / (len(self._sorted) + 1)
        self._sorted.insert(upto, score)
        self._new.append(score)
        return min(rank, 1.0)

    def write(self) -> None:
        """Put what is new on the disk, before a state counts it.

        Raises:
            RunError: If it cannot be written.
        """
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                write_all(descriptor, np.array(self._new, dtype="<f8").tobytes())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise explain(error, f"write {self._path}", "give another --state") from None
        self._new.clear()
