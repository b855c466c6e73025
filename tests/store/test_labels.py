"""Tags, description, metadata and publishing: one swap of the record each, on a folder and on S3."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.store import labels
from dvfs.store.commit import Request, commit
from dvfs.store.crash import no_crash
from dvfs.store.errors import InvalidInput, NotFound, WrongState
from dvfs.store.ids import new_version_id
from dvfs.store.latest import LATEST, settled
from dvfs.store.record import Record, Status
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.commit_kit import OPTIONS, MemoryFiles
from tests.store_kit import Kit


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    with Kit(lambda: open_backend(store_url), tmp_path).machine("one") as store:
        yield store


def made(store: Store, *tags: str, name: str = "n") -> Record:
    """Make a finished version of nothing."""
    return store.create(project="p", name=name, tags=tags).finalize()


def holders(store: Store) -> list[str]:
    """Return the numbers of those that readers see as latest."""
    return [record.version for record in store.records.all() if LATEST in record.tags]


def raw_holders(store: Store) -> list[str]:
    """Return the numbers of those whose record has the tag."""
    return [record.version for record in store.records.every() if LATEST in record.tags]


def test_publish_takes_a_finished_version_and_no_other(store: Store) -> None:
    opened = store.create(project="p", name="n").record
    with pytest.raises(WrongState, match="is not finished"):
        labels.publish(store, opened.id)
    finished = made(store)
    assert labels.publish(store, "p/n").id == finished.id
    assert store.resolve(finished.id, "finished").status is Status.PUBLISHED
    with pytest.raises(WrongState, match="is published already"):
        labels.publish(store, finished.id)
    with pytest.raises(NotFound):
        labels.publish(store, "p/nothing")


def test_tags_come_and_go_and_keep_their_order(store: Store) -> None:
    record = made(store, "one", "two")
    assert labels.tag(store, record.id, add=["three", "one"], remove=["two", "absent"]).tags == ("one", "three")
    assert store.resolve(record.id).tags == ("one", "three")


@pytest.mark.parametrize(
    "words", [{"add": [""]}, {"remove": ["a\nb"]}, {"add": ["a" * 256]}, {"add": "x", "remove": "x"}]
)
def test_tags_that_cannot_be_are_refused(store: Store, words: dict[str, list[str]]) -> None:
    record = made(store)
    with pytest.raises(InvalidInput):
        labels.tag(store, record.id, **words)
    assert store.resolve(record.id).tags == ()


def test_a_name_alone_is_the_highest_finished_version(store: Store) -> None:
    first = made(store)
    store.create(project="p", name="n")
    assert labels.tag(store, "p/n", add=["good"]).id == first.id


def test_writers_of_one_version_are_all_heard(store: Store) -> None:
    record = made(store)
    with ThreadPoolExecutor(4) as pool:
        for done in [
            pool.submit(labels.tag, store, record.id, add=["a"]),
            pool.submit(labels.set_metadata, store, record.id, "k", 1),
            pool.submit(labels.set_description, store, record.id, "what it is"),
            pool.submit(labels.publish, store, record.id),
        ]:
            done.result()
    found = store.resolve(record.id)
    assert (found.tags, found.metadata, found.description) == (("a",), {"k": 1}, "what it is")
    assert found.status is Status.PUBLISHED


def test_metadata_is_set_kept_and_removed(store: Store) -> None:
    record = made(store)
    value: labels.Json = {"a": [1, 2.5, None, True], "größe": "x"}
    labels.set_metadata(store, record.id, "one", value)
    labels.set_metadata(store, record.id, "two", "text")
    assert store.resolve(record.id).metadata == {"one": value, "two": "text"}
    assert labels.remove_metadata(store, record.id, "one").metadata == {"two": "text"}
    with pytest.raises(NotFound, match="no metadata 'one'"):
        labels.remove_metadata(store, record.id, "one")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800", {"a": ["\udcff"]}, "x" * labels.METADATA_BYTES, object()]
)
def test_metadata_that_json_cannot_hold_is_refused(store: Store, value: labels.Json) -> None:
    record = made(store)
    with pytest.raises(InvalidInput):
        labels.set_metadata(store, record.id, "k", value)
    assert store.resolve(record.id).metadata == {}


def test_metadata_of_many_levels_is_refused_before_a_record_has_it(store: Store) -> None:
    record = made(store)
    value: labels.Json = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidInput, match="more than 32 levels"):
        labels.set_metadata(store, record.id, "k", value)
    while isinstance(value, list):  # the interpreter cannot let go of it in one step
        value = value.pop()


def test_descriptions_that_a_record_cannot_hold_are_refused(store: Store) -> None:
    record = made(store)
    for text in ("\udcff", "x" * (labels.DESCRIPTION_BYTES + 1)):
        with pytest.raises(InvalidInput):
            labels.set_description(store, record.id, text)


def test_what_is_deleted_takes_no_labels(store: Store) -> None:
    record = made(store)
    store.records.update(record.id, lambda found: found.with_fields(status=Status.DELETED))
    for call in (labels.publish, labels.tag):
        with pytest.raises(NotFound, match="is deleted"):
            call(store, record.id)


# --- latest


def test_latest_is_taken_from_the_other_versions_of_the_dataset_alone(store: Store) -> None:
    first, other = made(store, LATEST), made(store, LATEST, name="other")
    second = made(store, LATEST, "more")
    assert raw_holders(store) == [other.version, second.version] == ["1.0.0", "1.0.1"]
    labels.tag(store, first.id, add=[LATEST])
    assert store.resolve(first.id).tags == (LATEST,)
    assert store.resolve(second.id).tags == ("more",)
    assert store.resolve(other.id).tags == (LATEST,)


def test_an_open_version_takes_latest_when_it_is_finished(store: Store) -> None:
    first = made(store, LATEST)
    draft = store.create(project="p", name="n", tags=[LATEST])
    assert store.resolve("tag:latest", "finished").id == first.id
    second = draft.finalize()
    assert store.resolve("tag:latest", "finished").id == second.id
    assert raw_holders(store) == [second.version]


def test_a_commit_takes_latest_too(store: Store) -> None:
    files = MemoryFiles()
    parent = made(store, LATEST)
    request = Request(id=new_version_id(), parent=parent, tags=(LATEST,))
    child = commit(store, request, lambda: [files.file("f", b"new")], files, options=OPTIONS)
    assert child is not None
    assert raw_holders(store) == [child.version] == ["1.0.1"]


def test_an_older_version_can_be_latest_again(store: Store) -> None:
    first = made(store, LATEST)
    made(store, LATEST)
    labels.tag(store, first.id, add=[LATEST])
    assert store.resolve("tag:latest").id == first.id


def test_latest_that_broke_off_in_between_is_read_right_and_mended(store_url: str, tmp_path: Path) -> None:
    kit = Kit(lambda: open_backend(store_url), tmp_path)

    class Killed(BaseException):
        pass

    def die(point: str) -> None:
        if point == "tag:after-swap":
            raise Killed

    with kit.machine("one") as store:
        first, second, third = (made(store) for _ in range(3))
        labels.tag(store, third.id, add=[LATEST])
        store.crash = die
        with pytest.raises(Killed):
            labels.tag(store, first.id, add=[LATEST])
    with kit.machine("two") as store:
        assert raw_holders(store) == ["1.0.0", "1.0.2"]
        assert holders(store) == ["1.0.0"]
        assert store.resolve("tag:latest").id == first.id
        labels.tag(store, first.id, add=[LATEST])
        assert raw_holders(store) == ["1.0.0"]
        store.crash = die
        with pytest.raises(Killed):
            labels.tag(store, second.id, add=[LATEST])
        store.crash = no_crash
        labels.tag(store, second.id, remove=[LATEST])
        assert raw_holders(store) == []  # the one before must not come back


def test_of_many_that_become_latest_at_once_one_is(store: Store) -> None:
    records = [made(store) for _ in range(4)]
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda record: labels.tag(store, record.id, add=[LATEST]), records))
        assert len(raw_holders(store)) == 1


def test_the_last_one_counts_though_its_clock_is_behind(store: Store) -> None:
    first, second = made(store), made(store)
    labels.tag(store, first.id, add=[LATEST])
    store.records.update(first.id, lambda found: found.with_fields(latest_ns=found.latest_ns + 10**18))
    labels.tag(store, second.id, add=[LATEST])
    assert raw_holders(store) == [second.version]


def test_settled_keeps_all_other_tags_and_the_order(store: Store) -> None:
    first = made(store, "x", LATEST).with_fields(latest_ns=5)
    second = made(store).with_fields(tags=(LATEST,), latest_ns=4)
    assert [record.tags for record in settled([first, second])] == [("x", LATEST), ()]
    assert [record.tags for record in settled([second, first])] == [(), ("x", LATEST)]
