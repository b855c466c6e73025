"""Inner pages: references to pages of the level below, with their first keys, counts and digests."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, islice
from operator import lt
from typing import NamedTuple

from dvfs.store.block import BlockRef, Codec
from dvfs.store.catalog.columns import (
    CRITICAL,
    DIGESTED,
    Column,
    Kind,
    RawPage,
    Type,
    encode_page,
    pack_numbers,
)
from dvfs.store.catalog.locations import TAGS as LOCATION_TAGS
from dvfs.store.catalog.locations import Locations, encode_locations
from dvfs.store.digest import inner_digest
from dvfs.store.errors import Corrupt

KEY_LENGTHS = 32
KEYS = 33
ENTRIES = 34
FILES = 35
BYTES = 36
CONTENTS = 37
_KNOWN = frozenset(range(KEY_LENGTHS, CONTENTS + 1)) | LOCATION_TAGS

_BOTH = DIGESTED | CRITICAL


class PageRef(NamedTuple):
    """A page as its parent, or a record, refers to it.

    *key*: its first key. *level*: 0 for a leaf. *entries*, *files*, *size*: what it holds, counted, the files' sizes
    added up. *content*: its content digest. *block*: the stored page as a RAW block, whose digest is the page's byte
    digest.
    """

    key: bytes
    level: int
    entries: int
    files: int
    size: int
    content: bytes
    block: BlockRef


def encode_inner(level: int, refs: Sequence[PageRef]) -> bytes:
    """Return the raw inner page of *level* over *refs*, which are in order of key and of the level below."""
    key, _, entries, files, size, content, block = zip(*refs, strict=True)
    columns = [
        Column(KEY_LENGTHS, Type.U32, _BOTH, pack_numbers(Type.U32, map(len, key))),
        Column(KEYS, Type.BYTES, _BOTH, b"".join(key)),
        Column(ENTRIES, Type.U64, _BOTH, pack_numbers(Type.U64, entries)),
        Column(FILES, Type.U64, _BOTH, pack_numbers(Type.U64, files)),
        Column(BYTES, Type.U64, _BOTH, pack_numbers(Type.U64, size)),
        Column(CONTENTS, Type.DIGEST, _BOTH, b"".join(content)),
        *encode_locations(block),
    ]
    return encode_page(Kind.INNER, level, len(refs), columns)


class Inner:
    """A decoded inner page. Immutable and thread-safe."""

    __slots__ = (
        "_contents", "_entries", "_files", "_locations", "_sizes", "content", "count", "entries", "files",
        "key", "keys", "level", "ranks", "size", "weight",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        """Decode and check the raw page *data*. Raises Corrupt, UnsupportedFormat."""
        page = RawPage(data)
        if page.kind != Kind.INNER or not page.level:
            raise Corrupt(f"page of kind {page.kind} where an inner page belongs")
        page.unknown(_KNOWN)
        self.weight = len(data)
        self.level = page.level
        self.count = count = page.count
        if not count:
            raise Corrupt("inner page without children")
        self.content = inner_digest(page.digested())
        bounds = list(accumulate(page.numbers(KEY_LENGTHS, Type.U32, count), initial=0))
        keys = page.bytes_of(KEYS)
        if bounds[-1] != len(keys):
            raise Corrupt("inner page: keys do not fit their lengths")
        self.keys = [keys[start:stop] for start, stop in zip(bounds, islice(bounds, 1, None), strict=False)]
        if not all(map(lt, self.keys, islice(self.keys, 1, None))):
            raise Corrupt("inner page: keys are out of order")
        self.key = self.keys[0]
        self._entries = page.numbers(ENTRIES, Type.U64, count)
        self._files = page.numbers(FILES, Type.U64, count)
        self._sizes = page.numbers(BYTES, Type.U64, count)
        self._contents = page.digests(CONTENTS, count)
        if not all(self._entries):
            raise Corrupt("inner page: a child without entries")
        self.ranks = list(accumulate(self._entries, initial=0))
        self.entries, self.files, self.size = self.ranks[-1], sum(self._files), sum(self._sizes)
        self._locations = Locations(page)
        if len(self._locations) != count:
            raise Corrupt("inner page: children and locations differ in number")

    def child(self, index: int) -> PageRef:
        """Return the reference to child *index*. Raises Corrupt when it is no stored page."""
        block = self._locations[index]
        if block.codec != Codec.RAW or block.raw != block.stored:
            raise Corrupt("inner page: a child is not referred to by its stored bytes")
        return PageRef(
            self.keys[index],
            self.level - 1,
            self._entries[index],
            self._files[index],
            self._sizes[index],
            self._contents[32 * index : 32 * index + 32],
            block,
        )

    def index_of(self, key: bytes) -> int:
        """Return which child *key* belongs to: the last whose first key is not above it, else the first."""
        return max(bisect_right(self.keys, key) - 1, 0)

    def index_at(self, rank: int) -> int:
        """Return which child holds the entry at *rank*, counted from the first of this page."""
        return bisect_right(self.ranks, rank) - 1

    def children(self) -> list[PageRef]:
        """Return the references to all children."""
        return [self.child(index) for index in range(self.count)]
