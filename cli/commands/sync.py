"""`dvfs sync`: make a version equal to local folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import (
    Command,
    Many,
    common,
    dataset_option,
    json_option,
    latest_option,
    local_path,
    quiet_option,
    scan_options,
    storage_option,
    text,
    upload_options,
    verbose_option,
    with_latest,
)
from dvfs.cli.origin import creator, origin
from dvfs.cli.output import emit, finished_fields, say, wants_json, wants_quiet
from dvfs.cli.progress import path_printer, progress
from dvfs.cli.session import Session, opened

if TYPE_CHECKING:
    from dvfs.store.draft import Draft
    from dvfs.store.scan import ScanOptions
    from dvfs.store.upload import UploadOptions


@click.command(cls=Command, name="sync")
@dataset_option
@click.option(
    "--folder",
    "folders",
    cls=Many,
    type=local_path,
    required=True,
    metavar="FOLDER...",
    help="Local folders; wildcards work.",
)
@click.option("--project", type=text, metavar="PROJECT", help="Project of a new version.  [default: the last parent's]")
@click.option("--name", type=text, metavar="NAME", help="Name of a new version.  [default: the last parent's]")
@click.option(
    "--version", type=text, metavar="VERSION", help="Version.  [default: the highest one counted up, or 1.0.0]"
)
@click.option("--parents", cls=Many, metavar="DATASET...", help="Finalized versions that a new one begins with.")
@click.option("--tags", cls=Many, type=text, metavar="TAG...", help="Tags of a new version.")
@latest_option
@click.option(
    "--dataset-folder", default="", metavar="FOLDER", help="Folder of the dataset to compare.  [default: its root]"
)
@click.option("--checksum", is_flag=True, help="Compare content, not size and time of change.")
@click.option("--skip-close", is_flag=True, help="Leave the version open.")
@storage_option("Where this and later uploads put the data.  [default: where the version says]", "--output-uri")
@scan_options
@upload_options
@verbose_option
@quiet_option()
@json_option
@common
def command(
    dataset: str | None,
    folders: tuple[str, ...],
    project: str | None,
    name: str | None,
    version: str | None,
    parents: tuple[str, ...],
    tags: tuple[str, ...],
    latest: bool,
    dataset_folder: str,
    checksum: bool,
    skip_close: bool,
    storage: str | None,
    scan: ScanOptions,
    upload: UploadOptions,
    verbose: bool,
) -> None:
    """Make a version equal to local folders: add, change and remove files, upload, and finalize it.

    With --parents, or --project and --name, a new version is made, unless nothing changed; else the open
    version DATASET is taken.
    """
    from dvfs.store.labels import tag

    with opened() as session:
        is_new = bool(parents) or (project is not None and name is not None)
        if is_new:
            if dataset is not None:
                raise click.UsageError(
                    "DATASET is an open version; leave it out to make a new one", click.get_current_context()
                )
            draft = _created(session, project, name, version, parents, with_latest(tags, latest), storage)
        else:
            if project or name or version or tags:
                raise click.UsageError(
                    "a new version needs --parents, or --project and --name", click.get_current_context()
                )
            draft = session.store.draft(session.named(dataset))
            if latest:
                tag(session.store, draft.record.id, add=with_latest((), latest))
        try:
            count = draft.sync_folders(
                folders, scan, dataset_folder=dataset_folder, checksum=checksum, on_path=path_printer(verbose)
            )
        except BaseException:
            if is_new:
                draft.discard()
            raise
        changes = {"removed": count.removed, "added": count.added, "modified": count.modified}
        if is_new and not count.changes:
            draft.discard()
            if wants_json():
                emit({"id": None, **changes})
            elif not wants_quiet():
                say("Zero modifications on local copy, reverting dataset creation.")
            return
        if is_new:
            session.in_use.set(draft.record.id)
        with progress(verbose) as bar:
            draft.upload(upload, bar, storage=None if is_new else storage)
        record = draft.record if skip_close else draft.finalize()
        if record.status.is_finished:
            session.note(record.id, "made")
    if wants_json():
        emit(finished_fields(record) | changes)
    elif not wants_quiet():
        say(f"Sync completed: {count.removed} files removed, {count.added} added, {count.modified} modified")
        if not skip_close:
            say(f"Dataset closed and finalized id={record.id} {record.title}")


def _created(
    session: Session,
    project: str | None,
    name: str | None,
    version: str | None,
    parents: tuple[str, ...],
    tags: tuple[str, ...],
    storage: str | None,
) -> Draft:
    return session.store.create(
        project=project,
        name=name,
        version=version,
        parents=parents,
        tags=tags,
        creator=creator(),
        origin=origin(),
        storage=storage,
    )
