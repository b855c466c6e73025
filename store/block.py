"""Blocks: the unit of compression, naming, deduplication, and by default of transfer and caching."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from dvfs.store.ids import PackId

MAX_BLOCK_BYTES = 4 << 20
"""No block is longer than this, raw; a longer one is refused by a reader."""


class Codec(IntEnum):
    """How the bytes of a block are stored."""

    RAW = 0
    ZSTD = 1


class BlockRef(NamedTuple):
    """Where a block was written, and its truth, the digest. A tuple, because millions are made.

    *storage*: tag of the storage (0 = the store itself). *pack*, *offset*: place of the stored bytes.
    *stored*, *raw*: lengths in bytes, stored and decompressed. *digest*: block-context digest of the raw bytes.
    A stored page is referenced as a RAW block of its stored bytes: its digest is the page's byte digest.
    """

    storage: int
    pack: PackId
    offset: int
    stored: int
    raw: int
    codec: int
    digest: bytes


class Extent(NamedTuple):
    """A run of a file's bytes: *length* bytes at *start* of the raw bytes of *block*."""

    block: BlockRef
    start: int
    length: int
