"""The bytes of a file under edits: layers of cells, the newest on top, over what a version has.

Used live, and by a commit for the frozen layers. Thread-safe; *wait* says whether the store may be waited for, else
NotCached is raised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from dvfs.fs.overlay.cells import CELL_BYTES
from dvfs.fs.overlay.data import DataFiles, cell_range
from dvfs.fs.overlay.schema import Committed
from dvfs.fs.source import Source
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Content
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import Corrupt

_PIECE_BYTES = 1 << 20


class Held(NamedTuple):
    """What one *layer* holds; below *floor* its cells count, above all of it does. See `Node`."""

    layer: int
    floor: int


class Stack(NamedTuple):
    """A file: what layers hold of it, the newest first, and what lies *below*. *size* in bytes."""

    ino: int
    size: int
    held: tuple[Held, ...]
    below: Committed | None


class Piece(NamedTuple):
    """A run of a file's bytes from *start* to before *stop*: of a *layer*, of the version (0), or zeros (-1)."""

    layer: int
    start: int
    stop: int


BELOW, ZEROS = 0, -1


class Contents:
    """Reads files of *files* over *source*."""

    def __init__(self, files: DataFiles, source: Source) -> None:
        self.files = files
        self._source = source

    def pieces(self, stack: Stack, start: int, stop: int) -> Iterator[Piece]:
        """Yield what the bytes from *start* to before *stop*, inside the file, are made of. Raises OSError."""
        yield from self._pieces(stack, 0, start, stop, stack.size)

    def _pieces(self, stack: Stack, index: int, start: int, stop: int, limit: int) -> Iterator[Piece]:
        end = min(stop, limit)
        if start < end:
            if index < len(stack.held):
                layer, floor = stack.held[index]
                low = min(end, floor)
                if start < low:
                    cells = self.files.get(stack.ino, layer).cells
                    for first, last, is_held in cells.runs(*cell_range(start, low)):
                        begin, finish = max(start, first * CELL_BYTES), min(low, last * CELL_BYTES)
                        if is_held:
                            yield Piece(layer, begin, finish)
                        else:
                            yield from self._pieces(stack, index + 1, begin, finish, floor)
                if low < end:
                    yield Piece(layer, max(start, low), end)
            else:
                size = stack.below.size if stack.below is not None else 0
                low = min(end, size)
                if start < low:
                    yield Piece(BELOW, start, low)
                if low < end:
                    yield Piece(ZEROS, max(start, low), end)
        if end < stop:
            yield Piece(ZEROS, max(start, end), stop)

    def readinto(self, stack: Stack, start: int, buffer: memoryview, *, wait: bool) -> int:
        """Fill *buffer* with bytes from *start* on; return how many, less where the file ends.

        Raises NotCached unless *wait*, OSError, and as the fetcher.
        """
        length = min(len(buffer), stack.size - start)
        if length <= 0:
            return 0
        for layer, begin, end in self.pieces(stack, start, start + length):
            view = buffer[begin - start : end - start]
            if layer == BELOW:
                assert stack.below is not None
                read_content(self._source, stack.below.content, begin, view, wait=wait)
            elif layer == ZEROS:
                view[:] = bytes(len(view))
            else:
                read_data(self.files.get(stack.ino, layer).handle, begin, view)
        return length

    def written(self, stack: Stack) -> list[tuple[int, int]]:
        """Return the byte ranges of the file, in order, that layers hold. Raises OSError."""
        ranges: list[tuple[int, int]] = []
        for layer, begin, end in self.pieces(stack, 0, stack.size):
            if layer > 0:
                if ranges and ranges[-1][1] == begin:
                    ranges[-1] = ranges[-1][0], end
                else:
                    ranges.append((begin, end))
        return ranges


def read_data(handle: int, start: int, view: memoryview) -> None:
    """Fill *view* from a data file; what lies behind its end are zeros. Raises OSError."""
    done = 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], start + done)
        if not count:
            view[done:] = bytes(len(view) - done)
            return
        done += count


def read_content(source: Source, content: Content, start: int, view: memoryview, *, wait: bool) -> None:
    """Fill *view* with bytes of *content* from *start* on. Raises NotCached unless *wait*, Corrupt, as the fetcher."""
    load = source.pages.load_blocks if wait else source.pages.load_blocks_nowait
    done = 0
    for block, begin, size in blocktree.iter_extents(content, start, len(view), load):
        part = view[done : done + size]
        if not source.fetcher.readinto_nowait(block, begin, part):
            if not wait:
                raise NotCached(block)
            part[:] = source.fetcher.read(block, begin, size)
        done += size
    if done != len(view):
        raise Corrupt(f"a file lists blocks of {start + done} bytes where it should have {start + len(view)}")
