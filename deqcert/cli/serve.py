"""``deqcert serve``: a certified model as a service."""

from __future__ import annotations

import importlib.util
from typing import Any

import click

from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import settings_options
from deqcert.errors import ConfigError, Interrupted
from deqcert.serve.limits import Serving

UNUSED = ("method", "alpha_total", "audit", "agreement", "method_options", "seed")
"""Settings that a service has no use for: its noise is secret, and its bounds hold at any look."""

EXTRA = ("fastapi", "uvicorn", "prometheus_client")
"""What the extra brings."""


@click.command(short_help="Answer requests over HTTP, each answer on record.")
@click.argument("model", type=FILLED, metavar="MODEL", default="digits", required=False)
@settings_options(skip=UNUSED, model=False)
@options_from(Serving)
def command(model: str, **given: Any) -> None:
    """Serve a model: classes, certified radii and prediction sets over HTTP, and a page for people.

    MODEL is a checkpoint of the MDEQ-Vision family or the name of one that ships: digits. Every
    request has fresh secret noise, and every answer is on the disk before it is given, so that
    deqcert replay can compute its votes again. --n, --alpha and --goal are what a request gets that
    does not say. SIGTERM ends the service once those who wait have their answers.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{missing[0]} is not installed; install the extra: pip install 'deqcert[serve]'"
        )
    serving = Serving(**{name: given.pop(name) for name in Serving.__dataclass_fields__})
    from deqcert.api import SmoothedClassifier
    from deqcert.serve.server import listen, serve
    from deqcert.serve.service import Service

    smooth = SmoothedClassifier(model, **given)
    with listen(serving) as opened:
        service = Service(smooth, serving)
        try:
            serve(service, opened)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; all answers are in {service.records.path}") from None
