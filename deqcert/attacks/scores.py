"""What attacks climb on: scores of images, made from a model's states in ways one can go back by.

An equilibrium model can mask its gradients: an adjoint that did not converge points nowhere, and
states near the equilibrium may say less than earlier ones; and a few evaluations from a learned
start are no equilibrium at all. So the same classifier is offered in several ways, and what an
attack finds in any of them is judged by the classifier itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel
from deqcert.models.implicit_grad import Gradient, Implicit, Phantom, Unroll, equilibrium
from deqcert.models.shaped import ShapedModel
from deqcert.smoothing import Predictor, noisy_copies
from deqcert.smoothing.stage import Stage
from deqcert.solvers import StopRule
from deqcert.starts import Learned

Scores = Callable[[Tensor], Tensor]
"""Images, shape (B, C, H, W), to logits or log-probabilities, shape (B, K), differentiable."""

DEPTHS = (1, 2, 4, 8)
"""Evaluations after which intermediate states are looked at."""
UNROLLED = 3
"""Damped evaluations that give an intermediate state its gradient."""
LONGEST = 10
"""Evaluations that a solve is unrolled for, or as many as it makes."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Args:
        model: The model, in a form that gradients can go through.
        predictor: The base classifier of the certificate; its start is independent. Attacks solve
            as it does, an early stop apart.
        sigma: Noise of the smoothed classifier, in pixel units of [0, 1], above 0.
        seed: Of the attacks' own noise.

    Raises:
        ConfigError: If sigma is out of range or the start is chained.
    """

    model: ImplicitModel
    predictor: Predictor
    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma < float("inf"):
            raise ConfigError(f"sigma is {self.sigma}, but it must be above 0.")
        if not self.predictor.independent:
            raise ConfigError(
                f"start '{self.predictor.start.name}' chains samples; attack the base classifier "
                "that the certificate is about, with an independent start."
            )

    @property
    def plain(self) -> Unroll:
        """The way back through the solve as plain evaluations, and through its start."""
        return Unroll(min(self._evaluations or LONGEST, LONGEST))

    @property
    def best(self) -> Gradient:
        """The way back that suits the classifier.

        A fixed few evaluations from a learned start are a network that depends on its input
        through the start as well, which an adjoint does not see; elsewhere the implicit one.
        """
        few = 0 < (self._evaluations or 0) <= LONGEST
        return self.plain if few and isinstance(self.predictor.start, Learned) else Implicit()

    @property
    def _evaluations(self) -> int | None:
        """How many evaluations every solve makes; None where that depends on the row."""
        fixed = self.predictor.stop.fixed_depth and self.predictor.early is None
        return self.predictor.stop.max_nfe if fixed else None

    def logits(
        self, x: Tensor, gradient: Gradient, stop: StopRule | None = None, *, cold: bool = False
    ) -> Tensor:
        """Return the logits of images, shape (B, K), with their gradient.

        Args:
            x: Images, shape (B, C, H, W), noise and all.
            gradient: How to go back through the solve; by unrolling, through the start as well.
            stop: When the solve ends; default: as the predictor's.
            cold: Solve from the cold start, whatever the predictor's is.
        """
        model = self.model
        injection = model.inject(x)
        alone = ShapedModel(model, len(x))
        with torch.set_grad_enabled(isinstance(gradient, Unroll) and torch.is_grad_enabled()):
            start = (
                alone.initial_state(injection)
                if cold
                else self.predictor.start.initial(alone, injection)
            )
        z, _ = equilibrium(
            model.cell,
            start,
            injection,
            solver=self.predictor.solver,
            stop=self.predictor.stop if stop is None else stop,
            gradient=gradient,
        )
        return model.readout(z)


def base(target: Target, gradient: Gradient) -> Scores:
    """Return the base classifier's logits, differentiated in the given way."""
    return functools.partial(target.logits, gradient=gradient)


def intermediate(target: Target) -> Scores:
    """Return log-probabilities averaged over states before the equilibrium.

    After each of a few numbers of evaluations the solve is cut off, and a few damped evaluations
    from there carry the gradient. Early states answer to the image where the last one may not, and
    what moves all of them moves the equilibrium they go to.

    Source: Yang, Pang, Liu 2022, "A Closer Look at the Adversarial Robustness of Deep Equilibrium
    Models", sections 4.2 and 5 (unrolled intermediates, ensembled).
    """
    stops = [
        replace(target.predictor.stop, tol=0.0, max_nfe=depth)
        for depth in DEPTHS
        if depth == DEPTHS[0] or depth <= target.predictor.stop.max_nfe
    ]
    gradient = Phantom(steps=UNROLLED)

    def scores(x: Tensor) -> Tensor:
        parts = [target.logits(x, gradient, stop, cold=True).log_softmax(dim=1) for stop in stops]
        return torch.stack(parts).mean(dim=0)

    return scores


def smoothed(target: Target, gradient: Gradient, images: Sequence[int], draws: int) -> Scores:
    """Return the log of the smoothed classifier's soft prediction, estimated from fixed noise.

    ``log mean_i softmax(F(x + e_i))`` over ``draws`` noise vectors of each image, the same at every
    call, so that there is one function to climb on. Its negative entry of the class is the loss of
    SmoothAdv.

    Args:
        target: What is attacked.
        gradient: How to go back through the solves.
        images: Index of each row's image in its data set; selects its noise.
        draws: Noise vectors, from 1.

    Source: Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck 2019, "Provably Robust Deep Learning
    via Adversarially Trained Smoothed Classifiers", equation 5.
    """
    samples = np.arange(draws, dtype=np.int64)
    held: dict[int, Tensor] = {}

    def noise(index: int, like: Tensor) -> Tensor:
        if index not in held:
            held[index] = noisy_copies(
                torch.zeros_like(like, dtype=torch.float32),
                samples,
                sigma=target.sigma,
                seed=target.seed,
                index=index,
                stage=Stage.ATTACK,
            ).to(like.dtype)
        return held[index]

    def scores(x: Tensor) -> Tensor:
        drawn = torch.stack([noise(int(image), x[0]) for image in images])
        logits = target.logits((x[:, None] + drawn).flatten(0, 1), gradient)
        each = F.log_softmax(logits, dim=1).view(len(x), draws, -1)
        return each.logsumexp(dim=1) - float(np.log(draws))

    return scores
