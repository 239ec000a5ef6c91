"""The attacks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.attacks.base import Attack

ATTACKS: Registry[Attack] = Registry(
    "attack",
    {
        "pgd-implicit": "deqcert.attacks.pgd:PGD_IMPLICIT",
        "pgd-phantom": "deqcert.attacks.pgd:PGD_PHANTOM",
        "pgd-unroll": "deqcert.attacks.pgd:PGD_UNROLL",
        "apgd-implicit": "deqcert.attacks.apgd:APGD_IMPLICIT",
        "apgd-phantom": "deqcert.attacks.apgd:APGD_PHANTOM",
        "apgd-unroll": "deqcert.attacks.apgd:APGD_UNROLL",
        "intermediate": "deqcert.attacks.apgd:INTERMEDIATE",
        "smoothadv-pgd": "deqcert.attacks.pgd:SMOOTHADV_PGD",
        "smoothadv-apgd": "deqcert.attacks.apgd:SMOOTHADV_APGD",
        "smoothadv-ddn": "deqcert.attacks.ddn:SMOOTHADV_DDN",
        "ddn": "deqcert.attacks.ddn:DDN_IMPLICIT",
        "square": "deqcert.attacks.square:SQUARE",
        "random": "deqcert.attacks.random_points:RANDOM",
    },
)
"""Every attack, imported when it is first asked for; add yours with ``ATTACKS.register``."""


def get_attack(name: str, **options: Any) -> Attack:
    """Return the attack of that name.

    Args:
        name: One of the names of :data:`ATTACKS`.
        **options: Its options, such as ``steps``; see :attr:`Attack.options`.

    Raises:
        ConfigError: If there is no such attack, it has no such option, or a value is out of range.
    """
    return ATTACKS.get(name).with_options(**options)
