from .base import Form
from .compiled import Compiled
from .registry import FORMS, form_names, in_form

__all__ = ["FORMS", "Compiled", "Form", "form_names", "in_form"]
