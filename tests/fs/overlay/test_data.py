"""Data files: shared while in use, closed when not used lately, removed when nothing can bring them back."""

from __future__ import annotations

import os
from pathlib import Path

from dvfs.fs.overlay.data import DataFiles, cell_range
from dvfs.fs.overlay.schema import FIRST_NEW_INODE

INO = FIRST_NEW_INODE


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_made_where_it_is_asked_for(tmp_path: Path) -> None:
    files = DataFiles(tmp_path / "data")
    assert list(files.all()) == []
    os.pwrite(files.get(INO, 1).handle, b"one", 5)
    files.get(7, 2).cells.add(0, 0)

    again = DataFiles(tmp_path / "data")
    assert os.pread(again.get(INO, 1).handle, 9, 0) == bytes(5) + b"one"
    assert again.get(7, 2).cells.has(0)
    assert set(again.all()) == {(INO, 1), (7, 2)}
    assert Path(files.path(INO, 1)).stat().st_mode & 0o777 == 0o600


def test_asking_for_a_file_does_not_make_it(tmp_path: Path) -> None:
    files = DataFiles(tmp_path / "data")
    files.get(INO, 1)
    assert list(files.all()) == []


def test_few_files_are_open_and_those_in_use_stay_so(tmp_path: Path) -> None:
    files = DataFiles(tmp_path / "data", open_files=4)
    before = open_descriptors()
    used = files.get(INO, 1)
    os.pwrite(used.handle, b"used", 0)
    for number in range(1, 50):
        os.pwrite(files.get(INO + number, 1).handle, b"%d" % number, 0)
    assert open_descriptors() <= before + 5
    os.pwrite(used.handle, b"more", 4)
    assert os.pread(files.get(INO, 1).handle, 9, 0) == b"usedmore"
    assert os.pread(files.get(INO + 3, 1).handle, 9, 0) == b"3"


def test_a_doomed_file_goes_when_the_change_is_kept(tmp_path: Path) -> None:
    files = DataFiles(tmp_path / "data")
    for number in range(3):
        assert files.get(INO + number, 1).handle >= 0
        assert files.get(INO + number, 1).cells is not None
        files.doom(INO + number, 1, 100, serial=number + 10)
    assert files.doomed == 3
    files.bury(9)
    assert len(set(files.all())) == 3
    files.bury(11)
    assert files.doomed == 1
    assert set(files.all()) == {(INO + 2, 1)}
    files.remove(INO, 1)  # it is gone already


def test_a_removed_file_is_another_when_it_is_made_again(tmp_path: Path) -> None:
    files = DataFiles(tmp_path / "data")
    os.pwrite(files.get(INO, 1).handle, b"old", 0)
    files.get(INO, 1).cells.add(0, 3)
    files.remove(INO, 1)
    assert os.pread(files.get(INO, 1).handle, 9, 0) == b""
    assert not files.get(INO, 1).cells.has(0)


def test_bytes_lie_in_cells() -> None:
    assert cell_range(0, 1) == (0, 0)
    assert cell_range(4095, 4096) == (0, 0)
    assert cell_range(4095, 4097) == (0, 1)
    assert cell_range(4096, 12288) == (1, 2)
