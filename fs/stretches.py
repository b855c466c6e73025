"""Cached files that are read in order are read ahead into a few buffers, a stretch of whole blocks at a time.

Without it each request is copied out of a cache file that was read once already, to be verified. Here a thread reads
each block straight into a buffer and verifies it there, and requests are answered from that buffer. The buffers are
used again and again: fresh memory costs more than copying. Blocks that come from the store are verified as they come:
there a stream would only copy once more, so it ends where they begin.

Threading rule: `Stretches` and `Stream` belong to the event loop, but for what is named as the thread's. Each stream
has a thread, so that no stream waits for another. The loop gives a buffer back to the thread only when another request
has come: by then the answers made of it are out.

Nothing depends on it: what is not here is read in the other way, which also finds what is wrong.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from dvfs.fs.source import Blocks
from dvfs.fs.view import File
from dvfs.store.block import MAX_BLOCK_BYTES, BlockRef, Extent
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import Corrupt, DvfsError
from dvfs.store.stalls import Course, within

_log = logging.getLogger(__name__)

LEAST_FILE_BYTES = 16 << 20
"""Of shorter files the other way has most in memory before a stream pays."""

STRETCH_BYTES = 8 << 20
BUFFERS = 4
BUFFERS_A_STREAM = 2
"""One is read from while the other is filled."""

IN_ORDER_BYTES = 2 << 20
REST_BYTES = 32 << 20
"""After so much more in order it is looked again whether a stream pays, if it did not before."""

SLACK_BYTES = 2 << 20
"""Requests of one reader come out of order by so much: the kernel keeps several under way."""

FORESEEN_BYTES = 6 << 20
"""So far ahead of the block that is read, the disk is asked for those that come."""

IDLE_SECONDS = 1.0
"""A stream that nobody read from for so long gives way to another."""

LATE_READS = 8
"""So many reads are those of late; older ones count less and less."""

_MOST = 0.5
_RUNS = 64

ReadBlock = Callable[[BlockRef, int, memoryview], None]


def read_block(blocks: Blocks) -> ReadBlock:
    """Return how cached blocks are read through *blocks*; others raise NotCached."""

    def read_cached(ref: BlockRef, start: int, view: memoryview) -> None:
        if not blocks.cached(ref):
            raise NotCached(ref)
        blocks.readinto(ref, start, view)

    return read_cached


@dataclass(slots=True)
class _Run:
    """A file read in order so far: where its next read starts, the bytes *read* in order, and with how many of them a
    stream is *due*."""

    next: int
    read: int
    due: int = IN_ORDER_BYTES


class Stretches:
    """The streams of one mount, at most as many as have `BUFFERS_A_STREAM` of `BUFFERS` buffers each.

    *load_blocks* brings pages of the lists of blocks; *read_block* fills a view with verified bytes of a block, from
    a byte on; *foresee* is told of a block that will be read soon; *is_unverified* tells of which blocks that would be
    worth it. All may wait; threads call them. *clock* tells seconds. *prevail* is told whether most reads of late were
    of large files in order, when that changes.
    """

    def __init__(
        self,
        load_blocks: blocktree.LoadBlocks,
        read_block: ReadBlock,
        foresee: Callable[[BlockRef], None],
        is_unverified: Callable[[BlockRef], bool],
        *,
        stretch_bytes: int = STRETCH_BYTES,
        rest_bytes: int = REST_BYTES,
        clock: Callable[[], float] = time.monotonic,
        prevail: Callable[[bool], None] = lambda is_so: None,
    ) -> None:
        self._load_blocks = load_blocks
        self._read_block = read_block
        self._foresee = foresee
        self._is_unverified = is_unverified
        self._clock = clock
        self._prevail = prevail
        self._share = 0.0
        self._stretch_bytes = max(stretch_bytes, 2 * MAX_BLOCK_BYTES)
        self._buffers: list[memoryview] = []
        self._made = 0
        self._rest_bytes = rest_bytes
        self._streams: dict[int, Stream] = {}
        self._runs: dict[int, _Run] = {}

    def has(self, inode: int) -> bool:
        """Tell whether the file *inode* is read ahead. May be called by any thread."""
        return inode in self._streams

    def reads_in_order(self, inode: int) -> bool:
        """Tell whether the large file *inode* is read in order, as of its last read."""
        run = self._runs.get(inode)
        return inode in self._streams or (run is not None and run.read >= IN_ORDER_BYTES)

    def note(self, inode: int, file: File, start: int, length: int) -> Stream | None:
        """Take note of a read of *file*; return the stream to `take` it from, if there is one. Never blocks."""
        stream = self._stream_for(inode, file, start, length)
        before = self._share
        self._share += (self.reads_in_order(inode) - before) / LATE_READS
        if (self._share > _MOST) is not (before > _MOST):
            self._prevail(self._share > _MOST)
        return stream

    def _stream_for(self, inode: int, file: File, start: int, length: int) -> Stream | None:
        if file.size < LEAST_FILE_BYTES or length > self._stretch_bytes - MAX_BLOCK_BYTES:
            return None  # two stretches hold all other requests
        stream = self._streams.get(inode)
        if stream is not None:
            if stream.serves(start):
                stream.used = self._clock()
                return stream
            if not stream.is_left(start):
                return None
            self._end(inode)
            if stream.is_vain:
                self._runs[inode] = _Run(stream.origin, IN_ORDER_BYTES, IN_ORDER_BYTES + self._rest_bytes)
        if self._is_due(inode, start, start + length) and start + length + self._stretch_bytes <= file.size:
            self._begin(inode, file, start + length)
        return None

    def close(self) -> None:
        """End all streams; a thread that waits for the store ends when that answers."""
        for inode in list(self._streams):
            self._end(inode)

    def _is_due(self, inode: int, start: int, stop: int) -> bool:
        run = self._runs.get(inode)
        if run is None or abs(start - run.next) > SLACK_BYTES:
            self._runs.pop(inode, None)
            if len(self._runs) >= _RUNS:
                del self._runs[next(iter(self._runs))]
            self._runs[inode] = _Run(stop, 0)
            return False
        run.next = max(run.next, stop)
        run.read += stop - start
        return run.read >= run.due

    def _begin(self, inode: int, file: File, start: int) -> None:
        buffers = self._take_buffers()
        if buffers:
            self._runs.pop(inode, None)
            stream = Stream(
                file,
                start,
                buffers,
                self._load_blocks,
                self._read_block,
                self._foresee,
                self._is_unverified,
                self._buffers.extend,
            )
            stream.used = self._clock()
            self._streams[inode] = stream
            stream.start()

    def _end(self, inode: int) -> None:
        self._streams.pop(inode).end()

    def _take_buffers(self) -> list[memoryview]:
        """Return buffers for a stream; none while all are in use."""
        if not self._has_buffers():
            latest = self._clock() - IDLE_SECONDS
            for inode, stream in list(self._streams.items()):
                if stream.is_served or stream.used < latest:
                    self._end(inode)
        if not self._has_buffers():
            return []
        while len(self._buffers) < BUFFERS_A_STREAM:
            self._buffers.append(_buffer(self._stretch_bytes))
            self._made += 1
        return [self._buffers.pop() for _ in range(BUFFERS_A_STREAM)]

    def _has_buffers(self) -> bool:
        return len(self._buffers) + BUFFERS - self._made >= BUFFERS_A_STREAM


def _buffer(size: int) -> memoryview:
    """Return *size* bytes of memory, in huge pages where there are some: what is in them the kernel copies faster."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


@dataclass(slots=True, eq=False)
class _Stretch:
    """Bytes *start* to *stop* of a file, or what is there of them, in *buffer*; *served*: how many were read."""

    start: int
    stop: int
    buffer: memoryview
    served: int = 0


class Stream:
    """A reader of *file*, read ahead from the first block on that begins at byte *start* or behind it.

    Invariants: `_held` are adjoining stretches in order, filled up to `_filled`; each of the buffers is free, in one
    of them, or about to be; `_is_stalled` while none is free and the thread waits for one. `_state` guards all of it
    and is held for moments.
    """

    def __init__(
        self,
        file: File,
        start: int,
        buffers: list[memoryview],
        load_blocks: blocktree.LoadBlocks,
        read_block: ReadBlock,
        foresee: Callable[[BlockRef], None],
        is_unverified: Callable[[BlockRef], bool],
        give_back: Callable[[list[memoryview]], None],
    ) -> None:
        self._file = file
        self.origin = start
        """The byte that it was to begin at."""
        self._load_blocks = load_blocks
        self._read_block = read_block
        self._foresee_block = foresee
        self._foreseen = 0
        self._is_unverified = is_unverified
        self._give_back = give_back
        self._joined = memoryview(b"")
        self._trio = trio.lowlevel.current_trio_token()
        self._state = threading.Condition()
        self._buffers = buffers
        self._free = list(buffers)
        self._held: list[_Stretch] = []
        self._begin = file.size
        self._filled = file.size
        self._waiting: list[tuple[int, trio.Event]] = []
        self._is_stalled = False
        self._is_ended = False
        self._is_over = False
        self.is_vain = False
        """Whether it ended at once, as what comes was verified, or is not cached."""
        self.used = 0.0
        self.course = Course()
        """Of the thread: what a `take` waits for."""

    def start(self) -> None:
        """Begin to read ahead."""
        threading.Thread(target=self._run, name="dvfs-stretches", daemon=True).start()

    def end(self) -> None:
        """Read no further. Who waits is told that there is nothing."""
        with self._state:
            self._is_ended = True
            self._state.notify_all()
            self._wake(self._file.size)
            if self._is_over:
                self._give_back(self._buffers)

    @property
    def is_served(self) -> bool:
        """Whether all was read, to the end of the file."""
        return self._is_over and all(held.served >= held.stop - held.start for held in self._held)

    def serves(self, start: int) -> bool:
        """Tell whether a read from byte *start* on can be served now or soon; lets go of what was read."""
        with self._state:
            self._let_go(start - SLACK_BYTES)
            if start >= self._filled and self._is_over:
                return False
            return max(self._first, self._begin) <= start <= self._filled + SLACK_BYTES

    def is_left(self, start: int) -> bool:
        """Tell whether a read from byte *start* on, which is not served, is that of another reader."""
        with self._state:
            if start >= self._filled and self._is_over:
                return True
            return not min(self._first, self.origin) - SLACK_BYTES <= start <= self._filled + SLACK_BYTES

    def take_nowait(self, start: int, length: int) -> memoryview | None:
        """Do as `take`. Raises trio.WouldBlock where that would wait."""
        with self._state:
            return self._take(start, min(start + length, self._file.size))

    async def take(self, start: int, length: int) -> memoryview | None:
        """Return *length* bytes from byte *start* on, less at the end of the file; None when they do not come.

        They are there until the event loop goes on.
        """
        stop = min(start + length, self._file.size)
        while True:
            with self._state:
                try:
                    return self._take(start, stop)
                except trio.WouldBlock:
                    arrived = trio.Event()
                    self._waiting.append((stop, arrived))
            await arrived.wait()

    def _take(self, start: int, stop: int) -> memoryview | None:
        """Do as `take_nowait`; called with the state held."""
        if self._filled >= stop or self._is_over or self._is_ended:
            return None if self._filled < stop or self._is_ended else self._view(start, stop)
        if self._is_stalled:
            self._let_go(start)
            if self._is_stalled:
                return None
        raise trio.WouldBlock

    def _view(self, start: int, stop: int) -> memoryview | None:
        parts = []
        at = start
        for held in self._held:
            if held.start <= at < min(held.stop, stop):
                end = min(held.stop, stop)
                parts.append(held.buffer[at - held.start : end - held.start])
                held.served += end - at
                at = end
        if at < stop:
            return None
        if len(parts) == 1:
            return parts[0]
        if len(self._joined) < stop - start:
            self._joined = memoryview(bytearray(stop - start))
        at = 0
        for part in parts:
            self._joined[at : at + len(part)] = part
            at += len(part)
        return self._joined[:at]

    @property
    def _first(self) -> int:
        return self._held[0].start if self._held else self._filled

    def _let_go(self, start: int) -> None:
        """Have those stretches filled anew that were read, or end before byte *start*."""
        while self._held and self._filled >= (first := self._held[0]).stop:
            if first.served < first.stop - first.start and first.stop > start:
                return
            self._free.append(self._held.pop(0).buffer)
            self._is_stalled = False
            self._state.notify_all()

    # -- the thread

    def _run(self) -> None:
        try:
            with within(self.course):
                self._fill()
        except NotCached:
            pass
        except DvfsError as exc:
            _log.info("not read ahead: %s", exc)
        except Exception:
            _log.exception("reading ahead ends")
        with self._state:
            self._is_over = True
            self._wake(self._file.size)
            if self._is_ended:
                self._give_back(self._buffers)

    def _fill(self) -> None:
        at = self._first_boundary()
        with self._state:
            self._begin = self._filled = at
        # The next ones may be verified all the same, by who fetches ahead.
        self.is_vain = not self._is_unverified(self._block_at(at + len(self._buffers[0])))
        if self.is_vain:
            return
        while at < self._file.size and (buffer := self._next_buffer()) is not None:
            extents = self._whole_blocks(at, len(buffer))
            if not extents:
                raise Corrupt(f"a file of {self._file.size} bytes lists blocks for {at}")
            held = _Stretch(at, at + sum(size for _, _, size in extents), buffer)
            with self._state:
                self._held.append(held)
            for block, begin, size in extents:
                if self._is_ended:
                    return
                self._foresee(at)
                place = at - held.start
                self._read_block(block, begin, buffer[place : place + size])
                at += size
                with self._state:
                    self._filled = at
                    self._wake(at)

    def _foresee(self, start: int) -> None:
        """Tell of the blocks behind that at byte *start*, of each once."""
        first = max(start, self._foreseen)
        length = start + FORESEEN_BYTES - first
        for block, _, _ in blocktree.extents(self._file.content, first, length, self._load_blocks):
            if first > start:
                self._foresee_block(block)
            first += block.raw
        self._foreseen = first

    def _next_buffer(self) -> memoryview | None:
        with self._state:
            if not self._free:
                self._is_stalled = True
                self._wake(self._file.size)
            self._state.wait_for(lambda: self._free or self._is_ended)
            return None if self._is_ended else self._free.pop()

    def _first_boundary(self) -> int:
        extents = blocktree.extents(self._file.content, self.origin, MAX_BLOCK_BYTES, self._load_blocks)
        is_whole = extents and extents[0].start == 0
        return self.origin if is_whole else self.origin + sum(size for _, _, size in extents[:1])

    def _block_at(self, start: int) -> BlockRef:
        """Return the block of byte *start*, or the last one."""
        start = min(start, self._file.size - 1)
        return blocktree.extents(self._file.content, start, 1, self._load_blocks)[0].block

    def _whole_blocks(self, start: int, length: int) -> list[Extent]:
        """Return the extents from byte *start* on that fit into *length* bytes."""
        extents = blocktree.extents(self._file.content, start, length, self._load_blocks)
        if start + length < self._file.size and len(extents) > 1:
            extents.pop()  # it is cut off, or as good as
        return extents

    def _wake(self, filled: int) -> None:
        """Wake those who wait for no more than what is *filled*; called with the state held."""
        if self._waiting:
            due = [event for stop, event in self._waiting if stop <= filled]
            self._waiting = [(stop, event) for stop, event in self._waiting if stop > filled]
            with contextlib.suppress(trio.RunFinishedError):
                for event in due:
                    self._trio.run_sync_soon(event.set)
