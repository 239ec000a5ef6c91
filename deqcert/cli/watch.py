"""``deqcert watch``: alarms on a stream of answers that may be looked at as often as one likes."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from deqcert.cli.fields import FILLED, options_from
from deqcert.cli.options import json_option, labels_option, quiet_option
from deqcert.watch.promise import Promise

ALARM = 1
"""Exit code where an alarm is raised."""


@click.command(short_help="Alarms that may be watched for ever without crying wolf.")
@click.argument("run", type=FILLED, metavar="RUN")
@click.option(
    "--reference",
    type=FILLED,
    required=True,
    metavar="FILE",
    help="What is normal: a file that deqcert watch-reference wrote.",
)
@options_from(Promise)
@click.option(
    "--alarms",
    type=FILLED,
    metavar="NAME,NAME,...",
    help="Which alarms; default: all that the reference can carry. Fewer are quicker.",
)
@click.option(
    "--state",
    type=FILLED,
    metavar="DIR",
    help="Folder of what is remembered, of incidents and of the picture; default: RUN-watch.",
)
@labels_option
@json_option
@quiet_option()
def command(
    run: str,
    reference: str,
    alarms: str | None,
    state: str | None,
    labels: str | None,
    as_json: bool,
    quiet: bool,
    **promise: Any,
) -> None:
    """Read the answers that came since the last time, and say whether an alarm is raised.

    RUN is a run folder of deqcert certify, growing or finished, a folder to which such folders are
    added, or the folder of deqcert serve. Give the same command again, from cron for instance: it
    goes on where it was, and reads each answer once. The exit code is 0 while no alarm is raised, 1
    while one is, and 2 where something is wrong with the command or its files.
    """
    from deqcert.serve.alarms import claim_alarms, write_alarms
    from deqcert.watch import Reference, Watch, alarm_table, draw_evidence, open_source
    from deqcert.watch.record_source import RecordSource
    from deqcert.watch.telling import sentence, tell

    known = Reference.read(reference)
    source = open_source(run, labels, known.parameters)
    names = None if alarms is None else alarms.split(",")
    folder = Path(state or f"{run.rstrip('/')}-watch")
    with (
        Watch(known, source, folder, Promise(**promise), alarms=names) as watch,
        claim_alarms(source.folder, watch.name)
        if isinstance(source, RecordSource)
        else nullcontext(),
    ):
        watch.go_on(None if quiet else _told)
        found = tell(watch)
        if isinstance(source, RecordSource):
            now = time.time()
            said = {"sentence": sentence(found, now), "time": now, "watch": watch.name}
            write_alarms(source.folder, {**said, **found})
        picture = draw_evidence(watch.state, watch.share, folder / "evidence.png")
        if as_json:
            print(json.dumps({**found, "new": [str(path) for path in watch.new]}))
        else:
            print(alarm_table(watch.rows(), watch.delta))
            if watch.skipped:
                print(
                    f"passed over: {watch.skipped} answers, of another question or fitted pictures"
                )
            for path in watch.new:
                print(f"incident: {path}")
            print(f"picture: {picture}")
        standing = watch.standing
    if standing:
        click.get_current_context().exit(ALARM)


def _told(answers: int) -> None:
    print(f"{answers} answers read", file=sys.stderr, flush=True)
