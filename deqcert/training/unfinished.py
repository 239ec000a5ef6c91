"""A training that is not finished: all it needs to go on exactly where it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from deqcert.errors import CheckpointError, Interrupted, RunError
from deqcert.files import aside, write_atomically
from deqcert.models.weight_files import read_torch_file
from deqcert.training.record import describes, parameters

SAVE_EVERY = 120.0
"""Seconds after which a training saves where it is."""

SAVE_AT_END = 10.0
"""The same at the end of an epoch or a round; short ones would spend their time on saving."""

FREE = ("out", "progress", "tensorboard")
"""Parameters that do not decide the numbers."""

FORMAT = "4"
"""What the state consists of; a file of another format belongs to another version of deqcert."""


ALREADY = "this training was finished when it was killed; nothing was left to do but to tidy up"
"""What to say of one that is found so."""


class Unfinished:
    """The file ``NAME.unfinished`` beside the files that a training will leave.

    It is replaced whole or not at all, so that a training that is killed at any moment, also while
    it writes, can go on.

    Args:
        target: File that the training will leave last, such as NAME.pth.
        config: Of the training, a dataclass.
        facts: What else decides the numbers, in words or hashes.
    """

    def __init__(self, target: Path, config: Any, facts: dict[str, str]) -> None:
        self.target, self.path = target, target.with_suffix(".unfinished")
        decisive = {key: value for key, value in parameters(config).items() if key not in FREE}
        kind = type(config).__name__
        self._parameters = {"format": FORMAT, "kind": kind, **decisive, **facts}
        self._saved = time.perf_counter()

    @property
    def age(self) -> float:
        """Seconds since the state was saved last, or since this began."""
        return time.perf_counter() - self._saved

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None if there is nothing to go on with.

        Raises:
            RunError: If the file cannot be read, or other parameters were used.
        """
        if not self.path.exists():
            return None
        elsewhere = f"give another out or name, or remove {self.path} to begin anew."
        try:
            saved: dict[str, Any] = read_torch_file(self.path)
            before, written_as = saved["parameters"], saved["parameters"]["format"]
        except CheckpointError:
            reason = "it is cut short, or bytes of it have changed"
            raise RunError(f"{self.path} cannot be read ({reason}); {elsewhere}") from None
        except Exception as error:  # whatever a damaged file makes torch raise
            reason = getattr(error, "strerror", None) or "it is damaged or something else"
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
        self._saved = time.perf_counter()

    def outlived(self) -> bool:
        """Whether the training was killed after its last file was written; if so, tidy up.

        Raises:
            RunError: If the file that it would leave is another's.
        """
        if not self.target.exists():
            return False
        if not (describes(self.target) and self.load() is not None):
            raise RunError(
                f"{self.target} exists already and is not what {self.path} would lead to; choose "
                "another out or another name."
            )
        self.remove()
        return True

    def remove(self) -> None:
        """Forget the training: it is finished."""
        for path in (self.path, aside(self.path)):
            with suppress(FileNotFoundError):
                path.unlink()


@contextmanager
def saying_what_is_safe(target: Path) -> Iterator[None]:
    """Say on Ctrl-C what remains of a training that was to leave a file, and how to go on.

    Raises:
        Interrupted: In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        state = target.with_suffix(".unfinished")
        if state.exists():
            safe = f"; what was trained is safe in {state}, and the same command goes on from there"
        elif target.exists():
            safe = f" when the training was done; {target} is whole"
        else:
            safe = f" before anything was saved in {target.parent}"
        raise Interrupted(f"interrupted{safe}") from None


def resumption(step: int) -> dict[str, Any]:
    """Return what a record says of a training that goes on after so many steps."""
    surroundings = {"threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    return {"step": step, **surroundings}
