"""Deletion: nobody finds the version any more, its number is free, and all others are as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store import deletion, labels
from dvfs.store.errors import AlreadyExists, Conflict, InvalidInput, NotFound, WrongState
from dvfs.store.latest import LATEST
from dvfs.store.record import Record, Status
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.store_kit import UPLOAD, Kit


@pytest.fixture
def kit(store_url: str, tmp_path: Path) -> Kit:
    return Kit(lambda: open_backend(store_url), tmp_path)


@pytest.fixture
def store(kit: Kit) -> Iterator[Store]:
    with kit.machine("one") as store:
        yield store


def made(store: Store, *parents: Record, name: str = "n", version: str | None = None) -> Record:
    ids = [parent.id for parent in parents]
    return store.create(project="p", name=name, version=version, parents=ids).finalize()


def claims(store: Store) -> list[str]:
    return [item.key.removeprefix("names/") for item in store.backend.list("names/")]


def test_a_deleted_version_is_gone_for_readers_and_keeps_its_time(store: Store) -> None:
    record, other = made(store), made(store)
    deleted = deletion.delete(store, record.id)
    assert (deleted.status, deleted.root) == (Status.DELETED, record.root)
    assert deleted.deleted_ns >= record.completed_ns
    assert store.records.load(record.id).record == deleted
    assert store.records.all() == [other]
    assert claims(store) == ["p/n/1.0.1"]
    for spec in (record.id, record.id[:12], "p/n@1.0.0"):
        with pytest.raises(NotFound):
            store.resolve(spec)
        with pytest.raises(NotFound):
            deletion.delete(store, spec)
    assert made(store, version="1.0.0").version == "1.0.0"


def test_a_version_with_children_is_kept_unless_forced(store: Store) -> None:
    parent = made(store)
    child = made(store, parent)
    opened = store.create(project="p", name="other", parents=[parent.id]).record
    with pytest.raises(WrongState, match=r"is the parent of 2: p/n@1\.0\.1"):
        deletion.delete(store, parent.id)
    deletion.delete(store, child.id)
    with pytest.raises(WrongState, match=f"is the parent of 1: {opened.title}"):
        deletion.delete(store, parent.id)
    assert deletion.delete(store, parent.id, force=True).status is Status.DELETED
    assert store.draft(opened.id).finalize().parents == (parent.id,)


def test_a_name_stands_for_a_dataset_of_one_version(store: Store) -> None:
    made(store), made(store)
    with pytest.raises(InvalidInput, match=r"has 2 versions: 1\.0\.0, 1\.0\.1"):
        deletion.delete(store, "p/n", force=True)
    deletion.delete(store, "p/n@1.0.1")
    assert deletion.delete(store, "p/n").version == "1.0.0"
    with pytest.raises(NotFound, match="no dataset p/n"):
        deletion.delete(store, "p/n")


def test_a_whole_dataset_goes_and_children_elsewhere_stay(store: Store) -> None:
    first = made(store)
    second = made(store, first)
    store.create(project="p", name="n")
    child = made(store, second, name="child")
    deleted = deletion.delete_all(store, "p", "n")
    assert [record.version for record in deleted] == ["1.0.2", "1.0.1", "1.0.0"]
    assert store.records.all() == [child]
    assert claims(store) == ["p/child/1.0.0"]
    with pytest.raises(NotFound):
        deletion.delete_all(store, "p", "n")


def test_only_an_open_one_where_that_is_wanted(store: Store) -> None:
    record = made(store)
    with pytest.raises(WrongState, match="is completed and can no longer be changed"):
        deletion.delete(store, record.id, want="open")
    draft = store.create(project="p", name="n")

    def finalized(point: str) -> None:
        if point == "delete:before-swap":
            draft.finalize()

    store.crash = finalized
    with pytest.raises(WrongState):
        deletion.delete(store, draft.record.id, want="open")
    assert store.resolve(draft.record.id).status is Status.COMPLETED


def test_an_open_version_goes_with_what_is_staged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    draft = store.create(project="p", name="n")
    draft.add_files([tmp_path / "file"], ScanOptions())
    deletion.delete(store, draft.record.id)
    assert list((store.local / "staging").iterdir()) == []
    with pytest.raises(WrongState, match="is deleted"):
        draft.upload(UPLOAD)


class Killed(BaseException):
    """Stands for kill -9: nothing of the store catches it."""


def dying_at(point: str) -> Callable[[str], None]:
    def crash(here: str) -> None:
        if here == point:
            raise Killed

    return crash


@pytest.mark.parametrize("spec", ["id", "p/n@1.0.0", "p/n"])
def test_one_that_broke_off_is_deleted_and_the_same_again_frees_its_number(kit: Kit, spec: str) -> None:
    with kit.machine("one") as store:
        record = made(store)
        store.crash = dying_at("delete:after-swap")
        with pytest.raises(Killed):
            deletion.delete(store, record.id)
    with kit.machine("two") as store:
        assert store.records.all() == []
        with pytest.raises(NotFound):
            store.resolve("p/n@1.0.0")
        with pytest.raises(AlreadyExists, match="is held by a deleted one"):
            store.create(project="p", name="n", version="1.0.0")
        if spec == "p/n":
            assert [found.id for found in deletion.delete_all(store, "p", "n")] == [record.id]
        else:
            assert deletion.delete(store, record.id if spec == "id" else spec).id == record.id
        assert claims(store) == []
        assert store.create(project="p", name="n", version="1.0.0").record.id != record.id


def test_of_two_at_once_one_is_told(kit: Kit) -> None:
    with kit.machine("one") as slow, kit.machine("two") as fast:
        record = made(slow)

        def overtaken(point: str) -> None:
            if point == "delete:before-swap":
                deletion.delete(fast, record.id)

        slow.crash = overtaken
        with pytest.raises(Conflict, match="was deleted by somebody else"):
            deletion.delete(slow, record.id)


def test_the_latest_one_deleted_brings_no_former_one_back(store: Store) -> None:
    first, second = made(store), made(store)
    labels.tag(store, first.id, add=[LATEST])
    store.crash = dying_at("tag:after-swap")
    with pytest.raises(Killed):
        labels.tag(store, second.id, add=[LATEST])
    deletion.delete(store, second.id)
    assert store.records.all() == [first]


def test_a_child_that_was_begun_before_is_whole(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/old").write_bytes(b"old" * 1000)
    parent = kit.publish(tmp_path / "tree", name="n")
    (tmp_path / "new").write_bytes(b"new")
    with kit.machine("writer") as writer, kit.machine("deleter") as deleter:
        draft = writer.create(project="p", name="child", parents=[parent.id])
        deletion.delete(deleter, parent.id, force=True)
        draft.add_files([tmp_path / "new"], ScanOptions())
        draft.upload(UPLOAD)
        child = draft.finalize()
        with pytest.raises(NotFound, match="is deleted"):
            writer.create(project="p", name="late", parents=[parent.id])
    with kit.machine() as reader, closing(reader.version(child.id)) as version:
        files = {path: version.read(entry) for path, entry in version.entries() if entry.is_file}
    assert files == {b"old": b"old" * 1000, b"new": b"new"}
    assert (child.counts.added, child.counts.removed) == (1, 0)
