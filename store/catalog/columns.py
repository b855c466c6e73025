"""Columnar pages: a header, a directory of columns, the columns. Layout in docs/format.md, "Pages".

All numbers are little-endian. The directory tells of each column its tag, type, length, whether it counts for the
content digest and whether a reader that does not know it must refuse the page.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from dvfs.store.digest import Buffer
from dvfs.store.errors import Corrupt, UnsupportedFormat

MAGIC = b"dvP1"
MAX_PAGE_BYTES = 8 << 20
"""No page is longer than this, decompressed."""

DIGESTED = 1
CRITICAL = 2

_HEADER = struct.Struct("<4sBBHI")
_COLUMN = struct.Struct("<HBBI")


class Kind(IntEnum):
    """What a page holds."""

    LEAF = 0
    INNER = 1
    BLOCKS = 2
    BLOCKS_INNER = 3


class Type(IntEnum):
    """How a column is laid. BYTES belongs to the page; the others hold one value for each entry.

    VAR: u32 lengths of the values, then the values.
    """

    BYTES = 0
    U8 = 1
    U16 = 2
    U32 = 3
    U64 = 4
    I64 = 5
    DIGEST = 6
    VAR = 7


WIDTH = {Type.U8: 1, Type.U16: 2, Type.U32: 4, Type.U64: 8, Type.I64: 8, Type.DIGEST: 32}
_CODE = {Type.U8: "B", Type.U16: "H", Type.U32: "I", Type.U64: "Q", Type.I64: "q"}
_SWAP = sys.byteorder == "big"

Numbers = Sequence[int]


class Column(NamedTuple):
    """One column: *data* is a view of its bytes."""

    tag: int
    type: int
    flags: int
    data: Buffer


def pack_numbers(kind: Type, values: Iterable[int]) -> bytes:
    """Return *values* as a packed column of type *kind*. Raises OverflowError for a value that does not fit."""
    packed = array(_CODE[kind], values)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def unpack_numbers(kind: Type, data: Buffer) -> Numbers:
    """Return the values of a packed column; the caller has checked that its length fits *kind*."""
    if _SWAP:
        unpacked = array(_CODE[kind], bytes(data))
        unpacked.byteswap()
        return unpacked
    return memoryview(data).cast(_CODE[kind])  # type: ignore[call-overload, no-any-return]


def encode_page(kind: Kind, level: int, count: int, columns: Iterable[Column]) -> bytes:
    """Return the raw bytes of a page of *count* entries; columns that are empty are left out."""
    kept = sorted(column for column in columns if len(column.data))
    parts: list[Buffer] = [_HEADER.pack(MAGIC, kind, level, len(kept), count)]
    parts += [_COLUMN.pack(column.tag, column.type, column.flags, len(column.data)) for column in kept]
    parts += [column.data for column in kept]
    return b"".join(parts)


class RawPage:
    """A page taken apart into columns, its directory checked against its length."""

    __slots__ = ("columns", "count", "kind", "level")

    def __init__(self, data: bytes) -> None:
        """Raises Corrupt when *data* is no page."""
        if len(data) < _HEADER.size:
            raise Corrupt("page is shorter than its header")
        magic, self.kind, self.level, number, self.count = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise Corrupt(f"page starts with {magic!r}, not {MAGIC!r}")
        at = _HEADER.size + number * _COLUMN.size
        if at > len(data):
            raise Corrupt("page ends inside its directory of columns")
        view = memoryview(data)
        self.columns: dict[int, Column] = {}
        last = -1
        for position in range(_HEADER.size, at, _COLUMN.size):
            tag, kind, flags, length = _COLUMN.unpack_from(data, position)
            if tag <= last:
                raise Corrupt("page lists its columns out of order")
            last = tag
            if at + length > len(data):
                raise Corrupt(f"page ends inside column {tag}")
            self.columns[tag] = Column(tag, kind, flags, view[at : at + length])
            at += length
        if at != len(data):
            raise Corrupt(f"page has {len(data) - at} bytes after its last column")

    def digested(self) -> bytes:
        """Return what the content digest covers: kind, level, count and the digested columns in order of tag."""
        parts: list[Buffer] = [_HEADER.pack(MAGIC, self.kind, self.level, 0, self.count)]
        for column in self.columns.values():
            if column.flags & DIGESTED:
                parts.append(_COLUMN.pack(column.tag, column.type, DIGESTED, len(column.data)))
                parts.append(column.data)
        return b"".join(parts)

    def bytes_of(self, tag: int) -> bytes:
        """Return column *tag* as bytes, b"" when the page has none."""
        column = self.columns.get(tag)
        return bytes(column.data) if column is not None else b""

    def numbers(self, tag: int, kind: Type, count: int) -> Numbers:
        """Return the *count* values of column *tag*. Raises Corrupt when it has another type or length."""
        column = self.columns.get(tag)
        if column is None:
            if count:
                raise Corrupt(f"page lacks column {tag}")
            return ()
        if column.type != kind or len(column.data) != count * WIDTH[kind]:
            raise Corrupt(f"column {tag} has type {column.type} and {len(column.data)} bytes, not {count} values")
        return unpack_numbers(kind, column.data)

    def digests(self, tag: int, count: int) -> bytes:
        """Return the *count* digests of column *tag*, 32 bytes each, end to end."""
        data = self.bytes_of(tag)
        if len(data) != 32 * count:
            raise Corrupt(f"column {tag} has {len(data)} bytes, not {count} digests")
        return data

    def unknown(self, known: frozenset[int]) -> list[Column]:
        """Return the columns that are not *known*. Raises UnsupportedFormat for a critical one."""
        if self.columns.keys() <= known:
            return []
        others = [column for tag, column in self.columns.items() if tag not in known]
        for column in others:
            if column.flags & CRITICAL:
                raise UnsupportedFormat(
                    f"page has column {column.tag}, which this dvfs cannot do without knowing",
                    hint="read this version with a newer dvfs",
                )
        return others
