"""`dvfs add`: stage local files, and links to what stays elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import (
    Command,
    Many,
    common,
    dataset_option,
    json_option,
    local_path,
    quiet_option,
    scan_options,
    verbose_option,
)
from dvfs.cli.output import counted, emit, say, wants_json, wants_quiet
from dvfs.cli.progress import path_printer
from dvfs.cli.session import opened

if TYPE_CHECKING:
    from dvfs.store.scan import ScanOptions


@click.command(cls=Command, name="add")
@dataset_option
@click.option(
    "--files",
    cls=Many,
    type=local_path,
    metavar="PATH...",
    help="Files and folders; wildcards that the shell left alone work too.",
)
@click.option(
    "--links",
    cls=Many,
    metavar="URL...",
    help="Files that stay where they are: s3://, gs://, azure://, http(s)://, file://; also folders, but of http.",
)
@click.option(
    "--dataset-folder", default="", metavar="FOLDER", help="Where in the dataset to put them.  [default: its root]"
)
@click.option("--non-recursive", is_flag=True, help="Only the files of a folder itself, not of those in it.")
@click.option(
    "--wildcard",
    cls=Many,
    metavar="PATTERN...",
    help="Of a folder only files that match one of these, at any depth: '*.jpg', 'left/*.jpg'.",
)
@click.option(
    "--max-workers", type=click.IntRange(1), metavar="N", expose_value=False, help="Nothing: no file is read yet."
)
@scan_options
@verbose_option
@quiet_option()
@json_option
@common
def command(
    dataset: str | None,
    files: tuple[str, ...],
    links: tuple[str, ...],
    dataset_folder: str,
    non_recursive: bool,
    wildcard: tuple[str, ...],
    scan: ScanOptions,
    verbose: bool,
) -> None:
    """Add local files and folders to a version.

    A file goes where FOLDER says, under its own name; of a folder the content goes there. Nothing is read
    yet, only noted: `upload` or `close` reads it. A symbolic link stays one.

    With --links files become part of the version that stay where they are, as they are now: they are read there when
    they are read in the version, and an error once they are not the same any more.
    """
    if not files and not links:
        raise click.UsageError("nothing is named: give --files or --links", click.get_current_context())
    with opened() as session:
        draft = session.store.draft(session.named(dataset))
        options = replace(scan, recursive=not non_recursive, include=wildcard)
        on_path = path_printer(verbose)
        linked = draft.add_external_files(
            [(url, dataset_folder) for url in links], include=wildcard, recursive=options.recursive, on_path=on_path
        )
        count = linked + draft.add_files(files, options, dataset_folder=dataset_folder, on_path=on_path)
    if wants_json():
        emit(
            {
                "id": draft.record.id,
                "added": count.added,
                "modified": count.modified,
                "unchanged": count.unchanged,
                "skipped": count.skipped,
            }
        )
    elif not wants_quiet():
        say(f"{counted(count.added, 'file')} added")
        if count.modified:
            say(f"{counted(count.modified, 'file')} modified")
        if count.skipped:
            say(f"{counted(count.skipped, 'file')} skipped")
