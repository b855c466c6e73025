"""The catalog of one version, for reading: path to entry, entry to rank and back, in O(depth) pages.

A tree is a root reference and a way to load pages. It is immutable and as thread-safe as its loader; with a loader
that raises `NotCached` every method does so instead of waiting.
"""

from __future__ import annotations

from collections.abc import Iterator

from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.key import children_bounds, key_of, split, subtree_bounds
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.pages import Load


class Tree:
    """The ordered map of a version. Ranks count entries in catalog order from 0, the root directory."""

    __slots__ = ("load", "root")

    def __init__(self, root: PageRef, load: Load) -> None:
        self.root = root
        self.load = load

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self.root.entries

    @property
    def files(self) -> int:
        """Number of files."""
        return self.root.files

    @property
    def size(self) -> int:
        """Sizes of all files, added up."""
        return self.root.size

    @property
    def digest(self) -> bytes:
        """The version's digest: equal for equal data, wherever it lies."""
        return self.root.content

    def leaf_at(self, rank: int) -> tuple[Leaf, int]:
        """Return the leaf that holds the entry at *rank*, and its index there. Raises IndexError outside."""
        if not 0 <= rank < self.root.entries:
            raise IndexError(rank)
        page = self.load(self.root)
        while isinstance(page, Inner):
            index = page.index_at(rank)
            rank -= page.ranks[index]
            page = self.load(page.child(index))
        return page, rank

    def leaf_ref_at(self, rank: int) -> PageRef:
        """Return the reference to the leaf that holds the entry at *rank*: the leaf itself is not loaded.

        Raises IndexError outside.
        """
        if not 0 <= rank < self.root.entries:
            raise IndexError(rank)
        ref = self.root
        while ref.level:
            page = self.load(ref)
            assert isinstance(page, Inner)  # the loader has checked its level
            index = page.index_at(rank)
            rank -= page.ranks[index]
            ref = page.child(index)
        return ref

    def locate(self, path: bytes) -> tuple[int, Leaf, int] | None:
        """Return rank, leaf and index there of *path*, None when the version has no such path."""
        key = key_of(path)
        rank, leaf = self._leaf_of(key)
        index = leaf.find(*split(key))
        return None if index is None else (rank + index, leaf, index)

    def find(self, path: bytes) -> tuple[int, Entry] | None:
        """Return rank and entry of *path*, None when the version has no such path."""
        found = self.locate(path)
        return None if found is None else (found[0], found[1].entry_at(found[2]))

    def select(self, rank: int) -> tuple[bytes, Entry]:
        """Return path and entry at *rank*. Raises IndexError outside."""
        leaf, index = self.leaf_at(rank)
        return leaf.path_at(index), leaf.entry_at(index)

    def lower_bound(self, key: bytes) -> int:
        """Return the rank of the first entry whose key is *key* or above; `entries` when there is none."""
        rank, leaf = self._leaf_of(key)
        return rank + leaf.lower_bound(key)

    def children(self, path: bytes) -> tuple[int, int]:
        """Return the rank of the first child of directory *path* and the number of its children."""
        start, stop = map(self.lower_bound, children_bounds(path))
        return start, stop - start

    def subtree(self, path: bytes) -> tuple[int, int]:
        """Return the ranks between which (first included, second not) all below directory *path* lies, without it."""
        first, last = subtree_bounds(path)
        return self.lower_bound(first), self.entries if last is None else self.lower_bound(last)

    def leaves(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Leaf]]:
        """Yield the leaves that hold ranks from *start* to before *stop*, each with the rank of its first entry."""
        stop = self.entries if stop is None else min(stop, self.entries)
        while start < stop:
            leaf, index = self.leaf_at(start)
            yield start - index, leaf
            start += leaf.count - index

    def scan(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes, Entry]]:
        """Yield rank, path and entry from rank *start* to before *stop*, in catalog order."""
        stop = self.entries if stop is None else min(stop, self.entries)
        for first, leaf in self.leaves(start, stop):
            for index in range(max(start - first, 0), min(leaf.count, stop - first)):
                yield first + index, leaf.path_at(index), leaf.entry_at(index)

    def _leaf_of(self, key: bytes) -> tuple[int, Leaf]:
        page = self.load(self.root)
        rank = 0
        while isinstance(page, Inner):
            index = page.index_of(key)
            rank += page.ranks[index]
            page = self.load(page.child(index))
        return rank, page
