"""Attacks on models and on what was certified: l2 balls around images, pixels in [0, 1]."""

from __future__ import annotations

from deqcert.attacks.registry import Attack, attack_names, get_attack
from deqcert.attacks.scores import Target

__all__ = ["Attack", "Target", "attack_names", "get_attack"]
