"""What a mount tells of itself: counted as it is read, and in time even when its store or its daemon is not."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.fs.asking import Asked
from dvfs.fs.diagnosis import diagnose
from dvfs.fs.figures import Waits
from dvfs.store.cache import Cache
from dvfs.store.errors import NotFound, Unavailable
from dvfs.store.stalls import Cause
from tests.catalog_model import TINY
from tests.fs.made_version import Made
from tests.mount.conftest import Mounter
from tests.mount_kit import FILE_BYTES, NONE_IS_LARGE, asked, figures, files_of_20_kb, read_in_order
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING
from tests.waiting import wait_until

DELAY = 0.05
MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return files_of_20_kb(tmp_path / "source", 100)


@pytest.fixture
def made(mounter: Mounter, source: Path) -> Made:
    return mounter.make(source, cutting=SMALL_CUTTING, pack_bytes=256 << 10, tail_bytes=0)


def causes(waits: Waits) -> dict[Cause, float]:
    return {cause: waits.of(cause) for cause in Cause}


def read_uncached(path: Path, at: int = 0, length: int = FILE_BYTES) -> bytes:
    """Read *path* without the page cache of its mount."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(handle, length, at)
    finally:
        os.close(handle)


def test_reads_are_counted_with_what_they_got(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    with asked(mounted, mounted.directory / "d3") as told:
        before = told.figures()
        assert (before.reads.count, before.reads.bytes, before.reads.waited) == (0, 0, 0)
        for number in range(30, 34):
            read_uncached(mounted.directory / f"d3/f{number}")
        cold = told.figures() - before
        assert cold.reads.bytes == 4 * FILE_BYTES
        assert cold.reads.count == cold.requests["read"] >= 4
        assert 1 <= cold.reads.waited == cold.reads.latencies.count <= cold.reads.count
        assert cold.store.count >= cold.reads.waited
        assert cold.store.bytes >= 4 * FILE_BYTES
        assert cold.store.latencies.count == cold.store.count
        assert (cold.store.ahead_bytes, cold.store.now, cold.prefetch.mode) == (0, 0, "none")
        assert cold.blocks.missed_bytes >= FILE_BYTES

        between = told.figures()
        for number in range(30, 34):
            read_uncached(mounted.directory / f"d3/f{number}")
        warm = told.figures() - between
        assert warm.reads.bytes == warm.blocks.memory_bytes == 4 * FILE_BYTES
        assert (warm.reads.waited, warm.waits.count, warm.waits.seconds) == (0, 0, 0)
        assert (warm.store.count, warm.blocks.misses) == (0, 0)
        assert warm.cache.version_bytes == 100 * FILE_BYTES
        assert warm.cache.budget_bytes == 1 << 30


def test_a_slow_store_is_the_network(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, told={"delay_seconds": DELAY})
    names = [mounted.directory / f"d{number}/f{number}0" for number in range(1, 9)]
    for name in names:
        name.lstat()
    before = figures(mounted)
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert {len(data) for data in pool.map(read_uncached, names)} == {FILE_BYTES}
    took = time.monotonic() - began
    found = figures(mounted) - before
    parts = causes(found.waits)
    assert parts[Cause.NETWORK] >= 8 * DELAY
    assert parts[Cause.DECOMPRESSION] > 0
    assert parts[Cause.CATALOG] == 0
    assert sum(parts.values()) == pytest.approx(found.waits.seconds)
    assert found.waits.seconds <= 4 * took
    assert 2 * DELAY <= found.waits.some_seconds <= took
    assert found.store.count == 8
    assert found.store.latencies.quantile(0.5) >= DELAY / 2
    assert found.reads.latencies.max_seconds >= DELAY
    assert diagnose(found)[0].kind == "network"


def test_a_slow_store_is_the_catalog_for_names(mounter: Mounter, source: Path) -> None:
    made = mounter.make(source, boundaries=TINY, tail_bytes=0)
    mounted = mounter(made, told={"delay_seconds": DELAY})
    before = figures(mounted)
    assert len(os.listdir(mounted.directory / "d7")) == 10
    found = figures(mounted) - before
    parts = causes(found.waits)
    assert parts[Cause.CATALOG] >= DELAY
    assert parts[Cause.CATALOG] == pytest.approx(found.waits.seconds, rel=0.2)
    assert found.reads.waited == 0
    assert diagnose(found)[0].kind == "catalog"


def test_a_lock_that_another_process_holds_is_the_queue(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, prefetch="auto")
    name = mounted.directory / "d5/f50"
    name.lstat()
    look = Cache(mounter.folder / "look", budget_bytes=1 << 30, reserve_bytes=0)
    version = made.open(look)
    entry = version.tree.find(b"d5/f50")
    assert entry is not None
    block = next(version.blocks(entry[1]))
    version.close()
    look.close()
    neighbour = Cache(mounter.folder / "cache", budget_bytes=1 << 30, reserve_bytes=0)
    before = figures(mounted)
    with ThreadPoolExecutor(1) as pool:
        with neighbour.fetching(block.digest) as held:
            assert held
            reading = pool.submit(read_uncached, name)
            wait_until(lambda: figures(mounted).waits.now == 1)
            time.sleep(DELAY)  # what the read waits for
            while_waiting = figures(mounted) - before
        assert reading.result() == noise(FILE_BYTES, 50)
    neighbour.close()
    after = figures(mounted) - before
    assert (while_waiting.waits.now, while_waiting.reads.waited, after.waits.now) == (1, 1, 0)
    assert while_waiting.waits.longest_now_seconds >= DELAY
    assert DELAY <= while_waiting.waits.queue_seconds <= after.waits.queue_seconds
    assert after.waits.queue_seconds > after.waits.seconds / 2


def test_reading_in_order_is_measured_too(mounter: Mounter, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(noise(48 * MIB, 1))
    made = mounter.make(tmp_path / "source")
    mounted = mounter(made, told={"delay_seconds": DELAY}, prefetch="auto", large_file_bytes=NONE_IS_LARGE)
    before = figures(mounted)
    began = time.monotonic()
    read_in_order(mounted.directory / "big")
    took = time.monotonic() - began
    found = figures(mounted) - before
    assert found.reads.bytes == 48 * MIB
    assert 0 < found.store.ahead_bytes <= found.store.bytes
    assert found.waits.network_seconds >= DELAY
    assert found.waits.some_seconds <= took
    assert sum(causes(found.waits).values()) == pytest.approx(found.waits.seconds)
    assert found.waits.other_seconds < found.waits.seconds / 2
    mounted.umount()

    again = mounter(made, prefetch="auto", large_file_bytes=NONE_IS_LARGE)
    read_in_order(again.directory / "big")
    assert (reads := figures(again).reads).bytes == 48 * MIB
    assert reads.from_stretches > 10


@pytest.mark.parametrize("zero_open", [True, False])
def test_edits_that_need_the_version_wait_too(mounter: Mounter, made: Made, zero_open: bool) -> None:
    """A part of a page is written: the kernel reads the rest, or, if it holds nothing back, the daemon does."""
    told = {"overlay": str(mounter.folder / "overlay"), "delay_seconds": DELAY}
    mounted = mounter(made, told=told, writable=True, zero_open=zero_open)
    for name in ("d2/f20", "d4/f40"):
        (mounted.directory / name).lstat()
    first = figures(mounted)
    with (mounted.directory / "d2/f20").open("r+b", buffering=0) as file:
        file.seek(100)
        file.write(b"x")
        os.fsync(file.fileno())
    second = figures(mounted)
    read_uncached(mounted.directory / "d4/f40")
    third = figures(mounted)
    assert ((second - first).reads.waited > 0) is zero_open
    for found in (second - first, third - second):
        assert found.waits.network_seconds >= DELAY
        assert sum(causes(found.waits).values()) == pytest.approx(found.waits.seconds)
    assert (third - second).reads.bytes >= FILE_BYTES


def test_asking_costs_no_request_and_no_message(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    read_uncached(mounted.directory / "d1/f10")
    first = figures(mounted)
    with asked(mounted) as told:
        for _ in range(20):
            last = told.figures()
    assert (last.requests, last.answered_by_shim) == (first.requests, first.answered_by_shim)
    assert (last.store, last.reads, last.waits) == (first.store, first.reads, first.waits)


def _flat(value: object, name: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {key: number for part, item in value.items() for key, number in _flat(item, f"{name}.{part}").items()}
    if isinstance(value, list | tuple):
        return _flat(dict(enumerate(value)), name)
    return {name: value} if isinstance(value, int | float) else {}


NOW = (".prefetch", ".cache", ".now", ".longest_now_seconds", ".parallel", ".zero_open")


def test_counters_never_go_back_and_many_may_ask_at_once(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, told={"delay_seconds": 0.002})
    is_over = threading.Event()

    def look() -> int:
        looks = 0
        with asked(mounted) as told:
            last: dict[str, float] = {}
            while not is_over.is_set():
                now = _flat(told.figures().to_message())
                back = {key for key, number in last.items() if now.get(key, 0) < number}
                assert {key for key in back if not any(word in key for word in NOW)} == set()
                last = now
                looks += 1
        return looks

    with ThreadPoolExecutor(6) as pool:
        lookers = [pool.submit(look) for _ in range(2)]
        try:
            names = [mounted.directory / f"d{number // 10}/f{number:02}" for number in range(100)]
            assert {len(data) for data in pool.map(read_uncached, names)} == {FILE_BYTES}
        finally:
            is_over.set()
        assert min(looker.result() for looker in lookers) > 5


def test_a_store_that_hangs_is_told_of_while_it_does(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    name = mounted.directory / "d6/f60"
    name.lstat()
    mounted.hanging.touch()
    with asked(mounted) as told, ThreadPoolExecutor(1) as pool:
        before = told.figures()
        reading = pool.submit(read_uncached, name)
        wait_until(lambda: (told.figures() - before).waits.network_seconds >= 2 * DELAY)
        found = told.figures() - before
        assert (found.waits.now, found.store.now, found.store.latencies.count) == (1, 1, 0)
        assert diagnose(found)[0].kind == "store_unanswered"
        mounted.hanging.unlink()
        assert len(reading.result()) == FILE_BYTES


def test_a_daemon_that_is_stopped_does_not_keep_who_asks(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    with asked(mounted, answer_seconds=0.2) as told:
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"does not answer within 0\.2 s"):
                told.figures()
            with asked(mounted, answer_seconds=0.2) as again, pytest.raises(Unavailable, match="does not answer"):
                again.figures()
            assert time.monotonic() - began < 10
        finally:
            os.kill(mounted.pid, signal.SIGCONT)
    assert figures(mounted).seconds > 0


def test_the_end_of_a_mount_is_noticed(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    with asked(mounted) as told, ThreadPoolExecutor(1) as pool:
        assert not told.wait_end(0)
        ending = pool.submit(told.wait_end, 60)
        mounted.umount()
        assert ending.result()
        with pytest.raises(Unavailable):
            told.figures()
        assert told.has_ended()
    with pytest.raises(NotFound):
        Asked(mounted.table, mounted.directory)


def test_a_mount_whose_daemon_was_killed_does_not_answer(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made)
    mounted.kill()
    with pytest.raises(Unavailable, match="is gone"):
        Asked(mounted.table, mounted.directory)


@pytest.mark.parametrize("zero_open", [True, False])
def test_opens_are_told_of(mounter: Mounter, made: Made, zero_open: bool) -> None:
    mounted = mounter(made, zero_open=zero_open)
    for number in range(40):
        (mounted.directory / f"d1/f1{number % 10}").read_bytes()
    found = figures(mounted)
    assert found.daemon.zero_open is zero_open
    assert (found.requests.get("open", 0) >= 40) is not zero_open
    assert 0 < found.daemon.loop_cpu_seconds <= found.daemon.cpu_seconds
