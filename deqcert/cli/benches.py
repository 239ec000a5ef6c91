"""The commands under ``deqcert bench``: without a name it measures starts and depths."""

from __future__ import annotations

import importlib
from typing import Any

import click

MORE = ("cell", "forms", "solvers")


class Benches(click.Group):
    """A group with a command of its own for everything that does not begin with a name.

    Args:
        default: That command.
    """

    def __init__(self, default: click.Command, **options: Any) -> None:
        super().__init__(**options)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command's name where none is given."""
        if not args or args[0] not in (self.default.name, *MORE):
            args = [str(self.default.name), *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names there are."""
        return [str(self.default.name), *MORE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``deqcert.cli.bench_<name>`` and return its ``command``."""
        if cmd_name not in MORE:
            return self.default
        found = importlib.import_module(f"deqcert.cli.bench_{cmd_name}").command
        assert isinstance(found, click.Command)
        return found
