"""`dvfs search`: list datasets."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, Many, common, json_option
from dvfs.cli.output import emit, moment, record_fields, say, shown, wants_json
from dvfs.cli.session import opened

_ROW = "{:16} | {:32} | {:16} | {:32} | {:19} | {:32}"


@click.command(cls=Command, name="search")
@click.option("--ids", cls=Many, metavar="ID...", help="Only these ids.")
@click.option("--project", metavar="PROJECT", help="Only this project, and those below it.")
@click.option("--name", metavar="NAME", help="Only names that hold this, in any case of letters.")
@click.option("--tags", cls=Many, metavar="TAG...", help="Only versions with all of these tags.")
@click.option("--not-only-completed", is_flag=True, help="Open versions too.")
@json_option
@common
def command(
    ids: tuple[str, ...], project: str | None, name: str | None, tags: tuple[str, ...], not_only_completed: bool
) -> None:
    """List datasets, in the order in which they were created."""
    with opened() as session:
        records = session.store.search(
            project=project, name=name, tags=tags, ids=ids, only_completed=not not_only_completed
        )
    if wants_json():
        emit([record_fields(record) for record in records])
        return
    head = _ROW.format("project", "name", "version", "tags", "created", "id").rstrip()
    say(head)
    say("-" * len(head))
    for record in records:
        tags_shown = ", ".join(record.tags)
        words = (record.project, record.name, record.version, tags_shown)
        say(_ROW.format(*map(shown, words), moment(record.created_ns), record.id).rstrip())
