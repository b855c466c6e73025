"""Entries: what a version says of one path. Tuples, because millions are made."""

from __future__ import annotations

import stat
from typing import NamedTuple

from dvfs.store.block import BlockRef, Extent
from dvfs.store.digest import ZERO
from dvfs.store.external import External


class BlockTreeRef(NamedTuple):
    """The root of the tree that lists the blocks of a file of many.

    *block*: the root page as a RAW block of its stored bytes. *level*: 0 for a page of blocks. *number*: of all blocks.
    """

    block: BlockRef
    level: int
    number: int


class Extra(NamedTuple):
    """A column value that this dvfs does not know and carries along: *value* is its encoding for this one entry."""

    tag: int
    type: int
    flags: int
    value: bytes


Content = tuple[Extent, ...] | BlockTreeRef | External


class Entry(NamedTuple):
    """A file, a directory or a symbolic link. A file whose content is an `External` stays where its URL says.

    *mode*: type and permission bits as in st_mode. *size*: bytes (of a link: of its target; of a directory: 0).
    *mtime_ns*: ns since the epoch, signed. *digest*: of the content, 32 bytes; zeros unless a file. That of an
    external file is over its URL and pin.
    *content*: where a file's bytes are; () when it has none. *target*: of a symbolic link.
    """

    mode: int
    size: int
    mtime_ns: int
    digest: bytes = ZERO
    content: Content = ()
    target: bytes = b""
    extra: tuple[Extra, ...] = ()

    @property
    def is_file(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFREG

    @property
    def is_dir(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_link(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFLNK

    @property
    def external(self) -> External | None:
        """Where the bytes stay, of an external file; None of all else."""
        return self.content if isinstance(self.content, External) else None

    def same_data(self, other: Entry) -> bool:
        """Tell whether the two are the same for a version's digest: all but mtime and location is equal."""
        return (
            self.mode == other.mode
            and self.digest == other.digest
            and self.size == other.size
            and self.target == other.target
            and _digested(self.extra) == _digested(other.extra)
        )


def _digested(extra: tuple[Extra, ...]) -> tuple[Extra, ...]:
    return tuple(value for value in extra if value.flags & 1) if extra else extra


def directory(mode: int = 0o755, mtime_ns: int = 0) -> Entry:
    """Return the entry of a directory with permission bits *mode*."""
    return Entry(stat.S_IFDIR | (mode & 0o7777), 0, mtime_ns)


def link(target: bytes, mtime_ns: int = 0) -> Entry:
    """Return the entry of a symbolic link to *target*."""
    return Entry(stat.S_IFLNK | 0o777, len(target), mtime_ns, target=target)


def external_file(external: External, mtime_ns: int = 0, mode: int = 0o644) -> Entry:
    """Return the entry of an external file with permission bits *mode*."""
    permissions = stat.S_IFREG | (mode & 0o7777)
    return Entry(permissions, external.size, mtime_ns, external.digest, external)


Item = tuple[bytes, Entry]
"""A key of the catalog and its entry."""

Edit = tuple[bytes, Entry | None]
"""A key and the entry that it gets, or None where it goes."""
