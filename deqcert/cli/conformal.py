"""The commands under ``deqcert conformal``: calibrate prediction sets, and answer with them."""

from __future__ import annotations

import importlib

import click

BELOW = ("calibrate", "sets")


class Below(click.Group):
    """A group that imports a command's module when the command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names there are."""
        return list(BELOW)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``deqcert.cli.conformal_<name>`` and return its ``command``."""
        if cmd_name not in BELOW:
            return None
        found = importlib.import_module(f"deqcert.cli.conformal_{cmd_name}").command
        assert isinstance(found, click.Command)
        return found


command = Below(
    "conformal",
    short_help="Sets of classes that hold the true one, under perturbations as well.",
    help="Answer with sets of classes that hold the true class as often as is promised, under "
    "every l2 perturbation within a radius.",
)
