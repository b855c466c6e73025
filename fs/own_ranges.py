"""Small files fetched by their own ranges: for readers of a few files here and there, where nothing is fetched ahead.

Small files lie several to a block. In a block that is not compressed each can be fetched alone, and its digest is that
of a block that holds nothing else: it is verified, and kept in the cache, as such a block.

Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.entry import Content
from dvfs.store.external import EXTERNAL

_REMEMBERED = 1 << 16
_LEAST_SAVED = 2
"""A file that is more than one part in so many of its block brings all of it."""


class OwnRanges:
    """Decides how files are fetched: the first one of a block alone, with the second all of it, as more may follow.

    *cached* tells whether a block need not be fetched.
    """

    def __init__(self, cached: Callable[[BlockRef], bool]) -> None:
        self._cached = cached
        self._first: dict[bytes, int] = {}

    def content(self, content: Content, digest: bytes, size: int) -> Content:
        """Return what to read of a file of *size* bytes that has *content* and *digest*."""
        if not isinstance(content, tuple) or len(content) != 1:
            return content
        block, start, _ = content[0]
        if block.codec != Codec.RAW or block.storage == EXTERNAL or size * _LEAST_SAVED > block.raw:
            return content
        first = self._first.get(block.digest)
        if first is None:
            if self._cached(block):
                return content
            if len(self._first) >= _REMEMBERED:
                self._first.clear()
            first = self._first.setdefault(block.digest, start)
        if first != start:
            return content
        own = BlockRef(block.storage, block.pack, block.offset + start, size, size, Codec.RAW, digest)
        return (Extent(own, 0, size),)
