"""What attacks climb on: scores of images, made from a model's states in ways one can go back by.

An equilibrium model can mask its gradients: an adjoint that did not converge points nowhere, and
states near the equilibrium may say less than earlier ones; and a few evaluations from a learned
start are no equilibrium at all. So the same classifier is offered in several views, and what an
attack finds in any of them is judged by the classifier itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.attacks.base import Scores, View
from deqcert.attacks.target import Target
from deqcert.options import number
from deqcert.smoothing import noisy_copies
from deqcert.smoothing.stage import Stage
from deqcert.solvers.gradients import Phantom, get_gradient

DEPTHS = (1, 2, 4, 8)
"""Evaluations after which intermediate states are looked at."""
UNROLLED = 3
"""Damped evaluations that give an intermediate state its gradient."""


@dataclass(frozen=True)
class Base(View):
    """The base classifier's logits, differentiated at the equilibrium.

    Args:
        gradient: Name of the gradient; see :func:`deqcert.solvers.gradients.get_gradient`.
    """

    gradient: str

    def scores(self, target: Target, indices: Sequence[int]) -> Scores:
        """Return the base classifier's logits."""
        return functools.partial(target.logits, gradient=get_gradient(self.gradient))


@dataclass(frozen=True)
class Unrolled(View):
    """The base classifier's logits, differentiated through plain evaluations and the start."""

    def scores(self, target: Target, indices: Sequence[int]) -> Scores:
        """Return the logits after as many evaluations as :attr:`Target.unrolled` makes."""
        return functools.partial(target.logits, gradient=target.unrolled)


@dataclass(frozen=True)
class Intermediate(View):
    """Log-probabilities averaged over states before the equilibrium.

    After each of a few numbers of evaluations the solve is cut off, and a few damped evaluations
    from there carry the gradient. Early states answer to the image where the last one may not, and
    what moves all of them moves the equilibrium they go to.

    **Source:** Yang, Pang, Liu 2022, "A Closer Look at the Adversarial Robustness of Deep
    Equilibrium Models", sections 4.2 and 5 (unrolled intermediates, ensembled).
    """

    def scores(self, target: Target, indices: Sequence[int]) -> Scores:
        """Return the averaged log-probabilities."""
        stops = [
            replace(target.predictor.stop, tol=0.0, max_nfe=depth)
            for depth in DEPTHS
            if depth == DEPTHS[0] or depth <= target.predictor.stop.max_nfe
        ]
        gradient = Phantom(steps=UNROLLED)

        def scores(x: Tensor) -> Tensor:
            parts = [
                target.logits(x, gradient, stop, cold=True).log_softmax(dim=1) for stop in stops
            ]
            return torch.stack(parts).mean(dim=0)

        return scores


@dataclass(frozen=True)
class Smoothed(View):
    """The log of the smoothed classifier's soft prediction, estimated from fixed noise.

    ``log mean_i softmax(F(x + e_i))`` over a few noise vectors of each image, the same at every
    call, so that there is one function to climb on. Its negative entry of the class is the loss of
    SmoothAdv.

    Args:
        draws: Noise vectors per image; more of them cost as much more and make what is climbed on
            more like what is certified.

    **Source:** Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck 2019, "Provably Robust Deep
    Learning via Adversarially Trained Smoothed Classifiers", equation 5.
    """

    draws: int = number(8, low=1)
    smoothed: ClassVar[bool] = True

    @property
    def copies(self) -> int:
        """Copies per image that the model sees at once: one per noise vector."""
        return self.draws

    def scores(self, target: Target, indices: Sequence[int]) -> Scores:
        """Return the log of the mean softmax."""
        samples, sigma = np.arange(self.draws, dtype=np.int64), target.sigma
        assert sigma is not None, "an attack refuses a target without noise"
        gradient = target.suited
        held: dict[int, Tensor] = {}

        def noise(index: int, like: Tensor) -> Tensor:
            if index not in held:
                held[index] = noisy_copies(
                    torch.zeros_like(like, dtype=torch.float32),
                    samples,
                    sigma=sigma,
                    seed=target.seed,
                    index=index,
                    stage=Stage.ATTACK,
                ).to(like.dtype)
            return held[index]

        def scores(x: Tensor) -> Tensor:
            drawn = torch.stack([noise(int(index), x[0]) for index in indices])
            logits = target.logits((x[:, None] + drawn).flatten(0, 1), gradient)
            each = F.log_softmax(logits, dim=1).view(len(x), self.draws, -1)
            return each.logsumexp(dim=1) - float(np.log(self.draws))

        return scores
