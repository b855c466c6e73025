"""Which entries of a version a listing asks for: those in folders, and those that wildcards match.

A pattern names what it matches as a whole path (`*`, `?`, `[…]`, where `*` matches `/` too), and a folder of that name
with all that is in it. Only pages that may hold something are read.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence

from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.tree import Tree

_MAGIC = re.compile(rb"[*?[]")


def listed(tree: Tree, patterns: Sequence[str | bytes] = ()) -> Iterator[tuple[bytes, Entry]]:
    """Yield path and entry of what *patterns* name (all when there are none) in catalog order, each once."""
    fits = chooser(patterns)
    for start, stop in ranks(tree, patterns):
        for _, path, entry in tree.scan(start, stop):
            if fits(path):
                yield path, entry


def chooser(patterns: Sequence[str | bytes]) -> Callable[[bytes], bool]:
    """Return what tells whether a path is among those that *patterns* name."""
    folders = [_cleaned(pattern) for pattern in patterns]
    if not patterns or b"" in folders:
        return lambda path: True

    def fits(path: bytes) -> bool:
        return any(
            path == folder or path.startswith(folder + b"/") or fnmatch.fnmatchcase(path, folder) for folder in folders
        )

    return fits


def ranks(tree: Tree, patterns: Sequence[str | bytes]) -> list[tuple[int, int]]:
    """Return the stretches of *tree*, in order and apart, outside of which nothing is that *patterns* name."""
    stretches: list[tuple[int, int]] = []
    for pattern in map(_cleaned, patterns):
        magic = _MAGIC.search(pattern)
        folder = pattern if magic is None else pattern[: magic.start()].rpartition(b"/")[0]
        if not folder:
            return [(0, tree.entries)]
        stretches.append(tree.subtree(folder))
        found = tree.locate(folder) if magic is None else None
        if found is not None:
            stretches.append((found[0], found[0] + 1))
    return _joined(stretches) if patterns else [(0, tree.entries)]


def _joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        elif start < stop:
            joined.append((start, stop))
    return joined


def _cleaned(pattern: str | bytes) -> bytes:
    return os.fsencode(pattern).strip(b"/").removeprefix(b"./")
