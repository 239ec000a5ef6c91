"""Form folded: what is constant in inference becomes part of the weights."""

from __future__ import annotations

from deqcert.models.base import ImplicitModel
from deqcert.models.forms.base import Form, foldable, folded


class Folded(Form):
    """The copy that a model makes of itself; see :class:`deqcert.models.base.FoldableModel`."""

    summary = "weight and batch normalisation folded into the convolutions"

    def applies(self, model: ImplicitModel) -> bool:
        """Return whether the model knows such a copy."""
        return foldable(model)

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return the copy."""
        return folded(model, device)


FOLDED = Folded()
