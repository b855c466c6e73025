"""Who answers for an overlay: the daemon of its mount, or this process when it is not mounted.

A commit is made by the process that was asked for it: it reads the frozen layers itself. The desk does what changes the
overlay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from dvfs.fs.control import Control
from dvfs.fs.overlay import discarding, layers, stashing
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.landed import write_landed
from dvfs.fs.overlay.layers import State
from dvfs.fs.source import Committed


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

    def discard(self, paths: Sequence[bytes] = ()) -> None:
        """Take back the edits at and below *paths*, all when there are none; see `discarding`."""
        ...

    def stash(self) -> None:
        """Put all edits aside; see `stashing.stash`."""
        ...

    def pop(self) -> None:
        """Take the stash up again; see `stashing.pop`."""
        ...

    def drop(self) -> None:
        """Throw the stash away; see `stashing.drop`."""
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
        write_landed(self.folder, self.state().frozen, landed)
        self.control.call("complete", id=version.id, name=version.name, version=version.version, digest=version.digest)

    def abandon(self) -> None:
        self.control.call("abandon")

    def discard(self, paths: Sequence[bytes] = ()) -> None:
        self.control.call("discard", paths=[os.fsdecode(path) for path in paths])

    def stash(self) -> None:
        self.control.call("stash")

    def pop(self) -> None:
        self.control.call("pop")

    def drop(self) -> None:
        self.control.call("drop")

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
        state = layers.complete(self.editing.rows, version.id)
        layers.repoint(self.editing.overlay, state.committed, landed)
        layers.prune(self.editing.rows)

    def abandon(self) -> None:
        layers.abandon(self.editing.rows)

    def discard(self, paths: Sequence[bytes] = ()) -> None:
        if paths:
            discarding.discard(self.editing, paths)
        else:
            discarding.discard_all(self.editing)

    def stash(self) -> None:
        stashing.stash(self.editing)

    def pop(self) -> None:
        stashing.pop(self.editing)

    def drop(self) -> None:
        stashing.drop(self.editing)

    def close(self) -> None:
        self.editing.close()
