"""`dvfs squash`: a lineage merged into one version."""

from __future__ import annotations

from contextlib import nullcontext

import click

from dvfs.cli.options import Command, Many, common, json_option, quiet_option, storage_option, text, verbose_option
from dvfs.cli.origin import creator, origin
from dvfs.cli.output import emit, finished_fields, say, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import opened


@click.command(cls=Command, name="squash")
@click.option("--name", required=True, type=text, metavar="NAME", help="Name of the new dataset.")
@click.option(
    "--ids",
    cls=Many,
    required=True,
    metavar="DATASET...",
    help="Finalized versions to merge; where they differ, the later one holds.",
)
@click.option("--project", type=text, metavar="PROJECT", help="Project.  [default: that of the first version]")
@click.option(
    "--version", type=text, metavar="VERSION", help="Version.  [default: the highest one counted up, or 1.0.0]"
)
@click.option("--tags", cls=Many, type=text, metavar="TAG...", help="Tags.")
@click.option("--description", type=text, default="", metavar="TEXT", help="What it is.")
@storage_option("Copy all data there, in the order of the files.  [default: it stays where it is]")
@verbose_option
@quiet_option("Print the id alone.")
@json_option
@common
def command(
    name: str,
    ids: tuple[str, ...],
    project: str | None,
    version: str | None,
    tags: tuple[str, ...],
    description: str,
    storage: str | None,
    verbose: bool,
) -> None:
    """Merge versions and all that they come from into one version without parents, and make it the one in use.

    What each version of the lineage changed is done once, parents before children: nothing that was removed comes
    back, and nothing inherited is lost. Without --storage no file is read or sent.
    """
    from dvfs.store.squash import squash

    copying = nullcontext() if storage is None else progress(verbose)
    with opened() as session, copying as bar:
        record = squash(
            session.store,
            ids,
            name=name,
            project=project,
            version=version,
            tags=tags,
            description=description,
            creator=creator(),
            origin=origin(),
            storage=storage,
            progress=bar,
        )
        session.in_use.set(record.id)
        session.note(record.id, "made")
    if wants_json():
        emit(finished_fields(record))
    elif wants_quiet():
        say(record.id)
    else:
        say(f"Squashing completed, new dataset created id={record.id} {record.title}")
