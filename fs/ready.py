"""Small files that were just looked up are made ready: who reads one next is answered by the shim, without Python.

Programs that read many small files look each up and read it whole. At the first of the two it is seen whether its bytes
are in a file of the cache that is open, verified and in memory: then the shim is told where, and answers the second.

Belongs to the event loop. What the shim may read stays open here, and it answers only while it waits for requests, so
nothing is let go of under it. A file that is evicted meanwhile is kept on the disk until as many others were looked up
as may be ready.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Protocol

from dvfs.fs.errno import Refused
from dvfs.fs.view import Attributes, File, NowaitView
from dvfs.fs.zeroopen import READY_BYTES, READY_FILES
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import DvfsError

JUDGED_FILES = 64

IDLE_LOOKUPS = 1024
"""Where fewer than half of `JUDGED_FILES` that were made ready were read, so many lookups pass before the next one."""


class Giving(Protocol):
    """The part of the shim that is needed; see `dvfs.fs.zeroopen.Shim`."""

    def make_ready(self, inode: int, fd: int, start: int, size: int) -> None: ...

    def given(self) -> list[int]: ...


class ReadyFiles:
    """The files of *view* that *shim* has ready. *note* is told of each that was read."""

    def __init__(self, shim: Giving, view: NowaitView, note: Callable[[int, File, OpenBlock], None]) -> None:
        self._shim = shim
        self._view = view
        self._note = note
        self._held: list[tuple[File, OpenBlock] | None] = [None] * READY_FILES
        self._made = 0
        self._read = 0
        self._passing = 0
        self.given = 0

    def looked_up(self, found: Attributes) -> None:
        """Make the file *found*, which was looked up, ready where that can be, and is worth it."""
        if not 0 < found.size <= READY_BYTES or not stat.S_ISREG(found.mode):
            return
        if self._passing:
            self._passing -= 1
            return
        try:
            place = self._view.place(found.inode)
        except (NotCached, DvfsError, Refused):
            return  # who reads it is told
        if place is None:
            return
        file, block, start = place
        self.catch_up()  # the place may be that of a file which was read
        self._held[found.inode % READY_FILES] = file, block
        self._shim.make_ready(found.inode, block.fd, start, file.size)
        self._made += 1
        if self._made == JUDGED_FILES:
            self._passing = IDLE_LOOKUPS if 2 * self._read < JUDGED_FILES else 0
            self._made = self._read = 0

    def catch_up(self) -> None:
        """Take note of what was read."""
        for inode in self._shim.given():
            held = self._held[inode % READY_FILES]
            assert held is not None
            self._held[inode % READY_FILES] = None
            self._read += 1
            self.given += 1
            self._note(inode, *held)
