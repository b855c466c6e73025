"""`dvfs list`: the content of a version."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, Many, common, dataset_option, json_option
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.session import Session, opened
from dvfs.store.errors import WrongState

if TYPE_CHECKING:
    from dvfs.store.catalog.entry import Entry
    from dvfs.store.draft import Draft
    from dvfs.store.version import Version

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
    """List the files and symbolic links of a version; with --json all entries, an object a line."""
    with opened() as session:
        spec = _spec(session, dataset, project, name, version)
        is_id = "/" not in spec and not spec.startswith("tag:")
        record = session.store.resolve(spec, "any" if is_id else "finished")
        if record.status.is_open:
            _list_open(session.store.draft(record.id), filters, modified)
            return
        opened_version = session.store.version(record)
        try:
            _print(_changes(opened_version) if modified else _content(opened_version), filters, modified)
        finally:
            opened_version.close()


def _list_open(draft: Draft, filters: tuple[str, ...], modified: bool) -> None:
    """List what an open version has and gets, staged files too: those have no hash yet."""
    if modified:
        raise WrongState(
            f"dataset {draft.record.title} ({draft.record.id}) is open: its changes are not settled",
            hint="`dvfs close` finalizes it",
        )
    _print(((None, path, entry) for path, entry in draft.entries()), filters, modified)


def _print(lines: Iterator[Line], filters: tuple[str, ...], modified: bool) -> None:
    fits = _filter(filters)
    chosen = (line for line in lines if fits(line[1]))
    if not wants_json():
        _print_table(chosen, modified)
        return
    for line in chosen:
        emit(_fields(*line))


def _spec(session: Session, dataset: str | None, project: str | None, name: str | None, version: str | None) -> str:
    if project is None and name is None:
        return session.named(dataset)
    if project is None or name is None or dataset is not None:
        raise click.UsageError("name the dataset once: DATASET, or --project with --name", click.get_current_context())
    return f"{project}/{name}" if version is None else f"{project}/{name}@{version}"


def _content(version: Version) -> Iterator[Line]:
    for path, entry in version.entries():
        yield None, path, entry


def _changes(version: Version) -> Iterator[Line]:
    from dvfs.store.catalog.diff import diff
    from dvfs.store.catalog.tree import Tree

    base = version.record.base
    if base is None:
        yield from (("added", path, entry) for path, entry in version.entries())
        return
    for difference in diff(Tree(base.page, version.pages.load), version.tree):
        if difference.after is not None:
            change = "added" if difference.before is None else "modified"
            yield change, difference.path, difference.after
        elif difference.before is not None:
            yield "removed", difference.path, difference.before


def _filter(patterns: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Return a test of paths: below one of the folders *patterns*, or matched as a whole by one of them."""
    if not patterns:
        return lambda path: True
    folders = [os.fsencode(pattern).strip(b"/") for pattern in patterns]

    def fits(path: bytes) -> bool:
        return any(
            path == folder or path.startswith(folder + b"/") or fnmatch.fnmatchcase(path, folder) for folder in folders
        )

    return fits


def _fields(change: str | None, path: bytes, entry: Entry) -> dict[str, Json]:
    kind = "file" if entry.is_file else "directory" if entry.is_dir else "symlink"
    fields: dict[str, Json] = {} if change is None else {"change": change}
    fields |= name_fields("path", path)
    fields |= {
        "kind": kind,
        "size": entry.size,
        "mode": f"{entry.mode & 0o7777:04o}",
        "mtime_ns": entry.mtime_ns,
    }
    if entry.is_file:
        fields["digest"] = _hash(entry) or None
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
