"""By how much a class leads at the exact equilibrium, and how far the input must move to end it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel, ProvenModel
from deqcert.models.hashes import weights_hash
from deqcert.proofs.enclosure import Enclosure
from deqcert.proofs.kept import holds_constants, kept_constants, kept_file
from deqcert.proofs.lipschitz import pairwise_bounds

DOWN = 1.0 - 1e-12
"""Less than the rounding of a quotient can take away."""


@dataclass(frozen=True)
class Lead:
    """What is proven of the exact equilibrium for one input.

    Attributes:
        best: The class with the largest logit.
        gaps: Per class a lower bound of how much ``best`` leads over it, shape (K,), float64.
        error: Bound of the distance between the state that was found and the exact one.
        nfe: Cell evaluations.
    """

    best: int
    gaps: Tensor
    error: float
    nfe: int


class Margins:
    """A network's proven constants, computed once, and its proven margins, per input.

    Args:
        model: A model that offers its matrices.
        rule: One of :data:`deqcert.proofs.RULES`.

    Raises:
        ConfigError: If it offers none, or nothing is proven of its weights.
    """

    def __init__(self, model: ProvenModel, rule: str) -> None:
        self._enclosure = Enclosure(model, "method 'lipschitz'")
        self._model: ProvenModel = self._enclosure.model  # type: ignore[assignment]
        form = self._model.relu_form()
        file = kept_file(model) if rule == "multiplier" else None
        kept = None if file is None else kept_constants(model, form, file)
        self.constants = pairwise_bounds(form, rule) if kept is None else kept.bounds
        """Shape (K, K), logits per pixel unit."""
        self.kept = kept
        """Where the constants came from, if there is a file for them."""

    def at(self, x: ArrayLike | Tensor, *, tol: float, depth: int) -> Lead:
        """Solve for an input in float64, and bound what is left of the error.

        Args:
            x: The input, shape (C, H, W), in [0, 1].
            tol: Relative residual that ends the solve.
            depth: Most cell evaluations.

        Raises:
            DataError: If the input does not fit the model or is not finite.
        """
        image = torch.as_tensor(x, dtype=torch.float64)
        return self.each(image[None], tol=tol, depth=depth)[0]

    @torch.no_grad()
    def each(self, x: ArrayLike | Tensor, *, tol: float, depth: int) -> list[Lead]:
        """Do the same for several inputs together, shape (B, C, H, W)."""
        images = torch.as_tensor(x, dtype=torch.float64)
        found = self._enclosure.solve(images, tol=tol, depth=depth)
        return [
            Lead(
                int(found.best[row]),
                found.gaps[row],
                float(found.error[row]),
                int(found.nfe[row]),
            )
            for row in range(len(images))
        ]

    def radius(self, lead: Lead) -> tuple[float, int]:
        """Return the largest radius that the constants prove, and the class that limits it.

        Anything that is not a number proves nothing: the radius is then 0.
        """
        rivals = [j for j in range(len(lead.gaps)) if j != lead.best]
        radii = {j: self._reach(lead, j) for j in rivals}
        rival = min(radii, key=radii.__getitem__)
        return radii[rival], rival

    def _reach(self, lead: Lead, rival: int) -> float:
        gap, constant = float(lead.gaps[rival]), float(self.constants[lead.best, rival])
        if not gap > 0.0 or not constant >= 0.0:
            return 0.0
        return DOWN * gap / constant if constant > 0.0 else float("inf")


_KNOWN: dict[tuple[str, str, str], Margins] = {}
_MOST = 8


def margins_of(model: ImplicitModel, rule: str) -> Margins:
    """Return the margins of a network; its constants are computed once for the same weights.

    Raises:
        ConfigError: If nothing can be proven of the model.
    """
    if not isinstance(model, ProvenModel):
        raise ConfigError(
            "method 'lipschitz' needs a model whose Lipschitz constants can be proven, but "
            f"{type(model).__name__} offers none; use a method that draws noise, or a model "
            "trained with --architecture monotone or contractive, in --form eager."
        )
    key = _key(model, rule)
    if key not in _KNOWN:
        while len(_KNOWN) >= _MOST:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[key] = Margins(model, rule)
    return _KNOWN[key]


def margins_known(model: ProvenModel, rule: str) -> bool:
    """Whether a network's constants cost nothing any more, or only their verification."""
    if _key(model, rule) in _KNOWN or rule != "multiplier":
        return True
    file = kept_file(model)
    return file is not None and holds_constants(model, file)


def _key(model: ImplicitModel, rule: str) -> tuple[str, str, str]:
    return weights_hash(model), repr(getattr(model, "config", type(model))), rule
