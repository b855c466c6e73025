"""Large files that the kernel reads by itself: when it does, that their bytes are right, and that nothing is left."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dvfs.fs.passthrough import DROPPED_BYTES, KEPT_BYTES
from dvfs.fs.stretches import IN_ORDER_BYTES
from dvfs.store.cache import Cache
from tests.fs.made_version import Made
from tests.mount.conftest import Mounted, Mounter
from tests.mount_kit import figures
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING
from tests.waiting import wait_until

LARGE = 128 << 10
"""From here on a file is large in these tests."""
BYTES = 600_000
FILES = 3
ORDERED_BYTES = 40 << 20
_CAP_SYS_ADMIN = 21
_CACHESTAT = 451


def contents(number: int) -> bytes:
    return noise(BYTES + 1000 * number, number)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A version of large files, of some ten blocks each, and a small one."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(FILES):
        (folder / f"f{number}").write_bytes(contents(number))
    (folder / "small").write_bytes(b"small")
    return Mounter(tmp_path_factory.mktemp("store")).make(folder, cutting=SMALL_CUTTING)


@pytest.fixture
def mounted(mounter: Mounter, made: Made) -> Mounted:
    return mounter(made, large_file_bytes=LARGE)


def kernel_passes() -> bool:
    """Tell whether this kernel lets this process hand files to it."""
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    capabilities = re.search(r"^CapEff:\s+(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert release is not None
    assert capabilities is not None
    is_first_namespace = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str((1 << 32) - 1)]
    is_new = (int(release[1]), int(release[2])) >= (6, 9)
    return is_new and is_first_namespace and int(capabilities[1], 16) >> _CAP_SYS_ADMIN & 1 == 1


PASSES = kernel_passes()


def is_passed(mounted: Mounted, read: Callable[[], object]) -> bool:
    """Tell whether *read* opens a file that the kernel reads by itself; no read comes to the daemon then."""
    before = figures(mounted).reads
    read()
    after = figures(mounted).reads
    passed = after.passed_through - before.passed_through
    assert passed in (0, 1)
    assert not passed or after.count == before.count
    return passed == 1


def wait_until_passed(mounted: Mounted, *numbers: int) -> None:
    """Read files, again and again, until the kernel reads each by itself, if it does at all."""
    for number in numbers or range(FILES):
        path, data = mounted.directory / f"f{number}", contents(number)

        def read(path: Path = path, data: bytes = data) -> None:
            with path.open("rb") as file:
                assert file.read() == data
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else it may come out of the page cache

        if PASSES:
            wait_until(functools.partial(is_passed, mounted, read))
        else:
            read()


class CacheStat(ctypes.Structure):
    """Of linux/mman.h: pages in the page cache, dirty, being written, and evicted."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "of_late"))


def kept_bytes(fd: int) -> int:
    """Return how much of the file *fd* the page cache has (cachestat, Linux 6.5)."""
    found, all_of_it = CacheStat(), (ctypes.c_uint64 * 2)(0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_CACHESTAT, fd, ctypes.byref(all_of_it), ctypes.byref(found), 0):
        raise OSError(ctypes.get_errno(), "cachestat")
    return int(found.cache) * mmap.PAGESIZE


def whole_files(mounter: Mounter, cache: str = "cache") -> list[Path]:
    return sorted((mounter.folder / cache / "files").glob("*/*"))


@contextmanager
def cache_of(mounter: Mounter, name: str = "cache") -> Iterator[Cache]:
    """The cache of the mounts, as another process has it."""
    cache = Cache(mounter.folder / name, budget_bytes=1 << 30, reserve_bytes=0)
    try:
        yield cache
    finally:
        cache.close()


def test_a_file_that_was_read_is_read_by_the_kernel(mounter: Mounter, mounted: Mounted) -> None:
    assert figures(mounted).daemon.passthrough == PASSES
    assert figures(mounted).daemon.zero_open is not PASSES
    wait_until_passed(mounted)
    assert len(whole_files(mounter)) == (FILES if PASSES else 0)
    assert {path.read_bytes() for path in whole_files(mounter)} == {contents(at) for at in range(FILES) if PASSES}
    for number in range(FILES):
        path = mounted.directory / f"f{number}"
        assert path.stat().st_size == len(contents(number))
        assert is_passed(mounted, path.read_bytes) == PASSES
    assert not is_passed(mounted, (mounted.directory / "small").read_bytes)


def test_who_opens_a_file_after_it_was_read_has_it_read_by_the_kernel(mounted: Mounted) -> None:
    """The last blocks may be on their way into the cache still: the open waits."""
    for number in range(FILES):
        path = mounted.directory / f"f{number}"
        assert path.read_bytes() == contents(number)
        assert is_passed(mounted, path.read_bytes) == PASSES


@pytest.fixture
def ordered(mounter: Mounter, tmp_path: Path) -> Made:
    """A version of one file, long enough to be read in order."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large").write_bytes(noise(ORDERED_BYTES))
    return mounter.make(tmp_path / "files", "ordered")


def test_where_pages_cost_much_what_was_read_in_order_is_in_the_page_cache_once(
    mounter: Mounter, ordered: Made
) -> None:
    """It is in the file of the cache; of the file of the mount what is read again is kept."""
    data = noise(ORDERED_BYTES)
    mounted = mounter(ordered, prefetch="auto", told={"costly_write_ns": 0})
    path = mounted.directory / "large"
    with path.open("rb", buffering=0) as file:
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == data
        if PASSES:
            wait_until(lambda: kept_bytes(file.fileno()) < KEPT_BYTES + IN_ORDER_BYTES + 2 * DROPPED_BYTES)
            assert kept_bytes(file.fileno()) > 0
        for _ in range(2):
            file.seek(0)
            assert file.readall() == data
            assert not PASSES or kept_bytes(file.fileno()) >= ORDERED_BYTES - DROPPED_BYTES
    if PASSES:
        assert is_passed(mounted, path.read_bytes)
        with path.open("rb") as file:
            wait_until(lambda: kept_bytes(file.fileno()) == 0)
    assert path.read_bytes() == data


def test_where_pages_cost_little_what_was_read_in_order_is_kept_until_the_kernel_reads_it(
    mounter: Mounter, ordered: Made
) -> None:
    mounted = mounter(ordered, prefetch="auto", told={"costly_write_ns": 1 << 60})
    path = mounted.directory / "large"
    with path.open("rb", buffering=0) as file:
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == noise(ORDERED_BYTES)
        assert not PASSES or kept_bytes(file.fileno()) >= ORDERED_BYTES - DROPPED_BYTES
    if PASSES:
        assert is_passed(mounted, path.read_bytes)
        with path.open("rb") as file:
            wait_until(lambda: kept_bytes(file.fileno()) == 0)


def test_what_the_kernel_reads_is_right_in_every_way_of_reading(mounted: Mounted) -> None:
    wait_until_passed(mounted, 1)
    data = contents(1)
    rng = random.Random(1)
    with (mounted.directory / "f1").open("rb", buffering=0) as file:
        for _ in range(50):
            start, length = rng.randrange(len(data) + 100), rng.randrange(1, 100_000)
            assert os.pread(file.fileno(), length, start) == data[start : start + length]
        assert file.seek(-10, os.SEEK_END) == len(data) - 10
        assert file.read(100) == data[-10:]
        assert file.read(1) == b""
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.pwrite(file.fileno(), b"x", 0)
    copied = os.memfd_create("copied")
    try:
        with (mounted.directory / "f1").open("rb") as file:
            assert os.sendfile(copied, file.fileno(), 0, 100_000) == 100_000
        assert os.pread(copied, 100_000, 0) == data[:100_000]
    finally:
        os.close(copied)


def test_who_opens_it_directly_may_read_from_any_byte_on(mounted: Mounted) -> None:
    wait_until_passed(mounted, 0)
    fd = os.open(mounted.directory / "f0", os.O_RDONLY | os.O_DIRECT)
    try:
        assert os.pread(fd, 1001, 33) == contents(0)[33:1034]
        assert not is_passed(mounted, (mounted.directory / "f0").read_bytes)
    finally:
        os.close(fd)
    assert is_passed(mounted, (mounted.directory / "f0").read_bytes) == PASSES


def test_what_is_open_through_the_daemon_stays_so(mounted: Mounted) -> None:
    path = mounted.directory / "f0"
    with path.open("rb") as first, mmap.mmap(first.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        first.close()
        for _ in range(3):
            assert not is_passed(mounted, path.read_bytes)
        assert mapped[:] == contents(0)
    wait_until_passed(mounted, 0)
    with path.open("rb") as first:
        assert is_passed(mounted, path.read_bytes) == PASSES
        assert first.read() == contents(0)


def test_a_file_that_is_evicted_while_the_kernel_reads_it_is_read_on_and_fetched_again(
    mounter: Mounter, mounted: Mounted
) -> None:
    wait_until_passed(mounted, 0)
    path = mounted.directory / "f0"
    with path.open("rb", buffering=0) as file, cache_of(mounter) as cache:
        assert file.read(1000) == contents(0)[:1000]
        cache.clear()
        assert whole_files(mounter) == []
        assert file.read() == contents(0)[1000:]
        assert is_passed(mounted, path.read_bytes) == PASSES  # opened in the way that it is open in
    before = figures(mounted).store.count
    assert not is_passed(mounted, path.read_bytes)
    wait_until_passed(mounted, 0)
    assert not PASSES or figures(mounted).store.count > before


def test_what_was_evicted_takes_no_disk_once_it_is_here_again(mounter: Mounter, mounted: Mounted) -> None:
    wait_until_passed(mounted)
    with cache_of(mounter) as cache:
        cache.clear()
    wait_until_passed(mounted)

    def is_any_kept() -> bool:
        links = [os.readlink(link) for link in Path(f"/proc/{mounted.pid}/fd").iterdir() if link.is_symlink()]
        return any("/files/" in link and link.endswith("(deleted)") for link in links)

    wait_until(lambda: not is_any_kept())


def test_another_mount_verifies_before_it_leaves_files_to_the_kernel(mounter: Mounter, made: Made) -> None:
    first = mounter(made, large_file_bytes=LARGE)
    wait_until_passed(first)
    first.umount()
    before = sum(path.stat().st_blocks for path in whole_files(mounter))
    again = mounter(made, large_file_bytes=LARGE)
    assert not is_passed(again, (again.directory / "f0").read_bytes)
    wait_until_passed(again)
    assert figures(again).store.bytes < BYTES  # of pages
    assert sum(path.stat().st_blocks for path in whole_files(mounter)) == before


def test_damage_is_found_by_the_next_mount_and_mended(mounter: Mounter, made: Made) -> None:
    first = mounter(made, large_file_bytes=LARGE)
    wait_until_passed(first)
    first.umount()
    for path in whole_files(mounter):
        with path.open("r+b") as file:
            file.seek(len(contents(0)) // 2)
            file.write(b"damage")
    again = mounter(made, large_file_bytes=LARGE)
    first.is_noisy = again.is_noisy = True  # they write to one log
    wait_until_passed(again)
    assert {path.read_bytes() for path in whole_files(mounter)} == {contents(at) for at in range(FILES) if PASSES}


def test_a_whole_file_that_was_cut_short_is_not_handed_over(mounter: Mounter, mounted: Mounted) -> None:
    wait_until_passed(mounted)
    mounted.is_noisy = True
    for path in whole_files(mounter):
        os.truncate(path, 1000)
    for number in range(FILES):
        path = mounted.directory / f"f{number}"
        assert not is_passed(mounted, path.read_bytes)
        assert path.read_bytes() == contents(number)


def test_another_version_of_a_file_shares_its_blocks(mounter: Mounter, made: Made, tmp_path: Path) -> None:
    first = mounter(made, large_file_bytes=LARGE)
    wait_until_passed(first)
    changed = bytearray(contents(0))
    changed[BYTES // 2 : BYTES // 2 + 10] = b"0123456789"
    (tmp_path / "changed").mkdir()
    (tmp_path / "changed" / "f0").write_bytes(changed)
    other = mounter.make(tmp_path / "changed", "other", cutting=SMALL_CUTTING)
    second = mounter(other, mounter.folder / "second", large_file_bytes=LARGE)
    path = second.directory / "f0"
    assert path.read_bytes() == changed
    assert figures(second).store.bytes < BYTES // 2
    if PASSES:
        wait_until(lambda: is_passed(second, path.read_bytes))
    assert path.read_bytes() == changed
    assert (first.directory / "f0").read_bytes() == contents(0)


def test_blocks_that_were_fetched_otherwise_are_put_together(mounter: Mounter, made: Made) -> None:
    plain = mounter(made)
    for number in range(FILES):
        assert (plain.directory / f"f{number}").read_bytes() == contents(number)
    assert whole_files(mounter) == []
    plain.umount()
    with cache_of(mounter) as cache:
        before = cache.info().bytes
        mounted = mounter(made, large_file_bytes=LARGE)
        wait_until_passed(mounted)
        assert figures(mounted).store.bytes < BYTES
        after = cache.info()
        assert after.bytes < before + 64 * 4096 * FILES  # whole pages of the disk
        assert cache.verify().damaged == ()


def test_a_version_that_is_fetched_whole_lies_in_whole_files(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, large_file_bytes=LARGE, prefetch="all")
    wait_until(lambda: not figures(mounted).prefetch.wanted and figures(mounted).store.bytes > FILES * BYTES)
    wait_until(lambda: sum(path.stat().st_blocks * 512 for path in whole_files(mounter)) >= FILES * BYTES * PASSES)
    wait_until_passed(mounted)


def test_a_file_too_large_for_the_cache_is_left_to_the_daemon(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, large_file_bytes=LARGE, told={"budget_bytes": 2 * BYTES})
    for _ in range(3):
        assert not is_passed(mounted, (mounted.directory / "f0").read_bytes)
    assert whole_files(mounter) == []


@pytest.mark.parametrize("options", [{"large_file_bytes": 2 * BYTES}, {"zero_open": False}])
def test_where_files_are_small_or_all_is_plain_the_daemon_reads(
    mounter: Mounter, made: Made, options: dict[str, Any]
) -> None:
    mounted = mounter(made, **{"large_file_bytes": LARGE} | options)
    for _ in range(3):
        assert not is_passed(mounted, (mounted.directory / "f0").read_bytes)
    found = figures(mounted)
    assert (found.daemon.passthrough, found.daemon.zero_open) == (False, "zero_open" not in options)
    assert found.requests["open"] == (1 if found.daemon.zero_open else 3)


def test_a_writable_mount_reads_and_edits_what_lies_in_a_whole_file(mounter: Mounter, made: Made) -> None:
    first = mounter(made, large_file_bytes=LARGE)
    wait_until_passed(first)
    first.umount()
    edited = mounter.rw(made, large_file_bytes=LARGE)
    path = edited.directory / "f0"
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"edited")
    assert path.read_bytes() == contents(0)[:1000] + b"edited" + contents(0)[1006:]
    assert not figures(edited).daemon.passthrough
    assert {kept.read_bytes() for kept in whole_files(mounter)} == {contents(at) for at in range(FILES) if PASSES}


def test_many_open_read_and_close_while_files_are_evicted(mounter: Mounter, mounted: Mounted) -> None:
    """As the kernel sees it a file is open in one way alone, whatever is closed, evicted and fetched meanwhile."""
    over = threading.Event()
    failures: list[BaseException] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not over.is_set():
                number = rng.randrange(FILES)
                data = contents(number)
                with (mounted.directory / f"f{number}").open("rb", buffering=0) as file:
                    if rng.randrange(2):
                        assert file.readall() == data
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else nothing is fetched
                    else:
                        start = rng.randrange(len(data))
                        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                            assert mapped[start : start + 5000] == data[start : start + 5000]
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for reader in readers:
        reader.start()
    try:
        with cache_of(mounter) as cache:
            for _ in range(5):
                before = figures(mounted).reads.passed_through
                wait_until(lambda: bool(failures) or not PASSES or figures(mounted).reads.passed_through > before + 10)  # noqa: B023
                cache.clear()
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert failures == []


def test_workers_end_where_the_kernel_takes_files(mounter: Mounter, made: Made) -> None:
    """Which file is open how, one process knows."""
    mounted = mounter(made, large_file_bytes=LARGE, workers=2)
    wait_until_passed(mounted)
    wait_until(lambda: figures(mounted).daemon.workers == (1 if PASSES else 2))


def test_of_a_cache_on_an_overlay_the_kernel_takes_no_files(mounter: Mounter, made: Made, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for folder in folders.values():
        folder.mkdir()
    words = ",".join(f"{name}dir={folders[name]}" for name in ("lower", "upper", "work"))
    if PASSES:  # else nothing is left to the kernel anyway
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", words, folders["merged"]], check=True)
    try:
        mounted = mounter(made, cache=str(folders["merged"] / "cache"), large_file_bytes=LARGE)
        for _ in range(3):
            assert (mounted.directory / "f0").read_bytes() == contents(0)
        found = figures(mounted)
        assert (found.daemon.passthrough, found.daemon.zero_open) == (False, True)
        mounted.umount()
    finally:
        if PASSES:
            subprocess.run(["umount", "--lazy", folders["merged"]], check=True)
