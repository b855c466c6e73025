"""Defects of ClearML Data 2.1.12 that `Dataset` does not have; the numbers are those of the list of defects."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from dvfs import Dataset
from dvfs.store.digest import Buffer
from dvfs.store.errors import AccessDenied, Corrupt, WrongState
from dvfs.store.folder import FolderBackend
from tests.http_server import HttpServer
from tests.python.conftest import made, read, write
from tests.store.noise import noise

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # since Python 3.12, where threads are


def on_another_machine(home: Path, dataset: Dataset) -> dict[str, bytes]:
    """Return what somebody who has nothing local gets."""
    with pytest.MonkeyPatch.context() as patch:
        number = len(list(home.glob("machine-*")))
        for name in ("CACHE", "STATE"):
            patch.setenv(f"DVFS_{name}_DIR", str(home / f"machine-{number}" / name))
        return read(Dataset.get(dataset.id).get_local_copy())


def test_d01_renamed_and_copied_content_can_be_read(home: Path) -> None:
    one = made(home, {"a": "content", "empty": ""})
    two = made(home, {"renamed": "content", "copy": "content", "empty": "", "empty too": ""}, "d", one)
    expected = {"renamed": b"content", "copy": b"content", "empty": b"", "empty too": b""}
    assert on_another_machine(home, two) == expected
    three = Dataset.create(parent_datasets=[two])
    three.remove_files("renamed")
    three.add_files(write(home / "moved", {"moved": "content"}))
    three.finalize(auto_upload=True)
    expected["moved"] = expected.pop("renamed")
    assert on_another_machine(home, three) == expected
    assert three.get_num_chunks() == one.get_num_chunks()


def test_d02_a_duplicate_of_what_was_uploaded_before_is_there(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    for name in ("first", "second"):
        dataset.add_files(write(home / name, {name: "the same", f"{name} empty": ""}))
        dataset.upload()
    dataset.finalize()
    same = {"first": b"the same", "second": b"the same", "first empty": b"", "second empty": b""}
    assert on_another_machine(home, dataset) == same


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_d03_an_upload_that_failed_is_told_and_done_again(home: Path, nth: int) -> None:
    files = {name: noise(900_000, number) for number, name in enumerate("abc")}
    sent = 0
    put = FolderBackend.put_if_absent

    def failing(self: FolderBackend, key: str, data: Buffer) -> str:
        nonlocal sent
        sent += key.startswith("packs/")
        if key.startswith("packs/") and sent == nth:
            raise AccessDenied("the storage says no")
        return put(self, key, data)

    dataset = Dataset.create("d", "p")
    dataset.add_files(write(home / "source", files))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderBackend, "put_if_absent", failing)
        with pytest.raises(AccessDenied, match="the storage says no"):
            dataset.upload(chunk_size=1, max_workers=1)
    assert dataset.upload() is None
    dataset.finalize()
    assert on_another_machine(home, dataset) == files


def test_d04_what_a_killed_upload_did_not_send_is_still_to_be_sent(home: Path) -> None:
    files = {name: noise(900_000, number) for number, name in enumerate("abcd")}
    dataset = Dataset.create("d", "p")
    dataset.add_files(write(home / "source", files))
    put = FolderBackend.put_if_absent

    def work() -> None:
        sent = 0

        def killing(self: FolderBackend, key: str, data: Buffer) -> str:
            nonlocal sent
            sent += key.startswith("packs/")
            if sent == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return put(self, key, data)

        FolderBackend.put_if_absent = killing  # type: ignore[method-assign]
        dataset.upload(chunk_size=1, max_workers=1)

    uploader = multiprocessing.get_context("fork").Process(target=work)
    uploader.start()
    uploader.join()
    assert uploader.exitcode == -signal.SIGKILL
    reopened = Dataset.get(dataset.id)
    assert reopened.is_dirty()
    with pytest.raises(WrongState, match="not uploaded"):
        reopened.finalize()
    reopened.finalize(auto_upload=True)
    assert on_another_machine(home, reopened) == files


def test_d05_one_local_file_under_two_paths_is_there_twice(home: Path) -> None:
    folder = write(home / "source", {"a": "1"})
    dataset = Dataset.create("d", "p")
    assert dataset.add_files(folder, dataset_path="x") == 1
    assert dataset.add_files(folder / "a", dataset_path="y") == 1
    dataset.finalize(auto_upload=True)
    assert on_another_machine(home, dataset) == {"x/a": b"1", "y/a": b"1"}


def test_d06_a_long_chain_is_whole(home: Path) -> None:
    dataset = made(home, {"0": "0"})
    for number in range(1, 25):
        child = Dataset.create(parent_datasets=[dataset])
        child.add_files(write(home / "one", {str(number): str(number)}) / str(number))
        child.finalize(auto_upload=True)
        dataset = child
    assert len(dataset.get_dependency_graph()) == 25
    assert on_another_machine(home, dataset) == {str(number): str(number).encode() for number in range(25)}


def test_d07_processes_that_get_a_version_at_once_get_all_of_it(home: Path) -> None:
    files = {f"{number % 7}/{number}": noise(2_000, number) for number in range(200)}
    dataset = made(home, files)
    context = multiprocessing.get_context("fork")
    start, found = context.Barrier(4), context.Queue()

    def work() -> None:
        start.wait()
        found.put(on_another_machine(home, dataset) == files)

    ranks = [context.Process(target=work) for _ in range(4)]
    for rank in ranks:
        rank.start()
    assert [found.get(timeout=120) for _ in ranks] == [True] * 4
    for rank in ranks:
        rank.join()


def test_d08_copies_by_many_threads_lose_nothing(home: Path) -> None:
    files = {f"{number % 3}/{number % 5}/{number}": str(number) for number in range(600)}
    dataset = made(home, files)
    expected = {name: data.encode() for name, data in files.items()}
    for number in range(5):
        assert read(dataset.get_mutable_local_copy(f"copy-{number}", max_workers=16)) == expected


@pytest.mark.parametrize("damage", ["cut short", "changed"])
def test_d09_damage_is_an_error_and_no_folder(home: Path, damage: str) -> None:
    dataset = made(home, {"a": noise(100_000, 1), "b": noise(100_000, 2)})
    for pack in (home.parent / "store" / "packs").glob("*/*"):
        data = bytearray(pack.read_bytes())
        if len(data) > 100_000:
            pack.chmod(0o644)
            data[1000] ^= 1
            pack.write_bytes(data[:1000] if damage == "cut short" else data)
    Dataset.surroundings.stores.close()
    with pytest.raises(Corrupt):
        on_another_machine(home, dataset)
    assert not list(home.glob("machine-*/CACHE/copies/*"))


def test_d10_two_writers_of_an_open_version_keep_the_files_of_both(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVFS_STATE_DIR", str(home / "other state"))
        other = Dataset.get(dataset.id)
        other.add_files(write(home / "theirs", {"theirs": "2"}))
        dataset.add_files(write(home / "ours", {"ours": "1"}))
        other.upload()
        dataset.upload()
    dataset.finalize()
    assert on_another_machine(home, dataset) == {"ours": b"1", "theirs": b"2"}


def test_d11_a_link_whose_target_is_gone_is_an_error_and_no_folder(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpServer() as server:
        url = server.put("/a", b"bytes")
        dataset = Dataset.create("d", "p")
        assert dataset.add_external_files([url, server.put("/empty", b"")]) == 2
        dataset.finalize()
        del server.objects["/a"]
        with pytest.raises(Corrupt, match=f"a: {url} is gone"):
            dataset.get_local_copy()
        assert not list((home.parent / "cache").rglob("empty"))
        assert caplog.text.count(f"{url} is gone") == 1
        server.put("/a", b"bytes")
        assert on_another_machine(home, dataset) == {"a": b"bytes", "empty": b""}


def test_d12_permissions_and_times_come_back_also_those_before_1980(home: Path) -> None:
    folder = write(home / "source", {"run.sh": "#!/bin/sh\n", "old": "x"})
    (folder / "run.sh").chmod(0o755)
    os.utime(folder / "old", ns=(0, -5_000_000_001))
    dataset = Dataset.create("d", "p")
    dataset.add_files(folder)
    dataset.finalize(auto_upload=True)
    copy = Path(dataset.get_mutable_local_copy("copy"))
    assert (copy / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (copy / "old").stat().st_mtime_ns == -5_000_000_001
    assert (copy / "run.sh").stat().st_mtime_ns == (folder / "run.sh").stat().st_mtime_ns


def test_d13_squash_brings_nothing_back_and_loses_nothing(home: Path) -> None:
    one = made(home, {"inherited": "1", "removed": "1"})
    two = made(home, {"inherited": "1", "changed": "2"}, "d", one)
    three = made(home, {"inherited": "1", "changed": "3"}, "d", two)
    Dataset.delete(one.id, force=True)
    expected = {"inherited": b"1", "changed": b"3"}
    assert on_another_machine(home, Dataset.squash("flat", [two, three])) == expected
    assert on_another_machine(home, Dataset.squash("flat", [three])) == expected


def test_d13_what_sync_found_is_seen_by_a_later_process(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    assert dataset.sync_folder(write(home / "source", {"a": "1"})) == (0, 1, 0)
    later = Dataset.get(dataset.id)
    assert (later.list_files(), later.is_dirty()) == (["a"], True)
    later.finalize(auto_upload=True)
    assert on_another_machine(home, later) == {"a": b"1"}


def test_d13_a_parent_is_not_deleted_by_id(home: Path) -> None:
    parent = made(home, {"a": "1"})
    child = made(home, {"a": "1", "b": "2"}, "d", parent)
    with pytest.raises(WrongState, match="is the parent of 1"):
        Dataset.delete(dataset_id=parent.id)
    Dataset.delete(dataset_id=parent.id, force=True)
    assert on_another_machine(home, child) == {"a": b"1", "b": b"2"}


def test_d14_parts_of_a_version_with_a_parent_and_links(home: Path) -> None:
    with HttpServer() as server:
        parent = Dataset.create("d", "p")
        parent.add_files(write(home / "first", {"a": "1", "b": "2"}))
        parent.add_external_files(server.put("/first", b"linked"))
        parent.finalize(auto_upload=True)
        folder = write(home / "more", {"c": "3"})
        (folder / "link").symlink_to("c")
        child = Dataset.create(parent_datasets=[parent])
        child.add_files(folder)
        child.add_external_files(server.put("/second", b"linked too"))
        child.finalize(auto_upload=True)
        parts = [Path(child.get_local_copy(part=part, num_parts=2)) for part in range(2)]
        found = [path for part in parts for path in part.iterdir()]
        assert sorted(path.name for path in found) == ["a", "b", "c", "first", "link", "second"]
        assert {path.read_bytes() for path in found if not path.is_symlink()} == {
            b"1",
            b"2",
            b"3",
            b"linked",
            b"linked too",
        }
