"""The log: what was appended is replayed, up to the first record that is not whole or not next."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.fs.overlay.log import RESERVE_BYTES, Log, Statement
from dvfs.store.errors import NoSpace, Unavailable

ONE: list[Statement] = [(0, (1, b"one", None))]
TWO: list[Statement] = [(3, (2, b"\0" * 50, -5)), (4, (1 << 62,))]


@contextmanager
def opened(path: Path, serial: int = 0) -> Iterator[Log]:
    log = Log(path, serial)
    try:
        yield log
    finally:
        log.close()


def replayed(path: Path, serial: int = 0) -> list[list[Statement]]:
    with opened(path, serial) as log:
        return list(log.replay())


def flip(log: Log, start: int, stop: int) -> None:
    """Have other bytes from *start* to before *stop*."""
    found = os.pread(log.fileno(), stop - start, start)
    os.pwrite(log.fileno(), bytes(byte ^ 0xFF for byte in found), start)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_changes_come_back_in_order(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
        log.append(TWO)
        log.append([])

    assert replayed(path) == [ONE, TWO, []]


def test_after_replay_appending_goes_on(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
    with opened(path) as log:
        assert list(log.replay()) == [ONE]
        log.append(TWO)
        assert log.serial == 2

    assert replayed(path) == [ONE, TWO]


@pytest.mark.parametrize("lost", [1, 10, 60])
def test_a_torn_record_ends_the_reading(path: Path, lost: int) -> None:
    with opened(path) as log:
        log.append(ONE)
        log.append(TWO)
        end = log.bytes
        flip(log, end - lost, end)

    with opened(path) as log:
        assert list(log.replay()) == [ONE]
        log.append(ONE)
    assert replayed(path) == [ONE, ONE]


def test_a_file_cut_off_ends_the_reading(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
        log.append(TWO)
        end = log.bytes
    for size in range(end):
        os.truncate(path, size)
        assert replayed(path) in ([], [ONE])
        os.truncate(path, end)
    assert replayed(path) == []


def test_old_records_behind_new_ones_do_not_count(path: Path) -> None:
    with opened(path) as log:
        for _ in range(3):
            log.append(ONE)
        log.restart()
        log.append(ONE)  # as long as the old one: the old second follows
        assert log.bytes < 100

    assert replayed(path, 3) == [ONE]


def test_records_that_the_database_holds_are_not_replayed(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
        log.append(TWO)

    assert replayed(path, 2) == []


def test_rewound_it_replays_what_the_database_lost(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
        log.restart()
        log.append(TWO)
        log.append(ONE)
        log.rewind(1)
        assert list(log.replay()) == [TWO, ONE]
        assert log.serial == 3


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.tuples(st.binary(max_size=90)))), max_size=20), st.data())
def test_of_a_log_that_is_damaged_from_anywhere_on_the_beginning_counts(
    changes: list[list[Statement]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with opened(path) as log:
            ends = []
            for change in changes:
                log.append(change)
                ends.append(log.bytes)
            start = data.draw(st.integers(0, log.bytes))
            flip(log, start, log.bytes)

        assert replayed(path) == changes[: sum(end <= start for end in ends)]


def test_sync_tells_what_a_power_cut_leaves(path: Path) -> None:
    with opened(path) as log:
        log.append(ONE)
        assert log.synced == 0
        log.sync()
        log.append(ONE)
        assert log.synced == 1
        log.restart()
        assert log.synced == 2


class Disk:
    """Refuses to allocate while `full`; *number* is the errno."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
        self.full = False
        self._allocate = os.posix_fallocate
        self._errno = number
        patch.setattr(os, "posix_fallocate", self._refuse)

    def _refuse(self, handle: int, start: int, length: int) -> None:
        if self.full:
            raise OSError(self._errno, os.strerror(self._errno))
        self._allocate(handle, start, length)


def append_until_refused(log: Log, change: list[Statement], *, removes: bool) -> int:
    """Append *change* until there is no space; return how often it was done."""
    for number in range(1000):
        try:
            log.append(change, removes=removes)
        except NoSpace:
            return number
    raise AssertionError("there is room without end")


def test_on_a_full_disk_the_reserve_is_for_removals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    change: list[Statement] = [(0, (bytes(10_000),))]
    with opened(path) as log:
        log.append(change)
        disk.full = True
        appended = 1 + append_until_refused(log, change, removes=False)
        used = log.bytes
        removed = append_until_refused(log, change, removes=True)
        assert log.bytes - used > RESERVE_BYTES - 20_000
        assert log.serial == appended + removed
        disk.full = False
        log.append(ONE)

    assert replayed(path) == [*[change] * (appended + removed), ONE]


def test_a_disk_that_fails_otherwise_is_said_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, errno.EIO)
    with opened(path) as log:
        disk.full = True
        with pytest.raises(Unavailable, match="Input/output error"):
            log.append(ONE)
        assert log.serial == log.bytes == 0


def test_a_record_that_outlived_the_one_before_it_is_not_taken_for_the_next(path: Path) -> None:
    log = Log(path, 0)
    ends = []
    for word in (b"first", b"lost!", b"third"):
        log.append([(0, (word,))])
        ends.append(log.bytes)
    log.close()
    whole = path.read_bytes()
    with path.open("r+b") as file:  # a power cut took the second record alone
        file.seek(ends[0])
        file.write(bytes(ends[1] - ends[0]))
    log = Log(path, 0)
    assert list(log.replay()) == [[(0, (b"first",))]]
    log.append([(0, (b"again",))])
    assert log.bytes == ends[1]
    log.close()
    assert path.read_bytes()[ends[1] : ends[2]] == whole[ends[1] : ends[2]]
    log = Log(path, 0)
    assert list(log.replay()) == [[(0, (b"first",))], [(0, (b"again",))]]
    log.close()
