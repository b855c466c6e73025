"""`Dataset` and fsspec with external files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs import Dataset
from dvfs.fsspec import DvfsFileSystem
from dvfs.store.errors import BadSource, Corrupt, InvalidInput, Unsupported, WrongState
from tests.http_server import HttpServer
from tests.python.conftest import made, read, write
from tests.store.noise import noise


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as running:
        yield running


def test_external_files_are_added_listed_and_removed(
    home: Path, server: HttpServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVFS_FILE_LINKS", str(home))
    local = write(home / "here", {"a.txt": "1", "sub/b.txt": "2", "c.bin": "3"})
    page = server.put("/page", b"of http")
    dataset = Dataset.create("d", "p", parent_datasets=[made(home, {"own": "x", "page": "old"})])
    assert dataset.add_external_files(page) == 0  # it was there, as a file
    assert dataset.list_modified_files() == ["page"]
    assert dataset.add_external_files(f"file://{local}", wildcard="*.txt", dataset_path="here", verbose=True) == 2
    assert capsys.readouterr().err == "here/a.txt\nhere/sub/b.txt\n"
    urls = [f"file://{local}/c.bin", page]
    assert dataset.add_external_files(urls, dataset_path=["x", "y/z"], recursive=False, max_workers=2) == 2
    assert dataset.is_dirty() is False
    links = {
        "here/a.txt": f"file://{local}/a.txt",
        "here/sub/b.txt": f"file://{local}/sub/b.txt",
        "page": page,
        "x/c.bin": f"file://{local}/c.bin",
        "y/z/page": page,
    }
    for _ in range(2):
        assert {path: entry.link for path, entry in dataset.link_entries_dict.items()} == links
        assert [entry.relative_path for entry in dataset.file_entries] == ["own"]
        assert dataset.list_files() == sorted(["own", *links])
        assert dataset.list_added_files() == ["here/a.txt", "here/sub/b.txt", "x/c.bin", "y/z/page"]
        if not dataset.is_final():
            dataset.finalize()
    entry = dataset.link_entries_dict["page"]
    assert (entry.size, entry.parent_dataset_id) == (7, None)
    assert entry.hash
    assert dataset.get_num_chunks() == 1
    assert read(dataset.get_local_copy()) == {
        "own": b"x", "page": b"of http", "here/a.txt": b"1", "here/sub/b.txt": b"2", "x/c.bin": b"3",
        "y/z/page": b"of http",
    }  # fmt: skip
    assert dataset.verify_dataset_hash(dataset.get_mutable_local_copy("copy")) == []
    child = Dataset.create(parent_datasets=[dataset])
    assert child.remove_files(page) == 2
    assert child.remove_files("here/*") == 2
    child.finalize()
    assert child.list_files() == ["own", "x/c.bin"]
    assert child.list_removed_files() == ["here/a.txt", "here/sub/b.txt", "page", "y/z/page"]


def test_a_changed_target_is_an_error(home: Path, server: HttpServer) -> None:
    dataset = Dataset.create("d", "p")
    dataset.add_external_files([server.put("/a", b"before"), server.put("/b", b"b")])
    dataset.upload()
    dataset.finalize()
    server.put("/a", b"after!")
    with pytest.raises(Corrupt, match=r"a: .* has changed"):
        dataset.get_local_copy()
    assert read(dataset.get_local_copy(files=["b"])) == {"b": b"b"}
    server.put("/a", b"before")
    assert read(dataset.get_local_copy()) == {"a": b"before", "b": b"b"}


def test_what_cannot_be_added_is_an_error_and_nothing_is_staged(home: Path, server: HttpServer) -> None:
    fine = server.put("/fine", b"x")
    dataset = Dataset.create("d", "p")
    for urls, words, error in (
        ([fine, f"{server.url}/none"], {}, BadSource),
        ([fine, f"{server.url}/"], {}, Unsupported),
        ([fine, "no url"], {}, InvalidInput),
        ([fine], {"dataset_path": ["a", "b"]}, InvalidInput),
        ([fine], {"dataset_path": "../up"}, InvalidInput),
    ):
        with pytest.raises(error):
            dataset.add_external_files(urls, **words)
    assert dataset.list_files() == []
    dataset.add_external_files(fine)
    dataset.finalize()
    with pytest.raises(WrongState):
        dataset.add_external_files(fine)


def test_fsspec_reads_external_files(home: Path, server: HttpServer) -> None:
    data = noise(3_000_000, 1)
    dataset = Dataset.create("d", "p")
    dataset.add_external_files(server.put("/a", data), dataset_path="folder")
    dataset.finalize()
    system = DvfsFileSystem(skip_instance_cache=True)
    path = f"{dataset.id}/folder/a"
    assert system.info(path)["size"] == len(data)
    assert server.asked("GET") == []
    assert system.cat_file(path, 1_048_570, 1_048_580) == data[1_048_570:1_048_580]
    assert 1 <= len(server.asked("GET")) <= 2  # two ranges, fetched together or not
    with system.open(path) as file:
        assert file.read() == data
    server.objects["/a"].etag = '"other"'
    dataset = Dataset.create("e", "p")
    dataset.add_external_files(server.put("/b", data))
    dataset.finalize()
    server.put("/b", data[::-1])
    with pytest.raises(OSError, match="has changed"):
        system.cat_file(f"{dataset.id}/b")
