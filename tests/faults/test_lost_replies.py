"""Requests that fail and replies that are lost, each in turn: the whole way ends right, or in one clear error and right
when it is gone again. Never two versions of a number, never a lost file, never a claim that blocks."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from dvfs.store.backend import Backend
from dvfs.store.digest import Buffer
from dvfs.store.errors import AlreadyExists, Unavailable, WrongState
from dvfs.store.folder import FolderBackend
from dvfs.store.record import Record, Status
from dvfs.store.retry import Retrying, RetryPolicy
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.clocks import FakeClock
from tests.fault_kit import UPLOAD, Content, content_of, opened, publish, read_all
from tests.fault_process import Processes, task
from tests.faulty import FOREVER, Faulty
from tests.store.noise import noise

WRITES = ("put_if_absent", "replace_if")


@dataclass(slots=True)
class Way:
    """From a folder to a version that is read: create, add, upload, close, each begun where it did not end."""

    source: Path
    expected: dict[bytes, Content]
    parent: str
    folder: Path
    record: Record | None = None
    done: str = ""

    def go(self, backend: Backend) -> None:
        """Do what is not done yet. Raises what goes wrong."""
        with opened(backend, self.folder) as store:
            if self.record is None:
                self.record = self._create(store)
            try:
                draft = store.draft(self.record.id)
            except WrongState:  # closing it was in doubt, and it had been done
                self.record = store.resolve(self.record.id, "finished")
                return
            if self.done < "added":
                draft.add_files([self.source], ScanOptions())
                self.done = "added"
            draft.upload(UPLOAD)
            self.record = draft.finalize()

    def _create(self, store: Store) -> Record:
        try:
            return store.create(project="faults", name="set", version="5.0.0", parents=[self.parent]).record
        except AlreadyExists:  # it was in doubt, and it had been made
            return store.resolve("faults/set@5.0.0", "open")

    def assert_whole(self, backend: Backend, folder: Path) -> None:
        """There is one version of the number, and it is right."""
        with opened(backend, folder) as store:
            found = [record for record in store.records.all() if record.name == "set"]
            assert [(record.version, record.status) for record in found] == [("5.0.0", Status.COMPLETED)]
            with closing(store.version(store.resolve("faults/set@5.0.0", "finished"))) as version:
                assert read_all(version, self.expected, _raise) == self.expected
                assert version.tree.entries == len(self.expected)


def _raise(path: bytes, exc: Exception) -> None:
    raise exc


@dataclass(frozen=True, slots=True)
class Ways:
    """Makes ways, each in *folder* with a copy of the store in *template*, which has one finished version."""

    folder: Path
    template: Path
    parent: str

    def begin(self) -> tuple[Way, Faulty]:
        top = self.folder / str(next(_numbers))
        shutil.copytree(self.template / "store", top / "store", symlinks=True)
        source = self.template / "source"
        expected = content_of(self.template / "base") | content_of(source)
        return Way(source, expected, self.parent, top / "worker"), Faulty(FolderBackend(top / "store"))


_numbers = itertools.count()


@pytest.fixture(scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    top = tmp_path_factory.mktemp("template")
    base, source = top / "base", top / "source" / "sub"
    base.mkdir()
    source.mkdir(parents=True)
    for number in range(4):
        (base / f"old{number}").write_bytes(noise(3000, number))
    for number in range(3):
        (source / f"new{number}").write_bytes(noise(20_000, 100 + number))
    with opened(FolderBackend(top / "store"), top / "publisher") as store:
        return top, publish(store, base, name="parent").id


@pytest.fixture
def ways(tmp_path: Path, _template: tuple[Path, str]) -> Ways:
    return Ways(tmp_path, *_template)


def retrying(faulty: Backend) -> Backend:
    """Return it as the program has it; no time passes."""
    return Retrying(faulty, FakeClock())


def _calls(ways: Ways, operation: str) -> int:
    """Return how many calls of *operation* the whole way takes."""
    way, faulty = ways.begin()
    way.go(retrying(faulty))
    return faulty.count(operation) if operation != "*" else len(faulty.calls)


Fault = Callable[[Faulty, int], None]


def lose_and_doubt(faulty: Faulty, nth: int) -> None:
    """Lose the reply of a put, and let reading it back fail twice."""
    faulty.lose_reply("put_if_absent", nth)
    faulty.fail("get", 1, 2)


FAULTS: dict[str, tuple[str, Fault]] = {
    "a put whose reply is lost": ("put_if_absent", lambda faulty, nth: faulty.lose_reply("put_if_absent", nth)),
    "a put in doubt": ("put_if_absent", lose_and_doubt),
    "a swap whose reply is lost": ("replace_if", lambda faulty, nth: faulty.lose_reply("replace_if", nth)),
    "throttling": ("*", lambda faulty, nth: faulty.fail("*", nth, 5)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_in_turn_passes_unnoticed(ways: Ways, name: str) -> None:
    operation, fault = FAULTS[name]
    calls = _calls(ways, operation)
    assert calls >= 2
    for nth in range(1, calls + 1):
        way, faulty = ways.begin()
        fault(faulty, nth)
        way.go(retrying(faulty))
        faulty.heal()
        way.assert_whole(faulty, way.folder / "reader")


@pytest.mark.parametrize("lost", [False, True], ids=["all replies came before", "all replies of writes were lost"])
def test_a_store_that_goes_away_at_any_call_and_comes_back(ways: Ways, lost: bool) -> None:
    went_away = 0
    calls = _calls(ways, "*")
    for nth in range(1, calls + 1):
        way, faulty = ways.begin()
        if lost:
            for operation in WRITES:
                faulty.lose_reply(operation, 1, FOREVER)
        faulty.fail("*", nth, FOREVER)
        try:
            way.go(retrying(faulty))
        except Unavailable:
            went_away += 1
            faulty.heal()
            way.go(retrying(faulty))
        faulty.heal()
        way.assert_whole(faulty, way.folder / "reader")
    assert went_away > calls // 2  # how many calls there are depends a little on threads


def test_every_third_call_fails(ways: Ways) -> None:
    way, faulty = ways.begin()
    for nth in range(1, 400, 3):
        faulty.fail("*", nth)
    for nth in range(2, 100, 3):
        for operation in WRITES:
            faulty.lose_reply(operation, nth)
    way.go(retrying(faulty))
    faulty.heal()
    way.assert_whole(faulty, way.folder / "reader")


def test_a_reader_gets_over_each_failed_request(ways: Ways) -> None:
    way, faulty = ways.begin()
    way.go(retrying(faulty))
    before = len(faulty.calls)
    way.assert_whole(retrying(faulty), way.folder / "counts")
    calls = len(faulty.calls) - before
    for nth in range(1, calls + 1):
        faulty.fail("*", nth)
        way.assert_whole(retrying(faulty), way.folder / f"reader {nth}")
        faulty.heal()


def test_a_file_is_never_lost_when_the_swap_of_the_draft_is_in_doubt(ways: Ways) -> None:
    """Nothing can be read back after a lost reply: the upload fails, though it was done, and goes on."""
    way, faulty = ways.begin()
    faulty.lose_reply("replace_if", 1, FOREVER)
    with pytest.raises(Unavailable):
        way.go(Retrying(faulty, FakeClock(), RetryPolicy(attempts=1)))
    faulty.heal()
    way.go(retrying(faulty))
    way.assert_whole(faulty, way.folder / "reader")


def test_two_that_create_at_once_get_two_numbers_though_replies_are_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stores = []
        for name in ("one", "two"):
            faulty = Faulty(FolderBackend(tmp_path / "store"))
            for nth in range(1, 40, 2):
                faulty.lose_reply("put_if_absent", nth)
            stores.append(stack.enter_context(opened(retrying(faulty), tmp_path / name)))
        for _ in range(5):
            for store in stores:
                store.create(project="faults", name="set")
        for store in stores:
            with pytest.raises(AlreadyExists):
                store.create(project="faults", name="set", version="1.0.3")
        found = sorted(record.version for record in stores[0].records.all())
    assert found == [f"1.0.{number}" for number in range(10)]


class Overtaken:
    """A backend whose first put below *prefix* is not done, while *meanwhile* is."""

    def __init__(self, inner: Backend, prefix: str, meanwhile: Callable[[], object]) -> None:
        self._inner = inner
        self._prefix = prefix
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_if_absent(self, key: str, data: Buffer) -> str:
        meanwhile = self._meanwhile
        if meanwhile is not None and key.startswith(self._prefix):
            self._meanwhile = None
            meanwhile()
            raise Unavailable("injected")
        return self._inner.put_if_absent(key, data)


@pytest.mark.parametrize("explicit", [None, "1.0.0"])
def test_a_claim_in_doubt_that_is_another_s_is_not_ours(tmp_path: Path, explicit: str | None) -> None:
    with opened(FolderBackend(tmp_path / "store"), tmp_path / "fast") as fast:

        def create() -> None:
            fast.create(project="faults", name="set", version=explicit)

        overtaken = cast("Backend", Overtaken(FolderBackend(tmp_path / "store"), "names/", create))
        with opened(retrying(overtaken), tmp_path / "slow") as slow:
            if explicit is None:
                assert slow.create(project="faults", name="set").record.version == "1.0.1"
            else:
                with pytest.raises(AlreadyExists, match="exists"):
                    slow.create(project="faults", name="set", version=explicit)
        assert len({record.version for record in fast.records.all()}) == len(fast.records.all()) >= 1
        assert fast.resolve("faults/set@1.0.0").id == min(fast.records.all(), key=lambda record: record.version).id


@contextmanager
def store_at(url: str, folder: Path) -> Iterator[Store]:
    with opened(open_backend(url), folder) as store:
        yield store


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def test_processes_that_upload_to_one_open_version_at_once_keep_all_files(
    tmp_path: Path, store_url: str, processes: Processes
) -> None:
    writers = 3
    expected: dict[bytes, Content] = {}
    with store_at(store_url, tmp_path / "creator") as store:
        version = store.create(project="faults", name="set").record.id
    for writer in range(writers):
        source = tmp_path / f"source{writer}"
        (source / f"w{writer}").mkdir(parents=True)
        for number in range(12):
            (source / f"w{writer}" / f"f{number}").write_bytes(noise(9000, 100 * writer + number))
        (source / "shared").mkdir()
        (source / "shared" / f"of {writer}").write_bytes(b"%d" % writer)
        expected |= content_of(source)
        with store_at(store_url, tmp_path / f"machine{writer}") as store:
            store.draft(version).add_files([source], ScanOptions())
    uploads = [task("upload", tmp_path / f"machine{writer}", store_url, id=version) for writer in range(writers)]
    assert [ended.code for ended in processes.at_once(*uploads)] == [0] * writers
    closes = [task("close", tmp_path / f"machine{writer}", store_url, id=version) for writer in range(writers)]
    ended = processes.at_once(*closes)
    assert sorted(one.code for one in ended) == [0] + [1] * (writers - 1)
    assert {one.answer.get("error") for one in ended} == {None, "wrong_state"}
    with store_at(store_url, tmp_path / "reader") as store, closing(store.version(version)) as found:
        assert read_all(found, expected, _raise) == expected
        assert found.tree.files == found.record.counts.files == 13 * writers


def test_processes_that_create_one_number_at_once_make_one_version(
    tmp_path: Path, store_url: str, processes: Processes
) -> None:
    with store_at(store_url, tmp_path / "first") as store:
        store.create(project="faults", name="other")
    told = [task("create", tmp_path / f"machine{one}", store_url, version="1.0.0") for one in range(3)]
    ended = processes.at_once(*told)
    assert sorted(one.code for one in ended) == [0, 1, 1]
    assert {one.answer.get("error") for one in ended} == {None, "already_exists"}
    told = [task("create", tmp_path / f"machine{one}", store_url) for one in range(3)]
    ended = processes.at_once(*told)
    assert [one.code for one in ended] == [0, 0, 0]
    with store_at(store_url, tmp_path / "reader") as store:
        found = sorted(record.version for record in store.records.all() if record.name == "set")
    assert found == ["1.0.0", "1.0.1", "1.0.2", "1.0.3"]
