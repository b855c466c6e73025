"""`dvfs remove`: take files out of a version."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, Many, common, dataset_option, json_option, verbose_option
from dvfs.cli.output import counted, emit, say, wants_json
from dvfs.cli.progress import path_printer
from dvfs.cli.session import opened


@click.command(cls=Command, name="remove")
@dataset_option
@click.option(
    "--files",
    cls=Many,
    required=True,
    metavar="PATTERN...",
    help="Paths in the dataset. A folder means all in it; `*`, `?` and `[…]` match.",
)
@click.option("--non-recursive", is_flag=True, help="Match whole paths only, not names at any depth.")
@verbose_option
@json_option
@common
def command(dataset: str | None, files: tuple[str, ...], non_recursive: bool, verbose: bool) -> None:
    """Remove files and folders from a version. They stay in its parents."""
    with opened() as session:
        draft = session.store.draft(session.named(dataset))
        removed = draft.remove_files(files, recursive=not non_recursive, on_path=path_printer(verbose))
    if wants_json():
        emit({"id": draft.record.id, "removed": removed})
    else:
        say(f"{counted(removed, 'file')} removed")
