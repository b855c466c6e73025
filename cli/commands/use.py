"""`dvfs use`: choose the dataset in use."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, dataset_option, json_option
from dvfs.cli.output import emit, record_fields, say, wants_json
from dvfs.cli.session import opened


@click.command(cls=Command, name="use")
@dataset_option
@json_option
@common
def command(dataset: str | None) -> None:
    """Choose the dataset that commands mean when none is named; without DATASET, show it."""
    with opened() as session:
        record = session.store.resolve(session.named(dataset))
        if dataset is not None:
            session.in_use.set(record.id)
    if wants_json():
        emit(record_fields(record))
    else:
        say(f"Using dataset id={record.id} {record.title} ({record.status})")
