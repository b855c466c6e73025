"""kill -9 and lost replies at every point of a commit: nothing is lost, sent twice, or made twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvfs.store.backend import Backend
from dvfs.store.commit import landed
from dvfs.store.errors import Unavailable
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import VersionId, new_version_id
from dvfs.store.record import Record, Status
from dvfs.store.retry import Retrying
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.clocks import FakeClock
from tests.commit_kit import FAULT_FILES, commit_faults, entries, fault_changes, tree, write
from tests.fault_kit import opened, publish
from tests.fault_process import Processes
from tests.faulty import FOREVER, Faulty


@dataclass(frozen=True, slots=True)
class Work:
    """A parent in a store, and a fixed id to commit to it under."""

    url: str
    machine: Path
    parent: Record
    id: VersionId

    @property
    def backend(self) -> Backend:
        return open_backend(self.url)

    def assert_committed(self, folder: Path) -> None:
        """There is one child, the next number, and it is right for who has nothing local."""
        with opened(self.backend, folder) as store:
            check_committed(store, self.parent, self.id)


def check_committed(store: Store, parent: Record, version: VersionId) -> None:
    found = [record for record in store.records.all() if record.id != parent.id]
    assert [(record.id, record.status, record.version) for record in found] == [(version, Status.COMPLETED, "1.0.1")]
    assert landed(store, version) == found[0]
    assert found[0].parents == (parent.id,)
    assert tree(store, found[0]) == fault_changes(entries(store, parent), 2)[2]
    assert {item.key for item in store.backend.list("names/")} == {"names/faults/set/1.0.0", "names/faults/set/1.0.1"}
    assert store.resolve("faults/set@1.0.1").id == version


@pytest.fixture(scope="module")
def run() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def make(url: str, top: Path) -> Work:
    with opened(open_backend(url), top / "machine") as store:
        parent = publish(store, write(top / "source", FAULT_FILES))
    return Work(url, top / "machine", parent, new_version_id())


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return make(str(tmp_path / "store"), tmp_path)


def data_sent(backend: Backend) -> dict[str, int]:
    return {item.key: item.size for item in backend.list("packs/")}


POINTS = [
    ("commit:after-stage", 1),
    ("create:before-claim", 1),
    ("create:after-claim", 1),
    ("create:after-record", 1),
    *[
        (f"pack:{moment}", count)
        for moment in ("before-put", "after-put", "before-mark", "after-mark")
        for count in (1, 3)
    ],
    ("commit:before-pages", 1),
    ("commit:before-swap", 1),
    ("commit:after-swap", 1),
    ("commit:after-report", 1),
]


@pytest.mark.parametrize("first", [1, 2], ids=["with other changes", "with the same changes"])
@pytest.mark.parametrize(("point", "count"), POINTS)
def test_a_commit_that_was_killed_is_repeated(
    work: Work, tmp_path: Path, point: str, count: int, first: int, run: Processes
) -> None:
    told = {"parent": work.parent.id, "id": work.id}
    assert run("commit", work.machine, work.url, crash=[point, count], part=first, **told).was_killed
    swapped = point in ("commit:after-swap", "commit:after-report")
    with opened(work.backend, work.machine) as store:
        assert (landed(store, work.id) is not None) == swapped
        before = data_sent(store.backend)
    if swapped and first == 1:
        return  # what landed is what it was: nothing to repeat
    done = run("commit", work.machine, work.url, **told)
    assert done.code == 0, done.answer
    assert done.answer["version"] == "1.0.1"
    work.assert_committed(tmp_path / "another")
    with opened(work.backend, work.machine) as store:
        assert os.listdir(store.local / "commits") == []
        fresh = [size for key, size in data_sent(store.backend).items() if key not in before]
    if point in ("commit:before-pages", "commit:before-swap"):
        assert sum(fresh) < (45_000 if first == 1 else 15_000)  # pages; and n0 and new/one
    assert run("commit", work.machine, work.url, **told).answer["version"] == "1.0.1"
    work.assert_committed(tmp_path / "one more")


def test_a_commit_killed_again_and_again_gets_done(work: Work, tmp_path: Path, run: Processes) -> None:
    told = {"parent": work.parent.id, "id": work.id}
    times = 0
    while (ended := run("commit", work.machine, work.url, crash=["pack:after-mark", 2], **told)).code != 0:
        assert ended.was_killed
        times += 1
        assert times < 20
    assert times >= 2
    work.assert_committed(tmp_path / "another")


@pytest.mark.parametrize("point", ["commit:before-erase", "erase:after-record", "commit:after-report"])
def test_a_commit_of_nothing_that_was_killed(work: Work, tmp_path: Path, point: str, run: Processes) -> None:
    told = {"parent": work.parent.id, "id": work.id}
    assert run("commit", work.machine, work.url, crash=[point, 1], part=0, **told).was_killed
    again = run("commit", work.machine, work.url, part=0, **told)
    assert (again.code, again.answer) == (0, {"version": None})
    with opened(work.backend, work.machine) as store:
        assert [record.id for record in store.records.all()] == [work.parent.id]
        assert {item.key for item in store.backend.list("names/")} == {"names/faults/set/1.0.0"}
        assert os.listdir(store.local / "commits") == []
    assert run("commit", work.machine, work.url, **told).answer["version"] == "1.0.1"
    work.assert_committed(tmp_path / "another")


def test_a_commit_on_s3_that_was_killed(s3_url: str, tmp_path: Path, run: Processes) -> None:
    work = make(s3_url, tmp_path)
    told = {"parent": work.parent.id, "id": work.id}
    for point in ("create:after-claim", "pack:after-put", "commit:before-swap", "commit:after-swap"):
        assert run("commit", work.machine, work.url, crash=[point, 1], **told).was_killed
    assert run("commit", work.machine, work.url, **told).code == 0
    work.assert_committed(tmp_path / "another")


class Stage:
    """Copies of one store, each with a backend that fails as told."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._number = 0
        self._work = make(str(top / "store"), top)

    def begin(self) -> tuple[Faulty, Path]:
        self._number += 1
        copy = self._top / f"copy {self._number}"
        shutil.copytree(self._top / "store", copy, symlinks=True)
        return Faulty(FolderBackend(copy)), self._top / f"machine {self._number}"

    def commit(self, faulty: Faulty, folder: Path) -> None:
        with opened(Retrying(faulty, FakeClock()), folder) as store:
            assert commit_faults(store, self._work.parent, self._work.id) is not None

    def check(self, faulty: Faulty, folder: Path) -> None:
        faulty.heal()
        with opened(faulty, folder / "reader") as store:
            check_committed(store, self._work.parent, self._work.id)

    def calls(self, operation: str) -> int:
        faulty, folder = self.begin()
        self.commit(faulty, folder)
        return len(faulty.calls) if operation == "*" else faulty.count(operation)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


FAULTS: dict[str, tuple[str, Callable[[Faulty, int], None]]] = {
    "a put whose reply is lost": ("put_if_absent", lambda faulty, nth: faulty.lose_reply("put_if_absent", nth)),
    "a swap whose reply is lost": ("replace_if", lambda faulty, nth: faulty.lose_reply("replace_if", nth)),
    "throttling": ("*", lambda faulty, nth: faulty.fail("*", nth, 5)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_in_turn_passes_unnoticed(stage: Stage, name: str) -> None:
    operation, fault = FAULTS[name]
    for nth in range(1, stage.calls(operation) + 1):
        faulty, folder = stage.begin()
        fault(faulty, nth)
        stage.commit(faulty, folder)
        stage.check(faulty, folder)


@pytest.mark.parametrize("lost", [False, True], ids=["all replies came before", "all replies of writes were lost"])
def test_a_store_that_goes_away_at_any_call_and_comes_back(stage: Stage, lost: bool) -> None:
    went_away = 0
    calls = stage.calls("*")
    for nth in range(1, calls + 1):
        faulty, folder = stage.begin()
        if lost:
            for operation in ("put_if_absent", "replace_if"):
                faulty.lose_reply(operation, 1, FOREVER)
        faulty.fail("*", nth, FOREVER)
        try:
            stage.commit(faulty, folder)
        except Unavailable:
            went_away += 1
            faulty.heal()
            stage.commit(faulty, folder)
        stage.check(faulty, folder)
    assert went_away > calls // 2  # how many calls there are depends a little on threads
