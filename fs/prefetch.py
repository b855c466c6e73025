"""Fetches before anybody asks: what `ReadAhead` expects, and whole versions.

Modes: `none` fetches nothing ahead; `auto` what is expected, what earlier runs read, and, once reads look random, small
files one by one if the cache's budget does not hold the version, else all of it as soon as more than a sample is read;
`all` the whole version from the start. In each of them files are fetched in an order that somebody hands in.

Daemon threads, begun when first needed, walk the catalog and want blocks; the fetcher's own threads fetch them.
What goes wrong is logged and given up: whoever reads meets the error itself.
"""

from __future__ import annotations

import logging
import queue
import stat
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

from dvfs.fs.first_reads import FirstReads
from dvfs.fs.known_order import KnownOrder
from dvfs.fs.ordered import HEAD_BYTES, OrderedFiles, alone_for, checked, distinct, first_bytes
from dvfs.fs.own_ranges import Alone, OwnRanges
from dvfs.fs.readahead import EntriesAhead, FileAhead, Job, PagesAhead, ReadAhead
from dvfs.fs.source import MountedSource
from dvfs.fs.view import File, View
from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import DvfsError

_log = logging.getLogger(__name__)

_FILL_BATCH_BLOCKS = 1024
SAMPLE_FILES = 80
"""Who reads fewer than one file in so many reads a sample, of which nobody knows that more will be read."""
FIRST_FILES = 256
"""So many files, about the first batches of a data loader, are fetched each by itself where reads look random: their
readers wait, and the rest of their blocks comes with the whole version."""
HEAD_START_SHARE = 32
HEAD_START_BYTES = 128 << 20
"""So much of a version, one part in so many at most, is fetched as soon as reads look random, sample or not: readers
whose first files come each by itself leave the wire time for it."""
SAMPLE_BYTES = 8
"""Once one byte in so many was fetched, it is a sample no more."""
_LARGE_FILE_BYTES = 16 << 20
"""Reads at random inside such a file are no sample of files."""
ORDER_WINDOW_BYTES = 256 << 20
"""So much of an order that is known is wanted ahead of its reader, where the cache is large enough."""
INNER_BYTES = 8 << 20
"""So much of the inner pages is fetched before anyone asks, half of what the memory for pages holds: all of them are
hundreds of MB of a version of 10^9 entries, for each mount."""
_WAIT_SECONDS = 0.5
_LEAST_WINDOW_BYTES = 8 << 20
_CACHE_SHARE = 4
"""What is fetched ahead of one reader may take one part in so many of the cache: it must be there when it is read."""


class Prefetch(StrEnum):
    """How much is fetched before it is asked for."""

    NONE = "none"
    AUTO = "auto"
    ALL = "all"


class Prefetcher:
    """Fetches ahead for one mount of *source*, whose blocking view is *view*.

    *budget_bytes* returns what the cache may hold; it may block. *tail*: pages that come with the root, in one
    block, and are never wanted by themselves. *inner_bytes*: levels of inner pages are fetched from the root down
    as long as all of them together have no more stored bytes. *verifies* tells of which files somebody else
    verifies cached blocks ahead: there only those that are not cached are wanted. *replayed* returns the ranks of
    files that earlier runs read, in the order of their first reads; it may wait. *own_ranges* is what *view*
    fetches by. *first_reads* notes what is read. *lay* is told digest, size and extents of each file that is
    fetched whole, and yields its blocks. `note_read` and `note_missed_page` belong to the event loop.
    """

    def __init__(
        self,
        source: MountedSource,
        view: View,
        mode: Prefetch,
        *,
        budget_bytes: Callable[[], int],
        tail: BlockRef | None = None,
        read_ahead: ReadAhead | None = None,
        inner_bytes: int = INNER_BYTES,
        verifies: Callable[[int], bool] = lambda inode: False,
        replayed: Callable[[], array[int]] | None = None,
        own_ranges: OwnRanges | None = None,
        first_reads: FirstReads | None = None,
        lay: Callable[[bytes, int, Iterable[Extent]], Iterator[BlockRef]] | None = None,
    ) -> None:
        self._source = source
        self._view = view
        self._mode = mode
        self._budget_bytes = budget_bytes
        self._tail = tail
        self._ahead = read_ahead or ReadAhead()
        self._inner_bytes = inner_bytes
        self._verifies = verifies
        self._pages = PagesAhead()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._works = False
        self._stop = threading.Event()
        self._fills = False
        self._whole = threading.Event()  # the whole version is wanted, and not its beginning alone; or all ends
        self._is_judging = False
        self._holds_all: bool | None = None
        self._begun = 0
        self._is_off = mode is Prefetch.NONE
        self._replayed = replayed if mode is Prefetch.AUTO else None
        self._is_replaying = False
        self._own_ranges = own_ranges or OwnRanges(source.fetcher.cached, Alone.NONE)
        self._files = OrderedFiles(source, self._own_ranges)
        self._first_reads = first_reads
        self._lay = lay
        self._order: KnownOrder | None = None
        self._order_lock = threading.Lock()

    def start(self) -> None:
        """Begin: inner pages are wanted, and in mode `all` the whole version is."""
        if not self._is_off:
            self._run(self._prepare)
        if self._replayed is not None:
            self._is_replaying = True
            self._run(self._replay)
        if self._mode is Prefetch.ALL:
            self._begin_fill()
            self._whole.set()

    def stop(self) -> None:
        """End soon; nothing is wanted after it but what a thread is at."""
        self._stop.set()
        self._whole.set()
        self._is_off = True
        self._jobs.put(None)
        with self._order_lock:
            if self._order is not None:
                self._order.end()

    def follow(self, ranks: array[int]) -> None:
        """Fetch the files of *ranks*, which will be read in that order, ahead of their reader; no other order any more.

        May wait. Raises IndexError for a rank that the version does not have.
        """
        tree, budget = self._source.tree, self._budget_bytes()
        checked(ranks, tree.entries)
        alone = alone_for(len(ranks), self._source, budget)
        window = min(ORDER_WINDOW_BYTES, budget // _CACHE_SHARE)
        order = KnownOrder(ranks, window_bytes=window)
        with self._order_lock:
            if self._stop.is_set():
                return
            if self._order is not None:
                self._order.end()
            self._own_ranges.fetch_alone(alone)
            self._order = order
        self._run(lambda: self._files.follow(order))

    @property
    def is_filling(self) -> bool:
        """Whether the whole version is being fetched, or was."""
        return self._fills and self._whole.is_set()

    def note_read(self, inode: int, file: File, start: int, length: int, *, waited: bool) -> None:
        """Take note of a read of *file*, which *waited* or was served at once. Never blocks."""
        order = self._order
        self._note_order(file, is_begin=start == 0)
        if self._is_off or (order is not None and file.size <= HEAD_BYTES):
            return
        job = self._ahead.note(inode, file.rank, file.size, start, length, waited=waited)
        if job is not None:
            self._jobs.put(job)
            if not self._works:
                self._works = True
                self._run(self._work)
        self._begun += start == 0
        if self._mode is Prefetch.AUTO and order is None and not self._is_replaying:
            self._note_whether_random(is_inside=start > 0 and file.size >= _LARGE_FILE_BYTES)

    def note_opened(self, file: File) -> None:
        """Take note that *file* is read from now on, by somebody who tells no more of it. Never blocks."""
        self._note_order(file, is_begin=True)

    def _note_order(self, file: File, *, is_begin: bool) -> None:
        if self._first_reads is not None:
            self._first_reads.note(file.rank)
        order = self._order
        if order is not None:
            order.note_read(file.rank, is_begin=is_begin)
            if order.is_read:
                with self._order_lock:
                    if self._order is order:  # and not the next one, handed in meanwhile
                        self._order = None

    def _note_whether_random(self, *, is_inside: bool) -> None:
        is_random = self._ahead.looks_random
        if self._holds_all is None:
            if is_random and not self._is_judging:
                self._is_judging = True
                self._run(self._judge)
            return
        comes_alone = is_random
        if self._holds_all:
            if is_random and not self._whole.is_set():
                self._begin_fill()
                if is_inside or self._is_more_than_a_sample():
                    self._whole.set()
            comes_alone = is_random and self._begun < FIRST_FILES
        self._own_ranges.fetch_alone(Alone.EACH if comes_alone else Alone.NONE)

    def _is_more_than_a_sample(self) -> bool:
        tree = self._source.tree
        return self._begun * SAMPLE_FILES >= tree.files or self._source.fetcher.raw_bytes * SAMPLE_BYTES >= tree.size

    def note_missed_page(self, ref: PageRef) -> None:
        """Want the leaf pages that follow the leaf page *ref*, which somebody waits for. Never blocks."""
        if not ref.level:
            self.note_missed_leaf(ref.key)

    def note_missed_leaf(self, key: bytes) -> None:
        """Do as `note_missed_page` for the leaf page that begins with *key*."""
        if self._is_off:
            return
        tree = self._source.tree_nowait
        try:
            page = tree.load(tree.root)
            parent = tree.root
            while isinstance(page, Inner):
                index = page.index_of(key)
                if page.level == 1:
                    wanted = self._pages.note(parent.content, index)
                    refs = (page.child(at).block for at in wanted if at < page.count)
                    self._source.fetcher.want(block for block in refs if not self._is_in_tail(block))
                    return
                parent = page.child(index)
                page = tree.load(parent)
        except NotCached:
            return
        except DvfsError as exc:
            _log.warning("pages are not fetched ahead: %s", exc)

    # -- in threads

    def _run(self, work: Callable[[], None]) -> None:
        threading.Thread(target=self._guarded, args=(work,), name="dvfs-prefetch", daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except DvfsError as exc:
            _log.warning("fetching ahead ends: %s", exc)
        except Exception:
            _log.exception("fetching ahead ends")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            try:
                self._do(job)
            except DvfsError as exc:
                _log.info("not fetched ahead: %s", exc)

    def _do(self, job: Job) -> None:
        if isinstance(job, FileAhead):
            content = self._view.file(job.inode).content
            extents = blocktree.extents(content, job.start, job.stop - job.start, self._source.pages.load_blocks)
            fetcher, is_verified = self._source.fetcher, self._verifies(job.inode)
            fetcher.want([block for block, _, _ in extents if not (is_verified and fetcher.cached(block))])
            return
        refs: dict[bytes, BlockRef] = {}
        size, stop = 0, job.first
        for rank, blocks in self._blocks(job.first, head_bytes=HEAD_BYTES):
            stop = rank + 1
            for block in blocks:
                size += 0 if block.digest in refs else block.raw
                refs[block.digest] = block
            if size >= job.size or self._stop.is_set():
                break
        else:
            stop = self._source.tree.entries
        self._source.fetcher.want(refs.values())
        if isinstance(job, EntriesAhead):
            self._ahead.reached(job, stop)

    def _begin_fill(self) -> None:
        if not self._fills:
            self._fills = True
            self._run(self._fill)

    def _prepare(self) -> None:
        budget = self._budget_bytes()
        # A cache that does not hold the version would have to give up other files for it, again and again.
        window = max(budget // _CACHE_SHARE, _LEAST_WINDOW_BYTES)
        holds_all = self._is_held_by(budget)
        if not holds_all:
            _log.info("the version has %d bytes, the cache takes %d", self._source.tree.size, budget)
        self._ahead.limit(window, wants_whole=holds_all)
        self._want_inner_pages()

    def _judge(self) -> None:
        self._holds_all = self._is_held_by(self._budget_bytes())

    def _is_held_by(self, budget: int) -> bool:
        return self._source.tree.size <= budget

    def _fill(self) -> None:
        size, budget = self._source.tree.size, self._budget_bytes()
        blocks = distinct(blocks for _, blocks in self._blocks(0))
        head_start = min(size // HEAD_START_SHARE, HEAD_START_BYTES)
        self._fill_with(first_bytes(blocks, head_start), budget)
        self._whole.wait()
        if not self._stop.is_set():
            _log.info("fetching the whole version, %d bytes", size)
            self._fill_with(blocks, budget - head_start)

    def _replay(self) -> None:
        try:
            assert self._replayed is not None
            ranks = checked(self._replayed(), self._source.tree.entries)
            if not ranks:
                return
            budget = self._budget_bytes()
            _log.info("fetching %d files that were read before", len(ranks))
            self._own_ranges.fetch_alone(alone_for(len(ranks), self._source, budget))
            self._fill_with(distinct(blocks for _, blocks in self._files.blocks(ranks)), budget, in_order=True)
        finally:
            self._is_replaying = False

    def _fill_with(self, blocks: Iterable[BlockRef], budget: int, *, in_order: bool = False) -> None:
        """Want *blocks* until they fill the *budget*, a batch at a time in the order of packs, or all *in_order*."""
        batch: list[BlockRef] = []
        wanted = 0
        for block in blocks:
            wanted += block.raw
            if wanted > budget or self._stop.is_set():
                break  # more would push out what came first
            batch.append(block)
            if len(batch) >= _FILL_BATCH_BLOCKS:
                self._want_all(batch, in_order)
                batch = []
        self._want_all(batch, in_order)

    def _want_all(self, refs: list[BlockRef], in_order: bool) -> None:
        """Want *refs*, and wait until there is room for others."""
        if not in_order:
            refs.sort(key=lambda ref: (ref.storage, ref.pack, ref.offset))
        while refs and not self._stop.is_set():
            taken = self._source.fetcher.want(refs, urgent=False, sparing=self._own_ranges.is_sparing)
            refs = refs[taken:]
            if refs:
                self._source.fetcher.wait_idle(_WAIT_SECONDS)

    def _blocks(self, first: int, *, head_bytes: int | None = None) -> Iterator[tuple[int, Iterator[BlockRef]]]:
        """Yield rank and blocks of each file from rank *first* on; only the first *head_bytes* of each, if given."""
        load_blocks = self._source.pages.load_blocks
        for start, leaf in self._source.tree.leaves(first):
            for index in range(max(first - start, 0), leaf.count):
                size = leaf.sizes[index]
                if size and stat.S_ISREG(leaf.modes[index]):
                    length = size if head_bytes is None else min(size, head_bytes)
                    extents = blocktree.iter_extents(leaf.content_at(index), 0, length, load_blocks)
                    if head_bytes is None and self._lay is not None:
                        yield start + index, self._lay(leaf.digest_at(index), size, extents)
                    else:
                        yield start + index, (block for block, _, _ in extents)

    def _want_inner_pages(self) -> None:
        tree = self._source.tree
        rows, left = [tree.root], self._inner_bytes
        while rows and rows[0].level > 1 and not self._stop.is_set():
            below = []
            for ref in rows:
                page = tree.load(ref)
                if isinstance(page, Inner):
                    below += page.children()
            left -= sum(ref.block.stored for ref in below)
            if left < 0:
                return
            self._source.fetcher.want(ref.block for ref in below if not self._is_in_tail(ref.block))
            rows = below
        for ref in rows:
            if ref.level == 1 and not self._stop.is_set():
                tree.load(ref)

    def _is_in_tail(self, ref: BlockRef) -> bool:
        tail = self._tail
        return tail is not None and (
            (ref.storage, ref.pack) == (tail.storage, tail.pack)
            and tail.offset <= ref.offset
            and ref.offset + ref.stored <= tail.offset + tail.stored
        )
