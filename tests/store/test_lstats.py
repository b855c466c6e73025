"""Attributes of many files in columns: as `os.stat` says, at once and in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dvfs.store import lstats as module
from dvfs.store.lstats import Columns, lstats

BEFORE_1970_NS = -1_500_000_001
FAR_NS = 4_000_000_000_123_456_789


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_bytes(b"12345")
    (tmp_path / "folder").mkdir(mode=0o751)
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "nowhere").symlink_to("x" * 300)
    os.mkfifo(tmp_path / "fifo")
    os.truncate(tmp_path / "empty", 5 << 30)
    (tmp_path / os.fsdecode(b"not\xffutf-8\n")).write_bytes(b"1")
    (tmp_path / "text").chmod(0o4755)
    os.utime(tmp_path / "text", ns=(0, BEFORE_1970_NS))
    os.utime(tmp_path / "folder", ns=(0, FAR_NS))
    opened = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def in_turn(handle: int, names: Sequence[bytes]) -> Columns:
    return module._in_turn(handle, names)


ways = pytest.mark.parametrize("ask", [lstats, in_turn])
Ask = Callable[[int, Sequence[bytes]], Columns]


def test_the_library_is_built() -> None:
    assert module._library() is not None


@ways
def test_columns_say_what_stat_says(handle: int, ask: Ask) -> None:
    names = [os.fsencode(name) for name in sorted(os.listdir(handle))]
    expected = [os.stat(name, dir_fd=handle, follow_symlinks=False) for name in names]
    modes, sizes, mtimes = ask(handle, names)
    assert modes.tolist() == [one.st_mode for one in expected]
    assert sizes.tolist() == [one.st_size for one in expected]
    assert mtimes.tolist() == [one.st_mtime_ns for one in expected]
    assert {BEFORE_1970_NS, FAR_NS} <= set(mtimes)
    assert 5 << 30 in sizes


@ways
def test_no_names_are_no_rows(handle: int, ask: Ask) -> None:
    assert [len(column) for column in ask(handle, [])] == [0, 0, 0]


@ways
def test_a_name_that_is_not_there(handle: int, ask: Ask) -> None:
    with pytest.raises(FileNotFoundError):
        ask(handle, [b"text", b"gone"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        ask(-1, [b"text"])
