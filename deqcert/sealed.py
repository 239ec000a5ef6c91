"""JSON files that carry a hash of their content, so that a change is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqcert.errors import RunError
from deqcert.files import read_regular, write_atomically


@dataclass(frozen=True)
class SealedFormat:
    """A kind of such files.

    Args:
        name: What "format" is in them.
        version: The "format_version" that is written and read.
        noun: What a user calls such a file, as in "no reference".
        advice: What to give instead of a file that is no such one.
        remedy: What to do with one that was changed or is of another version.
    """

    name: str
    version: int
    noun: str
    advice: str
    remedy: str

    def head(self) -> dict[str, Any]:
        """Return the first entries of a content."""
        return {"format": self.name, "format_version": self.version}

    def write(self, path: Path, content: Mapping[str, Any], hint: str = "") -> None:
        """Write a content and its hash, whole or not at all.

        Args:
            path: The file.
            content: JSON values that begin with :meth:`head`.
            hint: What would work where it cannot be written.

        Raises:
            RunError: If it cannot be written.
        """
        whole = {**content, "sha256": content_hash(content)}
        write_atomically(path, json.dumps(whole, indent=1) + "\n", hint)

    def read(self, path: str | Path) -> dict[str, Any]:
        """Return the content of a file that :meth:`write` wrote.

        Raises:
            RunError: If it is not there, is something else, or was changed.
        """
        try:
            content = json.loads(read_regular(path))
        except OSError as error:
            raise RunError(f"cannot read {path} ({error.strerror}); {self.advice}") from None
        except (ValueError, RecursionError):
            raise RunError(f"{path} is no {self.noun}; {self.advice}") from None
        if not isinstance(content, dict) or content.get("format") != self.name:
            raise RunError(f"{path} is no {self.noun}; {self.advice}")
        if content.pop("sha256", None) != content_hash(content):
            raise RunError(f"{path} was changed since it was written; {self.remedy}")
        if (found := content.get("format_version")) != self.version:
            raise RunError(
                f"{path} has format version {found} and this deqcert knows {self.version}; "
                f"{self.remedy}"
            )
        return content

    def damaged(self, path: str | Path) -> RunError:
        """Return the error for a content, whole as it is, that lacks what belongs into it."""
        return RunError(f"{path} is damaged; {self.advice}")


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of their keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
