"""A daemon that is killed: all that was closed or synced is there in the next mount."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests.editing.conftest import look
from tests.fs.made_version import Made
from tests.mount.conftest import Mounted, Mounter
from tests.store_kit import SMALL_CUTTING


@pytest.fixture
def made(mounter: Mounter) -> Made:
    source = mounter.folder / "source"
    for name in ("a/b/c", "d"):
        (source / name).mkdir(parents=True)
    for number in range(20):
        (source / "d" / f"f{number:02}").write_bytes(b"%02d" % number * 10_000)
    (source / "a/b/large").write_bytes(bytes(range(256)) * 4000)
    (source / "a/b/c/small").write_bytes(b"small")
    return mounter.make(source, cutting=SMALL_CUTTING)


def _edit(top: Path) -> None:
    """Change something of every kind; each file is closed."""
    (top / "new" / "deep").mkdir(parents=True)
    (top / "new" / "deep" / "file").write_bytes(b"new" * 50_000)
    (top / "new" / "empty").touch()
    with (top / "a/b/large").open("r+b") as file:
        for start in (0, 4095, 300_001, 1_000_000):
            file.seek(start)
            file.write(b"edited" * 20)
    with (top / "d/f00").open("ab") as file:
        file.write(b"appended" * 1000)
    os.truncate(top / "d/f01", 5001)
    os.truncate(top / "d/f02", 0)
    with (top / "d/f03").open("r+b") as file:
        file.truncate(4096 * 3 + 5)
        file.truncate(40_000)
        with mmap.mmap(file.fileno(), 40_000) as mapped:
            mapped[39_990:] = b"0123456789"
    (top / "d/f04").unlink()
    (top / "d/f05").rename(top / "new/f05")
    (top / "new/empty").rename(top / "d/f06")
    os.link(top / "d/f07", top / "new/link")
    (top / "new/symlink").symlink_to("deep")
    os.chmod(top / "d/f08", 0o600)
    os.utime(top / "d/f09", ns=(1, 1_234_567_890_123_456_789))
    os.setxattr(top / "d/f10", "user.note", b"kept")
    os.mkfifo(top / "new/fifo")
    (top / "a/b").rename(top / "new/b")
    (top / "a").rmdir()


def _looks(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Return what the next mount must show: all but times that the kernel held back."""
    found = {}
    for path, (status, *further) in look(top).items():
        assert isinstance(status, os.stat_result)
        found[path] = (status.st_mode, status.st_ino, status.st_nlink, status.st_size, *further)
    return found


def _killed(mounter: Mounter, made: Made, mounted: Mounted) -> Mounted:
    mounted.kill()
    return mounter.rw(made)


def test_what_was_closed_is_kept(mounter: Mounter, made: Made) -> None:
    mounted = mounter.rw(made)
    _edit(mounted.directory)
    before = _looks(mounted.directory)
    for _ in range(2):
        mounted = _killed(mounter, made, mounted)
        assert _looks(mounted.directory) == before
    (mounted.directory / "new/deep/file").write_bytes(b"written again")
    before = _looks(mounted.directory)
    mounted.umount()
    mounted = mounter.rw(made)
    assert _looks(mounted.directory) == before


def test_times_that_were_set_or_synced_are_kept(mounter: Mounter, made: Made) -> None:
    mounted = mounter.rw(made)
    top = mounted.directory
    (top / "d/f00").write_bytes(b"one")
    with (top / "d/f01").open("ab") as file:
        file.write(b"two")
        file.flush()
        os.fsync(file.fileno())
    os.utime(top / "d/f00", ns=(2_000, 1_111_111_111_111_111_111))
    paths = ("d", "d/f00", "d/f01", "d/f02", "a")
    before = [os.lstat(top / path).st_mtime_ns for path in paths]
    _killed(mounter, made, mounted)
    assert [os.lstat(top / path).st_mtime_ns for path in paths] == before


def test_what_was_synced_is_kept_while_the_file_is_open(mounter: Mounter, made: Made) -> None:
    mounted = mounter.rw(made)
    top = mounted.directory
    held = [os.open(top / name, os.O_RDWR | os.O_CREAT) for name in ("d/f00", "new", "gone")]
    (top / "gone").unlink()
    for handle in held:
        os.pwrite(handle, b"synced", 100_000)
        os.fsync(handle)
        os.pwrite(handle, b"not", 200_000)
    mounted = _killed(mounter, made, mounted)
    for handle in held:
        with contextlib.suppress(OSError):
            os.close(handle)
    for name in ("d/f00", "new"):
        found = (top / name).read_bytes()
        assert found[100_000:100_006] == b"synced"
        assert found[100_006:200_000].strip(b"\0") == b""
    assert (top / "d/f00").read_bytes()[:20_000] == b"00" * 10_000
    assert not (top / "gone").exists()
    mounted.umount()
    assert _data_files(mounter) == 2


def _data_files(mounter: Mounter) -> int:
    return sum(not path.name.endswith(".cells") for path in (mounter.folder / "overlay" / "data").glob("*/*"))


_WRITER = """
import os, sys
top, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
number = 0
while True:
    name = f"{top}/d/w{number % 7}"
    with open(name + ".tmp", "w") as file:
        file.write(f"{number} " * 3000)
    os.rename(name + ".tmp", name)
    with open(f"{top}/log", "a") as file:
        file.write(f"{number}\\n")
    os.write(log, b"%d\\n" % number)
    number += 1
"""


def test_a_program_that_writes_when_the_daemon_is_killed(mounter: Mounter, made: Made) -> None:
    """What it had closed, and said so outside, is there; of what it was doing, all or nothing of each step."""
    mounted = mounter.rw(made)
    top = mounted.directory
    done = mounter.folder / "done"
    for turn in range(2):
        done.unlink(missing_ok=True)
        (top / "log").unlink(missing_ok=True)
        words = ["python3", "-c", _WRITER, str(top), str(done)]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as writer:
            while not done.exists() or done.read_bytes().count(b"\n") < 100 * (turn + 1):
                assert writer.poll() is None
            mounted.kill()
            writer.wait(60)
        mounted = mounter.rw(made)
        last = int(done.read_text().split()[-1])
        logged = (top / "log").read_text().split()
        assert logged in ([str(number) for number in range(last + more)] for more in (1, 2))
        for place in range(7):
            words = (top / "d" / f"w{place}").read_text().split()
            assert len(words) == 3000
            assert len(set(words)) == 1
            expected = max(number for number in range(last + 1) if number % 7 == place)
            assert int(words[0]) in (expected, expected + 7)


def test_renames_and_removals_in_many_threads(mounter: Mounter, made: Made) -> None:
    """Each thread notes what it has finished; the next mount has just that, and what was under way or not."""
    mounted = mounter.rw(made)
    top = mounted.directory
    finished: dict[int, int] = {}
    enough = threading.Event()

    def work(mine: int) -> None:
        turn = 0
        try:
            while True:
                name = top / f"t{mine}-{turn}"
                name.write_bytes(b"%d" % turn)
                if turn:
                    (top / f"t{mine}-{turn - 1}").rename(top / "d" / f"t{mine}-{turn - 1}")
                if turn > 1:
                    (top / "d" / f"t{mine}-{turn - 2}").unlink()
                finished[mine] = turn
                turn += 1
                if turn == 50:
                    enough.set()
        except OSError:
            pass

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    mounted.kill()
    for thread in threads:
        thread.join()
    mounted = mounter.rw(made)
    for mine, turn in finished.items():
        here = {path.name for path in top.glob(f"t{mine}-*")}
        moved = {path.name for path in (top / "d").glob(f"t{mine}-*")}
        names = [f"t{mine}-{number}" for number in (turn - 1, turn, turn + 1)]
        steps: list[tuple[set[str], set[str]]] = [
            ({names[1]}, {names[0]}),
            ({names[1], names[2]}, {names[0]}),
            ({names[2]}, {names[0], names[1]}),
            ({names[2]}, {names[1]}),
        ]
        assert (here, moved) in steps
