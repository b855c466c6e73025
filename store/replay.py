"""A change-set made a second time: what led from one tree to another is done to a third.

Where the third differs from the first, the change-set's word holds: what it sets is set, with all directories above,
and what was in the place of it goes; what it removes goes, but a directory in which something is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.diff import Difference
from dvfs.store.catalog.entry import Edit, Entry
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.key import key_of, parent_of
from dvfs.store.catalog.tree import Tree
from dvfs.store.edits import Finder


def replay(
    onto: Tree, changes: Callable[[], Iterable[Difference]], before: Tree | None, after: Tree, writer: Writer
) -> PageRef:
    """Write what *changes*, which lead from *before* (None: nothing) to *after*, make of *onto*; return its root.

    *changes* is called twice and must yield the same, in catalog order. Reads *onto* in proportion to the changes.
    """
    conflicts = _Conflicts(onto, before, after)
    for change in changes():
        conflicts.look_at(change)
    extra = heapq.merge(sorted(conflicts.edits.items()), conflicts.covered(), key=_key)
    edits = (
        (change.key, change.after)
        for change in changes()
        if change.after is not None or change.path not in conflicts.kept
    )
    return writer.apply(onto.root, onto.load, _once(heapq.merge(edits, extra, key=_key)))


def _key(edit: Edit) -> bytes:
    return edit[0]


def _once(edits: Iterable[Edit]) -> Iterator[Edit]:
    """Yield *edits*, of several for one key the first."""
    last: bytes | None = None
    for edit in edits:
        if edit[0] != last:
            last = edit[0]
            yield edit


class _Conflicts:
    """Where a change-set meets what it does not know of.

    *edits*: directories that must be there. *kept*: those that it removes and that stay.
    """

    def __init__(self, onto: Tree, before: Tree | None, after: Tree) -> None:
        self.edits: dict[bytes, Entry] = {}
        self.kept: set[bytes] = set()
        self._onto = onto
        self._there = Finder(onto)
        self._before = Finder(before)
        self._after = Finder(after)
        self._standing: set[bytes] = set()
        self._covered: list[bytes] = []
        self._emptied: set[bytes] = set()

    def look_at(self, change: Difference) -> None:
        """Note what *change* needs besides itself."""
        path = change.path
        if change.after is None:
            if self._there.is_directory(path):
                self._remove_directory(path)
            return
        self._stand(parent_of(path))
        if not change.after.is_dir and self._there.is_directory(path):
            self._covered.append(path)

    def covered(self) -> Iterator[Edit]:
        """Yield the removal of all that lies below a directory in whose place something else comes."""
        keys = (
            key_of(path)
            for top in self._covered
            for start, stop in [self._onto.subtree(top)]
            for _, path, _ in self._onto.scan(start, stop)
        )
        return ((key, None) for key in sorted(keys))

    def _stand(self, path: bytes) -> None:
        """See that *path* and all above it are going to be directories."""
        while path not in self._standing:
            self._standing.add(path)
            if not self._there.is_directory(path):
                entry = self._after.find(path)
                if entry is not None:
                    self.edits[key_of(path)] = entry
            if not path:
                return
            path = parent_of(path)

    def _remove_directory(self, path: bytes) -> None:
        """Keep directory *path* unless the change-set removes all that is in it here."""
        if parent_of(path) not in self._emptied:
            for _, below, _ in self._onto.scan(*self._onto.subtree(path)):
                if self._before.find(below) is None:
                    self.kept.add(path)
                    return
        self._emptied.add(path)
