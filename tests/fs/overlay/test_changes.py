"""Changes, as people are told them: each edit as one line, and what a version would not keep."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from dvfs.fs.overlay.changes import Status
from dvfs.fs.overlay.overlay import EXCHANGE
from dvfs.fs.view import ROOT_INODE
from tests.overlay_kit import USER, Client, Live

OWNER = (USER.uid, USER.gid)


def status(live: Live, after: int = 0) -> dict[str, Any]:
    """Return what is not empty of the status."""
    with live.changes(after, live.rows.top) as changes:
        found = changes.status(OWNER)
    assert found.is_clean == (not (found.added or found.modified or found.removed or found.renamed))
    return {name: value for name, value in asdict(found).items() if value}


def both(*works: Callable[[Client], object]) -> Callable[[Client], None]:
    def work(client: Client) -> None:
        for one in works:
            one(client)

    return work


CASES: dict[str, tuple[Callable[[Client], object], dict[str, Any]]] = {
    "nothing": (lambda client: None, {}),
    "a new file": (lambda client: client.mknod(b"d/new"), {"added": [b"d/new"]}),
    "new directories": (
        both(lambda client: client.mkdir(b"x"), lambda client: client.mkdir(b"x/y")),
        {"added": [b"x/", b"x/y/"]},
    ),
    "a file written": (lambda client: client.write(b"one", 0, b"2"), {"modified": [b"one"]}),
    "a file cut": (lambda client: client.truncate(b"cell", 5), {"modified": [b"cell"]}),
    "permissions": (lambda client: client.chmod(b"one", 0o600), {"modified": [b"one"]}),
    "permissions of a directory": (lambda client: client.chmod(b"d", 0o700), {"modified": [b"d/"]}),
    "permissions of the root": (lambda client: client.chmod(b"", 0o700), {"modified": [b"/"]}),
    "a time": (lambda client: client.utime(b"one", 5), {}),
    "a file removed": (lambda client: client.unlink(b"one"), {"removed": [b"one"]}),
    "a directory removed": (
        both(lambda client: client.unlink(b"m/n"), lambda client: client.rmdir(b"m")),
        {"removed": [b"m/"]},
    ),
    "a file renamed": (lambda client: client.rename(b"one", b"d/two"), {"renamed": [(b"one", b"d/two")]}),
    "a directory renamed": (lambda client: client.rename(b"d", b"D"), {"renamed": [(b"d/", b"D/")]}),
    "a directory renamed, and a file in it": (
        both(lambda client: client.rename(b"d", b"D"), lambda client: client.rename(b"D/e/x", b"D/e/y")),
        {"renamed": [(b"d/", b"D/"), (b"d/e/x", b"D/e/y")]},
    ),
    "renamed and written": (
        both(lambda client: client.rename(b"one", b"two"), lambda client: client.write(b"two", 0, b"2")),
        {"renamed": [(b"one", b"two")], "modified": [b"two"]},
    ),
    "renamed to and fro": (
        both(lambda client: client.rename(b"one", b"two"), lambda client: client.rename(b"two", b"one")),
        {},
    ),
    "made and removed": (both(lambda client: client.mknod(b"x"), lambda client: client.unlink(b"x")), {}),
    "replaced by a new file": (
        both(lambda client: client.mknod(b"x"), lambda client: client.rename(b"x", b"one")),
        {"modified": [b"one"]},
    ),
    "removed and made again": (
        both(lambda client: client.unlink(b"one"), lambda client: client.mknod(b"one")),
        {"modified": [b"one"]},
    ),
    "renamed over another": (lambda client: client.rename(b"one", b"cell"), {"renamed": [(b"one", b"cell")]}),
    "exchanged": (
        lambda client: client.rename(b"one", b"cell", EXCHANGE),
        {"renamed": [(b"cell", b"one"), (b"one", b"cell")]},
    ),
    "a file where a directory was": (
        both(
            lambda client: client.unlink(b"m/n"),
            lambda client: client.rmdir(b"m"),
            lambda client: client.mknod(b"m"),
        ),
        {"added": [b"m"], "removed": [b"m/"]},
    ),
    "moved out of a directory that is removed": (
        both(lambda client: client.rename(b"m/n", b"n"), lambda client: client.rmdir(b"m")),
        {"renamed": [(b"m/n", b"n")], "removed": [b"m/"]},
    ),
    "a link": (
        lambda client: client.link(b"one", b"two"),
        {"added": [b"two"], "lost": [(b"one", "hard link"), (b"two", "hard link")]},
    ),
    "attributes": (
        lambda client: client.setxattr(b"one", b"user.a", b"1"),
        {"lost": [(b"one", "extended attributes")]},
    ),
    "an owner": (
        lambda client: client.overlay.setattr(client.node(b"one").ino, uid=7, gid=8),
        {"lost": [(b"one", "owner 7:8")]},
    ),
    "a pipe": (lambda client: client.mknod(b"p", stat.S_IFIFO | 0o644), {"special": [b"p"]}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("killed", [False, True])
def test_status(live: Live, client: Client, name: str, killed: bool) -> None:
    work, expected = CASES[name]
    work(client)
    if killed:
        live.kill()
    assert status(live) == expected


def test_status_since_a_layer(live: Live, client: Client) -> None:
    client.rename(b"d", b"D")
    client.mknod(b"new")
    frozen = live.freeze().frozen
    client.rename(b"D", b"d")
    client.write(b"new", 0, b"abc")
    client.mknod(b"newer")
    assert status(live, frozen) == {"added": [b"newer"], "modified": [b"new"], "renamed": [(b"D/", b"d/")]}
    assert status(live) == {"added": [b"new", b"newer"]}


def test_a_time_that_somebody_set_is_kept_of_a_directory(live: Live, client: Client) -> None:
    before = client.node(b"d").mtime_ns
    client.mknod(b"d/new")
    client.utime(b"m", 5)
    client.mknod(b"m/new")
    with live.changes(0, 1) as changes:
        d, m, root = (changes.snapshot.node(client.node(path).ino, 1) for path in (b"d", b"m", b""))
        assert d is not None
        assert m is not None
        assert root is not None
        assert (changes.kept_mtime_ns(d), changes.kept_mtime_ns(m)) == (before, 5)
        assert not changes.has_other_time(d)
        assert changes.has_other_time(m)
        put = {path for path, _ in changes.puts()}
        assert put == {b"d/new", b"m", b"m/new"}
    assert client.node(b"m").mtime_ns > 5
    assert client.node(b"").ino == ROOT_INODE


def test_entries_of_what_is_put(live: Live, client: Client) -> None:
    client.symlink(b"target", b"new link")
    client.rename(b"d/link", b"moved link")
    client.rename(b"d/e", b"e")
    with live.changes(0, 1) as changes:
        entries = {path: changes.entry(node) for path, node in changes.puts()}
        removed = set(changes.removals(live.version.tree))
    assert entries[b"new link"].target == b"target"
    assert entries[b"moved link"].target == b"/nowhere"
    assert {path for path in entries if path.startswith(b"e")} == {
        b"e", b"e/f", b"e/f/deep", b"e/x", b"e/x-y", b"e/\xff",
    }  # fmt: skip
    assert removed == {b"d/link", b"d/e", b"d/e/f", b"d/e/f/deep", b"d/e/x", b"d/e/x-y", b"d/e/\xff"}


def test_an_empty_status_is_clean() -> None:
    assert Status().is_clean
    assert not Status(renamed=[(b"a", b"b")]).is_clean
    assert Status(special=[b"a"], lost=[(b"a", "owner")]).is_clean
