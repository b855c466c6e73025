"""Sources: what a local path held when it was looked at, and where it goes in a dataset.

`Source` is immutable. Reading its bytes is the business of dvfs.store.packing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from dvfs.store.external import External, to_bytes

PATH_MAX = 4096
"""Longest path, its NUL included, that the kernel takes in one call, in bytes."""

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_INO_MASK = (1 << 63) - 1


class Kind(IntEnum):
    """What happens to a path of the dataset."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3
    PARENT = 4
    """A directory that something else needs: made where none is, left alone where one is."""
    REMOVED = 5
    KEPT = 6
    """A file whose bytes are in the store already: only a commit stages it."""
    EXTERNAL = 7
    """A file whose bytes stay where its URL says; *target* is what its entry says of that."""


FILES = (Kind.FILE, Kind.LINK, Kind.KEPT, Kind.EXTERNAL)
"""Kinds that are no directories and take the place of one."""


class Source(NamedTuple):
    """One path of a dataset and what it gets from the local disk. A tuple, because millions are made.

    *path*: inside the dataset. *source*: absolute local path, b"" where there is none (PARENT, REMOVED).
    *mode*: st_mode. *size*: bytes (of a link: of its target; of a directory: 0). *mtime_ns*, *ctime_ns*: ns since the
    epoch. *ino*: inode number, its lowest 63 bits. *target*: of a symbolic link; of an EXTERNAL file URL and pin.
    """

    path: bytes
    kind: Kind
    source: bytes = b""
    mode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    ino: int = 0
    target: bytes = b""

    def fits(self, now: os.stat_result) -> bool:
        """Tell whether the regular file that *now* was taken of is, as far as stat tells, the one noted here."""
        return (
            now.st_size == self.size
            and now.st_mtime_ns == self.mtime_ns
            and now.st_ctime_ns == self.ctime_ns
            and now.st_ino & _INO_MASK == self.ino
            and stat.S_ISREG(now.st_mode)
        )

    def with_stat(self, now: os.stat_result) -> Source:
        """Return the same source as *now* says that it is."""
        return self._replace(
            mode=now.st_mode,
            size=now.st_size,
            mtime_ns=now.st_mtime_ns,
            ctime_ns=now.st_ctime_ns,
            ino=now.st_ino & _INO_MASK,
        )


def file_source(path: bytes, source: bytes, found: os.stat_result) -> Source:
    """Return the source of a regular file."""
    return tuple.__new__(  # half the time of the constructor
        Source,
        (
            path,
            Kind.FILE,
            source,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino & _INO_MASK,
            b"",
        ),
    )


def directory_source(path: bytes, source: bytes, found: os.stat_result) -> Source:
    """Return the source of a directory: its mode and mtime."""
    return Source(path, Kind.DIRECTORY, source, found.st_mode, 0, found.st_mtime_ns)


def link_source(path: bytes, source: bytes, found: os.stat_result, target: bytes) -> Source:
    """Return the source of a symbolic link to *target*."""
    return Source(path, Kind.LINK, source, found.st_mode, len(target), found.st_mtime_ns, found.st_ctime_ns, 0, target)


def parent_source(path: bytes) -> Source:
    """Return the source of a directory that nobody asked for by itself."""
    return Source(path, Kind.PARENT, mode=stat.S_IFDIR | 0o755)


def missing_parents(path: bytes, known: set[bytes]) -> Iterator[Source]:
    """Yield the directories that *path* needs and that are not *known*, outermost first; they are known from now on."""
    parent = path.rpartition(b"/")[0]
    if parent not in known:
        yield from missing_parents(parent, known)
        known.add(parent)
        yield parent_source(parent)


def external_source(path: bytes, external: External, mtime_ns: int) -> Source:
    """Return the source of an external file."""
    mode = stat.S_IFREG | 0o644
    return Source(path, Kind.EXTERNAL, b"", mode, external.size, mtime_ns, target=to_bytes(external))


def removal(path: bytes) -> Source:
    """Return what takes *path* out of the dataset."""
    return Source(path, Kind.REMOVED)


def open_source(source: bytes) -> int:
    """Open the regular file *source* for reading, through no symbolic link at its end; return the descriptor.

    Paths longer than the kernel takes are walked in steps. Opening a fifo does not wait. Raises OSError.
    """
    if len(source) < PATH_MAX:
        return os.open(source, _FILE_FLAGS)
    directory = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        names = source.strip(b"/").split(b"/")
        for name in names[:-1]:
            inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = inner
        return os.open(names[-1], _FILE_FLAGS, dir_fd=directory)
    finally:
        os.close(directory)


def why(error: OSError) -> str:
    """Return in a few words why a source could not be read."""
    if error.errno == errno.ELOOP:
        return "has become a symbolic link"
    return os.strerror(error.errno).lower() if error.errno else str(error)
