"""Blocks out of one request: in which pieces they come, and what becomes of them when it breaks off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.backend import cut
from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.digest import Buffer
from dvfs.store.errors import Corrupt, Unavailable
from dvfs.store.fetch import Fetcher
from dvfs.store.fetch_pack import PackReader
from tests.cache_process import lay
from tests.memory_backend import MemoryBackend, store_blocks
from tests.store.noise import noise
from tests.waiting import wait_until

KIB = 1 << 10
MIB = 1 << 20
WAIT_SECONDS = 60


class Streaming(MemoryBackend):
    """Streams; *streams*: where each began and the sizes of its pieces; *on_piece* is called before each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[tuple[int, list[int]]] = []
        self.on_piece: Callable[[int], None] = lambda number: None

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        self.streams.append((start, list(sizes)))
        data = self.get(key, start, sum(sizes)).data
        for number, piece in enumerate(cut(data, sizes)):
            self.on_piece(number)
            yield piece


@pytest.fixture
def backend() -> Streaming:
    return Streaming()


@pytest.fixture
def fetcher(backend: Streaming, tmp_path: Path) -> Iterator[Fetcher]:
    with (
        closing(Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)) as cache,
        closing(Fetcher(lambda tag: backend, cache)) as fetcher,
    ):
        yield fetcher


def read(backend: Streaming, refs: Sequence[BlockRef]) -> list[tuple[BlockRef, Buffer | Corrupt]]:
    return list(PackReader(lambda tag: backend).blocks(refs))


def test_blocks_that_are_compressed_share_pieces(backend: Streaming) -> None:
    blocks = [noise(500 * KIB, seed) + bytes(100 * KIB) for seed in range(12)]
    refs = store_blocks(backend, blocks, compression="zstd")
    assert read(backend, refs) == list(zip(refs, blocks, strict=True))
    ((start, sizes),) = backend.streams
    assert (start, sum(sizes), len(sizes)) == (0, sum(ref.stored for ref in refs), 2)
    assert sizes[0] == sum(ref.stored for ref in refs[:9])


def test_long_blocks_are_a_piece_each_and_short_ones_share_one(backend: Streaming) -> None:
    blocks = [noise(size * KIB, seed) for seed, size in enumerate((300, 400, 100, 100, 100, 5, 300))]
    refs = store_blocks(backend, blocks)
    assert read(backend, refs) == list(zip(refs, blocks, strict=True))
    assert backend.streams == [(0, [size * KIB for size in (300, 400, 305, 300)])]


def test_of_a_long_request_long_blocks_share_pieces(backend: Streaming, fetcher: Fetcher) -> None:
    blocks = [noise(MIB, seed) for seed in range(17)]
    refs = store_blocks(backend, blocks)
    assert read(backend, refs) == list(zip(refs, blocks, strict=True))
    assert read(backend, refs[:15]) == list(zip(refs[:15], blocks, strict=False))
    assert backend.streams == [(0, [4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, MIB]), (0, [MIB] * 15)]
    assert fetcher.want(refs) == 17
    asked = [fetcher.block(refs[6]), fetcher.read(refs[7], 0, MIB), fetcher.read(refs[8], 5, 1000)]
    assert asked == [blocks[6], blocks[7], blocks[8][5:1005]]
    assert all(type(data) is bytes for data in asked)
    assert fetcher.wait_idle(WAIT_SECONDS)
    assert [fetcher.block(ref) for ref in refs] == blocks


def test_a_damaged_block_in_a_piece_of_several_is_asked_for_again_alone(backend: Streaming) -> None:
    blocks = [noise(MIB, seed) for seed in range(17)]
    refs = store_blocks(backend, blocks)
    key, pack = next(iter(backend.objects.items()))
    backend.objects[key] = pack[: 6 * MIB] + b"?" + pack[6 * MIB + 1 :]
    found = read(backend, refs)
    assert [data for number, (_, data) in enumerate(found) if number != 6] == blocks[:6] + blocks[7:]
    assert isinstance(found[6][1], Corrupt)
    assert [start for start, _ in backend.streams] == [0, 6 * MIB]


def test_what_lies_between_is_a_piece_of_its_own_after_a_long_block(backend: Streaming) -> None:
    blocks = [noise(size * KIB, seed) for seed, size in enumerate((300, 7, 300, 9, 5, 6, 4))]
    refs = store_blocks(backend, blocks)
    wanted = [refs[number] for number in (0, 2, 4, 6)]
    assert read(backend, wanted) == [(refs[number], blocks[number]) for number in (0, 2, 4, 6)]
    assert backend.streams == [(0, [size * KIB for size in (300, 7, 300, 9, 15)])]


def test_references_that_overlap_come_in_one_piece(backend: Streaming) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(2)]
    refs = store_blocks(backend, blocks)
    twice = [refs[0], refs[0], refs[1]]
    assert read(backend, twice) == [(refs[0], blocks[0]), (refs[0], blocks[0]), (refs[1], blocks[1])]
    assert backend.streams == [(0, [300 * KIB, 300 * KIB])]


def test_a_damaged_block_among_many_is_asked_for_again_alone(backend: Streaming) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(3)]
    refs = store_blocks(backend, blocks)
    key, pack = next(iter(backend.objects.items()))
    backend.objects[key] = pack[: 400 * KIB] + b"?" + pack[400 * KIB + 1 :]
    (first, second, third) = read(backend, refs)
    assert (first, third) == ((refs[0], blocks[0]), (refs[2], blocks[2]))
    assert isinstance(second[1], Corrupt)
    assert backend.streams == [(0, [300 * KIB] * 3), (300 * KIB, [300 * KIB])]


def test_blocks_of_a_pack_that_ends_too_early(backend: Streaming) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(4)]
    refs = store_blocks(backend, blocks)
    key, pack = next(iter(backend.objects.items()))
    backend.objects[key] = pack[: 700 * KIB]
    found = read(backend, refs)
    assert [data for _, data in found[:2]] == blocks[:2]
    assert all(isinstance(data, Corrupt) and "the pack ends" in data.message for _, data in found[2:])


def test_a_block_lands_while_the_rest_is_on_its_way(backend: Streaming, fetcher: Fetcher) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(4)]
    refs = store_blocks(backend, blocks)
    gate = threading.Event()

    def hold(number: int) -> None:
        assert number < 2 or gate.wait(WAIT_SECONDS)

    backend.on_piece = hold
    assert fetcher.want(refs) == 4
    wait_until(lambda: backend.streams != [])  # else a caller may fetch them all
    assert [fetcher.block(ref) for ref in refs[:2]] == blocks[:2]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(fetcher.block, refs[3])
        assert not late.done()
        gate.set()
        assert late.result(WAIT_SECONDS) == blocks[3]
    assert fetcher.wait_idle(WAIT_SECONDS)
    assert len(backend.streams) == 1
    assert fetcher.stats().bytes_fetched == 4 * 300 * KIB


def test_what_had_come_before_a_request_broke_off_is_not_asked_for_again(backend: Streaming, fetcher: Fetcher) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(4)]
    refs = store_blocks(backend, blocks)

    def break_off(number: int) -> None:
        if number == 2:
            raise Unavailable("broke off")

    backend.on_piece = break_off
    assert fetcher.want(refs) == 4
    assert fetcher.wait_idle(WAIT_SECONDS)
    assert [fetcher.cached(ref) for ref in refs] == [True, True, False, False]
    assert fetcher.stats().errors == 2
    backend.on_piece = lambda number: None
    assert [fetcher.block(ref) for ref in refs] == blocks
    assert [start for start, _ in backend.streams] == [0, 600 * KIB, 900 * KIB]


def test_blocks_of_a_whole_file_are_stored_together_and_read_meanwhile(backend: Streaming, tmp_path: Path) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(4)]
    refs = store_blocks(backend, blocks)
    gate = threading.Event()

    def hold(number: int) -> None:
        assert number < 3 or gate.wait(WAIT_SECONDS)

    backend.on_piece = hold
    with (
        closing(Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)) as cache,
        closing(Fetcher(lambda tag: backend, cache)) as fetcher,
    ):
        lay(cache, refs)
        assert fetcher.want(refs) == 4
        wait_until(lambda: backend.streams != [])
        assert [fetcher.block(ref) for ref in refs[:3]] == blocks[:3]
        assert not any(fetcher.cached(ref) for ref in refs)
        gate.set()
        assert fetcher.wait_idle(WAIT_SECONDS)
        assert all(fetcher.cached(ref) for ref in refs)
        assert [fetcher.block(ref) for ref in refs] == blocks
        assert len(backend.streams) == 1
    (whole,) = (tmp_path / "files").glob("*/*")
    assert whole.read_bytes() == b"".join(blocks)


def test_what_of_a_whole_file_had_come_before_a_request_broke_off_is_stored(backend: Streaming, tmp_path: Path) -> None:
    blocks = [noise(300 * KIB, seed) for seed in range(4)]
    refs = store_blocks(backend, blocks)

    def break_off(number: int) -> None:
        if number == 2:
            raise Unavailable("broke off")

    backend.on_piece = break_off
    with (
        closing(Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)) as cache,
        closing(Fetcher(lambda tag: backend, cache)) as fetcher,
    ):
        lay(cache, refs)
        assert fetcher.want(refs) == 4
        assert fetcher.wait_idle(WAIT_SECONDS)
        assert [fetcher.cached(ref) for ref in refs] == [True, True, False, False]
        backend.on_piece = lambda number: None
        assert [fetcher.block(ref) for ref in refs] == blocks
