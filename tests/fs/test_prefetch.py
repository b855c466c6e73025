"""What is fetched before it is asked for, counted at the backend."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dvfs.fs.own_ranges import Alone, OwnRanges
from dvfs.fs.prefetch import FIRST_FILES, HEAD_START_SHARE, INNER_BYTES, Prefetch, Prefetcher
from dvfs.fs.readahead import FIRST_WINDOW_BYTES, RANDOM_READS, WHOLE_FILE_READS
from dvfs.fs.view import blocking_view, identity_of, nowait_view
from dvfs.store.block import Extent
from dvfs.store.cache import Cache
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.boundary import Boundaries
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.pages import NotCached
from dvfs.store.metrics import Metered
from dvfs.store.version import Version
from tests.catalog_model import SMALL
from tests.fs.made_version import Made, make, opened
from tests.store_kit import SMALL_CUTTING
from tests.waiting import wait_until, wait_until_no_thread

KIB = 1 << 10
FILES = 200
MANY = 2400
ONE = 12 << 20
SMALL_LEAVES = Boundaries(leaf=SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """200 files of 20 KB, three to a block, and one of 2 MB."""
    source = tmp_path_factory.mktemp("source")
    for number in range(FILES):
        (source / f"f{number:03}").write_bytes(os.urandom(20_000))
    (source / "large").write_bytes(os.urandom(2_000_000))
    store = tmp_path_factory.mktemp("store") / "store"
    return make(source, store, cutting=SMALL_CUTTING, boundaries=SMALL_LEAVES, pack_bytes=256 * KIB, tail_bytes=0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`MANY` files of 8 KB, eight to a block."""
    source = tmp_path_factory.mktemp("source")
    for number in range(MANY):
        (source / f"f{number:04}").write_bytes(os.urandom(8_000))
    store = tmp_path_factory.mktemp("store") / "store"
    return make(source, store, cutting=SMALL_CUTTING, boundaries=SMALL_LEAVES, tail_bytes=0)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A file of `ONE` bytes."""
    source = tmp_path_factory.mktemp("source")
    (source / "one").write_bytes(os.urandom(ONE))
    store = tmp_path_factory.mktemp("store") / "store"
    return make(source, store, cutting=SMALL_CUTTING, boundaries=SMALL_LEAVES, tail_bytes=0)


class Opened:
    """The version, opened on an empty cache, with its prefetcher."""

    def __init__(
        self, made: Made, folder: Path, mode: Prefetch, budget_bytes: int = 1 << 30, inner_bytes: int = INNER_BYTES
    ) -> None:
        self.cache = Cache(folder, budget_bytes=budget_bytes, reserve_bytes=0)
        self.version: Version = made.open(self.cache, wrap=self._metered)
        identity = identity_of(opened(self.version))
        self.own_ranges = OwnRanges(self.version.fetcher.cached, Alone.NONE)
        self.waiting = blocking_view(self.version, identity, own_ranges=self.own_ranges)
        self.nowait = nowait_view(self.version, identity, own_ranges=self.own_ranges)
        budget = self.version.cache.info().budget_bytes
        self.prefetcher = Prefetcher(
            self.version,
            self.waiting,
            mode,
            budget_bytes=lambda: budget,
            tail=self.version.root.tail,
            inner_bytes=inner_bytes,
            own_ranges=self.own_ranges,
        )

    def _metered(self, inner: object) -> Metered:
        self.metered = Metered(inner)  # type: ignore[arg-type]
        return self.metered

    def read(self, inode: int, start: int, length: int) -> None:
        """Read as a mount does."""
        self.waiting.getattr(inode)
        file = self.waiting.file(inode)
        try:
            self.nowait.readinto(inode, start, memoryview(bytearray(length)))
            waited = False
        except NotCached:
            waited = True
        self.prefetcher.note_read(inode, file, start, length, waited=waited)
        self.waiting.read(inode, start, length)

    def extents(self, inode: int, start: int) -> list[Extent]:
        """Return where the bytes of a file are from byte *start* on."""
        content = self.waiting.file(inode).content
        return blocktree.extents(content, start, 1, self.version.pages.load_blocks)

    def fetches_alone(self) -> bool:
        """Tell whether small files are fetched each by itself."""
        return self.own_ranges.alone is Alone.EACH

    def cached(self) -> int:
        """Return how many blocks of files are cached."""
        return sum(self.cache.has(digest) for digest in ordered_blocks(self))

    def close(self) -> None:
        self.prefetcher.stop()
        # One that still walks the catalog would use the cache after it is closed.
        wait_until_no_thread("dvfs-prefetch")
        self.version.close()
        self.cache.close()


@pytest.fixture
def open_it(made: Made, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    all_opened: list[Opened] = []

    def open_one(mode: Prefetch, **options: int) -> Opened:
        all_opened.append(Opened(made, tmp_path / f"cache{len(all_opened)}", mode, **options))
        return all_opened[-1]

    yield open_one
    for one in all_opened:
        one.close()


def ordered_blocks(it: Opened) -> list[bytes]:
    """Return the digests of the blocks of files, in catalog order."""
    files = (entry for _, _, entry in it.version.tree.scan() if entry.is_file)
    return list(dict.fromkeys(block.digest for entry in files for block in it.version.blocks(entry)))


def all_blocks(it: Opened) -> int:
    return len(ordered_blocks(it))


def test_all_fills_the_version(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.ALL)
    it.prefetcher.start()
    number = all_blocks(it)
    assert number > 60
    wait_until(lambda: it.cached() == number)
    assert it.prefetcher.is_filling


def test_all_stops_where_the_cache_is_full(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.ALL, budget_bytes=1 << 20)
    it.prefetcher.start()
    wait_until(lambda: it.cached() * SMALL_CUTTING.block_bytes > 800_000)
    assert it.version.fetcher.wait_idle(10)
    assert it.version.fetcher.stats().raw_bytes < 1_300_000  # and the pages of the catalog


def test_none_fetches_what_is_read_and_no_more(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.NONE)
    it.prefetcher.start()
    for inode in range(2, FILES, 3):
        it.read(inode, 0, 20_000)
    misses = it.version.fetcher.stats().misses
    assert it.version.fetcher.wait_idle(10)
    stats = it.version.fetcher.stats()
    assert (stats.misses, stats.requests) == (misses, misses)
    assert not it.prefetcher.is_filling


def test_auto_fills_once_reads_look_random(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.AUTO)
    it.prefetcher.start()
    order = [(number * 67) % FILES + 2 for number in range(FILES)]
    count = 0
    while not it.prefetcher.is_filling:
        it.read(order[count], 0, 20_000)
        count += 1
        assert count < 3 * RANDOM_READS
    assert count >= RANDOM_READS
    number = all_blocks(it)
    wait_until(lambda: it.cached() == number)


def test_auto_does_not_fill_for_a_sample(many: Made, tmp_path: Path) -> None:
    it = Opened(many, tmp_path / "cache", Prefetch.AUTO)
    try:
        it.prefetcher.start()
        order = [(number * 1009) % MANY + 2 for number in range(MANY)]
        sample = MANY // 100
        assert sample > RANDOM_READS
        for inode in order[:sample]:
            it.read(inode, 0, 8_000)
        wait_until(lambda: it.version.fetcher.wait_idle(1))
        assert not it.prefetcher.is_filling
        assert it.version.fetcher.raw_bytes <= it.version.tree.size * 0.12  # and the pages of the catalog
        for inode in order[sample : 4 * sample]:
            it.read(inode, 0, 8_000)
        assert it.prefetcher.is_filling
        number = all_blocks(it)
        wait_until(lambda: it.cached() == number)
    finally:
        it.close()


def test_the_first_files_that_are_read_at_random_come_alone(many: Made, tmp_path: Path) -> None:
    it = Opened(many, tmp_path / "cache", Prefetch.AUTO)
    try:
        it.prefetcher.start()
        order = ((number * 1009) % MANY + 2 for number in range(MANY))
        begun = 0
        while not it.fetches_alone():
            it.read(next(order), 0, 8_000)
            begun += 1
        assert RANDOM_READS <= begun < MANY // 80
        head = ordered_blocks(it)[: all_blocks(it) // HEAD_START_SHARE + 1]
        wait_until(lambda: all(it.cache.has(digest) for digest in head))  # it comes whatever is read
        before = it.cached()
        assert before <= begun + len(head)
        it.read(next(order), 0, 8_000)
        assert it.cached() == before  # no block: the file has one of its own
        for _ in range(begun + 2, FIRST_FILES):
            it.read(next(order), 0, 8_000)
        assert it.prefetcher.is_filling
        assert it.fetches_alone()
        it.read(next(order), 0, 8_000)
        assert not it.fetches_alone()
        number = all_blocks(it)
        wait_until(lambda: it.cached() == number)
    finally:
        it.close()


def test_auto_does_not_fill_what_the_cache_cannot_hold(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.AUTO, budget_bytes=1 << 20)
    for number in range(FILES):
        it.read((number * 67) % FILES + 2, 0, 20_000)
    wait_until(lambda: not it.prefetcher.is_filling)
    assert it.cached() < all_blocks(it)


def test_a_version_larger_than_the_cache_is_logged_once(
    open_it: Callable[..., Opened], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dvfs.fs.prefetch")
    it = open_it(Prefetch.AUTO, budget_bytes=1 << 20)
    it.prefetcher.start()
    wait_until_no_thread("dvfs-prefetch")
    order = ((number * 67) % FILES + 2 for number in itertools.count())
    while not it.fetches_alone():  # until it is known to be larger
        it.read(next(order), 0, 20_000)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"the version has {it.version.tree.size} bytes, the cache takes {1 << 20}"]


def test_a_file_read_in_order_is_there_before_its_reader(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.AUTO)
    found = it.waiting.lookup(1, b"large")
    assert found is not None
    it.read(found.inode, 0, 64 * KIB)
    it.read(found.inode, 64 * KIB, 64 * KIB)
    file = it.waiting.file(found.inode)
    blocks = list(it.version.blocks(it.version.tree.select(file.rank)[1]))
    ends = list(itertools.accumulate(block.raw for block in blocks))
    ahead = [block for block, end in zip(blocks, ends, strict=True) if 128 * KIB < end <= FIRST_WINDOW_BYTES]
    assert len(ahead) > 4
    wait_until(lambda: all(it.version.fetcher.cached(block) for block in ahead))
    assert not it.prefetcher.is_filling


@pytest.mark.parametrize("budget_bytes", [2 * ONE, ONE - 1])
def test_a_file_read_here_and_there_comes_whole_if_the_cache_holds_it(
    one: Made, tmp_path: Path, budget_bytes: int
) -> None:
    it = Opened(one, tmp_path / "cache", Prefetch.AUTO, budget_bytes)
    try:
        it.prefetcher.start()
        wait_until_no_thread("dvfs-prefetch")
        for start in (9 << 20, 1 << 20, 6 << 20, 3 << 20)[:WHOLE_FILE_READS]:
            it.read(2, start, 10)
        it.read(2, 8 << 20, 64 * KIB)
        it.read(2, (8 << 20) + 64 * KIB, 64 * KIB)
        ahead = it.extents(2, (8 << 20) + 256 * KIB)[0].block
        wait_until(lambda: it.version.fetcher.cached(ahead))  # what was wanted before it was wanted, too
        assert it.version.fetcher.wait_idle(10)
        if budget_bytes > ONE:
            assert it.cached() == all_blocks(it)
        else:
            assert it.cached() < all_blocks(it) // 4
        assert not it.prefetcher.is_filling
    finally:
        it.close()


def test_files_read_in_catalog_order_are_there_before_their_reader(open_it: Callable[..., Opened]) -> None:
    it = open_it(Prefetch.AUTO)
    for inode in range(2, 8):
        it.read(inode, 0, 20_000)
    number = all_blocks(it)
    wait_until(lambda: it.cached() > number // 2)
    assert not it.prefetcher.is_filling


def test_pages_walked_in_order_come_several_to_a_request(open_it: Callable[..., Opened]) -> None:
    requests = []
    for mode in (Prefetch.NONE, Prefetch.AUTO):
        it = open_it(mode)
        it.version.tree.load(it.version.tree.root)
        offset = 0
        while True:
            try:
                names = list(it.nowait.readdir(1, offset))
                offset += len(names)
                break
            except NotCached as exc:
                if isinstance(exc.ref, PageRef):
                    it.prefetcher.note_missed_page(exc.ref)
                    it.version.tree.load(exc.ref)
        assert offset == FILES + 3
        requests.append(it.version.fetcher.stats().requests)
    assert requests[1] * 3 < requests[0]


def test_inner_pages_come_level_by_level_as_far_as_they_fit(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"f{number:03}").write_bytes(b"%d" % number)
    boundaries = Boundaries(leaf=SMALL, inner=SMALL)
    made = make(source, tmp_path / "store", cutting=SMALL_CUTTING, boundaries=boundaries, tail_bytes=0)

    def prefetched(name: str, inner_bytes: int) -> list[tuple[int, int]]:
        """Return of each level below the root how many inner pages it has, and how many are cached."""
        it = Opened(made, tmp_path / name, Prefetch.AUTO, inner_bytes=inner_bytes)
        try:
            it.prefetcher.start()
            wait_until_no_thread("dvfs-prefetch")
            assert it.version.fetcher.wait_idle(10)
            found = [[ref.block for ref in level] for level in levels]
            return [(len(level), sum(it.cache.has(block.digest) for block in level)) for level in found]
        finally:
            it.close()

    levels: list[list[PageRef]] = []
    it = Opened(made, tmp_path / "all", Prefetch.NONE)
    rows = [it.version.tree.root]
    while rows[0].level > 1:
        pages = [it.version.tree.load(ref) for ref in rows]
        rows = [ref for page in pages if isinstance(page, Inner) for ref in page.children()]
        levels.append(rows)
    it.close()
    assert len(levels) >= 2
    sizes = [sum(ref.block.stored for ref in level) for level in levels]

    assert all(number == cached for number, cached in prefetched("enough", sum(sizes)))
    *above, (number, cached) = prefetched("too little", sum(sizes) - 1)
    assert all(number == cached for number, cached in above)
    assert (number > 1, cached) == (True, 0)
