"""The file system calls of a mount that read, from pyfuse3 to the view of a version and back.

Each question is asked on the event loop first, of the view that may not wait; where that lacks something, the same
question goes to the view that may, in a thread. So what is in memory costs no thread, and what is not blocks nobody.

Only FUSEError may leave a handler: anything else would end the daemon. `guarded` sees to it for all of them.
"""

from __future__ import annotations

import errno
import functools
import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, StatvfsData

from dvfs.fs.errno import Refused, errno_of
from dvfs.fs.passthrough import Passthrough
from dvfs.fs.ready import ReadyFiles
from dvfs.fs.stalls import Stalls
from dvfs.fs.stretches import Stream, Stretches
from dvfs.fs.threads import Threads
from dvfs.fs.view import UNIT_BYTES, Attributes, Child, File, NowaitView, View
from dvfs.store.cache_open import OpenBlock
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.key import NAME_MAX
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import DvfsError
from dvfs.store.log_once import LogOnce
from dvfs.store.stalls import Cause, Course, at

_log = logging.getLogger(__name__)
_once = LogOnce(_log)
_T = TypeVar("_T")

FOREVER_SECONDS = 10**9
"""The version never changes. The kernel counts in jiffies and takes this much."""

_BUFFER_BYTES = 1 << 20
_LOCAL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Errors of the local disk that a program is told as they are."""
_LISTED_AT_ONCE = 512
"""Entries of a directory that are fetched in one go where the catalog must be waited for."""


class Noting(Protocol):
    """The part of a `Prefetcher` that hears of reads."""

    def note_read(self, inode: int, file: File, start: int, length: int, *, waited: bool) -> None: ...

    def note_missed_page(self, ref: PageRef) -> None: ...


def _guard(name: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:

    @functools.wraps(handler)
    async def guarded_handler(self: Any, *args: Any, **kwargs: Any) -> Any:
        requests = self.requests
        requests[name] = requests.get(name, 0) + 1
        try:
            return await handler(self, *args, **kwargs)
        except (FUSEError, trio.Cancelled):
            raise
        except Refused as exc:
            raise FUSEError(exc.errno) from None
        except DvfsError as exc:
            number = errno_of(exc)
            _once.warning((name, exc.message), "%s: %s: %s", name, errno.errorcode[number], exc.message)
            raise FUSEError(number) from exc
        except Exception as exc:
            if isinstance(exc, OSError) and exc.errno in _LOCAL:
                raise FUSEError(exc.errno) from exc
            _log.exception("%s%r failed", name, args)
            raise FUSEError(errno.EIO) from exc

    return guarded_handler


_C = TypeVar("_C", bound=type[pyfuse3.Operations])


def guarded(operations: _C) -> _C:
    """Wrap every handler of the class *operations*: nothing but FUSEError and Cancelled leaves it, and it is counted.

    Its objects have `requests`, a dict of counts by handler.
    """
    for name, handler in list(vars(operations).items()):
        if inspect.iscoroutinefunction(handler) and hasattr(pyfuse3.Operations, name):
            setattr(operations, name, _guard(name, handler))
    return operations


@guarded
class VersionOperations(pyfuse3.Operations):
    """What a mount answers of the version behind the views *nowait* and *waiting*; all files belong to *uid* and *gid*.

    *zero_open*: OPEN and OPENDIR are answered ENOSYS, which makes the kernel stop sending them; the shim must be at
    work. *passthrough*: OPEN is answered all the same where it is on, and large files are left to the kernel.
    *ready*: files that the shim answers reads of. *on_init* is called when the kernel has begun to talk. What is not
    answered here is answered ENOSYS by pyfuse3, after which the kernel asks no more: flush, fsync, access and the like.
    """

    def __init__(
        self,
        nowait: NowaitView,
        waiting: View,
        threads: Threads,
        prefetcher: Noting,
        stretches: Stretches | None,
        *,
        uid: int,
        gid: int,
        on_init: Callable[[], None],
    ) -> None:
        super().__init__()
        self._nowait = nowait
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._waiting = waiting
        self.threads = threads
        self._prefetcher = prefetcher
        self._stretches = stretches
        self._uid = uid
        self._gid = gid
        self._on_init = on_init
        self.zero_open = False
        self.passthrough: Passthrough | None = None
        self._row = self._new_entry()
        self.requests: dict[str, int] = {}
        self.ready: ReadyFiles | None = None
        self.answered_ahead = 0
        self.bytes_read = 0
        self.stalls = Stalls()

    @property
    def served(self) -> str:
        """How many requests of each kind were answered, for people."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.requests.items())) or "none"

    def init(self) -> None:
        self._on_init()

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        found = await self._ask(lambda view: view.lookup(parent_inode, name))
        if found is None:
            nothing = EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = FOREVER_SECONDS
            return nothing
        if self.ready is not None:
            self.ready.looked_up(found)
        return self._attributes(found)

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(await self._ask(lambda view: view.getattr(inode)))

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._ask(lambda view: view.readlink(inode))

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if self.passthrough is not None and self.passthrough.is_on:
            file = await self._ask(lambda view: view.file(inode))
            await self.passthrough.settle(inode)
            self.passthrough.open(inode, file, flags)
        elif self.zero_open:
            raise FUSEError(errno.ENOSYS)
        return FileInfo(fh=inode, keep_cache=True)

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        if self.zero_open:
            raise FUSEError(errno.ENOSYS)
        return inode

    async def release(self, fh: int) -> None:
        if self.passthrough is not None:
            self.passthrough.release(fh)

    async def releasedir(self, fh: int) -> None:
        pass

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        has_some = False
        try:
            for child in self._nowait.readdir(fh, start_id):
                if not self._reply(token, child):
                    return
                has_some = True
        except NotCached as exc:
            if has_some:
                return  # the kernel comes back for the rest
            self._note_missed(exc)
        else:
            return
        with self.stalls.one() as course:
            children = await self._load(
                lambda: list(itertools.islice(self._waiting.readdir(fh, start_id), _LISTED_AT_ONCE)), course
            )
        for child in children:
            if not self._reply(token, child):
                return

    async def read(self, fh: int, off: int, size: int) -> bytes:
        data = await self._read_version(fh, off, size)
        self.bytes_read += len(data)
        return data

    async def _read_version(self, fh: int, off: int, size: int) -> bytes:
        stream = None
        try:
            file = self._nowait.file(fh)
            if self._stretches is not None:
                stream = self._stretches.note(fh, file, off, size)
                if self.passthrough is not None and self._stretches.reads_in_order(fh):
                    self.passthrough.read_in_order(fh, off)
            if stream is not None:
                self._prefetcher.note_read(fh, file, off, size, waited=False)
                data = stream.take_nowait(off, size)
                if data is not None:
                    self.answered_ahead += 1
                    return data  # type: ignore[return-value]  # any object with a buffer will do
            return self._read_at_once(fh, file, off, size)
        except trio.WouldBlock:
            pass  # the stream will have it
        except NotCached as exc:
            self._note_missed(exc)
            stream = None
        with self.stalls.one(is_read=True) as course:
            if stream is not None:
                data = await self._take(stream, off, size, course)
                if data is not None:
                    return data  # type: ignore[return-value]
                try:
                    return self._read_at_once(fh, file, off, size)
                except NotCached as exc:
                    self._note_missed(exc)
            file = await self._ask(lambda view: view.file(fh), course)
            self._prefetcher.note_read(fh, file, off, size, waited=True)
            read = functools.partial(self._waiting.read, fh, off, size)
            return await self.threads.run(self.threads.reads, read, course=course)

    def _read_at_once(self, fh: int, file: File, off: int, size: int) -> bytes:
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        done = self._nowait.readinto(fh, off, self._buffer[:size])
        self._prefetcher.note_read(fh, file, off, size, waited=False)
        # pyfuse3 answers before anything else runs on the event loop, so the next read may use the same buffer.
        return self._buffer[:done]  # type: ignore[return-value]

    def note_ready(self, inode: int, file: File, block: OpenBlock) -> None:
        """Take note that *file*, which was ready in *block*, was read by the shim."""
        self.requests["read"] = self.requests.get("read", 0) + 1
        self.bytes_read += file.size
        self._nowait.note_hit(block, file.size)
        if self._stretches is not None:
            self._stretches.note(inode, file, 0, file.size)
        self._prefetcher.note_read(inode, file, 0, file.size, waited=False)

    async def _take(self, stream: Stream, off: int, size: int, course: Course) -> memoryview | None:
        with self.threads.awaiting(), at(stream.course, course):
            data = await stream.take(off, size)
        self.answered_ahead += data is not None
        return data

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = self._nowait.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = UNIT_BYTES
        data.f_blocks = space.units
        data.f_files = space.inodes
        data.f_namemax = NAME_MAX
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._ask(lambda view: view.getxattr(inode, name))

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return await self._ask(lambda view: list(view.xattrs(inode)))

    async def _ask(self, question: Callable[[View], _T], course: Course | None = None) -> _T:
        """Return the answer to *question*; *course*: of a request that waits already."""
        try:
            return question(self._nowait)
        except NotCached as exc:
            self._note_missed(exc)
        if course is not None:
            return await self._load(lambda: question(self._waiting), course)
        with self.stalls.one() as course:
            return await self._load(lambda: question(self._waiting), course)

    async def _load(self, work: Callable[[], _T], course: Course) -> _T:
        """Return what *work* does with pages of the catalog that are waited for."""
        with at(Cause.CATALOG, course):
            return await self.threads.run(self.threads.pages, work)

    def _note_missed(self, missed: NotCached) -> None:
        if isinstance(missed.ref, PageRef):
            self._prefetcher.note_missed_page(missed.ref)

    def _attributes(self, found: Attributes) -> EntryAttributes:
        return self._filled(self._new_entry(), found)

    def _new_entry(self) -> EntryAttributes:
        entry = EntryAttributes()
        entry.entry_timeout = entry.attr_timeout = FOREVER_SECONDS
        entry.st_uid = self._uid
        entry.st_gid = self._gid
        return entry

    def _filled(self, entry: EntryAttributes, found: Attributes) -> EntryAttributes:
        entry.st_ino, entry.st_mode, size, mtime_ns = found
        entry.st_size = size
        entry.st_blocks = (size + 511) >> 9
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = mtime_ns
        return entry

    def _reply(self, token: ReaddirToken, child: Child) -> bool:
        offset, name, attributes = child
        # It copies the entry.
        return pyfuse3.readdir_reply(token, name, self._filled(self._row, attributes), offset)


async def _refuse_to_write(*args: object, **kwargs: object) -> NoReturn:
    """Answer EROFS. The kernel does by itself on a mount that is `ro`; a remount could change that."""
    raise FUSEError(errno.EROFS)


@guarded
class ReadOnlyOperations(VersionOperations):
    """A mount that takes no edits."""

    setattr = _refuse_to_write
    mknod = _refuse_to_write
    mkdir = _refuse_to_write
    unlink = _refuse_to_write
    rmdir = _refuse_to_write
    symlink = _refuse_to_write
    rename = _refuse_to_write
    link = _refuse_to_write
    write = _refuse_to_write
    setxattr = _refuse_to_write
    removexattr = _refuse_to_write
    create = _refuse_to_write
