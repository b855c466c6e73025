"""`dvfs publish`: a finalized version is published."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option
from dvfs.cli.output import emit, record_fields, say, wants_json, wants_quiet
from dvfs.cli.session import opened


@click.command(cls=Command, name="publish")
@dataset_option
@quiet_option()
@json_option
@common
def command(dataset: str | None) -> None:
    """Publish a finalized version: a word to its readers that they can rely on it."""
    from dvfs.store import labels

    with opened() as session:
        record = labels.publish(session.store, session.named(dataset))
    if wants_json():
        emit(record_fields(record))
    elif not wants_quiet():
        say(f"Dataset published id={record.id} {record.title}")
