"""`output_uri` and `output_url`: where a `Dataset` has its files; they are read from there by all ways."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fsspec
import pytest

from dvfs import Dataset
from dvfs.store.errors import InvalidInput, NotFound, Unsupported
from tests.python.conftest import made, read, write

FILES = {"a": b"1", "sub/b": b"22" * 1000}


def packs_in(folder: Path) -> int:
    return len(list(folder.glob("packs/*/*")))


def test_create_says_where_uploads_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.create("d", "p", output_uri="elsewhere")
    assert dataset.get_default_storage() == f"file://{home}/elsewhere"
    dataset.add_files(write(home / "source", FILES))
    assert dataset.upload(show_progress=False) is None
    dataset.finalize()
    assert packs_in(home / "elsewhere") == 1
    monkeypatch.setenv("DVFS_CACHE_DIR", str(home / "another cache"))
    found = Dataset.get(dataset_name="d")
    assert found.get_default_storage() == f"file://{home}/elsewhere"
    assert found.get_num_chunks() == 1
    assert read(found.get_local_copy()) == FILES
    assert found.verify_dataset_hash(found.get_local_copy()) == []
    assert read(str(found.get_mutable_local_copy(home / "copy"))) == FILES
    by_url = fsspec.filesystem("dvfs", skip_instance_cache=True)
    assert by_url.cat(f"dvfs://{found.id}/sub/b") == FILES["sub/b"]


def test_a_child_does_not_inherit_where_its_uploads_go(home: Path) -> None:
    parent = made(home, FILES, output_uri=home / "elsewhere")
    child = made(home, FILES | {"c": b"3"}, "d", parent)
    assert child.get_default_storage() == os.environ["DVFS_STORE"].join(("file://", ""))
    assert packs_in(home / "elsewhere") == 1
    assert read(child.get_local_copy()) == FILES | {"c": b"3"}


def test_upload_says_where_it_and_later_ones_go(home: Path) -> None:
    dataset = Dataset.create("d", "p")
    for number, url in enumerate((None, "~/one", None, f"file://{home}/two")):
        dataset.add_files(write(home / f"source{number}", {f"f{number}": f"{number}"}))
        assert dataset.upload(output_url=url) is None
    assert dataset.upload(output_url="three") is True
    dataset.add_files(write(home / "last", {"last": "l"}))
    assert dataset.finalize(auto_upload=True)
    places = [Path(os.environ["DVFS_STORE"]), Path(os.environ["HOME"]) / "one", home / "two", home / "three"]
    assert [packs_in(place) for place in places[1:]] == [2, 1, 1]
    assert read(dataset.get_local_copy()) == {f"f{n}": b"%d" % n for n in range(4)} | {"last": b"l"}


def test_squash_copies_to_the_storage_that_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(home, {"a": "1", "b": "2"}, output_uri=home / "elsewhere")
    two = made(home, {"a": "1", "c": "3"}, "d", one)
    squashed = Dataset.squash("flat", [two], output_url="target")
    assert squashed.get_default_storage() == f"file://{home}/target"
    shutil.rmtree(home / "elsewhere")
    monkeypatch.setenv("DVFS_CACHE_DIR", str(home / "another cache"))
    squashed = Dataset.get(squashed.id)
    assert read(squashed.get_local_copy()) == {"a": b"1", "c": b"3"}
    assert two.verify_dataset_hash(squashed.get_local_copy()) == []
    opened = Dataset.squash("flat", [squashed], output_url="target", close_squashed_dataset=False)
    opened.add_files(write(home / "more", {"more": "m"}))
    opened.finalize(auto_upload=True)
    assert packs_in(home / "target") == 3
    assert read(opened.get_local_copy()) == {"a": b"1", "c": b"3", "more": b"m"}


def test_objects_are_of_the_store_wherever_their_files_are(home: Path) -> None:
    one = made(home, {"a": "1"}, "one", output_uri="elsewhere")
    two = made(home, {"b": "2"}, "two", output_uri="another")
    both = Dataset.create("both", parent_datasets=[one, two], output_uri="third")
    both.finalize()
    assert read(both.get_local_copy()) == {"a": b"1", "b": b"2"}
    with pytest.raises(NotFound):
        Dataset.get(one.id, store="elsewhere")


def test_a_fork_reads_from_another_storage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(home, FILES, output_uri="elsewhere")
    monkeypatch.setenv("DVFS_CACHE_DIR", str(home / "another cache"))
    dataset = Dataset.get(dataset.id)
    assert dataset.get_num_chunks() == 1
    child = os.fork()
    if not child:
        status = 1
        try:
            status = read(dataset.get_local_copy()) != FILES
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert read(dataset.get_local_copy()) == FILES


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "ftp://host/x", ""])
def test_what_is_no_storage_is_refused(home: Path, url: str) -> None:
    one = made(home, {"a": "1"})
    opened = Dataset.create("d", "p")
    opened.add_files(write(home / "source", FILES))
    for call in (
        lambda: Dataset.create("e", "p", output_uri=url),
        lambda: Dataset.squash("e", [one], output_url=url),
        lambda: opened.upload(output_url=url),
    ):
        with pytest.raises(InvalidInput) as caught:
            call()
        assert not isinstance(caught.value, Unsupported)
        assert "secret" not in caught.value.message
    assert opened.is_dirty()
    assert Dataset.list_datasets(partial_name="e", only_completed=False) == []
