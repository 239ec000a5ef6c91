"""The parts of an evaluation by name; each is a function of a subject that returns JSON values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deqcert.errors import ConfigError
from deqcert.registry import Registry, unknown_name

if TYPE_CHECKING:
    from deqcert.evaluation.subject import Subject

_ROOM = "deqcert.evaluation"
PARTS: Registry[Callable[[Subject], dict[str, Any]]] = Registry(
    "evaluation part",
    {
        "clean": f"{_ROOM}.clean:clean",
        "certified": f"{_ROOM}.certified:certified",
        "attacks": f"{_ROOM}.attacked:attacked",
        "corruptions": f"{_ROOM}.corrupted:corrupted",
        "calibration": f"{_ROOM}.calibrated:calibrated",
        "ood": f"{_ROOM}.detected:detected",
        "cost": f"{_ROOM}.cost:cost",
    },
    plural="parts",
)
"""Every part, in the order of the page, imported when it is first asked for."""


def parse_parts(text: str) -> tuple[str, ...]:
    """Read names of parts with commas between; "all" is every one.

    Raises:
        ConfigError: If there is no such part.
    """
    if text == "all":
        return PARTS.names()
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in PARTS.names():
            raise ConfigError(unknown_name("evaluation part", name, PARTS.names()))
    return tuple(name for name in PARTS.names() if name in asked)
