"""What differs between two versions, and between a version and what it started from. Reads pages that differ only.

Whatever is yielded is in catalog order; a version that is compared must stay open until then.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvfs.store.catalog.diff import Difference, diff
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import key_of
from dvfs.store.catalog.tree import Tree
from dvfs.store.digest import ZERO
from dvfs.store.edits import Finder, staged_entry
from dvfs.store.source import FILES, Kind

if TYPE_CHECKING:
    from dvfs.store.staging import Staging
    from dvfs.store.version import Version


@dataclass(frozen=True, slots=True)
class ChangeCount:
    """Files and links that were removed, modified, added; *others*: directories that came, went or changed modes."""

    removed: int = 0
    modified: int = 0
    added: int = 0
    others: int = 0


def compare(before: Version, after: Version) -> Iterator[Difference]:
    """Yield what is to be done to the files of *before* for those of *after*; mtimes do not count.

    Raises as `Fetcher.block`.
    """
    return diff(before.tree, after.tree)


def changes(version: Version) -> Iterator[Difference]:
    """Yield the change-set of *version*: what it adds, modifies and removes of its parents' union.

    Raises as `Fetcher.block`.
    """
    base = version.record.base
    return differences(None if base is None else Tree(base.page, version.pages.load), version.tree)


def differences(before: Tree | None, after: Tree) -> Iterator[Difference]:
    """Yield what differs between two trees, of which *before* may be none."""
    if before is not None:
        return diff(before, after)
    return (Difference(key_of(path), None, entry) for _, path, entry in after.scan())


def count(found: Iterable[Difference]) -> ChangeCount:
    """Return how many of what was *found*."""
    counts = {"removed": 0, "modified": 0, "added": 0, "others": 0}
    for difference in found:
        counts[difference.word if difference.concerns_files else "others"] += 1
    return ChangeCount(**counts)


def pending_changes(base: Tree | None, draft: Tree | None, staging: Staging) -> Iterator[Difference]:
    """Yield how an open version, with what is uploaded in *draft* and what *staging* gives it, differs from *base*.

    Files that are not packed have no digest (zeros); one is the same when size, mtime and permissions are.
    """
    uploaded = differences(base, draft) if draft is not None else iter(())
    streams = [_staged(base, draft, staging), _covered(base, draft, staging), uploaded]
    merged = heapq.merge(*streams, key=lambda found: found.key)
    for _, of_one_key in itertools.groupby(merged, key=lambda found: found.key):
        found = next(of_one_key)  # of several for one key the staged one comes first, and counts
        if not _is_same(found.before, found.after):
            yield found


def _staged(base: Tree | None, draft: Tree | None, staging: Staging) -> Iterator[Difference]:
    before, uploaded = Finder(base), Finder(draft)
    for row in staging.edits():
        path = row.source.path
        after = None if row.source.kind == Kind.REMOVED else staged_entry(row)
        if row.source.kind == Kind.PARENT:
            there = uploaded.find(path)
            after = there if there is not None and there.is_dir else after
        yield Difference(key_of(path), before.find(path), after)


def _covered(base: Tree | None, draft: Tree | None, staging: Staging) -> Iterator[Difference]:
    """Yield what lies below directories that a staged file or link takes the place of, as removed."""
    finder = Finder(draft)
    if draft is None:
        return
    tops = [
        row.source.path for row in staging.edits() if row.source.kind in FILES and finder.is_directory(row.source.path)
    ]
    before = Finder(base)
    for key, path in sorted((key_of(below), below) for top in tops for _, below, _ in draft.scan(*draft.subtree(top))):
        yield Difference(key, before.find(path), None)
    # What the base has there and the draft no more is among the differences of those two.


def _is_same(before: Entry | None, after: Entry | None) -> bool:
    if before is None or after is None:
        return before is after
    if after.is_file and after.digest == ZERO:
        return before.is_file and before[:3] == after[:3]
    return before.same_data(after)
