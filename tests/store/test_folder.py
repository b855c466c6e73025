"""The folder backend: crashes, sleepers, stray files, keys, and errors of the file system."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dvfs.store import folder
from dvfs.store.digest import Buffer
from dvfs.store.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    DvfsError,
    InvalidInput,
    NoSpace,
    NotFound,
    Unavailable,
)
from dvfs.store.folder import STALE_NS, FolderBackend
from dvfs.store.retry import Retrying
from tests.clocks import FakeClock

RECORD = "datasets/0123.json"
OLD = b"old"
NEW = b"new"

CRASHER = """
import os, signal, sys
from pathlib import Path
from dvfs.store.folder import FolderBackend

root, point, operation, key = sys.argv[1:]

def die(here):
    if here == point:
        os.kill(os.getpid(), signal.SIGKILL)

backend = FolderBackend(Path(root), at=die)
if operation == "put":
    backend.put_if_absent(key, b"new")
elif operation == "replace":
    backend.replace_if(key, b"new", backend.get(key).etag)
else:
    backend.delete(key)
"""


def crash(root: Path, point: str, operation: str, key: str) -> None:
    """Kill a process in the middle of *operation*, at the step named *point*."""
    done = subprocess.run([sys.executable, "-c", CRASHER, str(root), point, operation, key], check=False)
    assert done.returncode == -signal.SIGKILL, f"{operation} never came to {point}"


class Sleeper:
    """Runs a call in a thread that stops at the step *point* until `wake`."""

    def __init__(self, root: Path, point: str, call: Callable[[FolderBackend], str]) -> None:
        self._there = threading.Event()
        self._go = threading.Event()
        self._point = point
        self._backend = FolderBackend(root, at=self._at)
        self._thread = threading.Thread(target=self._run, args=(call,))
        self.result: str | None = None
        self.error: DvfsError | None = None
        self._thread.start()
        assert self._there.wait(30)

    def wake(self) -> None:
        self._go.set()
        self._thread.join()

    def _at(self, here: str) -> None:
        if here == self._point and not self._there.is_set():
            self._there.set()
            assert self._go.wait(30)

    def _run(self, call: Callable[[FolderBackend], str]) -> None:
        try:
            self.result = call(self._backend)
        except DvfsError as exc:
            self.error = exc


@pytest.mark.parametrize("key", [RECORD, "packs/00/aa"])
@pytest.mark.parametrize("point", ["created", "written", "synced", "linking", "linked", "unlinked"])
def test_killed_in_put(tmp_path: Path, point: str, key: str) -> None:
    crash(tmp_path / "store", point, "put", key)
    backend = FolderBackend(tmp_path / "store")
    if point in ("linked", "unlinked"):
        assert backend.get(key).data == NEW
        assert [item.key for item in backend.list("")] == [key]
        with pytest.raises(AlreadyExists):
            backend.put_if_absent(key, b"later")
    else:
        assert list(backend.list("")) == []
        with pytest.raises(NotFound):
            backend.get(key)
        backend.put_if_absent(key, b"later")
        assert backend.get(key).data == b"later"


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("point", ["created", "written", "synced", "linking", "linked", "shown", "unlinked"])
def test_killed_in_replace(tmp_path: Path, point: str, generation: int) -> None:
    root = tmp_path / "store"
    etag = FolderBackend(root).put_if_absent(RECORD, OLD if generation == 1 else b"older")
    if generation == 2:
        etag = FolderBackend(root).replace_if(RECORD, OLD, etag)
    crash(root, point, "replace", RECORD)
    backend = FolderBackend(root)
    blob = backend.get(RECORD)
    assert blob.data == (NEW if point in ("linked", "shown", "unlinked") else OLD)
    assert [(item.key, item.etag, item.size) for item in backend.list("")] == [(RECORD, blob.etag, 3)]
    if blob.data == NEW:
        with pytest.raises(Conflict):
            backend.replace_if(RECORD, b"mine", etag)
    backend.replace_if(RECORD, b"later", blob.etag)
    assert backend.get(RECORD).data == b"later"
    assert [item.size for item in backend.list("")] == [5]


@pytest.mark.parametrize("replaced", [False, True])
def test_killed_in_delete(tmp_path: Path, replaced: bool) -> None:
    root = tmp_path / "store"
    etag = FolderBackend(root).put_if_absent(RECORD, OLD)
    if replaced:
        etag = FolderBackend(root).replace_if(RECORD, NEW, etag)
    crash(root, "marked", "delete", RECORD)
    backend = FolderBackend(root)
    assert list(backend.list("")) == []
    with pytest.raises(NotFound):
        backend.head(RECORD)
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"mine", etag)
    backend.delete(RECORD)
    backend.put_if_absent(RECORD, b"later")
    assert backend.get(RECORD).data == b"later"


def test_a_writer_that_slept_before_its_swap_loses(tmp_path: Path) -> None:
    other = FolderBackend(tmp_path)
    first = other.put_if_absent(RECORD, b"0")
    sleeper = Sleeper(tmp_path, "linking", lambda backend: backend.replace_if(RECORD, b"slept", first))
    etag = first
    for number in range(1, 5):
        etag = other.replace_if(RECORD, b"%d" % number, etag)
    sleeper.wake()
    assert isinstance(sleeper.error, Conflict)
    assert other.get(RECORD).data == b"4"


def test_bytes_that_come_back_do_not_fool_a_sleeper(tmp_path: Path) -> None:
    other = FolderBackend(tmp_path)
    first = other.put_if_absent(RECORD, b"same")
    sleeper = Sleeper(tmp_path, "linking", lambda backend: backend.replace_if(RECORD, b"slept", first))
    other.replace_if(RECORD, b"same", other.replace_if(RECORD, b"else", first))
    sleeper.wake()
    assert isinstance(sleeper.error, Conflict)
    assert other.get(RECORD).data == b"same"


@pytest.mark.parametrize("deleted", [False, True])
def test_a_winner_that_slept_after_its_swap_undoes_nothing(tmp_path: Path, deleted: bool) -> None:
    other = FolderBackend(tmp_path)
    first = other.put_if_absent(RECORD, b"0")
    sleeper = Sleeper(tmp_path, "linked", lambda backend: backend.replace_if(RECORD, b"slept", first))
    blob = other.get(RECORD)
    assert blob.data == b"slept"
    other.replace_if(RECORD, b"later", blob.etag)
    if deleted:
        other.delete(RECORD)
    sleeper.wake()
    assert sleeper.result == blob.etag
    if deleted:
        assert list(FolderBackend(tmp_path).list("")) == []
        with pytest.raises(NotFound):
            other.get(RECORD)
    else:
        assert [item.size for item in FolderBackend(tmp_path).list("")] == [5]
        assert other.get(RECORD).data == b"later"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_swap_that_slept_over_a_delete_loses(tmp_path: Path, replaced: bool) -> None:
    other = FolderBackend(tmp_path)
    etag = other.put_if_absent(RECORD, b"0")
    if replaced:
        etag = other.replace_if(RECORD, b"1", etag)
    sleeper = Sleeper(tmp_path, "linking", lambda backend: backend.replace_if(RECORD, b"slept", etag))
    other.delete(RECORD)
    sleeper.wake()
    assert isinstance(sleeper.error, Conflict)
    with pytest.raises(NotFound):
        other.get(RECORD)


def test_a_put_that_slept_over_a_put_and_a_delete_is_in_doubt_and_then_done(tmp_path: Path) -> None:
    other = FolderBackend(tmp_path)
    sleeper = Sleeper(tmp_path, "linking", lambda backend: backend.put_if_absent(RECORD, b"slept"))
    other.put_if_absent(RECORD, b"other")
    other.delete(RECORD)
    sleeper.wake()
    assert isinstance(sleeper.error, Unavailable)
    assert list(other.list("")) == []

    sleeper = Sleeper(
        tmp_path / "2", "linking", lambda backend: Retrying(backend, FakeClock()).put_if_absent(RECORD, b"slept")
    )
    other = FolderBackend(tmp_path / "2")
    other.put_if_absent(RECORD, b"other")
    other.delete(RECORD)
    sleeper.wake()
    assert sleeper.error is None
    assert other.get(RECORD).data == b"slept"


def test_instances_that_share_nothing_count_right(tmp_path: Path) -> None:
    FolderBackend(tmp_path).put_if_absent(RECORD, b"0:")
    threads, rounds = 6, 10

    def count(who: int) -> None:
        backend = FolderBackend(tmp_path)
        for turn in range(rounds):
            while True:
                blob = backend.get(RECORD)
                body = b"%d:%d/%d" % (int(blob.data.split(b":")[0]) + 1, who, turn)
                try:
                    backend.replace_if(RECORD, body, blob.etag)
                    break
                except Conflict:
                    continue

    running = [threading.Thread(target=count, args=(who,)) for who in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert FolderBackend(tmp_path).get(RECORD).data.split(b":")[0] == b"%d" % (threads * rounds)


def test_readers_see_whole_records_while_they_are_replaced(tmp_path: Path) -> None:
    writer, reader = FolderBackend(tmp_path), FolderBackend(tmp_path)
    etag = writer.put_if_absent(RECORD, b"0" * 1000)
    stop = threading.Event()
    torn: list[bytes] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            (info,) = reader.list("datasets/")
            data = reader.get(RECORD).data
            reads += 1
            if len(set(data)) != 1 or len(data) != 1000 or info.size != 1000:
                torn.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        etag = writer.replace_if(RECORD, b"%d" % (number % 10) * 1000, etag)
    stop.set()
    thread.join()
    assert torn == []
    assert reads > 0


def test_the_current_bytes_stand_under_the_key(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    backend.replace_if(RECORD, NEW, backend.put_if_absent(RECORD, OLD))
    assert (tmp_path / RECORD).read_bytes() == NEW


def test_superseded_bytes_are_dropped(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    etag = backend.put_if_absent(RECORD, b"0" * 1000)
    for number in range(1, 6):
        etag = backend.replace_if(RECORD, b"%d" % number * 1000, etag)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "generations" / "datasets").iterdir()}
    assert sizes == {f"0123.json,{number}": 1000 if number == 5 else 0 for number in range(1, 6)}
    backend.delete(RECORD)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()) == 0


def test_nothing_is_left_in_tmp(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    etag = backend.put_if_absent(RECORD, OLD)
    backend.replace_if(RECORD, NEW, etag)
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"x", etag)
    with pytest.raises(AlreadyExists):
        backend.put_if_absent(RECORD, b"x")
    backend.delete(RECORD)
    backend.put_if_absent(RECORD, OLD)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_stale_temp_files_go_at_the_first_write(tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "tmp").mkdir()
    for name, age_ns in (("stale", STALE_NS + 1), ("young", STALE_NS - 10**9)):
        path = tmp_path / "tmp" / name
        path.write_bytes(b"x")
        os.utime(path, ns=(clock.now_ns() - age_ns, clock.now_ns() - age_ns))
    backend = FolderBackend(tmp_path, clock=clock)
    assert list(backend.list("")) == []
    assert (tmp_path / "tmp" / "stale").exists()
    backend.put_if_absent("packs/00/aa", b"x")
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["young"]


@pytest.mark.parametrize("point", ["created", "written", "synced", "linking", "linked"])
def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, point: str) -> None:
    crash(tmp_path, point, "put", "packs/00/aa")
    (left,) = os.listdir(tmp_path / "tmp")
    machine, _, random = left.split("-")
    others = {f"{machine}-{os.getpid()}-{random}", f"0123456789ab-{1 << 22}-{random}"}  # of a live process, of another
    for name in others:
        (tmp_path / "tmp" / name).touch()
    FolderBackend(tmp_path).put_if_absent("packs/00/bb", b"x")
    assert set(os.listdir(tmp_path / "tmp")) == others


def test_a_missing_root_is_made_by_the_first_write_alone(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    backend = FolderBackend(root)
    assert list(backend.list("")) == []
    with pytest.raises(NotFound):
        backend.get("format.json")
    backend.delete("packs/00/aa")
    assert not (tmp_path / "a").exists()
    backend.put_if_absent("format.json", b"{}")
    assert (root / "format.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "datasets/../../x",
        "a//b",
        "a/",
        "a/./b",
        "a\0b",
        "a b",
        "é",
        "tmp/x",
        "generations/x",
        "a,1",
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    backend = FolderBackend(tmp_path / "store")
    calls: list[Callable[[], object]] = [
        lambda: backend.get(key),
        lambda: backend.head(key),
        lambda: backend.put_if_absent(key, b"x"),
        lambda: backend.delete(key),
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert not (tmp_path / "store").exists()


def test_only_records_can_be_replaced(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    etag = backend.put_if_absent("packs/00/aa", b"x")
    with pytest.raises(InvalidInput):
        backend.replace_if("packs/00/aa", b"y", etag)
    assert backend.get("packs/00/aa").data == b"x"


def test_a_long_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        FolderBackend(tmp_path).put_if_absent("names/" + "x" * 300, b"")


def test_foreign_files_are_not_listed(tmp_path: Path) -> None:
    backend = FolderBackend(tmp_path)
    backend.put_if_absent("packs/00/aa", b"x")
    (tmp_path / "packs" / "00" / ".nfs0000000001ac1d2300000001").write_bytes(b"x")
    (tmp_path / "packs" / "00" / "with space").write_bytes(b"x")
    assert [item.key for item in backend.list("")] == ["packs/00/aa"]


def test_listing_remembers_the_hash_of_records_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(now_ns=2_000_000_000_000_000_000)
    backend = FolderBackend(tmp_path, clock=clock)
    etag = backend.put_if_absent(RECORD, OLD)
    (info,) = backend.list("datasets/")
    hashed: list[int] = []
    true_hash = folder._hash

    def counting_hash(data: Buffer) -> str:
        hashed.append(len(data))
        return true_hash(data)

    monkeypatch.setattr(folder, "_hash", counting_hash)
    assert list(backend.list("datasets/")) == [info]
    assert hashed == []
    FolderBackend(tmp_path).replace_if(RECORD, NEW, etag)
    (changed,) = backend.list("datasets/")
    assert changed.etag == true_hash(NEW)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.EMFILE, Unavailable),
    ],
)
def test_errors_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[DvfsError]
) -> None:
    backend = FolderBackend(tmp_path)
    backend.put_if_absent("packs/00/aa", b"x")

    def broken(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DvfsError) as caught:
        backend.put_if_absent("packs/00/bb", b"x")
    assert type(caught.value) is kind
    assert "packs/00/bb" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InvalidInput) as caught:
        FolderBackend(tmp_path).put_if_absent("packs/00/aa", b"x")
    assert "hard links" in str(caught.value)
    assert caught.value.hint


def test_a_link_whose_reply_was_lost_was_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_link = os.link

    def link(source: str, target: str) -> None:
        true_link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", link)
    backend = FolderBackend(tmp_path)
    etag = backend.put_if_absent(RECORD, OLD)
    assert backend.replace_if(RECORD, NEW, etag) == backend.get(RECORD).etag
    assert backend.get(RECORD).data == NEW


def test_a_reader_overtaken_by_swaps_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding a generation and opening it, that generation is superseded and emptied."""
    writer, reader = FolderBackend(tmp_path), FolderBackend(tmp_path)
    etag = writer.put_if_absent(RECORD, b"0")
    etag = writer.replace_if(RECORD, b"1", etag)
    true_open = os.open

    def overtaking_open(path: str, flags: int, mode: int = 0o777) -> int:
        if path.endswith(",1"):
            monkeypatch.setattr(os, "open", true_open)
            writer.replace_if(RECORD, b"2", etag)
        return true_open(path, flags, mode)

    monkeypatch.setattr(os, "open", overtaking_open)
    assert reader.get(RECORD).data == b"2"
    assert os.open is true_open


def test_a_write_is_synced_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    true_fsync = os.fsync

    def recording_fsync(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        true_fsync(fd)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    backend = FolderBackend(tmp_path / "store")
    backend.put_if_absent("packs/00/aa", b"x")
    temp = next(name for name in synced if name.startswith("store/tmp/"))
    assert synced == [".", "store", temp, "store", "store/packs", "store/packs/00"]
    etag = backend.put_if_absent(RECORD, OLD)
    synced.clear()
    backend.replace_if(RECORD, NEW, etag)
    assert synced[0].startswith("store/tmp/")
    assert synced[1:] == ["store", "store/generations", "store/generations/datasets"]
