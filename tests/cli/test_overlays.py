"""What `dvfs overlays` says, of overlays in every state, without touching them; what `umount` says of edits."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dvfs.fs.mounts import wait_gone
from dvfs.fs.overlay.home import Overlays
from tests.cli.conftest import Program, tree


@pytest.fixture
def version(dvfs: Program) -> Iterator[str]:
    """The id of the finished version p/d@1.0.0; what is mounted at the end is taken away."""
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", tree(dvfs.folder / "source"))
    dvfs.ok("close")
    yield made
    assert dvfs("umount", "--all", "--lazy").code == 0


def listed(dvfs: Program) -> dict[str, Any]:
    return {item["overlay"]: item for item in dvfs("overlays", "--json").json}


def files(dvfs: Program) -> dict[str, tuple[int, int]]:
    """Return size and mtime of all that overlays have on the disk; not of what SQLite makes anew when it is read."""
    top = Path(dvfs.environ["DVFS_STATE_DIR"]) / "overlays"
    return {
        str(path.relative_to(top)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(top.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def mount(dvfs: Program, name: str, *words: str) -> Path:
    assert dvfs.process("mount", "--rw", *words, "p/d", name, "-q").code == 0
    return dvfs.folder / name


def test_none(dvfs: Program) -> None:
    assert dvfs.ok("overlays", "--json") == "[]\n"
    assert len(dvfs.ok("overlays").splitlines()) == 2


def test_overlays_in_every_state(dvfs: Program, version: str, tmp_path: Path) -> None:
    mounted = mount(dvfs, "mounted", "--overlay", "live")
    (mounted / "new").write_bytes(bytes(1 << 20))
    kept = mount(dvfs, "kept", "--overlay", "kept")
    (kept / "a.txt").write_bytes(b"edited")
    dvfs.ok("stash", "kept")
    dvfs.ok("umount", "kept")
    dead = mount(dvfs, "dead", "--overlay", "dead")
    (dead / "new").mkdir()
    noted = next(item for item in dvfs("mounts", "--json").json if item["directory"] == str(dead))
    os.kill(noted["pid"], signal.SIGKILL)
    assert wait_gone(noted["pid"], 0)

    before = files(dvfs)
    found = listed(dvfs)
    assert files(dvfs) == before
    assert list(found) == ["dead", "kept", "live"]
    assert {name: item["status"] for name, item in found.items()} == {
        "live": "mounted",
        "kept": "unmounted",
        "dead": "dead",
    }
    assert {name: (item["edits"], item["stash"], item["commit_begun"]) for name, item in found.items()} == {
        "live": (True, False, False),
        "kept": (False, True, False),
        "dead": (True, False, False),
    }
    live = found["live"]
    assert live["bytes"] > 1 << 20
    assert live | {"bytes": 0} == {
        "overlay": "live",
        "id": version,
        "name": "p/d",
        "version": "1.0.0",
        "store": f"file://{tmp_path}/store",
        "committed": None,
        "bytes": 0,
        "status": "mounted",
        "directory": str(mounted),
        "edits": True,
        "stash": False,
        "commit_begun": False,
    }
    lines = dvfs.ok("overlays").splitlines()[2:]
    assert [[word.strip() for word in line.split("|")[4:]] for line in lines] == [
        ["edits", "its daemon died"],
        ["stash", "not mounted"],
        ["edits", str(mounted)],
    ]


def test_one_that_a_command_uses(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs, "mnt", "--overlay", "busy")
    (mounted / "new").mkdir()
    dvfs.ok("umount", "mnt")
    folder = Overlays(Path(dvfs.environ["DVFS_STATE_DIR"])).take("busy")
    try:
        assert listed(dvfs)["busy"]["status"] == "busy"
    finally:
        folder.close()
    assert listed(dvfs)["busy"]["status"] == "unmounted"


def test_one_without_a_database_that_can_be_read(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs, "mnt", "--overlay", "odd")
    (mounted / "new").mkdir()
    dvfs.ok("umount", "mnt")
    (Path(dvfs.environ["DVFS_STATE_DIR"]) / "overlays/odd/overlay.db").write_bytes(b"damage" * 1000)
    assert listed(dvfs)["odd"]["edits"] is None
    assert " | ? " in dvfs.ok("overlays")


def test_after_a_commit(dvfs: Program, version: str) -> None:
    mounted = mount(dvfs, "mnt")
    (mounted / "new").mkdir()
    child = dvfs.ok("commit", "mnt", "-q").strip()
    (item,) = listed(dvfs).values()
    assert (item["id"], item["committed"], item["edits"]) == (version, child, False)
    assert dvfs.ok("umount", "mnt") == "Unmounted mnt\n"
    assert listed(dvfs) == {}


def test_umount_says_how_edits_are_taken_up_again(dvfs: Program, version: str) -> None:
    for words in ((), ("--overlay", "my-own")):
        mounted = mount(dvfs, "a place", *words)
        (mounted / "new").write_bytes(b"edited")
        said = dvfs.ok("umount", "a place").splitlines()
        (name,) = words[1:] or [name for name in listed(dvfs) if name != "my-own"]
        flag = f"--overlay {name} " if words else ""
        assert said == [
            "Unmounted a place",
            f"Edits of p/d@1.0.0 are kept in overlay {name}; take them up again with:",
            f"  dvfs mount --rw {flag}p/d@1.0.0 '{mounted}'",
        ]
        assert dvfs.process("mount", "--rw", *words, "p/d@1.0.0", mounted).code == 0
        assert (mounted / "new").read_bytes() == b"edited"
        assert dvfs.ok("umount", "-q", "a place") == ""
