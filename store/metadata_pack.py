"""Where a writer's catalog pages go: metadata packs of one version, leaves first, root last.

Pages that are not yet in the store can be read back from here. Belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.catalog.inner import PageRef
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.errors import Corrupt
from dvfs.store.ids import PackId, VersionId, new_pack_id, pack_key
from dvfs.store.pack import PackBuilder
from dvfs.store.record import Root

TAIL_BYTES = 256 << 10
"""A tail holds as many of the last pages as fit in so many bytes, the root at least."""

Put = Callable[[str, Buffer], object]
Keep = Callable[[bytes, bytes], object]


class BlockSource(Protocol):
    """Gives stored blocks: a `Fetcher`."""

    def block(self, ref: BlockRef, /) -> bytes:
        """Return the raw bytes of a block."""
        ...


class MetadataPacks:
    """Pages on their way into packs of *version*; *put*(key, pack) stores one.

    A pack is stored when it holds *pack_bytes*, the last one by `finish`. *behind* gives the pages that are not from
    here; *keep*(digest, stored) is told each page that is in the store now, for the local cache.
    """

    def __init__(
        self,
        version: VersionId,
        put: Put,
        behind: BlockSource,
        *,
        keep: Keep,
        pack_bytes: int = 32 << 20,
        tail_bytes: int = TAIL_BYTES,
    ) -> None:
        self._version = version
        self._put = put
        self._behind = behind
        self._keep = keep
        self._pack_bytes = pack_bytes
        self._tail_bytes = tail_bytes
        self._builder: PackBuilder | None = None
        self._pages: dict[bytes, tuple[BlockRef, bytes]] = {}
        self.uploaded_bytes = 0

    def write(self, stored: bytes) -> BlockRef:
        """Take a stored page; return where it will be."""
        digest = block_digest(stored)
        known = self._pages.get(digest)
        if known is not None:
            return known[0]
        if self._builder is None:
            self._builder = PackBuilder(self._new_id())
        ref = self._builder.append(stored, len(stored), Codec.RAW, digest)
        self._pages[digest] = ref, stored
        if self._builder.stored_bytes >= self._pack_bytes:
            self._flush()
        return ref

    def block(self, ref: BlockRef, /) -> bytes:
        """Return the stored page *ref*, from here or from behind."""
        known = self._pages.get(ref.digest)
        return known[1] if known is not None else self._behind.block(ref)

    def finish(self, page: PageRef) -> Root:
        """Store what is left; return the root *page* with its tail.

        The tail is the end of the last pack's pages where the root is the last of them, else the root's page alone.
        """
        builder = self._builder
        if builder is None or page.block.pack != builder.pack:
            self._flush()
            return Root(page, page.block)
        tail = self._tail(builder, page.block)
        self._flush()
        return Root(page, tail)

    def _tail(self, builder: PackBuilder, root: BlockRef) -> BlockRef:
        mine = [(ref, stored) for ref, stored in self._pages.values() if ref.pack == builder.pack]
        if not mine or mine[-1][0] != root:
            return root
        limit = min(self._tail_bytes, MAX_BLOCK_BYTES)
        parts: list[bytes] = []
        start = root.offset + root.stored
        for ref, stored in reversed(mine):
            if parts and root.offset + root.stored - ref.offset > limit:
                break
            parts.append(stored)
            start = ref.offset
        tail = b"".join(reversed(parts))
        self._keep(block_digest(tail), tail)
        return BlockRef(0, root.pack, start, len(tail), len(tail), Codec.RAW, block_digest(tail))

    def _flush(self) -> None:
        builder, self._builder = self._builder, None
        if builder is None:
            return
        pack = builder.finish()
        self._put(pack_key(builder.pack), pack)
        self.uploaded_bytes += len(pack)
        for digest, (ref, stored) in self._pages.items():
            if ref.pack == builder.pack:
                self._keep(digest, stored)
        self._pages = {}

    def _new_id(self) -> PackId:
        return new_pack_id(self._version)


class TailBlocks:
    """Blocks of which those in a *tail* come with it, in one request; the others from *behind*. Thread-safe.

    Of a damaged tail each block is asked for by itself: those that are sound can be read.
    """

    def __init__(self, tail: BlockRef, behind: BlockSource) -> None:
        self._tail = tail
        self._behind = behind
        self._bytes: bytes | None = None

    def block(self, ref: BlockRef, /) -> bytes:
        """Return the raw bytes of *ref*, verified. Raises as `Fetcher.block`."""
        tail = self._tail
        at = ref.offset - tail.offset
        if ref.pack != tail.pack or ref.storage != tail.storage or at < 0 or at + ref.stored > tail.stored:
            return self._behind.block(ref)
        if self._bytes is None:
            try:
                self._bytes = self._behind.block(tail)
            except Corrupt:
                return self._behind.block(ref)
        data = self._bytes[at : at + ref.stored]
        return data if block_digest(data) == ref.digest else self._behind.block(ref)
