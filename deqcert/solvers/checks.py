"""Checks of solver knobs, in one sentence each."""

from __future__ import annotations

from deqcert.errors import ConfigError


def in_range(name: str, value: float, above: float, up_to: float) -> None:
    """Refuse a knob that is not in (above, up_to].

    Raises:
        ConfigError: If it is not, or is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {value!r}, but it must be a number.")
    if not above < value <= up_to:
        raise ConfigError(f"{name} is {value}, but it must be above {above} and at most {up_to}.")


def whole_number(name: str, value: int, least: int) -> None:
    """Refuse a knob that is not a whole number from ``least``.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}, but it must be a whole number from {least}.")
