"""From folders to versions: add, remove, sync, upload, finish; parents; several writers of one open version."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dvfs.store.catalog.diff import diff
from dvfs.store.draft import Draft
from dvfs.store.errors import AlreadyExists, InvalidInput, SourceChanged, WrongState
from dvfs.store.folder import FolderBackend
from dvfs.store.materialise import copy_out
from dvfs.store.record import Record, Status
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.store_kit import UPLOAD, Kit, tree_of, write_odd_tree

SCAN = ScanOptions()


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)


@pytest.fixture
def both_kit(store_url: str, tmp_path: Path) -> Kit:
    """On a folder and on S3."""
    return Kit(lambda: open_backend(store_url), tmp_path)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def content(store: Store, spec: str | Record) -> dict[str, str]:
    """Return path → text of all files of a finished version."""
    version = store.version(spec)
    try:
        return {os.fsdecode(path): version.read(entry).decode() for path, entry in version.entries() if entry.is_file}
    finally:
        version.close()


def test_an_odd_tree_comes_back_as_it_was(both_kit: Kit, tmp_path: Path) -> None:
    source = write_odd_tree(tmp_path / "source")

    record = both_kit.publish(source)

    with both_kit.machine() as store:
        version = store.version(record.id)
        version.check()
        copy_out(version, tmp_path / "copy", workers=4)
        version.close()
    assert tree_of(tmp_path / "copy") == tree_of(source)
    assert record.status == Status.COMPLETED
    assert record.counts.files == sum(path.is_file() and not path.is_symlink() for path in source.rglob("*"))


def test_the_same_tree_has_the_same_digest_whatever_led_to_it(kit: Kit, tmp_path: Path) -> None:
    source = write_odd_tree(tmp_path / "source")
    whole = kit.publish(source)
    links = set()
    with kit.machine() as store:
        draft = store.create(project="tests", name="pieces")
        (tmp_path / "extra").write_text("goes again")
        draft.add_files([tmp_path / "extra"], SCAN)
        draft.upload(UPLOAD)
        for name in sorted(os.listdir(source), reverse=True):
            if os.path.islink(source / name) and os.path.isdir(source / name):
                links.add(os.fsencode(name))  # given by name, a link to a folder stands for its content
            elif os.path.isdir(source / name):
                draft.add_files([source / name], SCAN, dataset_folder=name)
            else:
                draft.add_files([source / name], SCAN)
            draft.upload(UPLOAD)
        draft.remove_files(["extra"])
        draft.upload(UPLOAD)
        pieces = store.version(draft.record)
        whole_version = store.version(whole)
        # The root's own mode is that of no folder that was added here.
        assert {change.path for change in diff(pieces.tree, whole_version.tree)} == {b"", *links}
        pieces.close()
        whole_version.close()


def test_a_child_keeps_what_it_does_not_change(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "one", {"a": "1", "d/b": "2", "d/c": "3"}))
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        assert draft.add_files([write(tmp_path / "two", {"d/b": "two", "new": "4"})], SCAN).added == 1
        assert draft.remove_files(["a"]) == 1
        draft.upload(UPLOAD)
        child = draft.finalize()

        assert content(store, child) == {"d/b": "two", "d/c": "3", "new": "4"}
        assert content(store, parent) == {"a": "1", "d/b": "2", "d/c": "3"}
    assert (child.version, child.project) == ("1.0.1", "tests")
    assert (child.counts.added, child.counts.modified, child.counts.removed) == (1, 1, 1)


def test_later_parents_win_and_the_union_is_whole(kit: Kit, tmp_path: Path) -> None:
    one = kit.publish(write(tmp_path / "one", {"same": "1", "only one": "1", "x/y": "under a directory"}), name="one")
    two = kit.publish(write(tmp_path / "two", {"same": "2", "only two": "2", "x": "a file now"}), name="two")
    three = kit.publish(write(tmp_path / "three", {"same": "3"}), name="three")
    with kit.machine() as store:
        draft = store.create(project=None, name="union", parents=[one.id, two.id, three.id])
        record = draft.finalize()

        assert content(store, record) == {"same": "3", "only one": "1", "only two": "2", "x": "a file now"}


def test_only_finished_versions_can_be_parents(kit: Kit, tmp_path: Path) -> None:
    with kit.machine() as store:
        draft = store.create(project="tests", name="open")
        with pytest.raises(WrongState, match="is not finished"):
            store.create(project=None, name="child", parents=[draft.record.id])


def test_a_finished_version_refuses_every_change(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"a": "1"})
    record = kit.publish(folder)
    with kit.machine() as store:
        draft = Draft(store, record)
        for change in (
            lambda: draft.add_files([folder], SCAN),
            lambda: draft.remove_files(["a"]),
            lambda: draft.sync_folders([folder], SCAN),
            draft.upload,
            draft.finalize,
            draft.discard,
        ):
            with pytest.raises(WrongState, match="is completed and can no longer be changed"):
                change()


def test_finishing_needs_everything_uploaded(kit: Kit, tmp_path: Path) -> None:
    with kit.machine() as store:
        draft = store.create(project="tests", name="set")
        draft.add_files([write(tmp_path / "one", {"a": "1"})], SCAN)
        with pytest.raises(WrongState, match="not uploaded: 1 file"):
            draft.finalize()


def test_an_empty_version_can_be_finished_and_read(kit: Kit) -> None:
    with kit.machine() as store:
        record = store.create(project="tests", name="set").finalize()
        version = store.version(record)
        assert [path for path, _ in version.entries()] == [b""]
        version.close()


def test_two_writers_of_one_open_version_keep_the_files_of_both(kit: Kit, tmp_path: Path) -> None:
    with kit.machine("one") as first, kit.machine("two") as second:
        draft = first.create(project="tests", name="set")
        draft.add_files([write(tmp_path / "a", {"a/1": "1", "both": "from one"})], SCAN)
        other = second.draft(draft.record.id)
        other.add_files([write(tmp_path / "b", {"b/2": "2", "both": "from two"})], SCAN)
        draft.upload(UPLOAD)
        other.upload(UPLOAD)
        record = draft.finalize()

        assert content(first, record) == {"a/1": "1", "b/2": "2", "both": "from two"}


def test_a_writer_that_is_overtaken_applies_its_edits_again(
    kit: Kit, tmp_path: Path, store_swap: Callable[..., None]
) -> None:
    with kit.machine("one") as first, kit.machine("two") as second:
        draft = first.create(project="tests", name="set")
        other = second.draft(draft.record.id)
        other.add_files([write(tmp_path / "b", {"b": "2"})], SCAN)
        draft.add_files([write(tmp_path / "a", {"a": "1"})], SCAN)
        store_swap(first, lambda: other.upload(UPLOAD))
        draft.upload(UPLOAD)

        assert content(first, draft.finalize()) == {"a": "1", "b": "2"}


@pytest.fixture
def store_swap() -> Callable[..., None]:
    """Makes something happen just before the next replacement of a record by a store."""

    def arrange(store: Store, happening: Callable[[], object]) -> None:
        backend = store.backend
        replace_if = backend.replace_if

        def first(key: str, data: bytes, etag: str) -> str:
            backend.replace_if = replace_if  # type: ignore[method-assign]
            happening()
            return replace_if(key, data, etag)

        backend.replace_if = first  # type: ignore[method-assign, assignment]

    return arrange


def test_another_writer_may_put_files_into_a_directory_that_is_removed_here(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "one", {"d/a": "1", "e": "2"}))
    with kit.machine("one") as first, kit.machine("two") as second:
        draft = first.create(project=None, name="set", parents=[parent.id])
        assert draft.remove_files(["d/"]) == 1
        other = second.draft(draft.record.id)
        other.add_files([write(tmp_path / "two", {"new": "3"})], SCAN, dataset_folder="d")
        other.upload(UPLOAD)
        draft.upload(UPLOAD)

        assert content(first, draft.finalize()) == {"d/new": "3", "e": "2"}


def test_a_file_that_takes_the_place_of_a_directory_replaces_it_whole(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "one", {"d/a": "1", "d/e/f": "2", "f": "3"}))
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        draft.add_files([write(tmp_path / "two", {"d": "a file", "f/inside": "a directory"})], SCAN)
        draft.upload(UPLOAD)
        record = draft.finalize()

        assert content(store, record) == {"d": "a file", "f/inside": "a directory"}


REMOVALS = {
    "data/a.jpg": "1", "data/deep/b.jpg": "2", "data/deep/c.txt": "3", "other/a.jpg": "4", "top.jpg": "5", "x[1]": "6",
}  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "recursive", "gone"),
    [
        ("data", True, {"data/a.jpg", "data/deep/b.jpg", "data/deep/c.txt"}),
        ("data/", False, {"data/a.jpg", "data/deep/b.jpg", "data/deep/c.txt"}),
        ("data/deep", True, {"data/deep/b.jpg", "data/deep/c.txt"}),
        ("*.jpg", True, {"data/a.jpg", "data/deep/b.jpg", "other/a.jpg", "top.jpg"}),
        ("*.jpg", False, {"top.jpg"}),
        ("data/*.jpg", True, {"data/a.jpg", "data/deep/b.jpg"}),
        ("data/*.jpg", False, {"data/a.jpg"}),
        ("a.jpg", True, set()),
        ("d*", False, {"data/a.jpg", "data/deep/b.jpg", "data/deep/c.txt"}),
        ("nothing", True, set()),
        ("?op.jpg", True, {"top.jpg"}),
        ("*", True, set(REMOVALS)),
    ],
)
@pytest.mark.parametrize("staged", [False, True], ids=["uploaded", "staged"])
def test_remove_takes_paths_directories_and_wildcards(
    kit: Kit, tmp_path: Path, pattern: str, recursive: bool, gone: set[str], staged: bool
) -> None:
    folder = write(tmp_path / "one", REMOVALS)
    with kit.machine() as store:
        draft = store.create(project="tests", name="set")
        draft.add_files([folder], SCAN)
        if not staged:
            draft.upload(UPLOAD)

        assert draft.remove_files([pattern], recursive=recursive) == len(gone)
        assert draft.remove_files([pattern], recursive=recursive) == 0

        assert {os.fsdecode(path) for path, entry in draft.entries() if entry.is_file} == set(REMOVALS) - gone
        draft.upload(UPLOAD)
        assert set(content(store, draft.finalize())) == set(REMOVALS) - gone


def test_a_removed_path_can_be_added_again(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"d/a": "1", "d/b": "2"})
    parent = kit.publish(folder)
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        draft.remove_files(["d"])
        draft.add_files([folder / "d" / "b"], SCAN, dataset_folder="d")
        draft.upload(UPLOAD)

        assert content(store, draft.finalize()) == {"d/b": "2"}


def test_sync_stages_what_differs_and_nothing_else(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"same": "1", "changed": "2", "gone": "3", "d/same": "4"})
    parent = kit.publish(folder)
    write(folder, {"changed": "two", "new": "5"})
    (folder / "gone").unlink()
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        count = draft.sync_folders([folder], SCAN)
        assert (count.removed, count.added, count.modified) == (1, 1, 1)
        assert draft.pending()[:2] == (2, 4)
        draft.upload(UPLOAD)

        assert content(store, draft.finalize()) == {"same": "1", "changed": "two", "new": "5", "d/same": "4"}
        again = store.create(project=None, name="set", parents=[draft.record.id])
        assert again.sync_folders([folder], SCAN).changes == 0
        assert not again.pending().changes


def test_sync_of_touched_files_is_no_change_and_checksum_sees_what_stat_does_not(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"a": "1", "b": "2", "big": "x" * 300_000})
    parent = kit.publish(folder)
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        for name in ("a", "big", ""):
            os.utime(folder / name, ns=(1, 1))
        assert draft.sync_folders([folder], SCAN).changes == 0
        times = os.stat(folder / "b")
        (folder / "b").write_text("Z")
        os.utime(folder / "b", ns=(times.st_atime_ns, times.st_mtime_ns))
        assert draft.sync_folders([folder], SCAN).changes == 0
        assert draft.sync_folders([folder], SCAN, checksum=True).modified == 1
        (folder / "a").chmod(0o600)
        assert draft.sync_folders([folder], SCAN).modified == 1


def test_sync_of_a_dataset_folder_leaves_the_rest(kit: Kit, tmp_path: Path) -> None:
    parent = kit.publish(write(tmp_path / "one", {"keep/x": "1", "sub/gone": "2"}))
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        count = draft.sync_folders([write(tmp_path / "two", {"new": "3"})], SCAN, dataset_folder="sub")
        assert (count.removed, count.added, count.modified) == (1, 1, 0)
        draft.upload(UPLOAD)

        assert content(store, draft.finalize()) == {"keep/x": "1", "sub/new": "3"}


def test_a_source_that_changed_fails_by_name_and_refresh_takes_it(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"a": "1", "b": "2"})
    with kit.machine() as store:
        draft = store.create(project="tests", name="set")
        draft.add_files([folder], SCAN)
        write(folder, {"b": "longer"})
        with pytest.raises(SourceChanged, match="b"):
            draft.upload(UPLOAD)
        assert draft.pending().files == 1
        draft.upload(type(UPLOAD)(pack_bytes=UPLOAD.pack_bytes, workers=1, refresh=True))

        assert content(store, draft.finalize()) == {"a": "1", "b": "longer"}


def test_content_that_the_base_has_at_the_same_path_is_not_sent_again(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"big": "".join(map(str, range(100_000))), "small": "1"})
    parent = kit.publish(folder)
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        os.utime(folder / "big", ns=(5, 5))
        draft.add_files([folder], SCAN)
        count = draft.upload(UPLOAD)
        record = draft.finalize()
    assert count.stored_bytes < 20_000
    assert record.digest == parent.digest


def test_a_removed_file_that_comes_back_elsewhere_is_a_rename_and_not_sent_again(kit: Kit, tmp_path: Path) -> None:
    folder = write(tmp_path / "one", {"old": os.urandom(150_000).hex(), "small": "s" * 3000})
    parent = kit.publish(folder)
    os.rename(folder / "old", folder / "new")
    os.rename(folder / "small", folder / "small too")
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        draft.sync_folders([folder], SCAN)
        count = draft.upload(UPLOAD)
        record = draft.finalize()
        assert set(content(store, record)) == {"new", "small too"}
    assert count.stored_bytes == 0


def test_names_and_numbers_are_checked(kit: Kit) -> None:
    with kit.machine() as store:
        with pytest.raises(InvalidInput, match="needs a project"):
            store.create(project=None, name="set")
        for bad in ("", " x", "a\nb", "n" * 256, "\udcff"):
            with pytest.raises(InvalidInput):
                store.create(project="p", name=bad)
        store.create(project="p", name="set", version="1.0")
        with pytest.raises(AlreadyExists, match=r"version 1\.0 of p/set exists"):
            store.create(project="p", name="set", version="1.0")


def test_search_finds_by_project_name_tags_and_ids(kit: Kit) -> None:
    with kit.machine() as store:
        made = [
            store.create(project=project, name=name, tags=tags).finalize()
            for project, name, tags in (("a", "Cats", ["x"]), ("a/b", "cats too", ["x", "y"]), ("c", "dogs", []))
        ]
        store.create(project="a", name="open")

        assert store.search() == made
        assert store.search(project="a") == made[:2]
        assert store.search(name="CATS") == made[:2]
        assert store.search(tags=["x", "y"]) == made[1:2]
        assert store.search(ids=[made[2].id]) == made[2:]
        assert len(store.search(only_completed=False)) == 4
