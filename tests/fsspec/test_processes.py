"""`dvfs://` in many threads and processes: pickled, forked, spawned, as Dask and data loaders do it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import fsspec
import pytest

from dvfs.fsspec import _VERSIONS, DvfsFileSystem
from dvfs.store import open_versions
from dvfs.store.runs import noted
from dvfs.store.url import open_backend
from dvfs.surroundings import THIS_PROGRAM
from tests.fsspec.conftest import BIG, FILES, Published

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12, where threads are


def in_child(work: Callable[[], object]) -> None:
    """Run *work* in a child that is forked off just here, as it is; it must end well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def read(path: str, fs: DvfsFileSystem) -> bytes:
    """Return the bytes of *path*; works in another process."""
    return fs.cat_file(path)


def rest_of(file: object) -> bytes:
    return file.read()  # type: ignore[attr-defined, no-any-return]


def test_a_pickled_file_system_is_the_same_one(fs: DvfsFileSystem) -> None:
    assert fs.cat("p/d/a.csv") == FILES["a.csv"]
    again = pickle.loads(pickle.dumps(fs))
    assert again is fs
    with fs.open("p/d/big.bin") as file:
        file.seek(1000)
        copy = pickle.loads(pickle.dumps(file))
        assert copy.read(10) == file.read(10) == BIG[1000:1010]
        assert (copy.path, copy.size, copy.name, copy.mode) == ("p/d/big.bin", len(BIG), "p/d/big.bin", "rb")
        assert copy.info() == fs.info("p/d/big.bin")
    opened = fsspec.open("dvfs://p/d/a.csv")
    with pickle.loads(pickle.dumps(opened)) as file:
        assert file.read() == FILES["a.csv"]


def test_names_mean_the_same_wherever_it_is_pickled_to(fs: DvfsFileSystem, published: Published) -> None:
    first = fs.version_of("p/d")
    data = pickle.dumps(fs)
    second = published.publish({"new": b"1"})
    DvfsFileSystem.clear_instance_cache()
    assert pickle.loads(data).version_of("p/d") == first

    DvfsFileSystem.clear_instance_cache()
    newer: DvfsFileSystem = fsspec.filesystem("dvfs")
    assert newer.version_of("p/d") == second.id
    again = pickle.loads(data)
    assert again is not newer
    assert (again.version_of("p/d"), newer.version_of("p/d")) == (first, second.id)


def test_the_store_goes_with_it(fs: DvfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(fs)
    monkeypatch.setenv("DVFS_STORE", "/nowhere")
    DvfsFileSystem.clear_instance_cache()
    again = pickle.loads(data)
    assert again.store_url == fs.store_url
    assert again.cat("p/d/a.csv") == FILES["a.csv"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_read_too(fs: DvfsFileSystem, published: Published, method: str) -> None:
    paths = [f"p/d/{name}" for name in FILES]
    with fs.open("p/d/big.bin") as file:
        file.seek(5)
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            assert list(pool.map(partial(read, fs=fs), paths, chunksize=20)) == list(FILES.values())
            assert pool.submit(rest_of, file).result() == BIG[5:]


def test_a_child_opens_versions_of_its_own(fs: DvfsFileSystem, published: Published) -> None:
    file = fs.open("p/d/big.bin")
    assert file.read(10) == BIG[:10]
    mine = fs._opened(published.record)

    def child() -> None:
        assert fs._opened(published.record) is not mine
        assert file.read() == BIG[10:]
        assert fs.cat("p/d/a.csv") == FILES["a.csv"]
        assert fsspec.filesystem("dvfs").cat("p/d/lines.txt") == FILES["lines.txt"]
        gc.collect()

    in_child(child)
    in_child(child)
    assert fs._opened(published.record) is mine
    assert file.read() == BIG[10:]


def test_a_fork_while_another_thread_opens_a_version_leaves_no_lock_behind(fs: DvfsFileSystem) -> None:
    assert fs.cat("p/d/a.csv") == FILES["a.csv"]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with THIS_PROGRAM.stores.lock(open_versions._LOCK), THIS_PROGRAM.stores._here().lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        in_child(lambda: fs.cat("p/d/big.bin") == BIG or os._exit(2))
    finally:
        done.set()
        holder.join()


def test_children_are_part_of_the_run_that_is_noted(fs: DvfsFileSystem, published: Published) -> None:
    assert fs.cat("p/d/a.csv") == FILES["a.csv"]

    def child() -> None:
        assert fs.cat("p/d/big.bin") == BIG
        THIS_PROGRAM.wait_for_notes()

    for _ in range(3):
        in_child(child)
    THIS_PROGRAM.wait_for_notes()
    backend = open_backend(fs.store_url)
    assert [run.did for run in noted(backend, published.record.id)] == ["fsspec"]
    backend.close()


def test_threads_share_a_version(fs: DvfsFileSystem, published: Published) -> None:
    def work(number: int) -> bool:
        mine = fsspec.filesystem("dvfs")  # one a thread
        start = number * 7919 % len(BIG)
        with fs.open("p/d/big.bin") as file, mine.open("p/d@1.0.0/lines.txt") as lines:
            file.seek(start)
            good = file.read(100_000) == BIG[start : start + 100_000]
            return good and lines.readline() == b"line 0\n" and len(mine.find("p/d/many")) == 201

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))
    assert fs._opened(published.record) is _VERSIONS.open(fs._settings, published.record)


def test_a_version_is_closed_when_nobody_reads_it_any_more(
    fs: DvfsFileSystem, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_versions, "_KEPT", 1)
    file = fs.open("p/d/big.bin")
    assert file.read(1) == BIG[:1]
    opened = fs._opened(published.record)
    fetcher, gone = opened.version.fetcher, weakref.ref(opened)
    del opened
    other = published.publish({"x": b"1"}, name="other")
    assert fs.cat(f"{other.id}/x") == b"1"
    gc.collect()
    assert gone() is not None
    assert file.read(1) == BIG[1:2]
    file.close()
    del file
    gc.collect()
    assert gone() is None
    assert fetcher._closed
    assert fs.cat("p/d/a.csv") == FILES["a.csv"]
