"""Pages by reference: encoding into a sink, and decoding what a fetcher brings, checked against its reference.

Stored pages are zstd-compressed. `PageSource` is thread-safe; its memory is an LRU of decoded pages, bounded in bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from dvfs.store.block import BlockRef
from dvfs.store.catalog.blocktree import BlocksPage
from dvfs.store.catalog.columns import MAX_PAGE_BYTES
from dvfs.store.catalog.entry import Item
from dvfs.store.catalog.inner import Inner, PageRef, encode_inner
from dvfs.store.catalog.leaf import Leaf, encode_leaf
from dvfs.store.codec import compress_page, decompress_page
from dvfs.store.errors import Corrupt, DvfsError
from dvfs.store.stalls import Cause, all_of

Page = Leaf | Inner
Load = Callable[[PageRef], Page]
"""Returns the page of a reference; may block, or raise NotCached where nothing may."""

_DECODED_PER_RAW = 3
"""A decoded page takes about so many times its raw bytes (names become objects of 33 bytes and more)."""


class NotCached(Exception):
    """A page is not in memory, and the caller asked not to wait; *ref* is what to load in a thread."""

    def __init__(self, ref: PageRef | BlockRef) -> None:
        super().__init__()
        self.ref = ref


class PageSink(Protocol):
    """Where new pages go."""

    def write(self, stored: bytes) -> BlockRef:
        """Store a page; return where it is, as a RAW block."""
        ...


class BlockSource(Protocol):
    """Where stored pages come from: a `Fetcher`."""

    def block(self, ref: BlockRef, /) -> bytes:
        """Return the raw bytes of a block, verified. Raises as `Fetcher.block`."""
        ...


def write_leaf(items: Sequence[Item], write: Callable[[bytes], BlockRef]) -> PageRef:
    """Encode and store the leaf page of *items*; return its reference."""
    raw = encode_leaf(items)
    page = Leaf(raw)
    block = write(compress_page(raw))
    return PageRef(page.key, 0, page.count, page.files, page.size, page.content, block)


def write_inner(level: int, refs: Sequence[PageRef], write: Callable[[bytes], BlockRef]) -> PageRef:
    """Encode and store the inner page of *level* over *refs*; return its reference."""
    raw = encode_inner(level, refs)
    page = Inner(raw)
    block = write(compress_page(raw))
    return PageRef(page.key, level, page.entries, page.files, page.size, page.content, block)


AnyPage = Leaf | Inner | BlocksPage


class PageSource:
    """Decoded pages by reference: memory first, then the *blocks* source (cache, store).

    *memory_bytes* bounds what the decoded pages take, about.
    """

    def __init__(self, blocks: BlockSource, *, memory_bytes: int = 48 << 20) -> None:
        self._blocks = blocks
        self._limit = memory_bytes // _DECODED_PER_RAW
        self._lock = threading.Lock()
        self._pages: OrderedDict[bytes, AnyPage] = OrderedDict()
        self._weight = 0

    def load(self, ref: PageRef) -> Page:
        """Return the page of *ref*; may wait for the store. Raises Corrupt, and as `Fetcher.block`."""
        page = self._peek(ref.block)
        if page is None:
            page = self._decode(ref.block, Inner if ref.level else Leaf)
        return _check(ref, page)

    def load_nowait(self, ref: PageRef) -> Page:
        """Return the page of *ref* if it is in memory. Raises NotCached, Corrupt."""
        page = self._peek(ref.block)
        if page is None:
            raise NotCached(ref)
        return _check(ref, page)

    def load_blocks(self, ref: BlockRef) -> BlocksPage:
        """Return the page *ref* of a file's tree of blocks; may wait for the store."""
        page = self._peek(ref)
        if page is None:
            page = self._decode(ref, BlocksPage)
        if not isinstance(page, BlocksPage):
            raise Corrupt(_name(ref) + "is no page of blocks")
        return page

    def load_blocks_nowait(self, ref: BlockRef) -> BlocksPage:
        """Return the page *ref* of a file's tree of blocks if it is in memory. Raises NotCached."""
        page = self._peek(ref)
        if page is None:
            raise NotCached(ref)
        if not isinstance(page, BlocksPage):
            raise Corrupt(_name(ref) + "is no page of blocks")
        return page

    def _peek(self, ref: BlockRef) -> AnyPage | None:
        with self._lock:
            page = self._pages.get(ref.digest)
            if page is not None:
                self._pages.move_to_end(ref.digest)
        return page

    def _decode(self, ref: BlockRef, kind: Callable[[bytes], AnyPage]) -> AnyPage:
        with all_of(Cause.CATALOG):
            stored = self._blocks.block(ref)
            try:
                page = kind(decompress_page(stored, MAX_PAGE_BYTES))
            except DvfsError as exc:
                raise type(exc)(_name(ref) + exc.message, hint=exc.hint) from exc
        with self._lock:
            if ref.digest not in self._pages:
                self._pages[ref.digest] = page
                self._weight += page.weight
                while self._weight > self._limit and len(self._pages) > 1:
                    _, old = self._pages.popitem(last=False)
                    self._weight -= old.weight
        return page


def _check(ref: PageRef, page: AnyPage) -> Page:
    if isinstance(page, BlocksPage) or page.level != ref.level:
        raise Corrupt(_name(ref.block) + "is of another kind than its parent says")
    entries = page.count if isinstance(page, Leaf) else page.entries
    said = (ref.key, ref.entries, ref.files, ref.size, ref.content)
    if said != (page.key, entries, page.files, page.size, page.content):
        raise Corrupt(_name(ref.block) + "holds something else than its parent says")
    return page


def _name(ref: BlockRef) -> str:
    return f"page {ref.digest.hex()} (pack {ref.pack.hex()}, offset {ref.offset}): "
