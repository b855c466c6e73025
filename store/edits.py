"""From staging to the catalog: the staged rows of an open version as edits of its draft.

The result keeps a catalog whole: the root is there, every parent is a directory that is there, nothing lies below a
file. Reads the draft in proportion to what is staged.
"""

from __future__ import annotations

import heapq
import stat
from collections.abc import Callable, Iterable, Iterator

from dvfs.store.block import BlockRef
from dvfs.store.catalog.entry import Content, Edit, Entry, directory, external_file, link
from dvfs.store.catalog.key import join, key_of, split, subtree_bounds
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.tree import Tree
from dvfs.store.change import Kept, before_of, bytes_of
from dvfs.store.external import from_bytes
from dvfs.store.source import Kind, Source
from dvfs.store.staging import Staged, Staging

BlockTree = Callable[[list[BlockRef], Iterable[Content]], Content | None]
"""Writes the tree of a file's blocks, or returns None where the leaf lists them.

Also gets contents that may have pages of that tree already: of what was there before.
"""


_Found = tuple[bytes, bytes, Staged | None, Entry | None]


class Finder:
    """Look-ups in *tree* for paths in catalog order: neighbours cost no descent. *tree* None is an empty one."""

    def __init__(self, tree: Tree | None) -> None:
        self._tree = tree
        self._leaf: Leaf | None = None
        self._last = b""

    def locate(self, path: bytes) -> tuple[Leaf, int] | None:
        """Return the leaf that holds *path* and its index there, None when the tree has no such path."""
        if self._tree is None:
            return None
        key = key_of(path)
        leaf = self._leaf
        if leaf is None or not leaf.key <= key <= self._last:
            found = self._tree.locate(path)
            if found is None:
                return None
            leaf = self._leaf = found[1]
            self._last = leaf.key_at(leaf.count - 1)
            return leaf, found[2]
        index = leaf.find(*split(key))
        return None if index is None else (leaf, index)

    def find(self, path: bytes) -> Entry | None:
        """Return the entry of *path*, None when the tree has no such path."""
        found = self.locate(path)
        return None if found is None else found[0].entry_at(found[1])

    def is_directory(self, path: bytes) -> bool:
        """Tell whether the tree has a directory at *path*."""
        found = self.locate(path)
        return found is not None and stat.S_ISDIR(found[0].modes[found[1]])


def edits(staging: Staging, upto: int, tree: Tree | None, block_tree: BlockTree, now_ns: int) -> Iterator[Edit]:
    """Yield, in order of key, what the rows of *staging* up to the serial *upto* make of *tree* (None: empty).

    Files that are not packed yet are left out. *now_ns* is the mtime of directories that are made for what is in them.
    """
    covered, kept = _conflicts(staging, upto, tree)
    hidden = (key for path in _outermost(covered) for key in _keys_below(tree, path))
    rows = _rows(staging, upto, tree, block_tree, now_ns, kept)
    last: bytes | None = None
    if tree is None or not tree.entries:
        rows = heapq.merge(rows, [(b"", directory(mtime_ns=now_ns))], key=_key)
    for edit in heapq.merge(rows, ((key, None) for key in hidden), key=_key):
        if edit[0] != last:  # of two for one key the staged one comes first, and counts
            last = edit[0]
            yield edit


def current(staging: Staging, tree: Tree | None, folder: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Yield path and entry of all at and below *folder* that *tree* has or *staging* gives it, in catalog order.

    Files that are not packed have no digest (zeros) and no content.
    """
    finder = Finder(tree)
    uploaded: Iterator[_Found] = ((key_of(path), path, None, entry) for path, entry in _uploaded(tree, folder))
    staged: Iterator[_Found] = (
        (key_of(row.source.path), row.source.path, row, None)
        for row in staging.edits()
        if not folder or row.source.path == folder or row.source.path.startswith(folder + b"/")
    )
    last: bytes | None = None
    for key, path, row, entry in heapq.merge(staged, uploaded, key=lambda found: found[0]):
        if key == last:
            continue  # of two for one key the staged one comes first, and counts
        last = key
        if row is None:
            assert entry is not None
            yield path, entry
        elif row.source.kind == Kind.PARENT:
            there = finder.find(path)
            yield path, there if there is not None and there.is_dir else directory()
        elif row.source.kind != Kind.REMOVED:
            yield path, staged_entry(row)


def _uploaded(tree: Tree | None, folder: bytes) -> Iterator[tuple[bytes, Entry]]:
    if tree is None:
        return
    found = tree.find(folder)
    if found is not None:
        yield folder, found[1]
        for _, path, entry in tree.scan(*tree.subtree(folder)):
            yield path, entry


def staged_entry(row: Staged) -> Entry:
    """Return what *row*, which is no removal, makes of its path; a file that is not packed has no digest (zeros)."""
    source = row.source
    if source.kind == Kind.KEPT:
        return _kept_entry(source)
    if source.kind == Kind.LINK:
        return link(source.target, source.mtime_ns)
    if source.kind == Kind.EXTERNAL:
        return external_file(from_bytes(source.target), source.mtime_ns, source.mode)
    if source.kind in (Kind.DIRECTORY, Kind.PARENT):
        return directory(source.mode, source.mtime_ns)
    entry = Entry(stat.S_IFREG | (source.mode & 0o7777), source.size, source.mtime_ns)
    return entry if row.digest is None else entry._replace(digest=row.digest)


def _key(edit: Edit) -> bytes:
    return edit[0]


def _rows(
    staging: Staging, upto: int, tree: Tree | None, block_tree: BlockTree, now_ns: int, kept: set[bytes]
) -> Iterator[Edit]:
    finder = Finder(tree)
    for row in staging.edits(upto):
        source = row.source
        key = key_of(source.path)
        if source.kind == Kind.FILE:
            if row.digest is not None:
                yield key, _file_entry(row, block_tree, finder)
        elif source.kind in (Kind.KEPT, Kind.EXTERNAL):
            yield key, staged_entry(row)
        elif source.kind == Kind.DIRECTORY:
            yield key, directory(source.mode, source.mtime_ns)
        elif source.kind == Kind.LINK:
            yield key, link(source.target, source.mtime_ns)
        elif source.kind == Kind.PARENT:
            if not finder.is_directory(source.path):
                yield key, directory(mtime_ns=now_ns)
        elif source.path not in kept:
            yield key, None


def _file_entry(row: Staged, block_tree: BlockTree, finder: Finder) -> Entry:
    source, extents = row.source, row.extents or ()

    def before() -> Iterator[Content]:
        for entry in (finder.find(source.path), before_of(source)):
            if entry is not None:
                yield entry.content

    tree = block_tree([extent.block for extent in extents], before())
    assert row.digest is not None
    content: Content = extents if tree is None else tree
    return Entry(stat.S_IFREG | (source.mode & 0o7777), source.size, source.mtime_ns, row.digest, content)


def _kept_entry(source: Source) -> Entry:
    kept = bytes_of(source)
    assert isinstance(kept, Kept)
    return Entry(stat.S_IFREG | (source.mode & 0o7777), source.size, source.mtime_ns, kept.digest, kept.content)


def _conflicts(staging: Staging, upto: int, tree: Tree | None) -> tuple[list[bytes], set[bytes]]:
    """Return the directories of *tree* that a file or link takes the place of, and the removed ones that must stay.

    A directory stays when another writer has put something below it since it was removed here.
    """
    covered: list[bytes] = []
    kept: set[bytes] = set()
    if tree is None:
        return covered, kept
    finder = Finder(tree)
    removed: list[bytes] = []
    for row in staging.edits(upto):
        if row.source.kind not in (Kind.DIRECTORY, Kind.PARENT) and finder.is_directory(row.source.path):
            if row.source.kind != Kind.REMOVED:
                covered.append(row.source.path)
            elif not row.source.path or not _all_removed(staging, tree, row.source.path, removed):
                kept.add(row.source.path)
            else:
                removed.append(row.source.path)
    return covered, kept


def _all_removed(staging: Staging, tree: Tree, path: bytes, removed: list[bytes]) -> bool:
    """Tell whether nothing stays below directory *path*; *removed* are directories of which this is known."""
    if removed and path.startswith(removed[-1] + b"/"):
        return True
    start, stop = tree.subtree(path)
    for first, leaf in tree.leaves(start, stop):
        for index in range(max(start - first, 0), min(leaf.count, stop - first)):
            row = staging.find(leaf.path_at(index))
            if row is None or row.source.kind != Kind.REMOVED:
                return False
    return True


def _outermost(paths: list[bytes]) -> Iterator[bytes]:
    """Yield those of the directories *paths* that lie in no other, in the order of the keys below them."""
    last: bytes | None = None
    for path in sorted(paths, key=lambda path: subtree_bounds(path)[0]):
        if last is None or not path.startswith(last + b"/"):
            last = path
            yield path


def _keys_below(tree: Tree | None, path: bytes) -> Iterator[bytes]:
    if tree is not None:
        start, stop = tree.subtree(path)
        for first, leaf in tree.leaves(start, stop):
            for index in range(max(start - first, 0), min(leaf.count, stop - first)):
                yield key_of(join(leaf.parents[leaf.run_of(index)], leaf.names[index]))
