"""The files of a version as Python programs list them: as text, files and symbolic links but no directories."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from dvfs.store.catalog.blocktree import all_blocks
from dvfs.store.catalog.diff import Difference, Word
from dvfs.store.catalog.entry import BlockTreeRef, Entry
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.tree import Tree
from dvfs.store.comparison import changes, differences
from dvfs.store.digest import ZERO
from dvfs.store.draft import Draft
from dvfs.store.edits import Finder
from dvfs.store.external import External
from dvfs.store.record import Record
from dvfs.store.selection import cleaned, is_literal, matcher
from dvfs.store.store import Store


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version. *hash*: its digest in hex, None while it is not uploaded. *size*: bytes.

    *parent_dataset_id*: the version that stored its bytes, which may be one that this version does not stem from by
    name; None where there are no bytes, or none that are uploaded.
    """

    relative_path: str
    hash: str | None
    size: int
    parent_dataset_id: str | None


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """An external file of a version: it stays at the URL *link*. *size*: bytes. *hash*: its digest in hex, over URL and
    pin. *parent_dataset_id*: None, no version stored its bytes.
    """

    link: str
    relative_path: str
    hash: str | None
    size: int | None
    parent_dataset_id: str | None


def entries(store: Store, record: Record) -> Iterator[tuple[bytes, Entry]]:
    """Yield path and entry of all in the version of *record*, of an open one also what is staged, in catalog order."""
    if record.status.is_open:
        yield from Draft(store, record).entries()
        return
    with closing(store.version(record)) as version:
        yield from version.entries()


def file_entries(store: Store, record: Record) -> Iterator[FileEntry]:
    """Yield the files of the version of *record* that it holds itself, in catalog order."""
    for path, entry in entries(store, record):
        if entry.is_file and entry.external is None:
            digest = None if entry.digest == ZERO else entry.digest.hex()
            yield FileEntry(os.fsdecode(path), digest, entry.size, _stored_by(entry))


def link_entries(store: Store, record: Record) -> Iterator[LinkEntry]:
    """Yield the external files of the version of *record*, in catalog order."""
    for path, entry in entries(store, record):
        if entry.external is not None:
            link = entry.external.url.decode()
            yield LinkEntry(link, os.fsdecode(path), entry.digest.hex(), entry.size, None)


def listed(store: Store, record: Record, pattern: str | None, *, recursive: bool) -> Iterator[str]:
    """Yield the paths of files and links that *pattern* names by the rules of `remove`, of all when None."""
    fits = _chooser(pattern, recursive)
    return (os.fsdecode(path) for path, entry in entries(store, record) if not entry.is_dir and fits(path))


def owned(store: Store, record: Record, owner: Record, pattern: str | None, *, recursive: bool) -> Iterator[str]:
    """Yield the paths that the version of *owner* added or modified, and that the version of *record* has as it left
    them; else as `listed`."""
    fits = _chooser(pattern, recursive)
    if record.status.is_open:
        here = dict(entries(store, record))
        for difference in differing(store, owner, None):
            entry = here.get(difference.path)
            if _is_kept(difference, entry) and fits(difference.path):
                yield os.fsdecode(difference.path)
        return
    with closing(store.version(record)) as version:
        finder = Finder(version.tree)
        for difference in differing(store, owner, None):
            if _is_kept(difference, finder.find(difference.path)) and fits(difference.path):
                yield os.fsdecode(difference.path)


def differing(store: Store, record: Record, since: Record | None) -> Iterator[Difference]:
    """Yield how the version of *record* differs from that of *since*, from the union of its parents when None."""
    if since is None:
        if record.status.is_open:
            yield from Draft(store, record).changes()
            return
        with closing(store.version(record)) as version:
            yield from changes(version)
        return
    if record.status.is_open or since.status.is_open:
        yield from _by_path(dict(entries(store, since)), dict(entries(store, record)))
        return
    assert since.root is not None
    with closing(store.version(record)) as version:
        yield from differences(Tree(since.root.page, version.pages.load), version.tree)


def of_kind(found: Iterable[Difference], word: Word) -> list[str]:
    """Return the sorted paths of the files and links that were *word*."""
    return sorted(os.fsdecode(item.path) for item in found if item.concerns_files and item.word == word)


def packs(store: Store, record: Record) -> set[bytes]:
    """Return the ids of the packs that hold the files of the version of *record*."""
    if record.tree is None:
        return set()
    found: set[bytes] = set()
    with closing(store.version(record)) as version:
        for _, entry in version.entries():
            if entry.content and entry.external is None:
                found.update(block.pack for block in all_blocks(entry.content, version.pages.load_blocks))
    return found


def _is_kept(difference: Difference, entry: Entry | None) -> bool:
    after = difference.after
    return after is not None and not after.is_dir and entry is not None and after.same_data(entry)


def _by_path(before: dict[bytes, Entry], after: dict[bytes, Entry]) -> Iterator[Difference]:
    for path in sorted(before.keys() | after.keys(), key=key_of):
        old, new = before.get(path), after.get(path)
        if old is not None and new is not None:
            is_staged = ZERO in (old.digest, new.digest) and old.is_file and new.is_file
            if old[:3] == new[:3] if is_staged else old.same_data(new):
                continue
        yield Difference(key_of(path), old, new)


def _stored_by(entry: Entry) -> str | None:
    if isinstance(entry.content, External):
        return None
    if isinstance(entry.content, BlockTreeRef):
        return entry.content.block.pack[:16].hex()
    return entry.content[0].block.pack[:16].hex() if entry.content else None


def _chooser(pattern: str | None, recursive: bool) -> Callable[[bytes], bool]:
    if not pattern or not pattern.strip("/"):
        return lambda path: True
    wanted = cleaned(pattern)
    if is_literal(wanted):
        return lambda path: path == wanted or path.startswith(wanted + b"/")
    return matcher(wanted, recursive=recursive)
