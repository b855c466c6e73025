"""Records: claims, compare-and-swap, finding by any name, listing by one LIST."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs.store.backend import Backend
from dvfs.store.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, UnsupportedFormat, WrongState
from dvfs.store.ids import new_version_id
from dvfs.store.metrics import Metered
from dvfs.store.record import Record, Status, decode, encode
from dvfs.store.record_cache import RecordCache
from dvfs.store.records import Records


@pytest.fixture
def records(store_backend: Backend, tmp_path: Path) -> Records:
    return Records(Metered(store_backend), RecordCache(tmp_path / "records.sqlite"))


def new(project: str = "p", name: str = "n", **fields: object) -> Record:
    return Record(id=new_version_id(), project=project, name=name, version="").with_fields(**fields)


def test_versions_count_up_and_an_explicit_one_that_is_taken_is_refused(records: Records) -> None:
    assert [records.insert(new(), None).version for _ in range(3)] == ["1.0.0", "1.0.1", "1.0.2"]
    assert records.insert(new(), "2.0rc1").version == "2.0rc1"
    assert records.insert(new(), None).version == "2.0rc2"
    with pytest.raises(AlreadyExists, match=r"version 1\.0\.1 of p/n exists"):
        records.insert(new(), "1.0.1")


def test_parallel_writers_of_one_name_get_different_versions(records: Records) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: records.insert(new(), None).version, range(6)))

    assert sorted(found) == [f"1.0.{number}" for number in range(6)]


def test_updates_of_one_record_by_many_threads_keep_all(records: Records) -> None:
    record = records.insert(new(), None)

    def tag(number: int) -> None:
        records.update(record.id, lambda found: found.with_fields(tags=(*found.tags, f"t{number}")))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tag, range(8)))

    assert sorted(records.load(record.id).record.tags) == [f"t{number}" for number in range(8)]


def test_a_version_is_found_by_every_form_of_its_name(records: Records) -> None:
    first = records.insert(new("a/b", "größe & co", status=Status.CREATED, tags=("latest",)), None)
    second = records.insert(new("a/b", "größe & co"), None)

    assert records.resolve(first.id) == first
    assert records.resolve(first.id[:9]) == first
    assert records.resolve("a/b/größe & co") == second
    assert records.resolve("a/b/größe & co@1.0.0") == first
    assert records.resolve("tag:latest") == first


@pytest.mark.parametrize("spec", ["f" * 32, "f" * 8, "a/b", "a/b@1.0.0", "tag:x", "word"])
def test_what_is_not_there_is_not_found(records: Records, spec: str) -> None:
    with pytest.raises(NotFound):
        records.resolve(spec)


def test_a_prefix_of_two_ids_is_refused(records: Records) -> None:
    for end in ("0", "1"):
        records.insert(new(id="ab" + "0" * 29 + end), None)

    with pytest.raises(InvalidInput, match="2 ids start with ab000"):
        records.resolve("ab000")


def test_a_claim_without_a_record_and_a_deleted_record_are_nothing(records: Records) -> None:
    kept = records.insert(new(), None)
    deleted = records.insert(new(), None)
    records.update(deleted.id, lambda found: found.with_fields(status=Status.DELETED))
    records.names.claim("p", "n", "9.9.9", new_version_id())

    assert records.resolve("p/n") == kept
    assert records.all() == [kept]
    with pytest.raises(NotFound, match="deleted"):
        records.resolve(deleted.id)


def test_states_are_asked_for(records: Records) -> None:
    record = records.insert(new(), None)

    with pytest.raises(WrongState, match="is not finished"):
        records.resolve(record.id, "finished")
    assert records.resolve("p/n", "open") == record


def test_listing_again_is_one_list_and_no_get(records: Records) -> None:
    made = [records.insert(new(name=f"n{number}", created_ns=number), None) for number in range(5)]
    metered = records._backend
    assert isinstance(metered, Metered)
    fresh = Records(metered, RecordCache(Path(":memory:")))

    assert fresh.all() == made
    before = metered.counts
    assert fresh.all() == made
    asked = metered.counts - before
    assert (asked.requests, asked.list) == (1, 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 2}, UnsupportedFormat),
        ({"id": "0" * 32}, Corrupt),
        ({"status": "odd"}, Corrupt),
        ({"parents": ["../x"]}, Corrupt),
        ({"created_ns": -1}, Corrupt),
        ({"tags": "latest"}, Corrupt),
        ({"root": {"digest": "00"}}, Corrupt),
        ({"status": "completed"}, Corrupt),
        ({"storages": []}, Corrupt),
        ({"counts": {"files": "many"}}, Corrupt),
    ],
)
def test_a_hostile_record_is_one_clear_error(change: dict[str, object], error: type[Exception]) -> None:
    record = new()
    body = json.loads(encode(record)) | change

    with pytest.raises(error, match=f"record of {record.id}"):
        decode(json.dumps(body).encode(), record.id)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b'{"format": 1}', b"[" * 100_000])
def test_what_is_no_record_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(data, "0" * 32)
