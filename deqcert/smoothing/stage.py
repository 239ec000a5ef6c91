"""What noise is drawn for: one stage per use, so that no two uses share a random number."""

from __future__ import annotations

import enum


class Stage(enum.IntEnum):
    """What noise is drawn for; different stages never share a random number.

    A stage's own noise begins at its number. Each verdict of an attack evaluation has a stage of
    its own, ``VERDICT`` plus the verdict's number. A bench certifies, too, with every stage moved
    up by ``BENCH`` (:attr:`deqcert.smoothing.SmoothingEngine.base_stage`): what is learned from it
    says nothing about the noise that certificates will see. All of these stay below ``BENCH``,
    which the engine sees to.

    Training draws from torch's generators, which share no number with any stage.

    Attributes:
        SELECT: The class of a certificate is chosen.
        ESTIMATE: Its probability is bounded.
        AUDIT: The votes that are audited are chosen.
        PREDICT: A class is answered without a radius.
        PILOT: ``deqcert plan --pilot`` learns what a run will take.
        TUNE: The depth of a learned start is tuned, on training images.
        AGREEMENT: The votes that are held against the converged model are chosen.
        CALIBRATE: Prediction sets are calibrated.
        SETS: A prediction set is answered. No adversary may know this noise, so attacks on sets
            climb on that of ATTACK.
        RECERTIFY: The votes of an earlier run that a changed model casts again are chosen.
        EVALUATE: Shares of votes are looked at, for calibration and for detection.
        ATTACK: Attacks climb, and choose at random.
        ANSWER: An attack learns the class of an image whose certificate abstains.
        SEARCH: An attack guesses on the way to a verdict.
        VERDICT: The first verdict.
        BENCH: The first stage of benches.
    """

    SELECT = 0
    ESTIMATE = 1
    AUDIT = 2
    PREDICT = 3
    PILOT = 4
    TUNE = 5
    AGREEMENT = 6
    CALIBRATE = 7
    SETS = 8
    RECERTIFY = 10
    EVALUATE = 16
    ATTACK = 2**16
    ANSWER = 2**17
    SEARCH = 2**17 + 1
    VERDICT = 2**18
    BENCH = 2**24
