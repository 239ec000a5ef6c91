"""``deqcert safety-case``: what runs prove, for whoever must answer for a model."""

from __future__ import annotations

import click

from deqcert.cli.fields import FILLED


@click.command(short_help="Claims, evidence and model card of runs; verify them.")
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option(
    "--out", type=FILLED, metavar="DIR", help="Folder of the case; it must be new or empty."
)
@click.option(
    "--license",
    "licence",
    type=FILLED,
    default="unknown",
    show_default=True,
    metavar="ID",
    help="Licence of the model, as model cards name it, such as mit.",
)
@click.option("--verify", type=FILLED, metavar="DIR", help="Verify a case instead of making one.")
def command(runs: tuple[str, ...], out: str | None, licence: str, verify: str | None) -> None:
    """Make a safety case of finished runs of one model, or verify one.

    RUN is a folder of deqcert certify, attack or conformal, or the record that deqcert train leaves
    beside a checkpoint (digits stands for its own); others are kept without a claim. The case holds
    copies of them, a table of claims over items of the NIST AI RMF with the evidence for
    each, what is not claimed, a model card, a bill of materials (CycloneDX) and checksums. To
    verify computes every checksum and every figure again; each fault is a sentence, and the exit
    code is 1.
    """
    from deqcert.errors import ConfigError

    if verify is not None:
        if runs or out is not None:
            raise ConfigError("--verify takes the folder of a case alone; leave RUN and --out out")
        _verify(verify)
        return
    if out is None:
        raise ConfigError("no folder is given for the case; give one with --out")
    from deqcert.safety_case import write_case

    case = write_case(runs, out, licence)
    for item, claims in case.rows:
        said = "1 claim" if len(claims) == 1 else f"{len(claims)} claims"
        print(f"{item.name}: {said if claims else 'no evidence given'}")
    print(f"safety case: {out}\npage: {out}/index.html")


def _verify(folder: str) -> None:
    from deqcert.safety_case import verify_case

    found = verify_case(folder)
    if found.faults:
        for fault in found.faults:
            print(f"FAULT: {fault}.")
        raise click.exceptions.Exit(1)
    print(f"verified: {found.files} files and {found.claims} claims of {folder}")
    print(f"SHA-256 of its SHA256SUMS: {found.sha256}")
