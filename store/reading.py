"""Reading sources once: their bytes, digests, cuts, and what is to be stored; the work that packing gives to threads.

Functions here are thread-safe, share nothing, and release the interpreter lock for all long work. Bytes come from
`Files`, by default `LocalFiles`, which takes a source only if its stat, after reading, is the one that was noted: then
it was so while it was read, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dvfs.store.block import Codec, Extent
from dvfs.store.buffers import Buffers
from dvfs.store.codec import Compression, compress
from dvfs.store.cut import Cutter, Cutting, cut_views
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


class Files(Protocol):
    """Where the bytes of sources come from. Thread-safe; all but `has_old_blocks` raise Refused and DvfsError."""

    def refreshed(self, source: Source) -> Source:
        """Return *source* as it is now."""
        ...

    def read_whole(self, source: Source, data: memoryview) -> None:
        """Fill *data*, as long as *source*, with its bytes."""
        ...

    def has_old_blocks(self, source: Source) -> bool:
        """Tell whether `blocks` knows some blocks of *source* without reading them."""
        ...

    def blocks(self, source: Source, cutting: Cutting) -> Iterator[memoryview | Extent]:
        """Yield the blocks of a file that is cut: raw bytes, good until the next, or where a block is as a whole."""
        ...


class Sealed(NamedTuple):
    """A block ready for a pack: *stored* under *codec*, None if its digest was known; *raw* length in bytes."""

    digest: bytes
    raw: int
    codec: int
    stored: Buffer | None


class SmallFile(NamedTuple):
    """A small file that was read: *length* bytes at *start* of a buffer."""

    digest: bytes
    start: int
    length: int


@dataclass(slots=True)
class SmallFiles:
    """Small files read together, one after another in *buffer*, up to *end*.

    *files*: one for each source, a Refused where it could not be taken. *sealed*: the block of all bytes; None if
    there are none, or it is still to be made.
    """

    buffer: bytearray
    files: list[SmallFile | Refused]
    end: int
    sealed: Sealed | None = None


class CutBlocks(NamedTuple):
    """A file that was read into *buffer*, and its blocks; those that were not read as extents."""

    buffer: bytearray
    blocks: list[Sealed | Extent]


def seal(data: Buffer, compression: Compression, has: Has | None = None) -> Sealed:
    """Return *data* as a block for a pack; not compressed if *has* tells that it is known."""
    digest = block_digest(data)
    if has is not None and has(digest):
        return Sealed(digest, len(data), Codec.RAW, None)
    return Sealed(digest, len(data), *compress(data, compression))


def read_small_files(sources: Sequence[Source], files: Files, buffers: Buffers) -> SmallFiles:
    """Read *sources*, small files of one block, into a buffer of *buffers*."""
    read_whole = files.read_whole
    buffer = buffers.take(sum([source.size for source in sources]))
    view = memoryview(buffer)
    found: list[SmallFile | Refused] = []
    start = 0
    for source in sources:
        data = view[start : start + source.size]
        try:
            read_whole(source, data)
        except Refused as refused:
            found.append(refused)
        else:
            found.append(SmallFile(block_digest(data), start, source.size))
            start += source.size
    return SmallFiles(buffer, found, start)


def seal_small_files(read: SmallFiles, compression: Compression) -> SmallFiles:
    """Return *read* with the block of all its bytes."""
    if read.end:
        read.sealed = seal(memoryview(read.buffer)[: read.end], compression)
    return read


def read_and_seal_small_files(
    sources: Sequence[Source], files: Files, buffers: Buffers, compression: Compression
) -> SmallFiles:
    """Do both."""
    return seal_small_files(read_small_files(sources, files, buffers), compression)


def read_middling_file(
    source: Source, files: Files, cutting: Cutting, buffers: Buffers, compression: Compression, has: Has
) -> CutBlocks:
    """Read one file into a buffer of *buffers*, cut it and seal its blocks. Raises Refused."""
    buffer = buffers.take(source.size)
    data = memoryview(buffer)[: source.size]
    try:
        if files.has_old_blocks(source):
            return CutBlocks(buffer, _sealed(files.blocks(source, cutting), data, compression, has))
        files.read_whole(source, data)
    except BaseException:
        buffers.give(buffer)
        raise
    blocks: list[Sealed | Extent] = []
    start = 0
    for length in Cutter(cutting).lengths(data):
        blocks.append(seal(data[start : start + length], compression, has))
        start += length
    return CutBlocks(buffer, blocks)


def _sealed(
    found: Iterator[memoryview | Extent], data: memoryview, compression: Compression, has: Has
) -> list[Sealed | Extent]:
    """Seal those blocks of *found* that were read, after copying them into *data*, which stays."""
    blocks: list[Sealed | Extent] = []
    start = 0
    for block in found:
        if isinstance(block, memoryview):
            piece = data[start : start + len(block)]
            piece[:] = block
            start += len(block)
            blocks.append(seal(piece, compression, has))
        else:
            blocks.append(block)
    return blocks


class LocalFiles:
    """`Files` on the local disk."""

    def refreshed(self, source: Source) -> Source:
        with _opened(source) as handle:
            now = os.fstat(handle)
        if not stat.S_ISREG(now.st_mode):
            raise Refused("is no file any more", changed=True)
        return source if source.fits(now) else source.with_stat(now)

    def read_whole(self, source: Source, data: memoryview) -> None:
        try:
            handle = open_source(source.source)
        except OSError as exc:
            raise _refused(exc) from exc
        try:
            done = os.readv(handle, (data,)) if source.size else 0
            while done < source.size and (more := os.readv(handle, (data[done:],))):
                done += more
            if not source.fits(os.fstat(handle)) or done != source.size:
                raise Refused(CHANGED, changed=True)
        except OSError as exc:
            raise _refused(exc) from exc
        finally:
            os.close(handle)

    def has_old_blocks(self, source: Source) -> bool:
        return False

    def blocks(self, source: Source, cutting: Cutting) -> Iterator[memoryview]:
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

            yield from cut_views(readinto, cutting)
            if not source.fits(os.fstat(handle)):
                raise Refused(CHANGED, changed=True)


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
