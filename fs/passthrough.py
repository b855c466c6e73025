"""Large files that the kernel reads by itself: from one file of the cache, with no message and no copy of its own.

FUSE passthrough (Linux 6.9 and later; who mounts must have CAP_SYS_ADMIN) takes a file at OPEN, from which all reads
are answered. So OPEN is answered here, which costs a message for each open file: worth it where files are large on
average.

A file is handed over once the cache has it whole and verified: its blocks are laid out for that when it is first
opened, and whether it is whole is looked at when nobody has it open any more. As long as it is open in one way, through
the daemon or by the kernel, it is opened in that way: the kernel takes no other.

What the daemon answers until then the kernel keeps too, beside the file of the cache. Where making pages costs this
machine much, it is dropped once it was read in order, so that its pages are used again.

Threading rule: `laid` belongs to any thread, what begins with an underscore after the heading below to a thread of its
own, the rest to the event loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol

import trio

from dvfs.fs.view import File, View, remember
from dvfs.store.block import BlockRef, Extent
from dvfs.store.cache_verified import Identity
from dvfs.store.cache_whole import Place
from dvfs.store.catalog import blocktree
from dvfs.store.catalog.tree import Tree
from dvfs.store.errors import DvfsError
from dvfs.store.external import External

_P = ParamSpec("_P")

_log = logging.getLogger(__name__)

MOST_FILE_BYTES = 64 << 30
_CACHE_SHARE = 4
"""A file is kept whole if it takes no more than one part in so many of the cache: it is evicted as a whole."""
_MOST_FILES = 1 << 16
_TOUCH_SECONDS = 60.0

KEPT_BYTES = 4 << 20
"""What a reader may not have had yet: the kernel reads twice 1 MiB ahead, and its requests come out of order."""

DROPPED_BYTES = 4 << 20
"""So much is dropped at a time."""

MOST_SETTLE_SECONDS = 1.0

_BACKING_OPEN = 0x4010E501
_BACKING_CLOSE = 0x4004E502
_MAP = struct.Struct("=iIQ")

_DROP = 2
_NOTICE = struct.Struct("=IiQQqq")
"""Of linux/fuse.h: `fuse_out_header`, whose error is the kind of notice, and `fuse_notify_inval_inode_out`."""


class Cache(Protocol):
    """The part of the cache that is needed; see `dvfs.store.cache.Cache`."""

    @property
    def folder(self) -> Path: ...

    @property
    def spares_pages(self) -> bool: ...

    def has(self, digest: bytes) -> bool: ...

    def lay(self, digest: bytes, place: Place, size: int) -> None: ...

    def join(self, file: bytes, size: int, blocks: list[tuple[bytes, int, int]]) -> Identity | None: ...

    def open_whole(self, file: bytes, identity: Identity) -> int | None: ...

    def note_use(self, file: bytes) -> None: ...


class Kernel(Protocol):
    """The part of the shim that is needed; see `dvfs.fs.zeroopen.Shim`."""

    @property
    def device(self) -> int: ...

    @property
    def passes(self) -> bool: ...

    def hand_over(self, fh: int, backing: int) -> None: ...


def is_of_large_files(tree: Tree, least_bytes: int) -> bool:
    """Tell whether answering OPEN pays in the version *tree*, where files from *least_bytes* on are large."""
    return tree.files > 0 and tree.size >= tree.files * least_bytes


@dataclass(slots=True)
class _Open:
    """A file that is open *count* times: by the kernel from its file number *backing*, or, if that is 0, as others.

    *may_be_whole*: the cache may have it in one piece soon. *drops*: what is read in order is dropped from now on;
    pages cost less then. *in_order*: up to here it was done, or it was decided not to.
    """

    count: int
    backing: int
    may_be_whole: bool = False
    drops: bool = False
    in_order: int = 0


@dataclass(slots=True)
class _Tries:
    """How often a file was closed that the daemon reads, and after how often it is tried to make it whole: each time
    after twice as many, since trying is reading a list of all its blocks."""

    closed: int = 0
    next: int = 1

    @property
    def is_due(self) -> bool:
        """Whether it is tried when it is closed next."""
        return self.closed + 1 == self.next


class Passthrough:
    """Hands files of *least_bytes* or more to the *kernel* out of *cache*; *opens* counts how often.

    *view*, the blocking one, and *load_blocks* say where their blocks are. *budget_bytes* returns what the cache may
    hold. All these may block. *note_opened* is told of each file that the kernel begins to read. What is read in order
    is dropped where the cache spares pages.
    """

    def __init__(
        self,
        kernel: Kernel,
        cache: Cache,
        view: View,
        load_blocks: blocktree.LoadBlocks,
        *,
        budget_bytes: Callable[[], int],
        note_opened: Callable[[File], None],
        least_bytes: int,
    ) -> None:
        self._kernel = kernel
        self._cache = cache
        self._view = view
        self._load_blocks = load_blocks
        self._budget_bytes = budget_bytes
        self._note_opened = note_opened
        self._least_bytes = least_bytes
        self.opens = 0
        self._is_on: bool | None = None
        self._opens: dict[int, _Open] = {}
        self._tries: dict[int, _Tries] = {}
        self._whole: dict[int, tuple[bytes, Identity]] = {}
        self._settling: dict[int, trio.Event] = {}
        self._is_over = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._device = -1

    @property
    def is_on(self) -> bool:
        """Whether the kernel takes files from this process; to be asked once the session has begun. If so, the thread
        runs from then on."""
        if self._is_on is None:
            self._is_on = self._kernel.passes and self._takes_files()
        return self._is_on

    @property
    def is_at_work(self) -> bool:
        """Whether that is known, and it does. May be asked at any time."""
        return bool(self._is_on)

    async def settle(self, inode: int) -> None:
        """Wait a moment if the file *inode* is being made whole: who opens it next has the kernel read it then."""
        if (settled := self._settling.get(inode)) is not None:
            with trio.move_on_after(MOST_SETTLE_SECONDS):
                await settled.wait()

    def open(self, inode: int, file: File, flags: int) -> None:
        """Take note that *file* is opened, and have the answer hand it to the kernel where that may be. Never waits.

        Who opens it with O_DIRECT in *flags* may read from any byte on here, and not of a file of the local disk.
        """
        found = self._opens.get(inode)
        if found is None:
            if file.size < self._least_bytes or isinstance(file.content, External):
                return
            found = self._opens[inode] = _Open(0, 0 if flags & os.O_DIRECT else self._backing(inode))
            if found.backing:
                if self._tries.pop(inode, None) is not None:
                    self._do(self._drop, inode, 0, 0)  # what was read through the daemon before
            elif self._tries_of(inode).is_due:
                self._do(self._lay, inode)
        found.count += 1
        if found.backing:
            self._note_opened(file)
            self.opens += 1
            self._kernel.hand_over(inode, found.backing)

    def read_in_order(self, inode: int, start: int) -> None:
        """Take note that byte *start* of the file *inode* is read, after those before it; have those dropped
        where pages cost much.

        That is done once for each byte of a file that is open: who reads it again finds it kept. When it begins, all
        that was read before is dropped: its pages are at hand, and come next.
        """
        found = self._opens.get(inode)
        if found is None or not found.may_be_whole or start < found.in_order + KEPT_BYTES + DROPPED_BYTES:
            return
        stop = start - KEPT_BYTES
        first = max(found.in_order, stop - 2 * DROPPED_BYTES) if found.drops else 0
        found.in_order = stop
        found.drops = found.drops or self._cache.spares_pages
        if found.drops:
            self._do(self._drop, inode, first, stop - first)

    def release(self, inode: int) -> None:
        """Take note that the file *inode* is closed once more."""
        found = self._opens.get(inode)
        if found is None:
            return
        found.count -= 1
        if found.count:
            return
        del self._opens[inode]
        if found.backing:
            fcntl.ioctl(self._kernel.device, _BACKING_CLOSE, struct.pack("=I", found.backing))
            return
        tries = self._tries_of(inode)
        if tries.is_due:
            tries.next *= 2
            self._settling.setdefault(inode, trio.Event())
            self._do(self._join, inode, trio.lowlevel.current_trio_token())
        tries.closed += 1

    def laid(self, file: bytes, size: int, extents: Iterable[Extent]) -> Iterator[BlockRef]:
        """Yield the blocks of *extents*, all of the file of that digest and *size*; have them lie in its whole file."""
        start, keeps = 0, self.is_at_work and self._least_bytes <= size <= self._most_bytes
        for extent in extents:
            block, _, length = extent
            if keeps and _is_block(extent) and not self._cache.has(block.digest):
                self._cache.lay(block.digest, Place(file, start, length), size)
            start += length
            yield block

    def stop(self) -> None:
        """End soon what is done beside."""
        self._is_over = True
        self._jobs.put(None)

    def _takes_files(self) -> bool:
        """Tell whether the kernel does; begin the thread if so."""
        try:  # one of the cache: it may lie on an overlay, whose files are not taken
            fd = os.open(self._cache.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            fd = os.memfd_create("dvfs")
        try:
            backing = self._handed(fd)
            fcntl.ioctl(self._kernel.device, _BACKING_CLOSE, struct.pack("=I", backing))
            self._device = os.dup(self._kernel.device)  # the session's own may be another file's when the thread ends
        except OSError as exc:
            _log.info("the kernel takes no files to read by itself: %s", exc)
            return False
        finally:
            os.close(fd)
        threading.Thread(target=self._run, name="dvfs-passthrough", daemon=True).start()
        return True

    def _handed(self, fd: int) -> int:
        number: int = fcntl.ioctl(self._kernel.device, _BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0)))
        return number

    def _backing(self, inode: int) -> int:
        """Hand the whole file of *inode* to the kernel; return its number, 0 if there is none that may be."""
        known = self._whole.get(inode)
        if known is None or (fd := self._cache.open_whole(*known)) is None:
            self._whole.pop(inode, None)
            return 0
        try:
            return self._handed(fd)
        except OSError as exc:
            _log.warning("files are read through the daemon, the kernel takes none: %s", exc)
            self._least_bytes = MOST_FILE_BYTES + 1
            return 0
        finally:
            os.close(fd)

    def _tries_of(self, inode: int) -> _Tries:
        tries = self._tries.get(inode)
        return remember(self._tries, inode, _Tries(), _MOST_FILES) if tries is None else tries

    def _settled(self, inode: int) -> None:
        if (settled := self._settling.pop(inode, None)) is not None:
            settled.set()

    def _do(self, work: Callable[Concatenate[int, _P], None], inode: int, *rest: _P.args, **named: _P.kwargs) -> None:
        self._jobs.put(functools.partial(work, inode, *rest, **named))

    # -- in a thread

    def _run(self) -> None:
        try:
            while True:
                try:
                    job = self._jobs.get(timeout=_TOUCH_SECONDS)
                except queue.Empty:
                    job = self._touch
                if job is None or self._is_over:
                    return
                try:
                    job()
                except (DvfsError, OSError) as exc:
                    _log.info("a large file is left to the daemon: %s", exc)
                except Exception:
                    _log.exception("a large file is left to the daemon")
        finally:
            os.close(self._device)

    def _drop(self, inode: int, start: int, length: int) -> None:
        """Have the kernel drop what it keeps of *length* bytes of *inode*, 0: all; it keeps the file of the cache."""
        with contextlib.suppress(FileNotFoundError):  # of inodes that it forgot, it keeps nothing
            os.write(self._device, _NOTICE.pack(_NOTICE.size, _DROP, 0, inode, start, length))

    def _touch(self) -> None:
        """Have the cache know that what is open is used: it is not told of reads, and would evict it."""
        for inode, found in list(self._opens.items()):
            if found.backing and (known := self._whole.get(inode)) is not None:
                self._cache.note_use(known[0])

    def _lay(self, inode: int) -> None:
        file, size, extents = self._file(inode)
        blocks = list(extents)
        for _ in self.laid(file, size, blocks):
            pass
        if (found := self._opens.get(inode)) is not None:
            found.may_be_whole = size <= self._most_bytes and all(map(_is_block, blocks))

    def _join(self, inode: int, trio_token: trio.lowlevel.TrioToken) -> None:
        try:
            self._make_whole(inode)
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                trio_token.run_sync_soon(self._settled, inode)

    def _make_whole(self, inode: int) -> None:
        file, size, extents = self._file(inode)
        if size > self._most_bytes:
            return
        blocks: list[tuple[bytes, int, int]] = []
        at = 0
        for extent in extents:
            if not _is_block(extent):
                return  # edits leave such
            block, _, length = extent
            blocks.append((block.digest, at, length))
            at += length
        identity = self._cache.join(file, size, blocks) if at == size else None
        if identity is not None:
            remember(self._whole, inode, (file, identity), _MOST_FILES)
            _log.debug("file %d is read by the kernel from now on", inode)

    def _file(self, inode: int) -> tuple[bytes, int, Iterator[Extent]]:
        file = self._view.file(inode)
        extents = blocktree.iter_extents(file.content, 0, file.size, self._load_blocks)
        return self._view.digest_of(inode), file.size, extents

    @functools.cached_property
    def _most_bytes(self) -> int:
        return min(MOST_FILE_BYTES, self._budget_bytes() // _CACHE_SHARE)


def _is_block(extent: Extent) -> bool:
    """Tell whether *extent* is all of a block, not a part."""
    block, offset, length = extent
    return not offset and length == block.raw
