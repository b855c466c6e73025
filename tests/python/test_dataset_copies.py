"""Versions on the local disk, from Python: copies, mounts, and whether they are right."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvfs import Dataset
from dvfs.fs.mounts import Mounts
from dvfs.store.errors import Corrupt, InvalidInput, NotFound, WrongState
from tests.python.conftest import made, read, write

FILES = {"a": b"1", "sub/b": b"22", "sub/deep/c": b"333"}


@pytest.fixture
def dataset(home: Path) -> Dataset:
    return made(home, FILES)


@pytest.fixture
def mounts(home: Path) -> Iterator[Mounts]:
    """What is mounted; taken away at the end."""
    mounts = Mounts(home.parent / "state")
    yield mounts
    for mount in mounts.all():
        mounts.umount(Path(mount.directory))


def test_a_copy_in_the_cache_is_made_once_and_read_only(home: Path, dataset: Dataset) -> None:
    path = dataset.get_local_copy()
    assert Path(path).is_relative_to(home.parent / "cache")
    assert read(path) == FILES
    assert (Path(path) / "a").stat().st_mode & 0o222 == 0
    before = os.stat(path).st_ino
    assert dataset.get_local_copy(use_soft_links=True, max_workers=1) == path
    assert os.stat(path).st_ino == before


def test_copies_of_some_files(dataset: Dataset) -> None:
    assert read(dataset.get_local_copy(files=["sub/b", "/a"])) == {"a": b"1", "sub/b": b"22"}
    assert read(dataset.get_local_copy(files=["sub/deep/"])) == {"sub/deep/c": b"333"}
    with pytest.raises(NotFound, match="has no 'sub/nothing'"):
        dataset.get_local_copy(files=["a", "sub/nothing"])


def test_parts_share_out_the_files(home: Path, dataset: Dataset) -> None:
    parts = [read(dataset.get_local_copy(part=part, num_parts=3)) for part in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(FILES)
    mutable = [dataset.get_mutable_local_copy(f"part-{part}", part=part, num_parts=3) for part in range(3)]
    assert [read(path) for path in mutable] == parts
    for part, num_parts in ((3, 3), (0, None), (None, 2)):
        with pytest.raises(InvalidInput):
            dataset.get_local_copy(None, part, num_parts)


def test_a_copy_to_write_to(home: Path, dataset: Dataset) -> None:
    path = dataset.get_mutable_local_copy("copy")
    assert path == str(home / "copy")
    assert read(path) == FILES
    (home / "copy" / "a").write_text("changed")
    with pytest.raises(InvalidInput, match="not an empty folder"):
        dataset.get_mutable_local_copy("copy")
    assert dataset.get_mutable_local_copy("copy", raise_on_error=False) is None
    assert dataset.get_mutable_local_copy(home / "copy", overwrite=True) == path
    assert read(path) == FILES


def test_an_open_version_has_no_copy(home: Path) -> None:
    opened = Dataset.create("d", "p")
    for call in (opened.get_local_copy, lambda: opened.get_mutable_local_copy("copy"), opened.verify_dataset_hash):
        with pytest.raises(WrongState, match="is not finished"):
            call()
    assert opened.get_local_copy(raise_on_error=False) is None


def test_verify(home: Path, dataset: Dataset, capfd: pytest.CaptureFixture[str]) -> None:
    assert dataset.verify_dataset_hash() == []
    copy = Path(dataset.get_mutable_local_copy("copy"))
    assert dataset.verify_dataset_hash("copy") == []
    (copy / "a").write_text("2")
    (copy / "sub" / "deep" / "c").unlink()
    (copy / "other").write_text("does not count")
    assert dataset.verify_dataset_hash(copy) == ["a", "sub/deep/c"]
    assert capfd.readouterr() == ("", "")
    assert dataset.verify_dataset_hash(copy, skip_hash=True, verbose=True) == ["sub/deep/c"]
    assert capfd.readouterr() == ("", "sub/deep/c\n")
    with pytest.raises(InvalidInput, match="no such folder"):
        dataset.verify_dataset_hash("nothing")


def test_damage_gives_no_copy(home: Path, dataset: Dataset) -> None:
    for pack in (home.parent / "store" / "packs").glob("*/*"):
        pack.chmod(0o644)
        pack.write_bytes(bytes(pack.stat().st_size))
    Dataset.surroundings.stores.close()
    fresh = {"DVFS_CACHE_DIR": str(home.parent / "fresh"), "DVFS_STATE_DIR": str(home.parent / "fresh state")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fresh.items():
            patch.setenv(name, value)
        there = Dataset.get(dataset.id)
        with pytest.raises(Corrupt):
            there.get_local_copy()
        assert there.get_local_copy(raise_on_error=False) is None
        assert not any((home.parent / "fresh" / "copies").glob("*"))


# --- mounts


def test_a_mount_is_there_at_once_and_shared(dataset: Dataset, mounts: Mounts) -> None:
    stop = threading.Event()
    busy = threading.Thread(target=stop.wait)
    busy.start()  # a daemon must not be forked off here
    try:
        path = dataset.get_local_copy(mount=True)
    finally:
        stop.set()
        busy.join()
    assert read(path) == FILES
    assert os.getxattr(path, "user.dvfs.id").decode() == dataset.id
    with pytest.raises(OSError) as caught:
        (Path(path) / "new").touch()
    assert caught.value.errno == errno.EROFS
    assert dataset.get_local_copy(mount=True) == path
    assert [mount.directory for mount in mounts.all()] == [path]
    assert dataset.verify_dataset_hash(path) == []


def test_a_mount_to_write_to(home: Path, dataset: Dataset, mounts: Mounts) -> None:
    path = Path(dataset.get_mutable_local_copy("edited", mount=True))
    assert read(path) == FILES
    (path / "a").write_text("edited")
    (path / "sub" / "b").unlink()
    assert dataset.get_mutable_local_copy("edited", mount=True) == str(path)
    assert (path / "a").read_text() == "edited"
    child = Dataset.create(parent_datasets=[dataset])
    assert child.sync_folder(path) == (1, 0, 1)
    child.finalize(auto_upload=True)
    assert read(child.get_local_copy()) == {"a": b"edited", "sub/deep/c": b"333"}
    with pytest.raises(WrongState, match=r"in use|is a mount already"):
        child.get_mutable_local_copy("edited", mount=True)


def test_what_cannot_be_mounted(home: Path, dataset: Dataset, mounts: Mounts) -> None:
    with pytest.raises(InvalidInput, match="a mount shows the whole version"):
        dataset.get_local_copy(mount=True, part=0, num_parts=1)
    with pytest.raises(InvalidInput, match="a mount shows the whole version"):
        dataset.get_local_copy(mount=True, files=["a"])
    with pytest.raises(InvalidInput, match="a mount shows the whole version"):
        dataset.get_mutable_local_copy("copy", overwrite=True, mount=True)
    write(home / "full", {"x": ""})
    with pytest.raises(WrongState, match="is not empty"):
        dataset.get_mutable_local_copy("full", mount=True)
    assert dataset.get_mutable_local_copy("full", mount=True, raise_on_error=False) is None
    assert mounts.all() == []


def test_without_fuse_there_are_copies(home: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise WrongState("/dev/fuse is not there")

    monkeypatch.setattr("dvfs.fs.mountpoint.check_machine", missing)
    assert dataset.get_local_copy(mount=True) == dataset.get_local_copy()
    assert read(dataset.get_mutable_local_copy("copy", mount=True)) == FILES
    assert not os.path.ismount("copy")


def test_every_kind_of_store_is_copied_and_mounted(home: Path, mounts: Mounts, store_url: str) -> None:
    write(home / "source", FILES)
    dataset = Dataset.create("d", "p", store=store_url)
    dataset.add_files("source")
    dataset.finalize(auto_upload=True)
    found = Dataset.get(dataset_name="d", store=store_url)
    assert read(found.get_local_copy()) == FILES
    assert read(found.get_local_copy(mount=True)) == FILES
    child = Dataset.create(parent_datasets=[found])
    assert child.get_default_storage() == dataset.get_default_storage()
