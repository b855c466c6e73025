"""Edits of a live mount taken back and put aside: what programs see then, without a remount."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Program
from tests.editing.test_commit import dvfs, mnt, tree

__all__ = ["dvfs", "mnt"]


def edit(mnt: Path) -> None:
    """Make edits of each kind, and look at all: the kernel remembers it."""
    with (mnt / "large").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"edited" * 1000)
        file.seek(0, os.SEEK_END)
        file.write(b"grown" * 100_000)
    (mnt / "a").write_bytes(b"short")
    os.setxattr(mnt / "a", "user.mark", b"1")
    (mnt / "new").mkdir()
    (mnt / "new/file").write_bytes(b"new\n")
    (mnt / "sub").rename(mnt / "new/moved")
    os.link(mnt / "new/file", mnt / "linked")
    (mnt / "note").symlink_to("a")
    tree(mnt)


def test_what_was_written_is_as_it_was(dvfs: Program, mnt: Path) -> None:
    """With the writeback cache the kernel believes its own size of a file, as long as it knows it."""
    before, times = tree(mnt), (mnt / "large").stat()
    edit(mnt)
    assert (mnt / "large").stat().st_size == 3_500_000
    assert dvfs.ok("discard", "--yes", "mnt/large") == "Discarded the edits at 1 path\n"
    now = (mnt / "large").stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (times.st_size, times.st_mtime_ns, times.st_ino)
    assert (mnt / "large").read_bytes() == before["large"]
    assert tree(mnt)["a"] == b"short"
    with (mnt / "large").open("ab") as file:
        file.write(b"again")
    assert (mnt / "large").read_bytes() == (mnt.parent / "source/large").read_bytes() + b"again"


def test_all_is_as_it_was(dvfs: Program, mnt: Path) -> None:
    before = tree(mnt)
    edit(mnt)
    ran = dvfs("discard", "--yes", "--json", "mnt")
    assert (ran.code, ran.json["paths"]) == (0, [])
    assert tree(mnt) == before
    assert os.listxattr(mnt / "a") == []
    assert (mnt / "a").stat().st_nlink == 1
    with pytest.raises(FileNotFoundError):
        (mnt / "new/file").stat()
    (mnt / "new").mkdir()
    assert (mnt / "new").stat().st_nlink == 2
    assert dvfs.ok("discard", "-y", "-q", "mnt/new") == ""
    assert dvfs.ok("status", "--short", "mnt") == ""
    assert dvfs.ok("umount", "mnt") == "Unmounted mnt\n"
    assert [item["edits"] for item in dvfs("overlays", "--json").json] == [False]  # times of directories alone


def test_after_a_commit_the_child_is_what_comes_back(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    dvfs.ok("commit", "mnt", "-q")
    committed = tree(mnt)
    (mnt / "large").write_bytes(b"")
    (mnt / "a").unlink()
    (mnt / "new/moved").rename(mnt / "sub")
    shutil.rmtree(mnt / "new")
    assert dvfs("discard", "--yes", "mnt/new/moved/b").code == 3  # it is where it was in its directory
    dvfs.ok("discard", "--yes", "mnt/a", "mnt/new/moved")
    now = tree(mnt)
    assert (now["a"], now["new/moved/b"], now["large"]) == (b"short", b"beta\n", b"")
    assert "sub" not in now
    dvfs.ok("discard", "--yes", "mnt")
    assert tree(mnt) == committed


def test_a_stash(dvfs: Program, mnt: Path) -> None:
    before = tree(mnt)
    edit(mnt)
    edited = tree(mnt)
    dvfs.ok("stash", "mnt")
    assert tree(mnt) == before
    (mnt / "a").write_bytes(b"other")
    ran = dvfs("stash", "pop", "mnt")
    assert (ran.code, ran.err.splitlines()[0]) == (
        4,
        "error: there are edits: the stash can be taken up only without any",
    )
    assert dvfs("stash", "mnt").code == 4
    dvfs.ok("discard", "--yes", "mnt/a")
    dvfs.ok("stash", "pop", "mnt")
    assert tree(mnt) == edited
    assert os.getxattr(mnt / "a", "user.mark") == b"1"
    assert dvfs("stash", "pop", "mnt").code == 4


def test_a_stash_of_a_mount_that_is_gone(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    edited = tree(mnt)
    dvfs.ok("stash", "mnt")
    said = dvfs.ok("umount", "mnt")
    name = dvfs("overlays", "--json").json[0]["overlay"]
    assert said == (
        f"Unmounted mnt\nEdits of p/n@1.0.0 are kept in overlay {name}; take them up again with:\n"
        f"  dvfs mount --rw p/n@1.0.0 {mnt}\n"
    )
    dvfs.ok("stash", "pop", "--overlay", name)
    assert dvfs.process("mount", "--rw", "p/n", "mnt").code == 0
    assert tree(mnt) == edited
    dvfs.ok("stash", "-q", "mnt")
    assert dvfs("stash", "drop", "mnt").code == 2
    dvfs.ok("stash", "drop", "--yes", "mnt")
    assert dvfs("stash", "drop", "--yes", "mnt").code == 4


def test_a_file_that_is_open_is_another_one(dvfs: Program, mnt: Path) -> None:
    handle = os.open(mnt / "a", os.O_RDWR)
    os.write(handle, b"ALPHA")
    dvfs.ok("discard", "--yes", "mnt/a")
    calls: list[Callable[[], object]] = [
        lambda: os.write(handle, b"more"),
        lambda: os.read(handle, 1),
        lambda: os.close(handle),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert (mnt / "a").read_bytes() == b"alpha\n"


def test_the_working_directory_stays(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    handle = os.open(mnt / "new/moved", os.O_RDONLY)
    try:
        dvfs.ok("discard", "--yes", "mnt")
        assert sorted(os.listdir(handle)) == ["b", "deep"]
    finally:
        os.close(handle)


def test_a_link_is_meant_itself(dvfs: Program, mnt: Path) -> None:
    (mnt / "note").symlink_to("a")
    (mnt / "a").write_bytes(b"kept")
    dvfs.ok("discard", "--yes", "mnt/note")
    assert not (mnt / "note").is_symlink()
    assert (mnt / "a").read_bytes() == b"kept"


def test_while_others_write(dvfs: Program, mnt: Path) -> None:
    """A discard of one path takes nothing from the others, however busy the mount is."""
    done = threading.Event()
    written: list[Path] = []

    def write() -> None:
        while not done.is_set():
            path = mnt / f"busy{len(written)}"
            path.write_bytes(b"%d\n" % len(written))
            written.append(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            (mnt / "a").write_bytes(b"%d" % number)
            assert dvfs.process("discard", "--yes", "-q", "mnt/a").code == 0
            assert (mnt / "a").read_bytes() == b"alpha\n"
    finally:
        done.set()
        writer.join()
    assert [path.read_bytes() for path in written] == [b"%d\n" % number for number in range(len(written))]


def test_what_is_asked(dvfs: Program, mnt: Path) -> None:
    (mnt / "a").write_bytes(b"edited")
    ran = dvfs("discard", "mnt/a")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: nobody can be asked: Discard the edits at 1 path? `--yes` says yes\n")
    ran = dvfs("discard", "--yes", "mnt/large", "mnt/a")
    assert (ran.code, ran.err.splitlines()[0]) == (3, "error: large has no edits")
    assert (mnt / "a").read_bytes() == b"edited"
    assert dvfs("discard", "--yes", dvfs.folder).code == 3
