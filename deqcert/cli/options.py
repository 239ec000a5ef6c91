"""The options that several commands share: the settings, files that hold some, and old names."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from deqcert.api import SmoothedClassifier
from deqcert.cli.fields import FILLED, Decorator, options_from
from deqcert.errors import ConfigError
from deqcert.files import read_regular
from deqcert.models.reading import parse_yaml
from deqcert.options import LARGEST_SIZE, LARGEST_WHOLE, Option, options_of, split_pairs
from deqcert.presets import PRESETS
from deqcert.registry import nearest
from deqcert.settings import Data

MAPPINGS = {
    "solver_options": ("--solver-option", "An option of the solver, for instance damping=0.8"),
    "method_options": ("--method-option", "An option of the method, where it has some"),
}
"""Settings that are mappings, and the repeatable option that each is on the command line."""


def settings_options(
    *,
    skip: Sequence[str] = (),
    data: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    model: bool = True,
) -> Decorator:
    """Give a command the model, settings, and files and presets that hold settings.

    Args:
        skip: Settings that the command does not have.
        defaults: Other defaults of some settings, in this command.
        data: Default of ``--images`` for a command that works on a data set; None for none.
        model: Whether there is ``--model``; a command whose argument is the model has none.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, (called, about) in MAPPINGS.items():
            if name not in skip:
                command = _pairs(called, name, about)(command)
        command = options_from(SmoothedClassifier, skip=skip, defaults=defaults)(command)
        if data is not None:
            command = options_from(Data, defaults={"images": data})(command)
        for option in reversed(_SETTINGS):
            command = option(command)
        return model_options(command) if model else config_option(command)

    return decorate


def _pairs(called: str, name: str, about: str) -> Decorator:
    """Make a repeatable option KEY=VALUE; the command gets a mapping to texts."""
    return click.option(
        called,
        name,
        multiple=True,
        metavar="KEY=VALUE",
        callback=lambda context, parameter, given: split_pairs(called, given),
        help=f"{about}; may be repeated.",
    )


def _take_preset(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        _defaults(context, 2, PRESETS.get(name).settings)


def _take_file(context: click.Context, parameter: click.Parameter, file: str | None) -> None:
    if file is None:
        return
    content = read_settings(Path(file))
    if "MODEL" in content:  # what --config named until 0.1: a model's configuration
        print(
            "deqcert: note: a model's configuration is given with --model-config now; --config "
            "takes settings of deqcert itself",
            file=sys.stderr,
        )
        content = {"model_config": file}
    preset = content.pop("preset", None)
    if preset is not None:
        _defaults(context, 0, PRESETS.get(str(preset)).settings)
    _defaults(context, 1, content)


def take_settings(context: click.Context, values: Mapping[str, Any]) -> None:
    """Put values under all that files, presets and the command line say.

    Args:
        context: Of a command with :func:`settings_options`, while its eager parameters are read.
        values: Values of settings by name.
    """
    _defaults(context, -1, values)


def _defaults(context: click.Context, layer: int, values: Mapping[str, Any]) -> None:
    """Put values under what the command line says, and over those of lower layers.

    The preset that a file names is the lowest, then come the file's own values, then a preset that
    was given beside it.
    """
    known = {parameter.name for parameter in context.command.params}
    given = {
        key: [f"{k}={v}" for k, v in value.items()] if key in MAPPINGS else value
        for key, value in values.items()
        if key in known
    }
    layers = context.meta.setdefault("deqcert.layers", {})
    layers[layer] = given
    context.default_map = {key: v for at in sorted(layers) for key, v in layers[at].items()}


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings from a YAML, TOML or JSON file, or from the manifest of a run.

    Args:
        path: The file; its keys are those of :class:`deqcert.SmoothedClassifier` and
            :class:`deqcert.settings.Data`, and ``preset``. A model's
            own YAML configuration is returned as it is.

    Raises:
        ConfigError: If it cannot be read, is no mapping, or has a key that means nothing.
    """
    import yaml

    try:
        text = read_regular(path).decode("utf-8-sig")
        content = tomllib.loads(text) if path.suffix == ".toml" else parse_yaml(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); give another --config") from None
    except (ValueError, yaml.YAMLError, RecursionError):  # ValueError: TOML's, encodings', dates'
        raise ConfigError(
            f"{path} is neither YAML nor TOML; write one setting per line, as in n: 10000"
        ) from None
    if isinstance(content, dict) and content.get("format") == "deqcert-run":
        notes = content.get("notes")
        content = notes.get("settings") if isinstance(notes, dict) else None
        if content is None:
            raise ConfigError(f"{path} is of an older run, which did not record its settings")
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings; write one per line, as in n: 10000")
    if "MODEL" in content:
        return content
    known = {"preset", *SmoothedClassifier.__dataclass_fields__, *options_of(Data)}
    for key in content:
        if key not in known:
            hint = nearest(str(key), known)
            raise ConfigError(
                f"{path}: there is no setting '{key}'; "
                + (f"did you mean {hint}?" if hint else "deqcert certify --help lists all")
            )
        if key in MAPPINGS and not isinstance(content[key], dict):
            raise ConfigError(f"{path}: {key} must be a mapping, as in {{damping: 0.8}}")
    return content


config_option = click.option(
    "--model-config",
    type=FILLED,
    metavar="FILE",
    help="The checkpoint's YAML configuration; default: the .yaml beside it.",
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a checkpoint and its configuration."""
    checkpoint = click.option(
        "--model",
        type=FILLED,
        default="digits",
        show_default=True,
        metavar="NAME|FILE",
        help="Checkpoint of the MDEQ-Vision family, or digits: the one that is shipped.",
    )
    return checkpoint(config_option(command))


radii_option = click.option(
    "--radii", metavar="R,R,...", help="Radii of the table; default: 0,0.25,..."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print for machines.")
labels_option = click.option(
    "--labels",
    type=FILLED,
    metavar="FILE",
    help="For a service: lines of an answer's id, a tab and its true class, as they become known; "
    "if not given, what its clients told it.",
)


def quiet_option(printed: str = "the table") -> Decorator:
    """Give a command ``--quiet``, and say what it still prints."""
    return click.option("--quiet", is_flag=True, help=f"Print {printed} only.")


_SETTINGS: tuple[Decorator, ...] = (
    click.option(
        "--config",
        type=FILLED,
        is_eager=True,
        expose_value=False,
        callback=_take_file,
        metavar="FILE",
        help="Settings from a YAML or TOML file, or those of a run from its manifest.json; "
        "options given here override them.",
    ),
    click.option(
        "--preset",
        is_eager=True,
        expose_value=False,
        callback=_take_preset,
        metavar=f"[{'|'.join(PRESETS.names())}]",
        help="Settings by name: "
        + "; ".join(f"{name}: {PRESETS.get(name).summary}" for name in PRESETS.names())
        + ". Options override them.",
    ),
)


def say(note: str | None) -> None:
    """Print a note for whoever reads the results on standard error; nothing for None."""
    if note is not None:
        print(f"deqcert: note: {note}", file=sys.stderr)


def parse_numbers(
    option: str, text: str, *, whole: bool = False, low: float = 0.0, example: str = "0,0.25,0.5"
) -> list[Any]:
    """Read numbers with commas between.

    Args:
        option: What to call them in a sentence.
        text: What was given.
        whole: Whether only whole numbers are taken.
        low: Smallest one.
        example: What would work.

    Raises:
        ConfigError: If one is no number, infinite, or below ``low``.
    """
    each = Option("int" if whole else "float", None, low=low)
    try:
        return [each.parse(part, option) for part in text.split(",")]
    except ConfigError:
        kind = "whole numbers" if whole else "numbers"
        largest = LARGEST_WHOLE if whole else LARGEST_SIZE
        raise ConfigError(
            f"{option} is {text[:80]!r}, but it must be {kind} from {low:g} with commas between, "
            f"as in {example}, none above {largest:g}"
        ) from None


def parse_radii(text: str | None) -> list[float] | None:
    """Read radii with commas between; None stays None.

    Raises:
        ConfigError: If one is not a number from 0.
    """
    return None if text is None else [float(r) for r in parse_numbers("radii", text)]
