"""Blocks that lie in a whole file: as good as in files of their own, gone with the file, and never other bytes."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store.block import MAX_BLOCK_BYTES
from dvfs.store.cache import Cache
from dvfs.store.cache_verified import SharedVerified
from dvfs.store.cache_whole import Place, decoded
from dvfs.store.digest import block_digest, file_digest
from dvfs.store.errors import Internal
from tests.store.noise import noise
from tests.store.test_cache import SMALL, SteppingClock, block_path, lines, open_cache, read_only


@dataclass(frozen=True, slots=True)
class Large:
    """A file of several *blocks*, none of which begins where a page does but the first."""

    blocks: Sequence[bytes]

    @property
    def digests(self) -> list[bytes]:
        return [block_digest(data) for data in self.blocks]

    @property
    def size(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def digest(self) -> bytes:
        return file_digest(self.size, self.digests)

    @property
    def rows(self) -> list[tuple[bytes, int, int]]:
        """What `join` is told: digest, start and length of each block."""
        starts = [sum(map(len, self.blocks[:number])) for number in range(len(self.blocks))]
        return [(block_digest(data), start, len(data)) for data, start in zip(self.blocks, starts, strict=True)]

    def place(self, number: int) -> Place:
        _, start, length = self.rows[number]
        return Place(self.digest, start, length)

    def path(self, root: Path) -> Path:
        return root / "files" / self.digest.hex()[:2] / self.digest.hex()

    def put(self, cache: Cache, numbers: Iterable[int] | None = None) -> None:
        """Store the blocks of those *numbers* (None: all), laid."""
        for number in range(len(self.blocks)) if numbers is None else numbers:
            digest = self.digests[number]
            cache.lay(digest, self.place(number), self.size)
            assert cache.put(digest, self.blocks[number])

    def present(self, cache: Cache) -> list[int]:
        """Return the numbers of the blocks that *cache* has; those that it returns are right."""
        found = [cache.get(digest) for digest in self.digests]
        assert all(data in (None, self.blocks[number]) for number, data in enumerate(found))
        return [number for number, data in enumerate(found) if data is not None]


def large(count: int, seed: int = 50) -> Large:
    return Large([noise(SMALL + 13 * number, seed * 1000 + number) for number in range(count)])


def point(root: Path, digest: bytes, target: str) -> Path:
    """Have *target* be what the link of the block *digest* leads to."""
    path = block_path(root, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    return path


def damage(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def links(root: Path) -> list[Path]:
    return [path for path in (root / "blocks").glob("*/*") if path.is_symlink()]


def disk_bytes(root: Path) -> int:
    """Return what block files have in bytes, and whole files take of the disk."""
    own = [path.lstat().st_size for path in (root / "blocks").glob("*/*") if not path.is_symlink()]
    return sum(own) + sum(path.lstat().st_blocks * 512 for path in (root / "files").glob("*/*"))


def open_descriptors(root: Path) -> list[tuple[str, os.stat_result]]:
    """Return each file below *root* that this process has open, as often as it has, by the path it was opened at."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            path = os.readlink(f"/proc/self/fd/{name}")
            if path.startswith(str(root)):
                found.append((path, os.fstat(int(name))))
    return found


def removed_but_open(root: Path) -> list[str]:
    """Return the files below *root* that are gone, and whose bytes this process still holds."""
    return [path for path, found in open_descriptors(root) if not found.st_nlink]


# -- reading and writing


def test_a_laid_block_is_written_in_its_place(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache, [1])
        assert file.path(tmp_path).stat().st_size == file.size
        assert file.path(tmp_path).read_bytes() == bytes(SMALL) + file.blocks[1] + bytes(len(file.blocks[2]))
        assert os.readlink(block_path(tmp_path, file.digests[1])) == file.place(1).encode()
        file.put(cache, [2, 0])
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)
        assert file.present(cache) == [0, 1, 2]
    assert not [path for path in (tmp_path / "tmp").rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("is_fresh", [False, True])
def test_it_is_read_in_all_ways_whole_and_in_part(tmp_path: Path, is_fresh: bool) -> None:
    file = large(3)
    digest, data = file.digests[1], file.blocks[1]
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(open_cache(tmp_path))
        file.put(cache)
        if is_fresh:
            cache = stack.enter_context(open_cache(tmp_path))
            assert cache.read_nowait(digest, 0, 1) is None
            assert not cache.readinto_nowait(digest, 0, memoryview(bytearray(1)))
        assert cache.has(digest)
        cache.foresee(digest)
        assert cache.ready(digest)
        assert cache.get(digest) == data
        for read in (cache.read, cache.read_nowait):
            assert read(digest, 5, 100) == data[5:105]
            assert read(digest, len(data) - 3, 100) == data[-3:]
            assert read(digest, len(data) + 3, 100) == b""
        view = memoryview(bytearray(len(data)))
        assert cache.readinto(digest, view) == len(data)
        assert view == data
        view[:] = bytes(len(data))
        assert cache.readinto_nowait(digest, 7, view[7:])
        assert view[7:] == data[7:]
        assert not cache.readinto_nowait(digest, 8, view[7:])  # the next block begins there
        assert cache.readinto(digest, view[1:]) == len(data)


def test_it_is_verified_by_whichever_way_it_is_read_first(tmp_path: Path) -> None:
    file = large(3)
    digest, data = file.digests[1], file.blocks[1]
    with open_cache(tmp_path) as cache:
        file.put(cache)
    with open_cache(tmp_path) as cache:
        assert cache.read(digest, 5, 100) == data[5:105]
    view = memoryview(bytearray(len(data)))
    with open_cache(tmp_path) as cache:
        assert cache.readinto(digest, view) == len(data)
        assert view == data
    damage(file.path(tmp_path), file.place(1).start)
    for way in ("read", "readinto", "ready", "get"):
        point(tmp_path, digest, file.place(1).encode())
        with open_cache(tmp_path) as cache:
            assert not {
                "read": lambda cache=cache: cache.read(digest, 5, 100),
                "readinto": lambda cache=cache: cache.readinto(digest, view),
                "ready": lambda cache=cache: cache.ready(digest),
                "get": lambda cache=cache: cache.get(digest),
            }[way]()


def test_what_lies_before_a_block_is_never_read(tmp_path: Path) -> None:
    file = large(2)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        with pytest.raises(Internal):
            cache.read(file.digests[1], -1, 1)
        assert not cache.readinto_nowait(file.digests[1], -1, memoryview(bytearray(1)))
        assert file.present(cache) == [0, 1]


def test_two_files_share_a_block(tmp_path: Path) -> None:
    one = large(3)
    two = Large([noise(500, 1), one.blocks[1], noise(700, 2)])
    with open_cache(tmp_path) as cache:
        one.put(cache)
        two.put(cache, [0, 2])
        assert two.present(cache) == [0, 1, 2]
    with open_cache(tmp_path) as cache:
        assert two.present(cache) == one.present(cache) == [0, 1, 2]
        one.path(tmp_path).unlink()
        two.put(cache, [1])
    with open_cache(tmp_path) as cache:
        assert two.present(cache) == [0, 1, 2]
        assert one.present(cache) == [1]


def test_a_block_of_a_few_bytes(tmp_path: Path) -> None:
    file = Large([b"a", b"bc", noise(4096), b"d"])
    with open_cache(tmp_path) as cache:
        file.put(cache, [3, 1, 0, 2])
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 1, 2, 3]
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)


def test_blocks_of_zeros_are_blocks(tmp_path: Path) -> None:
    file = Large([noise(100), bytes(3 * 4096), noise(100, 1), bytes(10)])
    with open_cache(tmp_path) as cache:
        file.put(cache)
        assert cache.join(file.digest, file.size, file.rows)
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 1, 2, 3]


def test_what_is_laid_is_forgotten_for_what_was_laid_first(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        cache._whole._most_places = 2
        for number in (0, 1, 0, 2):
            cache.lay(file.digests[number], file.place(number), file.size)
        for number in range(3):
            assert cache.put(file.digests[number], file.blocks[number])
        assert [block_path(tmp_path, digest).is_symlink() for digest in file.digests] == [True, False, True]
        assert file.present(cache) == [0, 1, 2]


def test_a_place_of_another_length_and_a_sealed_block_are_not_laid(tmp_path: Path) -> None:
    file = large(2)
    with open_cache(tmp_path) as cache:
        cache.lay(file.digests[0], file.place(1), file.size)
        assert cache.put(file.digests[0], file.blocks[0])
        cache.lay(b"s" * 32, file.place(1), file.size)
        assert cache.put(b"s" * 32, file.blocks[1], sealed=True)
        assert not links(tmp_path)
    with open_cache(tmp_path) as cache:
        assert cache.get(file.digests[0]) == file.blocks[0]
        assert cache.get(b"s" * 32) == file.blocks[1]


def test_a_place_that_is_not_in_the_file_is_not_written_to(tmp_path: Path) -> None:
    file = large(2)
    with open_cache(tmp_path) as cache:
        cache.lay(file.digests[0], file.place(1)._replace(length=SMALL), file.size - 20)
        assert cache.put(file.digests[0], file.blocks[0])
        assert not file.path(tmp_path).exists()
        assert cache.get(file.digests[0]) == file.blocks[0]


def test_a_link_to_a_file_that_is_gone_is_removed_when_it_is_met(tmp_path: Path) -> None:
    file = large(2)
    path = point(tmp_path, file.digests[0], file.place(0).encode())
    with open_cache(tmp_path) as cache:
        assert cache.get(file.digests[0]) is None
    assert not os.path.lexists(path)


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    """Who lays other blocks where those of a file are, or gives it another size, changes no byte of it."""
    file = large(3)
    others = [noise(len(data), 900 + number) for number, data in enumerate(file.blocks)]
    with open_cache(tmp_path) as cache:
        file.put(cache)
        identity = cache.join(file.digest, file.size, file.rows)
        assert identity is not None
        for number, data in enumerate(others):
            cache.lay(block_digest(data), file.place(number), file.size + number - 1)
            assert cache.put(block_digest(data), data)
        beyond = noise(100, 5)
        cache.lay(block_digest(beyond), Place(file.digest, file.size - 10, 100), file.size)
        assert cache.put(block_digest(beyond), beyond)
        file.put(cache)  # again
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)
        handle = cache.open_whole(file.digest, identity)
        assert handle is not None
        os.close(handle)
        assert [cache.get(block_digest(data)) for data in others] == others
        assert cache.get(block_digest(beyond)) == beyond
        assert file.present(cache) == [0, 1, 2]


# -- places


@given(st.binary(min_size=32, max_size=32), st.integers(0, (1 << 48) - 1), st.integers(1, MAX_BLOCK_BYTES))
def test_places_are_encoded_in_few_letters(file: bytes, start: int, length: int) -> None:
    place = Place(file, start, length)
    assert decoded(place.encode()) == place
    assert len(place.encode()) < 60
    assert "/" not in place.encode()


@given(st.text() | st.binary().map(os.fsdecode))
def test_what_else_a_link_says_is_no_place(target: str) -> None:
    found = decoded(target)
    assert found is None or len(target) == 56


def _long(file: Large) -> str:
    return Place(file.digest, 0, MAX_BLOCK_BYTES + 1).encode()


def _empty(file: Large) -> str:
    return Place(file.digest, 0, 0).encode()


def _behind(file: Large) -> str:
    return Place(file.digest, file.size, SMALL).encode()


def _far(file: Large) -> str:
    return Place(file.digest, (1 << 48) - 1, SMALL).encode()


def _across(file: Large) -> str:
    return Place(file.digest, file.size - 10, SMALL).encode()


def _other(file: Large) -> str:
    return file.place(1)._replace(length=SMALL).encode()


def _shifted(file: Large) -> str:
    return file.place(0)._replace(start=1).encode()


def _absent(file: Large) -> str:
    return file.place(0)._replace(file=bytes(32)).encode()


def _path(file: Large) -> str:
    return "/etc/hostname"


def _cut(file: Large) -> str:
    return file.place(0).encode()[:-4]


def _odd(file: Large) -> str:
    return base64.b64encode(b"\xff" * 41).decode()


def _bytes(file: Large) -> str:
    return os.fsdecode(b"\xff\xfe" * 28)


@pytest.mark.parametrize(
    "target", [_long, _empty, _behind, _far, _across, _other, _shifted, _absent, _path, _cut, _odd, _bytes]
)
def test_a_link_that_leads_elsewhere_is_a_miss(tmp_path: Path, target: object) -> None:
    assert callable(target)
    file = large(2)
    digest = file.digests[0]
    with open_cache(tmp_path) as cache:
        file.put(cache)
    path = point(tmp_path, digest, target(file))
    view = memoryview(bytearray(SMALL))
    with open_cache(tmp_path) as cache:
        cache.foresee(digest)
        assert cache.join(file.digest, file.size, file.rows) is None
        assert cache.get(digest) is None
        path = point(tmp_path, digest, target(file))
        assert cache.read(digest, 0, 10) is None
        path = point(tmp_path, digest, target(file))
        assert cache.readinto(digest, view) is None
        assert not cache.ready(digest)
        assert cache.get(file.digests[1]) == file.blocks[1]
        point(tmp_path, digest, target(file))
        assert cache.verify().damaged in ((), (str(path),))
        assert not os.path.lexists(path)
        file.put(cache)
        assert file.present(cache) == [0, 1]


def test_a_link_moved_to_another_block_of_the_same_file_is_verified(tmp_path: Path) -> None:
    """Though the file is the same as when the block was verified in it."""
    file = Large([noise(SMALL, 1), noise(SMALL, 2), noise(SMALL, 3)])
    with open_cache(tmp_path) as writer:
        file.put(writer)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=1)
    cache.share_verified(SharedVerified())
    assert cache.get(file.digests[0]) == file.blocks[0]
    assert cache.get(file.digests[2]) == file.blocks[2]
    point(tmp_path, file.digests[0], file.place(1).encode())
    assert cache.get(file.digests[0]) is None
    cache.close()


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "short", "long"])
def test_what_else_has_the_name_of_a_file_holds_no_block(tmp_path: Path, kind: str) -> None:
    file = large(2)
    path = file.path(tmp_path)
    with open_cache(tmp_path) as cache:
        file.put(cache)
    data = path.read_bytes()
    if kind in ("link", "fifo", "folder"):
        path.unlink()
    if kind == "link":
        (tmp_path / "away").write_bytes(data)
        path.symlink_to(tmp_path / "away")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        os.truncate(path, file.size + (1 if kind == "long" else -1))
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == ([] if kind in ("link", "fifo", "folder") else [0, 1] if kind == "long" else [0])
        file.put(cache)
        assert file.present(cache) == [0, 1]
        assert (cache.join(file.digest, file.size, file.rows) is None) == (kind == "folder")
        assert file.present(cache) == [0, 1]
    if kind != "folder":
        assert path.read_bytes() == data
        assert not path.is_symlink()
    if kind == "link":
        assert (tmp_path / "away").read_bytes() == data


# -- damage


def test_a_damaged_block_is_a_miss_and_its_link_removed_and_another_put_mends_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache)
    damage(file.path(tmp_path), file.place(1).start + 100)
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 2]
        assert [file.digests[1].hex() in line for line in lines(caplog)] == [True]
        assert not os.path.lexists(block_path(tmp_path, file.digests[1]))
        assert not cache.has(file.digests[1])
        file.put(cache, [1])
        assert file.present(cache) == [0, 1, 2]
        assert cache.join(file.digest, file.size, file.rows) is not None
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)
        assert len(links(tmp_path)) == 3
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == [0, 1, 2]


def test_a_file_found_damaged_is_not_what_it_was_joined_as(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache, open_cache(tmp_path) as other:
        file.put(cache)
        damage(file.path(tmp_path), file.place(1).start)
        identity = cache.join(file.digest, file.size, file.rows)
        assert identity is not None  # as it wrote all of it
        assert other.get(file.digests[1]) is None
        assert cache.open_whole(file.digest, identity) is None
        assert cache.join(file.digest, file.size, file.rows) is None


def test_a_file_truncated_while_open_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = large(3)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        os.truncate(file.path(tmp_path), file.place(1).start + 1000)
        assert cache.read_nowait(file.digests[1], 2000, 10) is None
        assert cache.read(file.digests[1], 2000, 10) is None
        assert cache.readinto(file.digests[2], memoryview(bytearray(len(file.blocks[2])))) is None
        assert cache.get(file.digests[0]) == file.blocks[0]
        assert len(lines(caplog)) == 2
        file.put(cache, [1, 2])
        assert file.present(cache) == [0, 1, 2]
        cache.join(file.digest, file.size, file.rows)  # which begins it anew
        file.put(cache)
        assert cache.join(file.digest, file.size, file.rows) is not None
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)


def test_verify_checks_blocks_in_whole_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, own = large(4), noise(SMALL)
    with open_cache(tmp_path) as cache:
        file.put(cache)
        assert cache.put(block_digest(own), own)
        report = cache.verify()
        assert (report.blocks, report.bytes, report.damaged) == (5, file.size + SMALL, ())
        damage(file.path(tmp_path), file.place(2).start)
        garbage = point(tmp_path, file.digests[3], "garbage")
        seen: list[int] = []
        report = cache.verify(seen.append)
        assert report.blocks == 3
        assert set(report.damaged) == {str(block_path(tmp_path, file.digests[2])), str(garbage)}
        assert sorted(seen) == sorted([len("garbage"), SMALL, *map(len, file.blocks[:3])])
        assert cache.join(file.digest, file.size, file.rows) is None
        assert file.present(cache) == [0, 1]
        assert cache.info().bytes == disk_bytes(tmp_path)
        file.path(tmp_path).unlink()
        caplog.clear()
        assert (cache.verify().blocks, cache.verify().damaged) == (1, ())
        assert lines(caplog) == []
        assert links(tmp_path) == []


# -- eviction and the index


def test_a_whole_file_is_evicted_with_all_that_lies_in_it(tmp_path: Path) -> None:
    one, two = large(4), large(4, seed=51)
    budget = one.size + two.size + SMALL
    clock = SteppingClock()
    clock._ns *= 4  # later than the times of the files
    cache = Cache(tmp_path, budget_bytes=budget, reserve_bytes=0, clock=clock)
    one.put(cache)
    two.put(cache)
    cache.settle()
    assert cache.info().blocks == 2
    assert cache.read(one.digests[0], 0, 1)  # so that it is not the oldest
    cache.settle()
    own = [noise(SMALL, number) for number in range(2)]
    for data in own:
        assert cache.put(block_digest(data), data)
    cache.settle()
    assert not two.path(tmp_path).exists()
    assert [cache.has(digest) for digest in two.digests] == [False] * 4
    assert two.present(cache) == []
    assert one.present(cache) == [0, 1, 2, 3]
    assert [cache.get(block_digest(data)) for data in own] == own
    info = cache.info()
    assert info.blocks == 3
    assert info.bytes == disk_bytes(tmp_path) <= budget
    assert removed_but_open(tmp_path) == []
    cache.close()


@pytest.mark.parametrize("how", ["verify", "clear", "upkeep"])
def test_links_that_lead_nowhere_go(tmp_path: Path, how: str) -> None:
    file = large(4)
    with open_cache(tmp_path) as cache:
        file.put(cache)
    file.path(tmp_path).unlink()
    for number, digest in enumerate(file.digests):
        point(tmp_path, digest, file.place(number).encode())
    with open_cache(tmp_path) as cache:
        assert not any(cache.has(digest) for digest in file.digests)
        if how == "upkeep":
            (tmp_path / "index.sqlite").unlink()
            cache.settle()
        else:
            getattr(cache, how)()
        assert links(tmp_path) == []
        assert (cache.info().bytes, cache.info().blocks) == (0, 0)


def test_blocks_left_by_an_evicted_file_are_a_quiet_miss_in_the_next_of_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = large(6)
    with open_cache(tmp_path) as cache:
        file.put(cache, [0, 3])
    for number, digest in enumerate(file.digests):
        point(tmp_path, digest, file.place(number).encode())
    with open_cache(tmp_path) as cache:
        assert cache.get(file.digests[1]) is None
        assert not os.path.lexists(block_path(tmp_path, file.digests[1]))
        report = cache.verify()
        assert (report.blocks, report.damaged) == (2, ())
        assert file.present(cache) == [0, 3]
        assert len(links(tmp_path)) == 2
    assert lines(caplog) == []


def test_a_lost_index_counts_whole_files_once_and_by_what_they_take_of_the_disk(tmp_path: Path) -> None:
    file, own = large(40), noise(SMALL)
    with open_cache(tmp_path) as cache:
        file.put(cache, range(0, 40, 4))
        assert cache.put(block_digest(own), own)
        before = cache.info()
        assert before.blocks == 2
        assert before.bytes == disk_bytes(tmp_path) < file.size // 2
    (tmp_path / "index.sqlite").unlink()
    with open_cache(tmp_path) as cache:
        assert (cache.info().blocks, cache.info().bytes) == (2, disk_bytes(tmp_path))
        file.put(cache)
        assert (cache.info().blocks, cache.info().bytes) == (2, disk_bytes(tmp_path))
        assert cache.info().bytes >= file.size + SMALL


def test_the_index_learns_of_what_others_wrote_into_a_file(tmp_path: Path) -> None:
    file = large(8)
    with open_cache(tmp_path) as cache, open_cache(tmp_path) as other:
        file.put(cache, [0])
        file.put(other, range(1, 8))
        other.settle()
        cache._keeper._index.apply({file.digest: (1, 1)}, {})  # as of who looked first and wrote last
        assert cache.verify().blocks == 8
        assert cache.info().bytes == disk_bytes(tmp_path)


def test_a_file_that_goes_while_it_is_written_leaves_no_row(tmp_path: Path) -> None:
    """A row for nothing would have other blocks evicted for it."""
    file = large(4)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, interval_seconds=1000)
    cache.settle()
    file.put(cache)
    file.path(tmp_path).unlink()
    cache.settle()
    assert (cache.info().blocks, cache.info().bytes) == (0, 0)
    cache.close()


@pytest.mark.parametrize("times", [1, 100])
def test_a_file_evicted_between_its_bytes_and_the_link_is_written_again(tmp_path: Path, times: int) -> None:
    file = large(2)
    passed: list[str] = []

    def evict(point: str) -> None:
        if point == "whole:before-link" and len(passed) < times:
            passed.append(point)
            file.path(tmp_path).unlink()

    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, crash=evict)
    file.put(cache)
    with open_cache(tmp_path) as other:
        assert file.present(other) == file.present(cache) == [0, 1]
    assert cache.info().bytes == disk_bytes(tmp_path)
    cache.close()


def test_an_old_row_of_a_block_that_came_into_a_file_takes_nothing_along(tmp_path: Path) -> None:
    file = large(3)
    cache = Cache(tmp_path, budget_bytes=1 << 20, reserve_bytes=0, clock=SteppingClock())
    file.put(cache)
    cache._keeper._index.apply({file.digests[1]: (1 << 20, 1)}, {})  # of the file that the block had of its own
    cache.settle()
    assert file.present(cache) == [0, 1, 2]
    assert (cache.info().blocks, cache.info().bytes) == (1, disk_bytes(tmp_path))
    cache.close()


def test_what_a_file_grows_by_is_counted_and_not_what_it_has(tmp_path: Path) -> None:
    """Else each block of a file that has most of the budget would have the index written."""
    file = large(10)
    cache = Cache(tmp_path, budget_bytes=file.size * 2, reserve_bytes=0, interval_seconds=1000)
    file.put(cache, range(8))
    cache.settle()
    file.put(cache, [8])
    with cache._keeper._lock:
        assert cache._keeper._bytes < file.size * 1.2
    file.put(cache, [9])
    assert cache.info().bytes == disk_bytes(tmp_path)
    cache.close()


def test_the_budget_holds_by_itself(tmp_path: Path) -> None:
    files = [large(4, seed) for seed in range(60, 75)]
    with open_cache(tmp_path, 3 * files[0].size) as cache:
        for file in files:
            file.put(cache)
    assert 0 < disk_bytes(tmp_path) <= 3 * files[0].size


def test_clear_removes_whole_files_and_readers_read_on(tmp_path: Path) -> None:
    file = large(4)
    with open_cache(tmp_path) as cache, open_cache(tmp_path) as reader:
        file.put(cache)
        identity = reader.join(file.digest, file.size, file.rows) if reader.ready(file.digests[0]) else None
        assert identity is None
        assert file.present(reader) == [0, 1, 2, 3]
        identity = reader.join(file.digest, file.size, file.rows)
        assert identity is not None
        handle = reader.open_whole(file.digest, identity)
        assert handle is not None
        cache.clear()
        assert links(tmp_path) == [] == list((tmp_path / "files").glob("*/*"))
        assert not any(cache.has(digest) for digest in file.digests)
        assert (cache.info().bytes, cache.info().blocks) == (0, 0)
        assert file.present(reader) == [0, 1, 2, 3]
        assert os.pread(handle, file.size, 0) == b"".join(file.blocks)
        os.close(handle)
        reader.settle()
        assert removed_but_open(tmp_path) == []
        assert file.present(reader) == []
        file.put(cache)
        assert file.present(reader) == [0, 1, 2, 3]


def test_few_descriptors_serve_many_blocks_of_many_files(tmp_path: Path) -> None:
    files = [Large([noise(100 + number, seed * 10 + number) for number in range(5)]) for seed in range(30)]
    before = len(os.listdir("/proc/self/fd"))
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=8)
    for file in files:
        file.put(cache)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda file: file.present(cache), files * 3)) == [[0, 1, 2, 3, 4]] * 90
    assert len(os.listdir("/proc/self/fd")) <= before + 8 + 8 // 4 + 8
    cache.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- several writers


def test_two_caches_and_threads_write_one_file_at_once(tmp_path: Path) -> None:
    file = Large([noise(1000 + 7 * number, 4000 + number) for number in range(200)])
    with open_cache(tmp_path) as one, open_cache(tmp_path) as two:
        barrier = threading.Barrier(4)

        def write(cache: Cache, backwards: bool) -> None:
            barrier.wait()
            numbers = range(200)
            file.put(cache, reversed(numbers) if backwards else numbers)

        with ThreadPoolExecutor(4) as pool:
            told = [pool.submit(write, cache, backwards) for cache in (one, two) for backwards in (False, True)]
            for future in told:
                future.result()
        assert file.present(one) == file.present(two) == list(range(200))
        for cache in (one, two):
            assert cache.join(file.digest, file.size, file.rows) is not None
        assert file.path(tmp_path).read_bytes() == b"".join(file.blocks)
        assert len(links(tmp_path)) == 200
        one.settle()
        two.settle()
        assert one.verify().blocks == 200
        assert one.info().bytes == disk_bytes(tmp_path)
    with open_cache(tmp_path) as cache:
        assert file.present(cache) == list(range(200))


def test_writers_readers_and_eviction_at_once_never_give_other_bytes(tmp_path: Path) -> None:
    files = [Large([noise(3000 + number, seed * 100 + number) for number in range(10)]) for seed in range(4)]
    budget = 2 * files[0].size
    stop = threading.Event()
    with open_cache(tmp_path, budget) as one, open_cache(tmp_path, budget) as two:

        def write(cache: Cache) -> None:
            for turn in range(40):
                file = files[turn % 4]
                for number in range(10):
                    cache.lay(file.digests[number], file.place(number), file.size)
                    cache.put(file.digests[number], file.blocks[number])
                identity = cache.join(file.digest, file.size, file.rows)
                handle = None if identity is None else cache.open_whole(file.digest, identity)
                if handle is not None:
                    assert os.pread(handle, file.size, 0) == b"".join(file.blocks)
                    os.close(handle)

        def read(cache: Cache) -> None:
            while not stop.is_set():
                for file in files:
                    file.present(cache)

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read, cache) for cache in (one, two)]
            writers = [pool.submit(write, cache) for cache in (one, two)]
            try:
                for future in writers:
                    future.result()
            finally:
                stop.set()
            for future in readers:
                future.result()
        one.verify()
        assert one.info().bytes == disk_bytes(tmp_path) <= budget


def test_what_one_process_verified_no_other_does(tmp_path: Path) -> None:
    file = large(3)
    with open_cache(tmp_path) as writer:
        file.put(writer)
    shared = SharedVerified()
    first, second = (Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0) for _ in range(2))
    first.share_verified(shared)
    second.share_verified(shared)
    assert file.present(first) == [0, 1, 2]
    for digest in file.digests:
        loaded = second._files.load(digest)
        assert loaded is not None
        assert loaded[1] is None
        assert second.get(digest) == file.blocks[file.digests.index(digest)]
    assert second.join(file.digest, file.size, file.rows) is not None
    third = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)
    third.share_verified(shared)
    damage(file.path(tmp_path), file.place(1).start)
    assert file.present(third) == [0, 2]
    for cache in (first, second, third):
        cache.close()


# -- disks that do not


def test_files_is_no_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, own = large(3), noise(SMALL)
    (tmp_path / "files").touch()
    with open_cache(tmp_path) as cache:
        for number, digest in enumerate(file.digests):
            cache.lay(digest, file.place(number), file.size)
            assert cache.put(digest, file.blocks[number])
        assert cache.put(block_digest(own), own)
        assert [cache.get(digest) for digest in file.digests] == file.blocks
        assert cache.join(file.digest, file.size, file.rows) is None
        assert len(lines(caplog)) == 1
        assert str(tmp_path) in lines(caplog)[0]
        assert not [path for path in (tmp_path / "tmp").rglob("*") if not path.is_dir()]


def test_a_read_only_folder_serves_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "cache"
    file, gone = large(3), large(2, seed=52)
    with open_cache(root) as cache:
        file.put(cache, [0, 1])
        gone.put(cache)
    gone.path(root).unlink()
    with read_only(root), open_cache(root) as cache:
        assert file.present(cache) == [0, 1]
        assert gone.present(cache) == []
        assert lines(caplog) == []
        for number in range(3):
            cache.lay(file.digests[number], file.place(number), file.size)
            assert not cache.put(file.digests[number], file.blocks[number])
        assert file.present(cache) == [0, 1]
        assert cache.join(file.digest, file.size, file.rows) is None
        assert len([line for line in lines(caplog) if "cannot store" in line]) == 1
