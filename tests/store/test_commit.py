"""Commit: changes become a child version, as a whole; edits in place cost what they touch."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dvfs.store.catalog.entry import BlockTreeRef, Entry, link
from dvfs.store.commit import Change, landed
from dvfs.store.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, Unavailable, WrongState
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import new_version_id
from dvfs.store.record import Origin, Status
from tests.commit_kit import (
    Committer,
    MemoryFiles,
    entries,
    file_entry,
    folder,
    gone,
    kept,
    tree,
    write,
)
from tests.store.noise import noise
from tests.store_kit import Kit

FILES = {"a": b"1", "d/b": b"22", "d/c": b"333", "d/e/f": noise(3000, 1), "big": noise(400_000, 2), "z": b""}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)


def test_all_kinds_of_changes(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        before = entries(store, parent)
        record = commit.child(
            store,
            [
                files.file("new", b"new", tag=b"1"),
                gone("a"),
                files.file("d/b", noise(300_000, 5), mode=0o755, tag=b"2"),
                folder("x"),
                kept("x/big", before["big"], tag=b"3"),
                gone("big"),
                Change(b"d/link", link(b"c", 9)),
                folder("empty", mode=0o700),
                folder("d/e", mode=0o711),
            ],
        )
        found = tree(store, record)
        after = entries(store, record)
    assert found == {
        "": ("directory", 0o755),
        "new": ("file", 0o644, b"new"),
        "d": ("directory", 0o755),
        "d/b": ("file", 0o755, noise(300_000, 5)),
        "d/c": ("file", 0o644, b"333"),
        "d/link": ("link", b"c"),
        "d/e": ("directory", 0o711),
        "d/e/f": ("file", 0o644, FILES["d/e/f"]),
        "x": ("directory", 0o755),
        "x/big": ("file", 0o644, FILES["big"]),
        "empty": ("directory", 0o700),
        "z": ("file", 0o644, b""),
    }
    assert after["new"].mtime_ns == 7
    assert {tag: (digest, content) for tag, digest, content in commit.stored} == {
        b"1": after["new"][3:5],
        b"2": after["d/b"][3:5],
        b"3": before["big"][3:5],
    }
    assert (record.id, record.parents, record.base) == (commit.id, (parent.id,), parent.root)
    assert (record.project, record.name, record.version) == ("tests", "set", "1.0.1")


def test_a_subtree_goes(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    with kit.machine() as store:
        before = tree(store, parent)
        record = Committer(parent, MemoryFiles()).child(
            store, [gone("d/e/f"), gone("d"), gone("d/e"), gone("d/b"), gone("d/c")]
        )
        assert tree(store, record) == {path: what for path, what in before.items() if path.split("/")[0] != "d"}
    assert record.counts.removed == 3


def test_a_directory_becomes_a_file_and_a_file_a_directory(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        before = entries(store, parent)
        record = Committer(parent, files).child(
            store,
            [
                files.file("d", b"a file now"),
                *map(gone, ("d/b", "d/c", "d/e", "d/e/f")),
                folder("a"),
                kept("a/was d/b", before["d/b"]),
                Change(b"z", link(b"a")),
            ],
        )
        assert tree(store, record) == {
            "": ("directory", 0o755),
            "a": ("directory", 0o755),
            "a/was d/b": ("file", 0o644, b"22"),
            "big": ("file", 0o644, FILES["big"]),
            "d": ("file", 0o644, b"a file now"),
            "z": ("link", b"a"),
        }


def test_directories_become_files_though_nothing_is_said_of_what_is_below(kit: Kit, tmp_path: Path) -> None:
    below = {f"{top}/{name}": b"1" for top in ("d", "d-x", "d/e", "d.y", "d/e/f", "e") for name in ("1", "2/3", "4")}
    parent = kit.publish(write(tmp_path / "source", below))
    files = MemoryFiles()
    with kit.machine() as store:
        record = Committer(parent, files).child(store, [files.file(name, b"") for name in ("e", "d.y", "d-x", "d")])
        assert set(tree(store, record)) == {"", "d", "d-x", "d.y", "e"}


def test_a_moved_subtree_sends_no_data(kit: Kit, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {f"d/{name}": data for name, data in FILES.items()})
    write(source, {"d/of many blocks": noise(4_000_000, 3)})
    parent = kit.publish(source)
    with kit.machine() as store:
        before = entries(store, parent)
        assert isinstance(before["d/of many blocks"].content, BlockTreeRef)
        packs = set(store.backend.list("packs/"))
        moved = {path: entry for path, entry in before.items() if path.startswith("d")}
        record = Committer(parent, MemoryFiles()).child(
            store,
            [
                change
                for path, entry in moved.items()
                for change in (gone(path), kept("m" + path, entry) if entry.is_file else folder("m" + path))
            ],
        )
        after = tree(store, record)
        assert after == {path and "m" + path: what for path, what in tree(store, parent).items()}
        assert entries(store, record)["md/of many blocks"].content == before["d/of many blocks"].content
        assert len(set(store.backend.list("packs/")) - packs) == 1  # of pages
    assert (record.counts.added, record.counts.removed) == (7, 7)


def test_nothing_changed_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        before = entries(store, parent)
        listed = set(store.backend.list(""))
        commit = Committer(parent, files)
        big = bytearray(FILES["big"])
        same = [
            files.file("d/b", FILES["d/b"], mtime_ns=8, tag=b"1"),
            files.file("a", FILES["a"]),
            files.edit("big", bytes(big), before["big"], [(1000, 9000)]),
            kept("d/c", before["d/c"], tag=b"2"),
        ]
        assert commit(store, same) is None
        assert {tag: (digest, content) for tag, digest, content in commit.stored} == {
            b"1": before["d/b"][3:5],
            b"2": before["d/c"][3:5],
        }
        assert set(store.backend.list("")) == listed
        assert os.listdir(store.local / "commits") == []
        assert commit(store, []) is None
        assert set(store.backend.list("")) == listed
        assert landed(store, commit.id) is None


def test_times_alone_make_no_version_but_ride_along(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        before = entries(store, parent)
        touched = kept("d/c", before["d/c"])
        assert Committer(parent, files)(store, [touched, folder("d")]) is None
        record = Committer(parent, files).child(store, [touched, files.file("new", b"")])
        assert entries(store, record)["d/c"] == before["d/c"]._replace(mtime_ns=7)


def test_a_parent_that_was_deleted_and_has_other_children(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        one = Committer(parent, files).child(store, [files.file("new", b"one")])
        store.records.update(parent.id, lambda record: record.with_fields(status=Status.DELETED))
        two = Committer(parent, files).child(store, [files.file("other", b"two")])
        assert (one.version, two.version) == ("1.0.1", "1.0.2")
        assert {one.parents, two.parents} == {(parent.id,)}
        assert set(tree(store, two)) == {"", "a", "big", "d", "d/b", "d/c", "d/e", "d/e/f", "other", "z"}


def test_what_the_request_says_is_in_the_record(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    origin = Origin("a command", "abc", "host", {"slurm": "7"})
    with kit.machine() as store:
        record = Committer(
            parent,
            files,
            project="other",
            name="name",
            version="3.1",
            tags=("x", "y", "x"),
            description="why",
            creator="me",
            origin=origin,
        ).child(store, [files.file("new", noise(5000))])
        assert store.resolve("other/name@3.1") == record
    assert (record.tags, record.description, record.creator, record.origin) == (("x", "y"), "why", "me", origin)
    assert record.status == Status.COMPLETED
    assert record.storages == parent.storages
    assert (record.counts.added, record.counts.files) == (1, 7)
    assert 5000 < record.counts.uploaded < 8000
    assert record.created_ns <= record.completed_ns


def test_a_version_that_is_taken(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        commit = Committer(parent, files, version="1.0.0")
        with pytest.raises(AlreadyExists, match=r"1\.0\.0"):
            commit(store, [files.file("new", b"new")])
        assert landed(store, commit.id) is None
        commit.ask(version=None)
        assert commit.child(store, [files.file("new", b"new")]).version == "1.0.1"
        claimed = Committer(parent, files, version="2.0")
        store.records.names.claim("tests", "set", "2.0", new_version_id())
        with pytest.raises(AlreadyExists, match=r"2\.0"):  # by somebody who is about to write the record
            claimed(store, [files.file("new", b"newer")])


def test_a_commit_that_landed_is_returned_as_it_is(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        record = commit.child(store, [files.file("new", b"new")])
        assert landed(store, commit.id) == record
        assert commit(store, [files.file("more", b"more")]) == record
        assert len(store.records.all()) == 2
        store.records.update(record.id, lambda found: found.with_fields(status=Status.DELETED))
        assert landed(store, commit.id) is None
        with pytest.raises(WrongState, match="is deleted"):
            commit(store, [files.file("more", b"more")])


def test_an_open_record_that_somebody_closes_is_no_commit(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles(on_read=_refuse)
    commit = Committer(parent, files)
    with kit.machine() as store:
        with pytest.raises(Unavailable):
            commit(store, [files.file("new", b"new")])
        store.draft(commit.id).finalize()
        assert landed(store, commit.id) is None
        with pytest.raises(WrongState, match="closed before"):
            commit(store, [files.file("new", b"new")])


def test_a_store_that_is_gone_is_not_made_anew(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        assert store.parameters
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        with pytest.raises(NotFound, match="no store"):
            commit(store, [files.file("new", b"new")])
        with pytest.raises(NotFound, match="no store"):
            landed(store, commit.id)
        assert not (tmp_path / "store").exists()
        (tmp_path / "elsewhere").rename(tmp_path / "store")
        assert commit.child(store, [files.file("new", b"new")]).version == "1.0.1"


def test_another_store_at_the_same_place(kit: Kit, tmp_path: Path) -> None:
    """It has nothing of the parent: a child there could not be read."""
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with kit.machine("publisher") as store:
        assert store.parameters
        listed = set(store.backend.list(""))
        with pytest.raises(NotFound, match="child of is not in the store"):
            Committer(parent, files)(store, [files.file("new", b"new")])
        assert set(store.backend.list("")) == listed


def test_the_root_directory(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    with kit.machine() as store:
        record = Committer(parent, MemoryFiles()).child(store, [folder("", mode=0o700)])
        assert tree(store, record) == tree(store, parent) | {"": ("directory", 0o700)}


def test_changes_that_cannot_be(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    with kit.machine() as store:
        listed = set(store.backend.list(""))
        fifo = Entry(stat.S_IFIFO | 0o644, 0, 0)
        for change in (Change(b"new", fifo), Change(b"new", file_entry(3))):
            with pytest.raises(InvalidInput, match="new"):
                Committer(parent, MemoryFiles())(store, [change])
        short = MemoryFiles()
        changes = [short.file("short", noise(100)), short.file("zz", noise(100_000, 1))]
        for name in (b"short", b"zz"):
            short.data[name] = short.data[name][:-1]
            with pytest.raises(Corrupt, match=f"{name!r} ends after"):
                Committer(parent, short)(store, changes)
            short.data[name] += b"x"
        assert {item.key for item in set(store.backend.list("")) - listed if item.key.startswith("packs")} == set()


def test_a_change_of_the_last_word(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    with kit.machine() as store:
        record = Committer(parent, files).child(
            store, [gone("a"), files.file("b", b"1"), kept("a", entries(store, parent)["d/b"]), gone("b"), gone("none")]
        )
        assert tree(store, record) == tree(store, parent) | {"a": ("file", 0o644, b"22")}


def _refuse(handle: bytes) -> None:
    raise Unavailable("the reader has nothing")
