"""Who may ask: keys in a file, compared in a time that tells nothing about them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from deqcert.errors import ConfigError
from deqcert.files import read_regular

SHORTEST = 16
"""Characters that a key has at least; fewer could be guessed."""


class Keys:
    """The clients of a service.

    Args:
        keys: Name of a client to its key; empty where everybody is served.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """Read a file of lines ``NAME KEY``; empty ones and those that begin with # are skipped.

        Raises:
            ConfigError: If it cannot be read, or a line is not of that kind, or a key is short.
        """
        if path is None:
            return cls({})
        try:
            lines = read_regular(path).decode().splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"cannot read keys from {path}; give a text file") from None
        found: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or words[0] in found:
                raise ConfigError(
                    f"line {number} of {path} must be the name of a client and its key, each name "
                    "once"
                )
            if len(words[1]) < SHORTEST:
                raise ConfigError(
                    f"the key in line {number} of {path} has fewer than {SHORTEST} characters; "
                    "make one with: openssl rand -hex 16"
                )
            found[words[0]] = words[1]
        if not found:
            raise ConfigError(f"{path} holds no key; write lines like: NAME KEY")
        return cls(found)

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._digests)

    def client(self, key: str | None) -> str | None:
        """Return whose key it is; None for nobody's.

        Every key is compared, and digests are, in constant time: how long it takes tells neither
        how much of a key was right nor whose it is like.
        """
        given, found = _digest(key or ""), None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
