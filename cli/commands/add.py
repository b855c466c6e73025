"""`dvfs add`: stage local files."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, Many, common, dataset_option, json_option, scan_options, verbose_option
from dvfs.cli.output import counted, emit, say, wants_json
from dvfs.cli.paths import expanded
from dvfs.cli.progress import path_printer
from dvfs.cli.session import opened, scanning


@click.command(cls=Command, name="add")
@dataset_option
@click.option("--files", cls=Many, required=True, metavar="PATH...", help="Files and folders; wildcards work.")
@click.option(
    "--dataset-folder", default="", metavar="FOLDER", help="Where in the dataset to put them.  [default: its root]"
)
@click.option("--non-recursive", is_flag=True, help="Only the files of a folder itself, not of those in it.")
@scan_options
@verbose_option
@json_option
@common
def command(
    dataset: str | None,
    files: tuple[str, ...],
    dataset_folder: str,
    non_recursive: bool,
    exclude: tuple[str, ...],
    follow_links: bool,
    skip_unreadable: bool,
    verbose: bool,
) -> None:
    """Add local files and folders to a version.

    A file goes where FOLDER says, under its own name; of a folder the content goes there. Nothing is read
    yet, only noted: `upload` or `close` reads it. A symbolic link stays one.
    """
    options = scanning(exclude, follow_links, skip_unreadable, recursive=not non_recursive)
    with opened() as session:
        draft = session.store.draft(session.named(dataset))
        count = draft.add_files(expanded(files), options, dataset_folder=dataset_folder, on_path=path_printer(verbose))
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
        return
    say(f"{counted(count.added, 'file')} added")
    if count.modified:
        say(f"{counted(count.modified, 'file')} modified")
    if count.skipped:
        say(f"{counted(count.skipped, 'file')} skipped")
