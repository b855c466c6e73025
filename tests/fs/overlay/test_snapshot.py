"""A snapshot: what rows said at a layer, whatever was done since, and where things were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from dvfs.fs.overlay.snapshot import Snapshot
from dvfs.fs.view import ROOT_INODE, blocking_view
from tests.overlay_kit import IDENTITY, Client, Live


def test_what_is_written_later_is_not_seen(live: Live, client: Client) -> None:
    client.mknod(b"new")
    with live.snapshot() as snapshot:
        client.unlink(b"new")
        client.mknod(b"newer")
        live.rows.checkpoint()
        names = {name for name, _ in snapshot.children(ROOT_INODE, 1)}
        assert b"new" in names
        assert b"newer" not in names
    with live.snapshot() as snapshot:
        assert b"newer" in {name for name, _ in snapshot.children(ROOT_INODE, 1)}


def test_it_can_be_taken_of_an_overlay_whose_process_died(live: Live, client: Client) -> None:
    client.rename(b"d", b"moved")
    live.rows.checkpoint()
    folder = live.copy()
    with closing(Snapshot(folder, blocking_view(live.version, IDENTITY))) as snapshot:
        assert snapshot.path(client.node(b"moved/e").ino, 1) == b"moved/e"


def test_each_layer_has_its_own_tree(live: Live, client: Client) -> None:
    def replace(client: Client) -> None:
        client.unlink(b"one")
        client.mknod(b"one")
        client.write(b"one", 0, b"new")

    def remove(client: Client) -> None:
        client.unlink(b"m/n")
        client.rmdir(b"m")

    steps: list[Callable[[Client], None]] = [
        lambda client: client.rename(b"d", b"vacant/d"),
        lambda client: client.rename(b"vacant/d/e", b"e"),
        replace,
        lambda client: client.rename(b"e", b"vacant/d/e"),
        remove,
        lambda client: client.rename(b"vacant/d", b"d"),
    ]
    trees = {0: client.tree()}
    for step in steps:
        step(client)
        trees[live.freeze().frozen] = client.tree()
    with live.snapshot() as snapshot:
        assert {layer: live.tree_at(snapshot, layer) for layer in trees} == trees


def test_where_a_directory_was(live: Live, client: Client) -> None:
    e, f = client.node(b"d/e").ino, client.node(b"d/e/f").ino
    client.rename(b"d/e", b"vacant/x")
    live.freeze()
    client.mkdir(b"new")
    client.rename(b"vacant", b"new/v")
    live.freeze()
    client.unlink(b"new/v/x/f/deep")
    client.rmdir(b"new/v/x/f")
    new = client.node(b"new").ino
    with live.snapshot() as snapshot:
        assert [snapshot.path(e, layer) for layer in range(4)] == [b"d/e", b"vacant/x", b"new/v/x", b"new/v/x"]
        assert [snapshot.path(f, layer) for layer in range(4)] == [b"d/e/f", b"vacant/x/f", b"new/v/x/f", None]
        assert [snapshot.path(new, layer) for layer in range(4)] == [None, None, b"new", b"new"]
        assert snapshot.path_of((f, b"deep"), 3) is None
        assert snapshot.path(ROOT_INODE, 1) == b""


def test_homes_of_a_file_with_several_names(live: Live, client: Client) -> None:
    ino, m = client.node(b"one").ino, client.node(b"m").ino
    client.link(b"one", b"m/link")
    live.freeze()
    client.unlink(b"one")
    live.freeze()
    client.rename(b"m/link", b"one")
    with live.snapshot() as snapshot:
        home, link = (ROOT_INODE, b"one"), (m, b"link")
        assert [sorted(snapshot.homes(ino, layer)) for layer in range(4)] == [[home], [home, link], [link], [home]]


def test_what_changed_between_layers_is_told_once(live: Live, client: Client) -> None:
    client.mknod(b"a")
    live.freeze()
    client.chmod(b"a", 0o600)
    client.mknod(b"b")
    live.freeze()
    client.unlink(b"a")
    with live.snapshot() as snapshot:
        assert list(snapshot.touched_keys(1, 2)) == [(ROOT_INODE, b"b")]
        assert sorted(snapshot.touched_keys(0, 3)) == [(ROOT_INODE, b"a"), (ROOT_INODE, b"b")]
        assert set(snapshot.touched_inodes(2, 3)) == {ROOT_INODE, snapshot.child((ROOT_INODE, b"a"), 2)}


def test_many_names_are_listed_part_by_part(live: Live, client: Client) -> None:
    client.mkdir(b"new")
    names = [b"%04d" % number for number in range(2500)]
    for name in names:
        client.mknod(b"new/" + name)
    live.freeze()
    for name in names[::2]:
        client.unlink(b"new/" + name)
    ino = client.node(b"new").ino
    with live.snapshot() as snapshot:
        assert sorted(name for name, _ in snapshot.children(ino, 1)) == names
        assert sorted(name for name, _ in snapshot.children(ino, 2)) == names[1::2]
