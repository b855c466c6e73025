"""Files read in order: each block is read once, into few buffers, and all else is left to the other way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import trio

from dvfs.fs.stretches import (
    BUFFERS,
    FORESEEN_BYTES,
    IDLE_SECONDS,
    LATE_READS,
    LEAST_FILE_BYTES,
    REST_BYTES,
    STRETCH_BYTES,
    Stretches,
    read_block,
)
from dvfs.fs.view import File
from dvfs.store.block import BlockRef, Codec, Extent
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog.blocktree import BlocksPage
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import Unavailable
from tests.catalog_model import PACK
from tests.store.noise import noise
from tests.waiting import wait_until_no_thread

MIB = 1 << 20
SIZE = 28 * MIB
DATA = noise(SIZE, 5)


def _no_pages(ref: BlockRef) -> BlocksPage:
    raise AssertionError(ref)


class Made:
    """A file of DATA in blocks of *block_bytes*, and stretches of it, whose blocks are counted as they are read."""

    def __init__(self, block_bytes: int = MIB, rest_bytes: int = REST_BYTES) -> None:
        self.reads: Counter[int] = Counter()
        self.buffers: set[int] = set()
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.now = 0.0
        self.foreseen: list[tuple[int, int]] = []
        """Where blocks foreseen begin, and the last block read before."""
        self.told: list[bool] = []
        self.verified_from = SIZE
        """Blocks that begin there or behind it are verified."""
        self.stretches = Stretches(
            _no_pages,
            self._read,
            self._foresee,
            lambda ref: ref.offset < self.verified_from,
            rest_bytes=rest_bytes,
            clock=lambda: self.now,
            prevail=self.told.append,
        )
        extents = []
        for at in range(0, SIZE, block_bytes):
            length = min(block_bytes, SIZE - at)
            ref = BlockRef(0, PACK, at, length, length, Codec.RAW, at.to_bytes(32))
            extents.append(Extent(ref, 0, length))
        self.file = File(1, SIZE, tuple(extents))
        self.first = extents[0].block

    def _read(self, ref: BlockRef, start: int, view: memoryview) -> None:
        assert self.gate.wait(60)
        if self.broken:
            raise Unavailable("the store is away")
        self.reads[ref.offset] += 1
        self.buffers.add(id(view.obj))
        view[:] = DATA[ref.offset + start : ref.offset + start + len(view)]

    def _foresee(self, ref: BlockRef) -> None:
        self.foreseen.append((ref.offset, max(self.reads, default=2 * MIB)))

    async def read(self, start: int, length: int = MIB, inode: int = 2) -> bytes | None:
        stream = self.stretches.note(inode, self.file, start, length)
        data = None if stream is None else await stream.take(start, length)
        return None if data is None else bytes(data)

    async def begin(self, inode: int = 2, first: int = 3 * MIB) -> None:
        """Read 3 MiB, after which a stream begins, and wait until it gives what stands at *first*."""
        for at in range(0, 3 * MIB, MIB):
            await self.read(at, inode=inode)
        assert self.stretches.has(inode)
        await self.arrives(inode, first)

    async def begin_with_buffers_of_another(self, inode: int) -> None:
        """Do as `begin`; the buffers come when the thread of a stream that is over has seen its end."""
        with trio.fail_after(60):
            while not self.stretches.has(inode):
                for at in range(0, 4 * MIB, MIB):
                    await self.read(at, inode=inode)
                await trio.sleep(0.001)

    async def arrives(self, inode: int, first: int = 3 * MIB) -> None:
        with trio.fail_after(60):
            while await self.read(first, inode=inode) is None:  # noqa: ASYNC110  # a thread decides it
                await trio.sleep(0.001)


@pytest.fixture
def made() -> Iterator[Made]:
    made = Made()
    yield made
    made.gate.set()
    made.stretches.close()


@pytest.mark.trio
async def test_each_block_is_read_once_however_it_is_asked_for(made: Made) -> None:
    await made.begin()
    at, step = 4 * MIB, 300_000
    while at < SIZE:
        assert await made.read(at, step) == DATA[at : at + step]
        at += step
    assert made.reads == dict.fromkeys(range(3 * MIB, SIZE, MIB), 1)
    assert [block for block, _ in made.foreseen] == list(range(4 * MIB, SIZE, MIB))
    assert all(last + MIB < block <= last + MIB + FORESEEN_BYTES for block, last in made.foreseen)


@pytest.mark.trio
async def test_requests_come_a_little_out_of_order(made: Made) -> None:
    await made.begin()
    for at in range(4 * MIB, SIZE, 2 * MIB):
        for start in (at + MIB, at):
            assert await made.read(start) == DATA[start : start + MIB]
    assert set(made.reads.values()) == {1}


@pytest.mark.trio
async def test_a_stream_begins_at_a_block() -> None:
    made = Made(block_bytes=700_000)
    await made.begin(first=4 * MIB)
    for at in range(5 * MIB, SIZE, MIB):
        assert await made.read(at) == DATA[at : at + MIB]
    assert set(made.reads.values()) == {1}
    assert min(made.reads) == 5 * 700_000
    made.stretches.close()


@pytest.mark.trio
async def test_memory_is_bounded(made: Made) -> None:
    """The thread fills what it may and waits; what was read is filled anew."""
    for inode in range(2, 8):
        for at in range(0, 3 * MIB, MIB):
            await made.read(at, inode=inode)
    streams = [inode for inode in range(2, 8) if made.stretches.has(inode)]
    assert streams == [2, 3]
    for inode in streams:
        await made.arrives(inode)
    for at in range(4 * MIB, SIZE, MIB):
        for inode in streams:
            assert await made.read(at, inode=inode) == DATA[at : at + MIB]
    assert len(made.buffers) == BUFFERS


@pytest.mark.trio
async def test_a_stream_read_to_its_end_gives_way_and_so_does_an_idle_one(made: Made) -> None:
    await made.begin(2)
    await made.begin(3)
    for at in range(3 * MIB, SIZE, MIB):
        await made.read(at, inode=2)
    await made.begin_with_buffers_of_another(4)
    assert [made.stretches.has(inode) for inode in (2, 3, 4)] == [False, True, True]

    made.now += IDLE_SECONDS / 2
    await made.read(4 * MIB, inode=4)
    made.now += IDLE_SECONDS * 0.6
    await made.begin_with_buffers_of_another(5)
    assert [made.stretches.has(inode) for inode in (3, 4)] == [False, True]
    assert len(made.buffers) <= BUFFERS


@pytest.mark.trio
async def test_random_reads_and_short_files_are_left_alone(made: Made) -> None:
    for number in range(100):
        assert await made.read(number * 11 % 27 * MIB, 65536) is None
    short = made.file._replace(size=LEAST_FILE_BYTES - 1)
    for at in range(0, short.size, MIB):
        assert made.stretches.note(3, short, at, MIB) is None
    assert not made.reads
    assert not made.stretches.has(2)


@pytest.mark.trio
async def test_another_place_ends_the_stream(made: Made) -> None:
    await made.begin()
    assert await made.read(25 * MIB) is None
    assert not made.stretches.has(2)


@pytest.mark.trio
async def test_who_comes_too_early_waits(made: Made) -> None:
    await made.begin()
    for at in range(4 * MIB, 10 * MIB, MIB):
        await made.read(at)
    made.gate.clear()
    found: dict[int, bytes | None] = {}

    async def read(start: int) -> None:
        found[start] = await made.read(start)

    starts = [at * MIB for at in range(10, SIZE // MIB)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for start in starts[:2]:
                nursery.start_soon(read, start)
            await trio.testing.wait_all_tasks_blocked()
            made.gate.set()
        for start in starts[2:]:
            await read(start)
    assert found == {start: DATA[start : start + MIB] for start in starts}


@pytest.mark.trio
async def test_who_waits_has_the_thread_go_on_over_what_was_not_read(made: Made) -> None:
    """One reads only the ends of stretches: the thread has no buffer then but those."""
    await made.begin()
    made.gate.clear()
    with trio.fail_after(60):
        for at in range(4 * MIB, SIZE - MIB, MIB):
            if at % (2 * MIB):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(made.read, at, 65536)
                    await trio.testing.wait_all_tasks_blocked()
                    made.gate.set()
    assert set(made.reads.values()) == {1}


@pytest.mark.trio
async def test_what_fails_is_left_to_the_other_way(made: Made) -> None:
    await made.begin()
    made.broken = True
    with trio.fail_after(60):
        at = 4 * MIB
        while await made.read(at) is not None:
            at += MIB
    assert await made.read(at) is None
    assert not made.stretches.has(2)

    made.broken = False
    await made.begin(3)
    assert await made.read(4 * MIB, inode=3) == DATA[4 * MIB : 5 * MIB]


@pytest.mark.trio
async def test_closing_ends_the_wait(made: Made) -> None:
    made.gate.clear()
    for at in range(0, 3 * MIB, MIB):
        await made.read(at)
    found: list[bytes | None] = []

    async def read() -> None:
        while made.stretches.has(2):
            found.append(await made.read(3 * MIB))
            await trio.sleep(0.001)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0.01)
            made.stretches.close()
    assert set(found) == {None}


class Cached:
    """Blocks of a fetcher, of which those in `present` are cached."""

    def __init__(self) -> None:
        self.present: set[bytes] = set()
        self.reads: list[bytes] = []

    def cached(self, ref: BlockRef) -> bool:
        return ref.digest in self.present

    def is_unverified(self, ref: BlockRef) -> bool:
        raise AssertionError(ref)

    def foresee(self, ref: BlockRef) -> None:
        raise AssertionError(ref)

    def readinto(self, ref: BlockRef, start: int, view: memoryview) -> None:
        self.reads.append(ref.digest)

    def read(self, ref: BlockRef, start: int, length: int) -> bytes:
        raise AssertionError

    def readinto_nowait(self, ref: BlockRef, start: int, view: memoryview) -> bool:
        raise AssertionError

    def opened(self, ref: BlockRef) -> OpenBlock | None:
        raise NotImplementedError

    def note_hit(self, block: OpenBlock, length: int) -> None:
        raise NotImplementedError

    def want(self, refs: object, *, urgent: bool = True, sparing: bool = False) -> int:
        raise AssertionError

    def wait_idle(self, timeout_seconds: float | None = None) -> bool:
        raise AssertionError


def test_what_is_not_cached_is_not_fetched(made: Made) -> None:
    blocks = Cached()
    block = made.first
    view = memoryview(bytearray(10))
    with pytest.raises(NotCached):
        read_block(blocks)(block, 0, view)
    assert blocks.reads == []
    blocks.present.add(block.digest)
    read_block(blocks)(block, 0, view)
    assert blocks.reads == [block.digest]


async def _read_until_there_is_no_stream(made: Made, at: int) -> int:
    """Read on from byte *at* in order, each MiB until the stream is seen to have ended; return where."""
    with trio.fail_after(60):
        while made.stretches.has(2):
            assert await made.read(at) is None
            await trio.sleep(0.001)
    return at + MIB


@pytest.mark.trio
async def test_blocks_that_were_verified_are_left_alone_and_looked_at_again_later() -> None:
    made = Made(rest_bytes=6 * MIB)
    made.verified_from = 3 * MIB + STRETCH_BYTES  # those before it are not, but a stretch on
    for at in range(0, 3 * MIB, MIB):
        await made.read(at)
    at = await _read_until_there_is_no_stream(made, 3 * MIB)
    made.verified_from = SIZE
    assert made.stretches.reads_in_order(2)
    for _ in range(4):  # the read that found the stream over was the first
        await made.read(at)
        at += MIB
        assert not made.stretches.has(2)
    assert not made.reads
    await made.read(at)
    assert made.stretches.has(2)
    await made.arrives(2, at + MIB)
    assert await made.read(at + 2 * MIB) == DATA[at + 2 * MIB : at + 3 * MIB]
    made.stretches.close()


@pytest.mark.trio
async def test_reading_in_order_is_told_with_and_without_a_stream() -> None:
    made = Made()
    made.verified_from = 0
    assert not made.stretches.reads_in_order(2)
    for at in range(0, 3 * MIB, MIB):
        await made.read(at)
    at = await _read_until_there_is_no_stream(made, 3 * MIB)
    for start in range(at, at + 4 * MIB, 128 << 10):
        await made.read(start, 128 << 10)
    assert made.stretches.reads_in_order(2)
    assert made.told == [True]
    await made.read(25 * MIB)
    assert not made.stretches.reads_in_order(2)
    for start in range(24 * MIB, 8 * MIB, -3 * MIB):
        await made.read(start)
    assert made.told == [True, False]
    assert not made.reads
    made.stretches.close()


@pytest.mark.trio
@pytest.mark.parametrize(("at", "is_in_order"), [(3 * MIB, True), (4 * MIB, True), (12 * MIB, False), (0, False)])
async def test_what_is_read_elsewhere_after_a_stream_that_ended_at_once_is_not_in_order(
    at: int, is_in_order: bool
) -> None:
    made = Made()
    made.verified_from = 0
    for start in range(0, 3 * MIB, MIB):
        await made.read(start)
    assert made.stretches.has(2)
    wait_until_no_thread("dvfs-stretches")
    await made.read(at)
    assert not made.stretches.has(2)
    assert made.stretches.reads_in_order(2) is is_in_order
    made.stretches.close()


@pytest.mark.trio
async def test_it_is_told_when_most_reads_are_of_streams_and_when_they_are_not() -> None:
    made = Made()
    await made.begin()
    small = File(3, MIB, ())
    assert made.told == []
    for at in range(3 * MIB, 9 * MIB, 128 << 10):
        await made.read(at, 128 << 10)
    assert made.told == [True]
    for _ in range(LATE_READS):
        made.stretches.note(4, small, 0, MIB)
    assert made.told == [True, False]
    made.stretches.close()
