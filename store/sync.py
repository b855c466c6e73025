"""Comparing a version with local folders, and staging what differs. Both sides are walked once, in catalog order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.tree import Tree
from dvfs.store.collection import uncollected
from dvfs.store.cut import Cutting, cut
from dvfs.store.digest import ZERO, block_digest, file_digest
from dvfs.store.edits import current
from dvfs.store.errors import BadSource
from dvfs.store.failures import printable
from dvfs.store.same import Same, SameFolders
from dvfs.store.scan import Scan
from dvfs.store.source import Kind, Source, open_source, removal, why
from dvfs.store.staging import Staging

OnPath = Callable[[bytes], None]


@dataclass(slots=True)
class SyncCount:
    """Files and links that were removed, added, modified; *others*: directories that came, went or changed modes."""

    removed: int = 0
    added: int = 0
    modified: int = 0
    others: int = 0

    @property
    def changes(self) -> int:
        """All of them."""
        return self.removed + self.added + self.modified + self.others


class _NothingChanged(Exception):
    """Takes back what was staged when only times differ."""


def compare(
    scan: Scan,
    staging: Staging,
    tree: Tree | None,
    *,
    folder: bytes,
    cutting: Cutting,
    checksum: bool,
    on_path: OnPath | None,
) -> SyncCount:
    """Stage what makes *folder* of the version (*tree* and what *staging* gives it) equal to *scan*; return the counts.

    Raises BadSource naming what cannot be taken; then nothing is staged.
    """
    comparison = _Comparison(folder, cutting, checksum, on_path)
    try:
        with uncollected():  # of millions of files it would look at the same objects again and again
            staging.stage(comparison.changes(scan, staging, tree))
    except _NothingChanged:
        return SyncCount()
    return comparison.count


class _Comparison:
    """One run of `compare`."""

    def __init__(self, folder: bytes, cutting: Cutting, checksum: bool, on_path: OnPath | None) -> None:
        self.count = SyncCount()
        self._folder = folder
        self._cutting = cutting
        self._checksum = checksum
        self._on_path = on_path

    def changes(self, scan: Scan, staging: Staging, tree: Tree | None) -> Iterator[Source]:
        """Yield what to stage. Raises _NothingChanged at the end when it is only times."""
        if tree is None or self._checksum or not staging.is_empty():
            pairs = _pairs(iter(scan), current(staging, tree, self._folder), lambda rank: None)
        else:
            entries = _Entries(tree, self._folder)
            pairs = _pairs(scan.compared(SameFolders(tree)), entries, entries.skip_to)
        for source, known in pairs:
            if source is not None:
                if source.kind == Kind.PARENT or self._differs(source, known[1] if known is not None else None):
                    yield source
            elif known is not None and known[0] != self._folder:
                self._tell("others" if known[1].is_dir else "removed", known[0])
                yield removal(known[0])
        if not self.count.changes:
            raise _NothingChanged

    def _differs(self, source: Source, entry: Entry | None) -> bool:
        change = _judge(source, entry, self._cutting, self._checksum)
        if change is not None and change != "touched":
            self._tell("others" if source.kind == Kind.DIRECTORY else change, source.path)
        return change is not None

    def _tell(self, what: str, path: bytes) -> None:
        setattr(self.count, what, getattr(self.count, what) + 1)
        if self._on_path is not None and what != "others":
            self._on_path(path)


class _Entries:
    """Path and entry of all at and below *folder* of *tree*, in catalog order."""

    def __init__(self, tree: Tree, folder: bytes) -> None:
        self._tree = tree
        found = tree.find(folder)
        first, self._stop = tree.subtree(folder)
        below = tree.scan(first, self._stop)
        self._rows = chain([(found[0], folder, found[1])], below) if found is not None else iter(())

    def __iter__(self) -> Iterator[tuple[bytes, Entry]]:
        return self

    def __next__(self) -> tuple[bytes, Entry]:
        return next(self._rows)[1:]

    def skip_to(self, rank: int) -> None:
        """Go on at *rank*."""
        self._rows = self._tree.scan(rank, self._stop)


def _pairs(
    sources: Iterator[Source | Same], entries: Iterator[tuple[bytes, Entry]], skip_to: Callable[[int], None]
) -> Iterator[tuple[Source | None, tuple[bytes, Entry] | None]]:
    """Yield what the scan and the version have under the same path, in catalog order; None where one has nothing.

    What is the same is left out: *skip_to* has *entries* go on at a rank.
    """
    source, entry = next(sources, None), next(entries, None)
    while source is not None or entry is not None:
        left = None if source is None else source.key if isinstance(source, Same) else key_of(source.path)
        right = key_of(entry[0]) if entry is not None else None
        takes_left = left is not None and (right is None or left <= right)
        takes_right = right is not None and (left is None or right <= left)
        if isinstance(source, Same):
            if takes_left:
                skip_to(source.stop)
            else:
                yield None, entry
        else:
            yield source if takes_left else None, entry if takes_right else None
        source = next(sources, None) if takes_left else source
        entry = next(entries, None) if takes_right else entry


def _judge(source: Source, entry: Entry | None, cutting: Cutting, checksum: bool) -> str | None:
    """Return `added`, `modified`, `touched` (times only), or None where *source* is as *entry* says."""
    if entry is None:
        return "added"
    same_kind = (
        (source.kind == Kind.FILE and entry.is_file)
        or (source.kind == Kind.LINK and entry.is_link)
        or (source.kind == Kind.DIRECTORY and entry.is_dir)
    )
    if not same_kind:
        return "modified" if entry.is_file or entry.is_link else "added"
    times = None if source.mtime_ns == entry.mtime_ns else "touched"
    if source.kind == Kind.LINK:
        return times if source.target == entry.target else "modified"
    if source.mode & 0o7777 != entry.mode & 0o7777:
        return "modified"
    if source.kind == Kind.DIRECTORY:
        return times
    if source.size != entry.size:
        return "modified"
    if times is None and not checksum:
        return None
    if entry.digest == ZERO:
        return "modified"  # staged and not read yet: the new word counts
    return times if digest_of(source.source, cutting) == entry.digest else "modified"


def digest_of(path: bytes, cutting: Cutting) -> bytes:
    """Return the digest that the local file *path* has in a version. Raises BadSource when it cannot be read."""
    try:
        handle = open_source(path)
    except OSError as exc:
        raise BadSource(f"cannot read {printable(path)}: {why(exc)}") from exc
    try:
        if os.fstat(handle).st_size <= cutting.small_file_bytes:
            data = os.read(handle, cutting.small_file_bytes + 1)
            if len(data) <= cutting.small_file_bytes:
                return block_digest(data)
            os.lseek(handle, 0, os.SEEK_SET)
        size = 0
        digests = []
        for block in cut(lambda view: os.readv(handle, [view]), cutting):
            size += len(block)
            digests.append(block_digest(block))
    except OSError as exc:
        raise BadSource(f"cannot read {printable(path)}: {why(exc)}") from exc
    finally:
        os.close(handle)
    return digests[0] if len(digests) == 1 else file_digest(size, digests)
