"""One `Dataset` in many threads and processes: forked, spawned, at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from dvfs import Dataset
from dvfs.store.errors import Unavailable, WrongState
from dvfs.store.opened import Stores
from tests.python.conftest import made, read, write

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12, where threads are

FILES = {f"{number}/{name}": f"{number} {name}".encode() * 100 for number in range(5) for name in "abc"}


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


def test_a_child_opens_a_store_of_its_own(home: Path) -> None:
    dataset = made(home, FILES)
    stores = Dataset.surroundings.stores
    mine = stores.open(dataset._settings)
    assert stores.open(dataset._settings) is mine

    def child() -> None:
        assert stores.open(dataset._settings) is not mine
        assert read(dataset.get_local_copy()) == FILES
        new = Dataset.create(parent_datasets=[dataset])
        new.remove_files("0")
        new.finalize()
        stores.close()

    in_child(child)
    assert stores.open(dataset._settings) is mine
    new = Dataset.get(dataset_project="p", dataset_name="d")
    assert (new.version, len(new.list_files())) == ("1.0.1", 12)


def test_a_fork_while_other_threads_are_at_work_leaves_no_lock_behind(home: Path) -> None:
    dataset = made(home, FILES)
    opened = Dataset.create(parent_datasets=[dataset])
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with opened._lock, Dataset.surroundings.stores._here().lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        in_child(lambda: opened.remove_files("1/a"))
    finally:
        done.set()
        holder.join()
    assert len(opened.list_files()) == len(FILES) - 1


def test_forks_under_load_neither_hang_nor_fail(home: Path) -> None:
    """Other threads are in SQLite nearly all the time."""
    dataset = made(home, FILES)
    stop = threading.Event()

    def work(name: str) -> None:
        opened = Dataset.create(name, "p")
        while not stop.is_set():
            opened.add_files(home / "made-0")
            assert Dataset.list_datasets(partial_name="^d$")

    def child() -> None:
        assert read(dataset.get_local_copy()) == FILES
        assert len(Dataset.list_datasets()) == 1
        new = Dataset.create(parent_datasets=[dataset])
        new.remove_files("0")
        assert len(new.list_files()) == len(FILES) - 3

    workers = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    try:
        for _ in range(15):
            in_child(child)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_what_another_thread_had_open_is_not_opened_in_a_child(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    source = write(home / "source", {"a": "1"})
    opened, done = threading.Event(), threading.Event()

    def hold() -> None:
        with dataset._draft()._staging():
            opened.set()
            done.wait()

    def child() -> None:
        with pytest.raises(Unavailable, match="another thread had it open when this process was forked"):
            dataset.add_files(source)
        other = Dataset.create("other", "p")
        assert other.add_files(source) == 1

    holder = threading.Thread(target=hold)
    holder.start()
    opened.wait()
    try:
        in_child(child)
    finally:
        done.set()
        holder.join()
    in_child(lambda: dataset.add_files(source))
    assert dataset.list_files() == ["a"]


def test_threads_share_a_version(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    for number in range(8):
        write(home / f"source-{number}", {f"{number}/{name}": f"{number}{name}" for name in "abc"})

    def work(number: int) -> int:
        added = dataset.add_files(home / f"source-{number}")
        dataset.upload()
        return added

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [3] * 8
    dataset.finalize()
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: dataset.get_local_copy(), range(8)))
    assert {name: data.decode() for name, data in read(copies.pop()).items()} == {
        f"{number}/{name}": f"{number}{name}" for number in range(8) for name in "abc"
    }
    assert copies == set()


def test_of_many_that_finish_a_version_one_does(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    dataset.add_files(write(home / "source", {"a": "1"}))
    dataset.upload()
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: Dataset.get(dataset.id).finalize(raise_on_error=False), range(8)))
    assert sorted(done) == [False] * 7 + [True]


def test_a_dataset_can_be_sent_to_another_process(home: Path) -> None:
    dataset = made(home, FILES)
    assert pickle.loads(pickle.dumps(dataset)).list_files() == dataset.list_files()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(dataset.list_files).result() == sorted(FILES)
        assert pool.submit(os.getpid).result() != os.getpid()


def test_what_was_opened_is_closed_at_the_end(home: Path) -> None:
    code = "from dvfs import Dataset; Dataset.create('d', 'p').finalize(); print(len(Dataset.list_datasets()))"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_stores_that_are_closed_are_opened_again(home: Path) -> None:
    dataset = made(home, FILES)
    stores = Stores()
    first = stores.open(dataset._settings)
    stores.close()
    assert stores.open(dataset._settings) is not first
    stores.close()
    stores.close()


def test_two_that_get_a_version_cold_at_once_get_all_of_it(home: Path) -> None:
    dataset = made(home, FILES)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    found = context.Queue()

    def work() -> None:
        start.wait()
        found.put(read(dataset.get_local_copy()) == FILES)

    ranks = [context.Process(target=work) for _ in range(2)]
    for rank in ranks:
        rank.start()
    start.wait()
    assert [found.get(timeout=60) for _ in ranks] == [True, True]
    for rank in ranks:
        rank.join()


def test_changes_of_what_another_process_finished_are_refused(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    dataset.add_files(write(home / "source", {"a": "1"}))
    in_child(lambda: dataset.finalize(auto_upload=True))
    with pytest.raises(WrongState, match="can no longer be changed"):
        dataset.add_files(home / "source")
    assert (dataset.is_final(), dataset.is_dirty(), dataset.list_files()) == (True, False, ["a"])
