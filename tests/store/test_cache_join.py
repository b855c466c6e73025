"""Whole files made complete: what is handed to the kernel is the file, verified, or it is not handed over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.store.cache import Cache
from dvfs.store.cache_inside import VerifiedInside
from dvfs.store.digest import block_digest
from tests.store.noise import noise
from tests.store.test_cache import SMALL, SteppingClock, block_path, flip, lines, open_cache
from tests.store.test_cache_whole import Large, damage, disk_bytes, large, links, point, removed_but_open


@contextlib.contextmanager
def whole(cache: Cache, file: Large) -> Iterator[int]:
    """Join *file*, which succeeds, and open it."""
    identity = cache.join(file.digest, file.size, file.rows)
    assert identity is not None
    handle = cache.open_whole(file.digest, identity)
    assert handle is not None
    try:
        yield handle
    finally:
        os.close(handle)


def assert_whole(cache: Cache, file: Large) -> None:
    with whole(cache, file) as handle:
        assert os.fstat(handle).st_size == file.size
        assert os.pread(handle, file.size + 1, 0) == b"".join(file.blocks)


def is_whole(cache: Cache, file: Large) -> bool:
    return cache.join(file.digest, file.size, file.rows) is not None


def put_own(cache: Cache, file: Large, *numbers: int) -> None:
    """Store blocks in files of their own."""
    for number in numbers:
        assert cache.put(file.digests[number], file.blocks[number])


def test_a_file_of_laid_blocks_is_whole(tmp_path: Path) -> None:
    file = large(5)
    with open_cache(tmp_path) as cache:
        file.put(cache, [3, 0, 4, 1])
        assert not is_whole(cache, file)
        file.put(cache, [2])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(40):
            assert_whole(cache, file)
        assert len(os.listdir("/proc/self/fd")) < before + 40


def test_a_missing_block_is_missing(tmp_path: Path) -> None:
    file = large(5)
    with open_cache(tmp_path) as cache:
        assert not is_whole(cache, file)
        assert not file.path(tmp_path).exists()
        file.put(cache)
        block_path(tmp_path, file.digests[2]).unlink()
        assert not is_whole(cache, file)
        file.put(cache, [2])
        assert_whole(cache, file)


def test_a_block_on_its_way_is_waited_for_and_no_other(tmp_path: Path) -> None:
    file = large(5)
    clock = SteppingClock()
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, lock_wait_seconds=1, clock=clock)
    with contextlib.closing(cache), contextlib.ExitStack() as fetching:
        file.put(cache, [0, 1, 2])
        fetching.enter_context(cache.fetching(file.digests[3]))
        assert not is_whole(cache, file)
        assert clock.slept == 0  # nobody fetches the last one
        file.put(cache, [4])
        assert not is_whole(cache, file)
        assert 1 <= clock.slept < 1.1

        def arrive() -> None:
            file.put(cache, [3])
            fetching.close()

        clock.on_sleep = arrive
        assert_whole(cache, file)


def test_blocks_in_files_of_their_own_come_into_the_file(tmp_path: Path) -> None:
    file = large(6)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, interval_seconds=1000)
    file.put(cache, [0, 3])
    put_own(cache, file, 1, 2)
    cache.settle()
    put_own(cache, file, 4, 5)  # of which the index does not know yet
    assert_whole(cache, file)
    assert len(links(tmp_path)) == 6
    assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))
    assert file.present(cache) == [0, 1, 2, 3, 4, 5]
    assert_whole(cache, file)
    cache.close()
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 1, 2, 3, 4, 5]
        assert_whole(cache, file)
        assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))


def test_a_file_none_of_whose_blocks_lay_in_it_comes_to_be(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        put_own(cache, file, 0, 1, 2)
    with open_cache(tmp_path) as cache:
        assert_whole(cache, file)
        assert len(links(tmp_path)) == 3
        assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))


def test_a_file_of_one_block(tmp_path: Path) -> None:
    data = noise(SMALL)
    digest = block_digest(data)
    with open_cache(tmp_path) as cache:
        assert cache.put(digest, data)
        identity = cache.join(digest, SMALL, [(digest, 0, SMALL)])
        assert identity is not None
        handle = cache.open_whole(digest, identity)
        assert handle is not None
        assert os.pread(handle, SMALL + 1, 0) == data
        os.close(handle)
        assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))
        cache._files.remove(digest)
        assert cache.get(digest) is None
        assert removed_but_open(tmp_path) == []


def test_blocks_in_another_file_are_copied(tmp_path: Path) -> None:
    one = large(4)
    two = Large([noise(5000, 1), one.blocks[2], one.blocks[0]])
    with open_cache(tmp_path) as cache:
        one.put(cache)
        two.put(cache, [0])
        assert_whole(cache, two)
        assert_whole(cache, one)
        assert cache.info().bytes == disk_bytes(tmp_path) >= one.size + two.size
        one.path(tmp_path).unlink()
        assert two.present(cache) == [0, 1, 2]


@pytest.mark.parametrize("interval_seconds", [0.001, 1000])
def test_they_are_copied_only_where_there_is_room(tmp_path: Path, interval_seconds: float) -> None:
    """Whether or not the index knows already what was put."""
    one = large(8)
    two = Large([noise(5000, 1), *one.blocks[:4]])
    three = Large([noise(5000, 2), noise(6000, 2)])
    cache = Cache(tmp_path, budget_bytes=one.size + 3 * SMALL, reserve_bytes=0, interval_seconds=interval_seconds)
    with contextlib.closing(cache):
        one.put(cache)
        two.put(cache, [0])
        assert not is_whole(cache, two)
        assert two.path(tmp_path).stat().st_blocks * 512 < SMALL
        put_own(cache, three, 0, 1)
        assert_whole(cache, three)  # for these take no more
        assert one.present(cache) == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("is_laid", [False, True])
def test_a_block_that_is_in_the_file_twice(tmp_path: Path, is_laid: bool) -> None:
    again = noise(SMALL, 1)
    file = Large([again, noise(100, 2), again, noise(50, 3), again])
    with open_cache(tmp_path) as cache:
        if is_laid:
            file.put(cache)
        else:
            put_own(cache, file, 0, 1, 3)
        assert_whole(cache, file)
        assert_whole(cache, file)
        assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))
        damage(file.path(tmp_path), file.place(2).start)
    with open_cache(tmp_path) as cache:
        file.present(cache)
        assert_whole(cache, file)


def test_what_was_not_verified_is_left_to_readers(tmp_path: Path) -> None:
    file = large(17)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        assert_whole(cache, file)
    with open_cache(tmp_path) as cache:
        for digest in file.digests[:14]:
            assert not is_whole(cache, file)
            assert cache.ready(digest)
        assert not is_whole(cache, file)
        assert cache.ready(file.digests[14])
        assert_whole(cache, file)


def test_that_a_block_was_verified_is_known_when_it_is_not_open_any_more(tmp_path: Path) -> None:
    file = large(12)
    with open_cache(tmp_path) as writer:
        file.put(writer)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=2)
    assert file.present(cache) == list(range(12))
    assert_whole(cache, file)
    cache.close()
    assert not is_whole(cache, file)  # closed, it knows nothing any more
    cache.close()


def test_a_few_blocks_are_verified_by_joining(tmp_path: Path) -> None:
    file = large(16)
    with open_cache(tmp_path) as cache:
        file.put(cache)
    damage(file.path(tmp_path), file.place(15).start + 5)
    with open_cache(tmp_path) as cache:
        for digest in file.digests[:15]:
            assert cache.ready(digest)
        assert not is_whole(cache, file)
        assert not cache.has(file.digests[15])
        file.put(cache, [15])
        assert_whole(cache, file)


def test_a_damaged_block_of_its_own_is_not_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        put_own(cache, file, 0, 1, 2)
    flip(block_path(tmp_path, file.digests[1]))
    with open_cache(tmp_path) as cache:
        assert not is_whole(cache, file)
        assert file.present(cache) == [0, 2]
        assert len(lines(caplog)) == 1
        put_own(cache, file, 1)
        flip(block_path(tmp_path, file.digests[1]))  # while it is open, verified
        assert not is_whole(cache, file)
        assert file.path(tmp_path).read_bytes()[file.place(1).start :][: len(file.blocks[1])] == bytes(
            len(file.blocks[1])
        )


def test_a_sealed_block_comes_into_no_file(tmp_path: Path) -> None:
    name, data = b"n" * 32, noise(SMALL)
    with open_cache(tmp_path) as cache:
        assert cache.put(name, data, sealed=True)
        assert cache.join(name, SMALL, [(name, 0, SMALL)]) is None
        assert cache.get(name) == data
    with open_cache(tmp_path) as cache:
        assert cache.get(name) == data


def test_blocks_that_are_not_the_file_make_none(tmp_path: Path) -> None:
    """However they come to be called so: there may be another file of that name, which is right."""
    file, other = large(3), large(3, seed=51)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        put_own(cache, other, 0, 1, 2)
        with whole(cache, file) as handle:
            assert cache.join(file.digest, other.size, other.rows) is None
            assert cache.join(file.digest, file.size - 1, file.rows) is None
            assert cache.join(file.digest, file.size, file.rows[:-1]) is None
            assert cache.join(file.digest, file.size, [file.rows[1], file.rows[0], file.rows[2]]) is None
            rows = [(digest, start + (start > 0), length) for digest, start, length in file.rows]
            assert cache.join(file.digest, file.size, rows) is None
            assert os.pread(handle, file.size + 1, 0) == b"".join(file.blocks)
        assert_whole(cache, file)
        assert_whole(cache, other)


def test_a_file_evicted_since_is_not_opened(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        identity = cache.join(file.digest, file.size, file.rows)
        assert identity is not None
        cache._files.remove(file.digest)
        assert cache.open_whole(file.digest, identity) is None
        assert not is_whole(cache, file)
        file.put(cache)
        assert cache.open_whole(file.digest, identity) is None
        assert_whole(cache, file)


def test_a_file_changed_since_is_not_opened(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        identity = cache.join(file.digest, file.size, file.rows)
        assert identity is not None
        found = file.path(tmp_path).stat()
        damage(file.path(tmp_path), 100)
        os.utime(file.path(tmp_path), ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        before = len(os.listdir("/proc/self/fd"))
        assert [cache.open_whole(file.digest, identity) for _ in range(40)] == [None] * 40
        assert len(os.listdir("/proc/self/fd")) < before + 40


@pytest.mark.parametrize("max_open", [1, 100])
def test_a_file_made_anew_is_not_taken_for_that_which_was_verified(tmp_path: Path, max_open: int) -> None:
    """Its inode number may be that of the one before, whose links are still there and lead to its holes."""
    file, own = large(4), noise(100)
    cache, other = (
        Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=count, interval_seconds=1000)
        for count in (max_open, 1)
    )
    with open_cache(tmp_path) as writer:
        file.put(writer)
    assert file.present(cache) == [0, 1, 2, 3]
    for reader in (cache, other):
        assert reader.put(block_digest(own), own)
        reader.settle()
    file.path(tmp_path).unlink()
    file.put(other, [2])
    for number, digest in enumerate(file.digests):
        point(tmp_path, digest, file.place(number).encode())
    assert not is_whole(cache, file)
    cache.close()
    other.close()


def test_a_block_open_in_a_file_that_is_gone_is_not_in_the_next_of_its_name(tmp_path: Path) -> None:
    file = large(16)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, interval_seconds=1000)
    with open_cache(tmp_path) as writer:
        file.put(writer)
    assert cache.ready(file.digests[5])
    file.path(tmp_path).unlink()
    with open_cache(tmp_path) as writer:
        file.put(writer, [number for number in range(16) if number != 5])
    point(tmp_path, file.digests[5], file.place(5).encode())
    assert file.present(cache) == list(range(16))
    identity = cache.join(file.digest, file.size, file.rows)
    if identity is not None:  # it may have been copied out of what is open, but it is no hole
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)
    cache.close()


def test_only_so_many_files_are_remembered_and_none_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    inside = VerifiedInside(2)
    paths = [tmp_path / str(number) for number in range(3)]
    founds = []
    for number, path in enumerate(paths):
        path.write_bytes(b"x")
        with path.open("rb") as file:
            founds.append(os.fstat(file.fileno()))
            inside.note(file.fileno(), founds[-1], bytes([number]), b"one", 0)
            inside.note(file.fileno(), founds[-1], bytes([number]), b"two", 5)
    assert [inside.has(founds[number], bytes([number]), b"one", 0) for number in range(3)] == [False, True, True]
    assert not inside.has(founds[1], b"\x01", b"one", 5)
    assert not inside.has(founds[2], b"\x01", b"one", 0)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    inside.forget(b"\x01", b"one")
    assert not inside.has(founds[1], b"\x01", b"one", 0)
    assert inside.has(founds[1], b"\x01", b"two", 5)
    with paths[0].open("rb") as file:  # of the name of another, which is gone
        inside.note(file.fileno(), founds[0], b"\x02", b"one", 0)
    assert inside.has(founds[0], b"\x02", b"one", 0)
    assert not inside.has(founds[2], b"\x02", b"one", 0)
    assert not inside.has(founds[0], b"\x02", b"two", 5)
    paths[1].unlink()
    inside.sweep()
    assert not inside.has(founds[1], b"\x01", b"two", 5)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    inside.forget(b"\x02")
    inside.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_so_many_blocks_are_remembered(tmp_path: Path) -> None:
    inside = VerifiedInside(10, most_blocks=5)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as opened:
        found = os.fstat(opened.fileno())

        def note(file: bytes, *digests: bytes) -> None:
            for digest in digests:
                inside.note(opened.fileno(), found, file, digest, 0)

        def has(file: bytes, *digests: bytes) -> list[bool]:
            return [inside.has(found, file, digest, 0) for digest in digests]

        note(b"f", b"1", b"2")
        note(b"g", b"1", b"2", b"3")
        assert has(b"f", b"1", b"2") + has(b"g", b"1", b"2", b"3") == [True] * 5
        inside.forget(b"g", b"3")
        note(b"g", b"4")
        assert has(b"f", b"1", b"2") + has(b"g", b"1", b"2", b"4") == [True] * 5
        note(b"h", b"1")
        assert has(b"f", b"1", b"2") == [False, False]
        assert has(b"g", b"1", b"2", b"4") + has(b"h", b"1") == [True] * 4
        note(b"h", b"2", b"3")
        assert has(b"g", b"1", b"2", b"4") == [False] * 3
        assert has(b"h", b"1", b"2", b"3") == [True] * 3
        inside.clear()
