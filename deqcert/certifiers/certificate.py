"""The answer for one input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Certificate:
    """A class, a radius, and what they rest on.

    Attributes:
        prediction: Class that the smoothed classifier answers within the radius; None abstains.
        radius: l2 radius in input units ([0, 1] pixels), rounded down; 0 when abstaining.
        p_lower: Lower bound of the probability of the class under the noise.
        sigma: Standard deviation of the noise, in input units.
        n0: Noisy samples that chose the class.
        n: Noisy samples that bounded its probability; with a goal, as many as were drawn.
        alpha: Probability, over the method's own randomness, that the certificate is wrong.
        method: Name of the certifier.
        sound: Whether the method's guarantee is proven.
        assumptions: What the certificate is about and what it assumes, in words.
        votes: Samples among n that voted for the class.
        audited: Samples solved again by the reference to audit the votes.
        disagreements: Audited samples whose class changed.
        nfe: Cell evaluations in all, start-up, selection and audit included; a learned start
            counts by its cost.
        seed: Seed of the noise.
        seconds: Wall time, in seconds.
    """

    prediction: int | None
    radius: float
    p_lower: float
    sigma: float
    n0: int
    n: int
    alpha: float
    method: str
    sound: bool
    assumptions: str
    votes: int
    audited: int
    disagreements: int
    nfe: float
    seed: int
    seconds: float
