"""Options written once: a declared field becomes a command-line option with all that belongs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from deqcert.cli.fields import options_from
from deqcert.errors import ConfigError
from deqcert.options import REQUIRED, check_options, choice, flag, number, options_of, path, text
from deqcert.registry import Registry

METALS: Registry[int] = Registry("metal", {"iron": 26, "silver": 47})


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Args:
        out: Where it goes.
        metal: What is melted.
        heat: Of the oven, in degrees.
        spoon_count: Spoons in it.
        seed: Of the noise.
        share: Of the time.
        shape: Of the mould.
        note: Written on it.
        lid: Whether it is covered.
        fan: Whether air is moved.
        mould: Where the mould is read from.
    """

    out: Path = path(REQUIRED, metavar="DIR")
    metal: str = choice("iron", METALS)
    heat: float = number(200.0, above=0.0)
    spoon_count: int = number(3, low=1)
    seed: int = number(0, low=0, high=2**63 - 1)
    share: float = number(0.5, low=0.0, below=1.0)
    shape: str | None = choice(None, ("round", "square"))
    note: str | None = text(None, metavar="WORDS")
    lid: bool = flag(True)
    fan: bool = flag(False)
    mould: Path | None = path(None)

    def __post_init__(self) -> None:
        check_options(self)


def command(**more: Any) -> tuple[click.Command, list[Recipe]]:
    """A command that makes recipes, and those that it made."""
    made: list[Recipe] = []

    @click.command()
    @options_from(Recipe, **more)
    def cook(**given: Any) -> None:
        made.append(Recipe(**given))

    return cook, made


def run(arguments: list[str], **more: Any) -> tuple[Recipe, str]:
    cook, made = command(**more)
    done = CliRunner().invoke(cook, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return made[0], done.output


def test_nothing_given_is_the_dataclass_s_own_defaults() -> None:
    assert run(["--out", "x"])[0] == Recipe(out=Path("x"))


def test_everything_given_arrives_as_the_field_s_own_type() -> None:
    given = ["--out", "x", "--metal", "silver", "--heat", "1e2", "--spoon-count", "7", "--fan"]
    given += ["--seed", str(2**63 - 1), "--share", "0", "--shape", "square", "--no-lid"]
    made, _ = run([*given, "--note", "hot", "--mould", "m.txt"])
    assert made == Recipe(
        *(Path("x"), "silver", 100.0, 7, 2**63 - 1, 0.0, "square", "hot", False, True),
        mould=Path("m.txt"),
    )
    assert type(made.heat) is float


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--heat", "0"], "--heat is 0, but it must be a number above 0."),
        (["--heat", "nan"], "--heat is 'nan', but it must be a number above 0."),
        (["--spoon-count", "1.5"], "--spoon-count is '1.5', but it must be a whole number from 1."),
        (["--seed", "9" * 350], "must be a whole number from 0 to 2^63 - 1."),
        (["--share", "1"], "--share is 1, but it must be a number from 0 to below 1."),
        (["--metal", "sliver"], "must be one of iron, silver; did you mean silver?"),
        (["--metal", "9"], "--metal is '9', but it must be one of iron, silver."),
        (["--mould", ""], "--mould is '', but it must be the path of a file or folder."),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_range(arguments: list[str], says: str) -> None:
    cook, made = command()
    with pytest.raises(ConfigError) as caught:
        cook.main(["--out", "x", *arguments], standalone_mode=False)
    assert str(caught.value).endswith(says)
    assert not made


def test_help_has_meaning_default_range_and_choices_of_every_field() -> None:
    cook, _ = command()
    shown = " ".join(CliRunner().invoke(cook, ["--help"]).output.split())
    for name, option in options_of(Recipe).items():
        assert option.help and option.help in shown
        assert f"--{name.replace('_', '-')}" in shown
    for part in (
        *("[iron|silver]", "[round|square]", "DIR", "WORDS", "--lid / --no-lid"),
        *("[required]", "[default: 200; above 0]", "[default: 3; from 1]"),
        *("[default: 0; from 0 to 2^63 - 1]", "[default: 0.5; from 0 to below 1]"),
    ):
        assert part in shown, part


def test_a_registered_thing_is_a_choice_at_once_and_completes() -> None:
    cook, _ = command()
    METALS.register("sodium", 11)
    try:
        assert run(["--out", "x", "--metal", "sodium"])[0].metal == "sodium"
        assert "[iron|silver|sodium]" in CliRunner().invoke(cook, ["--help"]).output
        complete = ShellComplete(cook, {}, "cook", "_COOK")
        found = complete.get_completions(["--metal"], "s")
        assert [item.value for item in found] == ["silver", "sodium"]
        assert complete.get_completions(["--out"], "x")[0].type == "dir"
        assert complete.get_completions(["--mould"], "x")[0].type == "file"
    finally:
        METALS.unregister("sodium")


def test_fields_can_be_left_out() -> None:
    skipped = ("out", "fan")
    cook, _ = command(skip=skipped)
    names = {opt for parameter in cook.params for opt in parameter.opts}
    assert not names & {"--out", "--fan"}
    assert len(cook.params) == len(fields(Recipe)) - len(skipped)
    cook, _ = command(only=("heat", "seed"))
    assert [parameter.name for parameter in cook.params] == ["heat", "seed"]


def test_an_old_name_works_with_a_note_and_is_not_shown() -> None:
    old = {"glow": "heat"}
    made, output = run(["--out", "x", "--glow", "9"], old_names=old)
    assert made.heat == 9.0
    assert "note: --glow is called --heat now" in output
    cook, _ = command(old_names=old)
    assert "glow" not in CliRunner().invoke(cook, ["--help"]).output
    with pytest.raises(ConfigError, match="old name of --heat; give --heat alone"):
        cook.main(["--out", "x", "--glow", "9", "--heat", "9"], standalone_mode=False)
    with pytest.raises(ConfigError, match="--glow is -1, but it must be a number above 0"):
        cook.main(["--out", "x", "--glow", "-1"], standalone_mode=False)
    assert "note" not in run(["--out", "x"], old_names=old)[1]
