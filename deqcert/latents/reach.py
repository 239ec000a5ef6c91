"""From an image to a proven radius by way of its latent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.latents.radius import LatentRadius
from deqcert.models.base import ImplicitModel, LatentModel, ProvenModel
from deqcert.models.headed import HeadedModel
from deqcert.models.spectral import rounding_constant
from deqcert.proofs.definite import MARGIN
from deqcert.proofs.enclosure import Enclosure
from deqcert.proofs.known import Known
from deqcert.proofs.multiplier import multiplier_bound

DOWN = 1.0 - 1e-12
"""Less than the rounding of a quotient can take away."""


@dataclass(frozen=True)
class Found:
    """What is proven for one input.

    Attributes:
        best: Class of the latent.
        rival: Class that limits the radius.
        radius: Input radius, in pixel units; 0 where nothing is proven.
        reach: Latent radius.
        error: Distance from the exact latent that was charged to it.
        nfe: Cell evaluations.
    """

    best: int
    rival: int
    radius: float
    reach: float
    error: float
    nfe: int


class LatentReach:
    """The proven constant of an encoder, computed once, and proven radii per input.

    The constant is the multiplier bound of the equilibrium itself, over all inputs; latents are a
    1-Lipschitz function of it.

    Args:
        model: A model with a fitted head.

    Raises:
        ConfigError: If it has none, or its encoder has no proven constant.
    """

    def __init__(self, model: ImplicitModel) -> None:
        if not isinstance(model, HeadedModel):
            raise ConfigError(
                "method 'latent' needs a model with a fitted head; fit one with deqcert fit-latent."
            )
        base = model.base
        if not isinstance(base, ProvenModel):
            raise ConfigError(
                "method 'latent' needs an encoder whose Lipschitz constant can be proven, but "
                f"{type(base).__name__} offers none; certify the same head under noise with "
                "--method standard or independent, or train with --architecture monotone."
            )
        self._enclosure = Enclosure(base, "method 'latent'")
        self._radius = LatentRadius(model.scores())
        form = base.relu_form()
        identity = torch.eye(form.state.shape[0], dtype=torch.float64)
        self.lipschitz, _ = multiplier_bound(form, identity)
        """Of the equilibrium, per pixel unit, in l2."""
        if not self.lipschitz < float("inf"):
            raise ConfigError("no Lipschitz constant of this model's equilibrium could be proven.")

    @torch.no_grad()
    def at(self, x: ArrayLike | Tensor, *, formula: str, tol: float, depth: int) -> Found:
        """Solve for an input, shape (C, H, W), in float64, and prove a radius.

        Raises:
            DataError: If the input does not fit the model or is not finite.
        """
        images = torch.as_tensor(x, dtype=torch.float64)[None]
        located = self._enclosure.solve(images, tol=tol, depth=depth)
        encoder = self._enclosure.model
        assert isinstance(encoder, LatentModel)
        z = encoder.latent(located.states)
        # A latent is a sum of at most D states with weights of norm at most 1.
        size = torch.linalg.vector_norm(located.states, dim=1)
        error = located.error + rounding_constant(located.states.shape[1] + 8) * size
        found = self._radius.at(z)
        latent = found.radius
        if formula == "published":
            latent = torch.minimum(latent, self._radius.published(z))
        reach = float((latent - MARGIN * error).clamp_min(0.0)[0])
        radius = DOWN * reach / self.lipschitz if self.lipschitz > 0.0 else float("inf")
        return Found(
            best=int(found.best[0]),
            rival=int(found.rival[0]),
            radius=radius if reach > 0.0 else 0.0,
            reach=reach,
            error=float(error[0]),
            nfe=int(located.nfe[0]),
        )


_KNOWN: Known[LatentReach] = Known()


def reach_of(model: ImplicitModel) -> LatentReach:
    """Return the reach of a model; its constant is computed once for the same weights.

    Raises:
        ConfigError: If nothing can be proven of the model.
    """
    return _KNOWN.of(model, make=lambda: LatentReach(model))
