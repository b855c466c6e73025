"""Files fetched in an order that is known, counted at the backend: what it costs, and what comes first."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dvfs.fs.first_reads import FirstReads
from dvfs.fs.known_order import KnownOrder
from dvfs.fs.own_ranges import Alone, OwnRanges
from dvfs.fs.prefetch import Prefetch, Prefetcher
from dvfs.fs.view import blocking_view, identity_of
from dvfs.store.cache import Cache
from dvfs.store.catalog.boundary import Boundaries
from dvfs.store.catalog.entry import BlockTreeRef
from dvfs.store.external import External
from dvfs.store.metrics import Metered
from tests.catalog_model import SMALL
from tests.fs.made_version import Made, make, opened
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING
from tests.waiting import wait_until, wait_until_no_thread

FILES = 400
BYTES = 8_000
DATASET = FILES * BYTES
SMALL_CACHE = DATASET // 4
SMALL_LEAVES = Boundaries(leaf=SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """400 files of 8 kB, eight to a block."""
    source = tmp_path_factory.mktemp("source")
    for number in range(FILES):
        (source / f"f{number:03}").write_bytes(noise(BYTES, number))
    store = tmp_path_factory.mktemp("store") / "store"
    return make(source, store, cutting=SMALL_CUTTING, boundaries=SMALL_LEAVES, tail_bytes=0)


class Mounted:
    """The version on an empty cache, read as a mount reads it."""

    def __init__(self, made: Made, folder: Path, mode: Prefetch, budget_bytes: int, **options: object) -> None:
        self.cache = Cache(folder, budget_bytes=budget_bytes, reserve_bytes=0)
        self.version = made.open(self.cache, wrap=self._metered)
        self.own_ranges = OwnRanges(self.version.fetcher.cached, Alone.NONE)
        self.view = blocking_view(self.version, identity_of(opened(self.version)), 0, self.own_ranges)
        self.prefetcher = Prefetcher(
            self.version,
            self.view,
            mode,
            budget_bytes=lambda: budget_bytes,
            own_ranges=self.own_ranges,
            **options,  # type: ignore[arg-type]
        )

    def _metered(self, inner: object) -> Metered:
        self.metered = Metered(inner)  # type: ignore[arg-type]
        return self.metered

    def read(self, rank: int, *, waited: bool = False) -> None:
        file = self.view.file(rank + 1)
        self.prefetcher.note_read(rank + 1, file, 0, file.size, waited=waited)
        assert self.view.read(rank + 1, 0, BYTES) == noise(BYTES, rank - 1)

    def cached(self, rank: int) -> bool:
        leaf, index = self.version.tree.leaf_at(rank)
        content = self.own_ranges.content(leaf.content_at(index), leaf.digest_at(index), BYTES)
        assert isinstance(content, tuple)
        assert not isinstance(content, BlockTreeRef | External)
        return self.version.fetcher.cached(content[0].block)

    def close(self) -> None:
        self.prefetcher.stop()
        # One that still walks the catalog would use the cache after it is closed.
        wait_until_no_thread("dvfs-prefetch")
        self.version.close()
        self.cache.close()


Open = Callable[..., Mounted]


@pytest.fixture
def mount(made: Made, tmp_path: Path) -> Iterator[Open]:
    mounted: list[Mounted] = []

    def one(mode: Prefetch = Prefetch.AUTO, *, budget_bytes: int = 1 << 30, **options: object) -> Mounted:
        mounted.append(Mounted(made, tmp_path / f"cache{len(mounted)}", mode, budget_bytes, **options))
        return mounted[-1]

    yield one
    for it in mounted:
        it.close()


def shuffled(seed: int = 1) -> array[int]:
    ranks = list(range(1, FILES + 1))  # the root is 0
    random.Random(seed).shuffle(ranks)
    return array("Q", ranks)


def epoch_bytes(it: Mounted, order: array[int], *, is_told: bool, waited: bool = False) -> int:
    """Read a shuffled epoch; return the bytes fetched."""
    before = it.metered.counts.bytes_in
    if is_told:
        it.prefetcher.follow(order)
    for rank in order:
        it.read(rank, waited=waited)
    assert it.version.fetcher.wait_idle(30)
    return it.metered.counts.bytes_in - before


def read_until_sparing(it: Mounted) -> None:
    """Begin to fetch ahead, and read in a shuffled order until small files are fetched one by one."""
    it.prefetcher.start()
    order = shuffled()
    count = 0
    while not it.own_ranges.is_sparing:
        it.read(order[count % FILES], waited=True)
        count += 1
        assert count < 2 * FILES


def test_a_shuffled_epoch_through_a_small_cache_fetches_each_file_about_once(mount: Open) -> None:
    it = mount(budget_bytes=SMALL_CACHE)
    told = [epoch_bytes(it, shuffled(seed), is_told=True) for seed in (1, 2)]
    assert max(told) < 1.3 * DATASET
    other = mount(Prefetch.NONE, budget_bytes=SMALL_CACHE)
    assert epoch_bytes(other, shuffled(), is_told=False) > 3 * DATASET


def test_where_reads_look_random_a_small_cache_is_not_filled_with_what_goes_before_it_is_read(mount: Open) -> None:
    it = mount(Prefetch.AUTO, budget_bytes=SMALL_CACHE)
    read_until_sparing(it)
    assert epoch_bytes(it, shuffled(2), is_told=False, waited=True) < 2 * DATASET


def test_where_reads_are_in_order_again_blocks_are_fetched_whole_again(mount: Open) -> None:
    it = mount(Prefetch.AUTO, budget_bytes=SMALL_CACHE)
    read_until_sparing(it)
    for rank in range(1, 60):
        it.read(rank)
    assert not it.own_ranges.is_sparing


def test_what_comes_first_is_fetched_before_it_is_read(mount: Open) -> None:
    it = mount(budget_bytes=SMALL_CACHE)
    order = shuffled()
    it.prefetcher.follow(order)
    wait_until(lambda: all(it.cached(rank) for rank in order[:15]))
    misses = it.version.fetcher.stats().misses
    for rank in order[:15]:
        it.read(rank)
    assert it.version.fetcher.stats().misses == misses


def test_with_room_for_all_whole_blocks_come_in_few_requests(mount: Open) -> None:
    it = mount()
    it.prefetcher.follow(shuffled())
    wait_until(lambda: all(it.cached(rank) for rank in range(1, FILES + 1)))
    assert it.version.fetcher.stats().requests < FILES / 4
    assert it.metered.counts.bytes_in < 1.2 * DATASET


def test_few_files_of_many_are_fetched_alone(mount: Open) -> None:
    it = mount()
    few = shuffled()[:20]
    assert epoch_bytes(it, few, is_told=True) < 2 * 20 * BYTES + 60_000  # and pages of the catalog


def test_an_order_is_followed_though_nothing_else_is_fetched_ahead(mount: Open) -> None:
    it = mount(Prefetch.NONE)
    order = shuffled()
    it.prefetcher.follow(order)
    wait_until(lambda: it.cached(order[10]))


def test_an_order_takes_the_place_of_the_one_before(mount: Open) -> None:
    it = mount(budget_bytes=SMALL_CACHE)
    it.prefetcher.follow(shuffled(1))
    second = shuffled(2)
    it.prefetcher.follow(second)
    for rank in second:
        it.read(rank)
    assert it.version.fetcher.wait_idle(30)
    assert it.metered.counts.bytes_in < 2.5 * DATASET


def test_an_order_that_comes_while_the_last_file_of_the_one_before_is_read_is_followed(
    mount: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = mount()
    it.prefetcher.follow(array("Q", [1]))
    first = it.prefetcher._order

    def is_read(order: KnownOrder) -> bool:
        if order is first and it.prefetcher._order is first:
            it.prefetcher.follow(array("Q", [200, 300]))
        return order is first

    monkeypatch.setattr(KnownOrder, "is_read", property(is_read))
    it.read(1)
    assert it.prefetcher._order is not None
    assert it.prefetcher._order is not first


def test_ranks_that_the_version_does_not_have(mount: Open) -> None:
    it = mount()
    with pytest.raises(IndexError):
        it.prefetcher.follow(array("Q", [1, FILES + 1]))
    it.prefetcher.follow(array("Q", [0, 5]))  # the root is there, and no file
    wait_until(lambda: it.cached(5))


def test_what_earlier_runs_read_is_fetched_first(mount: Open) -> None:
    order = shuffled()[:60]
    it = mount(replayed=lambda: order)
    it.prefetcher.start()
    wait_until(lambda: all(it.cached(rank) for rank in order))
    assert it.metered.counts.bytes_in < 2 * 60 * BYTES + 60_000
    assert not it.prefetcher.is_filling


def test_a_replay_stops_where_the_cache_is_full(mount: Open) -> None:
    it = mount(replayed=shuffled, budget_bytes=SMALL_CACHE)
    it.prefetcher.start()
    wait_until(lambda: it.metered.counts.bytes_in > SMALL_CACHE * 0.9)
    assert it.version.fetcher.wait_idle(30)
    assert it.metered.counts.bytes_in < SMALL_CACHE * 1.5


def test_nothing_is_replayed_where_nothing_is_fetched_ahead(mount: Open) -> None:
    def never() -> array[int]:
        raise AssertionError

    it = mount(Prefetch.NONE, replayed=never)
    it.prefetcher.start()
    it.read(1)


def test_first_reads_are_noted_once_each(mount: Open) -> None:
    noted = FirstReads(FILES + 1)
    it = mount(Prefetch.NONE, first_reads=noted)
    for rank in (7, FILES, 7, 1, 8, FILES):
        it.read(rank)
    assert noted.ranks.tolist() == [7, FILES, 1, 8]
