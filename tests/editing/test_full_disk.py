"""A disk that is full under an overlay: who writes is told, no edit is lost, and room made is used again."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.made_version import Made
from tests.mount.conftest import Mounted, Mounter
from tests.store_kit import SMALL_CUTTING, tree_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a small disk")

_DISK_BYTES = 12 << 20
_MNT_DETACH = 2
_BASE = b"of the version" * 10_000


@pytest.fixture
def disk(mounter: Mounter) -> Iterator[Path]:
    """A disk of `_DISK_BYTES` for an overlay."""
    path = mounter.folder / "disk"
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={_DISK_BYTES}".encode()
    assert libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options) == 0, os.strerror(ctypes.get_errno())
    yield path
    mounter.take_all_away()
    assert libc.umount2(os.fsencode(path), _MNT_DETACH) == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def made(mounter: Mounter) -> Made:
    source = mounter.folder / "source"
    source.mkdir()
    for number in range(80):
        (source / f"base{number:02}").write_bytes(_BASE)
    return mounter.make(source, cutting=SMALL_CUTTING)


def _write(path: Path, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def _fill(step: Callable[[int], object]) -> int:
    """Call *step* with 0, 1, … until the disk is full; return how often it went well."""
    for number in range(100_000):
        try:
            step(number)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                return number
            raise
    raise AssertionError("the disk takes more than it has")


def _again(mounter: Mounter, made: Made, disk: Path, mounted: Mounted, *, kill: bool) -> Mounted:
    if kill:
        mounted.kill()
    else:
        mounted.umount()
    mounted = mounter.rw(made, overlay=disk / "overlay", state_dir=disk / "state")
    mounted.is_noisy = True
    return mounted


@pytest.mark.parametrize("kill", [False, True], ids=["umount", "kill"])
def test_data_fill_the_disk(mounter: Mounter, made: Made, disk: Path, kill: bool) -> None:
    mounted = mounter.rw(made, overlay=disk / "overlay", state_dir=disk / "state")
    mounted.is_noisy = True
    top = mounted.directory
    expected = tree_of(top)
    (top / "first").write_bytes(b"first")
    (top / "base78").rename(top / "moved")

    def edit(number: int) -> None:
        _write(top / f"new{number}", b"%03d" % number * 40_000)
        _write(top / f"base{number:02}", b"edited %03d" % number)

    count = _fill(edit)
    assert 20 < count < 70

    def check() -> None:
        found = {path: row[3] for path, row in tree_of(top).items()}
        for number in range(count):
            assert found[b"new%d" % number] == b"%03d" % number * 40_000
            assert found[b"base%02d" % number] == b"edited %03d" % number + _BASE[10:]
        for number in range(count + 1, 78):
            assert found[b"base%02d" % number] == expected[b"base%02d" % number][3]
        assert found[b"base%02d" % count] in (_BASE, b"edited %03d" % count + _BASE[10:])
        assert found[b"first"] == b"first"
        assert found[b"moved"] == _BASE

    check()
    mounted = _again(mounter, made, disk, mounted, kill=kill)
    check()
    for number in range(count - 3, count):
        (top / f"new{number}").unlink()
    (top / f"new{count}").unlink(missing_ok=True)
    _write(top / "after", b"after" * 20_000)
    _write(top / "base79", b"edited")
    count -= 3
    mounted = _again(mounter, made, disk, mounted, kill=kill)
    found = {path: row[3] for path, row in tree_of(top).items()}
    assert found[b"after"] == b"after" * 20_000
    assert found[b"base79"] == b"edited" + _BASE[6:]
    assert b"new%d" % count not in found
    for number in range(count):
        assert found[b"new%d" % number] == b"%03d" % number * 40_000


@pytest.mark.parametrize("kill", [False, True], ids=["umount", "kill"])
def test_names_fill_the_disk(mounter: Mounter, made: Made, disk: Path, kill: bool) -> None:
    mounted = mounter.rw(made, overlay=disk / "overlay", state_dir=disk / "state")
    mounted.is_noisy = True
    top = mounted.directory
    (top / "many").mkdir()
    count = _fill(lambda number: os.symlink("x" * 3000, top / "many" / f"{number:06}"))
    assert count > 500
    assert len(os.listdir(top / "many")) == count
    for number in range(0, count, 2):
        (top / "many" / f"{number:06}").unlink()
    (top / "base01").unlink()
    left = [f"{number:06}" for number in range(1, count, 2)]
    assert sorted(os.listdir(top / "many")) == left
    mounted = _again(mounter, made, disk, mounted, kill=kill)
    assert sorted(os.listdir(top / "many")) == left
    assert {os.readlink(top / "many" / name) for name in left} == {"x" * 3000}
    assert not (top / "base01").exists()
    for name in left[10:]:
        (top / "many" / name).unlink()
    mounted = _again(mounter, made, disk, mounted, kill=kill)
    _write(top / "after", b"after")
    os.symlink("y", top / "many" / "y")
    mounted = _again(mounter, made, disk, mounted, kill=kill)
    assert sorted(os.listdir(top / "many")) == [*left[:10], "y"]
    assert (top / "after").read_bytes() == b"after"
