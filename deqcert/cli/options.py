"""The options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import click

from deqcert.errors import ConfigError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Source:
    """Which model, which images, and how the machine is used; options of three commands.

    Args:
        model: a builtin name or a checkpoint file.
        config: the checkpoint's YAML configuration, or None to look beside it.
        data: what `deqcert.data.load_dataset` reads.
        split: train or test.
        images: START:STOP[:STEP] or one index.
        sigma: noise in pixel units of [0,1]; None: as in the model's training record.
        batch: noisy copies solved together.
        shape: rows of every evaluation of the model; None: the batch.
        seed: of the noise.
        device: as torch names it.
        threads: CPU threads; None leaves torch's own choice.
        form: how the model is evaluated; "auto": as was measured to be the fastest here.
    """

    model: str
    config: str | None
    data: str
    split: Literal["train", "test"]
    images: str
    sigma: float | None
    batch: int
    shape: int | None
    seed: int
    device: str
    threads: int | None
    form: str


@dataclass(frozen=True)
class Solving:
    """How a cold solve is done.

    Args:
        solver: its name.
        options: its knobs as given, key=value.
        window: shortcut for the knob of that name.
        depth: most cell evaluations.
        tol: relative residual at which a row is done; 0 for exactly `depth` evaluations.
    """

    solver: str
    options: Sequence[str]
    window: int | None
    depth: int
    tol: float


@dataclass(frozen=True)
class Starting:
    """How a solve that casts a vote starts and ends.

    Args:
        start: name of the start policy; learned may have a file: learned:FILE.
        steps: cell evaluations of a chained or learned solve; None: 3, or as the file says.
        early: relative residual at which a solve from an independent start ends; None: at none.
        margin: gap of the logits, in changes of the last step, at which one ends; None: at none.
        warmup: evaluations of the cold batches of a chain; None: as a cold solve.
        refresh: batches between two cold ones; 0: only the first.
    """

    start: str
    steps: int | None
    early: float | None
    margin: float | None
    warmup: int | None
    refresh: int


def source_options(images: str, batch: int = 100) -> Decorator:
    """Add the options of `Source`; the command gets them as ``source``."""
    return _bundle(
        "source",
        Source,
        click.option(
            "--model",
            default="digits",
            show_default=True,
            metavar="NAME|FILE",
            help="Checkpoint of the MDEQ-Vision family, or digits: the one that is shipped.",
        ),
        click.option(
            "--config",
            metavar="FILE",
            help="The checkpoint's YAML configuration; default: the .yaml beside it.",
        ),
        click.option(
            "--data",
            default="digits",
            show_default=True,
            metavar="SPEC",
            help="digits, mnist:DIR, cifar10:DIR, folder:DIR, imagenet:DIR or npz:FILE.",
        ),
        click.option(
            "--split",
            type=click.Choice(["test", "train"]),
            default="test",
            show_default=True,
            help="Which part of the data.",
        ),
        click.option(
            "--images",
            default=images,
            show_default=True,
            metavar="START:STOP[:STEP]",
            help="Which images of it, counted from 0; ':' is all, '7' is one.",
        ),
        click.option(
            "--sigma",
            type=float,
            metavar="S",
            help="Standard deviation of the noise, in pixel units of [0,1]; default: what "
            "the training's record beside the checkpoint says.",
        ),
        click.option(
            "--batch",
            type=int,
            default=batch,
            show_default=True,
            metavar="B",
            help="Noisy copies solved together; also the slots of --start previous.",
        ),
        click.option(
            "--shape",
            type=int,
            metavar="B",
            help="Rows of every evaluation of the model; default: the batch. Fix it to get the "
            "same votes whatever the batch.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of all noise."),
        click.option(
            "--device", default="cpu", show_default=True, help="Where the model runs: cpu or cuda."
        ),
        click.option("--threads", type=int, metavar="T", help="CPU threads; default: torch's own."),
        click.option(
            "--form",
            default="auto",
            show_default=True,
            help="How the model is evaluated: eager, folded, compiled (takes a C++ compiler) or "
            "bfloat16; part of what is certified. auto: what `deqcert bench forms` found to be "
            "the fastest here, or else folded where the model can be.",
        ),
    )


def solving_options() -> Decorator:
    """Add the options of `Solving`; the command gets them as ``solving``."""
    return _bundle(
        "solving",
        Solving,
        click.option(
            "--solver",
            default="anderson",
            show_default=True,
            help="picard, anderson or broyden.",
        ),
        click.option(
            "--solver-option",
            "options",
            multiple=True,
            metavar="KEY=VALUE",
            help="A knob of the solver, for instance damping=0.8; may be repeated.",
        ),
        click.option("--window", type=int, metavar="K", help="Short for --solver-option window=K."),
        click.option(
            "--depth",
            type=int,
            default=30,
            show_default=True,
            metavar="D",
            help="Most cell evaluations of a cold solve.",
        ),
        click.option(
            "--tol",
            type=float,
            default=1e-3,
            show_default=True,
            metavar="T",
            help="Relative residual that ends a cold solve; a sample that does not reach it has "
            "no vote. 0: exactly D evaluations, and every sample votes.",
        ),
    )


def starting_options() -> Decorator:
    """Add the options of `Starting`; the command gets them as ``starting``."""
    return _bundle(
        "starting",
        Starting,
        click.option(
            "--start",
            default="cold",
            show_default=True,
            metavar="NAME",
            help="Where the solve of a noisy copy starts: cold, learned, previous, mean or clean. "
            "learned:FILE names what `deqcert train-start` wrote; alone it is beside the model.",
        ),
        click.option(
            "--steps",
            type=int,
            metavar="S",
            help="Cell evaluations of a solve that does not start cold; default: 3, and with "
            "--start learned the depth that was tuned for it. learned only: 0 for --depth and "
            "--tol.",
        ),
        click.option(
            "--early",
            type=float,
            metavar="R",
            help="Make a solve's first step from a relative residual of at most R its last one; "
            "every copy votes. For cold (in place of --tol) and learned starts.",
        ),
        click.option(
            "--margin",
            type=float,
            metavar="F",
            help="Instead: make a step a solve's last once the two largest logits are further "
            "apart than F times what the step changed in any. For learned starts, whose file holds "
            "what a readout costs.",
        ),
        click.option(
            "--warmup",
            type=int,
            metavar="W",
            help="Cell evaluations of the cold batch that begins a chain; default: a cold solve "
            "as --depth and --tol say.",
        ),
        click.option(
            "--refresh",
            type=int,
            default=0,
            show_default=True,
            metavar="R",
            help="Solve every R-th batch of a chain cold again; 0: only the first.",
        ),
    )


def _bundle(name: str, kind: type, *options: Decorator) -> Decorator:
    """Add options whose values reach the command together, as one dataclass."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        keys = [field.name for field in fields(kind)]

        def wrapped(**given: Any) -> Any:
            values = {key: given.pop(key) for key in keys}
            return command(**given, **{name: kind(**values)})

        wrapped.__doc__ = command.__doc__
        wrapped.__name__ = command.__name__
        wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        decorated: Any = wrapped
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def parse_images(text: str, count: int) -> range:
    """Read a selection of images.

    Args:
        text: START:STOP[:STEP] with parts that may be left out, or one index.
        count: images there are.

    Returns:
        range: the indices, at least one.

    Raises:
        ConfigError: it is not a selection, or it reaches outside the data.
    """
    parts = text.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = [None] * 4
    if len(parts) == 1 and numbers[0] is not None:
        chosen = range(numbers[0], numbers[0] + 1)
    elif len(parts) in (2, 3) and len(numbers) == len(parts):
        start, stop, step = (*numbers, None)[:3]
        step = 1 if step is None else step
        if step < 1:
            raise ConfigError(f"images is {text!r}, but its step must be at least 1")
        chosen = range(0 if start is None else start, count if stop is None else stop, step)
    else:
        raise ConfigError(f"images is {text!r}, but it must read START:STOP[:STEP] or be one index")
    if not chosen:
        raise ConfigError(f"images {text!r} selects no image; STOP must be larger than START")
    if chosen.start < 0 or chosen.stop > count:
        raise ConfigError(
            f"images {text!r} reaches outside the {count} images that there are (0 to {count - 1})"
        )
    return chosen


def parse_knobs(solving: Solving, known: dict[str, Any]) -> dict[str, Any]:
    """Read a solver's knobs, each as the type of its default.

    Args:
        solving: the options as given.
        known: the solver's knobs with their defaults.

    Returns:
        dict: every knob that was given; unknown ones are left for the solver to refuse.

    Raises:
        ConfigError: one has no value, a value of another type, or is given twice.
    """
    knobs = parse_pairs("solver option", solving.options, known)
    if solving.window is not None:
        if "window" in knobs:
            raise ConfigError("the window is given twice; give --window or --solver-option window=")
        knobs["window"] = solving.window
    return knobs


def parse_pairs(what: str, given: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """Read KEY=VALUE pairs, each value as the type of that key's default.

    Args:
        what: what a pair is called, as in "solver option".
        given: the pairs.
        known: the defaults.

    Returns:
        dict: every value that was given; unknown keys are left for others to refuse.

    Raises:
        ConfigError: a key has no value, a value of another type, or is given twice.
    """
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            example = "=".join(map(str, next(iter(known.items()), ("KEY", "VALUE"))))
            raise ConfigError(f"{what} {text!r} must read KEY=VALUE, as in {example}")
        if key in values:
            raise ConfigError(f"{what} {key} is given twice; give it once")
        values[key] = _typed(f"{what} {key}", value, known.get(key))
    return values


def _typed(name: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if value.lower() not in words:
            raise ConfigError(f"{name} is {value!r}, but it must be true or false")
        return words[value.lower()]
    for kind, wanted in ((int, "a whole number"), (float, "a number")):
        if isinstance(default, kind):
            try:
                return kind(value)
            except ValueError:
                raise ConfigError(f"{name} is {value!r}, but it must be {wanted}") from None
    return value


def parse_radii(text: str | None) -> list[float] | None:
    """Read radii, separated by commas.

    Raises:
        ConfigError: one is not a number >= 0.
    """
    if text is None:
        return None
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        radii = [-1.0]
    if not all(0 <= radius < float("inf") for radius in radii):
        raise ConfigError(
            f"radii is {text!r}, but it must be numbers >= 0 with commas between, as in 0,0.25,0.5"
        )
    return radii
