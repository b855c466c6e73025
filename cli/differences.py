"""What differs between two versions, as `compare` and `diff` show it: the numbers first, then path by path."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from dvfs.cli.output import Json, emit_with, name_fields, record_fields, say, shown, wants_json, wants_quiet

if TYPE_CHECKING:
    from dvfs.store.catalog.diff import Difference
    from dvfs.store.catalog.entry import Entry
    from dvfs.store.record import Record
    from dvfs.store.store import Store


def show_differences(store: Store, source: Record, target: Record) -> None:
    """Print what is to be done to the files of *source* for those of *target*.

    The differences are walked twice, once for the numbers, so that there may be any number of them.
    """
    from dvfs.store.comparison import compare, count

    with ExitStack() as stack:
        before, after = (stack.enter_context(closing(store.version(record))) for record in (source, target))
        counts = count(compare(before, after))
        if wants_json():
            document: dict[str, Json] = {
                "source": record_fields(source),
                "target": record_fields(target),
                "removed": counts.removed,
                "modified": counts.modified,
                "added": counts.added,
            }
            emit_with(document, "changes", (difference_fields(found) for found in compare(before, after)))
            return
        say(
            f"Comparison summary: {counts.removed} files removed, {counts.modified} files modified,"
            f" {counts.added} files added"
        )
        if not wants_quiet():
            for found in compare(before, after):
                say(_line(found))


def difference_fields(found: Difference) -> dict[str, Json]:
    """Return what `compare --json` says of a path."""
    fields: dict[str, Json] = {"change": found.word} | name_fields("path", found.path)
    fields["kind"] = kind_of(found.entry)
    for when, entry in (("old", found.before), ("new", found.after)):
        is_file = entry is not None and entry.is_file
        fields[f"{when}_bytes"] = entry.size if entry is not None and is_file else None
        fields[f"{when}_digest"] = entry.digest.hex() if entry is not None and is_file else None
        fields[f"{when}_mode"] = f"{entry.mode & 0o7777:04o}" if entry is not None else None
    return fields


def kind_of(entry: Entry) -> str:
    """Return `file`, `directory` or `symlink`."""
    return "file" if entry.is_file else "directory" if entry.is_dir else "symlink"


def _line(found: Difference) -> str:
    """Return a line for people: a directory ends in a slash, a link shows its target, of a file sizes are told."""
    path = shown(found.path) + ("/" if found.entry.is_dir else "")
    if found.entry.is_link:
        path += f" -> {shown(found.entry.target)}"
    told = " -> ".join(
        f"{entry.size} bytes" for entry in (found.before, found.after) if entry is not None and entry.is_file
    )
    before, after = found.before, found.after
    if before is not None and after is not None and before.mode != after.mode:
        modes = f"mode {before.mode & 0o7777:04o} -> {after.mode & 0o7777:04o}"
        told = f"{told}, {modes}" if told else modes
    return f"{found.word}: {path}" + (f" ({told})" if told else "")
