"""What a daemon does for its overlay when it is asked at the control socket."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pyfuse3

from dvfs.fs.control_server import Handler
from dvfs.fs.overlay import layers
from dvfs.fs.overlay.discarding import Forgotten, Plan, apply, discard, discard_all, names_of, plan
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.landed import take_landed
from dvfs.fs.overlay.snapshot import Snapshot
from dvfs.fs.overlay.stashing import drop, pop, stash, sync_disk
from dvfs.fs.source import Committed
from dvfs.fs.view import Identity
from dvfs.fs.writable_operations import WritableOperations
from dvfs.store.errors import Conflict, DvfsError

_log = logging.getLogger(__name__)

_MOST_PLANS = 3
"""How often a plan may come too late before all others wait for one."""


class Live:
    """The overlay *editing* behind *operations*; *on_committed* is told what the mount goes on as."""

    def __init__(
        self, operations: WritableOperations, editing: Editing, on_committed: Callable[[Committed], None]
    ) -> None:
        self._operations = operations
        self._editing = editing
        self._on_committed = on_committed

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        calls: tuple[Handler, ...] = (
            self.state, self.freeze, self.complete, self.abandon, self.discard, self.stash, self.pop, self.drop,
        )  # fmt: skip
        return {call.__name__: call for call in calls}

    async def state(self) -> dict[str, Any]:
        """Answer with `layers.state`, after a checkpoint."""
        self._editing.rows.checkpoint()
        return layers.state(self._editing.rows)._asdict()

    async def freeze(self, pending: str) -> dict[str, Any]:
        """Do `layers.freeze`, when no write is on its way."""
        async with self._operations.gate.alone():
            return layers.freeze(self._editing.rows, pending)._asdict()

    async def abandon(self) -> dict[str, Any]:
        """Do `layers.abandon`."""
        return layers.abandon(self._editing.rows)._asdict()

    async def complete(self, **version: str) -> dict[str, Any]:
        """Do `layers.complete`, and `take_landed`, a part at a time."""
        editing = self._editing
        committed = Committed(**version)
        layers.complete(editing.rows, committed.id)
        self._operations.identify(
            Identity(committed.id.encode(), committed.version.encode(), committed.digest.encode())
        )
        self._on_committed(committed)
        steps = take_landed(editing.folder.path, editing.overlay)
        is_done = False
        while not is_done:
            async with self._operations.gate.alone():
                is_done = next(steps, self) is self
        layers.prune(editing.rows)
        return {}

    async def discard(self, paths: list[str]) -> dict[str, Any]:
        """Do `discarding.discard_all`, or plan what becomes of *paths* in a thread and do that."""
        editing = self._editing
        wanted = [os.fsencode(path) for path in paths]
        if not wanted:
            await self._take_back(partial(discard_all, editing))
            return {}
        for _ in range(_MOST_PLANS):
            editing.rows.checkpoint()
            planned = await self._operations.run_chore(partial(self._plan, wanted))
            try:
                await self._take_back(partial(apply, editing, planned))
            except Conflict:
                continue  # somebody was quicker
            return {}
        await self._take_back(partial(discard, editing, wanted))  # what it needs of the store is here by now
        return {}

    async def stash(self) -> dict[str, Any]:
        """Do `stashing.stash`; most of it is on the disk before."""
        await self._operations.run_chore(partial(sync_disk, self._editing.folder.path))
        await self._take_back(partial(stash, self._editing))
        return {}

    async def pop(self) -> dict[str, Any]:
        """Do `stashing.pop`."""
        await self._take_back(partial(pop, self._editing))
        return {}

    async def drop(self) -> dict[str, Any]:
        """Do `stashing.drop`."""
        drop(self._editing)
        return {}

    def _plan(self, paths: list[bytes]) -> Plan:
        editing = self._editing
        about = editing.folder.about
        assert about is not None
        with closing(Snapshot(editing.folder.path, editing.view)) as snapshot:
            return plan(snapshot, paths, (about.uid, about.gid))

    async def _take_back(self, work: Callable[[], Forgotten]) -> None:
        """Do *work* while nothing else is done, and have the kernel forget what it changed."""
        async with self._operations.gate.alone():
            forgotten = work()
            self._operations.renew(forgotten.files)
        await self._operations.run_chore(partial(self._tell_kernel, forgotten))

    def _tell_kernel(self, forgotten: Forgotten) -> None:
        """Have the kernel forget. It waits for requests that are under way: to be called in a thread."""
        editing = self._editing
        about = editing.folder.about
        assert about is not None
        with closing(Snapshot(editing.folder.path, editing.view)) as snapshot:
            try:
                renewed = set(names_of(snapshot, forgotten.files))
                paths = [path for key in renewed if (path := snapshot.path_of(key, snapshot.top)) is not None]
            except DvfsError as exc:
                _log.warning("not all names are known of what was taken back: %s", exc.message)
                renewed, paths = set(), []
        for key in renewed.union(forgotten.names):
            _tell(partial(pyfuse3.invalidate_entry, *key))
        for ino in forgotten.inodes:
            _tell(partial(pyfuse3.invalidate_inode, ino))
        for path in paths:  # when it looks a file up again, what is written to the former one fails
            try:
                os.lstat(os.path.join(os.fsencode(about.directory), path))
            except OSError:
                pass


def _tell(call: Callable[[], None]) -> None:
    try:
        call()
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # it does not know it at all
            _log.warning("the kernel does not forget: %s", exc)
