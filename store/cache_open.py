"""Blocks of the cache that are open to be read, and the memory that they are read into.

A descriptor is closed when the last `OpenBlock` of its `OpenFile` goes, so never under a reader: the reference count is
the use count. Threading rule: any number of threads may read one `OpenBlock`; a `Scratch` has memory for each thread.
"""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cache_whole import Place
from dvfs.store.digest import DIGEST_SIZE, block_digest, seal_of

_MIN_OPEN = 16
_MAX_OPEN = 4096


class Scratch(threading.local):
    """A buffer for each thread, as long as the longest read so far: fresh memory costs more than the read."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(1 << 17))

    def of(self, length: int) -> memoryview:
        """Return *length* bytes of it, which the next call in this thread gives again."""
        if len(self._view) < length:
            self._view = memoryview(bytearray(length))
        return self._view[:length]


class OpenFile:
    """An open file of the cache, whose descriptor *fd* is closed with it; of one block, or of some that lie in it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def is_removed(self) -> bool:
        """Whether it has no name any more. Raises OSError."""
        return os.fstat(self.fd).st_nlink == 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)


class OpenBlock:
    """A verified block: *size* bytes from byte *start* of *file*, which the index has in that *row*; *fd* is that of
    the file, *used* is set by each read, cleared by the LRU."""

    __slots__ = ("fd", "file", "row", "size", "start", "used")

    def __init__(self, file: OpenFile, size: int, row: bytes, start: int = 0) -> None:
        self.file = file
        self.fd = file.fd
        self.row = row
        self.size = size
        self.start = start
        self.used = True


def verified_bytes(
    fd: int,
    found: os.stat_result,
    digest: bytes,
    place: Place | None,
    buffer: Callable[[int], memoryview],
    into: memoryview | None = None,
) -> memoryview | None:
    """Return the bytes of the block, if those in the file *fd*, *found*, at *place* (None: all) are the block *digest*.

    They are in *into*, if that is as long, or in what *buffer* returns for their length. None when they are not.
    Raises OSError.
    """
    size = found.st_size if place is None else place.length
    if not stat.S_ISREG(found.st_mode) or size > MAX_BLOCK_BYTES:
        return None
    data = into if into is not None and len(into) == size else buffer(size)
    if os.preadv(fd, [data], 0 if place is None else place.start) != size:
        return None
    if block_digest(data) == digest:
        return data
    if place is not None:
        return None
    sealed, seal = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
    if size <= DIGEST_SIZE or seal != seal_of(digest, sealed):
        return None
    if into is None or len(into) != len(sealed):
        return sealed
    into[:] = sealed
    return into


def default_max_open() -> int:
    """Return how many blocks may be open: a quarter of the descriptors that the process may have, within bounds."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_OPEN if soft == resource.RLIM_INFINITY else max(_MIN_OPEN, min(soft // 4, _MAX_OPEN))
