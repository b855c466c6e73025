"""`dvfs overlays`: list the edits that this machine keeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, json_option
from dvfs.cli.output import Json, emit, name_fields, say, shown, shown_size, wants_json
from dvfs.cli.session import configuration

if TYPE_CHECKING:
    from dvfs.fs.overlay.listing import Listed

_ROW = "{:40} | {:40} | {:32} | {:>10} | {:24} | {}"
_STATES = {"dead": "its daemon died", "busy": "in use", "unmounted": "not mounted"}


@click.command(cls=Command, name="overlays")
@json_option
@common
def command() -> None:
    """List the overlays of this state folder: what each lies on, what it takes on the disk, and who uses it.

    One that is not mounted is taken up by `dvfs mount --rw` of its dataset at the same directory, or by --overlay NAME.
    """
    from dvfs.fs.mounts import Mounts
    from dvfs.fs.overlay.home import Overlays
    from dvfs.fs.overlay.listing import listed

    state_dir = configuration().state_dir
    found = listed(Overlays(state_dir), Mounts(state_dir).all())
    if wants_json():
        emit([_fields(item) for item in found])
        return
    head = _ROW.format("overlay", "dataset", "id", "size", "holds", "where")
    say(head)
    say("-" * len(head))
    for item in found:
        where = _STATES.get(item.use.value) or shown(item.directory or "")
        size = shown_size(item.disk_bytes)
        say(_ROW.format(item.name, shown(item.about.title), item.about.base, size, _holds(item), where))


def _holds(item: Listed) -> str:
    if item.has_edits is None:
        return "?"
    holds = {"edits": item.has_edits, "stash": item.has_stash, "a commit begun": item.has_begun}
    return ", ".join(word for word, is_there in holds.items() if is_there) or "-"


def _fields(item: Listed) -> Json:
    about = item.about
    return {
        "overlay": item.name,
        "id": about.base,
        "name": about.dataset,
        "version": about.version,
        "store": about.store,
        "committed": item.child or None,
        "bytes": item.disk_bytes,
        "status": item.use.value,
        **name_fields("directory", os.fsencode(about.directory)),
        "edits": item.has_edits,
        "stash": item.has_stash,
        "commit_begun": item.has_begun,
    }
