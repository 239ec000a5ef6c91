"""Start policies by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deqcert.registry import Registry

if TYPE_CHECKING:
    from deqcert.starts.base import StartPolicy
    from deqcert.starts.file import StartFile

STARTS: Registry[type[StartPolicy]] = Registry(
    "start policy",
    {
        "cold": "deqcert.starts.cold:Cold",
        "previous": "deqcert.starts.previous:Previous",
        "mean": "deqcert.starts.mean:Mean",
        "clean": "deqcert.starts.clean:Clean",
        "learned": "deqcert.starts.learned:Learned",
    },
    plural="starts",
)


def start_names() -> tuple[str, ...]:
    """Return the names that :func:`get_start` knows: of those that need no file."""
    return tuple(name for name in STARTS if not STARTS.get(name).takes)


def get_start(name: str) -> StartPolicy:
    """Make the start policy of that name, for any model.

    Raises:
        ConfigError: If there is none, or it needs a file that belongs to a model.
    """
    return make_start(name)[0]


def make_start(
    text: str, *, model: str | Path | None = None, device: str = "cpu"
) -> tuple[StartPolicy, StartFile | None]:
    """Make a start policy from what a user wrote.

    Args:
        text: A name, or ``NAME:FILE`` where the policy takes one, such as ``learned:FILE``.
        model: Checkpoint of the model that it is for: a file or a builtin name; None if the model
            has none.
        device: Where the model runs, as torch names it.

    Returns:
        The policy; and what was tuned together with it, or None.

    Raises:
        ConfigError: If there is none of that name, it takes no file, or it needs a checkpoint.
        CheckpointError: If its file cannot be read or belongs to another model.
    """
    name, _, argument = text.partition(":")
    policy = STARTS.get(name).make(argument, model=model, device=device)
    return policy, policy.tuned
