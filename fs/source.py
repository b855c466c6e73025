"""What the view of a version is made from: its catalog and its bytes, each to be asked with and without waiting.

`dvfs.store.version.Version` is a `Source`. `OpenedVersion` is what a mount gets, with all that must be closed after it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from dvfs.fs.overlay.home import Folder
from dvfs.store.block import BlockRef
from dvfs.store.cache import Cache
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog.blocktree import BlocksPage
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.pages import Page
from dvfs.store.catalog.tree import Tree
from dvfs.store.fetch_stats import FetchStats


class Blocks(Protocol):
    """The part of a fetcher that a view uses; see `dvfs.store.fetch.Fetcher`. Thread-safe."""

    def read(self, ref: BlockRef, start: int, length: int) -> bytes: ...

    def readinto(self, ref: BlockRef, start: int, view: memoryview) -> None: ...

    def cached(self, ref: BlockRef) -> bool: ...

    def is_unverified(self, ref: BlockRef) -> bool: ...

    def foresee(self, ref: BlockRef) -> None: ...

    def readinto_nowait(self, ref: BlockRef, start: int, view: memoryview) -> bool: ...

    def opened(self, ref: BlockRef) -> OpenBlock | None: ...

    def note_hit(self, block: OpenBlock, length: int) -> None: ...

    def want(self, refs: Iterable[BlockRef], *, urgent: bool = True, sparing: bool = False) -> int: ...

    def wait_idle(self, timeout_seconds: float | None = None) -> bool: ...


class Pages(Protocol):
    """The part of a page source that a view uses; see `dvfs.store.catalog.pages.PageSource`. Thread-safe."""

    def load(self, ref: PageRef) -> Page: ...

    def load_blocks(self, ref: BlockRef) -> BlocksPage: ...

    def load_blocks_nowait(self, ref: BlockRef) -> BlocksPage: ...


class Source(Protocol):
    """A version opened for reading."""

    @property
    def tree(self) -> Tree: ...

    @property
    def tree_nowait(self) -> Tree: ...

    @property
    def pages(self) -> Pages: ...

    @property
    def fetcher(self) -> Blocks: ...


class CountedBlocks(Blocks, Protocol):
    """The part of a fetcher that a mount uses."""

    @property
    def raw_bytes(self) -> int: ...

    def stats(self) -> FetchStats: ...


class MountedSource(Source, Protocol):
    """A version opened to be mounted."""

    @property
    def fetcher(self) -> CountedBlocks: ...

    @property
    def cache(self) -> Cache: ...


@dataclass(frozen=True, slots=True)
class Committed:
    """A version that was made of the edits of a mount, which goes on as that version. Fields as in `OpenedVersion`."""

    id: str
    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """A version ready to be mounted.

    *id*, *name* (project/name), *version*, *digest* (hex): what it is. *budget_bytes* returns the bytes that the cache
    may take; it may block. *close* lets go of all that was opened; nothing is read after it. *tail*: pages of the
    catalog that come with its root, in one block. *folder*: of the overlay that takes edits, of *store*, its URL.
    *on_mounted* is called once the mount answers; it returns at once. *replayed* returns the ranks of the files that
    earlier runs read, in their order; it may wait. *keep_trace*, where one is recorded, is given those of this mount at
    its end.
    """

    source: MountedSource
    id: str
    name: str
    version: str
    digest: str
    budget_bytes: Callable[[], int]
    close: Callable[[], None]
    tail: BlockRef | None = None
    folder: Folder | None = None
    store: str = ""
    on_mounted: Callable[[], None] | None = None
    replayed: Callable[[], array[int]] | None = None
    keep_trace: Callable[[array[int]], None] | None = None

    @property
    def title(self) -> str:
        """`project/name@version`, as people name it."""
        return f"{self.name}@{self.version}"
