"""`dvfs runs`: which runs made and read a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, dataset_option, json_option
from dvfs.cli.output import Json, emit, moment, say, shown, timestamp, wants_json
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.runs import Run

_ROW = "{:19} | {:8} | {:24} | {:12} | {:32} | {}"


@click.command(cls=Command, name="runs")
@dataset_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The newest N only.  [default: all]")
@json_option
@common
def command(dataset: str | None, limit: int | None) -> None:
    """List the runs that made and read a version, the newest first.

    A run notes itself where it may write to the store and the setting `provenance` is on.
    """
    from dvfs.store.runs import noted

    with opened() as session:
        record = session.store.resolve(session.named(dataset))
        runs = noted(session.store.backend, record.id, limit)
    if wants_json():
        emit([_fields(run) for run in runs])
        return
    head = _ROW.format("time", "what", "user@host", "git commit", "part of", "command")
    say(head)
    say("-" * len(head))
    for run in runs:
        say(_line(run))


def _line(run: Run) -> str:
    part_of = ", ".join(f"{system} {name}" for system, name in sorted(run.origin.runs.items()))
    cells = (run.did, f"{run.user}@{run.origin.host}", run.origin.commit[:12], part_of, run.origin.command)
    return _ROW.format(moment(run.time_ns), *map(shown, cells)).rstrip(" |")


def _fields(run: Run) -> Json:
    return {
        "time": timestamp(run.time_ns),
        "did": run.did,
        "user": run.user,
        "host": run.origin.host,
        "command": run.origin.command,
        "commit": run.origin.commit or None,
        "runs": dict(run.origin.runs),
    }
