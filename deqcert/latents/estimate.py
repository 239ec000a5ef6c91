"""How fast a latent moves with the image, as sampled slopes suggest: an estimate, never a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deqcert.errors import ConfigError, DataError
from deqcert.latents.radius import NOT_QUADRATIC, LatentRadius
from deqcert.models.base import ImplicitModel, LatentModel
from deqcert.models.headed import HeadedModel
from deqcert.solvers import StopRule, bind, get_solver

FIRST, FURTHER = 10, 3
"""Rounds of power iteration at the image itself, and at each point around it from there."""

FURTHEST = 3.0
"""Ranges of the largest slopes that the estimate may lie above them."""

SLOPE_TOL = 1e-4
"""Relative residual at which a product with a Jacobian of the equilibrium counts as solved."""


@dataclass(frozen=True)
class Slopes:
    """What sampled slopes say.

    Attributes:
        estimate: Where the largest slopes of batches are guessed to end: latent per pixel unit.
        largest: The largest slope that was seen, a lower bound of the Lipschitz constant.
        nfe: Cell evaluations; a product with a Jacobian of the cell counts as one.
    """

    estimate: float
    largest: float
    nfe: float


@dataclass(frozen=True)
class EstimatedReach:
    """A latent radius over an estimated constant.

    Attributes:
        best: Class of the latent.
        rival: Class that limits the latent radius.
        radius: The smaller one of latent radius over estimate and the ball, in pixel units.
        reach: Latent radius.
        slopes: What the estimate is.
        nfe: Cell evaluations.
    """

    best: int
    rival: int
    radius: float
    reach: float
    slopes: Slopes
    nfe: float


def check_head(model: ImplicitModel, what: str, *, published: bool) -> HeadedModel:
    """Return a model that has a fitted head.

    Args:
        model: Any model.
        what: Who asks, in a sentence that refuses.
        published: Whether the published latent radius is asked for, which is of quadratic heads.

    Raises:
        ConfigError: If it has none, or a linear one where the published radius is asked for.
    """
    if not isinstance(model, HeadedModel):
        raise ConfigError(
            f"method '{what}' needs a model with a fitted head, in a form that can be "
            "differentiated; fit one with deqcert fit-latent, and give --form eager."
        )
    if published and model.config.head != "quadratic":
        raise ConfigError(NOT_QUADRATIC)
    return model


def estimate_reach(
    model: HeadedModel,
    image: ArrayLike | Tensor,
    *,
    published: bool,
    ball: float,
    batches: int,
    points: int,
    stop: StopRule,
    seed: int,
) -> EstimatedReach:
    """Divide the latent radius of an image by an estimate of the slope around it.

    Args:
        model: From :func:`check_head`, in evaluation mode.
        image: Shape (C, H, W), in [0, 1].
        published: Whether the latent radius is the published one.
        ball: As for :func:`estimate_lipschitz`, and so are the others.
        batches: Batches.
        points: Points per batch.
        stop: When a solve ends.
        seed: Of the points.

    Raises:
        DataError: If the image does not fit the model or is not finite.
    """
    like = next(model.parameters())
    x = torch.as_tensor(image, dtype=like.dtype).to(like.device)
    if not bool(torch.isfinite(x).all()):
        raise DataError("the image has values that are not finite; pixels are in [0, 1].")
    here = Linearised(model, x[None], stop)
    z = here.latents.detach().double().cpu()
    head = LatentRadius(model.scores())
    found = head.at(z)
    reach = float(head.published(z)[0] if published else found.radius[0])
    slopes = estimate_lipschitz(
        model, x, ball=ball, batches=batches, points=points, stop=stop, seed=seed
    )
    radius = reach / slopes.estimate if slopes.estimate > 0.0 else math.inf
    return EstimatedReach(
        best=int(found.best[0]),
        rival=int(found.rival[0]),
        radius=min(radius, ball) if reach > 0.0 else 0.0,
        reach=reach,
        slopes=slopes,
        nfe=here.nfe + slopes.nfe,
    )


def estimate_lipschitz(
    model: LatentModel,
    x: Tensor,
    *,
    ball: float,
    batches: int,
    points: int,
    stop: StopRule,
    seed: int,
) -> Slopes:
    """Estimate the Lipschitz constant of image to latent in a ball around an image.

    Points are drawn uniformly from the ball. The slope at one is the spectral norm of the latent's
    Jacobian there, by power iteration through the linearised equilibrium. The largest slopes of the
    batches are taken for draws of a reverse Weibull law, whose endpoint is the estimate.

    Args:
        model: In evaluation mode.
        x: The image, shape (C, H, W), where the model is.
        ball: l2 size of the ball, in pixel units.
        batches: Batches, from 2.
        points: Points per batch, from 1.
        stop: When a solve ends.
        seed: Of the points.

    Returns:
        The estimate. **No bound:** a slope that no point has is not seen, and in d dimensions
        nearly all points of a ball are near to its surface and at right angles to any direction
        that is asked about.

    **Source:** T.-W. Weng, H. Zhang, P.-Y. Chen, J. Yi, D. Su, Y. Gao, C.-J. Hsieh, L. Daniel,
    "Evaluating the Robustness of Neural Networks: An Extreme Value Theory Approach" (CLEVER, 2018),
    for the sampling and the law; theirs is of one logit difference, this one of all latents.
    """
    generator = torch.Generator().manual_seed(seed)
    here = Linearised(model, x[None], stop)
    u = torch.randn(here.latents.shape, generator=generator).to(here.latents)
    _, u = here.slope(u, FIRST)
    nfe, maxima = here.nfe, []
    for _ in range(batches):
        around = torch.randn((points, x.numel()), generator=generator, dtype=torch.float64)
        inside = torch.rand((points, 1), generator=generator, dtype=torch.float64)
        reach = ball * inside ** (1.0 / x.numel())
        around *= reach / torch.linalg.vector_norm(around, dim=1, keepdim=True)
        there = Linearised(model, x + around.view(points, *x.shape).to(x), stop)
        slopes, _ = there.slope(u.expand(points, -1), FURTHER)
        maxima.append(float(slopes.max()))
        nfe += there.nfe
    found = np.array(maxima)
    return Slopes(endpoint(found), float(found.max()), nfe)


def endpoint(maxima: NDArray[np.float64]) -> float:
    """Return the endpoint of the reverse Weibull law fitted to values, at least the largest.

    By maximum likelihood among endpoints that are at most :data:`FURTHEST` times the values' range
    above them: without a limit the likelihood of a few values often grows for ever.
    """
    largest, spread = float(maxima.max()), float(np.ptp(maxima))
    if not spread > 1e-9 * largest:  # one slope everywhere: there is nothing to fit
        return largest
    unit = (maxima - largest) / spread
    law = scipy.stats.weibull_max

    def loss(place: float) -> float:
        return float(law.nnlf(law.fit(unit, floc=place), unit))

    return largest + spread * float(min(np.geomspace(0.01, FURTHEST, 30), key=loss))


class Linearised:
    """The equilibria of some images and the products with the Jacobian of their latents.

    At z = f(z, x) the latent g(z) has the Jacobian G (I - F)^-1 B, with F and B the cell's in z and
    x: each product solves one linear fixed point.

    Args:
        model: In evaluation mode.
        x: Images, shape (B, C, H, W).
        stop: When a solve ends.
    """

    def __init__(self, model: LatentModel, x: Tensor, stop: StopRule) -> None:
        self._solver, self._stop = get_solver("anderson"), stop
        with torch.no_grad():
            injection = model.inject(x)
            start = model.initial_state(injection)
            solved = self._solver.solve(bind(model.cell, injection), start, stop)
        self.nfe = float(solved.nfe.sum())
        with torch.enable_grad():
            self._x, self._z = x.detach().requires_grad_(), solved.z.detach().requires_grad_()
            self._fz = model.cell(self._z, model.inject(self._x))
            self.latents = model.latent(self._z)
            # Products with a Jacobian itself: the transposed one is linear in a vector, and its
            # own transposed is wanted.
            self._w = torch.zeros_like(self._fz, requires_grad=True)
            self._by = torch.autograd.grad(self._fz, (self._z, self._x), self._w, create_graph=True)
            self._q = torch.zeros_like(self.latents, requires_grad=True)
            (self._out,) = torch.autograd.grad(self.latents, self._z, self._q, create_graph=True)

    def slope(self, u: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
        """Return ||J v|| for a unit v after so many rounds of power iteration.

        Args:
            u: Where it begins, shape (B, m).
            rounds: From 1.

        Returns:
            Shape (B,), at most the spectral norm; and J v / ||J v||, shape (B, m).
        """
        size = torch.zeros(len(u))
        for _ in range(rounds):
            v = self.transposed(u)
            flat = torch.linalg.vector_norm(v.flatten(1), dim=1).clamp_min(1e-30)
            u = self.product(v / flat.view(-1, *[1] * (v.dim() - 1)))
            size = torch.linalg.vector_norm(u, dim=1)
            u = u / size.clamp_min(1e-30)[:, None]
        return size, u

    def transposed(self, u: Tensor) -> Tensor:
        """Return J'u, from (B, m) to (B, C, H, W)."""
        given = _grad(self.latents, self._z, u)
        w = self._solve(lambda g: _grad(self._fz, self._z, g) + given, given)
        return _grad(self._fz, self._x, w)

    def product(self, v: Tensor) -> Tensor:
        """Return J v, from (B, C, H, W) to (B, m)."""
        in_z, in_x = self._by
        given = _grad(in_x, self._w, v)
        s = self._solve(lambda g: _grad(in_z, self._w, g) + given, given)
        return _grad(self._out, self._q, s)

    def _solve(self, cell: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        stop = StopRule(tol=SLOPE_TOL, max_nfe=self._stop.max_nfe)
        found = self._solver.solve(cell, given, stop)
        self.nfe += float(found.nfe.sum())
        return found.z


def _grad(of: Tensor, by: Tensor, along: Tensor) -> Tensor:
    """Return the transposed Jacobian of one in the other times a vector; zeros without a path."""
    (found,) = torch.autograd.grad(
        of, by, along, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found
