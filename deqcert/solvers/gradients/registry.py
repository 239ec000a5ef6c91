"""The gradient methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deqcert.registry import Registry, make_named

if TYPE_CHECKING:
    from deqcert.solvers.gradients.base import Gradient

GRADIENTS: Registry[type[Gradient]] = Registry(
    "gradient",
    {
        "implicit": "deqcert.solvers.gradients.implicit:Implicit",
        "phantom": "deqcert.solvers.gradients.phantom:Phantom",
        "unroll": "deqcert.solvers.gradients.unroll:Unroll",
    },
)
"""Methods to go backward through a solve; each is a dataclass whose fields are its options."""


def get_gradient(name: str, **options: Any) -> Gradient:
    """Make the gradient method of that name.

    Args:
        name: One of the names of :data:`GRADIENTS`.
        **options: Its options; see the class for ranges.

    Raises:
        ConfigError: If there is no such method, it has no such option, or a value is out of range.
    """
    return make_named(GRADIENTS, name, options)
