"""What is waited for: one cause at each moment, the parts are the whole, and who joins has what the other does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.catalog.pages import PageSource
from dvfs.store.codec import compress_page
from dvfs.store.errors import Corrupt
from dvfs.store.fetch import Fetcher
from dvfs.store.stalls import NO_SECONDS, Cause, Course, Seconds, all_of, at, carried, here, within
from tests.cache_process import CacheProcess
from tests.clocks import FakeClock
from tests.memory_backend import Get, MemoryBackend, store_blocks
from tests.store.noise import noise

KIB = 1 << 10
DELAY = 0.05


def parts(seconds: Seconds) -> dict[str, float]:
    """Return the seconds of those causes that have some, by name."""
    return {cause.name: seconds[cause] for cause in Cause if seconds[cause]}


# -- courses


def test_parts_are_the_whole() -> None:
    clock = FakeClock()
    course = Course(Cause.QUEUE, clock.monotonic)
    clock.advance(1)
    assert course.enter(Cause.NETWORK) is Cause.QUEUE
    clock.advance(2)
    assert parts(course.seconds()) == {"QUEUE": 1, "NETWORK": 2}
    assert course.enter(Cause.DECOMPRESSION) is Cause.NETWORK
    clock.advance(4)
    course.enter(Cause.NETWORK)
    clock.advance(8)
    assert parts(course.seconds()) == {"QUEUE": 1, "NETWORK": 10, "DECOMPRESSION": 4}


def test_who_follows_has_what_happens_there_meanwhile_and_no_more() -> None:
    clock = FakeClock()
    owner = Course(Cause.QUEUE, clock.monotonic)
    follower = Course(Cause.OTHER, clock.monotonic)
    clock.advance(1)
    owner.enter(Cause.NETWORK)
    clock.advance(1)
    follower.enter(owner)
    clock.advance(4)
    assert parts(follower.seconds()) == {"OTHER": 2, "NETWORK": 4}
    owner.enter(Cause.DISK)
    clock.advance(8)
    assert follower.enter(Cause.OTHER) is owner
    clock.advance(16)
    assert parts(follower.seconds()) == {"OTHER": 18, "NETWORK": 4, "DISK": 8}
    assert parts(owner.seconds()) == {"QUEUE": 1, "NETWORK": 5, "DISK": 24}


def test_following_goes_on_through_others() -> None:
    clock = FakeClock()
    first = Course(Cause.QUEUE, clock.monotonic)
    second = Course(Cause.OTHER, clock.monotonic)
    third = Course(Cause.OTHER, clock.monotonic)
    third.enter(second)
    clock.advance(1)
    second.enter(first)
    clock.advance(2)
    first.enter(Cause.NETWORK)
    clock.advance(4)
    second.enter(Cause.DISK)
    clock.advance(8)
    assert parts(third.seconds()) == {"OTHER": 1, "QUEUE": 2, "NETWORK": 4, "DISK": 8}


def test_sums_never_go_back_while_others_change_what_is_followed() -> None:
    owner, follower = Course(Cause.QUEUE), Course()
    follower.enter(owner)
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            for cause in Cause:
                owner.enter(cause)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(change)
        try:
            last = NO_SECONDS
            for _ in range(20_000):
                now = follower.seconds()
                assert all(new >= old for new, old in zip(now, last, strict=True))
                last = now
        finally:
            is_over.set()
    assert all(last)


def test_a_context_ends_as_it_began() -> None:
    clock = FakeClock()
    course = Course(Cause.QUEUE, clock.monotonic)
    with within(course):
        assert here() is course
        with contextlib.suppress(Corrupt), at(Cause.NETWORK):
            clock.advance(1)
            with at(Cause.DISK):
                clock.advance(2)
            clock.advance(4)
            raise Corrupt("by test")
        clock.advance(8)
    assert here() is not course
    assert parts(course.seconds()) == {"NETWORK": 5, "DISK": 2, "QUEUE": 8}


def test_all_of_a_cause_is_not_split() -> None:
    clock = FakeClock()
    course = Course(Cause.OTHER, clock.monotonic)
    with within(course), all_of(Cause.CATALOG):
        with at(Cause.NETWORK):
            clock.advance(1)
        clock.advance(2)
    assert parts(course.seconds()) == {"CATALOG": 3}


def test_until_a_thread_takes_it_work_is_in_the_queue() -> None:
    clock = FakeClock()
    course = Course(Cause.OTHER, clock.monotonic)

    def work() -> str:
        assert here() is course
        with at(Cause.DISK):
            clock.advance(2)
        return "done"

    task = carried(course, work)
    clock.advance(1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(task).result() == "done"
        assert pool.submit(here).result() is not course
    clock.advance(4)
    assert parts(course.seconds()) == {"QUEUE": 1, "DISK": 2, "OTHER": 4}


# -- where the fetcher is


class Setup:
    """A store that answers after DELAY, with blocks that compress well, and a fetcher with a course to read on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = MemoryBackend()
        self.backend.on_get = self._wait
        self.blocks = [noise(4 * KIB, seed) * 64 for seed in range(8)]
        self.refs = store_blocks(self.backend, self.blocks, compression="zstd")
        self.cache = Cache(folder, budget_bytes=1 << 30, reserve_bytes=0)
        self.fetcher = Fetcher(lambda tag: self.backend, self.cache, parallel=1)

    def _wait(self, get: Get) -> None:
        time.sleep(DELAY)

    def read(self, ref: BlockRef) -> Seconds:
        """Read *ref* on a course of its own; return that."""
        course = Course()
        with within(course):
            self.fetcher.read(ref, 0, 100)
        return course.seconds()

    def close(self) -> None:
        self.fetcher.close()
        self.cache.close()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


def test_a_fetch_is_network_decompression_and_disk(setup: Setup) -> None:
    began = time.monotonic()
    seconds = setup.read(setup.refs[0])
    assert sum(seconds) <= time.monotonic() - began
    assert DELAY <= seconds[Cause.NETWORK] <= sum(seconds)
    assert seconds[Cause.DECOMPRESSION] > 0
    assert seconds[Cause.DISK] > 0
    assert seconds[Cause.CATALOG] == 0


def test_what_is_cached_waits_for_the_disk_alone(setup: Setup) -> None:
    setup.read(setup.refs[0])
    assert set(parts(setup.read(setup.refs[0]))) == {"DISK", "OTHER"}


def test_a_second_caller_waits_for_the_turn_of_the_first(setup: Setup) -> None:
    asked = threading.Event()

    def wait(get: Get) -> None:
        asked.set()
        time.sleep(DELAY)

    setup.backend.on_get = wait
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(setup.read, setup.refs[0])
        assert asked.wait(60)
        second = pool.submit(setup.read, setup.refs[7]).result()
        assert first.result()[Cause.QUEUE] < DELAY / 2
    assert second[Cause.QUEUE] >= DELAY / 2
    assert second[Cause.NETWORK] >= DELAY


def test_who_joins_a_flight_gets_its_parts(setup: Setup) -> None:
    """A caller that comes when the request is under way, and one that comes when it waits for its turn."""
    asked, answers = threading.Event(), threading.Event()

    def wait(get: Get) -> None:
        asked.set()
        assert answers.wait(60)
        time.sleep(DELAY)

    setup.backend.on_get = wait
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(setup.read, setup.refs[0])
        assert asked.wait(60)
        others = [pool.submit(setup.read, ref) for ref in (setup.refs[0], setup.refs[7])]
        while setup.fetcher.stats().misses < 3:
            time.sleep(0.001)
        others.append(pool.submit(setup.read, setup.refs[7]))  # joins what has no turn yet
        while setup.fetcher.stats().joins < 2:
            time.sleep(0.001)
        time.sleep(DELAY)  # what all of them wait for
        answers.set()
        same, other, joins_other = [future.result() for future in others]
        first.result()
    assert same[Cause.NETWORK] >= 2 * DELAY
    assert same[Cause.QUEUE] < DELAY
    for seconds in (other, joins_other):
        assert seconds[Cause.QUEUE] >= 2 * DELAY
        assert seconds[Cause.NETWORK] >= DELAY


def test_a_block_wanted_that_is_requested_later_is_in_the_queue(setup: Setup) -> None:
    """A background thread that has two requests to make: who asks for the second waits for the first in the queue."""
    setup.fetcher.close()
    setup.fetcher = Fetcher(lambda tag: setup.backend, setup.cache, parallel=2, coalesce_gap_bytes=0)
    asked: list[Get] = []
    is_asked = threading.Event()

    def wait(get: Get) -> None:
        asked.append(get)
        is_asked.set()
        time.sleep(2 * DELAY)

    setup.backend.on_get = wait
    setup.cache.put(setup.refs[1].digest, setup.blocks[1])
    setup.fetcher.want(setup.refs[:3])  # the one in the middle is here, which splits the request
    assert is_asked.wait(60)
    seconds = setup.read(setup.refs[2])
    assert len(asked) == 2
    assert seconds[Cause.QUEUE] >= DELAY
    assert seconds[Cause.NETWORK] >= 2 * DELAY


def test_a_lock_of_another_process_is_the_queue(setup: Setup) -> None:
    setup.cache.close()
    setup.cache = Cache(setup.folder, budget_bytes=1 << 30, reserve_bytes=0, lock_wait_seconds=DELAY)
    setup.fetcher = Fetcher(lambda tag: setup.backend, setup.cache)
    with CacheProcess("hold", setup.folder, refs=setup.refs) as holder:
        assert holder.answer() is not None
        seconds = setup.read(setup.refs[0])
    assert seconds[Cause.QUEUE] >= DELAY
    assert seconds[Cause.NETWORK] >= DELAY


def test_a_page_is_the_catalog_whatever_it_takes(setup: Setup) -> None:
    page = compress_page(b"no page")
    (ref,) = store_blocks(setup.backend, [page], seed=1)
    course = Course()
    with within(course), pytest.raises(Corrupt):
        PageSource(setup.fetcher).load_blocks(ref)
    assert course.seconds()[Cause.CATALOG] >= DELAY
    assert set(parts(course.seconds())) == {"CATALOG", "OTHER"}
