"""Commits of live mounts: what is in the child, what goes on, and what a kill at any step leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.fs.mounts import Mounts, wait_gone
from tests.cli.conftest import ROOT, Program, program
from tests.store.noise import noise


@pytest.fixture
def dvfs(tmp_path: Path) -> Iterator[Program]:
    """The program; what it mounted is taken away."""
    dvfs = program(tmp_path)
    yield dvfs
    dvfs.process("umount", "--all", "--lazy")


@pytest.fixture
def mnt(dvfs: Program) -> Path:
    """A small version, mounted to be edited."""
    source = dvfs.folder / "source"
    (source / "sub/deep").mkdir(parents=True)
    (source / "a").write_bytes(b"alpha\n")
    (source / "sub/b").write_bytes(b"beta\n")
    (source / "sub/deep/c").write_bytes(b"gamma\n")
    (source / "large").write_bytes(noise(3_000_000, 1))
    dvfs.ok("create", "--project", "p", "--name", "n")
    dvfs.ok("add", "--files", source)
    dvfs.ok("close")
    return mount(dvfs)


def mount(dvfs: Program, dataset: str = "p/n", name: str = "mnt", *words: str) -> Path:
    """Mount *dataset* to be edited in folder *name*; return that."""
    ran = dvfs.process("mount", "--rw", *words, dataset, name)
    assert (ran.code, ran.err) == (0, "")
    return dvfs.folder / name


def tree(top: Path) -> dict[str, bytes | str | None]:
    """Return what is in *top*: bytes of files, targets of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = Path(folder, name)
            key = str(path.relative_to(top))
            if path.is_symlink():
                found[key] = os.readlink(path)
            else:
                found[key] = path.read_bytes() if path.is_file() else None
    return found


def content(dvfs: Program, dataset: str) -> dict[str, bytes | str | None]:
    """Return what a version holds."""
    target = dvfs.folder / "copies" / dataset.replace("/", "-")
    dvfs.ok("get", "--copy", target, "--overwrite", dataset)
    return tree(target)


def versions(dvfs: Program) -> list[str]:
    """Return the finished versions of p/n, oldest first; there must be no open ones."""
    found = json.loads(dvfs.ok("search", "--json", "--not-only-completed"))
    assert {item["status"] for item in found} == {"completed"}
    return [item["version"] for item in found]


def edit(mnt: Path, number: int = 1) -> None:
    """Make edits of each kind."""
    (mnt / f"new{number}").write_bytes(b"new %d\n" % number)
    with (mnt / "a").open("ab") as file:
        file.write(b"more %d\n" % number)
    with (mnt / "large").open("r+b") as file:
        file.seek(1_000_000 + 5 * number)
        file.write(b"XYZ")
    (mnt / f"dir{number}").mkdir()
    if number == 1:
        (mnt / "sub/deep").rename(mnt / "dir1/moved")
        (mnt / "sub/b").unlink()
    (mnt / f"dir{number}/link").symlink_to("../a")


def test_the_child_holds_the_edits_and_the_mount_goes_on_as_the_child(dvfs: Program, mnt: Path) -> None:
    base = content(dvfs, "p/n@1.0.0")
    edit(mnt)
    before = tree(mnt)
    inodes = {path: path.stat().st_ino for path in mnt.rglob("*")}
    with (mnt / "a").open("rb") as held:
        ran = dvfs("commit", "mnt", "-m", "why", "--tag", "x", "y", "-q")
        assert held.read() == before["a"]
    assert (ran.code, ran.err) == (0, "")
    (found,) = json.loads(dvfs.ok("search", "--json", "--ids", ran.out.strip()))
    assert (found["version"], found["tags"]) == ("1.0.1", ["x", "y"])
    assert content(dvfs, "p/n@1.0.1") == before == tree(mnt)
    assert content(dvfs, "p/n@1.0.0") == base
    assert {path: path.stat().st_ino for path in mnt.rglob("*")} == inodes
    assert os.getxattr(mnt, "user.dvfs.version") == b"1.0.1"
    assert "No edits." in dvfs.ok("status", "mnt")
    dvfs.ok("umount", "mnt")
    assert tree(mount(dvfs)) == before


def test_a_commit_is_followed_by_another(dvfs: Program, mnt: Path) -> None:
    for number in (1, 2, 3):
        edit(mnt, number)
        before = tree(mnt)
        dvfs.ok("commit", "mnt")
        assert content(dvfs, f"p/n@1.0.{number}") == before
    assert versions(dvfs) == ["1.0.0", "1.0.1", "1.0.2", "1.0.3"]


def test_what_was_dropped_from_the_overlay_is_read_from_the_child(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    before = tree(mnt)
    dvfs.ok("commit", "mnt")
    data = dvfs.folder.parent.glob("state/overlays/*/data/*/*")
    assert list(data) == []
    assert tree(mnt) == before
    dvfs.ok("umount", "mnt")
    mnt = mount(dvfs)
    assert tree(mnt) == before


def test_nothing_to_commit(dvfs: Program, mnt: Path) -> None:
    assert "Nothing to commit" in dvfs.ok("commit", "mnt")
    os.utime(mnt / "a", (1, 1))
    (mnt / "x").write_text("x")
    (mnt / "x").unlink()
    assert "Nothing to commit" in dvfs.ok("commit", "mnt")
    assert versions(dvfs) == ["1.0.0"]


def test_an_unmounted_overlay_is_committed_by_name(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    before = tree(mnt)
    dvfs.ok("umount", "mnt")
    (name,) = [path.name for path in dvfs.folder.parent.glob("state/overlays/*")]
    assert "modified:  a" in dvfs.ok("status", "--overlay", name)
    dvfs.ok("commit", "--overlay", name)
    assert content(dvfs, "p/n@1.0.1") == before
    assert list(dvfs.folder.parent.glob("state/overlays/*")) == []
    assert tree(mount(dvfs)) == before


def test_special_files_fail_by_name_and_can_be_left_out(dvfs: Program, mnt: Path) -> None:
    os.mkfifo(mnt / "pipe")
    (mnt / "new").write_text("new")
    ran = dvfs("commit", "mnt")
    assert ran.code == 1
    assert "pipe" in ran.err
    dvfs.ok("commit", "mnt", "--skip-special")
    assert content(dvfs, "p/n@1.0.1").keys() == content(dvfs, "p/n@1.0.0").keys() | {"new"}


def test_no_remount_leaves_the_edits(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    before = tree(mnt)
    dvfs.ok("commit", "mnt", "--no-remount", "--name", "other")
    assert "modified:  a" in dvfs.ok("status", "mnt")
    dvfs.ok("commit", "mnt", "--name", "another")
    assert content(dvfs, "p/other") == content(dvfs, "p/another") == before


def test_a_commit_into_a_store_that_is_gone_loses_nothing(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    before = tree(mnt)
    store, away = dvfs.folder.parent / "store", dvfs.folder.parent / "away"
    store.rename(away)
    ran = dvfs("commit", "mnt")
    assert ran.code in (3, 6)
    assert not store.exists()
    away.rename(store)
    edit(mnt, 2)
    before = tree(mnt)
    dvfs.ok("commit", "mnt")
    assert content(dvfs, "p/n@1.0.1") == before
    assert versions(dvfs) == ["1.0.0", "1.0.1"]


POINTS = [
    "commit:after-freeze",
    "create:before-claim",
    "create:after-claim",
    "create:after-record",
    "commit:after-stage",
    "pack:before-put",
    "pack:after-put",
    "pack:before-mark",
    "pack:after-mark",
    "commit:before-pages",
    "commit:before-swap",
    "commit:after-swap",
    "commit:after-report",
    "commit:before-complete",
    "commit:after-complete",
]
LANDED = {"commit:after-swap", "commit:after-report", "commit:before-complete", "commit:after-complete"}


@pytest.mark.parametrize(
    ("point", "daemon"),
    [(point, "lives") for point in POINTS]
    + [(point, "dies") for point in ("commit:after-freeze", "pack:after-mark", "commit:after-swap")],
)
def test_a_killed_commit_is_repeated_and_makes_one_version(dvfs: Program, mnt: Path, point: str, daemon: str) -> None:
    edit(mnt)
    first = tree(mnt)
    ran = subprocess.run(
        [sys.executable, "-m", "tests.editing.commit_process", mnt, point],
        env=dvfs.environ, cwd=ROOT, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL, ran.stderr.decode()
    assert tree(mnt) == first
    if daemon == "dies":
        (noted,) = Mounts(Path(dvfs.environ["DVFS_STATE_DIR"])).all()
        os.kill(noted.pid, signal.SIGKILL)
        assert wait_gone(noted.pid, noted.started)
        mnt = mount(dvfs)
        assert tree(mnt) == first
    edit(mnt, 2)
    second = tree(mnt)
    dvfs.ok("commit", "mnt")
    assert tree(mnt) == second
    made = versions(dvfs)
    assert content(dvfs, f"p/n@{made[-1]}") == second
    assert len(made) == (3 if point in LANDED else 2)
    if point in LANDED:
        assert content(dvfs, f"p/n@{made[1]}") == first
    assert "No edits." in dvfs.ok("status", "mnt")
    dvfs.ok("umount", "mnt")
    assert tree(mount(dvfs)) == second


WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
log = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
number = 0
while not os.path.exists(sys.argv[3]):
    os.write(file, b"line %06d\\n" % number)
    os.fsync(file)
    os.write(log, b"%d\\n" % number)
    number += 1
"""


def test_writing_goes_on_while_commits_run(dvfs: Program, mnt: Path, tmp_path: Path) -> None:
    log, stop = tmp_path / "log", tmp_path / "stop"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, mnt / "lines", log, stop])
    synced = []
    try:
        for number in range(1, 5):
            while not log.exists() or log.read_bytes().count(b"\n") < 20 * number:
                assert writer.poll() is None
            synced.append(log.read_bytes().count(b"\n"))
            dvfs.ok("commit", "mnt")
    finally:
        stop.touch()
        assert writer.wait(30) == 0
    final = (mnt / "lines").read_bytes()
    assert final == b"".join(b"line %06d\n" % number for number in range(final.count(b"\n")))
    for number, count in enumerate(synced, 1):
        held = content(dvfs, f"p/n@1.0.{number}")["lines"]
        assert isinstance(held, bytes)
        assert final.startswith(held)
        assert held.count(b"\n") >= count
    dvfs.ok("commit", "mnt")
    assert content(dvfs, f"p/n@1.0.{len(synced) + 1}")["lines"] == final


def test_what_was_written_through_a_mapping_is_in_the_commit(dvfs: Program, mnt: Path) -> None:
    script = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "mapped = mmap.mmap(file.fileno(), 0)\n"
        "mapped[2_500_000:2_500_006] = b'mapped'\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, mnt / "large"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"written\n"
    dvfs.ok("commit", "mnt")
    writer.communicate()
    held = content(dvfs, "p/n@1.0.1")["large"]
    assert isinstance(held, bytes)
    assert held[2_500_000:2_500_006] == b"mapped"


def test_a_deleted_base_and_another_child_fork_the_lineage(dvfs: Program, mnt: Path) -> None:
    edit(mnt)
    before = tree(mnt)
    dvfs.ok("create", "--name", "n", "--parents", "p/n@1.0.0")
    (dvfs.folder / "extra").write_text("extra")
    dvfs.ok("add", "--files", "extra")
    dvfs.ok("close")
    dvfs.ok("commit", "mnt")
    assert content(dvfs, "p/n@1.0.2") == before
    (parent,) = {item["id"] for item in json.loads(dvfs.ok("search", "--json")) if item["version"] == "1.0.0"}
    made = next(item["id"] for item in json.loads(dvfs.ok("search", "--json")) if item["version"] == "1.0.2")
    record = next(dvfs.folder.parent.glob(f"store/datasets/{made}.json*"))
    assert json.loads(record.read_bytes())["parents"] == [parent]
