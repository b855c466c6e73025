"""`dvfs rename`: give a dataset another name."""

from __future__ import annotations

import click

from dvfs.cli.options import (
    Command,
    common,
    dataset_option,
    json_option,
    named_dataset,
    naming_options,
    quiet_option,
    text,
)
from dvfs.cli.output import emit, record_fields, say, wants_json, wants_quiet
from dvfs.cli.session import opened


@click.command(cls=Command, name="rename")
@dataset_option
@naming_options
@click.option("--new-name", type=text, required=True, metavar="NAME", help="The new name.")
@quiet_option()
@json_option
@common
def command(dataset: str | None, project: str | None, name: str | None, new_name: str) -> None:
    """Give a dataset another name: all versions of project/name, or the one version that DATASET names.

    Ids and version numbers stay. A number that the new place has already exits 4, and nothing is renamed.
    """
    from dvfs.store import renaming

    with opened() as session:
        spec = session.named(named_dataset(dataset, project, name))
        records = renaming.rename(session.store, spec, new_name)
    if wants_json():
        emit([record_fields(record) for record in records])
    elif not wants_quiet():
        for record in records:
            say(f"Dataset renamed id={record.id} {record.title}")
