"""``deqcert certify``: certificates for images, in a run folder that can be continued."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from deqcert.api import SmoothedClassifier
from deqcert.certifiers import CERTIFIERS
from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import parse_radii, quiet_option, radii_option, say, settings_options
from deqcert.data import LOADERS
from deqcert.errors import ConfigError, DeqcertError
from deqcert.scale.shard import Shard
from deqcert.settings import Sharding


class WithMethods(click.Command):
    """A command whose help ends with the methods, each in the words of its own docstring."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the methods."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, _summary(name)) for name in CERTIFIERS])


def _summary(name: str) -> str:
    try:
        return CERTIFIERS.get(name).summary()
    except DeqcertError as error:  # somebody's plugin
        return str(error)


def _refuse_two_alphas(context: click.Context) -> None:
    given = context.get_parameter_source("alpha") is ParameterSource.COMMANDLINE
    if given and context.params["alpha_total"] is not None:
        raise ConfigError("--alpha and --alpha-total are two ways to say one thing; give one")


def _seed_advice(context: click.Context, smooth: SmoothedClassifier, data: str) -> str | None:
    """Propose a secret seed for images that anybody may have chosen; None where it was thought of.

    Published images were there before the seed, and a public seed lets everybody repeat a run.
    """
    name = data.partition(":")[0]
    if context.get_parameter_source("seed") is not ParameterSource.DEFAULT:
        return None
    if not smooth.certifier.noise or name not in LOADERS or LOADERS.get(name).published:
        return None
    return (
        "certificates hold for images that do not depend on the seed; if whoever chose these may "
        "have known it, give --seed random"
    )


@click.command(
    cls=WithMethods, short_help="Certify images; started again, it goes on where it stopped."
)
@settings_options(data=":")
@click.option(
    "--out", type=FILLED, metavar="DIR", help="The run folder; default: runs/MODEL-METHOD-sigmaS."
)
@click.option(
    "--keep-votes",
    is_flag=True,
    help="Keep the votes sample by sample in the run folder, for deqcert recertify; of a run that "
    "was made without, too.",
)
@options_from(Sharding)
@radii_option
@quiet_option()
def command(
    data: str,
    split: str,
    images: str,
    out: str | None,
    keep_votes: bool,
    shard: Shard | None,
    workers: int | None,
    ray: str | None,
    radii: str | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Certify images: a class and a radius within which it cannot change.

    For each image it finds a class and a radius within which the smoothed classifier cannot
    answer another class; the answer is wrong with probability at most alpha. Results are appended
    to a run folder. The same command given again continues a run that was stopped, and one that
    is finished prints its table.
    """
    from deqcert.report import table

    asked = parse_radii(radii)
    _refuse_two_alphas(click.get_current_context())
    smooth = SmoothedClassifier(**settings)
    results = smooth.certify_dataset(
        data,
        split=split,
        images=images,
        out=out,
        shard=shard,
        workers=workers,
        ray=ray,
        radii=asked,
        progress=not quiet,
        note=say,
        advice=_seed_advice(click.get_current_context(), smooth, data),
        keep_votes=keep_votes,
    )
    folder = smooth.folder(out, shard)
    print(table([results], asked or smooth.goal_radii).text())
    print(f"run folder: {folder}\ncurve: {folder / 'curve.png'}")
