"""Form eager: nothing is done to the model."""

from __future__ import annotations

from deqcert.models.base import ImplicitModel
from deqcert.models.forms.base import Form


class Eager(Form):
    """The model itself."""

    summary = "the model as it was trained"

    def applies(self, model: ImplicitModel) -> bool:
        """Return True."""
        return True

    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return the model."""
        return model


EAGER = Eager()
