"""`dvfs mounts`: list the mounts of this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dvfs.cli.options import Command, common, json_option
from dvfs.cli.output import Json, emit, name_fields, say, shown, wants_json
from dvfs.cli.session import configuration

if TYPE_CHECKING:
    from dvfs.fs.mounts import Mount

_ROW = "{:40} | {:40} | {:32} | {:7} | {}"


@click.command(cls=Command, name="mounts")
@json_option
@common
def command() -> None:
    """List the mounts of this machine that were made with this state folder."""
    from dvfs.fs.mounts import Mounts

    found = Mounts(configuration().state_dir).all()
    if wants_json():
        emit([_fields(mount) for mount in found])
        return
    head = _ROW.format("directory", "dataset", "id", "pid", "status")
    say(head)
    say("-" * len(head))
    for mount in found:
        say(_ROW.format(shown(mount.directory), shown(mount.title), mount.id, mount.pid, _status(mount)))


def _status(mount: Mount) -> str:
    return "served" if mount.is_served else "dead"


def _fields(mount: Mount) -> Json:
    return {
        **name_fields("directory", os.fsencode(mount.directory)),
        "id": mount.id,
        "name": mount.name,
        "version": mount.version,
        "digest": mount.digest,
        "pid": mount.pid,
        "status": _status(mount),
        "log": mount.log,
    }
