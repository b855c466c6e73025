"""Writing a catalog: sorted edits applied to a tree give a new tree that shares every page they leave alone.

The result is the same, page for page, as that of writing the edited map anew: a level is cut from the start of the
first page that changes, on to the right until a new cut falls on an old one; what comes out of a level is the edits of
the level above. Work and pages written are in proportion to the pages touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from dvfs.store.block import BlockRef
from dvfs.store.catalog.blocktree import build as build_blocks
from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.catalog.entry import BlockTreeRef, Edit, Item
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.leaf import INLINE_BLOCKS
from dvfs.store.catalog.pages import Load, write_inner, write_leaf
from dvfs.store.digest import block_digest
from dvfs.store.external import External

Write = Callable[[bytes], BlockRef]
Change = tuple[bytes, PageRef | None]
"""An edit of an inner level: a first key, and the page that starts there now, or None."""

_T = TypeVar("_T")

_TYPICAL_BLOCK_BYTES = 768 << 10
_BLOCK_WEIGHT = 48


class Writer:
    """Writes trees with *boundaries* through *write*, which stores a page and returns where; not thread-safe."""

    def __init__(self, write: Write, boundaries: Boundaries) -> None:
        self._sink = write
        self._boundaries = boundaries
        self._known: dict[bytes, BlockRef] = {}
        self._children: dict[bytes, tuple[int, PageRef]] = {}

    def build(self, items: Iterable[Item]) -> PageRef:
        """Write the tree of *items*, which are in order of key and start with the root; return its root."""
        return self._raise(list(self._leaf().cut(items)) or [write_leaf([], self._write)])

    def apply(self, root: PageRef, load: Load, edits: Iterable[Edit]) -> PageRef:
        """Write what *edits*, in order of key and one for a key, make of the tree at *root*; return its root."""
        changes = self._leaf().apply(self._cursor(root, load, 0), _Edits(edits))
        for number in range(1, root.level + 1):
            changes = self._inner(number).apply(self._cursor(root, load, number), _Edits(changes))
        if not changes:
            return root
        stays = all(key != root.key for key, _ in changes)  # the page that was the root, with others beside it now
        top = [root] * stays + [ref for _, ref in changes if ref is not None]
        return self._lower(self._raise(top), load) if top else write_leaf([], self._write)

    def block_tree(self, blocks: Sequence[BlockRef], known: Iterable[BlockRef] = ()) -> BlockTreeRef | None:
        """Write the tree of a file's *blocks* and return its root; None where the leaf lists them.

        Pages that are among the *known* ones are not written; these are looked at only where there is a tree.
        """
        if len(blocks) <= INLINE_BLOCKS:
            return None
        self._known.update((ref.digest, ref) for ref in known)
        return build_blocks(blocks, self._boundaries.blocks, self._write)

    def _write(self, stored: bytes) -> BlockRef:
        """Store a page unless it is one that was read: then it is where that is."""
        return self._known.get(block_digest(stored)) or self._sink(stored)

    def _cursor(self, root: PageRef, load: Load, level: int) -> _Cursor:
        return _Cursor(root, load, level, self._known)

    def _leaf(self) -> _Level[Any]:
        return _Level(0, self._boundaries.leaf, _leaf_weight, lambda items: write_leaf(items, self._write))

    def _inner(self, number: int) -> _Level[PageRef]:
        def write(items: Sequence[tuple[bytes, PageRef]]) -> PageRef:
            refs = [ref for _, ref in items]
            page = write_inner(number, refs, self._write)
            self._children[page.block.digest] = len(refs), refs[0]
            return page

        return _Level(number, self._boundaries.inner, lambda item: len(item[0]), write)

    def _raise(self, refs: list[PageRef]) -> PageRef:
        """Write levels above *refs*, all pages of one level, until one page is left; it is the root."""
        while len(refs) > 1:
            refs = list(self._inner(refs[0].level + 1).cut((ref.key, ref) for ref in refs))
        return refs[0]

    def _lower(self, root: PageRef, load: Load) -> PageRef:
        """Return the lowest page that is alone on its level."""
        while root.level:
            written = self._children.get(root.block.digest)
            if written is not None:
                number, child = written
            else:
                page = load(root)
                assert isinstance(page, Inner)
                number, child = page.count, page.child(0)
            if number > 1:
                break
            root = child
        return root


def _leaf_weight(item: Item) -> int:
    """Return what an entry counts towards a page's weight: key, target or URL and pin, list of blocks by its size."""
    key, entry = item
    weight = len(key) + len(entry.target)
    if isinstance(entry.content, External):
        weight += len(entry.content.url) + len(entry.content.pin)
    if entry.size > _TYPICAL_BLOCK_BYTES:
        weight += _BLOCK_WEIGHT * min(entry.size // _TYPICAL_BLOCK_BYTES, INLINE_BLOCKS)
    return weight


class _Edits(Generic[_T]):
    """Edits with a look at the next one."""

    def __init__(self, edits: Iterable[tuple[bytes, _T | None]]) -> None:
        self._rest = iter(edits)
        self.next = next(self._rest, None)

    def before(self, key: bytes | None) -> Iterator[tuple[bytes, _T]]:
        """Take all edits below *key* (all that are left when None); yield those that set something."""
        while self.next is not None and (key is None or self.next[0] < key):
            taken, value = self.next
            self.next = next(self._rest, None)
            if value is not None:
                yield taken, value

    def merged(self, items: Iterable[tuple[bytes, _T]], limit: bytes | None) -> Iterator[tuple[bytes, _T]]:
        """Yield *items* with the edits below *limit* made."""
        for item in items:
            if self.next is not None and self.next[0] <= item[0]:
                yield from self.before(item[0])
                if self.next is not None and self.next[0] == item[0]:
                    yield from self.before(item[0] + b"\0")
                    continue
            yield item
        yield from self.before(limit)


class _Level(Generic[_T]):
    """Cuts the items of one level into pages."""

    def __init__(
        self,
        number: int,
        boundary: Boundary,
        weigh: Callable[[tuple[bytes, _T]], int],
        write: Callable[[Sequence[tuple[bytes, _T]]], PageRef],
    ) -> None:
        self._number = number
        self._ends = boundary.ends
        self._weigh = weigh
        self._write = write
        self._page: list[tuple[bytes, _T]] = []
        self._weight = 0

    def cut(self, items: Iterable[tuple[bytes, _T]]) -> Iterator[PageRef]:
        """Yield the pages of *items*, the last one too."""
        yield from self._full(items)
        yield from self._rest()

    def apply(self, cursor: _Cursor, edits: _Edits[_T]) -> list[Change]:
        """Return what *edits* make of the pages under *cursor*, as the edits of the level above."""
        changes: list[Change] = []
        while edits.next is not None:
            cursor.seek(edits.next[0])
            old: list[PageRef] = []
            new: list[PageRef] = []
            while True:
                ref, items, limit = cursor.take()
                old.append(ref)
                new += self._full(edits.merged(items, limit))
                if limit is None:
                    new += self._rest()
                if not self._page:
                    break
            changes += _difference(old, new)
        return changes

    def _full(self, items: Iterable[tuple[bytes, _T]]) -> Iterator[PageRef]:
        for item in items:
            self._page.append(item)
            self._weight += self._weigh(item)
            if self._ends(self._number, len(self._page), self._weight, item[0]):
                yield from self._rest()

    def _rest(self) -> Iterator[PageRef]:
        if self._page:
            page, self._page, self._weight = self._page, [], 0
            yield self._write(page)


def _difference(old: list[PageRef], new: list[PageRef]) -> list[Change]:
    """Return the edits of the level above that put *new* in the place of *old*; a page that is as it was is none."""
    changes: dict[bytes, PageRef | None] = dict.fromkeys(ref.key for ref in old)
    before = {ref.key: ref.block for ref in old}
    for ref in new:
        if before.get(ref.key) == ref.block:
            del changes[ref.key]
        else:
            changes[ref.key] = ref
    return sorted(changes.items(), key=lambda change: change[0])


class _Cursor:
    """Walks the pages of one level of a tree from left to right, noting in *known* those that it read."""

    def __init__(self, root: PageRef, load: Load, level: int, known: dict[bytes, BlockRef]) -> None:
        self._root = root
        self._load = load
        self._level = level
        self._known = known
        self._stack: list[tuple[Inner, int]] = []
        self._ref: PageRef | None = None

    def seek(self, key: bytes) -> None:
        """Go to the page that *key* belongs to."""
        self._stack = []
        self._descend(self._root, key)

    def take(self) -> tuple[PageRef, Iterable[tuple[bytes, Any]], bytes | None]:
        """Return this page, its items, and the first key of the next page (None at the end); go on to that."""
        ref = self._ref
        assert ref is not None
        self._known[ref.block.digest] = ref.block
        page = self._load(ref)
        items = [(child.key, child) for child in page.children()] if isinstance(page, Inner) else page.items()
        self._ref = None
        while self._stack and self._ref is None:
            above, index = self._stack.pop()
            if index + 1 < above.count:
                self._stack.append((above, index + 1))
                self._descend(above.child(index + 1), b"")
        return ref, items, self._ref.key if self._ref is not None else None

    def _descend(self, ref: PageRef, key: bytes) -> None:
        while ref.level > self._level:
            page = self._load(ref)
            assert isinstance(page, Inner)
            index = page.index_of(key)
            self._stack.append((page, index))
            ref = page.child(index)
        self._ref = ref
