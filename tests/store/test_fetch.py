"""The fetcher: one request for many who ask, neighbours in one, and nothing unverified comes out."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Codec
from dvfs.store.cache import Cache
from dvfs.store.clock import SystemClock
from dvfs.store.digest import block_digest
from dvfs.store.errors import Corrupt, Internal, Throttled, Unavailable
from dvfs.store.fetch import Fetcher
from dvfs.store.fetch_pack import Pace
from dvfs.store.fetch_queue import WantedBlocks, in_one_request
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import PackId, pack_key
from dvfs.store.retry import Repeats, Retrying, RetryPolicy
from tests.cache_process import CacheProcess
from tests.clocks import FakeClock
from tests.faulty import Faulty
from tests.memory_backend import Get, MemoryBackend, store_blocks
from tests.store.noise import noise
from tests.waiting import wait_until

KIB = 1 << 10


class Setup:
    """A store of one pack of 16 blocks of 8 KiB, a cache, and the fetchers made over them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backend = MemoryBackend()
        self.blocks = [noise(8 * KIB, seed) for seed in range(16)]
        self.refs = store_blocks(self.backend, self.blocks)
        self.key = pack_key(self.refs[0].pack)
        self._open: list[Fetcher | Cache] = []

    def fetcher(self, budget_bytes: int = 1 << 30, **options: Any) -> Fetcher:
        """Return a new fetcher over a new cache object in the same folder."""
        cache = Cache(self.root, budget_bytes=budget_bytes, reserve_bytes=0)
        fetcher = Fetcher(lambda tag: self.backend, cache, **options)
        self._open += [fetcher, cache]
        return fetcher

    def change_pack(self, change: Callable[[bytearray], None]) -> None:
        pack = bytearray(self.backend.objects[self.key])
        change(pack)
        self.backend.objects[self.key] = bytes(pack)

    def close(self) -> None:
        for thing in self._open:
            thing.close()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


class Gate:
    """Holds requests back until it is opened; counts how many are inside."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._opened = False
        self.inside = 0
        self.most = 0

    def __call__(self, get: Get) -> None:
        with self._condition:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._opened, 60)
            self.inside -= 1

    def open(self) -> None:
        with self._condition:
            self._opened = True
            self._condition.notify_all()

    def wait_inside(self, count: int) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: self.inside >= count, 60)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- one block


def test_bytes_are_counted_by_where_they_came_from(setup: Setup) -> None:
    fetcher = setup.fetcher()
    fetcher.read(setup.refs[0], 0, 100)
    fetcher.read(setup.refs[0], 0, 200)
    assert fetcher.read_nowait(setup.refs[0], 0, 300) is not None
    fetcher.want(setup.refs[1:3])
    assert fetcher.wait_idle(60)
    found = fetcher.stats()
    assert (found.missed_bytes, found.cache_bytes, found.memory_bytes) == (100, 200, 300)
    assert (found.bytes_fetched, found.ahead_bytes) == (24 * KIB, 16 * KIB)
    assert found.latencies.count == found.requests == 2
    assert (found.wanted, found.under_way, found.parallel) == (0, 0, 16)


def test_what_is_tried_again_is_told(setup: Setup) -> None:
    faulty = Faulty(setup.backend)
    faulty.fail("get", error=Throttled("slow down"))
    retrying = Retrying(faulty, FakeClock(), RetryPolicy(), jitter=lambda: 0.0)
    with closing(Cache(setup.root / "other", budget_bytes=1 << 30, reserve_bytes=0)) as cache:
        fetcher = Fetcher(lambda tag: retrying, cache)
        fetcher.block(setup.refs[0])
        assert fetcher.stats().repeats == Repeats(retries=1, throttled=1)
        assert fetcher.stats().requests == 1
        fetcher.close()


def test_a_block_is_fetched_once_and_read_from_the_cache_after(setup: Setup) -> None:
    fetcher = setup.fetcher()
    ref, raw = setup.refs[3], setup.blocks[3]
    assert not fetcher.cached(ref)
    assert fetcher.read_nowait(ref, 10, 20) is None
    assert fetcher.read(ref, 10, 20) == raw[10:30]
    assert fetcher.cached(ref)
    assert fetcher.read_nowait(ref, 10, 20) == raw[10:30]
    assert fetcher.read(ref, 0, len(raw)) == raw
    assert fetcher.block(ref) == raw
    assert setup.backend.gets == [(setup.key, 3 * 8 * KIB, 8 * KIB)]
    stats = fetcher.stats()
    assert (stats.requests, stats.bytes_fetched, stats.raw_bytes) == (1, 8 * KIB, 8 * KIB)
    assert (stats.hits, stats.misses, stats.joins, stats.errors) == (3, 1, 0, 0)


def test_compressed_blocks_are_returned_raw(setup: Setup) -> None:
    texts = [b"text %d " % number * 1000 for number in range(3)]
    refs = store_blocks(setup.backend, texts, seed=9, compression="zstd")
    assert all(ref.codec == Codec.ZSTD for ref in refs)
    fetcher = setup.fetcher()
    assert [fetcher.block(ref) for ref in refs] == texts
    assert fetcher.stats().bytes_fetched == sum(ref.stored for ref in refs)
    assert fetcher.stats().raw_bytes == sum(map(len, texts))


def test_a_damaged_cache_file_is_fetched_afresh(setup: Setup) -> None:
    ref = setup.refs[0]
    setup.fetcher().block(ref)
    name = ref.digest.hex()
    os.truncate(setup.root / "blocks" / name[:2] / name, 100)
    fetcher = setup.fetcher()
    assert fetcher.read(ref, 0, 10) == setup.blocks[0][:10]
    assert fetcher.stats().requests == 1


def test_what_is_cached_is_read_without_the_store(setup: Setup) -> None:
    setup.fetcher().block(setup.refs[0])
    fetcher = setup.fetcher()
    setup.backend.on_get = _raise(Unavailable("the store is gone"))
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]
    fetcher.close()
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]


def test_a_cache_that_cannot_store_is_replaced_by_memory(setup: Setup) -> None:
    fetcher = setup.fetcher(budget_bytes=0, memory_bytes=3 * 8 * KIB)
    for _ in range(2):
        for number in range(3):
            assert fetcher.block(setup.refs[number]) == setup.blocks[number]
            assert fetcher.cached(setup.refs[number])
    assert fetcher.read(setup.refs[0], 5, 10) == setup.blocks[0][5:15]
    assert fetcher.read_nowait(setup.refs[0], 5, 10) == setup.blocks[0][5:15]
    assert fetcher.stats().requests == 3
    fetcher.block(setup.refs[3])
    assert not fetcher.cached(setup.refs[1])  # the least recently used


# -- damage in the store


def test_damage_is_fetched_again_then_named_and_the_rest_stays_readable(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    ref = setup.refs[5]

    def flip(pack: bytearray) -> None:
        pack[ref.offset + 77] ^= 1

    setup.change_pack(flip)
    fetcher = setup.fetcher()
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            fetcher.block(ref)
        for part in (setup.key, f"at {ref.offset} ", ref.digest.hex(), "memory:"):
            assert part in caught.value.message
    assert len(setup.backend.gets) == 4
    assert ref.digest.hex() in lines(caplog)[0]
    assert fetcher.block(setup.refs[4]) == setup.blocks[4]
    assert fetcher.block(setup.refs[6]) == setup.blocks[6]
    setup.change_pack(flip)
    assert fetcher.block(ref) == setup.blocks[5]


def test_damage_on_the_way_is_healed_by_the_second_request(setup: Setup) -> None:
    ref = setup.refs[5]
    good = setup.backend.objects[setup.key]
    setup.change_pack(lambda pack: pack.__setitem__(ref.offset, pack[ref.offset] ^ 1))

    def heal(get: Get) -> None:
        if len(setup.backend.gets) == 2:
            setup.backend.objects[setup.key] = good

    setup.backend.on_get = heal
    fetcher = setup.fetcher()
    assert fetcher.block(ref) == setup.blocks[5]
    assert fetcher.stats().requests == 2


def test_damage_in_a_run_touches_its_own_block_only(setup: Setup) -> None:
    ref = setup.refs[5]
    setup.change_pack(lambda pack: pack.__setitem__(ref.offset, pack[ref.offset] ^ 1))
    fetcher = setup.fetcher()
    fetcher.want(setup.refs)
    assert fetcher.wait_idle(60)
    assert [fetcher.cached(each) for each in setup.refs] == [each is not ref for each in setup.refs]
    assert fetcher.stats().requests == 2
    assert fetcher.stats().errors == 1


def test_a_truncated_pack_is_corrupt_beyond_its_end_only(setup: Setup) -> None:
    ref = setup.refs[10]
    setup.change_pack(lambda pack: pack.__delitem__(slice(ref.offset + 100, None)))
    fetcher = setup.fetcher()
    for number in (10, 11, 15):
        with pytest.raises(Corrupt) as caught:
            fetcher.block(setup.refs[number])
        assert setup.key in caught.value.message
    fetcher.want(setup.refs)
    assert fetcher.wait_idle(60)
    assert [fetcher.cached(each) for each in setup.refs] == [True] * 10 + [False] * 6


def test_a_missing_pack_is_corrupt(setup: Setup) -> None:
    del setup.backend.objects[setup.key]
    with pytest.raises(Corrupt) as caught:
        setup.fetcher().block(setup.refs[0])
    assert setup.key in caught.value.message


def test_damaged_compressed_bytes_are_corrupt(setup: Setup) -> None:
    (ref,) = store_blocks(setup.backend, [b"text " * 1000], seed=9, compression="zstd")
    key = pack_key(ref.pack)
    setup.backend.objects[key] = b"\xff" + setup.backend.objects[key][1:]
    with pytest.raises(Corrupt) as caught:
        setup.fetcher().block(ref)
    assert key in caught.value.message


@pytest.mark.parametrize(
    "lie",
    [
        {"raw": MAX_BLOCK_BYTES + 1, "stored": MAX_BLOCK_BYTES + 1},
        {"raw": 0, "stored": 0},
        {"raw": -1, "stored": -1},
        {"stored": 8 * KIB + 1},
        {"codec": 2},
        {"codec": -1},
        {"codec": Codec.ZSTD, "stored": 0},
        {"codec": Codec.ZSTD, "stored": MAX_BLOCK_BYTES + 1},
        {"offset": -1},
        {"offset": 1 << 63},
        {"storage": -1},
        {"pack": PackId(b"short")},
        {"digest": b"short"},
    ],
)
def test_a_hostile_reference_is_corrupt_without_a_request(setup: Setup, lie: dict[str, Any]) -> None:
    hostile = setup.refs[0]._replace(**lie)
    fetcher = setup.fetcher()
    with pytest.raises(Corrupt):
        fetcher.block(hostile)
    assert fetcher.want([hostile]) == 0
    assert setup.backend.gets == []


def test_a_reference_that_lies_about_a_cached_block_is_corrupt(setup: Setup) -> None:
    fetcher = setup.fetcher()
    fetcher.block(setup.refs[0])
    liar = setup.refs[0]._replace(raw=9 * KIB, stored=9 * KIB)
    with pytest.raises(Corrupt):
        fetcher.block(liar)
    with pytest.raises(Corrupt):
        fetcher.read(liar, 8 * KIB, 10)
    assert fetcher.read_nowait(liar, 8 * KIB, 10) is None
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]


@pytest.mark.parametrize(("start", "length"), [(-1, 10), (0, 8 * KIB + 1), (8 * KIB, 1), (0, -1)])
def test_reading_outside_the_block_is_corrupt(setup: Setup, start: int, length: int) -> None:
    fetcher = setup.fetcher()
    for _ in range(2):
        with pytest.raises(Corrupt):
            fetcher.read(setup.refs[0], start, length)
        assert fetcher.read_nowait(setup.refs[0], start, length) is None
        fetcher.block(setup.refs[0])


# -- many at once


def test_all_who_ask_at_once_get_the_bytes_of_one_request(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(fetcher.block, setup.refs[0]) for _ in range(8)]
        wait_until(lambda: fetcher.stats().joins == 7)
        gate.open()
        assert {answer.result() for answer in answers} == {setup.blocks[0]}
    assert len(setup.backend.gets) == 1
    assert fetcher.stats().misses == 8


def _raise(error: BaseException) -> Callable[[Get], None]:
    def fail(get: Get) -> None:
        raise error

    return fail


def test_all_who_ask_at_once_get_the_error_and_the_next_tries_anew(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def fail(get: Get) -> None:
        gate(get)
        raise Unavailable("the store is gone", hint="wait")

    setup.backend.on_get = fail
    fetcher = setup.fetcher()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(fetcher.block, setup.refs[0]) for _ in range(4)]
        wait_until(lambda: fetcher.stats().joins == 3)
        gate.open()
        errors = [answer.exception() for answer in answers]
    assert [str(error) for error in errors] == ["the store is gone"] * 4
    assert all(isinstance(error, Unavailable) and error.hint == "wait" for error in errors)
    assert len({id(error) for error in errors}) == 4
    assert len(setup.backend.gets) == 1
    assert len(lines(caplog)) == 1
    setup.backend.on_get = lambda get: None
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]
    setup.backend.on_get = _raise(Unavailable("gone again"))
    with pytest.raises(Unavailable):
        fetcher.block(setup.refs[1])
    assert len(lines(caplog)) == 2


def test_a_bug_in_a_backend_is_an_internal_error(setup: Setup) -> None:
    setup.backend.on_get = _raise(KeyError("oops"))
    fetcher = setup.fetcher()
    with pytest.raises(Internal):
        fetcher.block(setup.refs[0])
    setup.backend.on_get = lambda get: None
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]


def test_who_waits_for_an_interrupted_caller_fetches_itself(setup: Setup) -> None:
    gate = Gate()

    def interrupt(get: Get) -> None:
        if len(setup.backend.gets) == 1:
            gate(get)
            raise KeyboardInterrupt

    setup.backend.on_get = interrupt
    fetcher = setup.fetcher()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetcher.block, setup.refs[0])
        gate.wait_inside(1)
        second = pool.submit(fetcher.block, setup.refs[0])
        wait_until(lambda: fetcher.stats().joins == 1)
        gate.open()
        assert isinstance(first.exception(), KeyboardInterrupt)
        assert second.result() == setup.blocks[0]


def test_parallel_requests_are_bounded(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=4, request_bytes=1, demand_bytes=1)
    fetcher.want(setup.refs[:8])
    gate.wait_inside(3)  # one turn is left to callers
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(fetcher.block, ref) for ref in setup.refs[8:]]
        gate.wait_inside(4)
        gate.open()
        assert [answer.result() for answer in answers] == setup.blocks[8:]
    assert fetcher.wait_idle(60)
    assert gate.most == 4
    assert len(setup.backend.gets) == 16


# -- wanted blocks


def test_wanted_neighbours_make_one_request(setup: Setup) -> None:
    fetcher = setup.fetcher()
    assert fetcher.want(setup.refs) == 16
    assert fetcher.wait_idle(60)
    assert setup.backend.gets == [(setup.key, 0, 16 * 8 * KIB)]
    assert [fetcher.block(ref) for ref in setup.refs] == setup.blocks
    assert fetcher.want(setup.refs) == 16
    assert fetcher.wait_idle(60)
    assert fetcher.stats().requests == 1


def test_a_gap_splits_a_request_and_so_does_its_length(setup: Setup) -> None:
    refs = store_blocks(setup.backend, setup.blocks, seed=1, gap_bytes=100)
    setup.fetcher().block(refs[0])  # the cache has it: nobody fetches it again
    setup.backend.gets.clear()
    fetcher = setup.fetcher(coalesce_gap_bytes=100, request_bytes=6 * 8 * KIB)
    fetcher.want([refs[number] for number in (0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13)])
    assert fetcher.wait_idle(60)
    step = 8 * KIB + 100
    assert sorted((start // step, (length or 0) // step + 1) for _, start, length in setup.backend.gets) == [
        (1, 2),
        (4, 1),
        (6, 5),
        (11, 3),
    ]


def test_a_wanted_block_that_is_asked_for_does_not_wait_for_the_queue(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=2, request_bytes=1, demand_bytes=1)
    fetcher.want(setup.refs[:8])
    gate.wait_inside(1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetcher.block, setup.refs[7])
        gate.wait_inside(2)
        gate.open()
        assert answer.result() == setup.blocks[7]
    assert fetcher.wait_idle(60)
    assert [start // (8 * KIB) for _, start, _ in setup.backend.gets] == [0, 7, 1, 2, 3, 4, 5, 6]


def test_a_caller_goes_before_the_queue(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=1, request_bytes=1, demand_bytes=1)
    fetcher.want(setup.refs[:4])
    gate.wait_inside(1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetcher.block, setup.refs[9])
        wait_until(lambda: fetcher._waiting == 1)
        gate.open()
        assert answer.result() == setup.blocks[9]
    assert fetcher.wait_idle(60)
    assert [start // (8 * KIB) for _, start, _ in setup.backend.gets] == [0, 9, 1, 2, 3]


def test_wanted_neighbours_ride_along_with_a_caller(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=2, request_bytes=1, demand_bytes=4 * 8 * KIB)
    fetcher.want([setup.refs[number] for number in (0, 9, 11, 12, 13, 14)])
    gate.wait_inside(1)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(fetcher.block, setup.refs[10])
        gate.wait_inside(2)
        rider = pool.submit(fetcher.block, setup.refs[12])
        wait_until(lambda: fetcher.stats().joins == 1)
        fetcher.unwant_all()
        gate.open()
        assert (answer.result(), rider.result()) == (setup.blocks[10], setup.blocks[12])
    assert fetcher.wait_idle(60)
    assert [(start // (8 * KIB), (length or 0) // (8 * KIB)) for _, start, length in setup.backend.gets] == [
        (0, 1),
        (10, 4),
    ]
    assert [fetcher.cached(setup.refs[number]) for number in (9, 10, 11, 12, 13, 14)] == [False, *[True] * 4, False]
    assert fetcher.stats().ahead_bytes == 4 * 8 * KIB  # all but the one that was asked for


def test_where_bytes_come_fast_more_neighbours_ride_along(setup: Setup) -> None:
    long = store_blocks(setup.backend, [noise(1 << 20, 99)], seed=1)[0]
    fetcher = setup.fetcher(parallel=2, coalesce_gap_bytes=0, request_bytes=4 * 8 * KIB, demand_bytes=1)
    fetcher.block(long)
    gate = setup.backend.on_get = Gate()
    fetcher.want([setup.refs[number] for number in (0, 11, 12, 13, 14)])
    gate.wait_inside(1)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetcher.block, setup.refs[10])
        gate.wait_inside(2)
        fetcher.unwant_all()
        gate.open()
        assert answer.result() == setup.blocks[10]
    assert [fetcher.cached(setup.refs[number]) for number in (10, 11, 12, 13, 14)] == [*[True] * 4, False]


def test_pace_goes_by_long_requests_and_the_latest_ones() -> None:
    pace = Pace()
    assert pace.bytes_in(1) == 0
    pace.note(1000, 0.001)
    assert pace.bytes_in(1) == 0
    pace.note(8 << 20, 0.5)
    assert pace.bytes_in(0.25) == 4 << 20
    for _ in range(20):
        pace.note(1 << 20, 1)
    assert 1 << 20 <= pace.bytes_in(1) < 1.1 * (1 << 20)


def test_wanting_is_bounded_and_urgent_blocks_come_first(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=1, request_bytes=1, queue_blocks=4)
    fetcher.want(setup.refs[:1], urgent=False)
    gate.wait_inside(1)
    assert fetcher.want(setup.refs[1:4], urgent=False) == 3
    assert fetcher.want([setup.refs[3]]) == 1
    assert fetcher.want(setup.refs[8:]) == 1
    gate.open()
    assert fetcher.wait_idle(60)
    assert [start // (8 * KIB) for _, start, _ in setup.backend.gets] == [0, 3, 8, 1, 2]


def test_what_goes_wrong_in_the_background_is_logged_once_and_dropped(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.backend.on_get = _raise(Unavailable("the store is gone"))
    fetcher = setup.fetcher(request_bytes=1)
    fetcher.want(setup.refs)
    assert fetcher.wait_idle(60)
    assert fetcher.stats().errors == 16
    assert len(lines(caplog)) == 1
    assert "the store is gone" in lines(caplog)[0]
    setup.backend.on_get = lambda get: None
    assert fetcher.block(setup.refs[0]) == setup.blocks[0]


def test_threads_come_with_the_first_wanted_block_and_end_with_close(setup: Setup) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "dvfs-fetch"]

    fetcher = setup.fetcher()
    fetcher.block(setup.refs[0])
    assert threads() == []
    fetcher.want(setup.refs)
    assert threads() != []
    fetcher.close()
    assert threads() == []
    assert fetcher.want(setup.refs) == 0
    with pytest.raises(Unavailable):
        fetcher.block(setup.refs[0]._replace(digest=bytes(32)))


def test_unwanted_blocks_are_not_fetched(setup: Setup) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher(parallel=1, request_bytes=1)
    fetcher.want(setup.refs)
    gate.wait_inside(1)
    fetcher.unwant_all()
    gate.open()
    assert fetcher.wait_idle(60)
    assert len(setup.backend.gets) == 1


# -- processes


class NotingClock(SystemClock):
    """The machine's clock, which tells that somebody slept."""

    def __init__(self) -> None:
        self.slept = threading.Event()

    def sleep(self, seconds: float) -> None:
        self.slept.set()
        super().sleep(seconds)


@pytest.fixture
def neighbour(setup: Setup) -> Iterator[tuple[Fetcher, NotingClock]]:
    """A fetcher with a cache object of its own in the same folder, as another process has it."""
    clock = NotingClock()
    cache = Cache(setup.root, budget_bytes=1 << 30, reserve_bytes=0, lock_wait_seconds=60, clock=clock)
    fetcher = Fetcher(lambda tag: setup.backend, cache)
    yield fetcher, clock
    fetcher.close()
    cache.close()


def test_a_caller_waits_for_the_process_that_fetches_its_block(
    setup: Setup, neighbour: tuple[Fetcher, NotingClock]
) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher()
    other, clock = neighbour
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(fetcher.block, setup.refs[0])
        gate.wait_inside(1)
        waiting = pool.submit(other.block, setup.refs[0])
        assert clock.slept.wait(60)
        gate.open()
        assert answer.result() == waiting.result() == setup.blocks[0]
    assert len(setup.backend.gets) == 1
    assert other.stats().requests == 0


def test_a_wanted_block_that_another_process_fetches_is_left_to_it(
    setup: Setup, neighbour: tuple[Fetcher, NotingClock]
) -> None:
    gate = setup.backend.on_get = Gate()
    fetcher = setup.fetcher()
    other, clock = neighbour
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetcher.block, setup.refs[0])
        gate.wait_inside(1)
        other.want(setup.refs[:1])
        assert other.wait_idle(60)
        gate.open()
        assert answer.result() == setup.blocks[0]
    assert not clock.slept.is_set()
    assert len(setup.backend.gets) == 1
    assert other.block(setup.refs[0]) == setup.blocks[0]
    assert other.stats().requests == 0


@pytest.mark.parametrize("want", [False, True])
def test_two_processes_fetch_each_block_once(tmp_path: Path, want: bool) -> None:
    backend = FolderBackend(tmp_path / "store")
    blocks = [noise(64 * KIB, seed) for seed in range(40)]
    refs = [ref for at in range(0, 40, 10) for ref in store_blocks(backend, blocks[at : at + 10], seed=at)]
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                CacheProcess("read", tmp_path / "cache", store=tmp_path / "store", refs=refs, want=want)
            )
            for _ in range(2)
        ]
        answers = [reader.answer() for reader in readers]
        assert [answer["right"] for answer in answers] == [40, 40]
        assert [reader.wait() for reader in readers] == [0, 0]
    requests = sum(answer["requests"] for answer in answers)
    assert requests <= 40 if want else requests == 40
    backend.close()


# -- the queue


def _ref(offset: int, stored: int = 10, pack: int = 0, raw: int = 0) -> BlockRef:
    digest = block_digest(b"%d %d" % (pack, offset))
    codec = Codec.ZSTD if raw > stored else Codec.RAW
    return BlockRef(0, PackId(bytes([pack]) * 24), offset, stored, raw or stored, codec, digest)


def test_a_run_grows_to_both_sides_within_gap_and_length() -> None:
    queue = WantedBlocks(100, 5)
    refs = [_ref(offset) for offset in (0, 10, 25, 35, 51, 61)]
    for ref in [refs[2], *refs[:2], *refs[3:], _ref(45, pack=1)]:
        assert queue.add(ref, urgent=False)
    assert len(queue) == 7
    assert queue.take_run(45) == refs[:4]
    assert queue.take_run(10) == [refs[4]]
    assert len(queue) == 2
    assert queue.take_run(1) == [refs[5]]
    assert queue.take_run(1) == [_ref(45, pack=1)]
    assert queue.take_run(1) == []
    assert len(queue) == 0


def test_a_run_is_a_quarter_longer_where_that_leaves_nothing_behind() -> None:
    queue = WantedBlocks(100, 5)
    refs = [_ref(offset) for offset in range(0, 100, 10)]
    for ref in refs:
        assert queue.add(ref, urgent=False)
    assert queue.take_run(40) == refs[:4]
    assert queue.take(refs[4].digest) == refs[4]
    assert queue.take_neighbours(refs[4], 40) == refs[5:8]
    assert queue.take_run(16) == refs[8:]
    assert len(queue) == 0


def test_runs_of_compressed_blocks_become_shorter_so_that_all_end_together() -> None:
    queue = WantedBlocks(100, 5)
    lengths: list[list[int]] = []
    for raw in (10, 30):
        for number in range(80):
            assert queue.add(_ref(10 * number, raw=raw), urgent=False)
        lengths.append([])
        while run := queue.take_run(160, among=4):
            lengths[-1].append(len(run))
    assert lengths[0] == [16] * 5
    assert lengths[1] == [16, 16, 12, 9, 6, 5, 4, 4, 4, 4]


class _Piece(bytearray):
    """Bytes of which can be told whether anybody still holds them."""


class _Streaming(MemoryBackend):
    """*held*: how many pieces that it gave before were still held, each time that one was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[weakref.ref[_Piece]] = []
        self.held: list[int] = []

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        for size in sizes:
            self.held.append(sum(given() is not None for given in self._given))
            piece = _Piece(self.objects[key][start : start + size])
            start += size
            self._given.append(weakref.ref(piece))
            yield piece  # type: ignore[misc]  # as good as bytes


@pytest.mark.parametrize("ahead", [True, False])
def test_bytes_are_held_until_they_are_stored_and_not_until_the_request_ends(setup: Setup, *, ahead: bool) -> None:
    setup.backend = backend = _Streaming()
    blocks = [noise(256 * KIB, seed) for seed in range(12)]
    refs = store_blocks(backend, blocks)
    fetcher = setup.fetcher(demand_bytes=4096 * KIB)
    gate = threading.Event()
    if not ahead:  # they ride along with a caller
        fetcher._may_work = gate.is_set  # type: ignore[method-assign]
    fetcher.want(refs[not ahead :])
    if not ahead:
        assert fetcher.read(refs[0], 0, KIB) == blocks[0][:KIB]
        gate.set()
    assert fetcher.wait_idle(60)
    assert [fetcher.read(ref, 0, 256 * KIB) for ref in refs] == blocks
    assert len(backend.held) == 12
    assert max(backend.held) <= 2


def test_blocks_far_apart_are_requested_apart() -> None:
    refs = [_ref(0), _ref(10), _ref(26), _ref(30, 2), _ref(41)]
    assert in_one_request(refs, 5) == [refs[:2], refs[2:]]
    assert in_one_request([], 5) == []


def test_a_whole_block_is_verified_where_it_is_read_to(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = setup.fetcher()
    for ref in setup.refs[:8]:
        writer.block(ref)
    reader = setup.fetcher()
    view = memoryview(bytearray(8 * KIB))
    lengths: list[int] = []
    preadv = os.preadv

    def counted(fd: int, buffers: list[memoryview], start: int, flags: int = 0) -> int:
        lengths.append(preadv(fd, buffers, start, flags))
        return lengths[-1]

    monkeypatch.setattr(os, "preadv", counted)
    for ref, block in zip(setup.refs[:8], setup.blocks, strict=False):
        reader.readinto(ref, 0, view)
        assert view == block
    assert lengths == [8 * KIB] * 8
    for ref, block in zip(setup.refs, setup.blocks, strict=True):  # the first half is open, the other to be fetched
        reader.readinto(ref, 0, view)
        assert view == block
        reader.readinto(ref, 100, view[:50])
        assert view[:50] == block[100:150]
    assert reader.stats().misses == 8


def test_a_damaged_file_is_fetched_afresh_into_a_buffer(setup: Setup) -> None:
    ref, block = setup.refs[0], setup.blocks[0]
    view = memoryview(bytearray(len(block)))
    setup.fetcher().block(ref)
    path = next((setup.root / "blocks").glob(f"*/{ref.digest.hex()}"))
    damage: list[Callable[[bytes], bytes]] = [
        lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
    ]
    for change in damage:
        path.write_bytes(change(path.read_bytes()))
        fetcher = setup.fetcher()
        fetcher.readinto(ref, 0, view)
        assert view == block
        assert fetcher.stats().requests == 1

    os.truncate(path, 100)  # while it is open
    fetcher.readinto(ref, 0, view)
    assert view == block


def test_a_reference_of_another_length_is_no_block(setup: Setup) -> None:
    fetcher = setup.fetcher()
    fetcher.block(setup.refs[0])
    for opened in (fetcher, setup.fetcher()):
        for raw in (100, 9 * KIB):
            with pytest.raises(Corrupt, match="not the"):
                opened.readinto(setup.refs[0]._replace(raw=raw), 0, memoryview(bytearray(raw)))
