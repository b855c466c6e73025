"""A mounted tree is the one that the version was made from."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dvfs.store.digest import block_digest
from tests.mount.conftest import Mounted
from tests.store_kit import tree_of

Odd = Callable[..., Mounted]

FORGOTTEN = 4
"""The kernel may forget what it knows when it is short of memory, or told to; hardly so many times in one test."""


def test_all_is_as_it_was(either: Mounted, odd_tree: Path) -> None:
    assert tree_of(either.directory) == tree_of(odd_tree)


def test_rsync_sees_no_difference(either: Mounted, odd_tree: Path) -> None:
    words = ["rsync", "-anic", "--modify-window=-1", "--delete", f"{odd_tree}/", f"{either.directory}/"]
    ran = subprocess.run(words, capture_output=True, check=True)
    assert ran.stdout == b""


def test_files_belong_to_who_mounts(odd: Odd) -> None:
    mounted = odd()
    for path in (mounted.directory, mounted.directory / "bin" / "run", mounted.directory / "dangling"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (os.geteuid(), os.getegid())
    assert stat.S_IMODE((mounted.directory / "bin" / "run").stat().st_mode) == 0o755


def test_files_belong_to_whom_they_are_given(odd: Odd) -> None:
    mounted = odd(uid=1234, gid=4321)
    status = (mounted.directory / "x").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)


def test_inodes_are_one_more_than_ranks(either: Mounted) -> None:
    found = [status.st_ino for status in map(os.lstat, _walk(os.fsencode(either.directory)))]
    assert sorted(found) == list(range(1, len(found) + 1))
    assert os.stat(either.directory).st_ino == 1
    assert os.stat(either.directory).st_nlink == 1


def _walk(top: bytes) -> list[bytes]:
    found = [top]
    for folder, folders, files in os.walk(top):
        found += [os.path.join(folder, name) for name in folders + files]
    return found


def test_a_listing_can_be_left_and_taken_up_again(either: Mounted, odd_tree: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    libc.readdir.argtypes = libc.telldir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(os.fsencode(either.directory / "many"))

    def next_name() -> bytes | None:
        entry = libc.readdir(stream)
        return ctypes.string_at(entry + 19) if entry else None

    places, names = [libc.telldir(stream)], []
    while (name := next_name()) is not None:
        names.append(name)
        places.append(libc.telldir(stream))
    assert names[:2] == [b".", b".."]
    assert names[2:] == sorted(os.listdir(os.fsencode(odd_tree / "many")))
    for index in (0, 1, 2, 17, 200, len(names) - 1, len(names), 3):
        libc.seekdir(stream, places[index])
        assert next_name() == (names[index] if index < len(names) else None)
    libc.closedir(stream)


def test_ls_in_the_order_of_the_directory(either: Mounted, odd_tree: Path) -> None:
    ran = subprocess.run(["ls", "-f", either.directory / "many"], capture_output=True, check=True)
    assert ran.stdout.split() == [b".", b"..", *sorted(os.listdir(os.fsencode(odd_tree / "many")))]


def test_dot_and_dot_dot_lead_where_they_should(either: Mounted) -> None:
    top = either.directory
    assert os.path.samefile(top / "many" / ".." / "x", top / "x")
    with os.scandir(top / "d" / "d") as entries:
        assert [entry.name for entry in entries] == ["d"]
    assert os.stat(top / "d" / "d" / "..").st_ino == os.stat(top / "d").st_ino
    assert os.path.samefile(top / "..", top.parent)


def test_names_are_long_or_too_long(odd: Odd) -> None:
    top = odd().directory
    assert (top / ("n" * 255)).read_bytes() == b"long name"
    for length in (256, 1000):
        with pytest.raises(OSError) as caught:
            os.stat(top / ("n" * length))
        assert caught.value.errno == errno.ENAMETOOLONG


def test_attributes_tell_what_one_looks_at(odd: Odd) -> None:
    mounted = odd()
    top = mounted.directory
    assert os.getxattr(top, "user.dvfs.digest").decode() == mounted.digest
    assert os.getxattr(top, "user.dvfs.id").decode() == mounted.noted.id
    assert os.getxattr(top / "many", "user.dvfs.version") == b"1.0.0"
    assert sorted(os.listxattr(top / "many")) == ["user.dvfs.id", "user.dvfs.version"]
    assert sorted(os.listxattr(top / "x")) == ["user.dvfs.digest", "user.dvfs.id", "user.dvfs.version"]
    assert os.getxattr(top / "x", "user.dvfs.digest").decode() == block_digest(b"x").hex()
    for name, told in {
        "user.dvfs.digest": errno.ENODATA,
        "user.other": errno.ENODATA,
        "security.capability": errno.ENOTSUP,
        "system.posix_acl_access": errno.ENOTSUP,
    }.items():
        with pytest.raises(OSError) as caught:
            os.getxattr(top / "many", name)
        assert caught.value.errno == told


def test_size_is_that_of_the_version(odd: Odd, odd_tree: Path) -> None:
    found = os.statvfs(odd().directory)
    files = [path for path in _walk(os.fsencode(odd_tree)) if stat.S_ISREG(os.lstat(path).st_mode)]
    size = sum(os.lstat(path).st_size for path in files)
    assert found.f_blocks * found.f_frsize == -(-size // 4096) * 4096
    assert (found.f_bfree, found.f_bavail, found.f_namemax) == (0, 0, 255)
    assert found.f_files == len(_walk(os.fsencode(odd_tree)))
    assert found.f_flag & os.ST_RDONLY


def test_a_directory_of_the_version_is_shown_alone(odd: Odd, odd_tree: Path) -> None:
    mounted = odd(subdir="with space")
    assert tree_of(mounted.directory) == tree_of(odd_tree / "with space")
    assert os.path.samefile(mounted.directory / "..", mounted.directory.parent)
    assert os.getxattr(mounted.directory, "user.dvfs.digest").decode() == mounted.digest


def test_a_name_that_is_missing_is_asked_for_once(odd: Odd) -> None:
    mounted = odd()
    for _ in range(100):
        assert not (mounted.directory / "nothing").exists()
    assert mounted.requests()["lookup"] <= FORGOTTEN


def test_what_is_known_is_not_asked_again(odd: Odd, odd_tree: Path) -> None:
    mounted = odd()
    rounds = 10
    for _ in range(rounds):
        assert tree_of(mounted.directory) == tree_of(odd_tree)
    asked = mounted.requests()
    paths = _walk(os.fsencode(odd_tree))
    files = sum(stat.S_ISREG(os.lstat(path).st_mode) for path in paths)
    assert (asked["open"], asked["opendir"]) == (1, 1)
    assert asked["readlink"] <= FORGOTTEN * 4
    assert asked["read"] < FORGOTTEN * 2 * files
    assert asked.get("lookup", 0) + asked.get("getattr", 0) < FORGOTTEN * len(paths)
    assert rounds > FORGOTTEN * 2
