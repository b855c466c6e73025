"""Packs: immutable objects of many stored blocks, that can be checked without any catalog.

    pack    = blocks footer trailer
    blocks  = the stored bytes of each block, one directly after another from byte 0 on
    footer  = magic     8 bytes  "dvfspack"
              format    u32      1
              count     u32      number of blocks, n
              version   16 bytes id of the version that wrote the pack
              pack      24 bytes id of the pack; starts with that of the version
              offset    n × u32  where each block starts, in bytes from the start of the pack
              stored    n × u32  its length as stored, in bytes
              raw       n × u32  its length raw, in bytes
              codec     n × u8   0 raw, 1 zstd
              digest    n × 32   block-context digest of its raw bytes
    trailer = length    u32      length of the footer, in bytes
              digest    32 bytes block-context digest of the footer
              magic     8 bytes  "dvfspend"

Numbers are little-endian. A pack is shorter than 2 GiB. Catalog pages are blocks of codec raw here: their
stored bytes are what their digest is over. A data pack and a metadata pack have the same form.

Threads: a `PackBuilder` belongs to one thread; a `PackFooter` is immutable. Digests of blocks are taken as
given when writing and not compared with the blocks when reading: who reads a block verifies it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dvfs.store.backend import Backend
from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.digest import DIGEST_SIZE, Buffer, block_digest
from dvfs.store.errors import Corrupt, Internal, UnsupportedFormat
from dvfs.store.ids import PACK_ID_SIZE, PackId, VersionId, pack_key

FORMAT = 1
MAX_PACK_BYTES = (1 << 31) - 1
TRAILER_BYTES = 4 + DIGEST_SIZE + 8

_HEAD = struct.Struct("<8sII16s24s")
_TRAILER = struct.Struct(f"<I{DIGEST_SIZE}s8s")
_MAGIC = b"dvfspack"
_END_MAGIC = b"dvfspend"
_BLOCK_BYTES = 4 + 4 + 4 + 1 + DIGEST_SIZE
_FIRST_TAIL_BYTES = 64 << 10


def footer_bytes(count: int) -> int:
    """Return what a pack of *count* blocks has after them, in bytes: footer and trailer."""
    return _HEAD.size + count * _BLOCK_BYTES + TRAILER_BYTES


class PackBuilder:
    """A pack in the making; it lies in memory, in *buffer* (which grows where it is too short).

    *storage*: the tag of the storage that it is going to lie in.
    """

    def __init__(self, pack: PackId, buffer: bytearray | None = None, *, storage: int = 0) -> None:
        self.pack = pack
        self._storage = storage
        self.buffer = bytearray() if buffer is None else buffer
        self._end = 0
        self._blocks: list[BlockRef] = []

    def __len__(self) -> int:
        """Return the number of blocks so far."""
        return len(self._blocks)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the blocks so far, as stored, without the footer."""
        return self._end

    def fits(self, stored_bytes: int) -> bool:
        """Tell whether a block of *stored_bytes* more leaves the pack shorter than 2 GiB."""
        return self._end + stored_bytes + footer_bytes(len(self) + 1) <= MAX_PACK_BYTES

    def append(self, stored: Buffer, raw: int, codec: int, digest: bytes) -> BlockRef:
        """Add a block of *raw* bytes, stored under *codec* as *stored*; return the reference to it."""
        size = len(stored)
        if not _is_block(size, raw, codec) or len(digest) != DIGEST_SIZE or not self.fits(size):
            raise Internal(f"no block of a pack: codec {codec}, {size} bytes stored, {raw} raw")
        block = BlockRef(self._storage, self.pack, self._end, size, raw, codec, digest)
        self._add(stored)
        self._blocks.append(block)
        return block

    def finish(self) -> bytearray:
        """Return the whole pack, footer and all: `buffer`, cut to its length; the builder is not used after it."""
        self._add_footer()
        del self.buffer[self._end :]
        return self.buffer

    def finish_in_place(self) -> memoryview:
        """Return the whole pack as a view of `buffer`, which keeps its length; the builder is not used after it."""
        self._add_footer()
        return memoryview(self.buffer)[: self._end]

    def _add_footer(self) -> None:
        count = len(self._blocks)
        footer = b"".join(
            (
                _HEAD.pack(_MAGIC, FORMAT, count, self.pack[:16], self.pack),
                struct.pack(f"<{count}I", *(block.offset for block in self._blocks)),
                struct.pack(f"<{count}I", *(block.stored for block in self._blocks)),
                struct.pack(f"<{count}I", *(block.raw for block in self._blocks)),
                bytes(block.codec for block in self._blocks),
                *(block.digest for block in self._blocks),
            )
        )
        self._add(footer)
        self._add(_TRAILER.pack(len(footer), block_digest(footer), _END_MAGIC))

    def _add(self, data: Buffer) -> None:
        start, self._end = self._end, self._end + len(data)
        if self._end > len(self.buffer):
            del self.buffer[start:]
            self.buffer += data
        else:
            with memoryview(self.buffer) as view:  # a bytearray would copy what it is given before it takes it
                view[start : self._end] = data


@dataclass(frozen=True, slots=True)
class PackFooter:
    """What a pack says of itself.

    *version*: who wrote it. *blocks*: references to its blocks in storage 0, in the order they lie in.
    *pack_bytes*: length of the whole pack.
    """

    version: VersionId
    pack: PackId
    blocks: tuple[BlockRef, ...]
    pack_bytes: int


def parse_footer(tail: Buffer, *, pack: PackId, pack_bytes: int) -> PackFooter:
    """Return the footer in *tail*, the last bytes of the object of *pack*, which is *pack_bytes* long.

    Everything is checked: the blocks of what is returned lie one after another, fill the pack, and have lengths
    and codecs that a block can have. Raises Corrupt, UnsupportedFormat.
    """
    name = f"pack {pack.hex()}"
    length = _footer_length(tail, name)
    if len(tail) < length + TRAILER_BYTES or pack_bytes < length + TRAILER_BYTES:
        raise Corrupt(f"{name} is cut short: its footer of {length} bytes is not all there")
    footer = memoryview(tail)[len(tail) - TRAILER_BYTES - length : len(tail) - TRAILER_BYTES]
    _, digest, _ = _TRAILER.unpack_from(tail, len(tail) - TRAILER_BYTES)
    if block_digest(footer) != digest:
        raise Corrupt(f"{name} has a damaged footer: its digest differs")
    magic, number, count, version, named = _HEAD.unpack_from(footer)
    if magic != _MAGIC:
        raise Corrupt(f"{name} has no footer where its end says")
    if number != FORMAT:
        raise UnsupportedFormat(f"{name} is of format {number}; this dvfs knows format {FORMAT}")
    if named != pack or version != pack[:16]:
        raise Corrupt(f"{name} calls itself {named.hex()} of version {version.hex()}")
    if length != _HEAD.size + count * _BLOCK_BYTES:
        raise Corrupt(f"{name} has a footer of {length} bytes for {count} blocks")
    blocks = _blocks(footer[_HEAD.size :], count, pack)
    end = 0
    for block in blocks:
        if block.offset != end or not _is_block(block.stored, block.raw, block.codec):
            raise Corrupt(f"{name} lists an impossible block at byte {block.offset}")
        end += block.stored
    if end != pack_bytes - TRAILER_BYTES - length or pack_bytes > MAX_PACK_BYTES:
        raise Corrupt(f"{name} is {pack_bytes} bytes long, its blocks end at {end}")
    return PackFooter(VersionId(version.hex()), pack, blocks, pack_bytes)


def _footer_length(tail: Buffer, name: str) -> int:
    """Return how long the footer is, from the trailer at the end of *tail*. Raises Corrupt naming *name*."""
    if len(tail) < TRAILER_BYTES:
        raise Corrupt(f"{name} is cut short: {len(tail)} bytes are no pack")
    length, _, magic = _TRAILER.unpack_from(tail, len(tail) - TRAILER_BYTES)
    if magic != _END_MAGIC:
        raise Corrupt(f"{name} does not end like a pack: it is cut short or overwritten")
    if not _HEAD.size <= length <= MAX_PACK_BYTES:
        raise Corrupt(f"{name} claims a footer of {length} bytes")
    return int(length)


def read_footer(backend: Backend, pack: PackId) -> PackFooter:
    """Return the footer of *pack* from *backend*, in one HEAD and mostly one GET.

    Raises NotFound, Corrupt, UnsupportedFormat, Unavailable.
    """
    key = pack_key(pack)
    size = backend.head(key).size
    start = max(0, size - _FIRST_TAIL_BYTES)
    tail = backend.get(key, start, size - start).data
    length = _footer_length(tail, f"pack {pack.hex()}")
    if start > 0 and len(tail) < length + TRAILER_BYTES <= size:
        start = size - length - TRAILER_BYTES
        tail = backend.get(key, start, size - start).data
    return parse_footer(tail, pack=pack, pack_bytes=size)


def _blocks(columns: memoryview, count: int, pack: PackId) -> tuple[BlockRef, ...]:
    """Decode the *columns* of *count* blocks, whose length has been checked."""
    offsets, stored, raw = (struct.unpack_from(f"<{count}I", columns, 4 * count * column) for column in range(3))
    codecs = bytes(columns[12 * count : 13 * count])
    digests = bytes(columns[13 * count :])
    return tuple(
        BlockRef(0, pack, offset, size, length, codec, digests[at : at + DIGEST_SIZE])
        for offset, size, length, codec, at in zip(
            offsets, stored, raw, codecs, range(0, len(digests), DIGEST_SIZE), strict=True
        )
    )


def _is_block(stored: int, raw: int, codec: int) -> bool:
    """Tell whether a block can have these lengths in bytes and this codec."""
    if codec == Codec.RAW:
        return 0 < stored == raw <= MAX_BLOCK_BYTES
    return codec == Codec.ZSTD and 0 < stored <= raw <= MAX_BLOCK_BYTES


assert _HEAD.size == 8 + 4 + 4 + 16 + PACK_ID_SIZE
