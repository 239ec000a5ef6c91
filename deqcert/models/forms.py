"""Named ways to evaluate one model: the same classifier up to rounding, at another speed.

A form is part of what is declared and certified: its last bits are its own, and in bfloat16 more
than the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deqcert.errors import ConfigError
from deqcert.models.base import EnclosedModel, ImplicitModel
from deqcert.models.folding import fold
from deqcert.models.mdeq import MDEQ

FORMS = {
    "eager": "the model as it was trained",
    "folded": "weight and batch normalisation folded into the convolutions",
    "compiled": "folded, then compiled by torch for one number of rows",
    "bfloat16": "folded, cell and readout in bfloat16 with states in float32",
}
"""Every form, and what it is."""


def form_names(model: ImplicitModel) -> tuple[str, ...]:
    """Return the forms that a model can be evaluated in.

    An MDEQ has all of them. Any other torch module can be compiled, unless it proves something of
    its own arithmetic (:class:`EnclosedModel`); a model that is no torch module has only "eager".
    """
    given: Any = model
    if isinstance(given, MDEQ):
        return tuple(FORMS)
    if isinstance(given, nn.Module) and not isinstance(given, EnclosedModel):
        return ("eager", "compiled")
    return ("eager",)


def in_form(model: ImplicitModel, form: str, *, rows: int, device: str = "cpu") -> ImplicitModel:
    """Return a model to be evaluated in a form.

    Args:
        model: Any model of the protocol; it is not changed, except that for "eager" it is the
            model itself that is returned.
        form: One of :func:`form_names`.
        rows: Rows of every evaluation: what :class:`SmoothingEngine` calls its shape.
        device: Where it will run, as torch names it.

    Raises:
        ConfigError: If there is no such form, the model does not have it, or this machine cannot
            compile.
    """
    if form not in FORMS:
        raise ConfigError(f"there is no form '{form}'; there are {', '.join(FORMS)}.")
    possible = form_names(model)
    if form not in possible:
        raise ConfigError(
            f"{type(model).__name__} has no form '{form}'; it can be {' or '.join(possible)}."
        )
    if form == "eager":
        return model
    given: Any = model
    lean = given.eval()
    if isinstance(given, MDEQ):
        lean = fold(given, channels_last=device.startswith("cpu"))
    if form == "compiled":
        return Compiled(lean, rows, device)
    return Bfloat16(lean) if form == "bfloat16" else lean


class _Wrapped(nn.Module):
    """A model around a model, with the same image size and classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for name in ("config", "input_shape", "num_classes"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def inject(self, x: Tensor) -> Tensor:
        return self.model.inject(x)  # type: ignore[no-any-return]

    def initial_state(self, injection: Tensor) -> Tensor:
        return self.model.initial_state(injection)  # type: ignore[no-any-return]


class Bfloat16(_Wrapped):
    """Cell and readout in bfloat16; states, injections and logits in the type that came in.

    Args:
        model: Any module of the protocol.
    """

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once, (B, D) to (B, D)."""
        with torch.autocast(z.device.type, torch.bfloat16):
            out: Tensor = self.model.cell(z, injection)
        return out.to(z.dtype)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        with torch.autocast(z.device.type, torch.bfloat16):
            out: Tensor = self.model.readout(z)
        return out.to(z.dtype)


class Compiled(_Wrapped):
    """Injection, cell and readout compiled by torch, at once and for one number of rows.

    Args:
        model: Any module of the protocol with an ``input_shape``; its weights become constants.
        rows: Rows of every evaluation.
        device: Where it will run, as torch names it.

    Raises:
        ConfigError: If the model does not say its input's shape, or if it cannot be compiled here.
    """

    def __init__(self, model: Any, rows: int, device: str = "cpu") -> None:
        super().__init__(model)
        if not hasattr(model, "input_shape"):
            raise ConfigError("form 'compiled' needs a model that says its input_shape.")
        self.rows = rows
        # Freezing lays weights out for the machine. Worker processes would outlive the compilation
        # and take the processors from what follows.
        options: dict[str, Any] = {"freezing": True, "compile_threads": 1}
        self._functions: dict[str, Callable[..., Tensor]] = {
            name: torch.compile(getattr(model, name), dynamic=False, options=options)
            for name in ("inject", "cell", "readout")
        }
        try:
            model.to(device)
            dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
            images = torch.zeros(rows, *model.input_shape, dtype=dtype, device=device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                injection = self.inject(images)
                z = self.cell(self.initial_state(injection), injection)
                self.readout(z)
        except Exception as error:  # the compiler's own, and whatever a missing g++ makes it raise
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"form 'compiled' does not work here ({reason or type(error).__name__}); install a "
                "C++ compiler such as g++, or take form 'folded' or 'eager'."
            ) from None

    def inject(self, x: Tensor) -> Tensor:
        """Map images, shape (B, C, H, W), to injections."""
        return self._run("inject", x)

    def cell(self, z: Tensor, injection: Tensor) -> Tensor:
        """Evaluate the cell once, (B, D) to (B, D)."""
        return self._run("cell", z, injection)

    def readout(self, z: Tensor) -> Tensor:
        """Map states, shape (B, D), to logits, shape (B, K)."""
        return self._run("readout", z)

    def _run(self, name: str, *tensors: Tensor) -> Tensor:
        # Any other number would be compiled anew, which takes longer than most batches.
        if len(tensors[0]) != self.rows:
            raise ConfigError(
                f"this model is compiled for {self.rows} rows and was given {len(tensors[0])}; "
                f"give the engine shape={self.rows}."
            )
        with torch.no_grad():
            return self._functions[name](*(tensor.contiguous() for tensor in tensors))
