"""Attacks on models and on what was certified: l2 balls around images, pixels in [0, 1].

The names and :data:`ATTACKS` load no torch; attacks themselves are imported when asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deqcert.attacks.registry import ATTACKS, attack_names, get_attack

if TYPE_CHECKING:
    from deqcert.attacks.base import Attack, Climb, Task, View
    from deqcert.attacks.target import Target

__all__ = ["ATTACKS", "Attack", "Climb", "Target", "Task", "View", "attack_names", "get_attack"]

_LAZY = dict.fromkeys(("Attack", "Climb", "Task", "View"), "deqcert.attacks.base") | {
    "Target": "deqcert.attacks.target"
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'deqcert.attacks' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
