"""What an upload knows of bytes that the store has, or is being sent: digest → where they are, in bounded memory.

When a table is full it remembers no more; then bytes may be sent twice, nothing else.

Threads: one thread adds; `KnownBlocks.has` and the `find`s may be called from any.
"""

from __future__ import annotations

import struct
from array import array

from dvfs.store.block import BlockRef, Extent
from dvfs.store.digest import DIGEST_SIZE
from dvfs.store.ids import PackId

MAX_FILES = 1_000_000
MAX_BLOCKS = 1_000_000

_REF = struct.Struct("<I24sIIIB32s")
_DIGEST_AT = _REF.size - DIGEST_SIZE
_LENGTH_BITS = 23
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1


class KnownFiles:
    """Small files by digest, each with one run that holds its bytes; about 150 bytes of memory for each."""

    def __init__(self, *, most: int = MAX_FILES) -> None:
        """Remember at most *most* files."""
        self._most = most
        self._blocks: list[BlockRef] = []
        self._runs: dict[bytes, int] = {}

    def add(self, digest: bytes, block: BlockRef, start: int, length: int) -> None:
        """Remember that the *length* bytes of *digest* are at *start* of *block*."""
        if len(self._runs) >= self._most:
            return
        if not self._blocks or self._blocks[-1] is not block:
            self._blocks.append(block)
        # One number for each file: a tuple would take three times the memory.
        number = (len(self._blocks) - 1) << _LENGTH_BITS | start
        self._runs[digest] = number << _LENGTH_BITS | length

    def find(self, digest: bytes, length: int) -> Extent | None:
        """Return where the *length* bytes of *digest* are; None where that is not known."""
        run = self._runs.get(digest)
        if run is None or run & _LENGTH_MASK != length:
            return None
        number = run >> _LENGTH_BITS
        return Extent(self._blocks[number >> _LENGTH_BITS], number & _LENGTH_MASK, length)


class KnownBlocks:
    """Blocks of cut files by digest: an open-addressed table over flat arrays, about 90 bytes for each."""

    def __init__(self, *, most: int = MAX_BLOCKS) -> None:
        """Remember at most *most* blocks."""
        self._most = most
        self._refs = bytearray()
        # One attribute, replaced as a whole when it grows, so that readers in other threads see both or none.
        self._table = (array("I", bytes(4 << 10)), (1 << 10) - 1)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._refs) // _REF.size

    def add(self, block: BlockRef) -> None:
        """Remember *block*; the first one of a digest stays."""
        if len(self) >= self._most or self._number(block.digest):
            return
        self._refs += _REF.pack(*block)
        slots, mask = self._table
        if 2 * len(self) > mask:
            self._grow()
        else:
            self._enter(slots, mask, len(self))

    def has(self, digest: bytes) -> bool:
        """Tell whether there is a block of *digest*."""
        return self._number(digest) != 0

    def find(self, digest: bytes, raw: int) -> BlockRef | None:
        """Return the block of *digest* and *raw* bytes; None where it is not known."""
        number = self._number(digest)
        if not number:
            return None
        storage, pack, *rest = _REF.unpack_from(self._refs, (number - 1) * _REF.size)
        block = BlockRef(storage, PackId(pack), *rest)
        return block if block.raw == raw else None

    def _number(self, digest: bytes) -> int:
        """Return the number of the block of *digest*, counted from 1; 0 where there is none."""
        slots, mask = self._table
        at = int.from_bytes(digest[:8], "little") & mask
        while number := slots[at]:
            if self._refs.startswith(digest, (number - 1) * _REF.size + _DIGEST_AT):
                return number
            at = (at + 1) & mask
        return 0

    def _enter(self, slots: array[int], mask: int, number: int) -> None:
        start = (number - 1) * _REF.size + _DIGEST_AT
        at = int.from_bytes(self._refs[start : start + 8], "little") & mask
        while slots[at]:
            at = (at + 1) & mask
        slots[at] = number

    def _grow(self) -> None:
        """Make a table of twice the size, of all blocks."""
        mask = 2 * self._table[1] + 1
        slots = array("I", bytes(4 * (mask + 1)))
        for number in range(1, len(self) + 1):
            self._enter(slots, mask, number)
        self._table = (slots, mask)
