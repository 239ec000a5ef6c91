"""What a form is: a model in, the same classifier at another speed out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from deqcert.models.base import EnclosedModel, FoldableModel, ImplicitModel


class Form(ABC):
    """One way to evaluate a model.

    Attributes:
        summary: What it is, in a line without a stop.
        rounds: Whether it rounds more than float32 does, which makes it another classifier. Such a
            form is never chosen for its speed.
        hides: Whether products are computed where torch does not see them.
    """

    summary: ClassVar[str]
    rounds: ClassVar[bool] = False
    hides: ClassVar[bool] = False

    @abstractmethod
    def applies(self, model: ImplicitModel) -> bool:
        """Return whether a model can be evaluated so."""

    @abstractmethod
    def make(self, model: ImplicitModel, *, rows: int, device: str) -> ImplicitModel:
        """Return a model to be evaluated; the given one is not changed, but may be returned.

        Args:
            model: One that it applies to.
            rows: Rows of every evaluation.
            device: Where it will run, as torch names it.

        Raises:
            ConfigError: If this machine cannot make it.
        """


def foldable(model: ImplicitModel) -> bool:
    """Return whether a model can be folded: it knows how, and proves nothing of its arithmetic."""
    return isinstance(model, FoldableModel) and not isinstance(model, EnclosedModel)


def folded(model: ImplicitModel, device: str) -> ImplicitModel:
    """Return a model's folded copy, laid out for a device; a model without one as it is."""
    if not foldable(model):
        return model
    assert isinstance(model, FoldableModel)
    return model.folded(channels_last=device.startswith("cpu"))


class Wrapped(nn.Module):
    """A model around a model, with the same image size and classes.

    Args:
        model: Any module of the protocol.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for name in ("config", "input_shape", "num_classes"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to injections."""
        return self.model.inject(x)  # type: ignore[no-any-return]

    def initial_state(self, injection: Tensor) -> Tensor:
        """Return the cold start, shape (B, D)."""
        return self.model.initial_state(injection)  # type: ignore[no-any-return]
