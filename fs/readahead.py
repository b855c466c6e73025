"""What will be read next, judged by what was read: inside a file, across files in catalog order, and among pages.

There is no OPEN to go by, so READ alone drives it. Pure arithmetic, no I/O and no threads: an object belongs to the
event loop, which tells it each read and hands the jobs that come back to a `Prefetcher`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FIRST_WINDOW_BYTES = 1 << 20
MAX_WINDOW_BYTES = 256 << 20
FIRST_ENTRIES_BYTES = 4 << 20
SLACK_BYTES = 2 << 20
"""Reads of one reader arrive out of order by so much: the kernel keeps several under way."""

SLACK_RANKS = 32
"""Files that several workers read in catalog order are begun out of order by so much."""

IN_ORDER_FILES = 4
"""So many files begun in order, and the next ones are wanted."""

RANDOM_READS = 20
"""So many reads that had to wait and followed nothing, and reading looks random."""

WHOLE_FILE_READS = 4
WHOLE_FILE_BYTES = 2 << 30
"""So many such reads inside one file, of so many bytes at most, and all of it is wanted."""

_MOST_RANDOM = 2 * RANDOM_READS
"""After half as many reads in order they do not look random any more."""

FIRST_PAGES = 3
MAX_PAGES = 64
_STREAMS = 256


class FileAhead(NamedTuple):
    """Bytes *start* to *stop* of the file *inode* will be read."""

    inode: int
    start: int
    stop: int


class EntriesAhead(NamedTuple):
    """Files from rank *first* on will be read; *size* bytes of them are wanted."""

    first: int
    size: int


Job = FileAhead | EntriesAhead


@dataclass(slots=True)
class _Stream:
    """A reader of one file: where its next read starts, how far ahead is wanted, and its window, in bytes.

    *random*: reads of it that had to wait and followed nothing. *is_whole*: all of it was wanted.
    """

    next: int
    ahead: int
    window: int = 0
    random: int = 0
    is_whole: bool = False


class ReadAhead:
    """Watches the reads of one mount. *max_window_bytes*: most bytes wanted ahead of a reader; 0 switches it off."""

    def __init__(self, *, max_window_bytes: int = MAX_WINDOW_BYTES) -> None:
        self._max = max_window_bytes
        self._wants_whole = max_window_bytes > 0
        self._first = min(FIRST_WINDOW_BYTES, max_window_bytes)
        self._streams: dict[int, _Stream] = {}
        self._front = -1
        self._run = 0
        self._entries_window = min(FIRST_ENTRIES_BYTES, max_window_bytes)
        self._entries_from = 0
        self._entries_to = 0
        self._random = 0

    def limit(self, max_window_bytes: int, *, wants_whole: bool) -> None:
        """Want at most *max_window_bytes* ahead of a reader from now on, if that is less than before; *wants_whole*:
        whether a file is ever wanted whole."""
        self._max = min(self._max, max_window_bytes)
        self._wants_whole = self._wants_whole and wants_whole

    @property
    def looks_random(self) -> bool:
        """Whether reads follow no order that could be read ahead in."""
        return self._random >= RANDOM_READS

    def note(self, inode: int, rank: int, size: int, start: int, length: int, *, waited: bool) -> Job | None:
        """Take note that *length* bytes at *start* of a file of *size* bytes are read; return what to fetch ahead.

        *waited*: the bytes were not at hand.
        """
        if start == 0:
            job = self._note_file(rank, waited)
            if size > length:
                self._begin(inode, length)
            return job
        return self._note_bytes(inode, size, start, start + length, waited)

    def reached(self, job: EntriesAhead, stop: int) -> None:
        """Take note that *job* wants all files up to, not including, rank *stop*.

        This and `limit` may be called by other threads: at worst files are wanted twice, which costs no request.
        """
        self._entries_from, self._entries_to = job.first, max(stop, job.first)

    def _begin(self, inode: int, end: int) -> _Stream:
        if len(self._streams) >= _STREAMS:
            del self._streams[next(iter(self._streams))]
        stream = self._streams[inode] = _Stream(end, end)
        return stream

    def _note_bytes(self, inode: int, size: int, start: int, end: int, waited: bool) -> Job | None:
        stream = self._streams.get(inode)
        if stream is None or not -SLACK_BYTES <= start - stream.next <= SLACK_BYTES:
            self._random = min(self._random + waited, _MOST_RANDOM)
            return self._note_jump(inode, size, end, waited)
        stream.random = max(0, stream.random - 1)
        stream.next = max(stream.next, end)
        stream.ahead = max(stream.ahead, stream.next)
        self._random = max(0, self._random - 1)
        if not self._max or stream.ahead >= size or stream.ahead - stream.next > stream.window // 2:
            return None
        stream.window = min(2 * stream.window, self._max) if stream.window else self._first
        job = FileAhead(inode, stream.ahead, min(stream.next + stream.window, size))
        if job.stop <= job.start:
            return None
        stream.ahead = job.stop
        return job

    def _note_jump(self, inode: int, size: int, end: int, waited: bool) -> Job | None:
        before = self._streams.get(inode)
        stream = self._begin(inode, end)
        if before is not None:
            stream.random, stream.is_whole = before.random, before.is_whole
        stream.random += waited
        if stream.is_whole or stream.random < WHOLE_FILE_READS or size > WHOLE_FILE_BYTES or not self._wants_whole:
            return None
        stream.is_whole = True
        return FileAhead(inode, 0, size)

    def _note_file(self, rank: int, waited: bool) -> Job | None:
        step = rank - self._front
        if step > SLACK_RANKS or step < -SLACK_RANKS:
            self._random = min(self._random + waited, _MOST_RANDOM)
            self._run = 1
            self._front = rank
            self._entries_from = self._entries_to = 0
            self._entries_window = min(FIRST_ENTRIES_BYTES, self._max)
            return None
        if step <= 0:
            return None
        self._front = rank
        self._run += 1
        self._random = max(0, self._random - 1)
        middle = (self._entries_from + self._entries_to) // 2
        if not self._max or self._run < IN_ORDER_FILES or (self._entries_to > rank and rank < middle):
            return None
        job = EntriesAhead(max(self._entries_to, rank + 1), self._entries_window)
        # Until `reached` says how far the job went, one step of slack stands for it.
        self._entries_from, self._entries_to = job.first, job.first + 2 * SLACK_RANKS
        self._entries_window = min(2 * self._entries_window, self._max)
        return job


class PagesAhead:
    """How many leaf pages after one that is not in memory are wanted: more, the longer they are walked in order."""

    def __init__(self) -> None:
        self._parent = b""
        self._last = -1
        self._stop = -1
        self._window = FIRST_PAGES

    def note(self, parent: bytes, index: int) -> range:
        """Take note that child *index* of the inner page *parent* (its digest) is needed; return those to want."""
        if parent == self._parent:
            is_next = self._last <= index <= self._stop
        else:  # one that is begun at its first child was mostly come to from the one before
            is_next = index == 0 and self._last > 0
            self._stop = 1 if is_next else -1
        self._parent, self._last = parent, index
        start = index + 1
        if is_next:
            if self._stop - index > self._window // 2:
                return range(start, start)
            self._window = min(2 * self._window, MAX_PAGES)
            start = max(start, self._stop)
        else:
            self._window = FIRST_PAGES
        self._stop = index + 1 + self._window
        return range(start, self._stop)
