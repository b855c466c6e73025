"""Making staged edits part of an open version's draft: new catalog pages, then the record by compare-and-swap.

When another writer was faster the edits are applied again, to what it left: no writer's files are lost.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.edits import edits
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import VersionId
from dvfs.store.metadata_pack import MetadataPacks, TailBlocks
from dvfs.store.record import Record, Root, Status
from dvfs.store.records import check_state
from dvfs.store.staging import Staging

if TYPE_CHECKING:
    from dvfs.store.store import Store


class _Overtaken(Exception):
    """Another writer swapped the draft first."""


def publish(store: Store, version: VersionId, staging: Staging, uploaded_bytes: int) -> Record:
    """Apply what *staging* holds, but files that are not packed, to the draft of *version*, and forget it there.

    *uploaded_bytes*: of data packs, added to the record's count. Returns the new record. Raises WrongState when the
    version is finished, and as the backend; then nothing is forgotten, and a repeat does what is left. Crash points:
    `publish:before-swap`, `publish:after-swap` (of the draft), `publish:after-clear` (of the staging).
    """
    while True:
        upto = staging.serial
        record = store.records.load(version).record
        check_state(record, "open")
        root, metadata_bytes = _apply(store, record, staging, upto)
        store.crash("publish:before-swap")
        try:
            record = _swap(store, record, root, uploaded_bytes + metadata_bytes)
        except _Overtaken:
            continue
        store.crash("publish:after-swap")
        staging.clear(upto)
        store.crash("publish:after-clear")
        return record


def _swap(store: Store, based_on: Record, root: Root, uploaded_bytes: int) -> Record:
    def change(newest: Record) -> Record:
        check_state(newest, "open")
        if newest.draft != based_on.draft:
            raise _Overtaken
        if newest.draft == root and not uploaded_bytes:
            return newest
        counts = newest.counts
        return newest.with_fields(
            draft=root,
            status=Status.UPLOADING,
            counts=type(counts)(uploaded=counts.uploaded + uploaded_bytes),
        )

    return store.records.update(based_on.id, change)


def _apply(store: Store, record: Record, staging: Staging, upto: int) -> tuple[Root, int]:
    """Write the pages of the new draft; return its root, and the bytes of metadata packs written."""
    with closing(Fetcher(store.storage(record), store.cache, parallel=store.parallel)) as fetcher:
        behind = fetcher if record.draft is None else TailBlocks(record.draft.tail, fetcher)
        packs = store.metadata_packs(record.id, behind)
        writer = Writer(packs.write, store.parameters.boundaries)
        now_ns = store.clock.now_ns()
        if record.draft is None:
            page = writer.build(
                (key, entry)
                for key, entry in edits(staging, upto, None, writer.block_tree, now_ns)
                if entry is not None
            )
            return packs.finish(page), packs.uploaded_bytes
        tree = Tree(record.draft.page, PageSource(packs).load)
        page = writer.apply(tree.root, tree.load, edits(staging, upto, tree, writer.block_tree, now_ns))
        return _finished(packs, page, record.draft), packs.uploaded_bytes


def _finished(packs: MetadataPacks, page: PageRef, draft: Root) -> Root:
    """Return the root of *page*; the draft's own, and nothing stored, where it is that."""
    return draft if page == draft.page else packs.finish(page)
