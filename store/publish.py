"""Making staged edits part of an open version's draft: new catalog pages, then the record by compare-and-swap.

When another writer was faster the edits are applied again, to what it left: no writer's files are lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from dvfs.store.block import BlockRef
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.blocktree import pages_of
from dvfs.store.catalog.diff import diff
from dvfs.store.catalog.entry import Content
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.edits import edits
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import VersionId
from dvfs.store.metadata_pack import TailBlocks
from dvfs.store.record import Counts, Record, Root, Status
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
        record = store.records.last(version)
        check_state(record, "open")
        root, metadata_bytes = apply_staged(store, record, record.draft, staging, upto)
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


def apply_staged(
    store: Store, record: Record, onto: Root | None, staging: Staging, upto: int, *, ignore_mtimes: bool = False
) -> tuple[Root, int]:
    """Write the pages of *onto* with what *staging* holds up to the serial *upto*, as pages of the version of *record*.

    Returns their root, and the bytes of metadata packs written: *onto* and 0 where nothing changes, with
    *ignore_mtimes* also where nothing but times does.
    """
    with closing(Fetcher(store.storage(record), store.cache, parallel=store.parallel)) as fetcher:
        behind = fetcher if onto is None else TailBlocks(onto.tail, fetcher)
        packs = store.metadata_packs(record.id, behind)
        pages = PageSource(packs)
        writer = Writer(packs.write, store.parameters.boundaries)

        def block_tree(blocks: list[BlockRef], before: Iterable[Content]) -> Content | None:
            known = (ref for content in before for ref in pages_of(content, pages.load_blocks))
            return writer.block_tree(blocks, known)

        now_ns = store.clock.now_ns()
        if onto is None:
            page = writer.build(
                (key, entry) for key, entry in edits(staging, upto, None, block_tree, now_ns) if entry is not None
            )
            return packs.finish(page), packs.uploaded_bytes
        tree = Tree(onto.page, pages.load)
        page = writer.apply(tree.root, tree.load, edits(staging, upto, tree, block_tree, now_ns))
        if page == onto.page or (ignore_mtimes and page.content == onto.page.content):
            return onto, packs.uploaded_bytes
        return packs.finish(page), packs.uploaded_bytes


def counted(store: Store, record: Record, after: Root, uploaded_bytes: int) -> Counts:
    """Return the counts of the version of *record* with the root *after*: what it holds, and how it differs."""
    page = after.page
    added = modified = removed = 0
    if record.base is None:
        added = page.files
    else:
        with closing(store.version(record.with_fields(root=record.base))) as base:
            for change in diff(base.tree, Tree(page, base.pages.load)):
                was = change.before is not None and change.before.is_file
                now = change.after is not None and change.after.is_file
                added += now and not was
                removed += was and not now
                modified += was and now
    return Counts(page.entries, page.files, page.size, added, modified, removed, uploaded_bytes)
