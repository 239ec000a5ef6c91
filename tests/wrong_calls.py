"""Command lines that are wrong by construction, made from what the commands say about themselves.

Every option of every command is asked what it takes (its declared range, its choices, the registry
behind it, or the role that :data:`ROLES` gives it), and gets what it does not take.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from deqcert.attacks import ATTACKS
from deqcert.certifiers import CERTIFIERS
from deqcert.cli import COMMANDS, group, main
from deqcert.cli.fields import FieldType
from deqcert.models import ARCHITECTURES, MDEQ
from deqcert.options import LARGEST_SIZE, LARGEST_WHOLE, SMALLEST_SIZE, Option, options_of
from deqcert.presets import PRESETS
from deqcert.solvers import SOLVERS
from deqcert.training import OBJECTIVES, objective_options
from deqcert.watch import Reference, RunSource

NO_TEXT = os.fsdecode(b"\xff\xfe")
"""What an argument that is not in the locale's encoding looks like."""

BASE = {
    "train": "--out new --data npz:data.npz --test-data npz:other.npz --epochs 1 --batch 2",
    "train-start": "--model ok.pth --data npz:data.npz --out new.pth --steps 1 --batch 6 "
    "--tune-images 2",
    "fit-latent": "--model digits --data digits --images 0:200 --out head.pth --max-nfe 3",
    "prune": "--model ok.pth --sparsity 0.5 --out pruned.pth",
    "plan": "--model ok.pth --data npz:data.npz --sigma 0.25 --radii 0.1 --pilot 5 --n 2000",
    "certify": "--model ok.pth --data npz:data.npz --sigma 0.25 --images 0:1 --n 60 --out new",
    "merge": "--out new",
    "recertify": "--depth 3 --audit 40 --images 0:1 --out new",
    "predict": "--model ok.pth --data npz:data.npz --sigma 0.25 --images 0:1 --n 20",
    "attack": "--attack square:steps=1 --n 200 --alpha 0.05 --search 5 --out new",
    "conformal calibrate": "--model ok.pth --data npz:data.npz --sigma 0.25 --images 0:6 --tol 0 "
    "--depth 2 --out new",
    "conformal sets": "--data npz:data.npz --images 6:8 --alpha 0.3 --out new",
    "evaluate": "--data npz:data.npz --sigma 0.25 --images 0:2 --certify-images 1 "
    "--attack-images 1 --attack square:steps=1 --n 60 --votes 5 --tol 0 --depth 2 --out new",
    "serve": "--sigma 0.25 --port 0 --batch 10 --out new",
    "replay": "0123456789abcdef --service served",
    "report": "",
    "watch-reference": "--out made.json --no-clean",
    "watch": "--reference normal.json --state new --delta 0.5 --alarms abstention",
    "safety-case": "--out new",
    "bench starts": "--model ok.pth --data npz:data.npz --sigma 0.25 --images 0:1 --n 50 --n0 10 "
    "--starts cold --depths 1 --tol 0.3 --depth 5 --reference-tol 0.3 --reference-depth 5",
    "bench cell": "--model ok.pth --batch 2 --rounds 1 --form folded",
    "bench forms": "--model ok.pth --batch 2 --rounds 1",
    "bench solvers": "--sizes 8 --batches 1 --rounds 1",
    "doctor": "",
}
"""What makes each command right and small; the files are those of :func:`make_files`."""

ARGUMENTS = {
    "attack": ["run"],
    "conformal sets": ["held"],
    "evaluate": ["ok.pth"],
    "merge": ["shard"],
    "recertify": ["run"],
    "report": ["run"],
    "safety-case": ["run"],
    "serve": ["ok.pth"],
    "watch": ["run"],
    "watch-reference": ["run"],
}

NUMBERS = [
    "",
    " ",
    "x",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "\u0663",
    "0x10",
    "1,5",
    "1e",
    "\u00bd",
]
NUMBERS += ["1" * 500, NO_TEXT, "1 2", "true", "[1]", "1;", "--", "1\n2", "-"]
DEVICES = ["", "gpu", "meta", "tpu", "cuda:99", "cuda:-1", "cuda:99999999999999999999", NO_TEXT]
DEVICES += ["cpu:x", "cpu cpu", "0", "cpu,cpu", "hpu", "vulkan", "x" * 3000, "CPU", "\u0663"]
SLICES = ["", "x", "5:5", "0:9999", "-3", "0:3:0", "0:3:-1", "1:2:3:4", "9" * 20, "0:" + "9" * 20]
SLICES += ["\u0663", NO_TEXT, "1.5", "0:1e1", "a:b", "1" * 500, "0,1"]
GOALS = ["", "best", "radii=", "radii=x", "radii=-1", "radii=1e400", "relative=2", "relative=0"]
GOALS += ["relative", "radii", NO_TEXT, "radii=nan", "radii=0,,1", "relative=1_0", "radii:0", "="]


@dataclass(frozen=True)
class WrongCall:
    """A command line that must be refused.

    Attributes:
        arguments: What follows the program's name.
        why: What is wrong with it.
    """

    arguments: tuple[str, ...]
    why: str


def make_files(folder: Path) -> None:
    """Put a model, data, a finished run and a picture into an empty folder, and things beside."""
    torch.manual_seed(0)
    model = MDEQ(ARCHITECTURES.get("tiny"))
    torch.save(model.state_dict(), folder / "ok.pth")
    (folder / "ok.yaml").write_text(model.config.to_yaml())
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (2, 12, 1, 8, 8), dtype=np.uint8)
    for name, x in zip(("data", "other"), pixels, strict=True):
        np.savez(folder / f"{name}.npz", x=x, y=np.arange(12) % 10)
    Image.fromarray(pixels[0, 0, 0]).save(folder / "picture.png")
    small = "certify --model ok.pth --data npz:data.npz --sigma 0.01 --images 0:1 --n0 10 --n 60"
    run = "--tol 0 --depth 2 --keep-votes --out run --quiet"
    assert main([*small.split(), *run.split()]) == 0
    shard = "--tol 0 --depth 2 --shard 1/1 --out shard --quiet"
    assert main([*small.split(), *shard.split()]) == 0
    small = "conformal calibrate --model ok.pth --data npz:data.npz --sigma 0.01 --images 0:6"
    assert main([*small.split(), "--tol", "0", "--depth", "2", "--out", "held", "--quiet"]) == 0

    parameters = RunSource("run").parameters[0] | {"data_hash": "of other images"}
    Reference(parameters, 0.25, {"abstention": (30, 60)}).write(folder / "normal.json")

    (folder / "empty").write_bytes(b"")
    (folder / "text.txt").write_text("hello\n")
    (folder / "junk").write_bytes(random.Random(0).randbytes(300))
    (folder / "junk.png").write_bytes(random.Random(1).randbytes(300))
    (folder / "zeros").write_bytes(bytes(5000))
    (folder / "cut.pth").write_bytes((folder / "ok.pth").read_bytes()[:9000])
    (folder / "cut.npz").write_bytes((folder / "data.npz").read_bytes()[:700])
    (folder / "deep.yaml").write_text("[" * 5000)
    (folder / "twice.yaml").write_text("a: &a [1, 2]\nb: *c\n")
    (folder / "date.yaml").write_text("n: 2020-13-45\n")
    (folder / "nulls.json").write_text('{"format": null, "parameters": null}')
    (folder / "huge.yaml").write_text(
        (folder / "ok.yaml").read_text().replace("- 16\n", "- 160000000\n")
    )
    for name in ("folder", "hollow"):
        (folder / name).mkdir()
    (folder / "folder" / "theirs").write_text("theirs")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    if os.geteuid() != 0:  # who may read everything
        (folder / "unreadable").write_text("secret")
        (folder / "unreadable").chmod(0)


FILES = ["", "empty", "text.txt", "junk", "zeros", "cut.pth", "cut.npz", "deep.yaml", "twice.yaml"]
FILES += ["date.yaml", "nulls.json", "folder", "hollow", "loop", "pipe", "missing", NO_TEXT, "."]
FILES += ["x" * 300, "ok.pth/below", "/dev/zero", "/dev/full", "picture.png", "junk.png", "a\nb"]
FILES += ["unreadable", "~", "http://localhost/x", "x/" * 2000]
"""No file that is right anywhere but for the picture; each role adds what is right elsewhere."""

_PICTURES = [name for name in FILES if name != "picture.png"]
_CHECKPOINTS = [*FILES, "ok.yaml", "data.npz", "run", "run/manifest.json", "digit", "DIGITS"]
_CONFIGS = [*FILES, "ok.pth", "data.npz", "run", "run/manifest.json", "huge.yaml"]
_SETTINGS = [*FILES, "ok.pth", "data.npz", "run", "run/certificates.tsv"]
_FOLDERS = ["", "ok.yaml", "ok.yaml/x", "/dev/null", "/dev/null/x", "/proc/x", "x" * 300, "pipe"]
_FOLDERS += ["loop", "loop/x"]
_IMAGES = ["a.doc", "a", "", "missing/a.png", "ok.yaml/a.png", "/proc/a.png", "x" * 300 + ".png"]
_IMAGES += ["folder", "/dev/null", "pipe", "hollow/"]
_STARTS = [f"learned:{name}" for name in [*FILES, "ok.pth", "ok.yaml", "data.npz"]]
_STARTS += ["learned", "", "warm", NO_TEXT, "COLD", "cold ", ":", "Learned:x", "mean,cold"]

ROLES: dict[str, Sequence[str]] = {
    "--model": _CHECKPOINTS,
    "--teacher": _CHECKPOINTS,
    "train --init": _CHECKPOINTS,
    "train-start --init": [*FILES, "ok.pth", "ok.yaml", "data.npz"],
    "watch-reference run": [*FILES, "ok.pth", "ok.yaml", "held", "run/manifest.json"],
    "watch-reference --out": [*_FOLDERS, "folder"],
    "watch run": [*FILES, "ok.pth", "ok.yaml", "held", "run/manifest.json"],
    "--reference": [*FILES, "ok.pth", "ok.yaml", "run", "run/manifest.json"],
    "--state": _FOLDERS,
    "--labels": [*FILES, "run"],
    "--alarms": ["", "energy", "abstention,", "Abstention", ",", NO_TEXT, "x" * 500],
    "--model-config": _CONFIGS,
    "train --model": _CONFIGS,  # its name of the last version
    "train-start --config": _CONFIGS,
    "attack --config": _CONFIGS,
    "bench cell --config": _CONFIGS,
    "bench forms --config": _CONFIGS,
    "bench cell --form": ["", "auto", "Folded", "folded,eager", "best", NO_TEXT, "x" * 500],
    "--config": _SETTINGS,
    "train --out": _FOLDERS,
    "train-start --out": [*_FOLDERS, "folder", "ok.pth"],
    "fit-latent --out": [*_FOLDERS, "folder", "ok.pth"],
    "prune --out": [*_FOLDERS, "folder", "ok.pth"],
    "--out": [*_FOLDERS, "folder"],
    "recertify --out": [*_FOLDERS, "folder", "run"],
    "recertify run": [*FILES, "ok.pth", "ok.yaml", "run/manifest.json", "held"],
    "attack --out": [*_FOLDERS, "folder", "run"],
    "--picture": _IMAGES,
    "--html": [name for name in _IMAGES if name not in ("folder", "pipe")] + ["a.htmlx", "folder"],
    "attack run": [*FILES, "ok.pth", "ok.yaml", "run/manifest.json"],
    "merge shards": [*FILES, "ok.pth", "run", "held", "shard/manifest.json"],
    "merge --out": [*_FOLDERS, "folder", "run", "held"],
    "--ray": [""],
    "--shard": ["", "1", "0/1", "2/1", "1/0", "1/2/3", "-1/2", "1 / 2", "a/b", "1/99", NO_TEXT],
    "conformal sets calibration": [*FILES, "ok.pth", "ok.yaml", "run", "held/manifest.json"],
    "serve model": _CHECKPOINTS,
    "serve --host": ["", "x y", "256.1.1.1", "-1", NO_TEXT, "x" * 300, "192.0.2.1"],
    "serve --out": _FOLDERS,
    "serve --keys": [*FILES, "ok.pth", "ok.yaml", "run/manifest.json"],
    "serve --names": [*FILES, "ok.pth", "run/manifest.json"],
    "serve --calibration": [*FILES, "ok.pth", "ok.yaml", "run", "held/manifest.json"],
    "replay id": ["", "x", "0123456789abcdef", NO_TEXT, "x" * 300, "' OR 1=1 --", "*"],
    "replay --service": [*FILES, "ok.pth", "run", "held"],
    "replay --calibration": FILES,
    "conformal sets --out": [*_FOLDERS, "folder", "run", "held"],
    "conformal calibrate --method": ["", "standard", "one_draw", NO_TEXT, "ONE-DRAW", "proven"],
    "conformal calibrate --method-option": ["x", "=", "score=", "score=best", "n=3", NO_TEXT, "=1"],
    "--features": [*FILES, "ok.pth", "ok.yaml", "data.npz", "run"],
    "--votes": [*FILES, "ok.pth", "run/manifest.json", "held"],
    "evaluate models": [*_CHECKPOINTS, "a=", "a=missing", "..=ok.pth", "=ok.pth", "-=ok.pth"],
    "evaluate --run": [*FILES, "ok.pth", "run/manifest.json", "held", "run"],
    "evaluate --parts": [
        "",
        "speed",
        "clean,",
        ",",
        "Clean",
        "clean cost",
        NO_TEXT,
        "ood",
        "all,x",
    ],
    "evaluate --out": [*_FOLDERS, "folder", "run", "held"],
    "report runs": [*FILES, "ok.pth", "ok.yaml", "a=", "a=missing", "=run/x", "="],
    "safety-case runs": [*FILES, "ok.pth", "ok.yaml", "run/manifest.json", "run/certificates.tsv"],
    "safety-case --out": [*_FOLDERS, "folder", "run", "held"],
    "safety-case --license": [],  # any text will do
    "--verify": [*FILES, "ok.pth", "run", "held", "run/manifest.json"],
    "predict files": [*_PICTURES, "ok.pth", "data.npz"],
    "--images": SLICES,
    "--device": DEVICES,
    "--goal": GOALS,
    "--start": _STARTS,
    "--starts": [*_STARTS[:-1], "cold,warm", ",", "cold,,mean"],
    "--preset": ["", "Fast", "nosuch", NO_TEXT, *(f"{name}x" for name in PRESETS.names())],
    "--radii": ["", "a,b", "1,,2", "-1", "nan", "1e400", "1;2", NO_TEXT, ",", "1" * 500, "1e31"],
    "plan --p": ["", "0", "2", "-1", "nan", "a", NO_TEXT, "0.5,", "1e-320", "1.0000001"],
    "--depths": ["", "0", "1.5", "9" * 20, "a", "-1", "1,,2", NO_TEXT, "1e3"],
    "--sizes": ["", "0", "1.5", "9" * 20, "a", "-1", "1,,2", NO_TEXT, "1e3"],
    "--batches": ["", "0", "1.5", "9" * 20, "a", "-1", "1,,2", NO_TEXT, "1e3"],
    "--early": ["", "a", "-1", "nan", "1e-320", "1,,2", NO_TEXT, "1e400"],
    "--tol": ["", "0", "a", "-1", "nan", "1e-320", "1,,2", NO_TEXT, "1e400"],
    "--name": ["", "a/b", ".", "/", "/x", "x" * 300],
    "--title": [],  # any text will do
}
"""What is wrong for an option that does not say so itself, by command and option, or by option."""


def _data(draw: random.Random) -> str:
    place = draw.choice([*FILES, "ok.pth", "ok.yaml", "run"])
    name = draw.choice(
        ["npz", "mnist", "cifar10", "folder", "imagenet", "tiny-imagenet", "nosuch", NO_TEXT, "NPZ"]
    )
    return draw.choice([f"{name}:{place}", f"{name}:{place}", name, place, ""])


def commands() -> dict[str, click.Command]:
    """Return every command by its words, those below others included."""
    context, found = click.Context(group), {}
    for name in COMMANDS:
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                inner = command.get_command(context, below)
                assert inner is not None
                found[f"{name} {below}"] = inner
        elif command is not None:
            found[name] = command
    return found


def wrong_number(option: Option, draw: random.Random) -> str:
    """Return a text that is no number of an option's kind and range."""
    bad = list(NUMBERS)
    if not option.optional:
        bad.append("none")
    if option.kind == "int":
        bad += ["1.5", "1e3", "1.0", str(LARGEST_WHOLE + 1) if option.high is None else "1.5"]
        bad += ["9" * 40, "-" + "9" * 20]
        if option.low is not None:
            bad += [str(int(option.low) - 1), str(-(2**31)), "-1" if option.low >= 0 else "x"]
        if option.high is not None:
            bad.append(str(int(option.high) + 1))
    else:
        bad += [f"{SMALLEST_SIZE / 10:g}", "1e-320", "-1e-320", "4.9e-324", "1e308", "-1e308"]
        bad.append(f"{LARGEST_SIZE * 10:g}")
        if option.low is not None:
            edge = option.low if option.low_open else math.nextafter(option.low, -math.inf)
            bad += [repr(float(edge)), str(option.low - 1), repr(option.low - 1e-9)]
        if option.high is not None:
            edge = option.high if option.high_open else math.nextafter(option.high, math.inf)
            bad += [repr(float(edge)), str(option.high + 1), repr(option.high + 1e-9)]
    return draw.choice(bad)


def wrong_word(words: Sequence[str], draw: random.Random) -> str:
    """Return a text that is none of a few words."""
    word = draw.choice(list(words))
    bad = [
        "",
        f"{word}x",
        word[:-1],
        f"{word} ",
        word.upper(),
        NO_TEXT,
        f"{word},{word}",
        "x" * 500,
    ]
    return draw.choice([text for text in bad if text not in words])


def wrong_pair(options: Mapping[str, Option], draw: random.Random) -> str:
    """Return a text that is no KEY=VALUE for some options."""
    numbers = [name for name, option in options.items() if option.kind in ("int", "float")]
    if numbers and draw.random() < 0.7:
        name = draw.choice(numbers)
        return f"{name}={wrong_number(options[name], draw).replace(',', ';')}"
    return draw.choice(["x", "=", "=1", "nosuch=1", NO_TEXT, f"{NO_TEXT}=1", "KEY=VALUE", "a b=1"])


def wrong_value(
    command: str, parameter: click.Parameter, draw: random.Random
) -> tuple[str, list[str]] | None:
    """Return what a parameter does not take and further arguments; None where it takes all."""
    called = parameter.opts[0]
    options = getattr(parameter.type, "option", None)
    role = ROLES.get(f"{command} {called}")
    if role is None and not (isinstance(options, Option) and options.kind in ("int", "float")):
        role = ROLES.get(called)
    if role is not None:
        return (draw.choice(role), []) if role else None
    if called in ("--data", "--test-data", "--extra", "--ood"):
        return _data(draw), []
    if isinstance(parameter.type, FieldType):
        option = parameter.type.option
        if option.kind in ("int", "float"):
            return wrong_number(option, draw), []
        if option.choices is not None:
            return wrong_word(option.choices(), draw), []
    many: dict[str, Callable[[], tuple[str, list[str]]]] = {
        "--solver-option": lambda: _of("--solver", SOLVERS, draw),
        "--method-option": lambda: _of("--method", CERTIFIERS, draw),
        "--objective-option": lambda: _of("--objective", OBJECTIVES, draw),
        "--solver": lambda: (_named(SOLVERS, draw), []),
        "--attack": lambda: (_named(ATTACKS, draw), []),
    }
    if called in many:
        return many[called]()
    raise AssertionError(f"nothing says what {command} {called} does not take: add it to ROLES")


def _options(registry: object, name: str) -> Mapping[str, Option]:
    if registry is OBJECTIVES:
        return objective_options(name)
    found = registry.get(name)  # type: ignore[attr-defined]
    return found.options if registry is ATTACKS else options_of(found)


def _of(chooser: str, registry: object, draw: random.Random) -> tuple[str, list[str]]:
    name = draw.choice(list(registry))  # type: ignore[call-overload]
    return wrong_pair(_options(registry, name), draw), [f"{chooser}={name}"]


def _named(registry: object, draw: random.Random) -> str:
    names = list(registry)  # type: ignore[call-overload]
    if draw.random() < 0.3:
        return wrong_word(names, draw)
    name = draw.choice(names)
    pair = wrong_pair(_options(registry, name), draw)
    return f"{name}:{pair}" if pair else f"{name}:x"


def wrong_calls(seed: int, count: int, folder: Path) -> Iterator[WrongCall]:
    """Make so many wrong calls.

    Args:
        seed: Of the choices.
        count: How many.
        folder: Where :func:`make_files` was and where they will be made; settings are written
            there.
    """
    draw = random.Random(seed)
    known = commands()
    for number in range(count):
        command = draw.choice([name for name in known if name != "doctor"] * 3 + ["doctor"])
        yield _wrong_call(command, known[command], draw, folder / f"settings-{number}.yaml")


def _wrong_call(
    command: str, made: click.Command, draw: random.Random, settings: Path
) -> WrongCall:
    words = [*command.split()]
    right = [*BASE[command].split(), *ARGUMENTS.get(command, [])]
    flags = [p for p in made.params if getattr(p, "is_flag", False)]
    names = [p.opts[0] for p in made.params if isinstance(p, click.Option)]
    kind = draw.random()
    if kind < 0.03:
        return WrongCall((wrong_word(COMMANDS, draw) or "-", *right), "no such command")
    if kind < 0.06:
        return WrongCall((*words, *right, draw.choice(names) + "x"), "no such option")
    if kind < 0.08 and flags:
        return WrongCall((*words, *right, f"{draw.choice(flags).opts[0]}=1"), "a flag's value")
    valued = [name for name in names if name not in [flag.opts[0] for flag in flags]]
    if kind < 0.10 and valued:
        return WrongCall((*words, *right, draw.choice(valued)), "no value")
    if kind < 0.12 and not any(p.nargs == -1 for p in made.params):
        return WrongCall((*words, *right, "surplus"), "a surplus argument")
    if kind < 0.18 and any(p.name == "preset" for p in made.params):
        return _wrong_settings(words, right, made, draw, settings)
    tried = [(p, wrong_value(command, p, draw)) for p in made.params if p not in flags]
    possible = [(parameter, found) for parameter, found in tried if found is not None]
    if not possible:
        return WrongCall((*words, *right, "--nosuch"), "no such option")
    parameter, (value, more) = draw.choice(possible)
    if isinstance(parameter, click.Argument):
        given = [*BASE[command].split(), *more]
        if command == "predict":
            given = ["--model", "ok.pth", "--sigma", "0.25", "--n", "20"]
        return WrongCall((*words, *given, "--", value), str(parameter.name))
    called = parameter.opts[0]
    return WrongCall((*words, *right, *more, f"{called}={value}"), called)


def _wrong_settings(
    words: list[str], right: list[str], made: click.Command, draw: random.Random, file: Path
) -> WrongCall:
    """Make a file of settings with a wrong value, a wrong kind of value or a wrong name."""
    fields = [
        p for p in made.params if isinstance(p.type, FieldType) and p.name not in _given(right)
    ]
    parameter = draw.choice([p for p in fields if p.type.option.kind in ("int", "float")])
    value = draw.choice(
        ["[1]", "{a: 1}", "x", "2020-01-01", "'-'", ".nan", "-.inf", "!!binary aGk="]
    )
    text = f"{parameter.name}: {value}\n"
    if draw.random() < 0.3:
        text = f"{parameter.name}x: 1\n"
    file.write_text(text)
    return WrongCall((*words, *right, f"--config={file.name}"), text.strip())


def _given(right: list[str]) -> set[str]:
    return {word[2:].replace("-", "_") for word in right if word.startswith("--")}
