"""`dvfs set-description`: say what a version is."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, dataset_option, json_option, quiet_option, text
from dvfs.cli.output import emit, record_fields, say, shown, wants_json, wants_quiet
from dvfs.cli.session import opened


@click.command(cls=Command, name="set-description")
@dataset_option
@click.option("--description", type=text, required=True, metavar="TEXT", help="What it is; empty for nothing.")
@quiet_option()
@json_option
@common
def command(dataset: str | None, description: str) -> None:
    """Replace the description of a version, finalized or not."""
    from dvfs.store import labels

    with opened() as session:
        record = labels.set_description(session.store, session.named(dataset), description)
    if wants_json():
        emit(record_fields(record) | {"description": record.description})
    elif not wants_quiet():
        say(f"Description of dataset id={record.id} {record.title} set to '{shown(record.description)}'")
