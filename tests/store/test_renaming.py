"""Rename and move: a version has one name at each moment, and a rename that broke off is finished by the same again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dvfs.store import deletion, renaming
from dvfs.store.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from dvfs.store.record import Record
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.store_kit import Kit


@pytest.fixture
def kit(store_url: str, tmp_path: Path) -> Kit:
    return Kit(lambda: open_backend(store_url), tmp_path)


@pytest.fixture
def store(kit: Kit) -> Iterator[Store]:
    with kit.machine("one") as store:
        yield store


def made(store: Store, name: str = "n", version: str | None = None) -> Record:
    return store.create(project="p", name=name, version=version).finalize()


def claims(store: Store) -> list[str]:
    return [item.key.removeprefix("names/") for item in store.backend.list("names/")]


def titles(records: list[Record]) -> list[str]:
    return [record.title for record in records]


def test_a_dataset_is_renamed_with_all_its_versions_open_ones_too(store: Store) -> None:
    first, opened = made(store), store.create(project="p", name="n").record
    assert titles(renaming.rename(store, "p/n", "m")) == ["p/m@1.0.0", "p/m@1.0.1"]
    assert store.resolve("p/m@1.0.0") == first.with_fields(name="m")
    assert store.resolve("p/m", "open").id == opened.id
    assert claims(store) == ["p/m/1.0.0", "p/m/1.0.1"]
    with pytest.raises(NotFound):
        store.resolve("p/n@1.0.0")
    store.draft(opened.id).finalize()
    assert made(store, "m").version == "1.0.2"
    assert made(store, "n").version == "1.0.0"


def test_a_version_that_is_named_goes_alone(store: Store) -> None:
    first, second = made(store), made(store)
    assert titles(renaming.move(store, second.id, "q/r")) == ["q/r/n@1.0.1"]
    assert titles(renaming.rename(store, "p/n@1.0.0", "m")) == ["p/m@1.0.0"]
    assert store.resolve("q/r/n").id == second.id
    assert store.resolve("p/m").id == first.id
    assert claims(store) == ["p/m/1.0.0", "q%2Fr/n/1.0.1"]


def test_what_the_new_name_has_stays_and_a_number_of_both_is_refused(store: Store) -> None:
    made(store, "n", "1"), made(store, "n", "2"), made(store, "m", "3")
    renaming.rename(store, "p/n@1", "m")
    assert sorted(titles(store.records.all())) == ["p/m@1", "p/m@3", "p/n@2"]
    made(store, "n", "0.5"), made(store, "n", "3")
    with pytest.raises(AlreadyExists, match="version 3 of p/m exists"):
        renaming.rename(store, "p/n", "m")
    assert sorted(titles(store.records.all())) == ["p/m@1", "p/m@3", "p/n@0.5", "p/n@2", "p/n@3"]
    assert len(claims(store)) == 5


def test_the_same_name_again_changes_nothing(store: Store) -> None:
    record = made(store)
    before = store.records.load(record.id).etag
    assert titles(renaming.rename(store, "p/n", "n")) == ["p/n@1.0.0"]
    assert titles(renaming.move(store, record.id, "p")) == ["p/n@1.0.0"]
    assert store.records.load(record.id).etag == before


def test_nothing_is_not_found_and_bad_names_are_refused(store: Store) -> None:
    made(store)
    for spec in ("p/other", "p/n@2", "f" * 32):
        with pytest.raises(NotFound):
            renaming.rename(store, spec, "m")
    for name in ("", " m", "a\nb", "x" * 256):
        with pytest.raises(InvalidInput):
            renaming.rename(store, "p/n", name)


class Killed(BaseException):
    """Stands for kill -9: nothing of the store catches it."""


def dying_at(point: str) -> Callable[[str], None]:
    def crash(here: str) -> None:
        if here == point:
            raise Killed

    return crash


POINTS = ("rename:after-claim", "rename:after-record", "rename:after-release")


@pytest.mark.parametrize("by", ["id", "version", "dataset"])
@pytest.mark.parametrize("point", POINTS)
def test_one_that_broke_off_is_read_right_and_the_same_again_finishes(kit: Kit, point: str, by: str) -> None:
    with kit.machine("one") as store:
        first, second = made(store), made(store)
        spec = {"id": first.id, "version": "p/n@1.0.0", "dataset": "p/n"}[by]
        store.crash = dying_at(point)
        with pytest.raises(Killed):
            renaming.rename(store, spec, "m")
    with kit.machine("two") as store:
        named = []
        for title in ("p/n@1.0.0", "p/m@1.0.0"):
            try:
                assert store.resolve(title).id == first.id
                named.append(title)
            except NotFound:
                continue
        assert named == ["p/n@1.0.0" if point == "rename:after-claim" else "p/m@1.0.0"]
        assert sorted(record.id for record in store.records.all()) == sorted((first.id, second.id))
        if point == "rename:after-release" and by == "version":
            with pytest.raises(NotFound):  # it is done: nothing has the old name any more
                renaming.rename(store, spec, "m")
        else:
            renamed = titles(renaming.rename(store, spec, "m"))
            assert "p/m@1.0.0" in renamed or (point == "rename:after-release" and renamed == ["p/m@1.0.1"])
        other = "p/m/1.0.1" if by == "dataset" else "p/n/1.0.1"
        assert claims(store) == sorted(["p/m/1.0.0", other])


@pytest.mark.parametrize("point", POINTS)
def test_another_rename_or_a_deletion_finishes_it_too(kit: Kit, point: str) -> None:
    for end in ("rename", "delete"):
        with kit.machine() as store:
            record = made(store, f"n-{end}")
            store.crash = dying_at(point)
            with pytest.raises(Killed):
                renaming.rename(store, record.id, "m")
        with kit.machine() as store:
            if end == "rename":
                renaming.rename(store, record.id, "final")
            else:
                deletion.delete(store, record.id)
            left = [claim for claim in claims(store) if "final" not in claim]
            assert left == (["p/m/1.0.0"] if point == "rename:after-claim" else [])
            for claim in claims(store):
                store.backend.delete("names/" + claim)


def test_a_number_that_a_broken_rename_holds_says_so(kit: Kit) -> None:
    with kit.machine("one") as store:
        record = made(store)
        store.crash = dying_at("rename:after-record")
        with pytest.raises(Killed):
            renaming.rename(store, record.id, "m")
    with kit.machine("two") as store:
        with pytest.raises(AlreadyExists, match=rf"held by p/m@1\.0\.0 \({record.id}\), which is being renamed"):
            store.create(project="p", name="n", version="1.0.0")
        assert store.create(project="p", name="n").record.version == "1.0.1"


def test_two_names_at_once_one_wins_and_the_other_is_told(kit: Kit) -> None:
    with kit.machine("one") as slow, kit.machine("two") as fast:
        record = made(slow)

        def overtaken(point: str) -> None:
            if point == "rename:after-claim":
                renaming.rename(fast, record.id, "fast")

        slow.crash = overtaken
        with pytest.raises(Conflict, match="was renamed to p/fast@1"):
            renaming.rename(slow, record.id, "slow")
        assert claims(slow) == ["p/fast/1.0.0"]
        assert slow.resolve("p/fast").id == record.id


def test_deleted_meanwhile_it_leaves_no_claim(kit: Kit) -> None:
    with kit.machine("one") as slow, kit.machine("two") as fast:
        record = made(slow)

        def overtaken(point: str) -> None:
            if point == "rename:after-claim":
                deletion.delete(fast, record.id)

        slow.crash = overtaken
        with pytest.raises(NotFound, match="is deleted"):
            renaming.rename(slow, record.id, "slow")
        assert claims(slow) == []
