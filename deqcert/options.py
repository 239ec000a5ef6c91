"""Options declared once: default, type, range and help of a dataclass's fields.

A field is declared with :func:`number`, :func:`text`, :func:`path`, :func:`flag` or
:func:`choice`; the class docstring's ``Args:`` say what it means. From these two places the command
line makes its options and their help, sentences about bad values are made, and the documentation is
written.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from deqcert.docstrings import arguments
from deqcert.errors import ConfigError
from deqcert.registry import Registry, nearest, unknown_name

Kind = Literal["int", "float", "bool", "str", "path"]
REQUIRED: Any = dataclasses.MISSING
"""In place of a default: there is none, something must be given."""

LARGEST_WHOLE = 2**31 - 1
"""Largest whole number of an option that has no limit of its own: what arrays can be counted in."""

SMALLEST_SIZE, LARGEST_SIZE = 1e-30, 1e30
"""How near to 0 a number that is not 0 may be, and how large one that has no limit of its own: what
float32, in which models compute, holds with its small multiples."""

_KEY = "deqcert.option"
_KNOWN: WeakKeyDictionary[type[Any], Mapping[str, Option]] = WeakKeyDictionary()
_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True)
class Option:
    """What may be given for one field.

    Attributes:
        kind: Type of a value.
        default: Value where nothing is given; REQUIRED where something must be given.
        low: Smallest number, or None for any.
        high: Largest number, or None for any.
        low_open: Whether ``low`` itself is excluded.
        high_open: Whether ``high`` itself is excluded.
        choices: Words to choose from, asked for when they are needed; None for any.
        also: Words that may be given in place of a number.
        words: Words that a value begins with, such as names of data sets, for help and completion;
            None where there are none.
        optional: Whether None may be given, too.
        metavar: What help calls a value, such as "DIR"; None for the kind's own word.
        convert: What text is made into, with what it raises; anything but text passes as it is.
        name: Name of the field.
        help: What it means, from the class docstring.
    """

    kind: Kind
    default: Any
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    choices: Callable[[], Sequence[str]] | None = None
    also: Sequence[str] = ()
    words: Callable[[], Sequence[str]] | None = None
    optional: bool = False
    metavar: str | None = None
    convert: Callable[[str], Any] | None = None
    name: str = ""
    help: str = ""

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is REQUIRED

    def range(self) -> str:
        """Say what may be given, as in "a whole number from 1"."""
        if self.choices is not None:
            return "one of " + ", ".join(self.choices())
        if self.kind == "bool":
            return "true or false"
        if self.kind in ("str", "path"):
            return "text, not empty" if self.kind == "str" else "the path of a file or folder"
        words = "a whole number" if self.kind == "int" else "a number"
        return " or ".join((f"{words} {self.bounds()}".rstrip(), *self.also))

    def bounds(self) -> str:
        """Say between which numbers a value must be, as in "from 0 to below 1"; "" for any."""
        words = []
        if self.low is not None:
            words.append(f"{'above' if self.low_open else 'from'} {_shown(self.low)}")
        if self.high is not None:
            words.append(f"{'to below' if self.high_open else 'to'} {_shown(self.high)}")
        return " ".join(words)

    def check(self, value: Any, label: str | None = None) -> Any:
        """Return a value that is of the kind and in range, as the kind's own type.

        NumPy numbers are taken for what they are; text is not taken for a number.

        Args:
            value: What was given.
            label: What to call it in the sentence; the field's name if not given.

        Raises:
            ConfigError: If it is of another type or out of range.
        """
        if value is None and self.optional:
            return None
        if isinstance(value, str) and value in self.also:
            return value
        if self.convert is not None:
            return self.convert(value) if isinstance(value, str) else value
        if self.choices is not None and isinstance(value, str) and value not in self.choices():
            raise ConfigError(self._refusal(value, label))
        if self.kind == "str":
            if isinstance(value, (str, os.PathLike)) and os.fspath(value) not in ("", b""):
                return os.fsdecode(value)
        elif self.kind == "path":
            if isinstance(value, (str, os.PathLike)) and os.fspath(value) not in ("", b""):
                return Path(os.fsdecode(value))
        elif self.kind == "bool":
            if isinstance(value, bool):
                return value
        elif not isinstance(value, (bool, str, bytes)):
            number = _number(value, whole=self.kind == "int")
            if number is not None and self._inside(number):
                if more := self._beyond(number):
                    raise ConfigError(self._refusal(value, label, more))
                return number
        raise ConfigError(self._refusal(value, label))

    def parse(self, text: str, label: str | None = None) -> Any:
        """Read a value from text, as a command line or a file gives it.

        Args:
            text: What was given.
            label: What to call it in the sentence; the field's name if not given.

        Raises:
            ConfigError: If it is not of the kind or out of range.
        """
        value: Any = text
        if text.strip() in self.also:
            return text.strip()
        if self.optional and text.strip().lower() == "none":
            return None
        if self.kind == "bool":
            value = _WORDS.get(text.strip().lower(), text)
        elif self.kind in ("int", "float"):
            value = parse_number(text, whole=self.kind == "int")
            if value is None:
                raise ConfigError(self._refusal(text, label))
        return self.check(value, label)

    def _inside(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        below = self.high is None or (value < self.high if self.high_open else value <= self.high)
        return above and below

    def _beyond(self, value: float) -> str:
        """Say what is wrong with the size of a number that is in range; "" for nothing."""
        largest = LARGEST_SIZE if self.kind == "float" else LARGEST_WHOLE
        if self.high is None and abs(value) > largest:
            return f", and at most {_shown(largest)}"
        if self.kind == "float" and 0 < abs(value) < SMALLEST_SIZE:
            return f", and not as near to 0 as {_shown(SMALLEST_SIZE)}"
        return ""

    def _refusal(self, value: Any, label: str | None, more: str = "") -> str:
        try:
            shown = repr(value) if not isinstance(value, float) else f"{value:g}"
        except ValueError:  # Python writes no number of thousands of digits
            shown = "a number of very many digits"
        says = f"{label or self.name} is {shown[:80]}, but it must be {self.range()}{more}"
        if self.choices is not None and isinstance(value, str):
            near = nearest(value, self.choices())
            if near:
                return f"{says}; did you mean {near}?"
        return f"{says}."


def number(
    default: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    whole: bool | None = None,
    also: Sequence[str] = (),
    metavar: str | None = None,
) -> Any:
    """Declare a field that is a number.

    Args:
        default: Value where nothing is given; None makes the field optional.
        low: Smallest value.
        high: Largest value.
        above: Instead of ``low``: what it must exceed.
        below: Instead of ``high``: what it must stay below.
        whole: Whether it is a whole number; as the default is, if not given.
        also: Words that may be given in place of a number.
        metavar: What help calls a value.
    """
    if whole is None:
        whole = isinstance(default, int)
    return _declare(
        Option(
            "int" if whole else "float",
            default,
            low=low if above is None else above,
            high=high if below is None else below,
            low_open=above is not None,
            high_open=below is not None,
            optional=default is None,
            also=tuple(also),
            metavar=metavar,
        )
    )


def text(
    default: str | None,
    *,
    metavar: str | None = None,
    words: Registry[Any] | Callable[[], Sequence[str]] | None = None,
    convert: Callable[[str], Any] | None = None,
) -> Any:
    """Declare a field that is any text; None makes it optional, REQUIRED mandatory.

    Args:
        default: Value where nothing is given.
        metavar: What help calls a value.
        words: Where the words are that a value begins with, as in digits or mnist:DIR.
        convert: What text is made into, such as an object that a small language describes.
    """
    return _declare(
        Option(
            "str",
            default,
            words=words.names if isinstance(words, Registry) else words,
            optional=default is None,
            metavar=metavar,
            convert=convert,
        )
    )


def path(default: Path | None, *, metavar: str = "FILE") -> Any:
    """Declare a field that is the path of a file ("FILE") or a folder ("DIR").

    None makes it optional, REQUIRED mandatory.
    """
    return _declare(Option("path", default, optional=default is None, metavar=metavar))


def flag(default: bool) -> Any:
    """Declare a field that is true or false."""
    return _declare(Option("bool", default))


def choice(
    default: str | None,
    words: Iterable[str] | Registry[Any],
    *,
    also: Sequence[str] = (),
    metavar: str | None = None,
) -> Any:
    """Declare a field that is one of a few words.

    Args:
        default: Value where nothing is given.
        words: The words, or the registry whose names they are.
        also: Further words.
        metavar: What help calls a value.
    """
    names = words if isinstance(words, Registry) else tuple(words)

    def choices() -> Sequence[str]:
        return (*also, *names)

    return _declare(
        Option("str", default, choices=choices, optional=default is None, metavar=metavar)
    )


def options_of(kind: type[Any]) -> Mapping[str, Option]:
    """Return the options of a dataclass by name, with their help.

    Args:
        kind: A dataclass; fields that are not declared as options are left out.
    """
    known = _KNOWN.get(kind)
    if known is not None:
        return known
    meanings: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        meanings |= arguments(parent.__doc__ or "")
    _KNOWN[kind] = {
        field.name: dataclasses.replace(
            field.metadata[_KEY], name=field.name, help=meanings.get(field.name, "")
        )
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    }
    return _KNOWN[kind]


def check_options(given: Any, prefix: str = "") -> None:
    """Check every declared field of a dataclass object; call it from ``__post_init__``.

    Values are brought to their own types (a NumPy integer becomes an int, 1 becomes 1.0).

    Args:
        given: The object, frozen or not.
        prefix: What comes before a field's name in a sentence.

    Raises:
        ConfigError: If a value is of another type or out of range.
    """
    for name, option in options_of(type(given)).items():
        value = getattr(given, name)
        object.__setattr__(given, name, option.check(value, f"{prefix}{name}"))


def split_pairs(what: str, pairs: Sequence[str], example: str = "damping=0.8") -> dict[str, str]:
    """Split KEY=VALUE pairs.

    Args:
        what: What a pair is called in sentences, as in "solver option".
        pairs: The pairs.
        example: One that would work.

    Raises:
        ConfigError: If a pair has no value, or its key is given twice.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"{what} {pair!r} must read KEY=VALUE, as in {example}.")
        if key in values:
            raise ConfigError(f"{what} {key} is given twice; give it once.")
        values[key] = value
    return values


def parse_pairs(what: str, pairs: Sequence[str], known: Mapping[str, Option]) -> dict[str, Any]:
    """Read KEY=VALUE pairs as values of options.

    Args:
        what: What a pair is called in sentences, as in "solver option".
        pairs: The pairs.
        known: The options that there are, by key.

    Raises:
        ConfigError: If a pair has no value, its key is unknown or given twice, or its value is
            not of the option's type and range.
    """
    example = next((f"{o.name}={o.default}" for o in known.values()), "name=value")
    return read_options(what, split_pairs(what, pairs, example), known)


def read_options(
    what: str, given: Mapping[str, Any], known: Mapping[str, Option]
) -> dict[str, Any]:
    """Check values by name; those that are text, as of a command line or a file, are read.

    Args:
        what: What one is called in sentences, as in "solver option".
        given: The values.
        known: The options that there are, by name.

    Raises:
        ConfigError: If a name is unknown, or a value is not of the option's type and range.
    """
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(unknown_name(what, key, known))
        read = known[key].parse if isinstance(value, str) else known[key].check
        values[key] = read(value, f"{what} {key}")
    return values


def parse_number(text: str, *, whole: bool) -> float | None:
    """Read a number written in ASCII digits, without underscores; None if it is none.

    Args:
        text: What was given; white space around it is ignored.
        whole: Whether only whole numbers are taken.
    """
    text = text.strip()
    pattern = r"[+-]?[0-9]+" if whole else r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
    if not re.fullmatch(pattern, text) or len(text) > 400:
        return None
    return int(text) if whole else float(text)


def _shown(bound: float) -> str:
    if isinstance(bound, int) and bound >= 2**31 - 1 and (bound + 1).bit_count() == 1:
        return f"2^{bound.bit_length()} - 1"
    return f"{bound:g}"


def _number(value: Any, *, whole: bool) -> float | None:
    """Return a number-like object as int or float; None if it is none."""
    try:
        if whole:
            return int(value.__index__())
        return float(value)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _declare(option: Option) -> Any:
    return dataclasses.field(default=option.default, metadata={_KEY: option})
