"""Recutting: the blocks of a file that was edited in place, reading it only around the edits.

A cut depends on the bytes from the cut before it up to one byte after itself, and on nothing else. So a block whose
bytes, and the one that follows, are as they were, and that starts at a cut, is a block of the edited file too. From
the block before an edit on the file is cut anew, until a new cut falls on an old one behind which nothing changed: the
result is that of cutting the whole edited file.

Threads: a running `recut` belongs to one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from dvfs.store.block import Extent
from dvfs.store.cut import Cutter, Cutting

_READ_BYTES = 4 << 20
_AHEAD_BYTES = 2
"""A cut is sure once so many bytes behind it are there: the cutter takes bytes in pairs."""

_FOREVER = 1 << 63

ReadAt = Callable[[int, memoryview], None]
"""Fills the view with the bytes of the edited file from a position in bytes on."""


def dirty_ranges(
    written: Iterable[tuple[int, int]], *, floor: int, before_size: int, size: int
) -> Iterator[tuple[int, int]]:
    """Yield what may differ in a file of *size* bytes, sorted: ranges *written*, and all from where old bytes end.

    Old bytes end at *floor*, or where the old file of *before_size* bytes or the new one ends, if one is shorter. The
    byte before that counts too: the end of a file decides on a cut right before it.
    """
    end = min(floor, before_size, size)
    end = _FOREVER if end == before_size == size else max(0, end - 1)
    for start, stop in written:
        if start >= end:
            break
        yield start, min(stop, end)
    if end < _FOREVER:
        yield end, _FOREVER


def recut(
    old: Iterable[Extent], dirty: Iterable[tuple[int, int]], size: int, cutting: Cutting, read_at: ReadAt
) -> Iterator[memoryview | Extent]:
    """Yield the blocks of the edited file of *size* bytes, in order: raw bytes, good until the next, or an old block.

    *old*: the blocks of the file before, as it was cut, each whole. *dirty*: ranges [start, stop) in bytes that may
    differ, sorted and disjoint; the last reaches beyond *size* where the length changed. *read_at* is called for
    ranges in order, none twice. At most `max_bytes` + 4 MiB are in memory. Raises what *read_at* raises.
    """
    marks = _Marks(old, dirty)
    window = _Window(size, cutting, read_at)
    at = 0
    while at < size:
        block = marks.clean_block(at)
        if block is not None:
            yield block
            at += block.length
            continue
        raw = window.cut(at, marks)
        yield raw
        at += len(raw)


def is_cut(extents: Iterable[Extent]) -> bool:
    """Tell whether *extents* are whole blocks, as they are of a file that was cut."""
    return all(extent.start == 0 and extent.length == extent.block.raw for extent in extents)


class _Marks:
    """Old blocks and dirty ranges around a position that only grows."""

    def __init__(self, old: Iterable[Extent], dirty: Iterable[tuple[int, int]]) -> None:
        self._old = iter(old)
        self._dirty = chain(dirty, [(_FOREVER, _FOREVER)])
        self._range = next(self._dirty)
        self._blocks: deque[tuple[int, Extent]] = deque()
        self._end = 0

    def clean_block(self, at: int) -> Extent | None:
        """Return the old block that starts at *at*, if it is one of the edited file."""
        while self._range[1] <= at:
            self._range = next(self._dirty)
        while self._blocks and self._blocks[0][0] < at:
            self._blocks.popleft()
        while not self._blocks and self._end <= at and self._take():
            if self._blocks[0][0] < at:
                self._blocks.popleft()
        if not self._blocks or self._blocks[0][0] != at:
            return None
        block = self._blocks[0][1]
        return block if self._range[0] > at + block.length else None

    def next_cut(self, after: int) -> int:
        """Return the first old cut above *after* at which old blocks may go on, far away when there is none."""
        least = after + 1
        first, last = self._range
        if first <= after:
            least = max(least, last)
        if least == _FOREVER:
            return _FOREVER
        while self._end < least and self._take():
            if self._end < least and self._blocks[-1][0] >= first:
                self._blocks.pop()  # lies in a dirty range, however long that is
        for start, extent in self._blocks:
            if start + extent.length >= least:
                return start + extent.length
        return self._end if self._end >= least else _FOREVER

    def _take(self) -> bool:
        extent = next(self._old, None)
        if extent is None:
            return False
        self._blocks.append((self._end, extent))
        self._end += extent.length
        return True


class _Window:
    """Bytes of the edited file, read as far as the next cut needs."""

    def __init__(self, size: int, cutting: Cutting, read_at: ReadAt) -> None:
        self._size = size
        self._cutter = Cutter(cutting)
        self._most = cutting.max_bytes
        self._read_at = read_at
        self._view = memoryview(bytearray(0))
        self._start = 0
        self._from = self._to = 0

    def cut(self, at: int, marks: _Marks) -> memoryview:
        """Return the bytes of the block that starts at *at*; good until the next call."""
        self._move(at)
        goal = at
        while True:
            goal = marks.next_cut(goal)
            self._fill(min(goal + _AHEAD_BYTES, self._size))
            data = self._view[self._from : self._to]
            length = self._cutter.first(data)
            if length < len(data) or length == self._most or at + length == self._size:
                return data[:length]

    def _move(self, at: int) -> None:
        """Let the window start at byte *at* of the file."""
        ahead = at - self._start
        self._start = at
        self._from = min(self._from + ahead, self._to)
        if self._from == self._to:
            self._from = self._to = 0

    def _fill(self, stop: int) -> None:
        """Read up to byte *stop* of the file, as far as there is room."""
        want = stop - self._start
        have = self._to - self._from
        if want <= have:
            return
        if self._from + min(want, self._most) > len(self._view):
            self._make_room(want)
        more = min(self._from + want, len(self._view)) - self._to
        if more > 0:
            self._read_at(self._start + have, self._view[self._to : self._to + more])
            self._to += more

    def _make_room(self, want: int) -> None:
        have = self._to - self._from
        kept = self._view[self._from : self._to]
        room = min(want, self._most + _READ_BYTES)
        if len(self._view) < room:
            self._view = memoryview(bytearray(room))
        self._view[:have] = kept
        self._from, self._to = 0, have
