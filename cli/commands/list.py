"""`dvfs list`: the content of a version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import click

from dvfs.cli.differences import kind_of
from dvfs.cli.options import Command, Many, common, dataset_option, json_option
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.session import Session, opened

if TYPE_CHECKING:
    from dvfs.store.catalog.diff import Difference
    from dvfs.store.catalog.entry import Entry

_ROW = "{:64} | {:>12} | {:64}"
_CHANGED_ROW = "{:8} | " + _ROW

Line = tuple[str | None, bytes, "Entry"]
"""What became of the path (None where that was not asked), the path, its entry (the former one, if removed)."""


@click.command(cls=Command, name="list")
@dataset_option
@click.option("--project", metavar="PROJECT", help="Name the dataset by its project and --name.")
@click.option("--name", metavar="NAME", help="Name the dataset by --project and its name.")
@click.option("--version", metavar="VERSION", help="With --name.  [default: the highest]")
@click.option(
    "--filter",
    "filters",
    cls=Many,
    metavar="PATTERN...",
    help="Only what is in this folder or matches this wildcard of the whole path.",
)
@click.option("--modified", is_flag=True, help="Only what this version adds, modifies and removes.")
@json_option
@common
def command(
    dataset: str | None,
    project: str | None,
    name: str | None,
    version: str | None,
    filters: tuple[str, ...],
    modified: bool,
) -> None:
    """List the files and symbolic links of a version; with --json all entries, an object a line.

    Of an open version what it has and what is going to be uploaded, which has no hash yet.
    """
    from dvfs.store.comparison import changes
    from dvfs.store.listing import chooser, listed

    with opened() as session:
        spec = _spec(session, dataset, project, name, version)
        is_id = "/" not in spec and not spec.startswith("tag:")
        record = session.store.resolve(spec, "any" if is_id else "finished")
        if record.status.is_open:
            draft = session.store.draft(record.id)
            fits = chooser(filters)
            entries = ((path, entry) for path, entry in draft.entries() if fits(path))
            _print(_changes(draft.changes(), filters) if modified else _content(entries), modified)
            return
        with closing(session.store.version(record)) as found:
            _print(_changes(changes(found), filters) if modified else _content(listed(found.tree, filters)), modified)


def _print(lines: Iterator[Line], modified: bool) -> None:
    if not wants_json():
        _print_table(lines, modified)
        return
    for line in lines:
        emit(_fields(*line))


def _spec(session: Session, dataset: str | None, project: str | None, name: str | None, version: str | None) -> str:
    if project is None and name is None:
        return session.named(dataset)
    if project is None or name is None or dataset is not None:
        raise click.UsageError("name the dataset once: DATASET, or --project with --name", click.get_current_context())
    return f"{project}/{name}" if version is None else f"{project}/{name}@{version}"


def _content(entries: Iterator[tuple[bytes, Entry]]) -> Iterator[Line]:
    return ((None, path, entry) for path, entry in entries)


def _changes(differences: Iterator[Difference], filters: tuple[str, ...]) -> Iterator[Line]:
    from dvfs.store.listing import chooser

    fits = chooser(filters)
    return ((found.word, found.path, found.entry) for found in differences if fits(found.path))


def _fields(change: str | None, path: bytes, entry: Entry) -> dict[str, Json]:
    fields: dict[str, Json] = {} if change is None else {"change": change}
    fields |= name_fields("path", path)
    fields |= {
        "kind": kind_of(entry),
        "size": entry.size,
        "mode": f"{entry.mode & 0o7777:04o}",
        "mtime_ns": entry.mtime_ns,
    }
    if entry.is_file:
        fields["digest"] = _hash(entry) or None
    if entry.external is not None:
        fields["link"] = entry.external.url.decode()
    if entry.is_link:
        fields |= name_fields("target", entry.target)
    return fields


def _hash(entry: Entry) -> str:
    """Return the digest of a file in hex; "" before it is known."""
    return entry.digest.hex() if any(entry.digest) else ""


def _print_table(lines: Iterator[Line], with_changes: bool) -> None:
    row = _CHANGED_ROW if with_changes else "{1:64} | {2:>12} | {3:64}"
    head = row.format("change", "file name", "size", "hash").rstrip()
    say(head)
    say("-" * len(head))
    files = size = 0
    for change, path, entry in lines:
        if entry.is_dir:
            continue
        if entry.is_link:
            say(row.format(change, f"{shown(path)} -> {shown(entry.target)}", "", "").rstrip(" |"))
            continue
        say(row.format(change, shown(path), entry.size, _hash(entry)).rstrip())
        if change != "removed":
            files += 1
            size += entry.size
    say(f"Total {files} files, {size} bytes")
