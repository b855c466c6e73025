"""What need not be sent: bytes found in this upload, in the base, or where the caller knows them to be.

Threads: an `Inventory` belongs to one thread, but for `has_block`; the caller's functions are called in that thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dvfs.store.block import BlockRef, Extent
from dvfs.store.known import KnownBlocks, KnownFiles
from dvfs.store.source import Source


class Previous(NamedTuple):
    """What the base has at a path. *extents*: yields the runs that make up the file."""

    size: int
    digest: bytes
    extents: Callable[[], Iterable[Extent]]


def _nothing_at(source: Source) -> Previous | None:
    """There is no base."""


def _nowhere(digest: bytes, size: int) -> tuple[Extent, ...] | None:
    """Nothing else is known."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Where a caller of packing knows bytes to be.

    *base*: returns what the base has where a source goes, or None. *lookup*: returns where the bytes of a digest and a
    size (of a small file, or of a block of a cut one) are, or None. *blocks*: of cut files, sent by an earlier run or
    found in removed files; all are remembered from the start.
    """

    base: Callable[[Source], Previous | None] = _nothing_at
    lookup: Callable[[bytes, int], tuple[Extent, ...] | None] = _nowhere
    blocks: Iterable[BlockRef] = ()


class Inventory:
    """All bytes that one upload knows to be in the store, or on their way."""

    def __init__(self, reuse: Reuse) -> None:
        self._reuse = reuse
        self._files = KnownFiles()
        self._blocks = KnownBlocks()
        for block in reuse.blocks:
            self._blocks.add(block)
        self.has_block = self._blocks.has

    def add_file(self, digest: bytes, block: BlockRef, start: int, length: int) -> None:
        """Remember a small file at *start* of *block*."""
        self._files.add(digest, block, start, length)

    def add_block(self, block: BlockRef) -> None:
        """Remember a block of a cut file."""
        self._blocks.add(block)

    def add_base(self, source: Source) -> None:
        """Remember the blocks of what the base has at the path of *source*: those that did not change are found."""
        base = self._reuse.base(source)
        if base is not None and base.size:
            for extent in base.extents():
                if _is_whole(extent):
                    self._blocks.add(extent.block)

    def find_file(self, source: Source, digest: bytes) -> tuple[Extent, ...] | None:
        """Return where the bytes of a small file are; None where that is not known."""
        found = self._files.find(digest, source.size)
        if found is not None:
            return (found,)
        if self._blocks and (block := self._blocks.find(digest, source.size)) is not None:
            return (Extent(block, 0, block.raw),)
        base = self._reuse.base(source)
        if base is not None and base.digest == digest and base.size == source.size:
            return tuple(base.extents())
        return self._reuse.lookup(digest, source.size)

    def find_block(self, digest: bytes, raw: int) -> BlockRef | None:
        """Return the whole block of *digest* and *raw* bytes; None where it is not known."""
        block = self._blocks.find(digest, raw)
        if block is not None:
            return block
        found = self._reuse.lookup(digest, raw)
        if found is None or len(found) != 1 or not _is_whole(found[0]):
            return None
        self._blocks.add(found[0].block)
        return found[0].block


def _is_whole(extent: Extent) -> bool:
    return extent.start == 0 and extent.length == extent.block.raw
