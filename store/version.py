"""A version opened for reading: its catalog, and the bytes of its files. Thread-safe; fetches lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.errors import Corrupt, WrongState
from dvfs.store.externals import Externals
from dvfs.store.fetch import Fetcher
from dvfs.store.metadata_pack import TailBlocks
from dvfs.store.record import Record, Root

PAGE_MEMORY_BYTES = 48 << 20


class Version:
    """*record*'s tree as it is in the store; external files are read by *externals*.

    `tree` may wait for pages; `tree_nowait` raises NotCached instead.
    """

    def __init__(
        self,
        record: Record,
        root: Root,
        storage: Callable[[int], Backend],
        cache: Cache,
        *,
        externals: Externals | None = None,
        parallel: int = 16,
        page_memory_bytes: int = PAGE_MEMORY_BYTES,
    ) -> None:
        self.record = record
        self.root = root
        self.storage = storage
        self.cache = cache
        self.externals = externals
        self.fetcher = Fetcher(storage, cache, externals=externals, parallel=parallel)
        self.pages = PageSource(TailBlocks(root.tail, self.fetcher), memory_bytes=page_memory_bytes)
        self.tree = Tree(root.page, self.pages.load)
        self.tree_nowait = Tree(root.page, self.pages.load_nowait)

    def check(self) -> None:
        """Read the root page and the root directory. Raises Corrupt naming the version when they are not right."""
        try:
            self.pages.load(self.root.page)
            found = self.tree.find(b"")
        except Corrupt as exc:
            raise Corrupt(f"dataset {self.record.title} ({self.record.id}): {exc.message}", hint=exc.hint) from exc
        if found is None or not found[1].is_dir:
            raise Corrupt(f"dataset {self.record.title} ({self.record.id}): its catalog has no root directory")

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Yield path and entry of all that is in the version, the root too, in catalog order."""
        for _, path, entry in self.tree.scan():
            yield path, entry

    def read(self, entry: Entry, start: int = 0, length: int | None = None) -> bytes:
        """Return *length* bytes (all to the end when None) from byte *start* of the file of *entry*.

        Less comes back only where the file ends. Raises as `Fetcher.block`.
        """
        stop = entry.size if length is None else min(entry.size, start + length)
        if start >= stop:
            return b""
        extents = blocktree.extents(entry.content, start, stop - start, self.pages.load_blocks)
        data = b"".join([self.fetcher.read(block, at, size) for block, at, size in extents])
        if len(data) != stop - start:
            raise Corrupt(f"a file of {entry.size} bytes lists blocks of another length (digest {entry.digest.hex()})")
        return data

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the bytes of the file of *entry*, a block at a time. Raises as `Fetcher.block`."""
        done = 0
        for block, at, size in blocktree.iter_extents(entry.content, 0, entry.size, self.pages.load_blocks):
            done += size
            yield self.fetcher.read(block, at, size)
        if done != entry.size:
            raise Corrupt(f"a file of {entry.size} bytes lists blocks of {done} (digest {entry.digest.hex()})")

    def blocks(self, entry: Entry) -> Iterator[BlockRef]:
        """Yield the blocks that the file of *entry* lies in."""
        yield from blocktree.all_blocks(entry.content, self.pages.load_blocks)

    def close(self) -> None:
        """Stop fetching; the version is not used after it."""
        self.fetcher.close()


def readable_root(record: Record) -> Root:
    """Return the root to read of *record*. Raises WrongState when nothing was uploaded yet."""
    if record.tree is None:
        raise WrongState(f"dataset {record.title} ({record.id}) has no files yet", hint="`dvfs upload` stores them")
    return record.tree
