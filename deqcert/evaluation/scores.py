"""Scores that should be larger for images of another kind; some only a DEQ has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.special
from numpy.typing import NDArray

from deqcert.data import load_dataset
from deqcert.errors import ConfigError
from deqcert.evaluation.config import spread
from deqcert.evaluation.solving import Solved
from deqcert.evaluation.subject import Subject
from deqcert.latents.mixture import Mixture, fit_mixture
from deqcert.smoothing import Predictor
from deqcert.solvers import StopRule

Values = NDArray[np.float64]
Images = NDArray[np.float32]

EARLY = 3
"""Evaluations after which a residual is looked at, while it still tells images apart."""

NEVER = 1e-30
"""A tolerance that no solve meets, so that it goes on to its last evaluation, measured."""


class Looked:
    """What scores are made of, each computed once.

    Args:
        subject: The model.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._solved: Solved | None = None

    def forget(self) -> None:
        """Go on to other images."""
        self._solved = None

    def solved(self, images: Images, own: bool) -> Solved:
        """Solve images once."""
        if own:
            return self.subject.solved
        if self._solved is None:
            self._solved = self.subject.solve(images)
        return self._solved

    def early(self, images: Images) -> Solved:
        """Solve for a few evaluations, each measured."""
        cold = self.subject.predictor
        stop = StopRule(tol=NEVER, max_nfe=EARLY)
        return self.subject.solve(images, Predictor(cold.solver, stop))

    @cached_property
    def mixture(self) -> Mixture:
        """A Gaussian per class with one covariance, fitted to latents of training images.

        Raises:
            DeqcertError: If there are no training images, or the model has no latents.
        """
        subject = self.subject
        training = load_dataset(subject.data, "train")
        if training.hash() == subject.dataset.hash():
            raise ConfigError(
                "distances of latents are fitted to training images, of which these data have none."
            )
        chosen = spread(range(len(training)), subject.asked.fit_images)
        latents = subject.solve(training.batch(chosen)).latent
        if latents is None:
            raise ConfigError("the model does not say what its latents are.")
        return fit_mixture(latents, [training.label(i) for i in chosen], shared=True)


@dataclass(frozen=True)
class Score:
    """A number per image.

    Attributes:
        about: What it is, in a few words.
        of: Is called with what was looked at, images (N, C, H, W), the numbers that their noise is
            drawn by, and whether they are the model's own; returns shape (N,).
    """

    about: str
    of: Callable[[Looked, Images, Sequence[int], bool], Values]


def _unsure(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    return np.asarray(-looked.solved(images, own).probabilities.max(axis=1))


def _energy(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    return np.asarray(-scipy.special.logsumexp(looked.solved(images, own).logits, axis=1))


def _distance(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    mixture, latents = looked.mixture, looked.solved(images, own).latent
    assert latents is not None
    root = np.linalg.cholesky(mixture.covariance(0))
    found = [
        np.square(scipy.linalg.solve_triangular(root, (latents - mean).T, lower=True)).sum(axis=0)
        for mean in mixture.means
    ]
    return np.asarray(np.min(found, axis=0))


def _entropy(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    subject = looked.subject
    counts = subject.shares if own else subject.votes(images, numbers)
    return np.asarray(scipy.special.entr(counts / subject.asked.votes).sum(axis=1))


def _residual(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    return looked.early(images).residual


def _evaluations(looked: Looked, images: Images, numbers: Sequence[int], own: bool) -> Values:
    if looked.subject.predictor.stop.fixed_depth:
        raise ConfigError("every solve makes the same number of evaluations; give --tol above 0.")
    return looked.solved(images, own).nfe.astype(np.float64)


SCORES = {
    "probability": Score("1 - the largest softmax probability", _unsure),
    "energy": Score("energy of the logits", _energy),
    "mahalanobis": Score("distance of the latent from the nearest class", _distance),
    "vote entropy": Score("how divided the votes of noisy copies are", _entropy),
    "residual": Score(f"residual after {EARLY} evaluations (DEQ)", _residual),
    "evaluations": Score("evaluations until the solve converges (DEQ)", _evaluations),
}
"""The scores by name, in the order of a table.

**Source:** D. Hendrycks, K. Gimpel (2017); W. Liu et al. (2020); K. Lee et al. (2018); the others
are what smoothing and an equilibrium have.
"""
