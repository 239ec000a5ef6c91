"""The manifest: everything a run's numbers depend on, and when two runs are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqcert.errors import RunError
from deqcert.files import read_regular, write_atomically

FORMAT = "deqcert-run"
FORMAT_VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a run is.

    Args:
        parameters: The identity of the run: every value that decides its numbers, as JSON
            values. Hashes of the checkpoint and the data belong here, their paths do not; so do
            the thread count, the device and the kernel path, which may change a last bit and
            with it a vote. A run is only ever continued with equal parameters. A secret seed
            reads "random" until the run is finished.
        images: Indices of the images in the data set, in the order they are certified.
        environment: Versions and machine. They may change a last bit too, but a run that moved
            to another node or was upgraded is still a run: the change is told and recorded.
        notes: What helps to find things again (paths as they were given); decides nothing.
        continued: One entry per continuation in another environment: the number of images that
            were done before it, and that environment.
    """

    parameters: Mapping[str, Any]
    images: tuple[int, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    continued: tuple[Mapping[str, Any], ...] = ()

    @property
    def last_environment(self) -> Mapping[str, Any]:
        """The environment that wrote the newest lines."""
        found = self.continued[-1]["environment"] if self.continued else self.environment
        return found if isinstance(found, Mapping) else {}

    def differences(self, other: Manifest) -> list[str]:
        """List the parameters in which another request differs from this run, in words."""
        mine, theirs = _flat(self.parameters), _flat(other.parameters)
        for parameters in (mine, theirs):
            if parameters.get("sigma") is not None:  # older runs knew no other noise
                parameters.setdefault("noise", "float")
        keys = [*mine, *(key for key in theirs if key not in mine)]
        found = [
            f"{key} was {_say(mine, key)} and is now {_say(theirs, key)}"
            for key in keys
            if (key in mine, mine.get(key)) != (key in theirs, theirs.get(key))
        ]
        if self.images != other.images:
            here, there = describe_images(self.images), describe_images(other.images)
            found.append(f"images was {here} and is now {there}")
        return found

    def write(self, folder: Path) -> None:
        """Write it into a run folder, whole or not at all.

        Raises:
            RunError: If the folder cannot be written.
        """
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "parameters": self.parameters,
            "images": describe_images(self.images),
            "count": len(self.images),
            "environment": self.environment,
            "notes": self.notes,
            "continued": list(self.continued),
        }
        write_atomically(folder / NAME, json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a run folder.

        Returns:
            Manifest, or None where there is no file of that name.

        Raises:
            RunError: If it is not one of ours, or damaged.
        """
        path = folder / NAME
        try:
            content = json.loads(read_regular(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(
                f"cannot read {path} ({error.strerror}); give another folder with --out"
            ) from None
        except (ValueError, RecursionError):
            raise RunError(f"{path} is damaged; give another folder with --out") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(f"{path} is not deqcert's; give another folder with --out")
        if content.get("format_version") != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {content.get('format_version')} and this deqcert "
                f"knows {FORMAT_VERSION}; continue it with the deqcert that began it"
            )
        try:
            return cls(
                parameters=dict(content["parameters"]),
                images=parse_images(content["images"]),
                environment=dict(content["environment"]),
                notes=dict(content["notes"]),
                continued=tuple(dict(entry) for entry in content["continued"]),
            )
        except (KeyError, TypeError, ValueError):
            raise RunError(f"{path} is damaged; give another folder with --out") from None


def describe_images(images: Sequence[int]) -> str:
    """Write indices as START:STOP:STEP where they are evenly spaced, else as a list."""
    if not images:
        return ""
    step = images[1] - images[0] if len(images) > 1 else 1
    if step > 0:
        even = range(images[0], images[-1] + 1, step)
        if len(even) == len(images) and all(a == b for a, b in zip(even, images, strict=True)):
            return f"{even.start}:{even.stop}:{step}"
    return ",".join(map(str, images))


def parse_images(text: str) -> tuple[int, ...]:
    """Read what `describe_images` wrote.

    Raises:
        ValueError: If it is neither form.
    """
    if ":" in text:
        start, stop, step = map(int, text.split(":"))
        return tuple(range(start, stop, step))
    return tuple(int(part) for part in text.split(",")) if text else ()


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by their path, as JSON gives them back: (1, 2) equals [1, 2]."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(dict(parameters))).items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _say(parameters: Mapping[str, Any], key: str) -> str:
    if key not in parameters:
        return "not set"
    text = json.dumps(parameters[key])
    return text if len(text) <= 24 or not key.endswith(("hash", "sha256")) else text[:13] + '..."'
