"""`dvfs status`: what was edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, json_option, local_path
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.overlays import find_overlay, opened_overlay, overlay_option

if TYPE_CHECKING:
    from dvfs.fs.overlay.changes import Status

_LISTS = {"added": "A", "modified": "M", "removed": "D", "special": "!"}


@click.command(cls=Command, name="status")
@click.argument("directory", metavar="[DIR]", required=False, type=local_path)
@click.option("-s", "--short", is_flag=True, help="A line for each path: A, M, D, R, or ! for what is never kept.")
@overlay_option
@json_option
@common
def command(directory: str | None, short: bool, overlay: str | None) -> None:
    """Say what was edited in the writable mount at DIR, or around the working directory, since the last commit.

    Also what a version will not keep: owners, extended attributes, hard links, special files.
    """
    from dvfs.fs.overlay.questions import status

    found = find_overlay((directory,) if directory else (), overlay, is_whole=True)
    with opened_overlay(found) as session:
        title, edits = status(session.desk, session.store, (session.about.uid, session.about.gid))
    if wants_json():
        emit({"overlay": found.name, "base": title, **_fields(edits)})
    elif short:
        _say_short(edits)
    else:
        _say_long(title, edits)


def _fields(edits: Status) -> dict[str, Json]:
    fields: dict[str, Json] = {key: [name_fields("path", path) for path in getattr(edits, key)] for key in _LISTS}
    fields["renamed"] = [name_fields("from", old) | name_fields("to", new) for old, new in edits.renamed]
    fields["lost"] = [name_fields("path", path) | {"what": what} for path, what in edits.lost]
    return fields


def _say_short(edits: Status) -> None:
    for key, letter in _LISTS.items():
        for path in getattr(edits, key):
            say(f"{letter} {shown(path)}")
    for old, new in edits.renamed:
        say(f"R {shown(old)} -> {shown(new)}")


def _say_long(title: str, edits: Status) -> None:
    say(f"On {title}")
    if edits.is_clean:
        say("No edits.")
    words = {"added": "added", "modified": "modified", "removed": "removed"}
    for key, word in words.items():
        for path in getattr(edits, key):
            say(f"  {word + ':':10} {shown(path)}")
    for old, new in edits.renamed:
        say(f"  {'renamed:':10} {shown(old)} -> {shown(new)}")
    if edits.special or edits.lost:
        say("A version will not keep:")
        for path in edits.special:
            say(f"  {shown(path)} (special file)")
        for path, what in edits.lost:
            say(f"  {shown(path)} ({what})")
