"""Searching inside versions: which of them have a path, or a file of some digest.

Each page is read once, however many versions share it: what was found in a page is remembered by its content digest.
Pages that can hold no path that is asked for are not read. A `ContentSearch` belongs to one thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.catalog.inner import Inner, PageRef
from dvfs.store.catalog.key import key_of, subtree_bounds
from dvfs.store.catalog.leaf import Leaf
from dvfs.store.catalog.pages import PageSource
from dvfs.store.errors import Corrupt, InvalidInput
from dvfs.store.fetch import Fetcher
from dvfs.store.metadata_pack import TailBlocks
from dvfs.store.record import Record
from dvfs.store.selection import cleaned, is_literal, matcher
from dvfs.store.store import Store

_HEX = re.compile(r"[0-9a-f]{8,64}")
_PAGE_MEMORY_BYTES = 8 << 20


class Match(NamedTuple):
    """A path that was found: its *mode*, *size* in bytes, and *digest*, zeros unless it is a file."""

    path: bytes
    mode: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Matches:
    """What was found in a page or a version, in catalog order; *number*: how many. Versions share them."""

    parts: tuple[Match | Matches, ...]
    number: int

    def __iter__(self) -> Iterator[Match]:
        for part in self.parts:
            if isinstance(part, Match):
                yield part
            else:
                yield from part


class ContentSearch:
    """Finds in versions of *store* the entries that *path* and *digest* name, both where both are given.

    *path*: a path, or a pattern by the rules of `selection`, recursive. *digest*: of a file, in hex, 8 digits or more
    of its start. Raises InvalidInput where they name nothing.
    """

    def __init__(self, store: Store, *, path: str | bytes | None = None, digest: str | None = None) -> None:
        if path is None and digest is None:
            raise InvalidInput("a search inside versions needs a path or a digest")
        self._store = store
        self._first, self._last = b"", None
        self._matches = None
        if path is not None:
            pattern = cleaned(path)
            self._first, self._last = _bounds(pattern)
            self._matches = None if is_literal(pattern) else matcher(pattern, recursive=True)
        self._digest = None if digest is None else _hex(digest)
        self._known: dict[bytes, Matches | None] = {}
        self._fetchers: dict[tuple[tuple[int, str], ...], Fetcher] = {}

    def find(self, record: Record) -> Matches | None:
        """Return what is found in the version of *record*, None when that is nothing. Raises as `Fetcher.block`."""
        root = record.tree
        if root is None:
            return None
        fetcher = self._fetcher(record)
        pages = PageSource(TailBlocks(root.tail, fetcher), memory_bytes=_PAGE_MEMORY_BYTES)
        try:
            return self._page(root.page, None, pages, fetcher)
        except Corrupt as exc:
            raise Corrupt(f"dataset {record.title} ({record.id}): {exc.message}", hint=exc.hint) from exc

    def close(self) -> None:
        """Stop fetching."""
        for fetcher in self._fetchers.values():
            fetcher.close()

    def _fetcher(self, record: Record) -> Fetcher:
        storages = tuple(sorted(record.storages.items()))
        if storages not in self._fetchers:
            cache: Cache = self._store.cache
            self._fetchers[storages] = Fetcher(self._store.storage(record), cache, parallel=self._store.parallel)
        return self._fetchers[storages]

    def _page(self, ref: PageRef, stop: bytes | None, pages: PageSource, fetcher: Fetcher) -> Matches | None:
        """Return what is in the page *ref*, whose last key lies before *stop* (None: unknown)."""
        if ref.content in self._known:
            return self._known[ref.content]
        page = pages.load(ref)
        parts: list[Match | Matches] = []
        if isinstance(page, Inner):
            children = self._children(page, stop)
            fetcher.want(_unread(children, self._known))
            for child, end in children:
                below = self._page(child, end, pages, fetcher)
                if below is not None:
                    parts.append(below)
        else:
            parts += self._leaf(page)
        number = sum(1 if isinstance(part, Match) else part.number for part in parts)
        found = Matches(tuple(parts), number) if parts else None
        self._known[ref.content] = found
        return found

    def _children(self, page: Inner, stop: bytes | None) -> list[tuple[PageRef, bytes | None]]:
        """Return those children that can hold a key between the bounds, each with the key that it ends before."""
        ends = [*page.keys[1:], stop]
        return [
            (page.child(index), end)
            for index, (first, end) in enumerate(zip(page.keys, ends, strict=True))
            if (end is None or end > self._first) and (self._last is None or first < self._last)
        ]

    def _leaf(self, leaf: Leaf) -> Iterator[Match]:
        if self._digest is None:
            start = leaf.lower_bound(self._first)
            stop = leaf.count if self._last is None else leaf.lower_bound(self._last)
            chosen = iter(range(start, stop))
        else:
            chosen = leaf.with_digest(self._digest)
        for index in chosen:
            path = leaf.path_at(index)
            if not path or (self._digest is not None and not self._is_within(path)):
                continue
            if self._matches is None or self._matches(path):
                yield Match(path, leaf.modes[index], leaf.sizes[index], leaf.digest_at(index))

    def _is_within(self, path: bytes) -> bool:
        key = key_of(path)
        return key >= self._first and (self._last is None or key < self._last)


def _unread(children: list[tuple[PageRef, bytes | None]], known: dict[bytes, Matches | None]) -> list[BlockRef]:
    """Return the blocks of those *children*, but the first, which is asked for right away."""
    return [child.block for child, _ in children if child.content not in known][1:]


def _bounds(pattern: bytes) -> tuple[bytes, bytes | None]:
    """Return the keys between which (first included, second not) lies all that *pattern* can name."""
    if is_literal(pattern):
        key = key_of(pattern)
        return key, key + b"\0"
    folder: list[bytes] = []
    for name in pattern.split(b"/")[:-1]:
        if not is_literal(name):
            break
        folder.append(name)
    return subtree_bounds(b"/".join(folder)) if folder else (b"", None)


def _hex(digest: str) -> str:
    text = digest.strip().lower()
    if not _HEX.fullmatch(text):
        raise InvalidInput(f"{digest!r} is no digest", hint="give 8 to 64 hex digits, as `dvfs list` shows them")
    return text
