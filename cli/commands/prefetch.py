"""`dvfs prefetch`: tell a mount in which order its files will be read."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from dvfs.cli.options import Command, common, json_option, local_path, quiet_option
from dvfs.cli.output import emit, note, say, shown, wants_json, wants_quiet
from dvfs.cli.session import configuration
from dvfs.store.errors import InvalidInput, NotFound, Unsupported


@click.command(cls=Command, name="prefetch")
@click.option("--order", type=click.File("rb"), required=True, metavar="FILE", help="Paths, a line each; `-` is stdin.")
@click.option("-0", "--null", "by_null", is_flag=True, help="Paths end with a NUL and not with a newline.")
@click.argument("directory", metavar="DIR", type=local_path)
@quiet_option()
@json_option
@common
def command(order: BinaryIO, by_null: bool, directory: str) -> None:
    """Fetch the files of a mount in the order in which they will be read, ahead of their reader.

    DIR is a mount or a directory in one; paths that do not begin with / are relative to it. An order takes the place
    of the one before. Where the cache is smaller than the version, each file is fetched by itself, and once.
    """
    from dvfs.fs.mounts import Mounts
    from dvfs.fs.orders import hand_in, inodes_of

    table = Mounts(configuration().state_dir)
    mount = table.holding(Path(directory))
    if mount is None:
        raise NotFound(f"{shown(directory)} is in no mount of dvfs", hint="`dvfs mounts` lists them")
    if mount.overlay:
        raise Unsupported(f"{shown(mount.directory)} takes edits; an order needs a read-only mount")
    place = os.fsencode(os.path.abspath(directory))
    paths = (os.path.join(place, path) for path in _paths(order, b"\0" if by_null else b"\n"))
    found = inodes_of(paths, os.stat(mount.directory).st_dev)
    inodes = array("Q", filter(None, found))
    others = len(found) - len(inodes)
    if not inodes:
        raise InvalidInput(f"no path of the order is in {shown(mount.directory)}")
    files = hand_in(table.control_folder(Path(mount.directory), mount.pid), inodes)
    if wants_json():
        emit({"files": files, "others": others})
        return
    if others:
        note(f"warning: {others} paths of the order are not in {shown(mount.directory)}")
    if not wants_quiet():
        say(f"{shown(mount.directory)} fetches {files} files in that order")


def _paths(file: BinaryIO, end: bytes) -> Iterator[bytes]:
    return (path for path in file.read().split(end) if path)
