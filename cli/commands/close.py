"""`dvfs close`, `dvfs finalize`: upload what is left, and finalize."""

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
from dvfs.cli.output import emit, finished_fields, say, wants_json, wants_quiet
from dvfs.cli.progress import progress
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.upload import UploadOptions


@click.command(cls=Command, name="close")
@dataset_option
@click.option("--disable-upload", is_flag=True, help="Fail where something is still to be uploaded.")
@storage_option("Where the data that is left is put.  [default: where the version says]")
@upload_options
@verbose_option
@quiet_option()
@json_option
@common
def command(
    dataset: str | None,
    disable_upload: bool,
    storage: str | None,
    upload: UploadOptions,
    verbose: bool,
) -> None:
    """Upload what is left and finalize the version: from then on nothing changes it, and it can be mounted."""
    with opened() as session:
        draft = session.store.draft(session.named(dataset))
        if not disable_upload:
            with progress(verbose) as bar:
                draft.upload(upload, bar, storage=storage)
        record = draft.finalize()
        session.note(record.id, "made")
    if wants_json():
        emit(finished_fields(record))
    elif not wants_quiet():
        say(f"Dataset closed and finalized id={record.id} {record.title}")
