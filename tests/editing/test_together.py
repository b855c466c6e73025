"""Many at once: threads that create and delete, mappings that are written, processes that lock."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.editing.conftest import Pair

_THREADS = 100


def test_threads_create_and_delete(pair: Callable[..., Pair]) -> None:
    edits = pair("mkdir d; for i in $(seq 0 99); do echo $i > d/old$i; done")

    def edit(folder: Path) -> object:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            try:
                _create_and_delete(folder / "d", number)
            except BaseException as exc:  # the test fails with it
                failed.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        return sorted(path.name for path in folder.rglob("*"))

    edits.each(edit)
    edits.check()


def _create_and_delete(folder: Path, number: int) -> None:
    mine = folder / f"d{number % 10}"
    mine.mkdir(exist_ok=True)
    for turn in range(4):
        file = mine / f"{number}-{turn}"
        with file.open("wb") as written:
            written.write(b"%d" % number * 1000)
            if turn == 1:
                file.unlink()
                assert os.fstat(written.fileno()).st_nlink == 0
        if turn == 2:
            file.rename(folder / f"{number}-moved")
        elif turn == 3:
            os.link(file, folder / f"{number}-link")
            assert file.read_bytes() == b"%d" % number * 1000
            file.unlink()
    old = folder / f"old{number}"
    old.rename(mine / old.name)
    if number % 3 == 0:
        (mine / old.name).unlink()


_SIZE = 1 << 20
_MAPPED = """
import mmap, os, random, sys
path, seed, size, writers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
choose = random.Random(seed)
with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
    for turn in range(300):
        start = choose.randrange(size // 64 // writers) * writers * 64 + seed * 64
        mapped[start : start + 64] = bytes([choose.randrange(256)]) * 64
        if turn % 100 == 99:
            mapped.flush()
"""


def test_processes_write_through_mappings(pair: Callable[..., Pair]) -> None:
    """Each writes 64 bytes here and there, in pages that the others write to as well; one does so by write(2)."""
    edits = pair(f"head -c {_SIZE} /dev/urandom > f; : > grown")
    writers = 3

    def edit(folder: Path) -> object:
        words = [sys.executable, "-c", _MAPPED, str(folder / "f")]
        others = [subprocess.Popen([*words, str(seed), str(_SIZE), str(writers)]) for seed in range(1, writers)]
        choose = random.Random(0)
        with (folder / "f").open("r+b", buffering=0) as file:
            for _ in range(300):
                file.seek(choose.randrange(_SIZE // 64 // writers) * writers * 64)
                file.write(bytes([choose.randrange(256)]) * 64)
        assert [other.wait(100) for other in others] == [0] * (writers - 1)
        with (folder / "grown").open("r+b") as grown:
            for size in (1, 5000, 12288):
                grown.truncate(size)
                with mmap.mmap(grown.fileno(), size) as mapped:
                    mapped[size - 1] = size & 0xFF
            grown.truncate(5001)
            grown.truncate(9000)
        with (folder / "f").open("rb") as read, mmap.mmap(read.fileno(), _SIZE, access=mmap.ACCESS_COPY) as mapped:
            mapped[:100] = bytes(100)
        return (folder / "f").read_bytes() == _expected(folder)

    edits.each(edit)
    edits.check()


def _expected(folder: Path) -> bytes:
    """Return what the file is for one who reads it without its page cache."""
    handle = os.open(folder / "f", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _SIZE) as buffer:
            assert os.preadv(handle, [buffer], 0) == _SIZE
            return bytes(buffer)
    finally:
        os.close(handle)


_COUNTER = """
import fcntl, os, sys
kind, path, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_RDWR)
lock = {"flock": fcntl.flock, "fcntl": fcntl.lockf}[kind]
for turn in range(turns):
    lock(file, fcntl.LOCK_EX)
    number = int(os.pread(file, 20, 0) or b"0")
    os.pwrite(file, b"%020d" % (number + 1), 0)
    lock(file, fcntl.LOCK_UN)
"""


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_processes_count_under_a_lock(pair: Callable[..., Pair], kind: str) -> None:
    edits = pair("echo 0 > count")

    def edit(folder: Path) -> object:
        words = [sys.executable, "-c", _COUNTER, kind, str(folder / "count"), "200"]
        counters = [subprocess.Popen(words) for _ in range(2)]
        assert [counter.wait(100) for counter in counters] == [0, 0]
        return (folder / "count").read_bytes()

    edits.each(edit)
    assert (edits.mounted.directory / "base" / "count").read_bytes() == b"%020d" % 400
    edits.check()


def test_locks_that_others_hold_are_refused(pair: Callable[..., Pair]) -> None:
    edits = pair("echo 0123456789 > f")

    def edit(folder: Path) -> object:
        said = []
        with (folder / "f").open("r+b") as held, (folder / "f").open("r+b") as other:
            fcntl.flock(held, fcntl.LOCK_SH)
            said.append(_refuses(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)))
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.lockf(held, fcntl.LOCK_EX, 4, 2)
            for start, length in ((0, 2), (0, 3), (5, 1), (6, 4)):
                said.append(_refused_elsewhere(folder / "f", start, length))
            whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(other, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 2, 0))
            said.append(_refuses(lambda: fcntl.fcntl(held, fcntl.F_OFD_SETLK, whole)))
        return said

    edits.each(edit)
    edits.check()


def _refuses(lock: Callable[[], object]) -> bool:
    try:
        lock()
    except BlockingIOError:
        return True
    return False


_TRY = """
import fcntl, sys
fcntl.lockf(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB, *map(int, sys.argv[2:]))
"""


def _refused_elsewhere(path: Path, start: int, length: int) -> bool:
    words = [sys.executable, "-c", _TRY, str(path), str(length), str(start)]
    return b"BlockingIOError" in subprocess.run(words, capture_output=True, check=False).stderr
