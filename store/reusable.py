"""Bytes that an upload or a commit need not send: where the version and its staging have them.

A `Reusable` belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dvfs.store.block import BlockRef, Extent
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.entry import Entry
from dvfs.store.edits import Finder
from dvfs.store.reuse import Previous, Reuse
from dvfs.store.source import Source
from dvfs.store.staging import Staging

if TYPE_CHECKING:
    from dvfs.store.version import Version

_MOST_FILES = 1 << 17
"""So many files are known by their digest; a rename of more sends the bytes of the rest again."""


class Reusable:
    """What *version* (None: nothing) has at the same path and at the paths that *staging* removes, and what was sent.

    Files that an earlier run packed and that are staged otherwise now count as sent.
    """

    def __init__(self, version: Version | None, staging: Staging) -> None:
        self._version = version
        self._staging = staging
        self._finder = Finder(version.tree if version is not None else None)
        self._removed: dict[bytes, bytes] = {}
        self._left_over: dict[bytes, bytes] = {}

    def reuse(self) -> Reuse:
        """Return what the packing asks."""
        return Reuse(base=self.base, lookup=self._lookup, blocks=self._blocks())

    def base(self, source: Source) -> Previous | None:
        """Return what the version has at the path of *source*."""
        entry = self._finder.find(source.path)
        return self.previous(entry) if entry is not None and entry.is_file else None

    def previous(self, entry: Entry) -> Previous | None:
        """Return the file of *entry* as one whose bytes need not be sent; None where they are not in the store."""
        if entry.external is not None:
            return None
        return Previous(entry.size, entry.digest, lambda: self._extents(entry))

    def _blocks(self) -> Iterator[BlockRef]:
        """Yield blocks of cut files that need not be sent; note small files that are removed or left over."""
        yield from self._staging.sent_blocks()
        for path, digest in self._staging.left_over():
            if len(self._left_over) == _MOST_FILES:
                break
            self._left_over[digest] = path
        if self._version is None:
            return
        finder = Finder(self._version.tree)
        for row in self._staging.removed():
            entry = finder.find(row.source.path)
            if entry is None or not entry.size or not entry.is_file or entry.external is not None:
                continue
            if len(self._removed) == _MOST_FILES:
                return
            self._removed[entry.digest] = row.source.path
            for block, start, length in self._extents(entry):
                if start == 0 and length == block.raw:
                    yield block

    def _lookup(self, digest: bytes, size: int) -> tuple[Extent, ...] | None:
        path = self._removed.get(digest)
        entry = self._finder.find(path) if path is not None else None
        if entry is not None and entry.digest == digest and entry.size == size:
            return tuple(self._extents(entry))
        path = self._left_over.get(digest)
        packed = self._staging.packed_at(path) if path is not None else None
        if packed is not None and packed[0] == digest and sum(extent.length for extent in packed[1]) == size:
            return packed[1]
        return None

    def _extents(self, entry: Entry) -> Iterable[Extent]:
        assert self._version is not None
        return blocktree.iter_extents(entry.content, 0, entry.size, self._version.pages.load_blocks)
