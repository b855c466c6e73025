"""What differs between two trees, and the union of trees: both read pages in proportion to what differs.

Pages with equal content digests are passed over wherever both sides stand at the start of one; so a shared subtree
costs nothing, however deep or diamond-shaped the lineage behind it is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from dvfs.store.catalog.apply import Writer
from dvfs.store.catalog.entry import Edit, Entry
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.key import key_of, parent_of, path_of
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.pages import Load
from dvfs.store.catalog.tree import Tree

Word = Literal["added", "modified", "removed"]
"""What became of a path."""


class Difference(NamedTuple):
    """A path whose entries differ: *before* is None where it was added, *after* where it was removed."""

    key: bytes
    before: Entry | None
    after: Entry | None

    @property
    def path(self) -> bytes:
        return path_of(self.key)

    @property
    def concerns_files(self) -> bool:
        """Whether there was or is a file or a link; else it is a matter of directories alone."""
        return any(entry is not None and not entry.is_dir for entry in (self.before, self.after))

    @property
    def word(self) -> Word:
        """What became of the path; a file or link in place of a directory counts as added, the reverse as removed."""
        before, after = self.before, self.after
        if self.concerns_files:
            before, after = (entry if entry is not None and not entry.is_dir else None for entry in (before, after))
        if before is None:
            return "added"
        return "removed" if after is None else "modified"

    @property
    def entry(self) -> Entry:
        """The entry that the word is about: the former one of what was removed."""
        entry = self.before if self.word == "removed" else self.after
        assert entry is not None
        return entry


def diff(before: Tree, after: Tree, *, mtimes: bool = False) -> Iterator[Difference]:
    """Yield, in catalog order, every path whose entries differ in what a version's digest covers.

    With *mtimes*, a difference in mtime alone counts where it is met; pages of equal digest are still passed over.
    """
    left, right = _Side(before.root, before.load), _Side(after.root, after.load)
    while True:
        one, two = left.page(), right.page()
        if one is not None and two is not None:
            if one.content == two.content and one.level == two.level:
                left.skip()
                right.skip()
            else:
                _open_first(left, one, right, two)
            continue
        if one is not None and (right.key is None or right.key >= one.key):
            left.open()
            continue
        if two is not None and (left.key is None or left.key >= two.key):
            right.open()
            continue
        if left.key is None and right.key is None:
            return
        if two is None and left.key == right.key:
            old, new = left.entry(), right.entry()
            if not old.same_data(new) or (mtimes and old.mtime_ns != new.mtime_ns):
                yield Difference(left.taken, old, new)
        elif right.key is None or (left.key is not None and left.key < right.key):
            yield Difference(left.key or b"", left.entry(), None)
        else:
            yield Difference(right.key, None, right.entry())


def _open_first(left: _Side, one: PageRef, right: _Side, two: PageRef) -> None:
    """Open the page that starts first; of two that start together the higher, of two of a height both."""
    if one.key < two.key:
        left.open()
    elif two.key < one.key:
        right.open()
    else:
        if one.level >= two.level:
            left.open()
        if two.level >= one.level:
            right.open()


class _Side:
    """A tree walked from left to right, standing at an unread page or at an entry; `key` is that one's, or None."""

    def __init__(self, root: PageRef, load: Load) -> None:
        self._load = load
        self._stack: list[PageRef] = [root]
        self._leaf: Leaf | None = None
        self._keys: list[bytes] = []
        self._index = 0
        self.key: bytes | None = root.key
        self.taken = b""

    def page(self) -> PageRef | None:
        """Return the unread page that this side stands at, None when it stands at an entry or at the end."""
        return self._stack[-1] if self._leaf is None and self._stack else None

    def skip(self) -> None:
        """Pass over the unread page."""
        self._stack.pop()
        self._settle()

    def open(self) -> None:
        """Read the unread page and stand at its first child or entry."""
        page = self._load(self._stack.pop())
        if isinstance(page, Inner):
            self._stack += reversed(page.children())
        elif page.count:
            self._leaf, self._keys, self._index = page, page.keys(), 0
        self._settle()

    def entry(self) -> Entry:
        """Return the entry that this side stands at, and go on."""
        assert self._leaf is not None
        found = self._leaf.entry_at(self._index)
        self.taken = self._keys[self._index]
        self._index += 1
        if self._index == self._leaf.count:
            self._leaf = None
        self._settle()
        return found

    def _settle(self) -> None:
        if self._leaf is not None:
            self.key = self._keys[self._index]
        else:
            self.key = self._stack[-1].key if self._stack else None


def merge(trees: Sequence[Tree], writer: Writer) -> PageRef:
    """Write the union of *trees*, where a later one overrides an earlier; return its root.

    A file or link over a directory, or the reverse, replaces it whole. Intermediate unions of more than two are written
    through *writer* as well, and must be loadable through the trees' own loaders.
    """
    root = trees[0].root
    load = trees[0].load
    for later in trees[1:]:
        root = writer.apply(later.root, later.load, _only_in(Tree(root, load), later))
        load = later.load
    return root


def _only_in(earlier: Tree, later: Tree) -> Iterator[Edit]:
    """Yield as edits the entries of *earlier* that *later* has no say in: path and all above are free there."""
    standing: dict[bytes, bool] = {}
    for difference in diff(later, earlier):
        if difference.before is None and difference.after is not None:
            parent = parent_of(difference.path)
            if parent not in standing:
                standing[parent] = _is_directory(later, parent)
            if not standing[parent]:
                if difference.after.is_dir:
                    standing[difference.path] = False
                continue
            if difference.after.is_dir:
                standing[difference.path] = True
            yield difference.key, difference.after


def _is_directory(tree: Tree, path: bytes) -> bool:
    found = tree.locate(path)
    return found is not None and stat.S_ISDIR(found[1].modes[found[2]])


def edits_of(entries: dict[bytes, Entry | None]) -> list[Edit]:
    """Return *entries*, by path, as edits in order of key."""
    return sorted(((key_of(path), entry) for path, entry in entries.items()), key=lambda edit: edit[0])
