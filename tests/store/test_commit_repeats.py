"""Commits that failed, repeated: what was sent is taken up, and only the last attempt's changes count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dvfs.store.commit import abandon
from dvfs.store.crash import no_crash
from dvfs.store.errors import WrongState
from dvfs.store.folder import FolderBackend
from dvfs.store.record import Status
from tests.commit_kit import (
    Committer,
    Crashed,
    MemoryFiles,
    crashing_at,
    file_entry,
    folder,
    gone,
    tree,
    write,
)
from tests.store.noise import noise
from tests.store_kit import Kit

FILES = {"a": b"1", "d/b": b"22", "d/c": b"333", "d/e/f": noise(3000, 1), "big": noise(400_000, 2), "z": b""}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)


def test_a_repeat_has_only_what_it_asks_for(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        kit.crash = crashing_at("commit:before-swap")
        with pytest.raises(Crashed):
            commit(store, [gone("d/c"), files.file("new", b"new"), files.file("a", b"first"), files.file("n2", b"")])
        assert store.records.load(commit.id).record.status == Status.UPLOADING
        kit.crash = no_crash
        record = commit.child(store, [files.file("a", b"second!"), files.file("more", noise(100))])
        assert tree(store, record) == tree(store, parent) | {
            "a": ("file", 0o644, b"second!"),
            "more": ("file", 0o644, noise(100)),
        }
        assert os.listdir(store.local / "commits") == []


def test_a_repeat_after_which_nothing_differs_erases_the_record(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        listed = {item.key for item in store.backend.list("") if not item.key.startswith("packs")}
        kit.crash = crashing_at("commit:before-swap")
        with pytest.raises(Crashed):
            commit(store, [files.file("new", b"new")])
        kit.crash = no_crash
        assert commit(store, []) is None
        assert {item.key for item in store.backend.list("") if not item.key.startswith("packs")} == listed


def test_a_repeat_sends_nothing_again(kit: Kit, tmp_path: Path) -> None:
    """Whether a file is as it was, has another name or mode since, or is a cut one that is not finished."""
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    names = [f"n{number:02}" for number in range(40)]
    changes = [files.file(name, noise(20_000, number)) for number, name in enumerate(names)]
    changes.append(files.file("o", noise(900_000, 77)))
    with kit.machine() as store:
        kit.crash = crashing_at("commit:before-pages")
        with pytest.raises(Crashed):
            commit(store, changes)
        sent = {item.key for item in store.backend.list("packs/")}
        files.reads.clear()
        kit.crash = no_crash
        again = [
            *changes[:10],
            *[change._replace(path=b"moved/" + change.path) for change in changes[10:20]],
            *[change._replace(entry=file_entry(20_000, 0o600)) for change in changes[20:40]],
            folder("moved"),
            changes[40]._replace(path=b"moved/o"),
        ]
        record = commit.child(store, again)
        new = {item.key: item.size for item in store.backend.list("packs/") if item.key not in sent}
        assert len(new) == 1  # of pages
        assert sum(new.values()) < 20_000
        assert {handle for handle, _, _ in files.reads} == {change.path for change in changes[10:]}
        found = tree(store, record)
    assert found["n00"] == ("file", 0o644, noise(20_000, 0))
    assert found["moved/n10"] == ("file", 0o644, noise(20_000, 10))
    assert found["n20"] == ("file", 0o600, noise(20_000, 20))
    assert found["moved/o"] == ("file", 0o644, noise(900_000, 77))


@pytest.mark.parametrize(
    "again", [{}, {"version": "7.0"}, {"name": "new name"}, {"project": "p/q", "version": "1.0.1"}]
)
@pytest.mark.parametrize("point", ["create:after-claim", "create:after-record", "commit:before-swap"])
def test_a_repeat_under_another_name(kit: Kit, tmp_path: Path, point: str, again: dict[str, str]) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files, tags=("old",), description="old")
    changes = [files.file("new", b"new")]
    with kit.machine() as store:
        kit.crash = crashing_at(point)
        with pytest.raises(Crashed):
            commit(store, changes)
        kit.crash = no_crash
        commit.ask(tags=("new",), description="", **again)
        record = commit.child(store, changes)
        title = (again.get("project", "tests"), again.get("name", "set"))
        assert (record.project, record.name) == title
        assert record.version == again.get("version", "1.0.0" if "name" in again else "1.0.1")
        assert (record.tags, record.description) == (("new",), "")
        assert store.resolve(record.title) == record
        assert len(store.records.all()) == 2
        if not again or point != "create:after-claim":  # a claim without a record stays
            claims = {item.key for item in store.backend.list("names/")}
            assert len(claims) == 2


@pytest.mark.parametrize("point", ["rename:after-claim", "rename:after-record"])
def test_a_rename_that_was_killed(kit: Kit, tmp_path: Path, point: str) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    changes = [files.file("new", b"new")]
    with kit.machine() as store:
        kit.crash = crashing_at("commit:before-swap")
        with pytest.raises(Crashed):
            commit(store, changes)
        commit.ask(name="other")
        kit.crash = crashing_at(point)
        with pytest.raises(Crashed):
            commit(store, changes)
        kit.crash = no_crash
        record = commit.child(store, changes)
        assert record.title == "tests/other@1.0.0"
        assert store.resolve("tests/other") == record
        assert len(store.records.all()) == 2


def test_another_parent_for_a_repeat(kit: Kit, tmp_path: Path) -> None:
    one = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(one, files)
    with kit.machine() as store:
        kit.crash = crashing_at("commit:before-swap")
        with pytest.raises(Crashed):
            commit(store, [files.file("new", b"new")])
        kit.crash = no_crash
        two = Committer(one, files).child(store, [files.file("two", b"two")])
        commit.ask(parent=two)
        record = commit.child(store, [files.file("new", b"new")])
        assert (record.parents, record.base) == ((two.id,), two.root)
        assert tree(store, record) == tree(store, two) | {"new": ("file", 0o644, b"new")}


def test_giving_up(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "source", FILES))
    files = MemoryFiles()
    commit = Committer(parent, files)
    with kit.machine() as store:
        abandon(store, commit.id)
        kit.crash = crashing_at("commit:before-swap")
        with pytest.raises(Crashed):
            commit(store, [files.file("new", b"new")])
        abandon(store, commit.id)
        assert [record.id for record in store.records.all()] == [parent.id]
        assert os.listdir(store.local / "commits") == []
        kit.crash = no_crash
        record = commit.child(store, [files.file("new", b"new")])
        assert record.version == "1.0.1"
        with pytest.raises(WrongState):
            abandon(store, commit.id)
