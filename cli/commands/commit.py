"""`dvfs commit`: make the edits of a mount a child version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import (
    Command,
    Many,
    common,
    json_option,
    latest_option,
    local_path,
    quiet_option,
    text,
    upload_options,
    verbose_option,
    with_latest,
)
from dvfs.cli.origin import creator, origin
from dvfs.cli.output import emit, finished_fields, say, wants_json, wants_quiet
from dvfs.cli.overlays import find_overlay, opened_overlay, overlay_option
from dvfs.cli.progress import progress

if TYPE_CHECKING:
    from dvfs.store.upload import UploadOptions


@click.command(cls=Command, name="commit")
@click.argument("directory", metavar="[DIR]", required=False, type=local_path)
@click.option("-m", "--message", "--description", type=text, default="", metavar="TEXT", help="What was changed.")
@click.option("--project", type=text, metavar="PROJECT", help="Project of the child.  [default: the base's]")
@click.option("--name", type=text, metavar="NAME", help="Name of the child.  [default: the base's]")
@click.option(
    "--version", type=text, metavar="VERSION", help="Version.  [default: the highest one counted up, or 1.0.0]"
)
@click.option("--tag", "--tags", "tags", cls=Many, type=text, metavar="TAG...", help="Tags of the child.")
@latest_option
@click.option("--no-remount", is_flag=True, help="The mount does not go on as the child: the edits stay edits.")
@click.option("--skip-special", is_flag=True, help="Leave fifos, sockets and devices out instead of failing.")
@overlay_option
@upload_options
@verbose_option
@quiet_option("Print the id of the child alone.")
@json_option
@common
def command(
    directory: str | None,
    message: str,
    project: str | None,
    name: str | None,
    version: str | None,
    tags: tuple[str, ...],
    latest: bool,
    no_remount: bool,
    skip_special: bool,
    overlay: str | None,
    upload: UploadOptions,
    verbose: bool,
) -> None:
    """Make the edits of the writable mount at DIR, or around the working directory, a child version.

    What was written before is in it; what is written meanwhile is in the next one. The mount goes on as the child.
    """
    from dvfs.fs.overlay.committing import CommitOptions, commit

    found = find_overlay((directory,) if directory else (), overlay, is_whole=True)
    options = CommitOptions(
        project=project,
        name=name,
        version=version,
        tags=with_latest(tags, latest),
        description=message,
        creator=creator(),
        origin=origin(),
        skip_special=skip_special,
        goes_on=not no_remount,
        upload=upload,
    )
    with opened_overlay(found) as session:
        with progress(verbose) as bar:
            record = commit(session.desk, session.store, options, bar)
        if record is not None:
            session.in_use.set(record.id)
            session.note(record.id, "made")
    if record is None:
        if wants_json():
            emit({"id": None})
        elif not wants_quiet():
            say("Nothing to commit: no edits.")
    elif wants_json():
        emit(finished_fields(record))
    elif wants_quiet():
        say(record.id)
    else:
        say(f"Committed {record.title} id={record.id}")
