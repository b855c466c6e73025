"""`dvfs diff`: what was edited, file by file, or what differs between two versions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dvfs.cli.differences import show_differences
from dvfs.cli.options import Command, common, json_option, local_path
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.overlays import Found, find_overlay, opened_overlay, overlay_option
from dvfs.cli.session import opened
from dvfs.store.errors import NotFound

if TYPE_CHECKING:
    from dvfs.store.record import Record
    from dvfs.store.store import Store


@click.command(cls=Command, name="diff")
@click.argument("paths", metavar="[PATH...] | [DATASET DATASET]", nargs=-1, type=local_path)
@overlay_option
@json_option
@common
def command(paths: tuple[str, ...], overlay: str | None) -> None:
    """Show the edits at and below each PATH, or of the whole mount around the working directory: names, sizes, text.

    Two words that both name a dataset, and neither of which is a local path, mean two versions: what differs
    between them is shown as by `dvfs compare`. `./a ./b` are always paths.
    """
    if overlay is None and len(paths) == 2 and not any(_is_path(path) for path in paths):
        with opened() as session:
            records, missing = _versions(session.store, paths)
            if missing is None:
                show_differences(session.store, *records)
                return
        try:
            found = find_overlay(paths, overlay)
        except NotFound:
            raise missing from None  # it is in no mount either
    else:
        found = find_overlay(paths, overlay)
    _show_edits(found)


def _is_path(word: str) -> bool:
    return os.path.lexists(word) or word.startswith((".", "/"))


def _versions(store: Store, words: tuple[str, ...]) -> tuple[list[Record], NotFound | None]:
    """Return the two versions that *words* name; with the error of the first that names none."""
    try:
        return [store.resolve(word, "finished") for word in words], None
    except NotFound as exc:
        hint = "`diff` takes two datasets, or paths in a writable mount"
        return [], NotFound(f"{exc.message}, and no such path", hint=hint)


def _show_edits(found: Found) -> None:
    from dvfs.fs.overlay.questions import differences

    listed: list[Json] = []
    with opened_overlay(found) as session:
        for item in differences(session.desk, session.store, found.paths):
            if wants_json():
                fields = name_fields("path", item.path) | {"kind": item.kind}
                if item.old_path is not None:
                    fields |= name_fields("from", item.old_path)
                listed.append(fields | {"old_bytes": item.old_bytes, "new_bytes": item.new_bytes})
                continue
            where = f"{shown(item.old_path)} -> " if item.old_path is not None else ""
            sizes = " -> ".join(f"{size} bytes" for size in (item.old_bytes, item.new_bytes) if size is not None)
            say(f"{item.kind}: {where}{shown(item.path)}" + (f" ({sizes})" if sizes else ""))
            for line in item.lines():
                say(line)
    if wants_json():
        emit(listed)
