"""Named ways to evaluate one model: the same classifier up to rounding, at another speed.

A form is part of what is declared and certified: its last bits are its own, and in bfloat16 more
than the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deqcert.lazy import lazy

if TYPE_CHECKING:
    from deqcert.models.forms.base import Form as Form
    from deqcert.models.forms.compiled import Compiled as Compiled
    from deqcert.models.forms.registry import FORMS as FORMS
    from deqcert.models.forms.registry import form_names as form_names
    from deqcert.models.forms.registry import in_form as in_form

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "deqcert.models.forms.base": ["Form"],
        "deqcert.models.forms.compiled": ["Compiled"],
        "deqcert.models.forms.registry": ["FORMS", "form_names", "in_form"],
    },
)
