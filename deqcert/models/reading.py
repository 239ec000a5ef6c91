"""Configuration files: YAML in, a configuration or one sentence out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from deqcert.errors import ConfigError
from deqcert.files import read_regular

T_co = TypeVar("T_co", covariant=True)


class _Readable(Protocol[T_co]):
    def from_mapping(self, data: Mapping[str, Any]) -> T_co: ...


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        ConfigError: If it cannot be read or is not YAML.
    """
    try:
        return yaml.safe_load(read_regular(path).decode())
    # ValueError: a date or a number that there cannot be.
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise ConfigError(f"cannot read the configuration {path} ({reason}).") from None


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
