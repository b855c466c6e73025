"""Which files are made ready after they were looked up: a view and a shim that are fakes, blocks that are files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import cast

import pytest

from dvfs.fs.ready import IDLE_LOOKUPS, JUDGED_FILES, ReadyFiles
from dvfs.fs.view import Attributes, File, NowaitView
from dvfs.fs.zeroopen import READY_BYTES, READY_FILES
from dvfs.store.block import BlockRef, Codec
from dvfs.store.cache_open import OpenBlock, OpenFile
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import Corrupt
from dvfs.store.ids import PackId

SIZE = 1000


class Shim:
    """*ready*: what it was told, by place; *read* gives a file to who reads it, as the shim does."""

    def __init__(self) -> None:
        self.ready: dict[int, tuple[int, int, int, int]] = {}
        self._given: list[int] = []

    def make_ready(self, inode: int, fd: int, start: int, size: int) -> None:
        self.ready[inode % READY_FILES] = inode, fd, start, size

    def given(self) -> list[int]:
        given, self._given = self._given, []
        return given

    def read(self, inode: int) -> bytes | None:
        if self.ready.get(inode % READY_FILES, (0,))[0] != inode:
            return None
        _, fd, start, size = self.ready.pop(inode % READY_FILES)
        self._given.append(inode)
        return os.pread(fd, size, start)


class View:
    """Each inode is a file of `SIZE` bytes, in a block of its own from byte 7 on; *errors*: of those that are not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.errors: dict[int, Exception] = {}
        self.missing: set[int] = set()
        self.asked: list[int] = []
        self.paths: dict[int, Path] = {}

    def place(self, inode: int) -> tuple[File, OpenBlock, int] | None:
        self.asked.append(inode)
        if inode in self.errors:
            raise self.errors[inode]
        if inode in self.missing:
            return None
        path = self.paths.setdefault(inode, self._folder / f"{inode}")
        path.write_bytes(bytes(7) + self.contents(inode))
        block = OpenBlock(OpenFile(os.open(path, os.O_RDONLY)), SIZE + 7, b"row")
        return File(inode - 1, SIZE, ()), block, 7

    @staticmethod
    def contents(inode: int) -> bytes:
        return inode.to_bytes(4, "big") * (SIZE // 4)


class Kit:
    def __init__(self, folder: Path) -> None:
        self.shim = Shim()
        self.view = View(folder)
        self.noted: list[tuple[int, int]] = []
        self.ready = ReadyFiles(
            self.shim, cast("NowaitView", self.view), lambda inode, file, block: self.noted.append((inode, file.size))
        )

    def look_up(self, inode: int, size: int = SIZE, mode: int = stat.S_IFREG | 0o644) -> None:
        self.ready.looked_up(Attributes(inode, mode, size, 0))


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_a_file_that_was_looked_up_is_read_once_without_python(kit: Kit) -> None:
    kit.look_up(5)
    assert kit.shim.read(5) == View.contents(5)
    assert kit.shim.read(5) is None
    assert kit.noted == []
    kit.ready.catch_up()
    kit.ready.catch_up()
    assert kit.noted == [(5, SIZE)]
    assert kit.ready.given == 1


@pytest.mark.parametrize(
    ("size", "mode"),
    [(0, stat.S_IFREG), (READY_BYTES + 1, stat.S_IFREG), (SIZE, stat.S_IFDIR), (SIZE, stat.S_IFLNK)],
)
def test_only_small_files_are_made_ready(kit: Kit, size: int, mode: int) -> None:
    kit.look_up(5, size, mode)
    assert kit.view.asked == []
    assert kit.shim.ready == {}


def test_what_is_not_at_hand_is_left_to_the_reader(kit: Kit) -> None:
    kit.view.errors = {
        1: NotCached(BlockRef(0, PackId(bytes(24)), 0, 1, 1, Codec.RAW, bytes(32))),
        2: Corrupt("its leaf is damaged"),
    }
    kit.view.missing = {3}
    for inode in (1, 2, 3):
        kit.look_up(inode)
    assert kit.shim.ready == {}


def test_another_file_in_its_place_does_not_take_what_was_read(kit: Kit) -> None:
    kit.look_up(5)
    assert kit.shim.read(5) == View.contents(5)
    kit.look_up(5 + READY_FILES)
    assert kit.noted == [(5, SIZE)]
    assert kit.shim.read(5 + READY_FILES) == View.contents(5 + READY_FILES)
    kit.ready.catch_up()
    assert kit.noted == [(5, SIZE), (5 + READY_FILES, SIZE)]


def test_a_file_stays_open_as_long_as_it_may_be_read(kit: Kit) -> None:
    kit.look_up(5)
    kit.view.paths[5].unlink()
    assert kit.shim.read(5) == View.contents(5)
    before = len(os.listdir("/proc/self/fd"))
    kit.ready.catch_up()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    kit.look_up(6)
    kit.look_up(6 + READY_FILES)  # nobody read the one before
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_few_are_read_few_are_made_ready(kit: Kit) -> None:
    for inode in range(1, 10 * IDLE_LOOKUPS + 1):
        kit.look_up(inode)
    assert len(kit.view.asked) <= 10 * IDLE_LOOKUPS * JUDGED_FILES / (IDLE_LOOKUPS + JUDGED_FILES) + JUDGED_FILES


def test_where_most_are_read_all_are_made_ready(kit: Kit) -> None:
    for inode in range(1, 10 * JUDGED_FILES + 1):
        kit.look_up(inode)
        if inode % 4:
            assert kit.shim.read(inode) is not None
    assert len(kit.view.asked) == 10 * JUDGED_FILES
