"""Blocks of whole files that are stored together: in one go where they follow one another, and each as if alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cache import Cache
from dvfs.store.cache_cost import LEAST_BYTES
from dvfs.store.cache_into import Laid, runs
from dvfs.store.digest import block_digest
from tests.store.noise import noise
from tests.store.test_cache import SMALL, lines, open_cache
from tests.store.test_cache_whole import Large, damage, disk_bytes, large, open_descriptors, removed_but_open


def lay(cache: Cache, file: Large, numbers: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """Lay the blocks of those *numbers*; return what `put_all` is told."""
    for number in numbers:
        cache.lay(file.digests[number], file.place(number), file.size)
    return [(file.digests[number], file.blocks[number]) for number in numbers]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks each write had."""
    counts: list[int] = []
    write = os.pwritev

    def counted(fd: int, buffers: Sequence[bytes], start: int) -> int:
        counts.append(len(buffers))
        return write(fd, buffers, start)

    monkeypatch.setattr(os, "pwritev", counted)
    return counts


def test_those_that_follow_one_another_are_written_in_one_go(tmp_path: Path, writes: list[int]) -> None:
    file, other = large(6), large(2, seed=51)
    own = noise(SMALL, 7)
    with open_cache(tmp_path) as cache:
        blocks = lay(cache, file, [0, 1, 2, 4]) + lay(cache, other, [0, 1]) + [(block_digest(own), own)]
        assert cache.put_all(blocks) == [True] * 7
        assert writes == [3, 1, 2, 1]
        assert (file.present(cache), other.present(cache)) == ([0, 1, 2, 4], [0, 1])
        assert cache.get(block_digest(own)) == own
        assert cache.info().bytes == disk_bytes(tmp_path)
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 1, 2, 4]


def test_each_is_laid_once(tmp_path: Path) -> None:
    file = large(2)
    with open_cache(tmp_path) as cache:
        blocks = lay(cache, file, [0, 1])
        assert all(cache.is_laid(digest) for digest, _ in blocks)
        assert cache.put_all(blocks) == [True, True]
        assert not any(cache.is_laid(digest) for digest, _ in blocks)
    assert removed_but_open(tmp_path) == []


def test_where_other_bytes_are_blocks_become_files_of_their_own(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache, [1])
    damage(file.path(tmp_path), file.place(1).start + 5)
    with open_cache(tmp_path) as cache:
        assert cache.get(file.digests[1]) is None
        before = file.path(tmp_path).read_bytes()
        assert cache.put_all(lay(cache, file, [0, 1, 2])) == [True] * 3
        assert file.path(tmp_path).read_bytes() == before
        assert file.present(cache) == [0, 1, 2]
        assert cache.join(file.digest, file.size, file.rows) is not None
    assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)


def test_blocks_that_are_there_already_are_not_written(tmp_path: Path, writes: list[int]) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        assert cache.put_all(lay(cache, file, [0, 1, 2])) == [True] * 3
        assert cache.put_all(lay(cache, file, [0, 1, 2])) == [True] * 3
        assert writes == [3]
        assert file.present(cache) == [0, 1, 2]
        assert cache.info().bytes == disk_bytes(tmp_path)


def test_what_is_together_too_much_for_the_budget_is_stored_one_by_one(tmp_path: Path) -> None:
    file = large(4)
    with open_cache(tmp_path, budget_bytes=2 * SMALL + 4096) as cache:
        assert cache.put_all(lay(cache, file, [0, 1, 2, 3])) == [True] * 4
        cache.settle()
        assert cache.info().bytes <= 2 * SMALL + 4096


def test_where_whole_files_cannot_be_blocks_become_files_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = large(3)
    (tmp_path / "files").touch()
    with open_cache(tmp_path) as cache:
        assert cache.put_all(lay(cache, file, [0, 1, 2])) == [True] * 3
        assert file.present(cache) == [0, 1, 2]
    assert len(lines(caplog)) == 1


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(3)
    write = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, start: write(fd, [buffers[0][:1000]], start))
    with open_cache(tmp_path) as cache:
        assert cache.put_all(lay(cache, file, [0, 1, 2])) == [True] * 3
        assert file.present(cache) == [0, 1, 2]
    assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)


def test_runs() -> None:
    file, other = large(4), large(2, seed=51)
    blocks = [Laid(file.digests[at], file.blocks[at], file.place(at), file.size) for at in range(4)]
    others = [Laid(other.digests[at], other.blocks[at], other.place(at), other.size) for at in range(2)]
    assert list(runs([])) == []
    assert list(runs(blocks)) == [blocks]
    assert list(runs([blocks[0], blocks[2], blocks[3], *others])) == [blocks[:1], blocks[2:], others]
    assert list(runs([blocks[1], blocks[0]])) == [[blocks[1]], [blocks[0]]]


def test_blocks_that_were_written_together_are_open_once_and_closed_when_the_file_is_gone(tmp_path: Path) -> None:
    file = large(4)
    with open_cache(tmp_path) as cache:
        assert all(cache.put_all(lay(cache, file, range(4))))
        path = file.path(tmp_path)
        times = sum(os.path.samestat(found, path.stat()) for _, found in open_descriptors(tmp_path))
        assert times == 2  # once for what says that they were verified
        path.unlink()
        assert file.present(cache) == [0, 1, 2, 3]
        cache.settle()
        assert removed_but_open(tmp_path) == []
        assert file.present(cache) == []


KIB = 1 << 10


@pytest.mark.parametrize(
    ("costly_write_ns", "pieces"),
    [(0, [0, 256 * KIB, 400_001, *(at * KIB for at in range(512, 2200, 256))]), (1 << 60, [0, 400_001, 2048 * KIB])],
)
def test_long_runs_are_written_in_pieces_that_begin_where_a_folio_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costly_write_ns: int, pieces: list[int]
) -> None:
    file = Large([noise(400_001, 1), noise(1_500_003, 2), noise(300_005, 3)])
    starts: list[int] = []
    write = os.pwritev

    def noted(fd: int, buffers: Sequence[bytes], start: int) -> int:
        starts.append(start)
        return write(fd, buffers, start)

    monkeypatch.setattr(os, "pwritev", noted)
    with open_cache(tmp_path, costly_write_ns=costly_write_ns) as cache:
        file.put(cache, [0])
        assert cache.put_all(lay(cache, file, [1, 2])) == [True, True]
        assert file.present(cache) == [0, 1, 2]
    assert starts == pieces
    assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)


@pytest.mark.parametrize(("costly_write_ns", "spares"), [(1, [False, False, True]), (1 << 60, [False, False, False])])
def test_the_cache_notes_what_writing_cost(tmp_path: Path, costly_write_ns: int, spares: list[bool]) -> None:
    size = MAX_BLOCK_BYTES
    half = LEAST_BYTES // size
    file = Large([noise(size, seed) for seed in range(2 * half + 1)])
    with open_cache(tmp_path, costly_write_ns=costly_write_ns) as cache:
        told = []
        assert cache.put(file.digests[-1], file.blocks[-1])  # not laid
        told.append(cache.spares_pages)
        for numbers in (range(half), range(half, 2 * half)):  # large folios, then small ones
            assert all(cache.put_all(lay(cache, file, numbers)))
            told.append(cache.spares_pages)
        assert told == spares
