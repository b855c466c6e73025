"""The location table of a page: the blocks that its entries refer to, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef
from dvfs.store.catalog.columns import Column, RawPage, Type, pack_numbers
from dvfs.store.errors import Corrupt
from dvfs.store.ids import PACK_ID_SIZE, PackId

PACKS = 16
PACK_STORAGE = 17
BLOCK_PACK = 18
BLOCK_OFFSET = 19
BLOCK_STORED = 20
BLOCK_RAW = 21
BLOCK_CODEC = 22
BLOCK_DIGEST = 23
TAGS = frozenset(range(PACKS, BLOCK_DIGEST + 1))


def encode_locations(blocks: Sequence[BlockRef]) -> list[Column]:
    """Return the columns that hold *blocks* in this order."""
    if not blocks:
        return []
    storage, pack, offset, stored, raw, codec, digest = zip(*blocks, strict=True)
    places = {place: index for index, place in enumerate(dict.fromkeys(zip(storage, pack, strict=True)))}
    return [
        Column(PACKS, Type.BYTES, 0, b"".join(place[1] for place in places)),
        Column(PACK_STORAGE, Type.U16, 0, pack_numbers(Type.U16, (place[0] for place in places))),
        Column(
            BLOCK_PACK,
            Type.U32,
            0,
            pack_numbers(Type.U32, map(places.__getitem__, zip(storage, pack, strict=True))),
        ),
        Column(BLOCK_OFFSET, Type.U32, 0, pack_numbers(Type.U32, offset)),
        Column(BLOCK_STORED, Type.U32, 0, pack_numbers(Type.U32, stored)),
        Column(BLOCK_RAW, Type.U32, 0, pack_numbers(Type.U32, raw)),
        Column(BLOCK_CODEC, Type.U8, 0, pack_numbers(Type.U8, codec)),
        Column(BLOCK_DIGEST, Type.BYTES, 0, b"".join(digest)),
    ]


class Locations:
    """The decoded location table: item *i* is the *i*-th block."""

    __slots__ = ("_codec", "_digest", "_offset", "_pack", "_packs", "_raw", "_storage", "_stored", "count")

    def __init__(self, page: RawPage) -> None:
        """Raises Corrupt when the columns do not fit each other or a block is longer than blocks may be."""
        digest = page.bytes_of(BLOCK_DIGEST)
        count, rest = divmod(len(digest), 32)
        packs = page.bytes_of(PACKS)
        number, odd = divmod(len(packs), PACK_ID_SIZE)
        if rest or odd:
            raise Corrupt("location table ends inside a value")
        self.count = count
        self._digest = digest
        self._packs = [PackId(packs[at : at + PACK_ID_SIZE]) for at in range(0, len(packs), PACK_ID_SIZE)]
        self._storage = page.numbers(PACK_STORAGE, Type.U16, number)
        self._pack = page.numbers(BLOCK_PACK, Type.U32, count)
        self._offset = page.numbers(BLOCK_OFFSET, Type.U32, count)
        self._stored = page.numbers(BLOCK_STORED, Type.U32, count)
        self._raw = page.numbers(BLOCK_RAW, Type.U32, count)
        self._codec = page.numbers(BLOCK_CODEC, Type.U8, count)
        if count and max(self._pack) >= number:
            raise Corrupt("location table names a pack that it does not list")
        if count and max(chain(self._raw, self._stored)) > MAX_BLOCK_BYTES:
            raise Corrupt(f"location table has a block longer than {MAX_BLOCK_BYTES} bytes")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> BlockRef:
        pack = self._pack[index]
        return BlockRef(
            self._storage[pack],
            self._packs[pack],
            self._offset[index],
            self._stored[index],
            self._raw[index],
            self._codec[index],
            self._digest[32 * index : 32 * index + 32],
        )

    def all(self) -> list[BlockRef]:
        """Return every block in order."""
        packs, storage = self._packs, self._storage
        digests = [self._digest[at : at + 32] for at in range(0, len(self._digest), 32)]
        columns = zip(self._pack, self._offset, self._stored, self._raw, self._codec, digests, strict=True)
        return [BlockRef(storage[pack], packs[pack], *rest) for pack, *rest in columns]
