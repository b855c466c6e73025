"""Reading sources once: their bytes, digests, cuts, and what is to be stored; the work that packing gives to threads.

Functions here are thread-safe, share nothing, and release the interpreter lock for all long work. A source is
taken only if its stat, after reading, is the one that was noted: then it was so while it was read, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from dvfs.store.block import Codec
from dvfs.store.codec import Compression, compress
from dvfs.store.cut import Cutter, Cutting, cut
from dvfs.store.digest import Buffer, block_digest
from dvfs.store.source import Source, open_source, why

CHANGED = "changed since it was added"

_NO_FILE_ANY_MORE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO))

Has = Callable[[bytes], bool]
"""Tells whether the bytes of a digest need not be sent."""


class Refused(Exception):
    """A source cannot be taken; *reason* says why in a few words, *changed* whether it is another than was noted."""

    def __init__(self, reason: str, *, changed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.changed = changed


class Sealed(NamedTuple):
    """A block ready for a pack: *stored* under *codec*, None if its digest was known; *raw* length in bytes."""

    digest: bytes
    raw: int
    codec: int
    stored: Buffer | None


class SmallFile(NamedTuple):
    """A small file that was read."""

    digest: bytes
    data: bytes


@dataclass(slots=True)
class SmallFiles:
    """Small files read together. *files*: one for each source, a Refused where it could not be taken.

    *sealed*: the block of all their bytes; None if there are no bytes.
    """

    files: list[SmallFile | Refused]
    sealed: Sealed | None


def seal(data: Buffer, compression: Compression, has: Has | None = None) -> Sealed:
    """Return *data* as a block for a pack; not compressed if *has* tells that it is known."""
    digest = block_digest(data)
    if has is not None and has(digest):
        return Sealed(digest, len(data), Codec.RAW, None)
    return Sealed(digest, len(data), *compress(data, compression))


def read_small_files(sources: Sequence[Source]) -> list[SmallFile | Refused]:
    """Read *sources*, small files of one block; for each what was read, or why it cannot be taken."""
    files: list[SmallFile | Refused] = []
    for source in sources:
        try:
            data = _read_small(source)
        except Refused as refused:
            files.append(refused)
        else:
            files.append(SmallFile(block_digest(data), data))
    return files


def seal_small_files(files: list[SmallFile | Refused], compression: Compression) -> SmallFiles:
    """Return *files* with the block of all their bytes, in order."""
    pieces = [file.data for file in files if isinstance(file, SmallFile) and file.data]
    if not pieces:
        return SmallFiles(files, None)
    return SmallFiles(files, seal(pieces[0] if len(pieces) == 1 else b"".join(pieces), compression))


def read_and_seal_small_files(sources: Sequence[Source], compression: Compression) -> SmallFiles:
    """Do both."""
    return seal_small_files(read_small_files(sources), compression)


def read_middling_file(source: Source, cutting: Cutting, compression: Compression, has: Has) -> list[Sealed]:
    """Read, cut and seal one file that fits into memory several times over. Raises Refused."""
    data = memoryview(_read_small(source))
    blocks = []
    start = 0
    for length in Cutter(cutting).lengths(data):
        blocks.append(seal(data[start : start + length], compression, has))
        start += length
    return blocks


def read_large_file(source: Source, cutting: Cutting) -> Iterator[bytes]:
    """Yield the raw blocks of a file of any length. Raises Refused, also after the last one."""
    with _opened(source) as handle:
        if not source.fits(os.fstat(handle)):
            raise Refused(CHANGED, changed=True)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        left = source.size

        def readinto(window: memoryview) -> int:
            nonlocal left
            count = os.readv(handle, [window])
            left -= count
            if left < 0:  # else a file that grows as fast as it is read would never end
                raise Refused(CHANGED, changed=True)
            return count

        yield from cut(readinto, cutting)
        if not source.fits(os.fstat(handle)):
            raise Refused(CHANGED, changed=True)


def refreshed(source: Source) -> Source:
    """Return *source* as it is now. Raises Refused."""
    with _opened(source) as handle:
        now = os.fstat(handle)
    if not stat.S_ISREG(now.st_mode):
        raise Refused("is no file any more", changed=True)
    return source if source.fits(now) else source.with_stat(now)


def _read_small(source: Source) -> bytes:
    """Return the bytes of *source*. Raises Refused."""
    try:
        handle = open_source(source.source)
    except OSError as exc:
        raise _refused(exc) from exc
    try:
        data = os.read(handle, source.size)
        while len(data) < source.size and (more := os.read(handle, source.size - len(data))):
            data += more
        if not source.fits(os.fstat(handle)) or len(data) != source.size:
            raise Refused(CHANGED, changed=True)
    except OSError as exc:
        raise _refused(exc) from exc
    finally:
        os.close(handle)
    return data


def _refused(exc: OSError) -> Refused:
    return Refused(why(exc), changed=exc.errno in _NO_FILE_ANY_MORE)


@contextmanager
def _opened(source: Source) -> Iterator[int]:
    """Open *source*; turn errors of the system in the body into Refused."""
    try:
        handle = open_source(source.source)
        try:
            yield handle
        finally:
            os.close(handle)
    except OSError as exc:
        raise _refused(exc) from exc
