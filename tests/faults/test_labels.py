"""Labels, rename and deletion under kill -9, lost replies, and several processes at once, on a folder and on S3."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store import deletion, labels, renaming
from dvfs.store.errors import NotFound, Unavailable, WrongState
from dvfs.store.folder import FolderBackend
from dvfs.store.latest import LATEST
from dvfs.store.record import Record, Status
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.clocks import FakeClock
from tests.fault_kit import content_of, opened, publish, read_all, write_tree
from tests.fault_process import Ended, Processes, task
from tests.faulty import FOREVER, Faulty


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


class Place:
    """A *store*, at *url*, and processes that work on it, each on a machine of its own."""

    def __init__(self, store: Store, url: str, folder: Path, processes: Processes) -> None:
        self.store = store
        self.url = url
        self.folder = folder
        self._processes = processes

    def at_once(self, *told: tuple[str, Mapping[str, object]]) -> list[Ended]:
        machines = [self.folder / f"machine{number}" for number in range(len(told))]
        tasks = [task(name, machine, self.url, **words) for machine, (name, words) in zip(machines, told, strict=True)]
        return self._processes.at_once(*tasks)


@pytest.fixture
def place(store_url: str, tmp_path: Path, processes: Processes) -> Iterator[Place]:
    with opened(open_backend(store_url), tmp_path / "test") as store:
        yield Place(store, store_url, tmp_path, processes)


def made(store: Store, *tags: str, name: str = "set", version: str | None = None) -> Record:
    return store.create(project="faults", name=name, version=version, tags=tags).finalize()


def claims(store: Store) -> list[str]:
    return [item.key.removeprefix("names/faults/") for item in store.backend.list("names/")]


def errors(ended: list[Ended]) -> list[str]:
    return sorted(one.answer.get("error", "") for one in ended)


# --- at once


def test_processes_that_make_their_version_the_latest_leave_one(place: Place) -> None:
    store = place.store
    records = [made(store, LATEST) for _ in range(3)]
    for _ in range(3):
        ended = place.at_once(*[("tag", {"id": record.id, "add": [LATEST]}) for record in records])
        assert errors(ended) == ["", "", ""]
        assert sum(LATEST in record.tags for record in store.records.every()) == 1


def test_processes_that_tag_and_describe_one_version_are_all_heard(place: Place) -> None:
    store = place.store
    record = made(store)
    told: list[tuple[str, Mapping[str, object]]] = [
        ("tag", {"id": record.id, "add": [f"t{number}"]}) for number in range(3)
    ]
    told += [("metadata", {"id": record.id, "key": f"k{number}", "value": number}) for number in range(2)]
    assert errors(place.at_once(*told)) == [""] * 5
    found = store.resolve(record.id)
    assert set(found.tags) == {"t0", "t1", "t2"}
    assert found.metadata == {"k0": 0, "k1": 1}


def test_of_processes_that_publish_or_delete_one_version_one_is_right(place: Place) -> None:
    store = place.store
    record, other = made(store), made(store)
    ended = place.at_once(*[("publish", {"id": record.id})] * 3)
    assert errors(ended) == ["", "wrong_state", "wrong_state"]
    ended = place.at_once(*[("delete", {"id": record.id})] * 3)
    # One that another is at cannot be told from one that broke off, which whoever comes next finishes.
    assert errors(ended)[0] == ""
    assert set(errors(ended)[1:]) <= {"", "conflict", "not_found"}
    assert store.records.all() == [other]
    assert claims(store) == ["set/1.0.1"]


def test_of_processes_that_rename_one_dataset_one_wins(place: Place) -> None:
    store = place.store
    record = made(store)
    ended = place.at_once(*[("rename", {"id": record.id, "new_name": f"name{number}"}) for number in range(3)])
    done = [one for one in ended if one.code == 0]
    assert len(done) >= 1  # one behind another is no conflict
    assert set(errors(ended)) <= {"", "conflict"}
    found = store.resolve(record.id)
    assert claims(store) == [f"{found.name}/1.0.0"]
    assert [found.title] in [one.answer["titles"] for one in done]


def test_of_processes_that_give_two_versions_one_name_one_wins(place: Place) -> None:
    store = place.store
    first, second = made(store, name="one"), made(store, name="two")
    ended = place.at_once(*[("rename", {"id": record.id, "new_name": "same"}) for record in (first, second)])
    assert errors(ended) == ["", "already_exists"]
    assert len(claims(store)) == 2
    assert {store.resolve(record.title).id for record in store.records.all()} == {first.id, second.id}


@pytest.mark.parametrize("force", [False, True])
def test_a_version_deleted_while_a_child_is_made_of_it(place: Place, tmp_path: Path, force: bool) -> None:
    """Either the child is told that its parent is gone, or it is whole; without force the deletion may lose instead."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "new").write_bytes(b"new")
    expected = content_of(write_tree(tmp_path / "base", files=5)) | content_of(tmp_path / "extra")
    store = place.store
    for number in range(3):
        parent = publish(store, tmp_path / "base", name=f"parent{number}")
        words: dict[str, object] = {"id": parent.id, "source": str(tmp_path / "extra"), "name": f"child{number}"}
        child, deleted = place.at_once(("child", words), ("delete", {"id": parent.id, "force": force}))
        assert (deleted.code, deleted.answer.get("error")) in [(0, None), *([] if force else [(1, "wrong_state")])]
        assert store.records.load(parent.id).record.status is (Status.COMPLETED if deleted.code else Status.DELETED)
        if child.code:
            assert child.answer["error"] == "not_found"
            assert deleted.code == 0
            continue
        with closing(store.version(child.answer["id"])) as version:
            assert read_all(version, expected, _raise) == expected


def _raise(path: bytes, exc: Exception) -> None:
    raise exc


# --- kill -9

KILLED: dict[str, tuple[str, Mapping[str, object]]] = {
    "tag:after-swap": ("tag", {"add": [LATEST]}),
    "rename:after-claim": ("rename", {"new_name": "other"}),
    "rename:after-record": ("rename", {"new_name": "other"}),
    "delete:before-swap": ("delete", {}),
    "delete:after-swap": ("delete", {}),
}


@pytest.mark.parametrize("point", KILLED)
def test_killed_and_done_again(place: Place, point: str, processes: Processes) -> None:
    store = place.store
    first, second = made(store, LATEST), made(store)
    action, words = KILLED[point]
    told = {"id": second.id, **words}
    assert processes(action, place.folder / "killed", place.url, crash=[point, 1], **told).was_killed
    assert [record.version for record in store.records.all() if LATEST in record.tags] == [
        "1.0.1" if point == "tag:after-swap" else "1.0.0"
    ]
    assert processes(action, place.folder / "again", place.url, **told).code == 0
    records = {record.id: record for record in store.records.every()}
    if action == "tag":
        assert (records[first.id].tags, records[second.id].tags) == ((), (LATEST,))
    elif action == "rename":
        assert claims(store) == ["other/1.0.1", "set/1.0.0"]
        assert store.resolve("faults/other").id == second.id
    else:
        assert records[second.id].status is Status.DELETED
        assert claims(store) == ["set/1.0.0"]
    assert records[first.id].status is Status.COMPLETED


# --- lost replies

Call = Callable[[Store, str], object]
CALLS: dict[str, Call] = {
    "publish": labels.publish,
    "tag": lambda store, spec: labels.tag(store, spec, add=["latest", "x"]),
    "rename": lambda store, spec: renaming.rename(store, spec, "other"),
    "move": lambda store, spec: renaming.move(store, spec, "elsewhere"),
    "delete": deletion.delete,
}


def state(store: Store) -> object:
    """Return what the store says, without times."""
    return [(r.title, r.status, r.tags) for r in store.records.every()], [
        item.key for item in store.backend.list("names/")
    ]


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[], tuple[Faulty, str]]:
    """Make a new store with two versions, the first the latest one; return its backend and the second's id."""
    numbers = iter(range(10_000))

    def begun() -> tuple[Faulty, str]:
        faulty = Faulty(FolderBackend(tmp_path / f"store{next(numbers)}"))
        with opened(faulty, tmp_path / "maker") as store:
            made(store, LATEST)
            return faulty, made(store).id

    return begun


@pytest.mark.parametrize("name", CALLS)
def test_each_lost_reply_and_failure_in_turn_passes_unnoticed(
    name: str, begin: Callable[[], tuple[Faulty, str]], tmp_path: Path
) -> None:
    faulty, version = begin()
    with opened(Retrying(faulty, FakeClock()), tmp_path / "right") as store:
        before = len(faulty.calls)
        CALLS[name](store, version)
        calls = len(faulty.calls) - before
        right = state(store)
    assert calls > 1
    for nth in range(1, calls + 1):
        for operation in ("put_if_absent", "replace_if", "delete", "*"):
            faulty, version = begin()
            with opened(Retrying(faulty, FakeClock()), tmp_path / f"worker{nth}") as store:
                (faulty.fail if operation == "*" else faulty.lose_reply)(operation, nth)
                CALLS[name](store, version)
                faulty.heal()
                assert state(store) == right, (nth, operation)


@pytest.mark.parametrize("lost", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("name", CALLS)
def test_a_store_that_goes_away_at_any_call_and_comes_back(
    name: str, lost: bool, begin: Callable[[], tuple[Faulty, str]], tmp_path: Path
) -> None:
    """The same again ends right, or says that it had been done."""
    faulty, version = begin()
    with opened(faulty, tmp_path / "right") as store:
        before = len(faulty.calls)
        CALLS[name](store, version)
        calls = len(faulty.calls) - before
        right = state(store)
    for nth in range(1, calls + 1):
        faulty, version = begin()
        backend = Retrying(faulty, FakeClock(), RetryPolicy(attempts=1))
        with opened(backend, tmp_path / f"worker{nth}") as store:
            if lost:
                for operation in ("put_if_absent", "replace_if", "delete"):
                    faulty.lose_reply(operation, 1, FOREVER)
            faulty.fail("*", nth, FOREVER)
            try:
                CALLS[name](store, version)
            except Unavailable:
                faulty.heal()
                _again(CALLS[name], store, version)
            faulty.heal()
            if name == "tag":  # where it could not be taken from the former one, readers see it on the last alone
                labels.tag(store, version, add=[LATEST])
            assert state(store) == right, nth


def _again(call: Call, store: Store, version: str) -> None:
    with contextlib.suppress(WrongState, NotFound):
        call(store, version)
