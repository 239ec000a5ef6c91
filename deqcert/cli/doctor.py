"""``deqcert doctor``: what is installed, and which kernels are live."""

from __future__ import annotations

import click

from deqcert.cli.options import json_option


@click.command(short_help="Which kernels are live and why, versions, cores, GPU, loaders.")
@json_option
def command(as_json: bool) -> None:
    """Say what deqcert runs on here."""
    import json

    from deqcert.bench.doctor import examine, say

    found = examine()
    print(json.dumps(found, indent=2) if as_json else say(found))
