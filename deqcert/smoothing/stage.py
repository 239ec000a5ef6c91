"""What noise is drawn for: one stage per use, so that no two uses share a random number."""

from __future__ import annotations

import enum


class Stage(enum.IntEnum):
    """What noise is drawn for; different stages never share a random number.

    ``AUDIT`` and ``AGREEMENT`` choose samples of ``ESTIMATE`` and draw no noise of their own.
    Each verdict of an attack evaluation has a stage of its own: ``VERDICT`` plus its number.
    """

    SELECT = 0
    ESTIMATE = 1
    AUDIT = 2
    PREDICT = 3
    AGREEMENT = 16
    ATTACK = 2**16
    ANSWER = 2**17
    SEARCH = 2**17 + 1
    VERDICT = 2**18
