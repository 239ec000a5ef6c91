"""The command line: one module per command, loaded only when it is asked for.

Every user error ends as one sentence on standard error and exit code 2; Ctrl-C exits with 130.
Nothing here imports torch before a command needs it, so that ``deqcert --help`` and
``deqcert report`` answer at once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from deqcert import __version__
from deqcert.cli.streams import abandon, prepare
from deqcert.errors import ConfigError, DeqcertError
from deqcert.registry import nearest, unknown_name

COMMANDS = (
    "train",
    "train-start",
    "fit-latent",
    "plan",
    "certify",
    "predict",
    "attack",
    "conformal",
    "serve",
    "replay",
    "report",
    "watch-reference",
    "watch",
    "bench",
    "doctor",
)


# Read when torch loads its threads (GCC's OpenMP). Otherwise a thread that has nothing to do looks
# for more for some milliseconds, and takes the processor from whatever else runs: docs/speed.md.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``deqcert.cli.<name>``, dashes as underscores, and return its ``command``."""
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"deqcert.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one is nearest."""
        unknown = args[0] not in COMMANDS and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:  # completion keeps quiet about it
            raise ConfigError(unknown_name("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    epilog="deqcert COMMAND --help says more about a command.",
)
@click.version_option(__version__, "--version", message="deqcert %(version)s")
def group() -> None:
    """Certify deep equilibrium models: by randomized smoothing, or by proofs without noise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; those of this process if not given.

    Returns:
        0 for success, 2 for a user error (said in one sentence on standard error), 130 after
        Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if completion := os.environ.get("_DEQCERT_COMPLETE"):
        return shell_complete(group, {}, "deqcert", "_DEQCERT_COMPLETE", completion)
    if not prepare():
        return refuse("standard output is closed; send it to a file or to /dev/null")
    try:
        # Not group.main(): it would turn Ctrl-C into a silent Abort and print usage lines.
        with group.make_context("deqcert", given or ["--help"]) as context:
            group.invoke(context)
        sys.stdout.flush()  # here, where a full disk is still a sentence
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return refuse(usage_sentence(error))
    except DeqcertError as error:
        return refuse(str(error))
    except (KeyboardInterrupt, click.Abort) as error:
        refuse(str(error) or "interrupted")
        return 130
    except BrokenPipeError:
        abandon(sys.stdout)  # whoever read it has left
        return 141
    except OSError as error:
        if error.filename is None:
            abandon(sys.stdout)
        return refuse(f"cannot use {error.filename or 'the output'}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _no_memory(error):
            raise
        return refuse("there is not enough memory; give a smaller --batch")
    return 0


def refuse(message: str) -> int:
    """Print one sentence on standard error and return exit code 2."""
    sentence = " ".join(message.split())
    sentence = re.sub(r"\S{300,}", lambda found: f"{found[0][:100]}...{found[0][-20:]}", sentence)
    if not sentence.endswith((".", "?", "!")):
        sentence += "."
    print(f"deqcert: {sentence}", file=sys.stderr)
    return 2


def usage_sentence(error: click.ClickException) -> str:
    """Say in one sentence what is wrong with a command line, with the nearest name there is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "deqcert"
    if isinstance(error, click.NoSuchOption):
        names = [
            name
            for parameter in (context.command.params if context is not None else [])
            for name in parameter.opts
        ]
        near = nearest(error.option_name, [*names, "--help"])
        hint = f"did you mean {near}" if near else "there is none like it"
        return f"there is no option {error.option_name}; {hint} ({command} --help lists all)"
    text = error.format_message()
    return f"{text[0].lower()}{text[1:].rstrip('.')} ({command} --help says more)"


def _no_memory(error: BaseException) -> bool:
    text = str(error).lower()
    signs = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
