"""Versions that no dvfs would write: pages of any content, with digests and references that make them look right."""

from __future__ import annotations

from collections.abc import Sequence

from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog.columns import Column, RawPage, encode_page
from dvfs.store.catalog.entry import Item
from dvfs.store.catalog.inner import PageRef, encode_inner
from dvfs.store.catalog.leaf import encode_leaf
from dvfs.store.codec import compress_page
from dvfs.store.digest import block_digest, inner_digest, leaf_digest
from dvfs.store.ids import new_pack_id, new_version_id, pack_key
from dvfs.store.record import Record, Root, Status, encode


class Forger:
    """One version in the making, its pages and blocks in one pack."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.id = new_version_id()
        self._pack = new_pack_id(self.id)
        self._bytes = bytearray()

    def stored(self, data: bytes, *, digest: bytes | None = None, raw: int | None = None, codec: int = 0) -> BlockRef:
        """Put *data* into the pack; return a reference that says what one wants of it."""
        offset = len(self._bytes)
        self._bytes += data
        size = len(data) if raw is None else raw
        return BlockRef(0, self._pack, offset, len(data), size, codec, digest or block_digest(data))

    def file(self, data: bytes) -> tuple[Extent, ...]:
        """Store the bytes of a small file."""
        return (Extent(self.stored(data), 0, len(data)),)

    def leaf(self, items: Sequence[Item], *, raw: bytes | None = None, stored: bytes | None = None) -> PageRef:
        """Store the leaf page of *items*, or another in its place; the reference counts what *items* hold."""
        raw = encode_leaf(items) if raw is None else raw
        files = [entry for _, entry in items if entry.is_file]
        content = leaf_digest(RawPage(raw).digested())
        block = self.stored(compress_page(raw) if stored is None else stored)
        return PageRef(items[0][0], 0, len(items), len(files), sum(entry.size for entry in files), content, block)

    def inner(self, refs: Sequence[PageRef], *, level: int = 1) -> PageRef:
        """Store the inner page over *refs*."""
        raw = encode_inner(level, refs)
        sums = [sum(column) for column in zip(*(ref[2:5] for ref in refs), strict=True)]
        block = self.stored(compress_page(raw))
        return PageRef(refs[0].key, level, sums[0], sums[1], sums[2], inner_digest(RawPage(raw).digested()), block)

    def publish(self, root: PageRef) -> Record:
        """Write pack and record of a finished version whose catalog is *root*."""
        self._backend.put_if_absent(pack_key(self._pack), bytes(self._bytes))
        self._pack = new_pack_id(self.id)
        self._bytes = bytearray()
        record = Record(self.id, "forged", "set", "1.0.0", Status.COMPLETED, root=Root(root, root.block), created_ns=1)
        self._backend.put_if_absent(f"datasets/{self.id}.json", encode(record))
        return record


def with_column(raw: bytes, tag: int, data: bytes) -> bytes:
    """Return the raw page *raw* with *data* as its column *tag*."""
    page = RawPage(raw)
    columns = [Column(*column[:3], data) if column.tag == tag else column for column in page.columns.values()]
    return encode_page(page.kind, page.level, page.count, columns)
