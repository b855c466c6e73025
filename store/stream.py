"""A file of a version as a Python file object: it reads by ranges, and fetches ahead of who reads in order.

A stream belongs to one thread at a time, as files do. It may be carried over a fork: each process reads through its own
opened version.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Entry
from dvfs.store.errors import Corrupt, DvfsError

if TYPE_CHECKING:
    from dvfs.store.open_versions import OpenVersion
    from dvfs.store.version import Version

BUFFER_BYTES = 256 << 10
FIRST_AHEAD_BYTES = 1 << 20
MOST_AHEAD_BYTES = 32 << 20
"""Most bytes that are wanted before they are read."""


class Stream(io.RawIOBase):
    """The bytes of the file of *entry*, unbuffered.

    *open_here* returns its version, opened in this process. *as_os_error* makes an OSError of an error of the store.
    *buffer_bytes*: reads up to this length end where a block ends, as they only fill a buffer.
    """

    def __init__(
        self,
        entry: Entry,
        open_here: Callable[[], OpenVersion],
        as_os_error: Callable[[DvfsError], OSError],
        *,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        super().__init__()
        self._entry = entry
        self._open_here = open_here
        self._as_os_error = as_os_error
        self._buffer_bytes = buffer_bytes
        self._opened: tuple[int, OpenVersion] | None = None
        self._position = 0
        self._next = -1  # where reading goes on if it is in order
        self._in_order = 0  # bytes that were read in order until now
        self._wanted_to = 0

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._entry.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check_open()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence: {whence}")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed: any writable buffer
        self._check_open()
        view = memoryview(buffer).cast("B")
        start = self._position
        stop = min(self.size, start + len(view))
        if start >= stop:
            return 0
        try:
            done = self._fill(view, start, stop)
        except DvfsError as exc:
            raise self._as_os_error(exc) from exc
        self._position = start + done
        return done

    def readall(self) -> bytes:
        self._check_open()
        data = bytearray(max(0, self.size - self._position))
        view = memoryview(data)
        done = 0
        while done < len(data):
            done += self.readinto(view[done:])
        return bytes(data)

    def _fill(self, view: memoryview, start: int, stop: int) -> int:
        """Fill *view* with bytes *start* to *stop*, or fewer; return how many."""
        version = self._version()
        load = version.pages.load_blocks
        is_short = stop - start <= self._buffer_bytes
        ahead = self._ahead(start, stop)
        done = 0
        for block, at, size in blocktree.iter_extents(self._entry.content, start, stop - start, load):
            if done and (is_short or done >= FIRST_AHEAD_BYTES):
                break
            if not done:
                self._want(version, start + size, ahead)
            version.fetcher.readinto(block, at, view[done : done + size])
            done += size
        if not done:
            raise Corrupt(f"a file of {self.size} bytes lists fewer (digest {self._entry.digest.hex()})")
        self._next = start + done
        self._in_order += done
        return done

    def _ahead(self, start: int, stop: int) -> int:
        """Return up to where bytes are going to be read, as far as it can be told."""
        if start != self._next:
            self._in_order = 0
            self._wanted_to = start
        window = max(FIRST_AHEAD_BYTES, self._in_order) if self._in_order else 0
        return min(self.size, max(stop, start + window), start + MOST_AHEAD_BYTES)

    def _want(self, version: Version, start: int, stop: int) -> None:
        """Have bytes *start* to *stop* fetched in the background, a good number at a time."""
        start = max(start, self._wanted_to)
        if stop - start < FIRST_AHEAD_BYTES and stop < self.size:
            return
        if start < stop:
            extents = blocktree.iter_extents(self._entry.content, start, stop - start, version.pages.load_blocks)
            version.fetcher.want(extent.block for extent in extents)
            self._wanted_to = stop

    def _version(self) -> Version:
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            self._opened = (process, self._open_here())
        return self._opened[1].version

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
