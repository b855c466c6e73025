"""Who answers for an overlay: the daemon of its mount, or this process when it is not mounted.

A commit is made by the process that was asked for it: it reads the frozen layers itself. The desk does what changes the
overlay.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from dvfs.fs.control import Control
from dvfs.fs.overlay import layers
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.layers import State
from dvfs.fs.source import Committed

LANDED = "landed"
_ROW = struct.Struct("<QI")
_AT_ONCE = 1000


class Desk(Protocol):
    """Answers for one overlay, in *folder*. Raises as `Editing` and `layers`; Unavailable when it is gone."""

    folder: Path

    def state(self) -> State:
        """Return how far it is committed; what was changed until now can be read by others afterwards."""
        ...

    def freeze(self, pending: str) -> State:
        """See `layers.freeze`."""
        ...

    def complete(self, version: Committed, landed: Iterable[tuple[int, bytes]]) -> None:
        """Take the commit that was begun as landed, as *version*; see `layers.complete` and `layers.repoint`."""
        ...

    def abandon(self) -> None:
        """See `layers.abandon`."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LiveDesk:
    """The daemon that has the overlay in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = Control(folder)

    def state(self) -> State:
        return State(**self.control.call("state"))

    def freeze(self, pending: str) -> State:
        return State(**self.control.call("freeze", pending=pending))

    def complete(self, version: Committed, landed: Iterable[tuple[int, bytes]]) -> None:
        write_landed(self.folder / LANDED, landed)
        self.control.call("complete", id=version.id, name=version.name, version=version.version, digest=version.digest)

    def abandon(self) -> None:
        self.control.call("abandon")

    def close(self) -> None:
        self.control.close()


class LocalDesk:
    """This process, which opened the overlay *editing*."""

    def __init__(self, editing: Editing) -> None:
        self.editing = editing
        self.folder = editing.folder.path

    def state(self) -> State:
        self.editing.rows.checkpoint()
        return layers.state(self.editing.rows)

    def freeze(self, pending: str) -> State:
        return layers.freeze(self.editing.rows, pending)

    def complete(self, version: Committed, landed: Iterable[tuple[int, bytes]]) -> None:
        state = layers.complete(self.editing.rows)
        layers.repoint(self.editing.overlay, state.committed, landed)
        layers.prune(self.editing.rows)

    def abandon(self) -> None:
        layers.abandon(self.editing.rows)

    def close(self) -> None:
        self.editing.close()


def write_landed(path: Path, landed: Iterable[tuple[int, bytes]]) -> None:
    """Write *landed* to *path*, for `read_landed`: a million files would not go through a socket."""
    with path.open("wb") as file:
        for ino, source in landed:
            file.write(_ROW.pack(ino, len(source)) + source)


def read_landed(path: Path) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the rows that `write_landed` wrote to *path*, some at once."""
    with path.open("rb") as file:

        def rows() -> Iterator[tuple[int, bytes]]:
            while head := file.read(_ROW.size):
                ino, size = _ROW.unpack(head)
                yield ino, file.read(size)

        found = rows()
        while some := list(islice(found, _AT_ONCE)):
            yield some
