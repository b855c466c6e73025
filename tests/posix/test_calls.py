"""What POSIX, and Linux beyond it, says of calls that programs rely on, and what cannot be had."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Mounter

_COARSE = 5
"""The kernel's clock for times of files, CLOCK_REALTIME_COARSE."""


def _errno_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return None


def test_names_that_are_too_long_are_so_at_look_up_too(top: Path) -> None:
    name = "n" * 256
    calls: list[Callable[[], object]] = [
        lambda: os.stat(top / name),
        lambda: os.open(top / name, os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(top / name),
        lambda: os.unlink(top / name),
        lambda: os.rename(top / "file", top / name),
        lambda: os.rename(top / name, top / "other"),
        lambda: os.link(top / "file", top / name),
        lambda: os.symlink("x", top / name),
        lambda: os.mkfifo(top / name),
        lambda: os.stat(top / name / "below"),
    ]
    assert [_errno_of(call) for call in calls] == ["ENAMETOOLONG"] * len(calls)
    (top / name[:255]).touch()
    assert (top / name[:255]).exists()


def test_a_target_may_have_4095_bytes(top: Path) -> None:
    os.symlink("t" * 4095, top / "long")
    assert os.readlink(top / "long") == "t" * 4095
    assert _errno_of(lambda: os.symlink("t" * 4096, top / "longer")) == "ENAMETOOLONG"


def test_paths_of_any_length_can_be_reached_step_by_step(top: Path) -> None:
    handle = os.open(top, os.O_PATH)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=handle)
        inner = os.open("d" * 200, os.O_PATH, dir_fd=handle)
        os.close(handle)
        handle = inner
    file = os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=handle)
    os.write(file, b"deep")
    assert os.pread(file, 10, 0) == b"deep"
    os.close(file)
    assert os.listdir(f"/proc/self/fd/{handle}") == ["file"]
    os.close(handle)
    subprocess.run(["rm", "-r", top / ("d" * 200)], check=True)


def test_an_open_file_without_a_name(top: Path) -> None:
    os.link(top / "file", top / "second")
    with (top / "file").open("r+b") as file:
        assert os.fstat(file.fileno()).st_nlink == 2
        (top / "file").unlink()
        assert os.fstat(file.fileno()).st_nlink == 1
        (top / "other").touch()
        os.rename(top / "other", top / "second")
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(1000)
        file.write(b"written")
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 1005)
        assert os.pread(file.fileno(), 100, 998) == bytes((998 & 255, 999 & 255)) + b"writt"
        status = os.fstat(file.fileno())
        assert (status.st_nlink, status.st_size, stat.S_IMODE(status.st_mode)) == (0, 1005, 0o600)
        assert _errno_of(lambda: os.link(f"/proc/self/fd/{file.fileno()}", top / "again")) in ("ENOENT", "EXDEV")


def test_a_removed_directory_takes_nothing_new(top: Path) -> None:
    handle = os.open(top / "dir" / "inner", os.O_RDONLY | os.O_DIRECTORY)
    (top / "dir" / "inner").rmdir()
    assert os.fstat(handle).st_nlink == 0
    assert os.listdir(handle) == []
    for call in (
        lambda: os.mkdir("x", dir_fd=handle),
        lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=handle),
        lambda: os.rename(top / "file", "x", dst_dir_fd=handle),
        lambda: os.symlink("x", "x", dir_fd=handle),
    ):
        assert _errno_of(call) == "ENOENT"
    os.close(handle)
    (top / "dir" / "inner").mkdir()
    assert os.listdir(top / "dir" / "inner") == []


def _listed(folder: Path) -> dict[str, int]:
    """Return names and inode numbers as readdir gives them."""

    class Entry(ctypes.Structure):
        _fields_ = (("inode", ctypes.c_uint64), ("offset", ctypes.c_int64), ("size", ctypes.c_uint16),
                    ("kind", ctypes.c_uint8), ("name", ctypes.c_char * 256))  # fmt: skip

    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(Entry)
    libc.readdir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    stream = libc.opendir(os.fsencode(folder))
    found = {}
    while entry := libc.readdir(stream):
        found[os.fsdecode(entry.contents.name)] = entry.contents.inode
    libc.closedir(stream)
    return found


def test_listings_have_the_inode_numbers_that_stat_gives(top: Path) -> None:
    (top / "moved").mkdir()
    (top / "dir").rename(top / "moved" / "dir")
    (top / "moved" / "dir" / "fresh").touch()
    for folder in (top, top / "moved", top / "moved" / "dir", top / "moved" / "dir" / "inner"):
        found = _listed(folder)
        assert {".", ".."} <= set(found)
        assert set(found) - {".", ".."} == set(os.listdir(folder))
        assert {name: os.lstat(folder / name).st_ino for name in found} == found
    assert os.stat(top / "moved" / "dir" / "..").st_ino == os.stat(top / "moved").st_ino


def test_a_listing_goes_on_while_names_come_and_go(top: Path) -> None:
    for number in range(600):
        (top / "dir" / f"n{number}").touch()
    before = set(os.listdir(top / "dir"))
    seen = []
    with os.scandir(top / "dir") as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 2 == 0 and entry.name.startswith("n"):
                os.unlink(entry.path)
            if count % 50 == 0:
                os.rename(top / "file", top / "dir" / "comes")
                os.rename(top / "dir" / "comes", top / "file")
    assert len(seen) == len(set(seen))
    assert set(seen) - {"comes"} == before
    subprocess.run(["rm", "-r", top / "dir"], check=True)


def test_opening_truncates(top: Path) -> None:
    handle = os.open(top / "file", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(handle).st_size == 0
    os.write(handle, b"short")
    os.close(handle)
    assert (top / "file").read_bytes() == b"short"
    assert _errno_of(lambda: os.open(top / "file", os.O_CREAT | os.O_EXCL)) == "EEXIST"
    assert _errno_of(lambda: os.open(top / "link", os.O_RDONLY | os.O_NOFOLLOW)) == "ELOOP"
    assert _errno_of(lambda: os.open(top / "file", os.O_DIRECTORY)) == "ENOTDIR"
    assert _errno_of(lambda: os.open(top / "dir", os.O_WRONLY)) == "EISDIR"


_AS_NOBODY = """
import os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with open(sys.argv[1], "r+b") as file:
    if sys.argv[2] == "write":
        file.write(b"x")
    else:
        file.truncate(3)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("how", ["write", "truncate"])
def test_writing_by_others_takes_set_id_bits_away(public: Mounter, how: str) -> None:
    source = public.folder / "source"
    source.mkdir()
    (source / "file").write_bytes(b"program")
    mounted = public.rw(public.make(source), allow_other=True)
    for name in ("file", "new"):
        path = mounted.directory / name
        path.touch()
        path.chmod(0o6777)
        subprocess.run([sys.executable, "-c", _AS_NOBODY, path, how], check=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_another_owner_takes_set_id_bits_away(top: Path) -> None:
    os.mkfifo(top / "fifo")
    for name in ("file", "fifo", "dir"):
        (top / name).chmod(0o6770)
        os.chown(top / name, 1, -1)
        assert stat.S_IMODE((top / name).stat().st_mode) == (0o6770 if name == "dir" else 0o770)
    (top / "file").chmod(0o2760)  # a mark for locks, once, not a group
    os.chown(top / "file", -1, 1)
    assert stat.S_IMODE((top / "file").stat().st_mode) == 0o2760
    assert os.stat(top / "file").st_gid == 1


def test_short_writes_cost_no_messages(public: Mounter) -> None:
    source = public.folder / "source"
    source.mkdir()
    (source / "file").write_bytes(b"of the version")
    mounted = public.rw(public.make(source))
    with (mounted.directory / "file").open("r+b", buffering=0) as file:
        for number in range(1000):
            file.write(b"%d\n" % number)
    requests = mounted.requests()
    line = mounted.log_lines("INFO dvfs.fs.serve: requests answered by the shim:")[-1]
    assert int(line.rpartition(" ")[2]) < 10
    assert requests["write"] < 10


def test_times_follow_what_is_done(top: Path) -> None:
    def times(path: Path) -> tuple[int, int]:
        status = path.lstat()
        return status.st_mtime_ns, status.st_ctime_ns

    def changes(path: Path, action: Callable[[], object]) -> tuple[bool, bool]:
        before = times(path)
        while time.clock_gettime_ns(_COARSE) <= before[1]:
            pass
        action()
        after = times(path)
        return after[0] != before[0], after[1] != before[1]

    file, folder = top / "file", top / "dir"
    assert changes(file, lambda: file.read_bytes()) == (False, False)
    assert changes(file, lambda: file.write_bytes(b"x")) == (True, True)
    assert changes(file, lambda: os.truncate(file, 100)) == (True, True)
    assert changes(file, lambda: file.chmod(0o600)) == (False, True)
    assert changes(file, lambda: os.link(file, top / "hard")) == (False, True)
    assert changes(file, lambda: (top / "hard").unlink()) == (False, True)
    assert changes(file, lambda: os.setxattr(file, "user.a", b"1")) == (False, True)
    assert changes(file, lambda: os.utime(file, ns=(1, 2))) == (True, True)
    assert times(file)[0] == 2
    assert changes(folder, lambda: (folder / "x").touch()) == (True, True)
    assert changes(folder, lambda: (folder / "x").write_bytes(b"x")) == (False, False)
    assert changes(folder, lambda: (folder / "x").rename(folder / "y")) == (True, True)
    assert changes(folder, lambda: (folder / "y").unlink()) == (True, True)


def test_what_is_written_later_is_not_older(top: Path) -> None:
    """Whether the kernel gives the time, as for what is written, or the daemon, as for what is made."""
    (top / "file").write_bytes(b"first")
    times = [(top / "file").stat().st_mtime_ns]
    for number in range(50):
        os.close(os.open(top / f"made{number}", os.O_CREAT | os.O_WRONLY))
        times.append((top / f"made{number}").stat().st_mtime_ns)
        (top / "file").write_bytes(b"written")
        times.append((top / "file").stat().st_mtime_ns)
    assert times == sorted(times)


def test_rename_with_flags(top: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old: str, new: str, flags: int) -> str | None:
        done = libc.renameat2(-100, os.fsencode(top / old), -100, os.fsencode(top / new), flags)
        return errno.errorcode[ctypes.get_errno()] if done else None

    inodes = os.stat(top / "file").st_ino, os.stat(top / "dir").st_ino
    assert renameat2("file", "dir", 1) == "EEXIST"
    assert renameat2("file", "dir", 2) is None
    assert (os.stat(top / "dir").st_ino, os.stat(top / "file").st_ino) == inodes
    assert (top / "file" / "file").read_bytes() == b"of the version"
    assert renameat2("file", "none", 2) == "ENOENT"
    assert renameat2("file", "file/inner/x", 0) == "EINVAL"
    assert renameat2("dir", "name", 1) is None
    assert renameat2("name", "x", 4) == "EINVAL"


def test_what_cannot_be_had(top: Path) -> None:
    with (top / "file").open("r+b") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.fallocate(file.fileno(), 0, ctypes.c_long(0), ctypes.c_long(100_000)) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        os.posix_fallocate(file.fileno(), 0, 100_000)  # libc writes zeros then
        assert os.fstat(file.fileno()).st_size == 100_000
    assert _errno_of(lambda: os.open(top, os.O_TMPFILE | os.O_RDWR)) == "ENOTSUP"
    for name in ("system.posix_acl_access", "trusted.a", "security.a"):
        assert _errno_of(lambda name=name: os.setxattr(top / "file", name, b"x")) is not None  # type: ignore[misc]
    before = (top / "dir" / "file").stat().st_atime_ns
    (top / "dir" / "file").read_bytes()
    assert (top / "dir" / "file").stat().st_atime_ns == before
