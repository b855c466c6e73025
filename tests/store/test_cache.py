"""The cache: what is not sound is a miss, what does not fit is not stored, and the budget holds."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.store.cache import Cache
from dvfs.store.cache_budget import DiskSpace, default_budget, default_reserve, disk_space
from dvfs.store.cache_cost import COSTLY_NS
from dvfs.store.digest import block_digest
from dvfs.store.errors import Internal
from tests.cache_process import BLOCK_BYTES, CacheProcess, unfinished
from tests.memory_backend import MemoryBackend, store_blocks
from tests.store.noise import noise

SMALL = BLOCK_BYTES


class SteppingClock:
    """Each look at the wall clock is a second later; sleeping moves the monotonic clock, and *on_sleep* happens."""

    def __init__(self) -> None:
        self._ns = 10**18
        self.slept = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def now_ns(self) -> int:
        self._ns += 10**9
        return self._ns

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.on_sleep()


def make_blocks(count: int, seed: int = 0) -> dict[bytes, bytes]:
    """Return *count* blocks of 64 KiB by digest."""
    blocks = [noise(SMALL, seed * 1000 + number) for number in range(count)]
    return {block_digest(data): data for data in blocks}


def block_path(root: Path, digest: bytes) -> Path:
    return root / "blocks" / digest.hex()[:2] / digest.hex()


@contextlib.contextmanager
def open_cache(
    root: Path,
    budget_bytes: int | None = 1 << 30,
    reserve_bytes: int | None = 0,
    *,
    costly_write_ns: int = COSTLY_NS,
) -> Iterator[Cache]:
    cache = Cache(root, budget_bytes=budget_bytes, reserve_bytes=reserve_bytes, costly_write_ns=costly_write_ns)
    try:
        yield cache
    finally:
        cache.close()


@pytest.fixture
def filled(tmp_path: Path) -> dict[bytes, bytes]:
    """Four blocks, which another cache object has put into tmp_path."""
    blocks = make_blocks(4)
    with open_cache(tmp_path) as cache:
        for digest, data in blocks.items():
            assert cache.put(digest, data)
    return blocks


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- reading and writing


def test_what_is_put_is_read_whole_and_in_part(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    digest, data = next(iter(filled.items()))
    with open_cache(tmp_path) as cache:
        assert cache.read(digest, 5, 100) == data[5:105]  # verified on the way
        assert cache.read(digest, 5, 100) == data[5:105]  # from the open file
        assert cache.read(digest, SMALL - 3, 100) == data[-3:]
        assert cache.read(digest, SMALL + 3, 100) == b""
        assert cache.get(digest) == data
        assert cache.has(digest)


def test_what_was_not_put_is_a_miss(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        absent = block_digest(b"absent")
        assert cache.get(absent) is None
        assert cache.read(absent, 0, 1) is None
        assert cache.read_nowait(absent, 0, 1) is None
        assert not cache.has(absent)


def test_reading_before_the_start_is_a_bug_and_removes_nothing(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    digest = next(iter(filled))
    with open_cache(tmp_path) as cache:
        cache.get(digest)
        with pytest.raises(Internal):
            cache.read(digest, -1, 1)
        assert cache.get(digest) == filled[digest]


def test_nowait_reads_open_blocks_only(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    digest, data = next(iter(filled.items()))
    with open_cache(tmp_path) as cache:
        assert cache.read_nowait(digest, 10, 1000) is None
        cache.get(digest)
        assert cache.read_nowait(digest, 10, 1000) == data[10:1010]
        assert cache.read_nowait(digest, SMALL - 3, 100) == data[-3:]
        assert cache.read_nowait(digest, SMALL + 3, 100) == b""


def test_a_block_foreseen_is_read_by_the_kernel(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    digest, data = next(iter(filled.items()))
    handle = os.open(block_path(tmp_path, digest), os.O_RDWR)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    with open_cache(tmp_path) as cache:
        cache.foresee(bytes(32))
        cache.foresee(digest)
        latest = time.monotonic() + 60
        while _bytes_in_memory(handle) < len(data):
            assert time.monotonic() < latest
        assert cache.get(digest) == data
    os.close(handle)


def _bytes_in_memory(handle: int) -> int:
    """Return how many bytes of the file the kernel has in memory, in pages."""
    with mmap.mmap(handle, 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        try:
            assert ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages) == 0
        finally:
            del first  # the mapping can be closed then
    return mmap.PAGESIZE * sum(page & 1 for page in pages)


def test_reading_starts_no_thread_and_loads_no_sqlite(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    program = (
        "import sys, threading, pathlib; from dvfs.store.cache import Cache; import dvfs.store.fetch\n"
        f"assert Cache(pathlib.Path({str(tmp_path)!r})).get(bytes.fromhex({next(iter(filled)).hex()!r}))\n"
        "print(threading.active_count(), 'sqlite3' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_few_descriptors_serve_many_blocks_to_many_threads(tmp_path: Path) -> None:
    blocks = make_blocks(40)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=4)
    for digest, data in blocks.items():
        cache.put(digest, data)
    before = len(os.listdir("/proc/self/fd"))
    digests = list(blocks)

    def read(seed: int) -> int:
        choose = random.Random(seed)
        for _ in range(500):
            digest = choose.choice(digests)
            start = choose.randrange(SMALL - 10)
            assert cache.read(digest, start, 10) == blocks[digest][start : start + 10]
        return len(os.listdir("/proc/self/fd"))

    with ThreadPoolExecutor(4) as pool:
        most = max(pool.map(read, range(4)))
    assert most <= before + 8
    cache.close()


def test_a_block_in_use_stays_open_before_others(tmp_path: Path) -> None:
    blocks = make_blocks(5)
    with open_cache(tmp_path) as writer:
        for digest, data in blocks.items():
            writer.put(digest, data)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=3)
    digests = list(blocks)
    for digest in digests[:4]:
        assert cache.get(digest)
    assert cache.read_nowait(digests[1], 0, 1)
    assert cache.get(digests[4])
    assert [number for number in range(5) if cache.read_nowait(digests[number], 0, 1)] == [1, 3, 4]
    cache.close()


def test_blocks_removed_by_others_are_closed_so_that_the_disk_gets_their_room(
    tmp_path: Path, filled: dict[bytes, bytes]
) -> None:
    digest = next(iter(filled))
    with open_cache(tmp_path) as reader, open_cache(tmp_path) as other:
        assert reader.get(digest)
        other.clear()
        assert reader.get(digest) == filled[digest]
        reader.settle()
        assert reader.get(digest) is None


# -- damage


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def link_away(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip, truncate, empty, lengthen, make_fifo])
def test_a_damaged_file_is_a_miss_named_in_the_log_and_removed(
    tmp_path: Path, filled: dict[bytes, bytes], caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    digest, *others = filled
    damage(block_path(tmp_path, digest))
    with open_cache(tmp_path) as cache:
        assert cache.get(digest) is None
        assert cache.read(digest, 0, 10) is None
        assert [digest.hex() in line for line in lines(caplog)] == [True]
        assert not block_path(tmp_path, digest).exists()
        assert all(cache.get(other) == filled[other] for other in others)
        assert cache.put(digest, filled[digest])
        assert cache.get(digest) == filled[digest]


def test_a_link_in_place_of_a_file_is_not_followed(
    tmp_path: Path, filled: dict[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    digest = next(iter(filled))
    link_away(block_path(tmp_path, digest))
    with open_cache(tmp_path) as cache:
        assert cache.get(digest) is None
    assert digest.hex() in lines(caplog)[0]


def test_swapped_files_are_both_damaged(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    one, two, *others = filled
    spare = tmp_path / "spare"
    block_path(tmp_path, one).rename(spare)
    block_path(tmp_path, two).rename(block_path(tmp_path, one))
    spare.rename(block_path(tmp_path, two))
    with open_cache(tmp_path) as cache:
        assert cache.get(one) is None
        assert cache.read(two, 0, 1) is None
        assert cache.get(others[0]) == filled[others[0]]


def test_a_file_truncated_while_open_is_a_miss(
    tmp_path: Path, filled: dict[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    digest = next(iter(filled))
    with open_cache(tmp_path) as cache:
        assert cache.get(digest)
        truncate(block_path(tmp_path, digest))
        assert cache.read_nowait(digest, 2000, 10) is None
        assert cache.read(digest, 2000, 10) is None
        assert digest.hex() in lines(caplog)[0]
        assert cache.put(digest, filled[digest])
        assert cache.read(digest, 2000, 10) == filled[digest][2000:2010]


def test_a_file_changed_after_its_descriptor_was_closed_is_verified_again(tmp_path: Path) -> None:
    blocks = make_blocks(3)
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0, max_open=1)
    for digest, data in blocks.items():
        cache.put(digest, data)
    first = next(iter(blocks))
    flip(block_path(tmp_path, first))
    assert cache.get(first) is None
    cache.close()


def test_a_file_removed_by_others_is_a_miss(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    shutil.rmtree(tmp_path / "blocks")
    with open_cache(tmp_path) as cache:
        assert [cache.get(digest) for digest in filled] == [None] * 4
        assert cache.verify().blocks == 0
        assert cache.info().blocks == 0


def test_the_folder_may_vanish_under_a_running_process(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    blocks = make_blocks(2)
    with open_cache(root) as cache:
        one, two = blocks
        assert cache.put(one, blocks[one])
        cache.settle()
        root.rename(tmp_path / "gone")
        root.mkdir()
        assert cache.put(two, blocks[two])
        assert cache.info().blocks == 1


def test_verify_names_and_removes_what_is_damaged(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    one, two, *_ = filled
    flip(block_path(tmp_path, one))
    truncate(block_path(tmp_path, two))
    foreign = block_path(tmp_path, two).with_name("foreign")
    foreign.write_bytes(b"?")
    with open_cache(tmp_path) as cache:
        assert cache.get(one) is None
        flip_again = block_path(tmp_path, one)
        assert cache.put(one, filled[one])
        flip(flip_again)  # while it is open, verified
        seen: list[int] = []
        report = cache.verify(seen.append)
        assert set(report.damaged) == {str(flip_again), str(block_path(tmp_path, two)), str(foreign)}
        assert (report.blocks, report.bytes, report.strays) == (2, 2 * SMALL, 0)
        assert sorted(seen) == [1, 1000, SMALL, SMALL, SMALL]
        assert cache.get(one) is None
        assert cache.info().blocks == 2
        assert cache.verify().damaged == ()


def test_clear_removes_all(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    with open_cache(tmp_path) as cache:
        assert cache.get(next(iter(filled)))
        cache.clear()
        assert [cache.get(digest) for digest in filled] == [None] * 4
        assert (cache.info().bytes, cache.info().blocks) == (0, 0)


# -- temporary files


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    data = noise(SMALL)
    with open_cache(tmp_path) as living:
        assert living.put(block_digest(data), data)
        session = os.listdir(tmp_path / "sessions")[0]
        used = tmp_path / "tmp" / "0" / f"{session}-ff"
        used.write_bytes(b"being written")
        (tmp_path / "tmp" / "1").mkdir()
        stray = tmp_path / "tmp" / "1" / "123456789abcdef-0"
        stray.write_bytes(b"left")
        odd = tmp_path / "tmp" / "0" / "odd"
        odd.write_bytes(b"left")
        with open_cache(tmp_path):
            assert unfinished(tmp_path) == [used]
            assert living.verify().strays == 0
    with open_cache(tmp_path) as later:
        assert not unfinished(tmp_path)
        stray.write_bytes(b"left")
        assert later.verify().strays == 1
        assert not unfinished(tmp_path)


# -- the budget


def test_the_default_budget_is_half_of_what_is_free_less_a_reserve() -> None:
    gib = 1 << 30
    big = DiskSpace(1000 * gib, 400 * gib)
    assert default_reserve(big) == 10 * gib
    assert default_budget(big, default_reserve(big)) == 200 * gib
    assert default_budget(DiskSpace(1000 * gib, 15 * gib), 10 * gib) == 5 * gib
    assert default_budget(DiskSpace(1000 * gib, 5 * gib), 10 * gib) == 0
    small = DiskSpace(100 * gib, 50 * gib)
    assert default_reserve(small) == 5 * gib
    assert default_budget(small, default_reserve(small)) == 25 * gib


def test_the_default_budget_is_kept_from_the_first_use(tmp_path: Path) -> None:
    with open_cache(tmp_path, None) as cache:
        first = cache.info().budget_bytes
        space = disk_space(tmp_path)
        assert abs(first - space.free_bytes // 2) < space.total_bytes // 100
    (tmp_path / "budget").write_text("1000000\n")
    with open_cache(tmp_path, None) as cache:
        assert cache.info().budget_bytes == 1000000
    (tmp_path / "budget").write_text("nonsense")
    with open_cache(tmp_path, None) as cache:
        assert cache.info().budget_bytes > 1000000
    assert int((tmp_path / "budget").read_text()) > 1000000


def test_least_recently_used_blocks_are_evicted(tmp_path: Path) -> None:
    blocks = make_blocks(8)
    digests = list(blocks)
    cache = Cache(tmp_path, budget_bytes=6 * SMALL, reserve_bytes=0, clock=SteppingClock())
    for digest in digests[:6]:
        cache.put(digest, blocks[digest])
    cache.settle()
    assert cache.info().blocks == 6
    assert cache.read(digests[0], 0, 1)
    cache.settle()
    cache.put(digests[6], blocks[digests[6]])
    cache.settle()
    assert [digest for digest in digests if cache.has(digest)] == [digests[0], *digests[3:7]]
    assert not block_path(tmp_path, digests[1]).exists()
    assert cache.info().bytes == 5 * SMALL
    cache.close()


def test_the_budget_holds_by_itself(tmp_path: Path) -> None:
    with open_cache(tmp_path, 4 * SMALL) as cache:
        for digest, data in make_blocks(40).items():
            assert cache.put(digest, data)
    files = list((tmp_path / "blocks").glob("*/*"))
    assert 0 < len(files) <= 4


def test_nothing_works_on_after_close(tmp_path: Path) -> None:
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)
    for digest, data in make_blocks(200).items():
        cache.put(digest, data)
    cache.close()
    assert "dvfs-cache" not in [thread.name for thread in threading.enumerate()]
    shutil.rmtree(tmp_path)


def test_after_close_blocks_are_read_but_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (early, first), (late, second) = make_blocks(2).items()
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)
    assert cache.put(early, first)
    cache.close()
    assert not cache.put(late, second)
    assert cache.put_all([(late, second)]) == [False]
    assert cache.get(early) == first
    assert cache.get(late) is None
    assert "dvfs-cache" not in [thread.name for thread in threading.enumerate()]
    assert not list((tmp_path / "sessions").iterdir())
    assert caplog.messages == []
    cache.close()


def test_last_use_outlives_the_process(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    digests = list(filled)
    os.utime(block_path(tmp_path, digests[0]))
    clock = SteppingClock()
    clock._ns *= 4  # later than the wall clock that `filled` was written by
    reader = Cache(tmp_path, budget_bytes=4 * SMALL, reserve_bytes=0, clock=clock)
    for digest in digests[:2]:
        assert reader.get(digest)
    reader.close()
    with open_cache(tmp_path, 2 * SMALL + SMALL // 2) as cache:
        cache.settle()
        assert [cache.has(digest) for digest in digests] == [True, True, False, False]


def test_a_budget_of_nothing_stores_nothing_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = noise(SMALL)
    with open_cache(tmp_path, 0) as cache:
        assert not cache.put(block_digest(data), data)
        assert cache.get(block_digest(data)) is None
    assert lines(caplog) == []


def test_a_disk_short_of_its_reserve_is_given_back(
    tmp_path: Path, filled: dict[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with open_cache(tmp_path, 1 << 30, reserve_bytes=1 << 60) as cache:
        assert cache.info().blocks == 0
        data = noise(SMALL, 99)
        assert not cache.put(block_digest(data), data)
        assert not cache.put(block_digest(data), data)
    assert len(lines(caplog)) == 1
    assert str(tmp_path) in lines(caplog)[0]


def test_processes_that_evict_at_once_agree(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(CacheProcess("put", tmp_path, seed=seed, count=60, budget=8 * SMALL)) for seed in (1, 2)
        ]
        assert [process.answer() for process in started] == [{"stored": 60}] * 2
        assert [process.wait() for process in started] == [0, 0]
    with open_cache(tmp_path, 8 * SMALL) as cache:
        info = cache.info()
        assert info.bytes <= 8 * SMALL
        report = cache.verify()
        assert (report.damaged, report.strays) == ((), 0)
        assert report.blocks <= info.blocks  # one that both knew may be noted after the other has evicted it
        assert cache.info().blocks == report.blocks


# -- the index


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database, by far" * 100)


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = noise(len(data) - 4096)
    path.write_bytes(data)


def damage_schema(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("DROP TABLE total")
    db.commit()
    db.close()


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_header, damage_middle, damage_schema, remove])
def test_a_lost_index_is_made_anew_from_the_files(
    tmp_path: Path, filled: dict[bytes, bytes], caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    damage(tmp_path / "index.sqlite")
    with open_cache(tmp_path) as cache:
        assert cache.info().blocks == 4
        assert all(cache.get(digest) == data for digest, data in filled.items())
    assert len(lines(caplog)) == (damage is not remove)
    with open_cache(tmp_path) as cache:
        assert cache.info().bytes == 4 * SMALL


def test_an_index_removed_under_a_running_process_is_made_anew(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    with open_cache(tmp_path) as cache:
        assert cache.info().blocks == 4
        (tmp_path / "index.sqlite").unlink()
        data = noise(SMALL, 77)
        assert cache.put(block_digest(data), data)
        assert cache.info().blocks == 5


def test_without_an_index_file_the_cache_works_and_the_budget_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index.sqlite").mkdir()
    (tmp_path / "index.sqlite" / "x").touch()
    blocks = make_blocks(10)
    with open_cache(tmp_path, 4 * SMALL) as cache:
        for digest, data in blocks.items():
            assert cache.put(digest, data)
        assert cache.info().bytes <= 4 * SMALL
    assert len(list((tmp_path / "blocks").glob("*/*"))) <= 4
    assert len(lines(caplog)) == 1


def test_a_locked_index_stops_nobody(tmp_path: Path, filled: dict[bytes, bytes]) -> None:
    other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache = Cache(tmp_path, budget_bytes=1 << 30, reserve_bytes=0)
    cache._keeper._index._busy_seconds = 0.01
    blocks = make_blocks(3, seed=5)
    for digest, data in blocks.items():
        assert cache.put(digest, data)
        assert cache.get(digest) == data
    cache.settle()
    other.execute("ROLLBACK")
    other.close()
    assert cache.info().blocks == 7
    cache.close()


# -- disks that are full or read-only


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[str]:
    """Have a disk at *path* on which one block of 64 KiB and the rest of a cache find room, but not 16 blocks."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=640k", "none", str(path)]
    if os.geteuid() == 0 and subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0:
        try:
            yield "tmpfs"
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL - 1, before[1]))
    try:
        yield "limit"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stores_no_more_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocks = make_blocks(16)
    root = tmp_path / "disk"
    with full_disk(root), open_cache(root, 1 << 30) as cache:
        stored = {digest for digest, data in blocks.items() if cache.put(digest, data)}
        assert len(stored) < 16
        assert {digest for digest in blocks if cache.get(digest) == blocks[digest]} == stored
        assert not unfinished(root)
        puts = [line for line in lines(caplog) if "cannot store" in line]
        assert len(puts) == 1
        assert str(root) in puts[0]
        cache.clear()


def test_a_file_size_limit_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = noise(SMALL)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_cache(tmp_path) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL // 2, before[1]))
        try:
            assert not cache.put(block_digest(data), data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not unfinished(tmp_path)
        assert cache.put(block_digest(data), data)
    assert len(lines(caplog)) == 1


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let nobody write below *path*, root included where root may mount."""
    bound = os.geteuid() == 0 and not subprocess.run(["mount", "--bind", str(path), str(path)], check=False).returncode
    if bound:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
    else:
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o500)
    try:
        yield
    finally:
        if bound:
            subprocess.run(["umount", "-l", str(path)], check=True)
        else:
            for folder, _, _ in os.walk(path):
                os.chmod(folder, 0o700)


def test_a_read_only_folder_serves_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "cache"
    blocks = make_blocks(2)
    with open_cache(root) as cache:
        for digest, data in blocks.items():
            assert cache.put(digest, data)
    (root / "tmp" / "0" / "123456789abcdef-0").write_bytes(b"left")
    with read_only(root), open_cache(root) as cache:
        assert all(cache.get(digest) == data for digest, data in blocks.items())
        data = noise(SMALL, 50)
        for _ in range(3):
            with cache.fetching(block_digest(data)):
                assert not cache.put(block_digest(data), data)
        assert cache.info().blocks == 2
    assert len([line for line in lines(caplog) if "cannot store" in line]) == 1
    assert len(lines(caplog)) == len(set(lines(caplog)))


def test_a_folder_that_cannot_be_made_serves_nothing_and_fails_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    data = noise(SMALL)
    with open_cache(tmp_path / "file" / "cache") as cache:
        with cache.fetching(block_digest(data)):
            assert cache.get(block_digest(data)) is None
            assert not cache.put(block_digest(data), data)
        assert cache.info().blocks == 0
        assert cache.verify().blocks == 0
        cache.clear()
    assert lines(caplog)


# -- one fetch for each block


def test_fetching_excludes_other_threads_and_other_caches(tmp_path: Path) -> None:
    clock = SteppingClock()
    one = Cache(tmp_path, budget_bytes=1 << 30, lock_wait_seconds=1, clock=clock)
    two = Cache(tmp_path, budget_bytes=1 << 30, lock_wait_seconds=1, clock=clock)
    digest, other = bytes(32), bytes(31) + b"\x01"
    with one.fetching(digest) as held:
        assert held
        for cache in (one, two):
            with cache.try_fetching(digest) as taken:
                assert not taken
            before = clock.slept
            with cache.fetching(digest) as taken:
                assert not taken
            assert 1 <= clock.slept - before < 1.1
        with two.fetching(block_digest(other)) as taken:
            assert taken
    with two.try_fetching(digest) as taken:
        assert taken
    one.close()
    two.close()


def test_who_waits_gets_its_turn(tmp_path: Path) -> None:
    digest = bytes(32)
    with open_cache(tmp_path) as cache:
        entered = threading.Event()
        order: list[str] = []

        def second() -> None:
            entered.set()
            with cache.fetching(digest) as held:
                order.append(f"second {held}")

        with cache.fetching(digest):
            thread = threading.Thread(target=second)
            thread.start()
            entered.wait()
            order.append("first")
        thread.join()
        assert order == ["first", "second True"]


def test_a_stopped_process_is_waited_for_a_bounded_time_and_a_dead_one_not_at_all(tmp_path: Path) -> None:
    refs = store_blocks(MemoryBackend(), [noise(SMALL)])
    clock = SteppingClock()
    cache = Cache(tmp_path, budget_bytes=1 << 30, lock_wait_seconds=2, clock=clock)
    with CacheProcess("hold", tmp_path, refs=refs) as holder:
        assert holder.answer() == {"held": True}
        os.kill(holder.pid, signal.SIGSTOP)
        with cache.fetching(refs[0].digest) as held:
            assert not held
        assert clock.slept < 2.1
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with cache.fetching(refs[0].digest) as held:
            assert held
        assert clock.slept < 2.1
    cache.close()


def test_a_cache_made_before_a_fork_serves_the_children(tmp_path: Path) -> None:
    with CacheProcess("fork", tmp_path) as process:
        assert process.answer() == {"failed": 0}
    with open_cache(tmp_path) as cache:
        assert cache.info().blocks == 2


def test_what_is_written_is_spread_over_folders_far_from_each_other(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for digest, data in make_blocks(32).items():
            assert cache.put(digest, data)
    folders = [path for path in (tmp_path / "tmp").iterdir() if path.is_dir()]
    assert len(folders) == 16
    if shutil.which("lsattr") and file_system_of(tmp_path) == "ext4":
        shown = subprocess.run(["lsattr", "-d", str(tmp_path / "tmp")], capture_output=True, text=True, check=True)
        assert "T" in shown.stdout.split()[0]


def test_folders_of_a_new_cache_are_made_once_before_blocks_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(tmp_path) as cache:
        (tmp_path / "blocks" / "07").mkdir(parents=True)  # somebody was faster
        cache.make_folders()
        assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == [f"{n:02x}" for n in range(256)]
        blocks = list(make_blocks(40).items())
        assert all(cache.put(*block) for block in blocks[:16])  # makes those of temporary files, and all else
        monkeypatch.setattr(os, "mkdir", None)
        assert all(cache.put(*block) for block in blocks[16:])
        cache.make_folders()


def test_folders_that_cannot_be_made_beforehand_are_made_when_they_can(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        (tmp_path / "blocks").write_text("in the way")
        cache.make_folders()
        (tmp_path / "blocks").unlink()
        assert all(cache.put(*block) for block in make_blocks(4).items())


def file_system_of(path: Path) -> str:
    """Return the type of the file system that *path* is on."""
    shown = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True)
    return shown.stdout.strip().replace("ext2/ext3", "ext4")
