"""Defects of ClearML Data, each by its number in the list that we keep, of what goes into versions and comes out."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from dvfs.store.digest import Buffer
from dvfs.store.errors import AccessDenied
from dvfs.store.folder import FolderBackend
from tests.cli.conftest import Program
from tests.cli.test_content import FINE, made, paths, write
from tests.http_server import HttpServer
from tests.store.noise import noise


def copied(dvfs: Program, dataset: str = "p/d") -> dict[str, bytes]:
    """Return what a reader with nothing local gets: path → bytes."""
    fresh = {"DVFS_CACHE_DIR": str(dvfs.folder / "fresh cache"), "DVFS_STATE_DIR": str(dvfs.folder / "fresh state")}
    target = dvfs.folder / "copied"
    dvfs.ok("get", dataset, "--copy", target, "--overwrite", "-q", environ=fresh)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_d01_a_rename_or_copy_of_what_a_parent_has_can_be_read(dvfs: Program) -> None:
    one = made(dvfs, {"a": "content", "empty": "", "kept": "k"})
    two = made(dvfs, {"renamed": "content", "empty": "", "empty too": "", "kept": "k", "copy": "k"}, parents=(one,))
    expected = {"renamed": b"content", "empty": b"", "empty too": b"", "kept": b"k", "copy": b"k"}
    assert copied(dvfs, two) == expected
    assert dvfs.ok("verify", two) == FINE
    dvfs.ok("create", "--name", "d", "--parents", two)
    dvfs.ok("remove", "--files", "renamed")
    dvfs.ok("add", "--files", write(dvfs.folder / "moved", {"moved": "content"}))
    dvfs.ok("close")
    expected["moved"] = expected.pop("renamed")
    assert copied(dvfs) == expected
    assert dvfs.ok("verify") == FINE


def test_d02_a_duplicate_of_what_was_uploaded_before_is_there(dvfs: Program) -> None:
    dvfs.ok("create", "--project", "p", "--name", "d")
    write(dvfs.folder / "one", {"first": "the same", "e1": ""})
    write(dvfs.folder / "two", {"second": "the same", "e2": ""})
    for folder in ("one", "two"):
        dvfs.ok("add", "--files", folder)
        dvfs.ok("upload")
    dvfs.ok("close")
    assert copied(dvfs) == {"first": b"the same", "second": b"the same", "e1": b"", "e2": b""}
    assert paths(dvfs) == {"first", "second", "e1", "e2"}


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_d03_a_pack_that_could_not_be_sent_is_told_and_sent_again(
    dvfs: Program, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The first pack, the last one of the data, and that of the catalog."""
    files = {"a": noise(900_000, 1), "b": noise(900_000, 2), "c": noise(900_000, 3)}
    folder = dvfs.folder / "source"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sent = 0
    put = FolderBackend.put_if_absent

    def failing(self: FolderBackend, key: str, data: Buffer) -> str:
        nonlocal sent
        sent += key.startswith("packs/")
        if key.startswith("packs/") and sent == nth:
            raise AccessDenied("the storage says no")
        return put(self, key, data)

    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", folder)
    monkeypatch.setattr(FolderBackend, "put_if_absent", failing)
    ran = dvfs("close", "--chunk-size", "1", "--max-workers", "1")
    assert (ran.code, ran.out) == (6, "")
    assert "the storage says no" in ran.err
    assert dvfs("close", "--disable-upload").code == 4
    assert json.loads(dvfs.ok("search", "--json")) == []
    dvfs.ok("close", "--chunk-size", "1")
    assert copied(dvfs) == files


def test_d04_what_an_interrupted_upload_did_not_send_is_still_to_be_sent(
    dvfs: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"f{number}": noise(700_000, number) for number in range(8)}
    folder = dvfs.folder / "source"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    put = FolderBackend.put_if_absent
    sent = 0

    def killed(self: FolderBackend, key: str, data: Buffer) -> str:
        nonlocal sent
        sent += key.startswith("packs/")
        if sent > 2:
            raise KeyboardInterrupt
        return put(self, key, data)

    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", folder)
    with monkeypatch.context() as patch:
        patch.setattr(FolderBackend, "put_if_absent", killed)
        assert dvfs("upload", "--chunk-size", "1", "--max-workers", "1").code == 130
    assert dvfs("close", "--disable-upload").code == 4
    dvfs.ok("close")
    assert copied(dvfs) == files
    assert dvfs.ok("verify") == FINE


def test_d05_one_local_file_under_two_paths_is_there_twice(dvfs: Program) -> None:
    write(dvfs.folder, {"file": "once", "folder/file": "more"})
    dvfs.ok("create", "--project", "p", "--name", "d")
    dvfs.ok("add", "--files", "file", "--dataset-folder", "left")
    dvfs.ok("add", "--files", "file", "--dataset-folder", "right")
    dvfs.ok("add", "--files", "folder", "--dataset-folder", "left/below", "--wildcard", "*")
    dvfs.ok("add", "--files", "folder", "--dataset-folder", "right/below", "--wildcard", "f*")
    dvfs.ok("close")
    expected = {"left/file": b"once", "right/file": b"once", "left/below/file": b"more", "right/below/file": b"more"}
    assert copied(dvfs) == expected


@pytest.mark.parametrize("damage", ["cut", "overwritten", "gone"])
def test_d09_a_damaged_version_is_an_error_and_no_folder(dvfs: Program, tmp_path: Path, damage: str) -> None:
    made(dvfs, {"a": "alpha", "b": "beta"})
    (pack,) = [path for path in (tmp_path / "store/packs").glob("*/*") if b"alpha" in path.read_bytes()]
    data = pack.read_bytes()
    pack.unlink()
    if damage != "gone":
        pack.write_bytes(data[:7] if damage == "cut" else bytes(len(data)))
    fresh = {"DVFS_CACHE_DIR": str(tmp_path / "fresh")}
    for words in (["get", "--copy", "copy"], ["get"], ["verify"]):
        assert dvfs(*words, environ=fresh).code == 5, words
    assert not (dvfs.folder / "copy").exists()
    assert not list((tmp_path / "fresh" / "copies").iterdir())


def test_d10_two_writers_of_an_open_version_keep_the_files_of_both(
    dvfs: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one writes the record between the first one's look at it and its own write."""
    other = {"DVFS_STATE_DIR": str(tmp_path / "other state"), "DVFS_CACHE_DIR": str(tmp_path / "other cache")}
    write(dvfs.folder / "one", {"a": "1", "same": "1"})
    write(dvfs.folder / "two", {"b": "2", "same": "2"})
    version = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", version, "--files", "one")
    dvfs.ok("add", version, "--files", "two", environ=other)
    replace_if = FolderBackend.replace_if
    between = [lambda: dvfs.process("upload", version, environ=other)]

    def slow(self: FolderBackend, key: str, data: Buffer, etag: str) -> str:
        if between:
            assert between.pop()().code == 0
        return replace_if(self, key, data, etag)

    monkeypatch.setattr(FolderBackend, "replace_if", slow)
    dvfs.ok("upload", version)
    dvfs.ok("close", version)
    assert copied(dvfs, version) == {"a": b"1", "b": b"2", "same": b"1"}


@pytest.mark.parametrize("change", ["gone", "emptied", "empty from the start"])
def test_d11_a_link_whose_target_is_gone_or_empty_is_an_error_or_a_file(dvfs: Program, change: str) -> None:
    with HttpServer() as server:
        links = [server.put("/a", b"" if change == "empty from the start" else b"bytes"), server.put("/b", b"b")]
        dvfs.ok("create", "--project", "p", "--name", "d")
        dvfs.ok("add", "--links", *links)
        dvfs.ok("close")
        if change == "empty from the start":
            assert copied(dvfs) == {"a": b"", "b": b"b"}
            return
        server.objects["/a"].data, server.objects["/a"].etag = b"", '"other"'
        if change == "gone":
            del server.objects["/a"]
        ran = dvfs("get", "p/d", "--copy", "copied")
        assert ran.code == 5
        assert f"error: a: {links[0]} " in ran.err
        assert not (dvfs.folder / "copied").exists()
        ran = dvfs("verify", "p/d")
        assert (ran.code, ran.out.splitlines()[-1]) == (5, "Dataset verification completed, 1 error found!")


def test_d12_permissions_and_times_come_back(dvfs: Program) -> None:
    times = {"run": 1_600_000_000_123_456_789, "old": -5_000_000_001, "epoch": 0}
    write(dvfs.folder / "source", dict.fromkeys(times, "x"))
    for name, time_ns in times.items():
        os.utime(dvfs.folder / "source" / name, ns=(time_ns, time_ns))
    (dvfs.folder / "source/run").chmod(0o755)
    (dvfs.folder / "source/old").chmod(0o640)
    dvfs.ok("sync", "--project", "p", "--name", "synced", "--folder", "source")
    dvfs.ok("create", "--project", "p", "--name", "added")
    dvfs.ok("add", "--files", "source", "--wildcard", "*")
    dvfs.ok("close")
    dvfs.ok("squash", "--name", "squashed", "--ids", "p/synced", "p/added")
    for name in ("synced", "added", "squashed"):
        copied(dvfs, f"p/{name}")
        found = {path.name: path.stat() for path in (dvfs.folder / "copied").iterdir()}
        assert {path: status.st_mtime_ns for path, status in found.items()} == times, name
        modes = {path: stat.S_IMODE(status.st_mode) for path, status in found.items()}
        assert (modes["run"], modes["old"]) == (0o755, 0o640), name


def test_d13_squash_brings_nothing_back(dvfs: Program) -> None:
    one = made(dvfs, {"kept": "1", "removed": "2"})
    two = made(dvfs, {"kept": "1", "added": "3"}, parents=(one,))
    dvfs.ok("squash", "--name", "squashed", "--ids", one, two)
    assert copied(dvfs, "p/squashed") == {"kept": b"1", "added": b"3"}
    dvfs.ok("squash", "--name", "squashed", "--ids", two, one)
    assert copied(dvfs, "p/squashed") == {"kept": b"1", "added": b"3"}


def test_d13_squash_loses_nothing_that_is_inherited(dvfs: Program) -> None:
    one = made(dvfs, {"inherited": "1"})
    two = made(dvfs, {"inherited": "1", "b": "2"}, parents=(one,))
    left = made(dvfs, {"inherited": "1", "b": "2", "left": "3"}, parents=(two,))
    right = made(dvfs, {"inherited": "1", "b": "22", "right": "4"}, parents=(two,))
    dvfs.ok("squash", "--name", "squashed", "--ids", left, right)
    assert copied(dvfs, "p/squashed") == {"inherited": b"1", "b": b"22", "left": b"3", "right": b"4"}


def test_d13_sync_that_leaves_the_version_open_keeps_what_it_found(dvfs: Program) -> None:
    one = made(dvfs, {"a": "1", "gone": "2"})
    source = write(dvfs.folder / "source", {"a": "11", "new": "3"})
    ran = dvfs.process("sync", "--parents", one, "--folder", source, "--skip-close", "-q")
    assert ran.code == 0
    assert paths(dvfs) == {"a", "new"}
    assert paths(dvfs, "--modified") == {"a", "gone", "new"}
    (source / "new").unlink()
    assert dvfs.process("close", "-q").code == 0
    assert copied(dvfs) == {"a": b"11", "new": b"3"}
