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

MAX_FILES = 2_000_000
MAX_BLOCKS = 1_000_000

_QUICK_FILES = 1 << 18
"""So many files are kept in a dict, which is quicker; the rest in a table of a third of its memory."""

_PLACE = struct.Struct("<I24sIIIB")
_RUN = struct.Struct("<III")
_LENGTH_BITS = 23
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1


class DigestTable:
    """Digest → *payload_bytes* bytes: an open-addressed table over flat arrays, for *most* digests."""

    def __init__(self, payload_bytes: int, most: int) -> None:
        self._record_bytes = DIGEST_SIZE + payload_bytes
        self._most = most
        self._records = bytearray()
        # One attribute, replaced as a whole when it grows, so that readers in other threads see both or none.
        self._slots = (array("I", bytes(4 << 10)), (1 << 10) - 1)

    def __len__(self) -> int:
        """Return the number of digests."""
        return len(self._records) // self._record_bytes

    def add(self, digest: bytes, payload: bytes) -> None:
        """Remember *payload*; the first one of a digest stays."""
        if len(self) >= self._most or self._record(digest) >= 0:
            return
        self._records += digest + payload
        slots, mask = self._slots
        if 2 * len(self) > mask:
            self._grow()
        else:
            self._enter(slots, mask, len(self))

    def has(self, digest: bytes) -> bool:
        """Tell whether *digest* is there."""
        return self._record(digest) >= 0

    def find(self, digest: bytes) -> bytes | None:
        """Return the payload of *digest*; None where it is not known."""
        at = self._record(digest)
        return None if at < 0 else bytes(self._records[at + DIGEST_SIZE : at + self._record_bytes])

    def _record(self, digest: bytes) -> int:
        """Return where the record of *digest* starts; -1 where there is none."""
        slots, mask = self._slots
        slot = int.from_bytes(digest[:8], "little") & mask
        while number := slots[slot]:
            at = (number - 1) * self._record_bytes
            if self._records.startswith(digest, at):
                return at
            slot = (slot + 1) & mask
        return -1

    def _enter(self, slots: array[int], mask: int, number: int) -> None:
        """Note record *number*, counted from 1, in the first free one of its *slots*."""
        at = (number - 1) * self._record_bytes
        slot = int.from_bytes(self._records[at : at + 8], "little") & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = number

    def _grow(self) -> None:
        """Make twice as many slots, and note all records in them."""
        mask = 2 * self._slots[1] + 1
        slots = array("I", bytes(4 * (mask + 1)))
        for number in range(1, len(self) + 1):
            self._enter(slots, mask, number)
        self._slots = (slots, mask)


class KnownFiles:
    """Small files by digest, each with one run that holds its bytes."""

    def __init__(self, *, most: int = MAX_FILES, quick: int = _QUICK_FILES) -> None:
        """Remember at most *most* files, *quick* of them where they are found most quickly."""
        self._quick = quick
        self._blocks: list[BlockRef] = []
        self._runs: dict[bytes, int] = {}
        self._others = DigestTable(_RUN.size, max(0, most - quick))

    def add(self, digest: bytes, block: BlockRef, start: int, length: int) -> None:
        """Remember that the *length* bytes of *digest* are at *start* of *block*."""
        if not self._blocks or self._blocks[-1] is not block:
            self._blocks.append(block)
        index = len(self._blocks) - 1
        if len(self._runs) < self._quick:
            # One number for each file: a tuple would take three times the memory.
            self._runs[digest] = (index << _LENGTH_BITS | start) << _LENGTH_BITS | length
        else:
            self._others.add(digest, _RUN.pack(index, start, length))

    def find(self, digest: bytes, length: int) -> Extent | None:
        """Return where the *length* bytes of *digest* are; None where that is not known."""
        run = self._runs.get(digest)
        if run is not None:
            index, start, found = run >> 2 * _LENGTH_BITS, run >> _LENGTH_BITS & _LENGTH_MASK, run & _LENGTH_MASK
        elif self._others and (payload := self._others.find(digest)) is not None:
            index, start, found = _RUN.unpack(payload)
        else:
            return None
        return Extent(self._blocks[index], start, length) if found == length else None


class KnownBlocks:
    """Blocks of cut files by digest, about 90 bytes of memory for each."""

    def __init__(self, *, most: int = MAX_BLOCKS) -> None:
        """Remember at most *most* blocks."""
        self._table = DigestTable(_PLACE.size, most)

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._table)

    def add(self, block: BlockRef) -> None:
        """Remember *block*; the first one of a digest stays."""
        self._table.add(block.digest, _PLACE.pack(*block[:-1]))

    def has(self, digest: bytes) -> bool:
        """Tell whether there is a block of *digest*."""
        return self._table.has(digest)

    def find(self, digest: bytes, raw: int) -> BlockRef | None:
        """Return the block of *digest* and *raw* bytes; None where it is not known."""
        payload = self._table.find(digest)
        if payload is None:
            return None
        storage, pack, offset, stored, found, codec = _PLACE.unpack(payload)
        return BlockRef(storage, PackId(pack), offset, stored, raw, codec, digest) if found == raw else None
