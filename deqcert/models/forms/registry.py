"""Forms by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deqcert.errors import ConfigError
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.models.base import ImplicitModel
    from deqcert.models.forms.base import Form

FORMS: Registry[Form] = Registry(
    "form",
    {
        "eager": "deqcert.models.forms.eager:EAGER",
        "folded": "deqcert.models.forms.folded:FOLDED",
        "compiled": "deqcert.models.forms.compiled:COMPILED",
        "direct": "deqcert.models.forms.direct:DIRECT",
        "bfloat16": "deqcert.models.forms.bfloat16:BFLOAT16",
        "int8": "deqcert.models.forms.int8:INT8",
    },
)


def form_names(model: ImplicitModel) -> tuple[str, ...]:
    """Return the forms that a model can be evaluated in.

    A model that can be folded has all of them. Any other torch module can be compiled, unless it
    proves something of its own arithmetic (:class:`deqcert.models.base.EnclosedModel`); a model
    that is no torch module has only "eager".
    """
    return tuple(name for name in FORMS if FORMS.get(name).applies(model))


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
    found = FORMS.get(form)
    if not found.applies(model):
        possible = form_names(model)
        raise ConfigError(
            f"{type(model).__name__} has no form '{form}'; it can be {' or '.join(possible)}."
        )
    return found.make(model, rows=rows, device=device)
