"""Configuration files: YAML in, a configuration or one sentence out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from deqcert.errors import ConfigError
from deqcert.files import read_regular

DEEPEST = 100
"""Brackets within brackets."""

T_co = TypeVar("T_co", covariant=True)


class _Readable(Protocol[T_co]):
    def from_mapping(self, data: Mapping[str, Any]) -> T_co: ...


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        ConfigError: If it cannot be read or is not YAML.
    """
    try:
        return parse_yaml(read_regular(path).decode())
    # ValueError: a date or a number that there cannot be.
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise ConfigError(f"cannot read the configuration {path} ({reason}).") from None


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        yaml.YAMLError: If it is not YAML, or nests brackets deeper than any configuration does,
            over which a parser may spend minutes.
        ValueError: If it holds a date or a number that there cannot be.
        RecursionError: If it is nested too deep in another way.
    """
    depth = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > DEEPEST:
            raise yaml.YAMLError("nested too deep")
    return yaml.safe_load(text)


def parse(kind: _Readable[T_co], data: Any, path: str | Path) -> T_co:
    """Make a configuration of a file's content.

    Args:
        kind: Class of the configuration.
        data: What :func:`read_yaml` returned.
        path: What to name in sentences.

    Raises:
        ConfigError: If it is no such configuration.
    """
    try:
        return kind.from_mapping(data)
    except (ConfigError, TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        text = str(error) if isinstance(error, ConfigError) else "a value has the wrong type."
        raise ConfigError(f"configuration {path}: {text}") from None
