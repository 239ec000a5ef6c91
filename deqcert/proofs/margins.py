"""By how much a class leads at the exact equilibrium, and how far the input must move to end it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deqcert.errors import ConfigError
from deqcert.models.base import ImplicitModel, PrescribedModel, ProvenModel
from deqcert.models.relu_form import ReluForm
from deqcert.proofs.enclosure import Enclosure
from deqcert.proofs.kept import KeptConstants, holds_constants, kept_constants, kept_file
from deqcert.proofs.known import Known
from deqcert.proofs.lipschitz import LOCAL, RULES, bounds_matrix, pairwise_bounds
from deqcert.proofs.local import entering, refined
from deqcert.proofs.multiplier import Multipliers, multiplier_bounds

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
        entering: What enters relu at the state that was found, shape (D,), float64, and in
            ``entering_error`` a bound of its l2 distance to the exact one; None unless asked for.
        entering_error: That bound.
    """

    best: int
    gaps: Tensor
    error: float
    nfe: int
    entering: Tensor | None = None
    entering_error: float = 0.0


class Margins:
    """A network's proven constants, computed once, and its proven margins, per input.

    Args:
        model: A model that offers its matrices, or constants that it prescribes.
        rule: One of :data:`deqcert.proofs.RULES`.

    Raises:
        ConfigError: If it offers none, or nothing is proven of its weights.
    """

    def __init__(self, model: ProvenModel | PrescribedModel, rule: str) -> None:
        self._enclosure = Enclosure(model, "method 'lipschitz'")
        self._model: ProvenModel | PrescribedModel = self._enclosure.model  # type: ignore[assignment]
        self.constants, self._multipliers, self.kept = _constants(model, self._model, rule)
        """Shape (K, K), logits per pixel unit; and where they came from, if there is a file."""
        self._form: ReluForm | None = None

    def locally(self) -> Margins:
        """Return margins of the same constants whose radii are proven around each input besides.

        Raises:
            ConfigError: If the model does not offer its matrices.
        """
        if not isinstance(self._model, ProvenModel):
            raise ConfigError(
                f"bound is {LOCAL}, but {type(self._model).__name__} is not one relu layer whose "
                f"matrices could be looked at; use bound={RULES[0]}."
            )
        found = copy.copy(self)
        found._form = self._model.relu_form()
        return found

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
        leads = [
            Lead(
                int(found.best[row]),
                found.gaps[row],
                float(found.error[row]),
                int(found.nfe[row]),
            )
            for row in range(len(images))
        ]
        if self._form is None:
            return leads
        inside, off = entering(self._form, images, found.states, found.error)
        return [
            replace(lead, entering=inside[row], entering_error=float(off[row]))
            for row, lead in enumerate(leads)
        ]

    @torch.no_grad()
    def differences(
        self, x: ArrayLike | Tensor, *, tol: float, depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Bound every difference of two logits at the exact equilibrium of an input.

        Args:
            x: As for :meth:`at`, and so are the others.
            tol: Relative residual that ends the solve.
            depth: Most cell evaluations.

        Returns:
            Logit i minus logit j where the solve ended, shape (K, K); how far each may be from that
            of the exact equilibrium, shape (K, K); and the cell evaluations.
        """
        image = torch.as_tensor(x, dtype=torch.float64)
        leads = self._enclosure.solve(image[None], tol=tol, depth=depth)
        found, error = self._enclosure.differences(leads)
        return found[0].numpy(), error[0].numpy(), int(leads.nfe[0])

    def radius(self, lead: Lead) -> tuple[float, int]:
        """Return the largest radius that is proven, and the class that limits it.

        Anything that is not a number proves nothing: the radius is then 0.
        """
        return self.radii([lead])[0]

    def radii(self, leads: list[Lead]) -> list[tuple[float, int]]:
        """Do the same for several inputs together."""
        reach = torch.full((len(leads), len(self.constants)), torch.inf, dtype=torch.float64)
        for row, lead in enumerate(leads):
            for rival in range(len(self.constants)):
                if rival != lead.best:
                    reach[row, rival] = self._reach(lead, rival)
        if self._form is not None:
            reach = refined(self._form, leads, reach, self._multipliers)
        radii, rivals = reach.min(dim=1)
        return [(float(radius), int(rival)) for radius, rival in zip(radii, rivals, strict=True)]

    def _reach(self, lead: Lead, rival: int) -> float:
        gap, constant = float(lead.gaps[rival]), float(self.constants[lead.best, rival])
        if not gap > 0.0 or not constant >= 0.0:
            return 0.0
        return DOWN * gap / constant if constant > 0.0 else float("inf")


def _constants(
    stored: ProvenModel | PrescribedModel, model: ProvenModel | PrescribedModel, rule: str
) -> tuple[Tensor, Multipliers, KeptConstants | None]:
    """Prove the constants of a model; what is kept beside a checkpoint is its as it was stored."""
    if not isinstance(model, ProvenModel):
        if rule != RULES[0]:
            raise ConfigError(
                f"bound is {rule}, but the constants of {type(model).__name__} hold by "
                f"construction; use bound={RULES[0]}."
            )
        return model.proven_lipschitz(), {}, None
    form = model.relu_form()
    if rule != RULES[0]:
        return pairwise_bounds(form, rule), {}, None
    file = kept_file(stored)
    if file is None:
        found = multiplier_bounds(form)[0]
        return bounds_matrix(len(form.readout), found), found, None
    kept = kept_constants(stored, form, file)
    return kept.bounds, kept.multipliers, kept


_KNOWN: Known[Margins] = Known()


def margins_of(model: ImplicitModel, rule: str) -> Margins:
    """Return the margins of a network; its constants are computed once for the same weights.

    Raises:
        ConfigError: If nothing can be proven of the model.
    """
    if not isinstance(model, ProvenModel | PrescribedModel):
        raise ConfigError(
            "method 'lipschitz' needs a model whose Lipschitz constants can be proven, but "
            f"{type(model).__name__} offers none; use a method that draws noise, or a model "
            "trained with --architecture monotone or contractive, in --form eager."
        )

    def make() -> Margins:
        return margins_of(model, RULES[0]).locally() if rule == LOCAL else Margins(model, rule)

    return _KNOWN.of(model, rule, make=make)


def margins_known(model: ProvenModel, rule: str) -> bool:
    """Whether a network's constants cost nothing any more, or only their verification."""
    rule = RULES[0] if rule == LOCAL else rule
    if _KNOWN.holds(model, rule) or rule != RULES[0]:
        return True
    file = kept_file(model)
    return file is not None and holds_constants(model, file)
