"""Verifying a version where it is stored: that its pages and blocks are there, whole, and those of its digests.

Everything is read from the store, nothing from the local cache, and each block mostly once: blocks that files far apart
in the catalog share may be read again. Of external files it is asked whether they are as they were added. What is
wrong is told path by path as it is found, and the rest is looked at.

A verification belongs to one thread; requests and digests are the work of a few others. It keeps a window of
the catalog in memory, whatever the size of the version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, Protocol

from dvfs.store.block import BlockRef
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import BlockTreeRef, Entry
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.key import path_of
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.pages import PageSource
from dvfs.store.digest import Buffer, block_digest, file_digest
from dvfs.store.errors import Corrupt, NotFound
from dvfs.store.external import External
from dvfs.store.fetch_pack import PackReader, check_ref
from dvfs.store.fetch_queue import in_one_request
from dvfs.store.ids import pack_key
from dvfs.store.version import Version

WORKERS = 8

_GAP_BYTES = 256 << 10
_REQUEST_BYTES = 8 << 20
_BATCH_BYTES = 64 << 20
_BATCH_PARTS = 1 << 15
_PAGES_AT_ONCE = 128
_MOST_GOOD = 1 << 18
"""Of so many blocks that were found good it is remembered."""


class Mismatch(NamedTuple):
    """A path that is not what the version says, and why not."""

    path: bytes
    reason: str


class Progress(Protocol):
    """Is told how a verification goes on."""

    def on_bytes(self, size: int) -> None:
        """*size* more bytes are verified."""
        ...

    def on_file(self, path: bytes, size: int) -> None:
        """The file *path* is verified, its last *size* bytes were not told before."""
        ...


class _Part(NamedTuple):
    """A part of the file *path*: *length* bytes at *start* of a block; *digest*: theirs, None where that is known."""

    path: bytes
    start: int
    length: int
    digest: bytes | None


@dataclass(slots=True)
class _Batch:
    """Blocks to verify, each with the parts of files that are in it."""

    blocks: dict[BlockRef, list[_Part]] = field(default_factory=dict)
    stored_bytes: int = 0
    parts: int = 0

    def add(self, block: BlockRef, part: _Part) -> None:
        found = self.blocks.get(block)
        if found is None:
            found = self.blocks[block] = []
            self.stored_bytes += block.stored
        found.append(part)
        self.parts += 1

    @property
    def is_full(self) -> bool:
        return self.stored_bytes >= _BATCH_BYTES or self.parts >= _BATCH_PARTS


_Checked = tuple[list[Mismatch], int]
"""What is wrong with the parts of a run of blocks, and the raw bytes that were verified."""


def verify_stored(
    version: Version, *, sizes_only: bool = False, workers: int = WORKERS, progress: Progress | None = None
) -> Iterator[Mismatch]:
    """Yield every path of *version* that cannot be had whole and right from where it is stored, once.

    A page of the catalog that is damaged stands for all that is in it, under its first path. *sizes_only*: blocks are
    not read; their packs must be there, and long enough. Raises Unavailable, AccessDenied.
    """
    told: set[bytes] = set()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="dvfs-verify") as pool:
        for mismatch in _Verification(version, pool, max(1, workers), progress, sizes_only=sizes_only).run():
            if mismatch.path not in told:  # of a file of many blocks the first that is wrong is enough
                told.add(mismatch.path)
                yield mismatch


class _Verification:
    def __init__(
        self,
        version: Version,
        pool: ThreadPoolExecutor,
        workers: int,
        progress: Progress | None,
        *,
        sizes_only: bool,
    ) -> None:
        self._version = version
        self._pool = pool
        self._most_pending = 2 * workers
        self._progress = progress
        self._sizes_only = sizes_only
        self._packs = PackReader(version.storage)
        self._pages = _StoredPages(self._packs, pool)
        self._batch = _Batch()
        self._pending: deque[tuple[Future[_Checked], list[BlockRef]]] = deque()
        self._good: set[bytes] = set()

    def run(self) -> Iterator[Mismatch]:
        try:
            yield from self._page(self._version.root.page)
            yield from self._flush()
            yield from self._settle(0)
        finally:
            for future, _ in self._pending:
                future.cancel()

    # --- the catalog

    def _page(self, ref: PageRef) -> Iterator[Mismatch]:
        try:
            page = self._pages.load(ref)
        except Corrupt as exc:
            yield Mismatch(path_of(ref.key), f"{ref.entries} entries of the catalog from here on: {exc.message}")
            return
        if isinstance(page, Leaf):
            yield from self._leaf(page)
            return
        for start in range(0, page.count, _PAGES_AT_ONCE):
            children = [page.child(index) for index in range(start, min(start + _PAGES_AT_ONCE, page.count))]
            self._pages.fetch([child.block for child in children])
            for child in children:
                yield from self._page(child)
                self._pages.forget(child.block)

    def _leaf(self, leaf: Leaf) -> Iterator[Mismatch]:
        for index in range(leaf.count):
            try:
                entry = leaf.entry_at(index)
                if entry.external is not None:
                    self._external(leaf.path_at(index), entry.external)
                elif entry.is_file:
                    self._file(leaf.path_at(index), entry)
            except Corrupt as exc:
                yield Mismatch(leaf.path_at(index), exc.message)
            if self._batch.is_full:
                yield from self._flush()
            yield from self._settle(self._most_pending)

    def _external(self, path: bytes, external: External) -> None:
        """Have it asked whether *external* is there as it was added; it is not read."""
        self._pending.append((self._pool.submit(self._check_external, path, external), []))

    def _check_external(self, path: bytes, external: External) -> _Checked:
        """Ask for *external*; called in a thread."""
        assert self._version.externals is not None
        try:
            self._version.externals.check(external)
        except Corrupt as exc:
            return [Mismatch(path, exc.message)], 0
        if self._progress is not None:
            self._progress.on_file(path, external.size)
        return [], 0

    def _file(self, path: bytes, entry: Entry) -> None:
        """Take the blocks of the file into the batch. Raises Corrupt where they cannot be those of its digest."""
        size = 0
        digests: list[bytes] = []
        in_tree = isinstance(entry.content, BlockTreeRef)
        for block, start, length in blocktree.iter_extents(entry.content, 0, 1 << 63, self._pages.load_blocks):
            check_ref(block)
            is_whole = start == 0 and length == block.raw
            digests.append(block.digest)
            size += length
            known = in_tree or (is_whole and (entry.size > length or block.digest == entry.digest))
            if not (is_whole and known and _place(block) in self._good):
                self._batch.add(block, _Part(path, start, length, None if known else entry.digest))
        if size != entry.size:
            raise Corrupt(f"it has {entry.size} bytes, its blocks {size}")
        if in_tree and (file_digest(size, digests) if len(digests) > 1 else digests[0]) != entry.digest:
            raise Corrupt("its blocks are not those of its digest")
        if not digests and entry.digest != block_digest(b""):
            raise Corrupt("it is empty, and its digest is not that of an empty file")
        if self._progress is not None:
            self._progress.on_file(path, 0)

    # --- the blocks

    def _flush(self) -> Iterator[Mismatch]:
        """Have what is in the batch checked; yield what is known by now."""
        batch, self._batch = self._batch, _Batch()
        check = self._check_sizes if self._sizes_only else self._check
        for run in _runs(batch.blocks, alone=self._sizes_only):
            yield from self._settle(self._most_pending)
            self._pending.append((self._pool.submit(check, run, batch.blocks), run))

    def _settle(self, most: int) -> Iterator[Mismatch]:
        """Wait until *most* runs are under way; yield what was wrong with the others."""
        while len(self._pending) > most:
            future, run = self._pending.popleft()
            found, size = future.result()
            yield from found
            if not found:
                if len(self._good) > _MOST_GOOD:
                    self._good.clear()
                self._good.update(map(_place, run))
            if self._progress is not None:
                self._progress.on_bytes(size)

    def _check(self, run: Sequence[BlockRef], parts: dict[BlockRef, list[_Part]]) -> _Checked:
        """Read the blocks of *run*, which are one request; called in a thread."""
        found: list[Mismatch] = []
        size = 0
        try:
            for block, raw in self._packs.blocks(run):
                found += _wrong_parts(raw, parts[block])
                size += block.raw
        except Corrupt as exc:  # the pack is missing
            found = [Mismatch(part.path, exc.message) for block in run for part in parts[block]]
        return found, size

    def _check_sizes(self, run: Sequence[BlockRef], parts: dict[BlockRef, list[_Part]]) -> _Checked:
        """Ask how long the pack of *run* is; called in a thread."""
        backend, key = self._version.storage(run[0].storage), pack_key(run[0].pack)
        try:
            size = backend.head(key).size
        except NotFound:
            size = 0
        short = [block for block in run if block.offset + block.stored > size]
        what = f"is cut short: {size} bytes" if size else "is missing"
        why = f"pack {key} in {backend.url} {what}"
        return [Mismatch(part.path, why) for block in short for part in parts[block]], 0


def _wrong_parts(raw: Buffer | Corrupt, parts: Iterable[_Part]) -> list[Mismatch]:
    if isinstance(raw, Corrupt):
        return [Mismatch(part.path, raw.message) for part in parts]
    with memoryview(raw) as view:
        return [
            Mismatch(path, "its bytes do not have its digest")
            for path, start, length, digest in parts
            if digest is not None and block_digest(view[start : start + length]) != digest
        ]


def _runs(blocks: Iterable[BlockRef], *, alone: bool) -> Iterator[list[BlockRef]]:
    """Yield *blocks* in runs that are one request each; all of a pack in one when *alone*."""
    in_order = sorted(blocks, key=lambda ref: (ref.storage, ref.pack, ref.offset))
    for _, group in groupby(in_order, key=lambda ref: (ref.storage, ref.pack)):
        if alone:
            yield list(group)
            continue
        for run in in_one_request(group, _GAP_BYTES):
            start = 0
            for index, ref in enumerate(run):
                if index > start and ref.offset + ref.stored - run[start].offset > _REQUEST_BYTES:
                    yield run[start:index]
                    start = index
            yield run[start:]


def _place(block: BlockRef) -> bytes:
    return block.digest + block.pack[16:] + block.offset.to_bytes(4, "little")


class _StoredPages:
    """Pages as they are in the store: a block source that knows no cache, and decodes through a `PageSource`."""

    def __init__(self, packs: PackReader, pool: ThreadPoolExecutor) -> None:
        self._packs = packs
        self._pool = pool
        self._ahead: dict[BlockRef, bytes | Corrupt] = {}
        source = PageSource(self, memory_bytes=16 << 20)
        self.load: Callable[[PageRef], Leaf | Inner] = source.load
        self.load_blocks = source.load_blocks

    def fetch(self, refs: Sequence[BlockRef]) -> None:
        """Bring the pages *refs*, to be taken once each, or forgotten."""
        for found in self._pool.map(self._read, _runs(refs, alone=False)):
            self._ahead.update(found)

    def forget(self, ref: BlockRef) -> None:
        """Let go of the page *ref*, which was not taken where it was known already."""
        self._ahead.pop(ref, None)

    def block(self, ref: BlockRef, /) -> bytes:
        """Return the stored bytes of a page. Raises Corrupt."""
        check_ref(ref)
        data = self._ahead.pop(ref, None)
        if data is None:
            data = self._read([ref])[ref]
        if isinstance(data, Corrupt):
            raise data
        return data

    def _read(self, run: Sequence[BlockRef]) -> dict[BlockRef, bytes | Corrupt]:
        try:
            return {ref: data if isinstance(data, Corrupt) else bytes(data) for ref, data in self._packs.blocks(run)}
        except Corrupt as exc:
            return dict.fromkeys(run, exc)
