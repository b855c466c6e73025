"""Versions out of plain dicts, quickly: in memory, catalogs without bytes; and what a change-set does to a dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from dvfs.store.cache import Cache
from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.diff import edits_of
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.pages import PageSource
from dvfs.store.fetch import Fetcher
from dvfs.store.parameters import Parameters
from dvfs.store.record import Record, Status
from dvfs.store.store import Store
from tests.catalog_model import Model
from tests.memory_backend import MemoryBackend
from tests.store_kit import SMALL


@contextmanager
def memory_store(folder: Path, parameters: Parameters = SMALL, backend: MemoryBackend | None = None) -> Iterator[Store]:
    """A store in memory, or on *backend*, with what is local in *folder*."""
    cache = Cache(folder / "cache", budget_bytes=1 << 30, reserve_bytes=0)
    store = Store(backend or MemoryBackend(), state_dir=folder / "state", cache=cache, wanted=parameters)
    try:
        yield store
    finally:
        store.close()
        cache.close()


def make(store: Store, model: Model, parents: Sequence[Record] = (), *, name: str = "set") -> Record:
    """Make a finished version that holds *model*, a child of *parents*; its files have no bytes in the store."""
    record = store.create(project="tests", name=name, parents=[parent.id for parent in parents]).record
    before = {} if record.base is None else model_of(store, record)
    edits: dict[bytes, Entry | None] = {path: None for path in before if path not in model}
    edits |= {path: entry for path, entry in model.items() if before.get(path) != entry}
    with closing(Fetcher(store.storage(record), store.cache)) as fetcher:
        packs = store.metadata_packs(record.id, fetcher)
        writer = Writer(packs.write, store.parameters.boundaries)
        if record.base is None:
            page = writer.build((key, entry) for key, entry in edits_of(edits) if entry is not None)
        else:
            page = writer.apply(record.base.page, PageSource(packs).load, edits_of(edits))
        unchanged = record.base is not None and page.block == record.base.page.block
        root = record.base if unchanged else packs.finish(page)
    done = {"status": Status.COMPLETED, "draft": None, "root": root}
    return store.records.update(record.id, lambda newest: newest.with_fields(**done))


def model_of(store: Store, record: Record) -> Model:
    """Return what the version of *record* holds; of an open one what is uploaded."""
    with closing(store.version(record)) as version:
        return dict(version.entries())


def without_times(model: Model) -> Model:
    return {path: entry._replace(mtime_ns=0) for path, entry in model.items()}


def replayed(onto: Model, before: Model, after: Model) -> Model:
    """What the change-set from *before* to *after* makes of *onto*."""
    made = {path: entry for path, entry in after.items() if path not in before or not before[path].same_data(entry)}
    result = dict(onto)
    for path, entry in made.items():
        if not entry.is_dir:
            result = {old: kept for old, kept in result.items() if not old.startswith(path + b"/")}
    for path, entry in made.items():
        result[path] = entry
        while path:
            path = path.rpartition(b"/")[0]
            if path not in result or not result[path].is_dir:
                result[path] = after[path]
    for path in sorted(before.keys() - after.keys(), key=lambda path: -path.count(b"/")):
        if not any(other.startswith(path + b"/") for other in result):
            result.pop(path, None)
    return result
