"""The tree that a writable mount shows: a version, with edits over it. What each call does to names and attributes.

Inodes of the version keep their numbers; new ones count from 2^48. A directory of the version is shown merged: its
entries but for those of which the overlay says something else, and what the overlay adds. Renaming it moves one row.

Belongs to one thread. A method that needs a page of the catalog that is not in memory raises NotCached before it has
changed anything: load the page, and call again. Where the answer is an errno they raise `Refused`; NoSpace where the
disk is full, and then nothing is changed.
"""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dvfs.fs.errno import Refused
from dvfs.fs.overlay.data import DataFiles
from dvfs.fs.overlay.rows import Change, Rows
from dvfs.fs.overlay.schema import FIRST_NEW_INODE, Node, decode_source
from dvfs.fs.view import ROOT_INODE, Attributes, View
from dvfs.store.catalog.key import NAME_MAX
from dvfs.store.clock import Clock
from dvfs.store.external import External

ADDED_OFFSET = 1 << 40
"""In a listing the names of the overlay come after those of the version: from this offset on, by their ids."""

_LISTED_AT_ONCE = 256
_MOST_DOOMED = 4096
_MOST_DOOMED_BYTES = 64 << 20
_TARGET_MAX = 4095
AHEAD_NS = 20_000_000
"""The kernel's clock for files may be that much ahead of the coarse one, by which files of other systems have times."""
NOREPLACE, EXCHANGE = 1, 2


class Listed(NamedTuple):
    """An entry of a directory; *offset*: from where the listing goes on after it."""

    offset: int
    name: bytes
    node: Node


class Owner(NamedTuple):
    """Who makes a file."""

    uid: int
    gid: int


class Overlay:
    """The tree of *view* with the edits in *rows* and *files*; what the version has belongs to *owner*."""

    def __init__(self, rows: Rows, files: DataFiles, view: View, owner: Owner, clock: Clock) -> None:
        self.rows = rows
        self.files = files
        self.view = view
        self._owner = owner
        self._clock = clock
        self._told_ns = 0

    # --- looking

    def node(self, ino: int) -> Node:
        """Return what is known of *ino*. Raises Refused: ESTALE."""
        found = self.rows.node(ino)
        if found is not None:
            return found
        if ino >= FIRST_NEW_INODE:
            raise Refused(errno.ESTALE)
        return self._of_version(self.view.getattr(ino))

    def lookup(self, parent: int, name: bytes) -> Node | None:
        """Return what *name* stands for in *parent*, None for nothing. Raises Refused: ENAMETOOLONG, ENOTDIR."""
        if len(name) > NAME_MAX:
            raise Refused(errno.ENAMETOOLONG)
        if name == b".":
            return self.node(parent)
        if name == b"..":
            return self.node(self.parent_of(parent))
        row = self.rows.dentry(parent, name)
        if row is not None:
            return self.node(row.ino) if row.ino else None
        if parent >= FIRST_NEW_INODE:
            return None
        found = self.view.lookup(parent, name)
        if found is None:
            return None
        return self.rows.node(found.inode) or self._of_version(found)

    def parent_of(self, ino: int) -> int:
        """Return the directory that holds the directory *ino*."""
        if ino == ROOT_INODE:
            return ino
        for parent, _ in self.rows.names_of(ino):
            return parent
        return self.view.parent_of(ino) if ino < FIRST_NEW_INODE else ROOT_INODE

    def readdir(self, ino: int, offset: int) -> Iterator[Listed]:
        """Yield the entries of directory *ino* from *offset* on; an offset stays good while entries come and go."""
        here = self._directory(ino)
        if offset < 1:
            yield Listed(1, b".", here)
        if offset < 2:
            yield Listed(2, b"..", self.node(self.parent_of(ino)))
        if offset < ADDED_OFFSET:
            yield from self._readdir_version(ino, max(offset, 2))
            offset = ADDED_OFFSET
        while rows := self.rows.listed(ino, offset - ADDED_OFFSET, _LISTED_AT_ONCE):
            for row in rows:
                offset = ADDED_OFFSET + row.id
                yield Listed(offset, row.name, self.node(row.ino))

    def _readdir_version(self, ino: int, offset: int) -> Iterator[Listed]:
        """Yield what the version has in *ino* and the overlay leaves there."""
        if ino >= FIRST_NEW_INODE:
            return
        children = self.view.readdir(ino, offset)
        while chunk := list(itertools.islice(children, _LISTED_AT_ONCE)):
            covered = self.rows.covered(ino, chunk[0].name, chunk[-1].name)
            first, last = chunk[0].attributes.inode, chunk[-1].attributes.inode
            known = {row[0] for row in self.rows.all("SELECT ino FROM inodes WHERE ino BETWEEN ? AND ?", first, last)}
            for child in chunk:
                if child.name not in covered:
                    inode = child.attributes.inode
                    node = self.node(inode) if inode in known else self._of_version(child.attributes)
                    yield Listed(child.offset, child.name, node)

    def readlink(self, ino: int) -> bytes:
        """Return the target of the symbolic link *ino*. Raises Refused: EINVAL."""
        row = self.rows.node(ino)
        if row is None or not row.is_new:
            return self.view.readlink(ino)
        if not stat.S_ISLNK(row.mode):
            raise Refused(errno.EINVAL)
        return row.target

    # --- making

    def mknod(self, parent: int, name: bytes, mode: int, owner: Owner, rdev: int = 0) -> Node:
        """Make a file, fifo, socket or device *name* in *parent*; return it. Raises Refused: EEXIST, ENOENT, …"""
        return self._make(parent, name, mode, owner, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Node:
        """Make the directory *name* in *parent*; return it. Raises as `mknod`."""
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), owner, nlink=2)

    def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Node:
        """Make the symbolic link *name* in *parent*; return it. Raises as `mknod`."""
        if len(target) > _TARGET_MAX:
            raise Refused(errno.ENAMETOOLONG)
        return self._make(parent, name, stat.S_IFLNK | 0o777, owner, target=target)

    def _make(
        self, parent: int, name: bytes, mode: int, owner: Owner, *, nlink: int = 1, rdev: int = 0, target: bytes = b""
    ) -> Node:
        here = self._living(parent)
        if self.lookup(parent, name) is not None:
            raise Refused(errno.EEXIST)
        now = self._now()
        gid = owner.gid
        if here.mode & stat.S_ISGID:
            gid = here.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        change = Change(self.rows)
        is_directory = stat.S_ISDIR(mode)
        made = change.put(
            Node(
                self.rows.new_inode(), self.rows.top, mode, owner.uid, gid, len(target), now, now, now, nlink, rdev,
                target, set_mtime_ns=now if is_directory else None,
            )
        )  # fmt: skip
        change.name(parent, name, made.ino)
        self._touch(change, here, now, subdirectories=is_directory)
        self.rows.write(change)
        return made

    def link(self, ino: int, parent: int, name: bytes) -> Node:
        """Give *ino* the further name *name* in *parent*; return it. Raises as `mknod`; EPERM for a directory."""
        here, node = self._living(parent), self.node(ino)
        if stat.S_ISDIR(node.mode):
            raise Refused(errno.EPERM)
        if node.nlink == 0:
            raise Refused(errno.ENOENT)
        if self.lookup(parent, name) is not None:
            raise Refused(errno.EEXIST)
        now = self._now()
        change = Change(self.rows)
        node = change.put(node._replace(nlink=node.nlink + 1, ctime_ns=now))
        change.name(parent, name, ino)
        self._touch(change, here, now)
        self.rows.write(change)
        return node

    # --- removing and moving

    def unlink(self, parent: int, name: bytes) -> None:
        """Take the name of a file away. Raises Refused: ENOENT, EISDIR."""
        here, node = self._directory(parent), self._there(parent, name)
        if stat.S_ISDIR(node.mode):
            raise Refused(errno.EISDIR)
        now = self._now()
        change = Change(self.rows)
        change.unname(parent, name, in_version=self._in_version(parent, name))
        self._release(change, node, now)
        self._touch(change, here, now)
        self.rows.write(change, removes=True)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. Raises Refused: ENOENT, ENOTDIR, ENOTEMPTY."""
        here, node = self._directory(parent), self._there(parent, name)
        if not stat.S_ISDIR(node.mode):
            raise Refused(errno.ENOTDIR)
        if not self._is_empty(node.ino):
            raise Refused(errno.ENOTEMPTY)
        now = self._now()
        change = Change(self.rows)
        change.unname(parent, name, in_version=self._in_version(parent, name))
        self._release(change, node, now)
        self._touch(change, here, now, subdirectories=-1)
        self.rows.write(change, removes=True)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """Move a name, over what has the new one if need be. Raises Refused: ENOENT, EEXIST, ENOTEMPTY, EINVAL, …"""
        if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
            raise Refused(errno.EINVAL)
        here, there = self._directory(parent), self._living(new_parent)
        node = self._there(parent, name)
        other = self.lookup(new_parent, new_name)
        if flags & EXCHANGE:
            if other is None:
                raise Refused(errno.ENOENT)
            if other.ino != node.ino:
                self._exchange(here, name, node, there, new_name, other)
            return
        if other is not None:
            if flags & NOREPLACE:
                raise Refused(errno.EEXIST)
            if other.ino == node.ino:
                return
            self._check_replaced(node, other)
        now = self._now()
        change = Change(self.rows)
        change.unname(parent, name, in_version=self._in_version(parent, name))
        change.name(new_parent, new_name, node.ino)
        if other is not None:
            self._release(change, other, now)
        change.put(node._replace(ctime_ns=now))
        gone = stat.S_ISDIR(node.mode)
        came = gone - (other is not None and stat.S_ISDIR(other.mode))
        if here.ino == there.ino:
            self._touch(change, here, now, subdirectories=came - gone)
        else:
            self._touch(change, here, now, subdirectories=-gone)
            self._touch(change, there, now, subdirectories=came)
        self.rows.write(change)

    def _exchange(self, here: Node, name: bytes, node: Node, there: Node, new_name: bytes, other: Node) -> None:
        now = self._now()
        change = Change(self.rows)
        change.name(here.ino, name, other.ino)
        change.name(there.ino, new_name, node.ino)
        change.put(node._replace(ctime_ns=now))
        change.put(other._replace(ctime_ns=now))
        came = stat.S_ISDIR(node.mode) - stat.S_ISDIR(other.mode)
        if here.ino == there.ino:
            self._touch(change, here, now)
        else:
            self._touch(change, here, now, subdirectories=-came)
            self._touch(change, there, now, subdirectories=came)
        self.rows.write(change)

    def _check_replaced(self, node: Node, other: Node) -> None:
        if stat.S_ISDIR(node.mode) and not stat.S_ISDIR(other.mode):
            raise Refused(errno.ENOTDIR)
        if stat.S_ISDIR(other.mode):
            if not stat.S_ISDIR(node.mode):
                raise Refused(errno.EISDIR)
            if not self._is_empty(other.ino):
                raise Refused(errno.ENOTEMPTY)

    def forget(self, ino: int) -> None:
        """The kernel knows *ino* no more: what has no name goes for good."""
        node = self.rows.node(ino)
        if node is None or node.nlink > 0 or self.rows.has_old_inode(ino):
            return  # what older layers say of it is still needed
        change = Change(self.rows)
        change.drop(node)
        self.rows.write(change, removes=True)
        if node.floor is not None:
            self.files.doom(ino, node.layer, node.size, self.rows.log.serial)
            self.files.bury(self.rows.log.synced)

    @property
    def should_sync(self) -> bool:
        """Whether so many removed files wait for the log to be synced that it is time."""
        return self.files.doomed > _MOST_DOOMED or self.files.doomed_bytes > _MOST_DOOMED_BYTES

    # --- attributes

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        resize: Callable[[Change, Node], Node] | None = None,
        drops: bool = False,
    ) -> Node:
        """Change attributes of *ino*, of *mode* the permission bits; return it. *resize* gives it another size, too.

        All but a directory loses its set-user-id and set-group-id bits with its owner, or if it *drops* them.
        """
        node = self.node(ino)
        if mode is None and (drops or uid is not None or gid is not None) and not stat.S_ISDIR(node.mode):
            mode = node.mode & ~stat.S_ISUID
            if mode & stat.S_IXGRP:
                mode &= ~stat.S_ISGID
        if ctime_ns is not None:
            self._told_ns = ctime_ns
        now = self._now()
        change = Change(self.rows)
        if resize is not None:
            resized = resize(change, node)
            if mtime_ns is None and resized is not node:
                mtime_ns = now
            node = resized
        node = node._replace(
            mode=node.mode if mode is None else stat.S_IFMT(node.mode) | stat.S_IMODE(mode),
            uid=node.uid if uid is None else uid,
            gid=node.gid if gid is None else gid,
            atime_ns=node.atime_ns if atime_ns is None else atime_ns,
            mtime_ns=node.mtime_ns if mtime_ns is None else mtime_ns,
            ctime_ns=now if ctime_ns is None else ctime_ns,
            set_mtime_ns=mtime_ns if mtime_ns is not None and stat.S_ISDIR(node.mode) else node.set_mtime_ns,
        )
        node = change.put(node)
        self.rows.write(change, removes=resize is not None)
        return node

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Return an extended attribute of *ino*. Raises Refused: ENODATA; ENOTSUP for `security.`."""
        if name.startswith(b"security."):
            raise Refused(errno.ENOTSUP)
        found = self.rows.xattr(ino, name)
        if found is not None and found[1] is not None:
            return found[1]
        if found is None and name.startswith(b"user.dvfs."):
            return self._told(ino, name)
        raise Refused(errno.ENODATA)

    def _told(self, ino: int, name: bytes) -> bytes:
        """Return what *name* tells of the version; there is no digest and no URL of a file with edits."""
        row = self.rows.node(ino)
        if name not in (b"user.dvfs.digest", b"user.dvfs.link"):
            return self.view.getxattr(ROOT_INODE, name)
        if row is None or (not row.is_new and row.floor is None and row.source is None and not self.rows.lower(ino)):
            return self.view.getxattr(ino, name)
        if row.source is None or row.floor is not None or self.rows.lower(ino):
            raise Refused(errno.ENODATA)
        committed = decode_source(row.source)
        if name == b"user.dvfs.digest":
            return committed.digest.hex().encode()
        if not isinstance(committed.content, External):
            raise Refused(errno.ENODATA)
        return committed.content.url

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute of the user; None removes it. Raises Refused: ENOTSUP, ENODATA."""
        if not name.startswith(b"user."):
            raise Refused(errno.ENOTSUP)
        found = self.rows.xattr(ino, name)
        if value is None and (found is None or found[1] is None):
            raise Refused(errno.ENODATA)
        node = self.node(ino)
        change = Change(self.rows)
        change.set_xattr(ino, name, value)
        change.put(node._replace(ctime_ns=self._now()))
        self.rows.write(change)

    # --- inside

    def _now(self) -> int:
        """Return the time for what is changed now: never before that which the kernel gave what was written before."""
        now = self._clock.now_ns()
        return self._told_ns if 0 < self._told_ns - now < AHEAD_NS else now

    def _of_version(self, found: Attributes) -> Node:
        inode, mode, size, mtime = found
        return Node(inode, 0, mode, *self._owner, size, mtime, mtime, mtime, 1)

    def _directory(self, ino: int) -> Node:
        node = self.node(ino)
        if not stat.S_ISDIR(node.mode):
            raise Refused(errno.ENOTDIR)
        return node

    def _living(self, ino: int) -> Node:
        """Return the directory *ino*, in which something is to be made."""
        node = self._directory(ino)
        if node.nlink == 0:
            raise Refused(errno.ENOENT)
        return node

    def _there(self, parent: int, name: bytes) -> Node:
        node = self.lookup(parent, name)
        if node is None:
            raise Refused(errno.ENOENT)
        return node

    def _in_version(self, parent: int, name: bytes) -> bool:
        return parent < FIRST_NEW_INODE and self.view.lookup(parent, name) is not None

    def _is_empty(self, ino: int) -> bool:
        return next(self.readdir(ino, 2), None) is None

    def _release(self, change: Change, node: Node, now: int) -> None:
        """Take one name off *node*; `forget` takes the rest, once nobody has it open."""
        left = 0 if stat.S_ISDIR(node.mode) else node.nlink - 1
        change.put(node._replace(nlink=left, ctime_ns=now))

    def _touch(self, change: Change, directory: Node, now: int, *, subdirectories: int = 0) -> None:
        """Note in *directory* that its names changed, and how many more *subdirectories* it has."""
        nlink = directory.nlink + (subdirectories if directory.nlink > 1 else 0)
        change.put(directory._replace(mtime_ns=now, ctime_ns=now, nlink=nlink))
