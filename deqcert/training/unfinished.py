"""A training that is not finished: all it needs to go on exactly where it was."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from deqcert.errors import RunError
from deqcert.training.config import TrainConfig

FREE = ("out", "progress", "tensorboard")
"""Parameters that do not decide the numbers."""

FORMAT = "2"
"""What the state consists of; a file of another format belongs to another version of deqcert."""


class Unfinished:
    """The file ``NAME.unfinished`` beside the files that a training will leave.

    It is replaced whole or not at all, so that a training that is killed at any moment, also while
    it writes, can go on.

    Args:
        config: Of the training.
        facts: What else decides the numbers, in words or hashes.
    """

    def __init__(self, config: TrainConfig, facts: dict[str, str]) -> None:
        self.path = Path(config.out) / f"{config.name}.unfinished"
        self._parameters = {
            field: str(value) if isinstance(value, Path) else value
            for field, value in dataclasses.asdict(config).items()
            if field not in FREE
        } | {"format": FORMAT, **facts}

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None if there is nothing to go on with.

        Raises:
            RunError: If the file cannot be read, or other parameters were used.
        """
        if not self.path.exists():
            return None
        elsewhere = f"give another out or name, or remove {self.path} to begin anew."
        try:
            saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            before = saved["parameters"]
        except Exception as error:  # whatever a damaged file makes torch raise
            reason = type(error).__name__
            raise RunError(f"{self.path} cannot be read ({reason}); {elsewhere}") from None
        for field in before | self._parameters:
            was, now = before.get(field), self._parameters.get(field)
            if was != now:
                raise RunError(
                    f"{self.path} holds an unfinished training whose {field} was {was!r} and is "
                    f"now {now!r}; give the same parameters to go on with it, {elsewhere}"
                )
        return saved

    def save(self, state: dict[str, Any]) -> None:
        """Write the state: numbers, words, tensors, and lists and dictionaries of them.

        Raises:
            RunError: If the disk does not take it; what was saved before is still there.
        """
        aside = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with aside.open("wb") as file:
                torch.save({"parameters": self._parameters, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                aside.unlink()
            raise RunError(
                f"cannot write {self.path} ({error}); free the disk and give the same command "
                "again."
            ) from None

    def remove(self) -> None:
        """Forget the training: it is finished."""
        self.path.unlink(missing_ok=True)
