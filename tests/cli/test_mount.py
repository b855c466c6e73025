"""Real mounts from the command line, and what goes with them: mounts, umount, warm, cache, doctor."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs.fs.mounts import started_at
from dvfs.fs.options import workers_for
from dvfs.store.url import SUPPORTED
from tests.cli.conftest import Program, tree


@pytest.fixture
def version(dvfs: Program) -> Iterator[str]:
    """The id of the finished version p/d@1.0.0; what is mounted at the end is taken away."""
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", tree(dvfs.folder / "source"))
    dvfs.ok("close")
    yield made
    assert dvfs("umount", "--all", "--lazy").code == 0


def test_mount_shows_what_it_mounted(dvfs: Program, version: str) -> None:
    ran = dvfs.process("mount", "p/d", "mnt")
    assert (ran.code, ran.err) == (0, "")
    match = re.fullmatch(
        rf"Mounted p/d@1\.0\.0 at {re.escape(str(dvfs.folder))}/mnt\nid: {version}\ndigest: ([0-9a-f]{{64}})\n", ran.out
    )
    assert match
    mounted = dvfs.folder / "mnt"
    assert os.getxattr(mounted, "user.dvfs.digest").decode() == match[1]
    assert (mounted / "sub" / "b.txt").read_bytes() == b"beta\n" * 100
    with pytest.raises(OSError) as caught:
        (mounted / "new").touch()
    assert caught.value.errno == errno.EROFS

    listed = json.loads(dvfs.ok("mounts", "--json"))
    assert [(item["directory"], item["id"], item["digest"], item["status"]) for item in listed] == [
        (str(mounted), version, match[1], "served")
    ]
    pid = listed[0]["pid"]
    head = f"{'directory':40} | {'dataset':40} | {'id':32} | {'pid':7} | status"
    row = f"{mounted!s:40} | {'p/d@1.0.0':40} | {version} | {pid:7} | served"
    assert dvfs.ok("mounts") == f"{head}\n{'-' * len(head)}\n{row}\n"

    assert dvfs.ok("umount", "mnt") == "Unmounted mnt\n"
    assert list(mounted.iterdir()) == []
    assert dvfs.ok("mounts", "--json") == "[]\n"
    assert started_at(pid) == 0


def test_mount_of_a_directory_with_other_owners(dvfs: Program, version: str) -> None:
    ran = dvfs.process(
        "mount", "--id", version[:8], "mnt", "--subdir", "sub/", "--uid", "1234", "--gid", "4321", "--json"
    )
    assert (ran.code, ran.err) == (0, "")
    said = ran.json
    assert said == {
        "id": version,
        "name": "p/d",
        "version": "1.0.0",
        "digest": said["digest"],
        "directory": str(dvfs.folder / "mnt"),
        "pid": said["pid"],
        "log": said["log"],
    }
    assert sorted(path.name for path in (dvfs.folder / "mnt").iterdir()) == ["b.txt", "empty", "link"]
    stat = (dvfs.folder / "mnt" / "b.txt").stat()
    assert (stat.st_uid, stat.st_gid) == (1234, 4321)
    assert Path(said["log"]).read_text() != ""


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["mount", "mnt"], 2, "error: name a dataset and a directory: DATASET DIR\n"),
        (["mount", "p/d", "a", "b"], 2, "error: name a dataset and a directory: DATASET DIR\n"),
        (
            ["mount", "p/d", "mnt", "--prefetch", "some"],
            2,
            "error: invalid value for '--prefetch': 'some'",
        ),
        (
            ["mount", "p/d", "mnt", "--cache-size", "big"],
            2,
            "error: invalid value for '--cache-size': 'big'",
        ),
        (["mount", "p/nothing", "mnt"], 3, "error: no dataset p/nothing\n"),
        (["mount", "OPEN", "mnt"], 4, "error: dataset p/d@1.0.1"),
        (["mount", "p/d", "source"], 4, "error: "),
        (["mount", "p/d", "source/a.txt"], 2, "error: "),
        (["mount", "p/d", "mnt", "--subdir", "nothing"], 3, "error: "),
        (["mount", "p/d", "mnt", "--store", "ftp://x"], 2, "error: unsupported store URL ftp://x\n"),
        (["umount", "source"], 3, "error: "),
        (["umount"], 2, "error: name directories, or give --all\n"),
        (["umount", "--all", "mnt"], 2, "error: name directories, or give --all\n"),
    ],
)
def test_what_cannot_be_mounted(dvfs: Program, version: str, words: list[str], code: int, error: str) -> None:
    opened = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    ran = dvfs.process(*[opened if word == "OPEN" else word for word in words])
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(error)
    assert dvfs.ok("mounts", "--json") == "[]\n"


def test_a_busy_mount_names_who_uses_it(dvfs: Program, version: str) -> None:
    assert dvfs.process("mount", "p/d", "mnt", "-q").out == ""
    mounted = dvfs.folder / "mnt"
    with (mounted / "a.txt").open("rb") as held:
        user = subprocess.Popen(["sleep", "100"], stdin=held)
    try:
        ran = dvfs("umount", "mnt")
        assert (ran.code, ran.out) == (4, "")
        assert ran.err.startswith(f"error: {mounted} is in use by sleep (pid {user.pid})\nhint: ")
        assert dvfs.ok("umount", "--lazy", "mnt") == "Unmounted mnt\n"
        assert list(mounted.iterdir()) == []
    finally:
        user.kill()
        user.wait()


def test_umount_of_several_goes_on_after_a_failure(dvfs: Program, version: str) -> None:
    for name in ("one", "two"):
        assert dvfs.process("mount", "p/d", name, "-q").code == 0
    ran = dvfs("umount", "one", "nothing", "two")
    assert (ran.code, ran.out) == (3, "Unmounted one\nUnmounted two\n")
    assert ran.err.startswith(f"error: {dvfs.folder}/nothing is not a mount of dvfs\n")
    assert dvfs.ok("umount", "--all") == ""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground_ends_with_a_signal(dvfs: Program, version: str, number: signal.Signals, workers: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dvfs", "mount", "p/d", "mnt", "--foreground", "--workers", workers],
        cwd=dvfs.folder,
        env=dvfs.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == f"Mounted p/d@1.0.0 at {dvfs.folder}/mnt\n"
        assert (dvfs.folder / "mnt" / "a.txt").read_bytes() == b"alpha\n"
        process.send_signal(number)
        out.read()
    assert process.wait(60) == 0
    assert list((dvfs.folder / "mnt").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "environ", "number"),
    [
        (["--workers", "3"], {"DVFS_WORKERS": "2"}, 3),
        ([], {"DVFS_WORKERS": "2"}, 2),
        (["--workers", "auto"], {"DVFS_WORKERS": "2"}, workers_for(len(os.sched_getaffinity(0)))),
    ],
)
def test_workers_are_as_many_as_were_asked_for(
    dvfs: Program, version: str, words: list[str], environ: dict[str, str], number: int
) -> None:
    assert dvfs.process("mount", "p/d", "mnt", "-q", *words, environ=environ).code == 0
    deadline = time.monotonic() + 30
    while json.loads(dvfs.ok("stats", "mnt", "--json"))["daemon"]["workers"] != number:
        assert time.monotonic() < deadline
    assert f", {number} worker" in dvfs.ok("stats", "mnt")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--workers", "-1"], "'-1' is neither a number up to 64 nor `auto`"),
        (["--rw", "--workers", "2"], "--rw takes no --workers: one process answers what takes edits"),
    ],
)
def test_workers_that_make_no_sense_are_refused(dvfs: Program, version: str, words: list[str], error: str) -> None:
    ran = dvfs.process("mount", "p/d", "mnt", *words)
    assert (ran.code, ran.out) == (2, "")
    assert error in ran.err


def test_auto_leaves_most_cores_to_those_who_read() -> None:
    assert [workers_for(cores) for cores in (1, 2, 7, 8, 15, 16, 23, 24, 64)] == [1, 1, 1, 2, 2, 3, 3, 4, 4]


def test_warm_then_the_store_is_not_needed(dvfs: Program, version: str, tmp_path: Path) -> None:
    environ = {"DVFS_CACHE_DIR": str(tmp_path / "fresh")}
    warmed = dvfs("warm", "p/d", "--json", environ=environ).json
    assert (warmed["id"], warmed["blocks"], warmed["bytes"]) == (version, 1, 516)
    assert warmed["fetched_bytes"] > 0
    assert dvfs.process("mount", "p/d", "mnt", "-q", environ=environ).code == 0
    again = dvfs("warm", dvfs.folder / "mnt", environ=environ)
    assert (again.code, again.out) == (0, "Cache holds p/d@1.0.0: 1 blocks, 516 B, 0 B fetched\n")
    (tmp_path / "store" / "packs").rename(tmp_path / "store" / "elsewhere")
    assert (dvfs.folder / "mnt" / "sub" / "b.txt").read_bytes() == b"beta\n" * 100


def test_cache(dvfs: Program, version: str, tmp_path: Path) -> None:
    dvfs.ok("warm", "-q")
    info = json.loads(dvfs.ok("cache", "info", "--json"))
    assert (info["path"], info["budget_bytes"]) == (str(tmp_path / "cache"), 1 << 30)
    assert info["blocks"] >= 2
    assert dvfs.ok("cache", "info").splitlines()[::3] == [f"path: {tmp_path}/cache", "budget: 1.0 GiB"]

    blocks = sorted((tmp_path / "cache" / "blocks").glob("*/*"))
    assert len(blocks) == info["blocks"]
    blocks[0].chmod(0o644)
    blocks[0].write_bytes(b"damage")
    ran = dvfs("cache", "verify")
    assert (ran.code, ran.err) == (0, f"warning: cache file {blocks[0]} is damaged, removed\n")
    damaged, counted = ran.out.splitlines()
    assert damaged == f"damaged, dropped: {blocks[0]}"
    assert re.fullmatch(rf"{len(blocks) - 1} blocks? sound \(.*\), 1 damaged, 0 stray files", counted)
    assert not blocks[0].exists()
    checked = json.loads(dvfs.ok("cache", "verify", "--json"))
    assert (checked["blocks"], checked["damaged"], checked["strays"]) == (len(blocks) - 1, [], 0)

    cleared = json.loads(dvfs.ok("cache", "clear", "--json"))
    assert (cleared["freed_bytes"] > 0, cleared["bytes"]) == (True, 0)
    assert dvfs.ok("cache", "clear") == "Cache cleared: 0 B freed\n"
    assert list((tmp_path / "cache" / "blocks").glob("*/*")) == []


def test_doctor(dvfs_anywhere: Program) -> None:
    found = json.loads(dvfs_anywhere.ok("doctor", "--json"))
    assert [(item["name"], item["verdict"]) for item in found if item["name"] != "cache disk"] == [
        ("fuse device", "ok"),
        ("fusermount3", "ok"),
        ("user_allow_other", "ok"),
        ("state folder", "ok"),
        ("cache folder", "ok"),
        ("store read", "ok"),
        ("store write", "ok"),
        ("conditional writes", "ok"),
        ("clock", "ok"),
    ]
    assert len(dvfs_anywhere.ok("doctor").splitlines()) >= len(found)


def test_doctor_exits_1_when_something_fails(dvfs: Program, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = dvfs("doctor", environ={"DVFS_STORE": "ftp://there", "DVFS_CACHE_DIR": str(tmp_path / "file")})
    assert ran.code == 1
    assert ran.out.splitlines()[-2:] == [
        "fail  store: unsupported store URL ftp://there",
        f"      hint: supported: {SUPPORTED}",
    ]
    assert f"fail  cache folder: {tmp_path}/file cannot be written: File exists\n" in ran.out
