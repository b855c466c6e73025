"""Costs in proportion to what differs, at real sizes: pages and files are counted, not seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.entry import Entry, directory
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.pages import Load, Page, PageSource
from dvfs.store.comparison import ChangeCount, compare, count
from dvfs.store.fetch import Fetcher
from dvfs.store.folder import FolderBackend
from dvfs.store.parameters import Parameters
from dvfs.store.record import Record, Status
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from tests.catalog_model import small_file
from tests.lineage_kit import memory_store
from tests.memory_backend import MemoryBackend
from tests.store_kit import Kit

pytestmark = pytest.mark.large

FOLDERS = 1000
FILES = 1000


def path_of(folder: int, number: int) -> bytes:
    return b"d%03d/img_%06d.jpg" % (folder, number)


def items() -> Iterator[tuple[bytes, Entry]]:
    """Yield key and entry of a million files."""
    yield b"", directory()
    for folder in range(FOLDERS):
        yield key_of(b"d%03d" % folder), directory()
    for folder in range(FOLDERS):
        for number in range(FILES):
            path = path_of(folder, number)
            yield key_of(path), small_file(path)


def finished(store: Store, record: Record, edits: list[tuple[bytes, Entry | None]] | None) -> Record:
    """Finish the open version of *record*, with a million files or with *edits* of its base."""
    with closing(Fetcher(store.storage(record), store.cache)) as fetcher:
        packs = store.metadata_packs(record.id, fetcher)
        writer = Writer(packs.write, store.parameters.boundaries)
        if record.base is None or edits is None:
            page = writer.build(items())
        else:
            page = writer.apply(record.base.page, PageSource(packs).load, sorted(edits))
        root = packs.finish(page)
    done = {"status": Status.COMPLETED, "draft": None, "root": root}
    return store.records.update(record.id, lambda newest: newest.with_fields(**done))


def noting(load: Load, loaded: list[PageRef]) -> Load:
    def noted(ref: PageRef) -> Page:
        loaded.append(ref)
        return load(ref)

    return noted


def test_comparing_versions_of_a_million_files_reads_what_differs(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with memory_store(tmp_path / "writer", Parameters(), backend) as store:
        one = finished(store, store.create(project="tests", name="million").record, None)
        edits: list[tuple[bytes, Entry | None]] = [
            (key_of(path_of(97 * number, 53 * number)), small_file(b"changed")) for number in range(8)
        ]
        edits += [(key_of(path_of(500, 1)), None), (key_of(b"d700/new"), small_file(b"new"))]
        two = finished(store, store.create(project=None, name="million", parents=[one.id]).record, edits)
    with (
        memory_store(tmp_path / "reader", Parameters(), backend) as store,
        closing(store.version(one)) as before,
        closing(store.version(two)) as after,
    ):
        assert before.tree.files == 1_000_000
        backend.gets.clear()
        loaded: list[PageRef] = []
        for version in (before, after):
            version.tree.load = noting(version.tree.load, loaded)
        assert count(compare(before, after)) == ChangeCount(removed=1, modified=8, added=1)
        assert len(loaded) <= 2 * (1 + 2 * 10 + 10)  # the roots, of each file a leaf and what is above it
        read = sum(length or 0 for key, _, length in backend.gets if key.startswith("packs/"))
        assert read < 3 << 20


_opened: list[bytes] | None = None
"""Names of files opened to be read, while a test listens."""


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        name, _, flags = arguments
        if isinstance(name, (str, bytes)) and isinstance(flags, int) and not flags & os.O_DIRECTORY:
            _opened.append(os.path.basename(os.fsencode(name)))


def test_sync_of_an_unchanged_folder_opens_no_file(tmp_path: Path) -> None:
    global _opened
    source = tmp_path / "source"
    for folder in range(200):
        (source / f"d{folder:03}").mkdir(parents=True)
        for number in range(500):
            (source / f"d{folder:03}" / f"img_{number:06}").write_bytes(b"%d %d" % (folder, number))
    kit = Kit(lambda: FolderBackend(tmp_path / "store"), tmp_path, Parameters())
    parent = kit.publish(source)
    sys.addaudithook(_listen)
    with kit.machine() as store:
        draft = store.create(project=None, name="set", parents=[parent.id])
        _opened = []
        counts = draft.sync_folders([source], ScanOptions())
        opened, _opened = _opened, None
        assert counts.changes == 0
        assert [name for name in opened if name.startswith(b"img_")] == []

        os.utime(source / "d007/img_000007", ns=(1, 1))
        _opened = []
        assert draft.sync_folders([source], ScanOptions()).changes == 0
        opened, _opened = _opened, None
        assert [name for name in opened if name.startswith(b"img_")] == [b"img_000007"]
