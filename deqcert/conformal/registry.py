"""The ways to make prediction sets, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deqcert.options import options_of, read_options
from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.conformal.base import SetMethod

SET_METHODS: Registry[type[SetMethod]] = Registry(
    "set method",
    {
        "one-draw": "deqcert.conformal.one_draw:OneDraw",
        "binarised": "deqcert.conformal.binarised:Binarised",
        "proven": "deqcert.conformal.proven:Proven",
    },
    plural="set_methods",
)
"""Every method, imported when it is first asked for; add yours with ``SET_METHODS.register``."""


def make_set_method(name: str, options: Mapping[str, Any]) -> SetMethod:
    """Make a method with its options, which may be text as of a command line.

    Raises:
        ConfigError: If there is no such method or option, or a value is out of range.
    """
    kind = SET_METHODS.get(name)
    return kind(**read_options(f"option of method {name},", options, options_of(kind)))
