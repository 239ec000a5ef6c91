"""Command-line options made from the declared fields of a dataclass (:mod:`deqcert.options`)."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from deqcert.errors import ConfigError
from deqcert.options import Option, options_of

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_WORDS = {"int": "integer", "float": "number", "bool": "boolean", "str": "text", "path": "path"}


class FieldType(click.ParamType):  # type: ignore[type-arg]  # generic in late versions only
    """The values of a declared option: read, checked, shown in help and completed as it says.

    Args:
        option: The declaration.
        label: What to call it in a sentence about a bad value.
    """

    def __init__(self, option: Option, label: str) -> None:
        self.option, self.label = option, label
        self.name = _WORDS[option.kind]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as the field's own type.

        Raises:
            ConfigError: If it is of another type or out of range.
        """
        if isinstance(value, str):
            return self.option.parse(value, self.label)
        return self.option.check(value, self.label)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """Return the choices, where there are any; click shows the type's name elsewhere."""
        choices = self.option.choices
        return None if choices is None else f"[{'|'.join(choices())}]"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the choices that begin so, or leave files and folders to the shell."""
        if self.option.kind == "path":
            return [CompletionItem(incomplete, type="dir" if self.folder else "file")]
        offered = self.option.choices or self.option.words
        words = () if offered is None else offered()
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    @property
    def folder(self) -> bool:
        """Whether a folder is asked for."""
        return self.option.metavar == "DIR"


class Filled(click.ParamType):  # type: ignore[type-arg]  # generic in late versions only
    """Any text, such as the name of a file, but none that is empty: a variable that was not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text as it is.

        Raises:
            ConfigError: If it is empty.
        """
        if value == "":
            called = "the name" if param is None else param.opts[0]
            raise ConfigError(f"{called} is empty; give a name, or leave the option out.")
        return value


FILLED = Filled()


def options_from(
    kind: type[Any],
    *,
    skip: Collection[str] = (),
    only: Collection[str] | None = None,
    old_names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Decorator:
    """Add one option for each declared field of a dataclass to a command.

    The command gets every value by the field's own name, checked: a bad one ends as one sentence.
    Default, range, choices and help are the declaration's.

    Args:
        kind: The dataclass.
        skip: Fields that get no option.
        only: Fields that get one; all if not given.
        defaults: Other defaults of some fields, in this command.
        old_names: Options of the last version, without the two dashes, and the fields that they
            mean now; see :func:`renamed`.
    """
    fields = {
        name: dataclasses.replace(option, default=(defaults or {}).get(name, option.default))
        for name, option in options_of(kind).items()
        if name not in skip and (only is None or name in only)
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for old, field in (old_names or {}).items():
            command = renamed(old, field, FieldType(fields[field], f"--{old}"))(command)
        for name, option in reversed(fields.items()):
            command = _option(option, _called(name))(command)
        return command

    return decorate


def renamed(old: str, field: str, kind: Any = None) -> Decorator:
    """Let an option of the last version work in this one, with a note on standard error.

    Args:
        old: What it was called, without the two dashes; help does not show it.
        field: The parameter of the command that it means now.
        kind: Type of its values; text if not given.
    """
    key = f"old_{field}_{old.replace('-', '_')}"

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            value = given.pop(key)
            if value is not None:
                given[field] = _renamed(f"--{old}", _called(field), field, value)
            return command(**given)

        return click.option(f"--{old}", key, type=kind, hidden=True)(wrapped)

    return decorate


def _called(field: str) -> str:
    return "--" + field.replace("_", "-")


def _option(option: Option, called: str) -> Decorator:
    if option.kind == "bool":
        switch = f"{called}/--no-{called[2:]}" if option.default else called
        about = _about(option, () if option.default is False else ("on",))
        return click.option(switch, option.name, is_flag=True, default=option.default, help=about)
    notes = []
    if not option.required and option.default is not None:
        shown = option.default
        notes.append(f"default: {shown:g}" if isinstance(shown, float) else f"default: {shown}")
    if option.bounds():
        notes.append(" or ".join((option.bounds(), *option.also)))
    # A default of None would count as given.
    default = {"required": True} if option.required else {"default": option.default}
    return click.option(
        called,
        option.name,
        type=FieldType(option, called),
        **default,
        metavar=option.metavar,
        help=_about(option, notes),
    )


def _about(option: Option, notes: Collection[str]) -> str:
    if option.words is not None:
        notes = (", ".join(option.words()), *notes)
    extra = f"[{'; '.join(notes)}]" if notes else ""
    return "  ".join(part for part in (option.help, extra) if part)


def _renamed(old: str, new: str, field: str, value: Any) -> Any:
    """Say that an option has another name now, and return its value."""
    if click.get_current_context().get_parameter_source(field) is ParameterSource.COMMANDLINE:
        raise ConfigError(f"{old} is the old name of {new}; give {new} alone.")
    print(
        f"deqcert: note: {old} is called {new} now; the old name works in this version only",
        file=sys.stderr,
    )
    return value
