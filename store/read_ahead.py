"""Reading ahead of packing: staged files become work items in catalog order, done by threads while others are packed.

Small files that the page cache has are read in the calling thread: many short system calls in several threads cost
more in handing over the interpreter lock than they take. Where reading them waits for a disk, threads read.

Threads: a `ReadAhead` belongs to one thread, and owns others.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from dvfs.store.block import Extent
from dvfs.store.buffers import Buffers
from dvfs.store.codec import Compression
from dvfs.store.cut import Cutting
from dvfs.store.reading import (
    CutBlocks,
    Files,
    Has,
    LocalFiles,
    Refused,
    Sealed,
    SmallFiles,
    read_and_seal_small_files,
    read_middling_file,
    read_small_files,
    seal,
    seal_small_files,
)
from dvfs.store.source import Source
from dvfs.store.staging import Staged

_ROW_BYTES = 1024
"""About what a staged file takes in memory besides its bytes."""

_SHORT_BYTES = 32 << 10
"""A group whose files are shorter than this in the mean is worth reading in the calling thread."""

_WAITED = 20.0
"""Reading waited if it took so many times the processor's time: more than a busy machine makes of it."""

_WAITING_THREADS = 8
"""So many threads, at least, read where reading waits."""

_WAITING_GROUPS = 16
"""After one that waited, so many groups are read by threads before the calling thread tries again."""


class Usage(NamedTuple):
    """What a thread has used: *wall* and *processor* time in seconds, and reads from a disk."""

    wall: float
    processor: float
    disk_reads: int


def thread_usage() -> Usage:
    """Return what the calling thread has used."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return Usage(time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_inblock)


Row = tuple[Staged, Source]
"""A staged file and what is to be read: its source, refreshed if that was asked for."""


@dataclass(slots=True, eq=False)
class CutFile:
    """A file of several blocks."""

    staged: Staged
    source: Source


@dataclass(slots=True)
class Group:
    """Small files for one block. *weight*: what it takes in memory, in bytes; so in all items."""

    rows: list[Row]
    weight: int
    work: Future[SmallFiles]


@dataclass(slots=True)
class Middling:
    """A whole file, cut."""

    file: CutFile
    weight: int
    work: Future[CutBlocks]


@dataclass(slots=True)
class Piece:
    """One block of a large file, in *buffer*."""

    file: CutFile
    weight: int
    buffer: bytearray
    work: Future[Sealed]


@dataclass(slots=True)
class OldBlock:
    """One block of a large file that was not read: it is in the store."""

    extent: Extent
    weight: int = 128


@dataclass(slots=True)
class End:
    """The end of a large file, or why a file cannot be taken."""

    staged: Staged
    file: CutFile | None
    refused: Refused | None
    weight: int = 0


Item = Group | Middling | Piece | OldBlock | End


class ReadAhead:
    """Work items of staged files.

    *buffers*: where bytes are read into; who is done with an item gives its buffer back. *workers*: threads that hash
    and compress. *refresh*: take changed files as they are now. *whole_bytes*: up to
    this size a file that is cut is read whole by one thread. *files_per_block*: no more small ones share a block.
    *has_block*: tells, in threads, which blocks need not be compressed. *before_cut*: told of each file that is going
    to be cut. *files*: where bytes come from. *usage*: what the calling thread has used.
    """

    def __init__(
        self,
        *,
        buffers: Buffers,
        cutting: Cutting,
        compression: Compression,
        workers: int,
        refresh: bool,
        whole_bytes: int,
        files_per_block: int,
        has_block: Has,
        before_cut: Callable[[Source], None],
        files: Files | None = None,
        usage: Callable[[], Usage] = thread_usage,
    ) -> None:
        self.buffers = buffers
        self._cutting = cutting
        self._compression = compression
        self._refresh = refresh
        self._whole_bytes = whole_bytes
        self._files_per_block = files_per_block
        self._has_block = has_block
        self._before_cut = before_cut
        self._files: Files = files or LocalFiles()
        self._usage = usage
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="dvfs-pack")
        self._readers = ThreadPoolExecutor(max(workers, _WAITING_THREADS), thread_name_prefix="dvfs-read")
        self._waiting = 0

    def close(self) -> None:
        """Drop what has not been begun, and wait for the rest."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def items(self, rows: Iterable[Staged]) -> Iterator[Item]:
        """Yield the work of *rows*, in their order, given to the threads as it is yielded."""
        group: list[Row] = []
        size = 0
        for staged in rows:
            source = staged.source
            if self._refresh:
                try:
                    source = self._files.refreshed(source)
                except Refused as refused:
                    yield End(staged, None, refused)
                    continue
            small = source.size <= self._cutting.small_file_bytes
            full = size + source.size > self._cutting.block_bytes or len(group) == self._files_per_block
            if group and (full or not small):
                yield self._group(group, size)
                group, size = [], 0
            if small:
                group.append((staged, source))
                size += source.size
            else:
                yield from self._cut(CutFile(staged, source))
        if group:
            yield self._group(group, size)

    def _group(self, rows: list[Row], size: int) -> Group:
        sources = [source for _, source in rows]
        if size >= _SHORT_BYTES * len(rows):
            work = self._threads.submit(
                read_and_seal_small_files, sources, self._files, self.buffers, self._compression
            )
        elif self._waiting:
            self._waiting -= 1
            work = self._readers.submit(
                read_and_seal_small_files, sources, self._files, self.buffers, self._compression
            )
        else:
            work = self._threads.submit(seal_small_files, self._read_here(sources), self._compression)
        return Group(rows, size + _ROW_BYTES * len(rows), work)

    def _read_here(self, sources: list[Source]) -> SmallFiles:
        before = self._usage()
        read = read_small_files(sources, self._files, self.buffers)
        after = self._usage()
        from_disk = 2 * (after.disk_reads - before.disk_reads) > len(sources)
        if from_disk or after.wall - before.wall > _WAITED * (after.processor - before.processor):
            self._waiting = _WAITING_GROUPS
        return read

    def _cut(self, file: CutFile) -> Iterator[Item]:
        self._before_cut(file.source)
        if file.source.size <= self._whole_bytes:
            work = self._threads.submit(
                read_middling_file,
                file.source,
                self._files,
                self._cutting,
                self.buffers,
                self._compression,
                self._has_block,
            )
            yield Middling(file, file.source.size, work)
            return
        try:
            for raw in self._files.blocks(file.source, self._cutting):
                if isinstance(raw, Extent):
                    yield OldBlock(raw)
                    continue
                size = len(raw)
                buffer = self.buffers.take(size)
                data = memoryview(buffer)[:size]
                data[:] = raw
                sealed = self._threads.submit(seal, data, self._compression, self._has_block)
                yield Piece(file, size, buffer, sealed)
        except Refused as refused:
            yield End(file.staged, None, refused)
        else:
            yield End(file.staged, file, None)
