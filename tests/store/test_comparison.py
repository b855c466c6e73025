"""Comparing versions, and an open version with what it started from: what dicts say, and no page more than differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.catalog.entry import directory, link
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.pages import Load, Page
from dvfs.store.comparison import ChangeCount, changes, compare, count
from dvfs.store.draft import Draft
from dvfs.store.folder import FolderBackend
from dvfs.store.record import Record
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from tests.catalog_model import Model, small_file
from tests.lineage_kit import make, memory_store
from tests.store_kit import UPLOAD, Kit

SCAN = ScanOptions()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with memory_store(tmp_path) as found:
        yield found


def words(store: Store, before: Record, after: Record) -> tuple[dict[str, str], ChangeCount]:
    with closing(store.version(before)) as one, closing(store.version(after)) as two:
        return {found.path.decode(): found.word for found in compare(one, two)}, count(compare(one, two))


def test_words_and_counts(store: Store) -> None:
    one = make(
        store,
        {
            b"": directory(),
            b"empty": directory(),
            b"f": small_file(b"1"),
            b"gone": small_file(b"2"),
            b"mode": small_file(b"3"),
            b"l": link(b"there"),
            b"to dir": small_file(b"4"),
            b"touched": small_file(b"5", mtime_ns=1),
        },
    )
    two = make(
        store,
        {
            b"": directory(),
            b"f": small_file(b"11"),
            b"mode": small_file(b"3", mode=0o755),
            b"l": link(b"elsewhere"),
            b"new": link(b"there"),
            b"to dir": directory(),
            b"touched": small_file(b"5", mtime_ns=2),
        },
        name="other",
    )
    expected = {
        "empty": "removed",
        "f": "modified",
        "gone": "removed",
        "l": "modified",
        "mode": "modified",
        "new": "added",
        "to dir": "removed",
    }
    assert words(store, one, two) == (expected, ChangeCount(removed=2, modified=3, added=1, others=1))
    flipped = {"added": "removed", "removed": "added", "modified": "modified"}
    assert words(store, two, one)[0] == {path: flipped[word] for path, word in expected.items()}
    assert words(store, one, one) == ({}, ChangeCount())


def noting(load: Load, loaded: list[PageRef]) -> Load:
    """Return *load* that notes in *loaded* what it is asked for."""

    def noted(ref: PageRef) -> Page:
        loaded.append(ref)
        return load(ref)

    return noted


def test_comparing_children_reads_the_pages_that_differ_alone(store: Store) -> None:
    top: Model = {b"": directory()} | {b"f%05d" % number: small_file(b"%d" % number) for number in range(3000)}
    one = make(store, top)
    two = make(store, top | {b"f00007": small_file(b"x")}, [one])
    three = make(store, top | {b"f02900": small_file(b"y")}, [one])
    with closing(store.version(two)) as left, closing(store.version(three)) as right:
        loaded: list[PageRef] = []
        for version in (left, right):
            version.tree.load = noting(version.tree.load, loaded)
        assert [found.path for found in compare(left, right)] == [b"f00007", b"f02900"]
    assert left.tree.root.level >= 4  # tiny pages
    assert len(loaded) <= 2 * 2 * (left.tree.root.level + 2)


# --- an open version


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def pending(draft: Draft) -> dict[str, str]:
    return {found.path.decode(): found.word for found in draft.changes()}


def test_changes_of_an_open_version_are_those_that_it_has_when_it_is_finished(tmp_path: Path) -> None:
    kit = Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path)
    source = write(tmp_path / "one", {"a": "1", "d/b": "2", "d/e/c": "3", "keep": "4", "k/l": "5"})
    parent = kit.publish(source)
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        assert pending(draft) == {}
        draft.add_files([write(tmp_path / "two", {"d": "a file now", "new": "6"})], SCAN)
        draft.upload(UPLOAD)
        draft.add_files([write(tmp_path / "three", {"k": "a file too", "new": "66", "staged": "7"})], SCAN)
        draft.remove_files(["a"])
        draft.add_files([source / "keep"], SCAN)  # as it was
        expected = {
            "a": "removed",
            "d": "added",
            "d/b": "removed",
            "d/e": "removed",
            "d/e/c": "removed",
            "k": "added",
            "k/l": "removed",
            "new": "added",
            "staged": "added",
        }
        found = pending(draft)
        found.pop("", None)  # the root's mtime is that of the folder added last
        assert found == expected
        assert {item.path: item.entry.size for item in draft.changes()}[b"new"] == 2  # what is staged counts
        draft.upload(UPLOAD)
        with closing(store.version(draft.finalize())) as version:
            assert {item.path.decode(): item.word for item in changes(version)} == expected
        fresh = store.create(project="tests", name="fresh")
        assert pending(fresh) == {}
        fresh.add_files([tmp_path / "two"], SCAN)
        assert pending(fresh) == {"": "added", "d": "added", "new": "added"}
