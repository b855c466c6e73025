"""`dvfs diff`: what was edited, file by file."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, common, json_option, local_path
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.overlays import find_overlay, opened_overlay, overlay_option


@click.command(cls=Command, name="diff")
@click.argument("paths", metavar="[PATH...]", nargs=-1, type=local_path)
@overlay_option
@json_option
@common
def command(paths: tuple[str, ...], overlay: str | None) -> None:
    """Show the edits at and below each PATH, or of the whole mount around the working directory: names, sizes, text."""
    from dvfs.fs.overlay.questions import differences

    found = find_overlay(paths, overlay)
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
