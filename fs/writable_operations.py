"""The file system calls of a writable mount, from pyfuse3 to the overlay and back.

Names and attributes are changed on the event loop, in one go: a page of the catalog that is not in memory is loaded
by a thread first, and the question asked again. Files that nobody edited are read as in a read-only mount.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from dvfs.fs.gate import Gate
from dvfs.fs.operations import FOREVER_SECONDS, VersionOperations, guarded
from dvfs.fs.overlay.editing import Editing
from dvfs.fs.overlay.overlay import Listed, Owner
from dvfs.fs.overlay.schema import Node
from dvfs.fs.overlay.writing import write_all
from dvfs.fs.source import Source
from dvfs.fs.syncpoint import SYNC_INODE, is_sync_name, sync_bytes, sync_node
from dvfs.fs.view import Identity
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.key import NAME_MAX
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import Internal, NoSpace

_T = TypeVar("_T")

_MOST_LOADS = 1000
"""A question that needs more pages than this, one after another, is given up."""
_LISTED_AT_ONCE = 512
_DROPS = 1 << 63
"""Set by the shim in the handle of a request by which set-user-id bits are dropped."""


@guarded
class WritableOperations(VersionOperations):
    """A mount of the overlay *editing*; see `VersionOperations` for the rest.

    *writeback*: whether the kernel holds back what is written, and keeps size and times of it itself.
    *generations*: of inodes that became others under their number, see `dvfs.fs.live`.
    """

    enable_acl = True
    """The kernel then asks for ACLs, and remembers that files have none."""

    def __init__(self, *read_only: Any, editing: Editing, source: Source, writeback: bool, **further: Any) -> None:
        super().__init__(*read_only, **further)
        self.enable_writeback_cache = writeback
        self._writeback = writeback
        self._overlay = editing.overlay
        self._writing = editing.writing
        self._source = source
        self.gate = Gate()
        self.generations: dict[int, int] = {}

    def identify(self, identity: Identity) -> None:
        """Have extended attributes say that the mount is of the version *identity*."""
        self._nowait.identify(identity)
        self._waiting.identify(identity)

    def renew(self, files: Iterable[int]) -> None:
        """Have *files* be others under their numbers when they are looked up next.

        A kernel that holds back what is written believes its own size and times of a file, for as long as it knows it.
        """
        for ino in files:
            self.generations[ino] = self.generations.get(ino, 0) + 1

    async def run_chore(self, work: Callable[[], _T]) -> _T:
        """Return what *work* returns, run in a thread; it changes nothing but what the kernel remembers."""
        return await self.threads.run(self.threads.chores, work)

    # --- names

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if is_sync_name(parent_inode, name):
            raise FUSEError(errno.ENOENT)
        found = await self._do(lambda: self._overlay.lookup(parent_inode, name))
        if found is None:
            nothing = EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = FOREVER_SECONDS
            return nothing
        return self._entry(found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, _ in inode_list:
            if inode != SYNC_INODE:
                self._overlay.forget(inode)
        if self._overlay.should_sync:
            await self._make_room()

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        if is_sync_name(parent_inode, name):
            return self._entry(sync_node(ctx.uid, ctx.gid))
        owner = Owner(ctx.uid, ctx.gid)
        return self._entry(
            await self._do(lambda: self._overlay.mknod(parent_inode, name, mode & ~ctx.umask, owner, rdev))
        )

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if self.zero_open:
            raise FUSEError(errno.ENOSYS)  # the kernel makes a node from now on, and then opens it
        made = await self.mknod(parent_inode, name, mode, 0, ctx)
        return FileInfo(fh=made.st_ino, keep_cache=True), made

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        owner = Owner(ctx.uid, ctx.gid)
        return self._entry(await self._do(lambda: self._overlay.mkdir(parent_inode, name, mode & ~ctx.umask, owner)))

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        owner = Owner(ctx.uid, ctx.gid)
        return self._entry(await self._do(lambda: self._overlay.symlink(parent_inode, name, target, owner)))

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._do(lambda: self._overlay.link(inode, new_parent_inode, new_name)))

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        if not is_sync_name(parent_inode, name):
            await self._do(lambda: self._overlay.unlink(parent_inode, name))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._do(lambda: self._overlay.rmdir(parent_inode, name))

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._do(lambda: self._overlay.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags))

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._do(lambda: self._overlay.readlink(inode))

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        children = iter(await self._do(lambda: self._listed(fh, start_id)))
        for child in children:
            if not pyfuse3.readdir_reply(token, child.name, self._entry(child.node), child.offset):
                return

    def _listed(self, inode: int, offset: int) -> list[Listed]:
        found: list[Listed] = []
        try:
            found.extend(itertools.islice(self._overlay.readdir(inode, offset), _LISTED_AT_ONCE))
        except NotCached:
            if not found:
                raise  # else the kernel comes back for the rest
        return found

    # --- attributes

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        if inode == SYNC_INODE:
            return self._entry(sync_node(ctx.uid, ctx.gid))
        return self._entry(await self._do(lambda: self._overlay.node(inode)))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        if inode == SYNC_INODE:
            return self._entry(sync_node(ctx.uid, ctx.gid))
        asked: dict[str, Any] = {}
        if fields.update_mode:
            asked["mode"] = attr.st_mode
        if fields.update_uid:
            asked["uid"] = attr.st_uid
        if fields.update_gid:
            asked["gid"] = attr.st_gid
        if fields.update_atime:
            asked["atime_ns"] = attr.st_atime_ns
        if fields.update_mtime:
            asked["mtime_ns"] = attr.st_mtime_ns
        if fields.update_ctime:
            asked["ctime_ns"] = attr.st_ctime_ns
        if fh is not None and fh & _DROPS:
            asked["drops"] = True
        if not fields.update_size:
            return self._entry(await self._do(lambda: self._overlay.setattr(inode, **asked)))
        size = attr.st_size
        resize = lambda change, node: self._writing.truncate(change, node, size)  # noqa: E731
        async with self.gate.inside():
            return self._entry(await self._do(lambda: self._overlay.setattr(inode, **asked, resize=resize)))

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._do(lambda: self._overlay.getxattr(inode, name))

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self._do(lambda: self._overlay.setxattr(inode, name, value))

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._do(lambda: self._overlay.setxattr(inode, name, None))

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return self._overlay.rows.xattrs(inode)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Tell the room on the disk of the overlay; what the version holds counts as used."""
        await self._make_room()
        disk = os.fstatvfs(self._overlay.rows.log.fileno())
        used = -(-self._nowait.statfs().units * 4096 // disk.f_frsize)
        data = StatvfsData()
        data.f_bsize, data.f_frsize = disk.f_bsize, disk.f_frsize
        data.f_blocks = disk.f_blocks + used
        data.f_bfree, data.f_bavail = disk.f_bfree, disk.f_bavail
        data.f_files, data.f_ffree, data.f_favail = disk.f_files, disk.f_ffree, disk.f_favail
        data.f_namemax = NAME_MAX
        return data

    # --- bytes

    async def read(self, fh: int, off: int, size: int) -> bytes:
        if fh == SYNC_INODE:
            return sync_bytes(off, size)
        if self._writing.is_of_version(fh):
            data = await self._read_version(fh, off, size)
            self.bytes_read += len(data)
            return data
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        try:
            done = self._writing.readinto(fh, off, self._buffer[:size])
            self.bytes_read += done
            return self._buffer[:done]  # type: ignore[return-value]  # as in a read-only mount
        except NotCached:
            pass
        async with self.gate.inside():
            stack = await self._do(lambda: self._writing.stack(fh))
            buffer = memoryview(bytearray(size))
            read = partial(self._writing.contents.readinto, stack, off, buffer, wait=True)
            with self.stalls.one(is_read=True) as course:
                done = await self.threads.run(self.threads.reads, read, course=course)
        self.bytes_read += done
        return buffer[:done]  # type: ignore[return-value]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        if fh == SYNC_INODE or not buf:
            return len(buf)
        if fh & _DROPS:
            fh &= ~_DROPS
            await self._do(lambda: self._overlay.setattr(fh, drops=True))
        if self.gate.is_open and self._writing.write_at_once(fh, off, buf, set_times=not self._writeback):
            return len(buf)
        async with self.gate.inside():
            try:
                await self._write(fh, off, buf)
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not await self._make_room():
                    raise
                await self._write(fh, off, buf)
        return len(buf)

    async def _write(self, fh: int, off: int, buf: bytes) -> None:
        writing = self._writing
        for stack, start in await self._do(lambda: writing.prepare_write(fh, off, len(buf))):
            try:
                writing.fill(stack, start, wait=False)
            except NotCached:
                fill = partial(writing.fill, stack, start, wait=True)
                with self.stalls.one() as course:
                    await self.threads.run(self.threads.reads, fill, abandons=False, course=course)
        file = writing.target(fh)
        try:
            write_all(file.handle, off, buf)
        except OSError:
            writing.failed(fh, off, len(buf))
            raise
        writing.wrote(fh, off, len(buf), set_times=not self._writeback)

    async def fsync(self, fh: int, datasync: bool) -> None:
        if fh != SYNC_INODE:
            async with self.gate.inside():
                await self.threads.run(self.threads.reads, self._writing.sync(fh))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.threads.run(self.threads.reads, self._overlay.rows.log.sync)

    # --- inside

    async def _do(self, work: Callable[[], _T]) -> _T:
        """Return what *work* returns; the pages that it needs are loaded by threads."""
        for _ in range(_MOST_LOADS):
            try:
                return work()
            except NotCached as exc:
                missed = exc.ref
            except NoSpace:
                if not await self._make_room():
                    raise
                continue
            if isinstance(missed, PageRef):
                self._prefetcher.note_missed_page(missed)
                load: Callable[[], object] = partial(self._source.pages.load, missed)
            else:
                load = partial(self._source.pages.load_blocks, missed)
            with self.stalls.one() as course:
                await self._load(load, course)
        raise Internal(f"a question needs more than {_MOST_LOADS} pages of the catalog")

    async def _make_room(self) -> bool:
        """Have removed files give back their room; return whether there were any."""
        log, files = self._overlay.rows.log, self._overlay.files
        if not files.doomed:
            return False
        await self.threads.run(self.threads.chores, log.sync)
        files.bury(log.synced)
        return True

    def _entry(self, node: Node) -> EntryAttributes:
        entry = EntryAttributes()
        entry.entry_timeout = entry.attr_timeout = FOREVER_SECONDS
        entry.st_ino = node.ino
        entry.generation = self.generations.get(node.ino, 0)
        entry.st_mode = node.mode
        entry.st_nlink = node.nlink
        entry.st_uid = node.uid
        entry.st_gid = node.gid
        entry.st_rdev = node.rdev
        entry.st_size = size = node.size
        entry.st_blocks = (size + 511) >> 9
        entry.st_atime_ns = node.atime_ns
        entry.st_mtime_ns = node.mtime_ns
        entry.st_ctime_ns = node.ctime_ns
        return entry
