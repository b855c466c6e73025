"""Opening and putting away: what a kill left is made sound, and an overlay without edits is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.fs.overlay.editing import base_for
from dvfs.fs.overlay.home import Folder
from dvfs.store.errors import WrongState
from tests.overlay_kit import FILES, OLD_NS, Base, Client, Live
from tests.store.noise import noise


@pytest.mark.parametrize(
    ("work", "edited"),
    [
        (lambda client: client.tree(), False),
        (lambda client: client.mkdir(b"new"), True),
        (lambda client: client.write(b"one", 0, b"2"), True),
        (lambda client: client.chmod(b"one", 0o600), True),
        (lambda client: client.chmod(b"d", 0o700), True),
        (lambda client: client.utime(b"d", 5), True),
        (lambda client: client.unlink(b"one"), True),
        (lambda client: client.setxattr(b"d", b"user.a", b"1"), True),
        (lambda client: (client.mknod(b"x"), client.unlink(b"x")), False),
        (lambda client: (client.mkdir(b"d/x"), client.rmdir(b"d/x")), False),
        (lambda client: (client.mknod(b"x"), client.open(b"x"), client.unlink(b"x")), False),
        (lambda client: (client.mkdir(b"x"), client.open(b"x"), client.rmdir(b"x")), False),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_an_overlay_without_edits_is_not_kept(
    live: Live, client: Client, work: Callable[[Client], object], edited: bool, killed: bool
) -> None:
    work(client)
    if killed:
        live.kill()
    assert live.reopen() == edited
    if not edited:
        assert live.editing.has_edits() is False


def test_what_was_put_away_is_there_again(live: Live, client: Client) -> None:
    client.write(b"d/cells", 5, b"abc")
    client.rename(b"d", b"D")
    client.mknod(b"new")
    client.write(b"new", 0, noise(9000))
    before = client.tree()
    for _ in range(3):
        assert live.reopen()
        assert live.client.tree() == before


def test_a_kill_while_it_is_opened_does_no_harm(live: Live, client: Client) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, noise(9000))
    before = client.tree()
    for _ in range(4):
        live.kill()
    assert live.client.tree() == before


def test_after_a_kill_files_are_as_long_as_what_was_written(live: Live, client: Client) -> None:
    client.write(b"one", 10_000, b"far")
    client.write(b"cell", 0, b"inside")
    client.mknod(b"new")
    client.write(b"new", 0, b"abc")
    client.truncate(b"new", 100)
    client.write(b"empty", 0, b"abc")
    client.truncate(b"empty", 1)
    live.kill()
    sizes = {path: live.client.node(path).size for path in (b"one", b"cell", b"new", b"empty")}
    assert sizes == {b"one": 10_003, b"cell": 4096, b"new": 100, b"empty": 1}
    assert live.client.read(b"empty") == b"a"


def test_after_a_kill_nothing_is_left_of_files_without_names(live: Live, client: Client) -> None:
    for name in (b"a", b"b", b"c"):
        client.mknod(name)
        client.write(name, 0, name)
    client.open(b"b")
    client.unlink(b"a")  # doomed
    client.unlink(b"b")  # open
    stray = live.editing.files.get(7, 9)
    os.pwrite(stray.handle, b"stray", 0)
    assert stray.cells is not None
    live.kill()
    assert set(live.editing.files.all()) == {(live.client.node(b"c").ino, 1)}
    assert live.rows.all("SELECT ino FROM inodes WHERE nlink = 0") == []
    assert live.client.read(b"c") == b"c"


def test_put_away_nothing_is_left_of_files_that_were_open_without_names(live: Live, client: Client) -> None:
    client.mkdir(b"new")
    client.setxattr(b"one", b"user.a", b"1")
    client.write(b"one", 0, b"2")
    client.open(b"one")
    client.unlink(b"one")
    live.reopen()
    assert list(live.editing.files.all()) == []
    assert live.rows.all("SELECT * FROM xattrs") == []
    assert not live.client.exists(b"one")


def test_a_file_removed_since_a_freeze_is_there_for_the_commit(live: Live, client: Client) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, b"abc")
    frozen = live.freeze().frozen
    before = client.tree()
    client.unlink(b"new")
    for again in (live.kill, live.reopen):
        again()
        with live.snapshot() as snapshot:
            assert live.tree_at(snapshot, frozen) == before


# --- which version it lies on


def asked(live: Live, wanted: str) -> str:
    """Put the overlay away, and return what is to be opened when *wanted* is mounted."""
    live.close()
    try:
        with closing(Folder(live.path)) as folder:
            return base_for(folder, wanted)
    finally:
        live._open()


def test_an_overlay_with_edits_is_of_its_version(live: Live, client: Client) -> None:
    client.mknod(b"new")
    assert asked(live, live.record.id) == live.record.id
    with pytest.raises(WrongState, match="edits of another version: tests/set@"):
        asked(live, "f" * 32)
    assert live.client.exists(b"new")


def test_an_overlay_without_edits_takes_any_version(live: Live) -> None:
    assert asked(live, "f" * 32) == "f" * 32


def test_a_child_is_mounted_on_the_overlay_that_it_was_committed_from(live: Live, client: Client) -> None:
    client.mknod(b"new")
    live.rows.begin_layer()
    live.rows.set_meta(committed=1, child="c" * 32)
    client.mknod(b"newer")
    for wanted in ("c" * 32, live.record.id):
        assert asked(live, wanted) == live.record.id
    live.client.unlink(b"newer")
    assert asked(live, "c" * 32) in ("c" * 32, live.record.id)


# --- a full disk


def test_a_full_disk_can_be_emptied(base: Base, small_disk: Path) -> None:
    live = Live(base, small_disk / "overlay")
    client = live.client
    for number in range(30):
        client.mknod(b"new%d" % number)
        client.write(b"new%d" % number, 0, noise(50_000, number))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    for number in range(30):
        client.unlink(b"new%d" % number)
    client.unlink(b"one")
    client.truncate(b"cell", 0)
    live.rows.log.sync()
    live.editing.files.bury(live.rows.log.synced)
    client.mknod(b"room")
    client.write(b"room", 0, noise(50_000))
    before = client.tree()
    filler.unlink()
    live.kill()
    assert live.client.tree() == before
    assert before[b"d"].mtime_ns >= OLD_NS
    assert set(FILES) - set(before) == {b"one"}
    live.close()
