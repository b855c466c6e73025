"""`dvfs upload`: send what was added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import (
    Command,
    common,
    dataset_option,
    json_option,
    quiet_option,
    storage_option,
    upload_options,
    verbose_option,
)
from dvfs.cli.output import counted, emit, say, shown_size, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.upload import UploadOptions


@click.command(cls=Command, name="upload")
@dataset_option
@storage_option("Where this and later uploads put the data.  [default: where the version says]")
@upload_options
@verbose_option
@quiet_option()
@json_option
@common
def command(
    dataset: str | None,
    storage: str | None,
    upload: UploadOptions,
    verbose: bool,
) -> None:
    """Upload what was added to a version; it stays open.

    Interrupted, it goes on where it stopped when it is called again.
    """
    with opened() as session, progress(verbose) as bar:
        draft = session.store.draft(session.named(dataset))
        count = draft.upload(upload, bar, storage=storage)
    if wants_json():
        emit(
            {
                "id": draft.record.id,
                "files": count.files,
                "bytes": count.bytes,
                "stored_bytes": count.stored_bytes,
            }
        )
    elif not wants_quiet():
        say(
            f"Dataset upload completed: {counted(count.files, 'file')}, {shown_size(count.bytes)}"
            f" ({shown_size(count.stored_bytes)} stored)"
        )
