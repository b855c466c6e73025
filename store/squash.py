"""Squashing: the change-sets of a whole lineage, merged into one version without parents.

The result is what comes of applying the change-set of every version of the lineage once, in its order: what a version
removes does not come back from another, and what is inherited from a version that nobody named, or that was deleted, is
there. Where a change-set is applied to just what it started from, as all along a line of versions, no page is read.
No byte of a file is moved, unless a storage is named: then all are, see `repack`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.diff import Difference, merge
from dvfs.store.catalog.pages import PageSource
from dvfs.store.catalog.tree import Tree
from dvfs.store.change_order import ChangeOrder, change_order
from dvfs.store.comparison import differences
from dvfs.store.edits import Finder
from dvfs.store.errors import DvfsError, InvalidInput
from dvfs.store.fetch import Fetcher
from dvfs.store.ids import new_version_id
from dvfs.store.metadata_pack import MetadataPacks
from dvfs.store.record import Counts, Origin, Record, Root, Status
from dvfs.store.records import check_state
from dvfs.store.repack import repack
from dvfs.store.replay import replay
from dvfs.store.storages import together
from dvfs.store.upload import Progress, UploadOptions

if TYPE_CHECKING:
    from dvfs.store.catalog.inner import PageRef
    from dvfs.store.store import Store


def squash(
    store: Store,
    datasets: Sequence[str | Record],
    *,
    name: str,
    project: str | None = None,
    version: str | None = None,
    tags: Iterable[str] = (),
    description: str = "",
    creator: str = "",
    origin: Origin | None = None,
    close: bool = True,
    storage: str | None = None,
    options: UploadOptions | None = None,
    progress: Progress | None = None,
) -> Record:
    """Merge the lineage of *datasets*, finished versions, into a new version without parents; return its record.

    The change-sets are applied depth-first over parents in their order, beginning with the first of *datasets*, each
    after those of all its parents. *project* defaults to that of the first, *version* to the next number. Unless
    *close* the version stays open. *storage*: the URL of the one that all data is copied to, as *options* say; without
    it the data stays where it is. Raises InvalidInput, AlreadyExists, NotFound, WrongState, Corrupt; then there is no
    new version. Crash points: those of `Records.insert` and `PackWriter`; `squash:before-swap`, `squash:after-swap`.
    """
    if not datasets:
        raise InvalidInput("nothing to squash: no dataset is named")
    named = [store.resolve(item, "finished") if isinstance(item, str) else item for item in datasets]
    for record in named:
        check_state(record, "finished")
    line = change_order(store.records, named)
    storages = together(line.order)
    boundaries = store.parameters.boundaries
    tag, url = store.storages.tag(storage) if storage is not None else (0, storages[0])
    record = store.records.insert(
        Record(
            id=new_version_id(),
            project=project if project is not None else named[0].project,
            name=name,
            version="",
            tags=tuple(dict.fromkeys(tags)),
            description=description,
            storages=storages if storage is None else {0: storages[0], tag: url},
            storage=tag,
            created_ns=store.clock.now_ns(),
            creator=creator,
            origin=origin or Origin(),
        ),
        version,
    )
    try:
        there = store.storage(record.with_fields(storages=storages))
        with closing(Fetcher(there, store.cache, parallel=store.parallel)) as fetcher:
            packs = store.metadata_packs(record.id, fetcher)
            merging = _Squash(line, packs, Writer(packs.write, boundaries))
            merging.run()
            copied_bytes = 0
            if storage is None:
                root = merging.finish()
            else:
                options = options or UploadOptions()
                root, copied_bytes = repack(store, record, merging.tree(), fetcher, options, progress)
    except BaseException:
        with suppress(DvfsError):  # what went wrong first is told
            store.records.erase(record)
        raise
    return _land(store, record, root, packs.uploaded_bytes + copied_bytes, close=close)


def _land(store: Store, record: Record, root: Root, uploaded_bytes: int, *, close: bool) -> Record:
    page = root.page

    def change(newest: Record) -> Record:
        check_state(newest, "open")
        if not close:
            return newest.with_fields(status=Status.UPLOADING, draft=root, counts=Counts(uploaded=uploaded_bytes))
        return newest.with_fields(
            status=Status.COMPLETED,
            root=root,
            completed_ns=store.clock.now_ns(),
            counts=Counts(page.entries, page.files, page.size, added=page.files, uploaded=uploaded_bytes),
        )

    store.crash("squash:before-swap")
    record = store.records.update(record.id, change)
    store.crash("squash:after-swap")
    return record


class _Squash:
    """One squash: `run` makes the pages, `finish` stores them; `tree` can be read in between."""

    def __init__(self, line: ChangeOrder, packs: MetadataPacks, writer: Writer) -> None:
        self._line = line
        self._packs = packs
        self._load = PageSource(packs).load
        self._writer = writer
        self._page: PageRef | None = None
        self._roots: dict[bytes, Root] = {}
        self._records = {record.id: record for record in line.order}

    def run(self) -> None:
        """Apply all change-sets."""
        for record in self._line.order:
            self._apply(record)

    def tree(self) -> Tree:
        """Return what comes of them."""
        assert self._page is not None  # a finished version has a root at least
        return self._tree(self._page)

    def finish(self) -> Root:
        """Store the pages of what comes of them; return its root."""
        assert self._page is not None  # a finished version has a root at least
        known = self._roots.get(self._page.block.digest)
        written = self._packs.finish(self._page)
        return known or written

    def _apply(self, record: Record) -> None:
        root, base = record.root, record.base
        assert root is not None
        if base is not None and self._line.missing.intersection(record.parents):
            self._stand_in(record, base)
        if self._page is None or (base is not None and base.page.content == self._page.content):
            self._take(root)
        elif base is None:
            self._page = merge([self._tree(self._page), self._tree(root.page)], self._writer)
        else:
            self._replay(self._tree(base.page), self._tree(root.page))

    def _stand_in(self, record: Record, base: Root) -> None:
        """Apply what is known of the parents of *record* that are gone: what its *base* has beyond the others."""
        parents = (self._records.get(parent) for parent in record.parents)
        known = [self._tree(parent.root.page) for parent in parents if parent is not None and parent.root is not None]
        if self._page is None:
            self._take(base)
        elif not known:
            self._page = merge([self._tree(self._page), self._tree(base.page)], self._writer)
        else:
            self._replay(known[0], self._tree(base.page), others=known[1:])

    def _replay(self, before: Tree, after: Tree, others: Sequence[Tree] | None = None) -> None:
        """Apply what led from *before* to *after*; with *others* only what it added that is in none of those."""

        def changes() -> Iterator[Difference]:
            found = differences(before, after)
            return found if others is None else _only_here(found, others)

        assert self._page is not None
        self._page = replay(self._tree(self._page), changes, before, after, self._writer)

    def _take(self, root: Root) -> None:
        self._page = root.page
        self._roots[root.page.block.digest] = root

    def _tree(self, page: PageRef) -> Tree:
        return Tree(page, self._load)


def _only_here(found: Iterable[Difference], others: Sequence[Tree]) -> Iterator[Difference]:
    finders = [Finder(tree) for tree in others]
    for difference in found:
        entry = difference.after
        if entry is not None and not any(
            there is not None and there.same_data(entry)
            for there in (finder.find(difference.path) for finder in finders)
        ):
            yield difference
