"""Repacking: all files of a catalog copied into packs of their own, in catalog order, as somebody reads them.

    catalog ──> staging (local) ──> packs ──> the same catalog with other places

Small files are laid together anew, as an upload lays them; larger ones keep their blocks, and so their digests.
Bytes are verified twice: as they are fetched, and by the digest of each file as it is packed.

Threads: a repacking belongs to one thread; fetching and packing are the work of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from dvfs.store.block import BlockRef
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.blocktree import LoadBlocks
from dvfs.store.catalog.entry import Content, Entry, Item
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.change import decode_content, encode_content
from dvfs.store.cut import Cutting
from dvfs.store.errors import Corrupt
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import new_pack_id
from dvfs.store.packing import PackingOptions, PackingResult, pack_files
from dvfs.store.record import Record, Root
from dvfs.store.source import Kind, Source
from dvfs.store.staging import Staged, Staging
from dvfs.store.upload import Progress, UploadOptions

if TYPE_CHECKING:
    from dvfs.store.store import Store

_AHEAD_BLOCKS = 16
"""Of a file so many blocks are wanted when it is begun, and one more each time that one is read."""


def repack(
    store: Store, record: Record, tree: Tree, fetcher: Fetcher, options: UploadOptions, progress: Progress | None
) -> tuple[Root, int]:
    """Copy the files of *tree*, which *fetcher* brings, into the storage that *record* names for its data packs.

    Returns the root of *tree* with the new places, as pages of the version of *record*, and the bytes of all packs
    written. What is no file of blocks stays as it is. Raises as the fetcher and the backends; Corrupt for a file that
    is not what *tree* says.
    """
    load_blocks = PageSource(fetcher).load_blocks
    with _staging(store, record) as staging:
        staging.stage(_sources(tree))
        copied = _copy(store, record, staging, fetcher, load_blocks, options, progress)
        packs = store.metadata_packs(record.id, fetcher)
        writer = Writer(packs.write, store.parameters.boundaries)
        root = packs.finish(writer.build(_items(tree, staging, writer)))
    return root, copied.stored_bytes + packs.uploaded_bytes


def _copy(
    store: Store,
    record: Record,
    staging: Staging,
    fetcher: Fetcher,
    load_blocks: LoadBlocks,
    options: UploadOptions,
    progress: Progress | None,
) -> PackingResult:
    files, size = staging.pending()
    if progress is not None:
        progress.on_total(files, size)
    copied = pack_files(
        _wanted(staging.unpacked(), fetcher, load_blocks),
        new_pack=lambda: new_pack_id(record.id),
        put=store.storage(record)(record.storage).put_if_absent,
        storage=record.storage,
        mark=staging.mark_packed,
        options=PackingOptions(
            cutting=store.parameters.cutting,
            compression=options.compression,
            pack_bytes=options.pack_bytes,
            workers=options.workers,
        ),
        files=_StoredFiles(fetcher, load_blocks),
        progress=progress,
        crash=store.crash,
    )
    copied.raise_failures()
    return copied


def _sources(tree: Tree) -> Iterator[Source]:
    """Yield the files of *tree* that have blocks; instead of a local path each has its content."""
    for _, path, entry in tree.scan():
        if _has_blocks(entry):
            yield Source(path, Kind.FILE, encode_content(entry.content), entry.mode, entry.size, entry.mtime_ns)


def _items(tree: Tree, staging: Staging, writer: Writer) -> Iterator[Item]:
    """Yield the items of *tree*, those of the files in *staging* with the places that they have by now."""
    rows = staging.edits()
    for _, path, entry in tree.scan():
        yield key_of(path), _moved(path, entry, next(rows), writer) if _has_blocks(entry) else entry


def _moved(path: bytes, entry: Entry, row: Staged, writer: Writer) -> Entry:
    if (row.source.path, row.digest) != (path, entry.digest):
        raise Corrupt(f"{path!r} is not what its digest {entry.digest.hex()} says")
    extents = row.extents or ()
    content: Content = writer.block_tree([extent.block for extent in extents]) or extents
    return entry._replace(content=content)


def _has_blocks(entry: Entry) -> bool:
    return entry.is_file and entry.external is None and bool(entry.content)


def _wanted(rows: Iterable[Staged], fetcher: Fetcher, load_blocks: LoadBlocks) -> Iterator[Staged]:
    """Yield *rows*, with their first blocks on their way."""
    for row in rows:
        fetcher.want(islice(_blocks(row.source, load_blocks), _AHEAD_BLOCKS))
        yield row


def _blocks(source: Source, load_blocks: LoadBlocks) -> Iterator[BlockRef]:
    return blocktree.all_blocks(decode_content(source.source), load_blocks)


class _StoredFiles:
    """`Files` that are in a store."""

    def __init__(self, fetcher: Fetcher, load_blocks: LoadBlocks) -> None:
        self._fetcher = fetcher
        self._load_blocks = load_blocks

    def refreshed(self, source: Source) -> Source:
        return source

    def read_whole(self, source: Source, data: memoryview) -> None:
        done = 0
        for piece in self._pieces(source):
            data[done : done + len(piece)] = piece
            done += len(piece)

    def has_old_blocks(self, source: Source) -> bool:
        return True

    def blocks(self, source: Source, cutting: Cutting) -> Iterator[memoryview]:
        ahead = islice(_blocks(source, self._load_blocks), _AHEAD_BLOCKS, None)
        for piece in self._pieces(source):
            self._fetcher.want(islice(ahead, 1))
            yield memoryview(piece)

    def _pieces(self, source: Source) -> Iterator[bytes]:
        """Yield the bytes of *source*, those in one block at a time. Raises Corrupt where they are not as many."""
        done = 0
        for block, start, length in blocktree.iter_extents(
            decode_content(source.source), 0, source.size, self._load_blocks
        ):
            done += length
            yield self._fetcher.read(block, start, length)
        if done != source.size:
            raise Corrupt(f"{source.path!r} has {source.size} bytes, its blocks {done}")


@contextmanager
def _staging(store: Store, record: Record) -> Iterator[Staging]:
    """A staging database for one repacking; of a killed one the file stays, and is never looked at."""
    path = store.local / "squashes" / f"{record.id}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(Staging(path)) as staging:
            yield staging
    finally:
        for end in ("", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
