"""A training that is not finished: all it needs to go on exactly where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deqcert.errors import RunError
from deqcert.files import write_atomically
from deqcert.training.config import TrainConfig
from deqcert.training.record import parameters

FREE = ("out", "progress", "tensorboard")
"""Parameters that do not decide the numbers."""

FORMAT = "3"
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
        decisive = {key: value for key, value in parameters(config).items() if key not in FREE}
        self._parameters = {"format": FORMAT, **decisive, **facts}

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
            before, written_as = saved["parameters"], saved["parameters"]["format"]
        except Exception as error:  # whatever a damaged file makes torch raise
            reason = type(error).__name__
            raise RunError(f"{self.path} cannot be read ({reason}); {elsewhere}") from None
        if written_as != FORMAT:
            raise RunError(f"{self.path} is of another version of deqcert; {elsewhere}")
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
        content = {"parameters": self._parameters, **state}
        write_atomically(self.path, lambda file: torch.save(content, file))

    def safe(self) -> str:
        """Say what remains of an interrupted training, and how to go on."""
        if not self.path.exists():
            return f"interrupted before anything was saved in {self.path.parent}"
        return (
            f"interrupted; what was trained is safe in {self.path}, and the same command goes on "
            "from there"
        )

    def remove(self) -> None:
        """Forget the training: it is finished."""
        self.path.unlink(missing_ok=True)
