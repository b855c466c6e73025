"""What workers and the leader of a mount tell each other: notes of reads, and a few bytes of memory that all share.

Notes are advice: they are sent in batches, and dropped where the leader does not keep up. Each belongs to one thread of
its process.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from dvfs.fs.own_ranges import Alone
from dvfs.fs.view import File
from dvfs.store.cache_verified import SharedVerified
from dvfs.store.catalog.inner import PageRef

MOST_MESSAGE_BYTES = 1 << 16

_READS = b"r"
_PAGE = b"p"
_MOST_READS = 64
_FIELDS = 6


class ReadNote(NamedTuple):
    """A read of *length* bytes from byte *start* on of the file *inode*, which has that *rank* and *size* in bytes."""

    inode: int
    rank: int
    size: int
    start: int
    length: int
    waited: int


class Notes:
    """Sends the notes of a worker through *channel*; takes them in the place of a `Prefetcher`. Never blocks."""

    is_filling = False

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reads = array("q")

    def note_read(self, inode: int, file: File, start: int, length: int, *, waited: bool) -> None:
        """Take note of a read of *file*, which *waited* or was served at once."""
        self._reads.extend((inode, file.rank, file.size, start, length, waited))
        if len(self._reads) >= _MOST_READS * _FIELDS:
            self.flush()

    def note_missed_page(self, ref: PageRef) -> None:
        """Take note that somebody waits for the page *ref*."""
        if not ref.level:
            self._send(_PAGE + ref.key)

    def flush(self) -> None:
        """Send what was noted."""
        if self._reads:
            self._send(_READS + self._reads.tobytes())
            del self._reads[:]

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._channel.send(message, socket.MSG_DONTWAIT)


def missed_page(message: bytes) -> bytes | None:
    """Return the key of the page that the note *message* is about; None when it is about none."""
    return message[1:] if message.startswith(_PAGE) else None


def reads(message: bytes) -> Iterator[ReadNote]:
    """Yield the reads that the note *message* is about."""
    if message.startswith(_READS):
        values = array("q")
        values.frombytes(message[1:])
        for at in range(0, len(values), _FIELDS):
            yield ReadNote(*values[at : at + _FIELDS])


class Board:
    """What the leader decides for all, and what is verified of the cache (`verified`): memory that is shared with the
    processes forked after it was made."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.verified = SharedVerified()

    @property
    def stands_back(self) -> bool:
        """Whether workers take no requests."""
        return self._memory[0] != 0

    def stand_back(self, is_so: bool) -> None:
        """Have workers take no requests if *is_so*."""
        self._memory[0] = is_so

    @property
    def alone(self) -> Alone:
        """Which small files are fetched alone."""
        return Alone(self._memory[1])

    def fetch_alone(self, alone: Alone) -> None:
        """Have small files fetched *alone*."""
        self._memory[1] = alone.value
