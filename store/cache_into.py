"""Writes blocks where they lie in a whole file of the cache, those that follow one another in one go.

The kernel keeps what is written at once in one folio, if that begins where such a one may, and reads large ones faster.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_whole import Place, holds, is_blank, write_at
from dvfs.store.digest import Buffer

_TRIES = 4
_REMEMBERED_BYTES = 16 << 20


class Laid(NamedTuple):
    """A block that shall lie at *place* in its file of *size* bytes: its *digest*, and its *data*."""

    digest: bytes
    data: Buffer
    place: Place
    size: int


class WriteCost:
    """How much processor time writing took of late, the kernel's and that of making its pages.

    Of the thread that writes alone, so it tells nothing of waiting: for a processor, another thread, or the disk.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self._ns = 0

    @property
    def ns_per_mib(self) -> int:
        """Nanoseconds for 1 MiB; 0 as long as nothing was written."""
        with self._lock:
            return (self._ns << 20) // self._bytes if self._bytes else 0

    def note(self, size: int, ns: int) -> None:
        """Take note that writing *size* bytes took *ns* nanoseconds."""
        with self._lock:
            self._bytes += size
            self._ns += ns
            if self._bytes >= _REMEMBERED_BYTES:
                self._bytes //= 2
                self._ns //= 2


def runs(blocks: Iterable[Laid]) -> Iterator[list[Laid]]:
    """Yield the *blocks*, those together that follow one another in one file."""
    run: list[Laid] = []
    for block in blocks:
        if run and (block.place.file, block.place.start) != (run[-1].place.file, _end(run[-1].place)):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def write_into(files: BlockFiles, run: Sequence[Laid], cost: WriteCost) -> bool:
    """Write the blocks of *run*, at least one, where they lie, and keep them open in *files*; *cost* takes note.

    Returns whether that was done: not where the file is of another size, or has other bytes there. Raises OSError.
    """
    (file, start, _), size = run[0].place, run[0].size
    whole = Place(file, start, _end(run[-1].place) - start)
    if _end(whole) > size:
        return False
    for _ in range(_TRIES):
        try:
            fd = files.open_to_write(file, size)
        except FileExistsError:
            return False
        try:
            with files.writing(file):
                is_new = is_blank(fd, whole)
                if is_new:
                    began = time.thread_time_ns()
                    write_at(fd, [block.data for block in run], start)
                    cost.note(whole.length, time.thread_time_ns() - began)
            if not is_new and not all(holds(fd, block.digest, block.place) for block in run):
                return False
            if files.link_and_keep(fd, [(block.digest, block.place) for block in run]):
                return True
        finally:
            os.close(fd)
    return False


def _end(place: Place) -> int:
    return place.start + place.length
