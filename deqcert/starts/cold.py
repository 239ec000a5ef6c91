"""Start cold: every solve for itself."""

from __future__ import annotations

from deqcert.starts.base import StartPolicy


class Cold(StartPolicy):
    """Start every solve from the model's initial state."""

    name = "cold"
    independent = True
