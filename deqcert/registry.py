"""Things by name: what is built in, what a plugin brings, and what a caller registers."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from deqcert.errors import ConfigError, DeqcertError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant, whatever its case; None where none is near."""
    lower = {known.lower(): known for known in words}
    found = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.6)
    return lower[found[0]] if found else None


def unknown_name(what: str, name: str, names: Iterable[str]) -> str:
    """Say that there is nothing of a name, which name was probably meant, and which there are.

    Args:
        what: What it would be, such as "solver".
        name: What was asked for.
        names: What there is.
    """
    there = tuple(names)
    near = nearest(name, there)
    hint = f"did you mean {near}? " if near else ""
    return f"there is no {what} '{name}'; {hint}" + (
        f"there are {', '.join(there)}." if there else "there is none."
    )


def unknown_option(owner: str, name: str, known: Iterable[str]) -> str:
    """Say that something has no option of a name, which was probably meant, and which it has.

    Args:
        owner: What was given the option, such as "solver 'anderson'".
        name: The option.
        known: The options that it has.
    """
    has = ", ".join(known := tuple(known))
    near = nearest(name, known)
    hint = f"did you mean {near}? " if near else ""
    return f"{owner} has no option '{name}'; {hint}it has {has or 'none'}."


def make_named(registry: Registry[type[T]], name: str, options: Mapping[str, Any]) -> T:
    """Make an object of a registered dataclass.

    Args:
        registry: Where the class is.
        name: Its name there.
        options: Values of its fields.

    Raises:
        ConfigError: If there is no such class, it has no such field, or a value is out of range.
    """
    kind = registry.get(name)
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise ConfigError(unknown_option(f"{registry.kind} '{name}'", option, known))
    return kind(**options)


class Registry(Generic[T]):
    """Named things of one kind, each imported when it is first asked for.

    Other packages add theirs without being imported either, through an entry point of the group
    ``deqcert.<plural>`` (``[project.entry-points."deqcert.solvers"]``); a program adds its own
    with :meth:`register`.

    Args:
        kind: What one of them is called, in sentences.
        entries: Name to thing, or to where it is: ``"package.module:attribute"``.
        plural: Last part of the entry points' group; the default is the kind with an s.
        error: What is raised for a name that is not there.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, str | T],
        *,
        plural: str | None = None,
        error: type[DeqcertError] = ConfigError,
    ) -> None:
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self._error = error
        self._entries: dict[str, Any] = dict(entries)

    def names(self) -> tuple[str, ...]:
        """Return every name: built in first, then registered, then from entry points."""
        return tuple(dict.fromkeys((*self._entries, *self._plugins)))

    def get(self, name: str) -> T:
        """Return the thing of that name.

        Raises:
            ConfigError: If there is none, with the nearest name; or if a plugin cannot be imported.
        """
        if name not in self._entries:
            if name not in self._plugins:
                raise self._error(self.unknown(name))
            try:
                self._entries[name] = self._plugins[name].load()
            except Exception as error:  # whatever the other package's import raises
                raise self._error(
                    f"{self.kind} '{name}' comes from a plugin that cannot be imported ({error}); "
                    "repair or uninstall it."
                ) from error
        found = self._entries[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return cast(T, found)

    def register(self, name: str, thing: T, *, replace: bool = False) -> T:
        """Add a thing under a name, and return it.

        Args:
            name: What it will be asked for by.
            thing: What :meth:`get` will return.
            replace: Whether it may take the place of another.

        Raises:
            ConfigError: If the name is taken and ``replace`` is False, or cannot be typed.
        """
        if not name or name != name.strip() or ":" in name or "," in name:
            raise self._error(
                f"{name!r} cannot be the name of this {self.kind}; use letters, digits and dashes."
            )
        if name in self and not replace and not self.announced(name, thing):
            raise self._error(
                f"{self.kind} '{name}' exists already; take another name, or replace=True."
            )
        self._entries[name] = thing
        return thing

    def announced(self, name: str, thing: T) -> bool:
        """Whether this is what an entry point of the thing's own package brings, not loaded yet.

        A module can then register what its package announces, as a decorated class does.
        """
        if name in self._entries or name not in self._plugins:
            return False
        home = getattr(thing, "__module__", "").partition(".")[0]
        return self._plugins[name].module.partition(".")[0] == home

    def unregister(self, name: str) -> None:
        """Forget what was registered under a name; nothing happens where there is none."""
        self._entries.pop(name, None)

    def unknown(self, name: str) -> str:
        """Say that there is nothing of that name, and what is nearest."""
        return unknown_name(self.kind, name, self.names())

    def __contains__(self, name: object) -> bool:
        """Whether there is something of that name."""
        return name in self._entries or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        """Yield every name."""
        return iter(self.names())

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self.names())

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        from importlib.metadata import entry_points  # takes longer to import than all else here

        found = entry_points(group=f"deqcert.{self.plural}")
        return {point.name: point for point in found if point.name not in self._entries}
