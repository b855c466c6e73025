"""Small files fetched by their own ranges: for readers of a few files here and there, and for caches that cannot keep
the rest of a block until it is read.

Small files lie several to a block. In a block that is not compressed each can be fetched alone, and its digest is that
of a block that holds nothing else: it is verified, and kept in the cache, as such a block.

Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.catalog.entry import Content
from dvfs.store.external import EXTERNAL

_REMEMBERED = 1 << 16
_LEAST_SAVED = 2
"""A file that is more than one part in so many of its block brings all of it."""


class Alone(Enum):
    """Which small files are fetched alone: none, the first one of each block (with the second comes all of it), all."""

    NONE = 0
    FIRST = 1
    EACH = 2


class OwnRanges:
    """Decides how files are fetched. *cached* tells whether a block need not be fetched."""

    def __init__(self, cached: Callable[[BlockRef], bool], alone: Alone = Alone.FIRST) -> None:
        self._cached = cached
        self._alone = alone
        self._first: dict[bytes, int] = {}
        self._told: list[Callable[[], object]] = []

    @property
    def alone(self) -> Alone:
        """Which small files are fetched alone."""
        return self._alone

    @property
    def is_sparing(self) -> bool:
        """Whether no bytes are fetched but those that are read."""
        return self._alone is Alone.EACH

    def on_change(self, forget: Callable[[], object]) -> None:
        """Have *forget* called when what `content` returned before does not hold any more."""
        self._told.append(forget)

    def fetch_alone(self, alone: Alone) -> None:
        """Fetch *alone* from now on."""
        if alone is not self._alone:
            self._alone = alone
            for forget in self._told:
                forget()

    def content(self, content: Content, digest: bytes, size: int) -> Content:
        """Return what to read of a file of *size* bytes that has *content* and *digest*."""
        if self._alone is Alone.NONE or not isinstance(content, tuple) or len(content) != 1:
            return content
        block, start, _ = content[0]
        if block.codec != Codec.RAW or block.storage == EXTERNAL or size * _LEAST_SAVED > block.raw:
            return content
        if self._alone is Alone.FIRST and self._first_of(block, start) != start:
            return content
        if self._alone is Alone.EACH and self._cached(block):
            return content
        own = BlockRef(block.storage, block.pack, block.offset + start, size, size, Codec.RAW, digest)
        return (Extent(own, 0, size),)

    def _first_of(self, block: BlockRef, start: int) -> int | None:
        """Return where in *block* the file begins that is fetched alone, that at *start* if it is the first one."""
        first = self._first.get(block.digest)
        if first is not None or self._cached(block):
            return first
        if len(self._first) >= _REMEMBERED:
            self._first.clear()
        return self._first.setdefault(block.digest, start)
