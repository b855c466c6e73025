"""The bytes of files, by every way that a program may take to them; and that none leads to writing."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, Mounter
from tests.mount_kit import NONE_IS_LARGE, read_in_order
from tests.store.noise import noise

Odd = Callable[..., Mounted]


@pytest.fixture
def big(odd_tree: Path) -> bytes:
    return (odd_tree / "big" / "random").read_bytes()


def test_mapped(either: Mounted, big: bytes) -> None:
    with (either.directory / "big" / "random").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[100:200_000] == big[100:200_000]
            assert mapped[:] == big
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as private:
            private[0:4] = b"mine"
    assert (either.directory / "big" / "random").read_bytes() == big


def test_sent_and_spliced(either: Mounted, big: bytes, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with (either.directory / "big" / "random").open("rb") as file, target.open("wb") as out:
        sent = 0
        while count := os.sendfile(out.fileno(), file.fileno(), sent, 1 << 20):
            sent += count
    assert target.read_bytes() == big
    subprocess.run(["cp", either.directory / "big" / "random", tmp_path / "cp"], check=True)
    assert (tmp_path / "cp").read_bytes() == big


def test_directly(either: Mounted, big: bytes) -> None:
    fd = os.open(either.directory / "big" / "random", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as buffer:  # aligned to a page
            for start in (0, 1 << 20, 8192):
                count = os.preadv(fd, [buffer], start)
                assert buffer[:count] == big[start : start + count]
                assert count == 1 << 20
            assert os.preadv(fd, [buffer], len(big)) == 0
    finally:
        os.close(fd)


def test_at_random_by_many(either: Mounted, big: bytes) -> None:
    fd = os.open(either.directory / "big" / "random", os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        rng = random.Random(7)
        ranges = [(rng.randrange(len(big)), rng.randrange(1, 300_000)) for _ in range(200)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda part: os.pread(fd, part[1], part[0]), ranges))
    finally:
        os.close(fd)
    assert found == [big[start : start + length] for start, length in ranges]


def test_a_large_file_in_order_comes_from_stretches_and_damage_is_healed(mounter: Mounter, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = noise(40 << 20)
    (source / "large").write_bytes(data)
    made = mounter.make(source)

    first = mounter(made, large_file_bytes=NONE_IS_LARGE)
    assert read_in_order(first.directory / "large") == data
    first.umount()
    assert first.log_lines("WARNING") == []
    blocks = sorted((mounter.folder / "cache" / "blocks").glob("*/*"))
    for block in blocks[::3]:
        with block.open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
    again = mounter(made, large_file_bytes=NONE_IS_LARGE)
    first.is_noisy = again.is_noisy = True  # they write to one log
    assert read_in_order(again.directory / "large") == data

    again.umount()
    assert _answered(again) > 10
    assert {line.rpartition("WARNING ")[2].split(" ")[1] for line in again.log_lines("WARNING")} == {"cache"}
    assert len(again.log_lines("WARNING")) == len(blocks[::3])


def _answered(mounted: Mounted) -> int:
    line = mounted.log_lines("INFO dvfs.fs.serve: reads answered from stretches:")[-1]
    return int(line.rpartition(" ")[2])


def test_an_open_file_is_seekable_and_a_hole_is_not_found(either: Mounted, big: bytes) -> None:
    fd = os.open(either.directory / "big" / "random", os.O_RDONLY)
    try:
        assert os.lseek(fd, -10, os.SEEK_END) == len(big) - 10
        assert os.read(fd, 100) == big[-10:]
        assert os.lseek(fd, 0, os.SEEK_HOLE) == len(big)
    finally:
        os.close(fd)


def _write(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY))


WAYS_TO_WRITE: dict[str, Callable[[Path], object]] = {
    "open to write": lambda top: _write(top / "x"),
    "open to append": lambda top: os.open(top / "x", os.O_WRONLY | os.O_APPEND),
    "create": lambda top: (top / "new").touch(),
    "truncate": lambda top: os.truncate(top / "x", 0),
    "unlink": lambda top: (top / "x").unlink(),
    "mkdir": lambda top: (top / "new").mkdir(),
    "rmdir": lambda top: (top / "empty directory" / "inside").rmdir(),
    "rename": lambda top: (top / "x").rename(top / "y"),
    "link": lambda top: os.link(top / "x", top / "y"),
    "symlink": lambda top: (top / "y").symlink_to("x"),
    "mkfifo": lambda top: os.mkfifo(top / "y"),
    "chmod": lambda top: (top / "x").chmod(0o600),
    "chown": lambda top: os.chown(top / "x", 1, 1),
    "utime": lambda top: os.utime(top / "x"),
    "setxattr": lambda top: os.setxattr(top / "x", "user.a", b"b"),
    "removexattr": lambda top: os.removexattr(top / "x", "user.dvfs.id"),
}


def test_nothing_is_written(either: Mounted) -> None:
    for name, way in WAYS_TO_WRITE.items():
        with pytest.raises(OSError) as caught:
            way(either.directory)
        assert (name, caught.value.errno) == (name, errno.EROFS)


IS_ROOT = os.geteuid() == 0


def test_modes_hold(public: Mounter, tmp_path: Path) -> None:
    """For a user who is not root: another one where the tests run as root, else the one who mounts."""
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    for name in ("open", "shut", "closed/file", "run"):
        (source / name).write_bytes(b"data")
    modes = {b"": 0o705, b"open": 0o604, b"shut": 0o020, b"closed": 0o020, b"closed/file": 0o604, b"run": 0o101}
    mounted = public(public.make(source, modes=modes), allow_other=IS_ROOT)
    program = (
        "import os, sys\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: os.close(os.open(path, os.O_RDONLY)); print('yes')\n"
        "    except OSError as exc: print(exc.strerror)\n"
    )
    names = ["open", "shut", "closed/file", "run", "."]
    paths = [os.fspath(mounted.directory / name) for name in names]
    ran = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    no = "Permission denied"
    assert ran.stdout.splitlines() == ["yes", no, no, no, "yes"]


if IS_ROOT:  # only root can become another user

    def test_without_allow_other_others_see_nothing(odd: Odd) -> None:
        mounted = odd()
        program = "import os, sys; os.setgroups([]); os.setuid(65534); os.stat(sys.argv[1])"
        words = [sys.executable, "-c", program, os.fspath(mounted.directory)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "Permission" in ran.stderr
