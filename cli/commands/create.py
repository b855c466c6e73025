"""`dvfs create`: begin a new version."""

from __future__ import annotations

import click

from dvfs.cli.options import (
    Command,
    Many,
    common,
    json_option,
    latest_option,
    quiet_option,
    storage_option,
    text,
    with_latest,
)
from dvfs.cli.origin import creator, origin
from dvfs.cli.output import emit, record_fields, say, wants_json, wants_quiet
from dvfs.cli.session import opened


@click.command(cls=Command, name="create")
@click.option("--project", type=text, metavar="PROJECT", help="Project of the dataset.  [default: the last parent's]")
@click.option("--name", required=True, type=text, metavar="NAME", help="Name of the dataset.")
@click.option(
    "--version", type=text, metavar="VERSION", help="Version.  [default: the highest one counted up, or 1.0.0]"
)
@click.option(
    "--parents",
    cls=Many,
    metavar="DATASET...",
    help="Finalized versions to begin with; where they differ, the later one holds.",
)
@click.option("--tags", cls=Many, type=text, metavar="TAG...", help="Tags.")
@latest_option
@click.option("--description", type=text, default="", metavar="TEXT", help="What it is.")
@storage_option("Where uploads put the data.  [default: the store]", "--output-uri")
@quiet_option("Print the id alone.")
@json_option
@common
def command(
    project: str | None,
    name: str,
    version: str | None,
    parents: tuple[str, ...],
    tags: tuple[str, ...],
    latest: bool,
    description: str,
    storage: str | None,
) -> None:
    """Begin a new version of a dataset, and make it the one in use.

    It is open: `add`, `remove` and `upload` change it until `close` finalizes it.
    """
    with opened() as session:
        record = session.store.create(
            project=project,
            name=name,
            version=version,
            parents=parents,
            tags=with_latest(tags, latest),
            description=description,
            creator=creator(),
            origin=origin(),
            storage=storage,
        ).record
        session.in_use.set(record.id)
    if wants_json():
        emit(record_fields(record))
    elif wants_quiet():
        say(record.id)
    else:
        say(f"New dataset created id={record.id}")
