"""Folders that are as a version has them: found by whole columns of the catalog, without a look at each file.

A `SameFolders` is used by one thread.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.tree import Tree
from dvfs.store.lstats import Columns

READABLE_BY_ALL = 0o444
"""Permission bits that let everybody read: who reads need not be asked for."""


class Same(NamedTuple):
    """The children of a folder are those of the version, from *key* to before rank *stop*."""

    key: bytes
    stop: int
    has_folders: bool


class SameFolders:
    """Compares local folders with those of *tree*."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def find(self, path: bytes, names: Sequence[bytes], found: Columns) -> Same | None:
        """Return where the version has all children of folder *path*, if they are just *names*, as *found*.

        None where one of them differs, or where it takes more than that to tell: links, files that not all may read.
        """
        first, count = self._tree.children(path)
        if not count or count != len(names):
            return None
        modes, sizes, mtimes = found
        has_folders = False
        for mode in set(modes):
            if stat.S_ISDIR(mode):
                has_folders = True
                sizes = array("Q", [0 if stat.S_ISDIR(mode) else size for mode, size in zip(modes, sizes, strict=True)])
            elif not stat.S_ISREG(mode) or mode & READABLE_BY_ALL != READABLE_BY_ALL:
                return None
        at = 0
        while at < count:
            leaf, index = self._tree.leaf_at(first + at)
            stop = min(leaf.count, index + count - at)
            end = at + stop - index
            if (
                leaf.names[index:stop] != names[at:end]
                or leaf.mtimes[index:stop] != mtimes[at:end]
                or leaf.sizes[index:stop] != sizes[at:end]
                or leaf.modes[index:stop] != modes[at:end]
            ):
                return None
            at = end
        return Same(key_of(path + b"/" + names[0] if path else names[0]), first + count, has_folders)
