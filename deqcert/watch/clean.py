"""A look at inputs without noise: the clean answer, and how strange the input is to the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqcert.api import SmoothedClassifier
from deqcert.errors import DataError
from deqcert.models.base import LatentModel
from deqcert.solvers import bind
from deqcert.watch.observations import Observation, Source
from deqcert.watch.reference import Distance

if TYPE_CHECKING:
    from deqcert.smoothing import Predictor

BATCH = 256
"""Inputs solved together."""


@dataclass(frozen=True)
class CleanLook:
    """A model, and how it is solved for inputs without noise: from a cold start.

    Args:
        model: In evaluation mode.
        predictor: Cold.
    """

    model: Any
    predictor: Predictor

    @classmethod
    def of_notes(cls, source: Source) -> CleanLook:
        """Load the model that a source's answers are of, by the settings in its notes.

        Raises:
            DeqcertError: If it is not where it was, or is another now.
        """
        from deqcert import compose

        known = SmoothedClassifier.__dataclass_fields__
        settings = source.notes.get("settings") or {}
        smooth = SmoothedClassifier(**{k: v for k, v in settings.items() if k in known})
        for key, value in smooth.loaded.identity.items():
            told = source.parameters[0].get(key)
            if key.endswith("sha256") and told != value:
                raise DataError(
                    f"the model {smooth.model} is not what answered; restore it, or leave the "
                    "looks without noise out"
                )
        return cls(smooth.loaded.plain, compose.make_cold(smooth))

    @torch.no_grad()
    def solve(
        self, x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return logits and latents of inputs, shapes (n, K) and (n, m); None without latents."""
        logits, latents = [], []
        for first in range(0, len(x), BATCH):
            rows = torch.from_numpy(np.ascontiguousarray(x[first : first + BATCH]))
            injection = self.model.inject(rows)
            start = self.model.initial_state(injection)
            solver, stop = self.predictor.solver, self.predictor.stop
            z = solver.solve(bind(self.model.cell, injection), start, stop).z
            logits.append(self.model.readout(z).double().cpu().numpy())
            if isinstance(self.model, LatentModel):
                latents.append(self.model.latent(z).double().cpu().numpy())
        return np.concatenate(logits), np.concatenate(latents) if latents else None

    def look(
        self, seen: Sequence[Observation], x: NDArray[np.float32], distance: Distance | None
    ) -> list[Observation]:
        """Return observations with their clean answers and scores.

        Args:
            seen: The observations.
            x: Their inputs, shape (n, C, H, W).
            distance: What the score "mahalanobis" is measured by; None to leave it out.

        The scores: "energy" is -ln sum_k exp(z_k) of the logits (W. Liu et al., "Energy-based
        Out-of-distribution Detection", 2020), "mahalanobis" the squared distance of the latent from
        the nearest class (K. Lee et al., 2018). An input that is not solved to finite values has
        the class -1, with which no vote agrees, and infinite scores.
        """
        logits, latents = self.solve(x)
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        shown = np.where(finite[:, None], logits, 0.0)
        top = shown.max(axis=1)
        energy = -(top + np.log(np.exp(shown - top[:, None]).sum(axis=1)))
        scores = {"energy": np.where(finite, energy, np.inf)}
        if distance is not None and latents is not None:
            sound = np.asarray(finite & np.isfinite(latents).all(axis=1))
            far = distance(np.where(sound[:, None], latents, 0.0))
            scores["mahalanobis"] = np.where(sound, far, np.inf)
        classes = np.where(finite, shown.argmax(axis=1), -1)
        return [
            dataclasses.replace(
                one,
                clean=int(classes[i]) if one.clean is None else one.clean,
                scores={**one.scores, **{name: float(v[i]) for name, v in scores.items()}},
            )
            for i, one in enumerate(seen)
        ]


def fit_distance(latents: NDArray[np.float64], labels: NDArray[np.int64]) -> Distance:
    """Fit what the score "mahalanobis" is measured by: a mean a class, one covariance for all.

    Args:
        latents: Shape (n, m).
        labels: Shape (n,); a class without an example is left out.

    Raises:
        DataError: If there is a class with one example only, or a latent is not finite.
        ConfigError: If the covariance cannot be inverted.
    """
    from deqcert.latents.mixture import fit_mixture

    _, present = np.unique(labels, return_inverse=True)
    found = fit_mixture(latents, present, shared=True)
    root = np.asarray(np.linalg.cholesky(found.covariance(0)), dtype=np.float64)
    return Distance(found.means, root)
