"""``deqcert fit-latent``: a Gaussian head on the latents of a model."""

from __future__ import annotations

import json
from typing import Any

import click

from deqcert.cli.fields import options_from
from deqcert.cli.options import quiet_option
from deqcert.settings import Machine
from deqcert.training.latents.config import LatentConfig


@click.command(short_help="Put a Gaussian head on the latents of a model.")
@options_from(LatentConfig)
@options_from(Machine, only=("threads",))
@quiet_option("the checkpoint's path")
def command(threads: int | None, quiet: bool, **given: Any) -> None:
    """Fit a Gaussian per class to a model's latents, and save the model with that head.

    What comes out is a model like any other: certify it with --method latent or lipschitz where its
    encoder is proven, and with noise everywhere. With --features it is a head alone, for latents
    that another encoder has made.
    """
    from deqcert.compose import prepare_process
    from deqcert.training.latents import fit_latent

    prepare_process(threads)
    path = fit_latent(LatentConfig(**given))
    if not quiet:
        _tell(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["measured"])
    print(f"{'checkpoint' if given['features'] is None else 'head'}: {path}")


def _tell(found: dict[str, Any]) -> None:
    own, lipschitz = found.get("accuracy_of_own_readout"), found.get("lipschitz")
    classes = found["normality"]
    against = sum(row["two_sample"] < 0.01 for row in classes)
    print(
        f"{100 * found['accuracy']:.1f}% of {found['held_out']} held-out latents are right"
        + ("" if own is None else f" (with the model's own last layer {100 * own:.1f}%)")
        + f"; the mixture predicts {100 * found['curves']['predicted'][0]:.1f}%\n"
        + (
            "radii are of latents: what made these is not known\n"
            if "lipschitz" not in found
            else "no Lipschitz constant of this encoder is proven; certify the head with noise\n"
            if lipschitz is None
            else f"proven Lipschitz constant of the encoder: {lipschitz:.4g} per pixel unit\n"
        )
        + f"a two-sample test tells held-out latents from the fit in {against} of {len(classes)} "
        f"classes (p < 0.01); estimated divergence {found['gap_estimate']:.3g} nats, no bound"
    )
