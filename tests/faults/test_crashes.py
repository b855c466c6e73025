"""kill -9 at named points of create, upload, close, and of a daemon: the same again completes, and all is right."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mountpoint import is_dead, take_away
from dvfs.store.backend import Backend
from dvfs.store.draft import Draft
from dvfs.store.errors import AlreadyExists
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import PACK_ID_SIZE, PackId, VersionId, pack_key
from dvfs.store.pack import read_footer
from dvfs.store.record import Status
from dvfs.store.scan import ScanOptions
from dvfs.store.staging import Staging
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.cache_process import unfinished
from tests.fault_kit import Content, Machine, content_of, opened, publish, read_all, write_tree
from tests.fault_process import FaultProcess, Processes, task
from tests.faulty import Faulty


@dataclass(frozen=True, slots=True)
class Work:
    """A source folder, a store at *url*, and the *machine* that works on it."""

    source: Path
    url: str
    machine: Path
    expected: dict[bytes, Content]

    @property
    def backend(self) -> Backend:
        return open_backend(self.url)

    def created(self) -> VersionId:
        """Make an open version with the source staged."""
        with opened(self.backend, self.machine) as store:
            draft = store.create(project="faults", name="set")
            draft.add_files([self.source], ScanOptions())
            return draft.record.id

    def assert_whole(self, version: VersionId, folder: Path) -> None:
        """Read all of the finished *version* from a machine that has nothing."""
        with opened(self.backend, folder) as store, closing(store.version(version)) as found:
            assert read_all(found, self.expected, _raise) == self.expected
            assert found.record.counts.files == found.tree.files
            assert found.tree.entries == len(self.expected)


@pytest.fixture(scope="module")
def run() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def _raise(path: bytes, exc: Exception) -> None:
    raise exc


@pytest.fixture
def work(tmp_path: Path) -> Work:
    source = write_tree(tmp_path / "source")
    return Work(source, str(tmp_path / "store"), tmp_path / "machine", content_of(source))


@pytest.fixture
def work_anywhere(work: Work, store_url: str) -> Work:
    """On a folder and on S3."""
    return Work(work.source, store_url, work.machine, work.expected)


def marked(store: Store, version: VersionId) -> set[bytes]:
    """Return the digests of the blocks that staging knows to be in the store."""
    with closing(Staging(store.local / "staging" / f"{version}.sqlite")) as staging:
        found = {block.digest for block in staging.sent_blocks()}
        for row in staging.edits():
            found |= {extent.block.digest for extent in row.extents or ()}
    return found


def blocks_by_pack(backend: Backend) -> dict[str, set[bytes]]:
    """Return the digests of the blocks of each pack.

    Of an upload whose sender is killed before the first byte SeaweedFS leaves an empty object.
    """
    found: dict[str, set[bytes]] = {}
    for item in backend.list("packs/"):
        if not item.size and backend.url.startswith("s3:"):
            found[item.key] = set()
            continue
        pack = PackId(bytes.fromhex(item.key.rpartition("/")[2]))
        found[item.key] = {block.digest for block in read_footer(backend, pack).blocks}
    return found


UPLOAD_POINTS = [
    *[("pack:before-put", count) for count in (1, 4)],
    *[("pack:after-put", count) for count in (1, 4)],
    *[("pack:before-mark", count) for count in (1, 3)],
    *[("pack:after-mark", count) for count in (1, 3)],
    ("publish:before-swap", 1),
    ("publish:after-swap", 1),
    ("publish:after-clear", 1),
]


def _assert_upload_goes_on(work: Work, tmp_path: Path, point: str, count: int, run: Processes) -> None:
    version = work.created()
    assert run("upload", work.machine, work.url, id=version, crash=[point, count]).was_killed
    with opened(work.backend, work.machine) as store:
        before = blocks_by_pack(store.backend)
        safe = marked(store, version)
    assert safe or point in ("pack:before-put", "pack:after-put", "pack:before-mark", "publish:after-clear")
    done = run("upload", work.machine, work.url, id=version)
    assert done.code == 0, done.answer
    assert run("close", work.machine, work.url, id=version).code == 0
    with opened(work.backend, work.machine) as store:
        for key, digests in blocks_by_pack(store.backend).items():
            if key not in before:
                assert not digests & safe
        assert os.listdir(store.local / "staging") == []
        assert len(store.records.all()) == 1
    work.assert_whole(version, tmp_path / "another")


@pytest.mark.parametrize(("point", "count"), UPLOAD_POINTS)
def test_an_upload_that_was_killed_goes_on(work: Work, tmp_path: Path, point: str, count: int, run: Processes) -> None:
    _assert_upload_goes_on(work, tmp_path, point, count, run)


@pytest.mark.parametrize("point", ["pack:after-put", "publish:after-swap"])
def test_an_upload_to_s3_that_was_killed_goes_on(
    work: Work, tmp_path: Path, s3_url: str, point: str, run: Processes
) -> None:
    on_s3 = Work(work.source, s3_url, work.machine, work.expected)
    with opened(on_s3.backend, on_s3.machine) as store:
        store.backend.put_if_absent(pack_key(PackId(bytes(PACK_ID_SIZE))), b"")  # left by another that was killed
    _assert_upload_goes_on(on_s3, tmp_path, point, 1, run)


def test_an_upload_killed_again_and_again_gets_done(work: Work, tmp_path: Path, run: Processes) -> None:
    version = work.created()
    sent = 0
    for _ in range(40):
        ended = run("upload", work.machine, work.url, id=version, crash=["pack:after-mark", 2])
        sent += 1
        if ended.code == 0:
            break
    assert ended.code == 0
    assert 2 < sent < 40
    assert run("close", work.machine, work.url, id=version).code == 0
    work.assert_whole(version, tmp_path / "another")


@pytest.mark.parametrize("point", ["close:before-swap", "close:after-swap"])
def test_a_close_that_was_killed(work: Work, tmp_path: Path, point: str, run: Processes) -> None:
    version = work.created()
    assert run("upload", work.machine, work.url, id=version).code == 0
    assert run("close", work.machine, work.url, id=version, crash=[point, 1]).was_killed
    again = run("close", work.machine, work.url, id=version)
    if point == "close:before-swap":
        assert again.code == 0, again.answer
    else:
        assert again.answer["error"] == "wrong_state"
        assert "is completed" in again.answer["message"]
        with opened(work.backend, work.machine) as store, pytest.raises(Exception, match="is completed"):
            Draft(store, store.resolve(version)).finalize()
    with opened(work.backend, work.machine) as store:
        assert store.resolve(version).status == Status.COMPLETED
        assert os.listdir(store.local / "staging") == []
    work.assert_whole(version, tmp_path / "another")


def test_a_close_of_nothing_that_was_killed(tmp_path: Path, work: Work, run: Processes) -> None:
    ended = run("create", work.machine, work.url)
    version = ended.answer["id"]
    for point in ("publish:before-swap", "publish:after-swap", "close:before-swap"):
        assert run("close", work.machine, work.url, id=version, crash=[point, 1]).was_killed
    assert run("close", work.machine, work.url, id=version).code == 0
    with opened(work.backend, tmp_path / "another") as store, closing(store.version(version)) as found:
        assert [path for path, _ in found.entries()] == [b""]


@pytest.mark.parametrize("point", ["create:before-claim", "create:after-claim", "create:after-record"])
@pytest.mark.parametrize("explicit", [None, "7.0.0"])
def test_a_create_with_parents_that_was_killed(
    work: Work, tmp_path: Path, point: str, explicit: str | None, run: Processes
) -> None:
    with opened(work.backend, work.machine) as store:
        parents = [publish(store, work.source, name=name).id for name in ("one", "two")]
        (work.source / "d0" / "f00").write_bytes(b"changed")
        parents.append(publish(store, work.source, name="three").id)
    told = {"parents": parents, "version": explicit}
    assert run("create", work.machine, work.url, crash=[point, 1], **told).was_killed
    again = run("create", work.machine, work.url, **told)
    with opened(work.backend, work.machine) as store:
        found = [record for record in store.records.all() if record.name == "set"]
        if explicit is not None and point == "create:after-record":
            assert again.answer["error"] == "already_exists"
            assert [record.version for record in found] == [explicit]
            version = found[0].id
        else:
            assert again.code == 0, again.answer
            version = again.answer["id"]
            numbers = {"create:before-claim": ["1.0.0"], "create:after-claim": ["1.0.1"]}
            expected = [explicit] if explicit else numbers.get(point, ["1.0.0", "1.0.1"])
            assert [record.version for record in found] == expected
            assert store.resolve(f"faults/set@{expected[-1]}").id == version
    assert run("close", work.machine, work.url, id=version).code == 0
    whole = Work(work.source, work.url, work.machine, content_of(work.source))
    whole.assert_whole(version, tmp_path / "another")


def test_of_two_that_claim_a_number_one_gets_it_however_slow_it_is(tmp_path: Path) -> None:
    slow_backend = Faulty(FolderBackend(tmp_path / "store"))
    go_on = threading.Event()
    slow_backend.hold("put_if_absent", go_on, key="datasets/")
    raised: list[Exception] = []
    with opened(slow_backend, tmp_path / "slow") as slow, opened(FolderBackend(tmp_path / "store"), tmp_path) as fast:

        def create() -> None:
            try:
                slow.create(project="faults", name="set", version="1.0.0")
            except Exception as exc:
                raised.append(exc)

        thread = threading.Thread(target=create)
        thread.start()
        while not any(key.startswith("datasets/") for _, key in slow_backend.calls):
            assert thread.is_alive()
            threading.Event().wait(0.005)
        record = fast.create(project="faults", name="set", version="1.0.0").record
        go_on.set()
        thread.join()
        assert isinstance(raised[0], AlreadyExists)
        assert "1.0.0" in raised[0].message
        assert [(found.id, found.version) for found in fast.records.all()] == [(record.id, "1.0.0")]
        assert fast.resolve("faults/set@1.0.0").id == record.id


DAEMON_POINTS = [
    ("fetch:after-temp", 12),
    ("fetch:before-rename", 12),
    ("fetch:after-rename", 12),
    ("evict:before-unlink", 2),
    ("evict:after-unlink", 2),
]


@pytest.mark.parametrize(("point", "count"), DAEMON_POINTS)
def test_after_a_daemon_was_killed_the_next_mount_reads_all(work: Work, point: str, count: int, run: Processes) -> None:
    version = work.created()
    with opened(work.backend, work.machine) as store:
        draft = store.draft(version)
        draft.upload()
        draft.finalize()
    machine = Machine(work.machine.with_name("reader"), work.url)
    directory = machine.folder / "mnt"
    budget = 100_000 if point.startswith("evict") else 1 << 30
    told = {"id": version, "directory": str(directory), "crash": [point, count], "budget": budget}
    daemon = FaultProcess(task("mount", machine.folder, work.url, **told))
    try:
        assert daemon.answer()["pid"] == daemon.process.pid
        with pytest.raises(OSError) as caught:
            content_of(directory)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        assert daemon.end().was_killed
        assert is_dead(directory)
        left = unfinished(machine.cache)
        assert left or point not in ("fetch:after-temp", "fetch:before-rename")

        with machine.mounted(version) as mount:
            assert mount.directory == directory
            assert not unfinished(machine.cache)
            assert content_of(mount.directory) == work.expected
    finally:
        if mounted_at(directory) is not None:
            take_away(directory, lazy=True)
    done = machine.run("cache", "verify")
    assert done.returncode == 0, done.stderr


def test_what_a_killed_reader_left_goes_with_a_verify(work: Work, tmp_path: Path, run: Processes) -> None:
    with opened(work.backend, work.machine) as store:
        version = publish(store, work.source).id
    machine = Machine(tmp_path / "reader", work.url)
    assert run("read", machine.folder, work.url, id=version, crash=["fetch:before-rename", 5]).was_killed
    assert len(unfinished(machine.cache)) == 1
    assert machine.run("cache", "verify").returncode == 0
    assert not unfinished(machine.cache)


def test_no_crash_of_a_writer_damages_what_is_finished(work_anywhere: Work, tmp_path: Path, run: Processes) -> None:
    work = work_anywhere
    with opened(work.backend, work.machine) as store:
        parent = publish(store, work.source, name="parent").id
        child = store.create(project=None, name="child", parents=[parent])
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "new").write_bytes(b"new" * 10_000)
        child.add_files([tmp_path / "more"], ScanOptions())
    for point in ("pack:after-put", "publish:before-swap", "publish:after-swap"):
        assert run("upload", work.machine, work.url, id=child.record.id, crash=[point, 1]).was_killed
        work.assert_whole(parent, tmp_path / f"after {point}")
